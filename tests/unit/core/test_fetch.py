"""FETCH: what is served, when a long poll ends, what a cold read and damage do to it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.world import BROKEN, KEYS, Answer, Place, World
from zmqmq.core.broker.events import FlushFiles, ReadCold
from zmqmq.core.broker.options import ServingOptions
from zmqmq.core.meta.store import Put
from zmqmq.model.limits import MIB
from zmqmq.wire.apis import Api

MINUTE = 60_000


def world_with(*values: bytes, partitions: int = 1, **config: object) -> tuple[World, Place]:
    """A topic with a batch for each value in its first partition."""
    world = World()
    place = world.topic("t", partitions, **config)
    client = world.client()
    for value in values:
        assert client.produce(place, value).outcome is not None
    return world, place


def test_nothing_is_served_beyond_the_high_watermark() -> None:
    world, t = world_with(b"a")
    client = world.client()
    world.hold(FlushFiles)
    client.produce(t, b"b")

    assert client.fetch(t).outcome == [[b"a"]]
    assert client.fetch((t, 1)).outcome == [[]]
    assert client.list_offsets((t, "end")).outcome == [1]
    world.end_flush()
    assert client.fetch(t).outcome == [[b"a", b"b"]]


def test_the_answer_says_how_far_the_partition_reaches() -> None:
    world, t = world_with(b"a", b"b")
    found = world.client().fetch((t, 2))

    assert found.fields == {"partitions": [[0, 2, 0]]}


def test_a_fetch_begins_with_the_batch_that_holds_the_offset() -> None:
    world, t = world_with(b"x")
    client = world.client()
    client.produce(t, b"a", b"b", b"c")
    client.produce(t, b"d")

    assert client.fetch((t, 2)).records == [[(1, b"a"), (2, b"b"), (3, b"c"), (4, b"d")]]


def test_an_offset_that_is_not_stored_is_refused_with_those_that_are() -> None:
    world, t = world_with(b"a")
    found = world.client().fetch((t, 5))

    assert found.outcome == ["OFFSET_OUT_OF_RANGE"]
    assert found.fields is not None
    error = found.fields["partitions"][0]
    assert (error["log_start"], error["end"]) == (0, 1)


def test_max_bytes_bounds_each_partition_and_the_whole() -> None:
    world, t = world_with(*[bytes(1000)] * 5, partitions=2)
    client = world.client()
    for _ in range(5):
        client.produce(t[1], bytes(1000))

    whole = client.fetch(t, t[1], max_bytes=3_500)
    assert [len(records) for records in whole.records] == [3, 0]
    each = client.fetch((t, 0, 2_500), (t[1], 0, 1_200))
    assert [len(records) for records in each.records] == [2, 1]
    assert client.fetch(t, t[1], max_bytes=2_000).body_bytes < 2_000


def test_the_first_batch_comes_even_if_it_is_larger_than_asked() -> None:
    world, t = world_with(bytes(5_000))

    assert world.client().fetch((t, 0, 10), max_bytes=10).outcome == [[bytes(5_000)]]


def test_a_fetch_that_finds_nothing_waits_until_something_is_committed() -> None:
    world, t = world_with()
    world.hold(FlushFiles)
    client = world.client()
    found = client.fetch(t, wait_ms=MINUTE)
    client.produce(t, b"a")
    assert found.outcome is None

    world.end_flush()
    assert found.outcome == [[b"a"]]


def test_a_fetch_that_waits_is_answered_empty_when_its_time_is_over() -> None:
    world, t = world_with()
    found = world.client().fetch(t, wait_ms=500)
    world.advance(499)
    assert found.outcome is None
    world.advance(1)
    assert found.outcome == [[]]


def test_without_a_wait_it_is_answered_at_once() -> None:
    world, t = world_with()

    assert world.client().fetch(t).outcome == [[]]


def test_min_bytes_holds_a_fetch_until_there_is_as_much() -> None:
    world, t = world_with()
    client = world.client()
    found = client.fetch(t, wait_ms=MINUTE, min_bytes=3_000)
    client.produce(t, bytes(1_000))
    client.produce(t, bytes(1_000))
    assert found.outcome is None

    client.produce(t, bytes(1_000))
    assert found.outcome == [[bytes(1_000)] * 3]


def test_min_bytes_counts_all_partitions_together() -> None:
    world, t = world_with(partitions=2)
    client = world.client()
    found = client.fetch(t, t[1], wait_ms=MINUTE, min_bytes=1_500)
    client.produce(t, bytes(1_000))
    assert found.outcome is None

    client.produce(t[1], bytes(1_000))
    assert found.outcome == [[bytes(1_000)], [bytes(1_000)]]


def test_what_a_follower_has_read_does_not_count_for_min_bytes() -> None:
    """The index knows only about every so many bytes where an offset is; the reader knows."""
    world, t = world_with(*[bytes(100)] * 4)
    client = world.client()
    client.fetch(t)
    found = client.fetch((t, 4), wait_ms=MINUTE, min_bytes=500)
    client.produce(t, b"a")

    assert found.outcome is None


def test_when_its_time_is_over_a_fetch_gets_what_there_is() -> None:
    world, t = world_with()
    client = world.client()
    found = client.fetch(t, wait_ms=500, min_bytes=3_000)
    client.produce(t, bytes(1_000))
    world.advance(500)

    assert found.outcome == [[bytes(1_000)]]


def test_one_partition_of_several_wakes_a_fetch_once() -> None:
    world, t = world_with(partitions=3)
    client = world.client()
    found = client.fetch(t, t[1], t[2], wait_ms=MINUTE)
    client.produce(t[1], b"a")
    assert found.outcome == [[], [b"a"], []]

    client.produce(t[2], b"b")
    world.advance(MINUTE)
    assert len(found.frames) == 1


def test_a_partition_twice_in_one_fetch_is_answered_twice() -> None:
    world, t = world_with()
    client = world.client()
    found = client.fetch(t, t, wait_ms=MINUTE)
    client.produce(t, b"a")

    assert found.outcome == [[b"a"], [b"a"]]


def test_an_error_in_one_partition_is_answered_at_once_with_what_the_others_have() -> None:
    world, t = world_with(b"a")
    found = world.client().fetch(t, t[1], wait_ms=MINUTE)

    assert found.outcome == [[b"a"], "UNKNOWN_PARTITION"]


def test_every_waiter_is_woken_by_one_commit() -> None:
    world, t = world_with()
    found = [world.client(name).fetch(t, wait_ms=MINUTE) for name in ("one", "two", "three")]
    world.client().produce(t, b"a")

    assert [f.outcome for f in found] == [[[b"a"]]] * 3


def test_a_fetch_that_waits_hears_of_it_when_the_log_fails() -> None:
    world, t = world_with(b"a")
    world.hold(FlushFiles)
    client = world.client()
    found = client.fetch((t, 1), wait_ms=MINUTE)
    client.produce(t, b"b")
    world.end_flush(failing=["t/0"])

    assert found.outcome == ["STORAGE_OFFLINE"]


def test_a_fetch_that_waits_hears_of_it_when_the_topic_is_deleted() -> None:
    world, t = world_with(b"a")
    client = world.client()
    found = client.fetch((t, 1), wait_ms=MINUTE)
    client.delete("t")

    assert found.outcome == ["UNKNOWN_TOPIC"]


def test_a_fetch_below_a_start_that_has_moved_on_is_told_so() -> None:
    world, t = world_with(*[bytes(3000)] * 3, segment_bytes=4096)
    client = world.client()
    found = client.fetch((t, 0), wait_ms=MINUTE, min_bytes=MIB)
    log = world.log(t)
    log.drop_before(log.segments[1].base_offset)
    client.produce(t, b"a")

    assert found.outcome == ["OFFSET_OUT_OF_RANGE"]


def test_a_session_may_have_only_so_many_fetches_waiting() -> None:
    world = World(serving=ServingOptions(fetches_max=2, offsets_partitions=1))
    t = world.topic("t")
    client = world.client()
    found = [client.fetch(t, wait_ms=100) for _ in range(3)]
    assert [f.outcome for f in found] == [None, None, "THROTTLED"]

    world.advance(100)
    assert client.fetch(t, wait_ms=100).outcome is None


def test_nobody_answers_the_fetches_of_a_session_that_is_gone() -> None:
    world, t = world_with()
    client = world.client()
    found = client.fetch(t, wait_ms=MINUTE)
    world.lose(client)
    world.advance(MINUTE)
    world.client("other").produce(t, b"a")

    assert found.frames == []


# Cold reads


def cold_world(*values: bytes) -> tuple[World, Place]:
    world, place = world_with(*values)
    world.disk.cached = False
    world.hold(ReadCold)
    return world, place


def test_what_is_not_in_memory_is_asked_of_the_disk_while_others_go_on() -> None:
    world, t = cold_world(b"a")
    client = world.client()
    found = client.fetch(t)
    assert found.outcome is None
    assert client.ping().error is None

    world.end_cold_read()
    assert found.outcome == [[b"a"]]


def test_partitions_of_one_fetch_are_read_one_after_the_other() -> None:
    world, t = world_with(b"a", partitions=2)
    client = world.client()
    client.produce(t[1], b"b")
    world.disk.cached = False
    world.hold(ReadCold)
    found = client.fetch(t, t[1])

    world.end_cold_read()
    assert found.outcome is None
    world.end_cold_read()
    assert found.outcome == [[b"a"], [b"b"]]


def test_a_large_batch_takes_a_second_longer_read() -> None:
    world, t = cold_world(bytes(9_000))
    found = world.client().fetch((t, 0, 100))
    world.end_cold_read()
    assert found.outcome is None

    world.end_cold_read()
    assert found.outcome == [[bytes(9_000)]]


def test_a_cold_read_that_fails_takes_the_partition_offline() -> None:
    world, t = cold_world(b"a")
    client = world.client()
    found = client.fetch(t)
    world.end_cold_read(BROKEN)

    assert found.outcome == ["STORAGE_OFFLINE"]
    assert client.produce(t, b"b").outcome == ["STORAGE_OFFLINE"]


def test_a_slow_disk_is_not_waited_for_longer_than_asked_and_a_second() -> None:
    world, t = cold_world(b"a")
    found = world.client().fetch(t, wait_ms=200)
    world.advance(999)
    assert found.outcome is None

    world.advance(1)
    assert found.outcome == [[]]
    world.end_cold_read()
    assert len(found.frames) == 1


def test_a_cold_read_for_a_session_that_is_gone_is_dropped() -> None:
    world, t = cold_world(b"a")
    client = world.client()
    found = client.fetch(t)
    world.lose(client)
    world.end_cold_read()

    assert found.frames == []


def test_a_fetch_whose_time_is_over_still_waits_for_the_disk_it_then_asks() -> None:
    """
    Where the page cache cannot be asked every read is cold. A reader with a large min_bytes would
    be answered nothing each time its wait is over, and never get what there is.
    """
    world, t = cold_world(b"a")
    found = world.client().fetch(t, wait_ms=500, min_bytes=MIB)
    world.advance(500)
    assert world.waiting(ReadCold) == 1
    assert found.outcome is None
    world.end_cold_read()
    assert found.outcome == [[b"a"]]


def test_a_disk_that_never_answers_does_not_hold_a_fetch_for_ever() -> None:
    world, t = cold_world(b"a")
    found = world.client().fetch(t, wait_ms=500, min_bytes=MIB)
    world.advance(500)
    world.advance(1_000)

    assert found.outcome == [[]]


# Damage


def test_damage_is_refused_from_there_on_and_what_lies_before_is_served() -> None:
    world, t = world_with(b"a", b"b", b"c")
    world.flip(t, 1)
    client = world.client()

    assert client.fetch(t).outcome == [[b"a"]]
    assert client.fetch((t, 1)).outcome == ["STORAGE_DAMAGED"]
    assert client.fetch((t, 2)).outcome == ["STORAGE_DAMAGED"]
    assert client.fetch(t).outcome == [[b"a"]]


def test_damage_stops_appends_to_its_partition_alone() -> None:
    world, t = world_with(b"a", partitions=2)
    world.flip(t, 0)
    client = world.client()
    assert client.fetch(t).outcome == ["STORAGE_DAMAGED"]

    assert client.produce(t, b"b").outcome == ["STORAGE_DAMAGED"]
    assert client.produce(t[1], b"b").outcome == [0]


def test_damage_that_a_cold_read_finds_is_never_served() -> None:
    world, t = cold_world(b"a")
    world.flip(t, 0)
    found = world.client().fetch(t)
    world.end_cold_read()

    assert found.outcome == ["STORAGE_DAMAGED"]


def test_damage_of_one_partition_does_not_keep_the_others_from_being_read() -> None:
    world, t = world_with(b"a", partitions=2)
    client = world.client()
    client.produce(t[1], b"b")
    world.flip(t, 0)

    assert client.fetch(t, t[1]).outcome == ["STORAGE_DAMAGED", [b"b"]]


def test_the_partitions_that_a_sessions_fetches_wait_for_are_bounded() -> None:
    world, t = world_with(b"a")
    client = world.client()
    entries = [[t.id, 0, 1, 1]] * 2_500
    fields = {"max_wait_ms": 1_000, "partitions": entries}
    found = [client.ask(Api.FETCH, fields) for _ in range(4)]

    assert [each.outcome for each in found] == [None, None, None, "THROTTLED"]


def fetch_in(world: World, place: Place, offset: int, *epochs: object, **fields: object) -> Answer:
    """A FETCH that says which leader epochs its sender knows (F12)."""
    entry = [place.id, place.number, offset, MIB, *epochs]
    given = {"partitions": [entry], **fields}
    return world.client().ask(Api.FETCH, given, asked=[place])


def lead_anew(world: World, place: Place) -> int:
    """Another leader epoch of the same leader begins."""
    known = world.broker.image.partitions[place.id, place.number].document
    epoch = known.leader_epoch + 1
    after = replace(known, leader_epoch=epoch)
    world.change_store(Put(KEYS.partition(place.id, place.number), after.encode()))
    assert world.partition(place).epoch == epoch
    return epoch


def test_f12_the_leader_epoch_known_must_be_the_one_that_is() -> None:
    world, t = world_with(b"a")
    epoch = lead_anew(world, t)

    assert fetch_in(world, t, 0, epoch).outcome == [[b"a"]]
    assert fetch_in(world, t, 0, None, None).outcome == [[b"a"]]
    assert fetch_in(world, t, 0, epoch + 1).outcome == ["NOT_LEADER"]
    assert fetch_in(world, t, 0, None, epoch + 1).outcome == ["NOT_LEADER"]
    refused = fetch_in(world, t, 0, epoch - 1)
    assert refused.outcome == ["FENCED_LEADER_EPOCH"]
    assert refused.fields is not None
    error = refused.fields["partitions"][0]
    assert (error["leader"], error["leader_epoch"], error["retriable"]) == (1, epoch, True)


def test_f12_a_fetch_that_waits_hears_of_another_epoch() -> None:
    world, t = world_with(b"a")
    waiting = fetch_in(world, t, 1, 1, 1, max_wait_ms=10_000)
    assert waiting.fields is None
    lead_anew(world, t)

    assert waiting.fields is not None


def test_f12_what_was_read_before_must_be_what_stands_there() -> None:
    """Offsets 0 and 1 are of epoch 1, offset 2 of epoch 3, and nothing is of epoch 2."""
    world, t = world_with(b"a", b"b")
    lead_anew(world, t)
    lead_anew(world, t)
    world.client().produce(t, b"c")

    def parted(offset: int, last: int) -> int | None:
        answer = fetch_in(world, t, offset, 3, last)
        assert answer.fields is not None
        (entry,) = answer.fields["partitions"]
        assert type(entry) is list or entry["name"] == "OFFSET_OUT_OF_RANGE"
        return None if type(entry) is list else entry["parted"]

    assert [parted(offset, 1) for offset in (0, 1, 2, 3, 9)] == [None, None, None, 2, 2]
    assert [parted(offset, 2) for offset in (1, 2, 3)] == [1, 2, 2]
    assert [parted(offset, 3) for offset in (3, 4)] == [None, 3]


def test_f12_compaction_leaves_nothing_to_compare() -> None:
    world, t = world_with(b"a", b"b", cleanup="compact")
    lead_anew(world, t)
    world.client().produce(t, b"c")

    assert fetch_in(world, t, 3, 2, 1).outcome == [[]]
    assert fetch_in(world, t, 9, 2, 1).outcome == ["OFFSET_OUT_OF_RANGE"]


@pytest.mark.parametrize("epochs", [("1",), (-1,), (None, 1.5), (None, -1), (True,)])
def test_f12_epochs_are_integers_or_nil(epochs: tuple[object, ...]) -> None:
    world, t = world_with(b"a")

    assert fetch_in(world, t, 0, *epochs).outcome == ["MALFORMED"]
