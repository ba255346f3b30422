"""What a broker publishes, to whom, and what it only announces."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.world import Client, Place, World
from zmqmq.batch.decode import decode_batches
from zmqmq.core.broker import pushing
from zmqmq.core.broker.events import FlushFiles
from zmqmq.core.broker.options import ServingOptions
from zmqmq.wire.apis import PUSH_BYTES_MAX, Api, place_of_subject, push_subject

KIB = 1024


def world_with(partitions: int = 1) -> tuple[World, Place, Client]:
    """A topic of which everything is published."""
    world = World()
    t = world.topic("t", partitions)
    client = world.client()
    subjects = client.subscribe(*[t[number] for number in range(partitions)])
    assert subjects == [push_subject(t.id, number) for number in range(partitions)]
    assert all(world.subscribe(subject) for subject in subjects)
    world.advance(60)
    world.take_published()
    return world, t, client


def pushes(world: World, t: Place) -> list[tuple[int, list[bytes | None]]]:
    """`prev` and the values of each PUSH; there must be nothing else."""
    found = []
    for api, fields, body in world.take_published():
        assert api is Api.PUSH
        values: list[bytes | None] = []
        for batch in decode_batches(body, t.seed, "", t.number):
            values += batch.values
        found.append((fields["prev"], values))
    return found


def heads(world: World) -> list[dict[Any, Any]]:
    """The fields of each HEAD; there must be nothing else."""
    published = world.take_published()
    assert {api for api, _, _ in published} <= {Api.HEAD}
    return [fields for _, fields, _ in published]


def test_what_is_committed_is_published_once_for_everybody() -> None:
    world, t, client = world_with()
    assert world.client("other").subscribe(t) == [push_subject(t.id, 0)]
    client.produce(t, b"a", b"b")
    assert pushes(world, t) == [(0, [b"a", b"b"])]
    client.produce(t, b"c")
    assert pushes(world, t) == [(2, [b"c"])]


def test_nothing_is_published_before_it_is_committed() -> None:
    world, t, client = world_with()
    world.hold(FlushFiles)
    client.produce(t, b"a")
    assert pushes(world, t) == []
    world.end_flush()
    assert pushes(world, t) == [(0, [b"a"])]


def test_batches_that_are_committed_together_are_published_together() -> None:
    world, t, client = world_with()
    with world.burst():
        for number in range(5):
            client.produce(t, b"%d" % number)
    assert pushes(world, t) == [(0, [b"0", b"1", b"2", b"3", b"4"])]


def test_as_much_as_fits_is_published_in_one_message() -> None:
    world, t, client = world_with()
    with world.burst():
        for _ in range(5):
            client.produce(t, bytes(25 * KIB))
    published = world.take_published()
    assert [api for api, _, _ in published] == [Api.PUSH] * 3
    assert [fields["prev"] for _, fields, _ in published] == [0, 2, 4]
    assert {fields["end"] for _, fields, _ in published} == {5}
    assert all(len(body) <= PUSH_BYTES_MAX for _, _, body in published)


def test_a_batch_that_is_too_large_is_announced_and_the_next_one_comes() -> None:
    world, t, client = world_with()
    client.produce(t, b"a")
    client.produce(t, bytes(PUSH_BYTES_MAX))
    client.produce(t, b"c")
    published = world.take_published()
    assert [api for api, _, _ in published] == [Api.PUSH, Api.HEAD, Api.PUSH]
    assert published[1][1] == {"end": 2, "start": 0, "epoch": 1}
    assert (published[2][1]["prev"], published[2][1]["end"]) == (2, 3)


def test_what_is_not_in_memory_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    world, t, client = world_with()
    file = world.log(t).segments[-1].file
    monkeypatch.setattr(type(file), "read_cached", lambda *_: None)
    client.produce(t, b"a")
    assert [head["end"] for head in heads(world)] == [1]


def test_head_tells_when_a_burst_is_over_and_every_second() -> None:
    world, t, client = world_with()
    client.produce(t, b"a")
    world.take_published()
    world.advance(50)
    assert heads(world) == []
    client.produce(t, b"b")
    world.take_published()
    world.advance(50)
    assert heads(world) == []
    world.advance(50)
    assert heads(world) == [{"end": 2, "start": 0, "epoch": 1}]
    for _ in range(18):
        world.advance(50)
    assert heads(world) == []
    world.advance(100)
    assert heads(world) == [{"end": 2, "start": 0, "epoch": 1}]


def test_whoever_subscribes_is_told_at_once_where_it_stands() -> None:
    world, t, _ = world_with()
    assert world.subscribe(push_subject(t.id, 0))
    assert heads(world) == []
    world.advance(50)
    assert len(heads(world)) == 1


def test_nothing_is_published_that_nobody_wants() -> None:
    world, t, client = world_with(2)
    assert client.subscribe(t[1], leave=True) == [push_subject(t.id, 1)]
    client.produce(t[1], b"a")
    assert world.take_published() == []
    client.produce(t[0], b"a")
    assert pushes(world, t[0]) == [(0, [b"a"])]
    assert client.describe("broker")[0]["subjects"] == 1


def test_it_ends_with_the_last_session_that_wants_it() -> None:
    world, t, client = world_with()
    other = world.client("other")
    other.subscribe(t)
    client.ping(close=True)
    other.produce(t, b"a")
    assert len(pushes(world, t)) == 1
    world.advance(ServingOptions().session_lease_ms + 1)
    world.take_published()
    world.client("third").produce(t, b"b")
    assert world.take_published() == []
    assert len(world.broker.pushing) == 0


def test_a_session_that_is_opened_anew_begins_with_nothing() -> None:
    world, t, client = world_with()
    client.connect()
    client.hello()
    client.produce(t, b"a")
    assert world.take_published() == []


def test_who_joins_late_gets_what_comes_from_then_on() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    client.produce(t, b"a")
    client.subscribe(t)
    client.produce(t, b"b")
    assert pushes(world, t) == [(1, [b"b"])]


def test_joining_twice_and_leaving_what_was_not_joined_change_nothing() -> None:
    world, t, client = world_with()
    client.subscribe(t, t)
    world.client("other").subscribe(t, leave=True)
    client.produce(t, b"a")
    assert len(pushes(world, t)) == 1
    client.subscribe(t, leave=True)
    client.produce(t, b"b")
    assert world.take_published() == []


def test_what_is_not_there_is_refused() -> None:
    world, t, client = world_with()
    nobody = Place(bytes(16))
    subjects = client.subscribe(nobody, t[1], t)
    assert subjects == ["UNKNOWN_TOPIC", "UNKNOWN_PARTITION", push_subject(t.id, 0)]
    for subject in (
        push_subject(nobody.id, 0),
        push_subject(t.id, 1),
        push_subject(t.id, 0)[:-1],
        push_subject(t.id, 0) + b"x",
        b"",
        b"p.",
        b"p." + t.id.hex().upper().encode() + b".0.",
        b"p." + t.id.hex().encode() + b".00.",
        b"p." + t.id.hex().encode() + b".-0.",
        b"p." + t.id.hex().encode() + b".\xd9\xa0.",  # an Arabic zero
        b"\xff" * 50,
    ):
        assert not world.subscribe(subject), subject
    assert client.describe("broker")[0]["subscriptions_refused"] == 11


def test_a_topic_that_is_deleted_is_published_no_more() -> None:
    world, t, client = world_with()
    epoch = world.partition(t).epoch
    assert client.delete("t").error is None
    assert len(world.broker.pushing) == 0
    world.advance(2_000)
    assert [head["epoch"] for head in heads(world)] == [epoch + 1], "whoever listens asks"
    assert client.subscribe(t) == ["UNKNOWN_TOPIC"]
    client.ping(close=True)


def test_a_session_may_not_want_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "SUBJECTS_MAX", 3)
    world = World()
    t = world.topic("t", 5)
    client = world.client()
    subjects = [push_subject(t.id, number) for number in range(5)]
    assert client.subscribe(*[t[n] for n in range(4)]) == [*subjects[:3], "THROTTLED"]
    client.subscribe(t[0], leave=True)
    assert client.subscribe(t[1], t[3], t[4]) == [subjects[1], subjects[3], "THROTTLED"]


def test_a_log_that_has_failed_is_not_published() -> None:
    world, t, client = world_with()
    world.hold(FlushFiles)
    client.produce(t, b"a")
    world.end_flush(failing=["t/0"])
    world.advance(2_000)
    assert all(api is Api.HEAD for api, _, _ in world.take_published())


def test_subjects_are_read_back() -> None:
    for number in (0, 1, 10, 9_999):
        assert place_of_subject(push_subject(bytes(range(16)), number)) == (
            bytes(range(16)),
            number,
        )


def test_consumers_near_the_same_position_share_one_read() -> None:
    world, t, client = world_with()
    others = [world.client(f"c{number}") for number in range(10)]
    waiting = [other.fetch(t, wait_ms=1_000) for other in others]
    client.produce(t, b"a", b"b")
    assert all(answer.outcome == [[b"a", b"b"]] for answer in waiting)
    told = client.describe("broker")[0]
    # The publisher reads it, and nobody after it.
    assert told["shared_reads"] == 10
    assert 0 < told["read_cache_bytes"] < 1_000


def test_heads_of_many_partitions_are_spread() -> None:
    """All at once they would overflow the queue of who listens to all."""
    world = World()
    t = world.topic("t", 1_500)
    client = world.client()
    for at in (0, 750):
        client.subscribe(*[t[n] for n in range(at, at + 750)])
    told: set[bytes] = set()
    for _ in range(25):
        world.advance(50)
        assert len(world.published) <= 94
        told |= {frames[0] for frames in world.published}
        world.published.clear()
    assert len(told) == 1_500
    for _ in range(40):
        world.advance(50)
        assert len(world.published) <= 94
        world.published.clear()
