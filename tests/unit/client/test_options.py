"""What callers may write: options, addresses, places."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from zmqmq.client.arguments import place_of
from zmqmq.client.machines.backoff import Backoff, backoff_delay
from zmqmq.client.machines.effects import MS
from zmqmq.client.machines.stream import Place, PlaceKind
from zmqmq.client.options import (
    ConnectOptions,
    ConsumerOptions,
    ProducerOptions,
    parse_options,
)
from zmqmq.client.servers import parse_servers
from zmqmq.errors import ConfigError, InvalidNameError


def test_an_unknown_option_is_told_with_the_nearest_known() -> None:
    with pytest.raises(ConfigError, match="no option 'linger'; did you mean 'linger_ms'"):
        parse_options(ProducerOptions, {"linger": 5})
    with pytest.raises(ConfigError, match="did you mean 'auto_commit"):
        parse_options(ConsumerOptions, {"autocommit": True})


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options(ProducerOptions, {"lingr": 5, "in_flight": 17, "compression": "gzip"})

    assert "lingr" in str(caught.value)
    assert "in_flight is 17; the most is 16" in str(caught.value)
    assert "none, lz4, zstd" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "keywords", "message"),
    [
        (ProducerOptions, {"acks": 2}, "acks is 2"),
        (ProducerOptions, {"acks": "none"}, "allowed are 0, 1 and 'all'"),
        (ProducerOptions, {"linger_ms": -1}, "the least is 0"),
        (ProducerOptions, {"linger_ms": 1.5}, "must be int"),
        (ProducerOptions, {"linger_ms": True}, "must be int"),
        (ProducerOptions, {"batch_bytes": 2 << 20}, "the most is 1048576"),
        (ProducerOptions, {"batch_bytes": 65_536, "buffer_bytes": 1_024}, "must fit"),
        (ProducerOptions, {"partitioner": "hash"}, "partitioner is 'hash'"),
        (ProducerOptions, {"idempotent": 1}, "True or False"),
        (ProducerOptions, {"on_full": "wait"}, "block, refuse"),
        (ProducerOptions, {"request_timeout_ms": 0}, "request_timeout_ms"),
        (ConsumerOptions, {"start": "stored"}, "needs a group"),
        (ConsumerOptions, {"group": "g", "broadcast": "b"}, "a consumer has one of them"),
        (ConsumerOptions, {"broadcast": 5}, "broadcast is 5; it must be the name"),
        (ConsumerOptions, {"broadcast": "b", "offsets_dir": 5}, "it must be a path"),
        (ConsumerOptions, {"offsets_dir": "x"}, "where broadcast=… keeps offsets"),
        (ConsumerOptions, {"partitions": [-1]}, "numbers from 0"),
        (ConsumerOptions, {"max_wait_ms": 300_001}, "the most is 300000"),
        (ConnectOptions, {"request_timeout_ms": 1}, "the least is 10"),
        (ConnectOptions, {"client_name": "x" * 101}, "100"),
    ],
)
def test_bounds_are_told_with_the_value_and_the_limit(
    kind: type, keywords: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(kind, keywords)


def test_a_groups_name_is_checked() -> None:
    with pytest.raises(InvalidNameError):
        parse_options(ConsumerOptions, {"group": "a b"})


def test_the_defaults_are_those_of_the_documents() -> None:
    options = ProducerOptions()

    assert (options.acks, options.linger_ms, options.batch_bytes) == ("all", 5, 65_536)
    assert (options.batch_records, options.in_flight) == (10_000, 16)
    assert (options.buffer_bytes, options.on_full, options.block_ms) == (1 << 25, "block", 60_000)
    assert (options.delivery_timeout_ms, options.retry_backoff_ms) == (120_000, 100)
    assert ConsumerOptions().prefetch_bytes == 1 << 24


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("host:1", ("host:1",)),
        ("zmqmq://host:1", ("host:1",)),
        ("a:1,b:2 , zmqmq://c:3/", ("a:1", "b:2", "c:3")),
        (["a:1", "b:2", "a:1"], ("a:1", "b:2")),
        ("host", ("host:5755",)),
        ("[::1]:6000", ("[::1]:6000",)),
        (None, ("127.0.0.1:5755",)),
    ],
)
def test_addresses(given: Any, expected: tuple[str, ...]) -> None:
    assert parse_servers(given, {}) == expected


def test_the_environment_names_the_servers_when_nobody_else_does() -> None:
    environment = {"ZMQMQ_SERVERS": "x:1,y:2"}

    assert parse_servers(None, environment) == ("x:1", "y:2")
    assert parse_servers("a:1", environment) == ("a:1",)


@pytest.mark.parametrize("wrong", ["", ",", "a b", "http://a:1", "a:0", "a:70000", "a:b", [], [5]])
def test_what_is_no_address_is_told(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"server"):
        parse_servers(wrong, {})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("start", Place(PlaceKind.START)),
        ("end", Place(PlaceKind.END)),
        ("stored", Place(PlaceKind.STORED)),
        (0, Place(PlaceKind.OFFSET, 0)),
        (17, Place(PlaceKind.OFFSET, 17)),
        (-5, Place(PlaceKind.BEFORE_END, 5)),
        ("@1700000000000", Place(PlaceKind.TIME, 1_700_000_000_000)),
        (datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), Place(PlaceKind.TIME, 1_700_000_000_000)),
    ],
)
def test_places(given: Any, expected: Place) -> None:
    assert place_of(given) == expected


@pytest.mark.parametrize("wrong", ["begin", "@", "@-1", "@1.5", 1.5, None, True, 2**60, b"start"])
def test_what_is_no_place_is_told(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="no place"):
        place_of(wrong)


def test_back_off_doubles_up_to_its_limit_and_chance_only_shortens_it() -> None:
    delays = [backoff_delay(100 * MS, 1_000 * MS, n, 0) // MS for n in range(1, 7)]
    assert delays == [100, 200, 400, 800, 1_000, 1_000]
    assert backoff_delay(100 * MS, 1_000 * MS, 1, 500) == 75 * MS
    assert backoff_delay(100 * MS, 1_000 * MS, 10_000, 999) > 500 * MS


def test_success_makes_back_off_small_again() -> None:
    class Fixed:
        def jitter(self) -> int:
            return 0

        def session_id(self) -> bytes:
            return bytes(16)

    backoff = Backoff(Fixed())
    first = backoff.next_delay()
    backoff.next_delay()
    backoff.reset()
    assert backoff.next_delay() == first
