"""Every field of every API with values of every wrong type, from the schemas themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from tests.hostile.raw import RawClient, batch_of
from zmqmq.errors import Code
from zmqmq.wire.apis import COMMON, REQUESTS, Api
from zmqmq.wire.schema import MISSING, Field

VALUES: dict[str, list[Any]] = {
    "nil": [None],
    "bool": [True],
    "int": [-(2**63), -2, 0, 1, 2**31, 2**53 - 1, 2**53, 2**64 - 1],
    "float": [1.5, -0.5, float("nan"), float("inf"), 1e300],
    "str": ["", "x", "x" * 5000],
    "bin": [b"", b"x", b"x" * 16, b"x" * 5000],
    "list": [[], [None], [[]], [{}], [0] * 8000, [[[[]]]], ["\0"], [b""], [2.5], [-1]],
    "map": [{}, {"a": 1}, {"": {}}, {"flush": []}],
    "ext": [msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 2)],
}


SERVED = [api for api in REQUESTS if api is not Api.SUBSCRIBE]
"""SUBSCRIBE is refused as a whole until the broker pushes."""


def requests(topic_id: bytes) -> dict[Api, dict[str, Any]]:
    """A valid request of each API."""
    place = [topic_id, 0]
    return {
        Api.HELLO: {"client": "x", "min": 1, "max": 1, "session": b"s" * 16},
        Api.PING: {},
        Api.METADATA: {"topics": ["fields"]},
        Api.INIT_PRODUCER: {},
        Api.PRODUCE: {"acks": -1, "batches": [place]},
        Api.FETCH: {"partitions": [[*place, 0, 1000]], "max_wait_ms": 1},
        Api.LIST_OFFSETS: {"partitions": [[*place, "end"]]},
        Api.OFFSET_COMMIT: {"group": "g", "offsets": [[*place, 0, 0, ""]]},
        Api.OFFSET_FETCH: {"group": "g", "partitions": [place]},
        Api.SUBSCRIBE: {"partitions": [place]},
        Api.CREATE_TOPIC: {"topic": "fields", "check_only": True},
        Api.ALTER_TOPIC: {"topic": "fields"},
        Api.DELETE_TOPIC: {"topic": "no-such-topic"},
        Api.DESCRIBE: {"kind": "broker"},
        Api.REASSIGN: {"topic": "fields", "partitions": [[0, [1]]]},
        Api.ELECT: {"topic": "fields", "kind": "preferred", "partitions": [0]},
        Api.CORDON: {"broker": 9, "cordoned": False},
    }


def wrong_values(field: Field) -> Iterator[Any]:
    """Those whose type the schema does not allow."""
    kinds = set(field.kind.split("|"))
    for kind, values in VALUES.items():
        if kind not in kinds:
            yield from values


@pytest.mark.parametrize("api", REQUESTS, ids=lambda api: api.name)
def test_a_wrong_type_is_refused_by_name(client: RawClient, api: Api) -> None:
    topic_id = client.make_topic("fields")
    good = requests(topic_id)[api]
    bodies = [batch_of(topic_id, b"x")] if api is Api.PRODUCE else []
    fields = {**REQUESTS[api], **({} if api is Api.HELLO else COMMON)}
    for name, field in fields.items():
        for value in wrong_values(field):
            if api is Api.SUBSCRIBE and name not in COMMON:
                continue  # refused as a whole, for it is not served yet
            error = client.error(api, {**good, name: value}, bodies)
            assert error["code"] == Code.MALFORMED, (name, value, error)
            assert name in error["detail"]
        if field.default is MISSING and api is not Api.SUBSCRIBE:
            error = client.error(api, {n: v for n, v in good.items() if n != name}, bodies)
            assert (error["code"], name in error["detail"]) == (Code.MALFORMED, True)


@pytest.mark.parametrize("api", REQUESTS, ids=lambda api: api.name)
def test_any_value_of_the_right_type_is_answered(client: RawClient, api: Api) -> None:
    """With a result or with an error: what counts is that the broker lives to tell."""
    topic_id = client.make_topic("fields")
    good = requests(topic_id)[api]
    bodies = [batch_of(topic_id, b"x")] if api is Api.PRODUCE else []
    fields = {**REQUESTS[api], **({} if api is Api.HELLO else COMMON)}
    for name, field in fields.items():
        for kind in field.kind.split("|"):
            for value in VALUES[kind]:
                if name in {"max_wait_ms", "timeout_ms"} and isinstance(value, int) and value > 100:
                    continue  # it would be waited for
                if name == "acks" and value == 0:
                    continue  # it is not answered
                if api is Api.CREATE_TOPIC and name == "check_only":
                    continue
                reply, _ = client.call(api, {**good, name: value}, bodies)
                error = reply.get("error")
                if isinstance(error, dict) and error["code"] == Code.MALFORMED:
                    assert name in error["detail"], (name, value, error)
    client.hello()


@pytest.mark.parametrize("api", SERVED, ids=lambda api: api.name)
def test_a_number_out_of_bounds_is_told_its_bounds(client: RawClient, api: Api) -> None:
    topic_id = client.make_topic("fields")
    good = requests(topic_id)[api]
    bodies = [batch_of(topic_id, b"x")] if api is Api.PRODUCE else []
    for name, field in REQUESTS[api].items():
        if "int" not in field.kind:
            continue
        for value in (field.minimum - 1, field.maximum + 1):
            detail = client.error(api, {**good, name: value}, bodies)["detail"]
            assert name in detail
            assert str(value) in detail
            assert str(field.minimum) in detail
            assert str(field.maximum) in detail


ROWS: list[tuple[Api, str, tuple[type, ...]]] = [
    (Api.PRODUCE, "batches", (bytes, int)),
    (Api.FETCH, "partitions", (bytes, int, int, int)),
    (Api.LIST_OFFSETS, "partitions", (bytes, int)),
    (Api.OFFSET_COMMIT, "offsets", (bytes, int, int, int, str)),
    (Api.OFFSET_FETCH, "partitions", (bytes, int)),
    (Api.REASSIGN, "partitions", (int,)),
]
_KINDS: dict[str, type] = {"int": int, "bin": bytes, "str": str}


@pytest.mark.parametrize(("api", "name", "types"), ROWS, ids=lambda value: str(value)[:20])
def test_a_wrong_type_within_an_entry_is_refused(
    client: RawClient, api: Api, name: str, types: tuple[type, ...]
) -> None:
    topic_id = client.make_topic("fields")
    good = requests(topic_id)[api]
    bodies = [batch_of(topic_id, b"x")] if api is Api.PRODUCE else []
    entry = good[name][0]
    for at, kind in enumerate(types):
        for other, values in VALUES.items():
            if _KINDS.get(other) is kind:
                values = [v for v in values if kind is int and not 0 <= v < 2**53]
            for value in values:
                changed = [*entry[:at], value, *entry[at + 1 :]]
                error = client.error(api, {**good, name: [changed]}, bodies)
                assert error["code"] == Code.MALFORMED, (at, value, error)
                assert name in error["detail"]
    for short in ([], entry[: len(types) - 1], None, 5, {}):
        error = client.error(api, {**good, name: [short]}, bodies)
        assert error["code"] == Code.MALFORMED


TARGETS: list[Any] = [
    *VALUES["bool"],
    *VALUES["int"],
    *VALUES["float"],
    *VALUES["str"],
    *VALUES["bin"],
    *VALUES["map"],
    *VALUES["ext"],
    *([value] for values in VALUES.values() for value in values if value not in (0, 1)),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda value: repr(value)[:20])
def test_what_names_no_brokers_is_refused(client: RawClient, target: Any) -> None:
    client.make_topic("fields")
    error = client.error(Api.REASSIGN, {"topic": "fields", "partitions": [[0, target]]})

    assert error["code"] == Code.MALFORMED


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ([], Code.INVALID_CONFIG),
        ([0], Code.INVALID_CONFIG),
        ([2], Code.INVALID_CONFIG),
        ([1, 1], Code.INVALID_CONFIG),
        ([1] * 5000, Code.INVALID_CONFIG),
        (list(range(1, 3000)), Code.INVALID_CONFIG),
        (None, Code.CONFLICT),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_partition_cannot_be_moved_to_where_there_is_no_broker(
    client: RawClient, target: Any, code: Code
) -> None:
    client.make_topic("fields")
    fields = {"topic": "fields", "partitions": [[0, target]]}

    assert client.call(Api.REASSIGN, fields)[0]["results"][0]["code"] == code


def test_elections_of_what_cannot_be_elected(client: RawClient) -> None:
    client.make_topic("fields")
    for entry in (-1, 1.5, None, "0", [], {}, True):
        fields = {"topic": "fields", "kind": "preferred", "partitions": [entry]}
        assert client.error(Api.ELECT, fields)["code"] == Code.MALFORMED
    assert client.error(Api.ELECT, {"topic": "fields", "kind": "other"})["code"] == Code.MALFORMED
    for kind in ("preferred", "unclean"):
        fields = {"topic": "fields", "kind": kind, "partitions": [2**53 - 1, 0, 0]}
        there = client.call(Api.ELECT, fields)[0]["results"]
        assert there[0]["code"] == Code.UNKNOWN_PARTITION
        assert there[1] is None


def test_floats_without_a_fraction_are_integers(client: RawClient) -> None:
    """msgpackr of JavaScript sends integers over 2^32 as float64."""
    topic_id = client.make_topic("fields")
    reply, _ = client.call(
        Api.FETCH,
        {"partitions": [[topic_id, 0.0, 0.0, 1000.0]], "max_wait_ms": 1.0, "rx": 0.0},
    )
    assert isinstance(reply["partitions"][0], list)
    reply, _ = client.call(Api.LIST_OFFSETS, {"partitions": [[topic_id, 0.0, 1.7e12]]})
    assert isinstance(reply["offsets"][0], list)
    assert client.error(Api.PING, {"expires_ms": 1.7e12})["code"] == Code.DEADLINE_PASSED
    config = {"topic": "floats", "config": {"retention_ms": 6.048e8}, "check_only": True}
    assert client.call(Api.CREATE_TOPIC, config)[0]["config"]["retention_ms"] == 604_800_000


def test_unknown_fields_and_longer_entries_are_ignored(client: RawClient) -> None:
    """They come from newer peers."""
    topic_id = client.make_topic("fields")
    fields = {"partitions": [[topic_id, 0, "end", "later", 7]], "later": {"x": [1]}, b"b": 1}
    assert "error" not in client.call(Api.LIST_OFFSETS, fields)[0]
