"""Committed offsets: what a group is told, and when; and where the log begins, ends, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.world import BROKEN, SERVING, Place, World
from zmqmq.core.broker.events import FlushFiles
from zmqmq.model.groups import offsets_partition
from zmqmq.model.limits import METADATA_NOTE_MAX

MINUTE = 60_000


def own(world: World, group: str) -> Place:
    """The partition of `__offsets` that holds a group."""
    return world.offsets_place(offsets_partition(group, SERVING.offsets_partitions))


def other_group(group: str) -> str:
    """One that lives in another partition."""
    count = SERVING.offsets_partitions
    names = (f"other-{n}" for n in range(100))
    return next(n for n in names if offsets_partition(n, count) != offsets_partition(group, count))


def test_a_commit_is_answered_and_shown_once_it_is_flushed() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    world.hold(FlushFiles)
    sent = client.commit("g", (t, 5))
    assert sent.outcome is None
    assert client.committed("g").outcome == []

    world.end_flush()
    assert sent.outcome == [None]
    assert client.committed("g").outcome == [(0, 5)]


def test_a_fetch_of_offsets_tells_all_that_was_committed_with_them() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    client.commit("g", (t, 5), note="so far")
    fields = client.committed("g", t).fields

    assert fields == {"offsets": [[t.id, 0, 5, 1, "so far", world.ms]]}


def test_the_newest_commit_counts_and_groups_do_not_mix() -> None:
    world = World()
    t = world.topic("t", 2)
    client = world.client()
    client.commit("g", (t, 5), (t[1], 6))
    client.commit("g", (t, 3))
    client.commit("h", (t, 9))

    assert client.committed("g").outcome == [(0, 3), (1, 6)]
    assert client.committed("h", t, t[1]).outcome == [(0, 9)]
    assert client.committed("nobody").outcome == []


def test_committed_offsets_survive_a_restart() -> None:
    world = World()
    t = world.topic("t", 2)
    client = world.client()
    for n in range(40):
        client.commit("g", (t, n))
    client.commit("h", (t[1], 7))
    world.crash()
    client.hello()

    assert client.committed("g").outcome == [(0, 39)]
    assert client.committed("h").outcome == [(1, 7)]


def test_offsets_of_partitions_that_are_not_there_are_refused_each_alone() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    sent = client.commit("g", (t[5], 1), (t, 2), (Place(b"\0" * 16), 3))

    assert sent.outcome == ["UNKNOWN_PARTITION", None, "UNKNOWN_TOPIC"]
    assert client.committed("g").outcome == [(0, 2)]
    assert client.commit("g", (t[5], 1)).outcome == ["UNKNOWN_PARTITION"]


def test_a_note_has_a_limit() -> None:
    world = World()
    t = world.topic("t")
    sent = world.client().commit("g", (t, 1), note="x" * (METADATA_NOTE_MAX + 1))

    assert sent.outcome == ["MALFORMED"]


@pytest.mark.parametrize("group", ["", "a b", "x" * 201])
def test_names_that_no_group_may_have_are_refused(group: str) -> None:
    world = World()
    t = world.topic("t")

    assert world.client().commit(group, (t, 1)).error in {"INVALID_NAME", "MALFORMED"}
    assert world.client().committed(group).error in {"INVALID_NAME", "MALFORMED"}


def test_a_failed_flush_answers_commits_perhaps_and_refuses_the_group_from_then_on() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    world.hold(FlushFiles)
    sent = client.commit("g", (t, 5))
    place = own(world, "g")
    world.end_flush(failing=[f"__offsets/{place.number}"])

    assert sent.error == "NOT_COMMITTED"
    assert client.commit("g", (t, 6)).error == "STORAGE_OFFLINE"
    unharmed = client.commit(other_group("g"), (t, 6))
    world.end_flush()
    assert unharmed.outcome == [None]


def test_a_commit_that_takes_too_long_is_answered_perhaps_and_still_counts_once_it_came() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    world.hold(FlushFiles)
    sent = client.commit("g", (t, 5))
    world.advance(30_000)
    assert sent.error == "TIMED_OUT"

    world.end_flush()
    assert client.committed("g").outcome == [(0, 5)]
    assert len(sent.frames) == 1


def test_offsets_of_a_deleted_topic_are_forgotten_and_stay_so() -> None:
    world = World()
    t, kept = world.topic("t"), world.topic("kept")
    client = world.client()
    client.commit("g", (t, 5), (kept, 6))
    client.commit("h", (t, 5))
    client.delete("t")

    for _ in range(2):
        assert client.committed("g").fields == {"offsets": [[kept.id, 0, 6, 1, "", world.ms]]}
        assert client.committed("h").outcome == []
        assert "h" not in [group["name"] for group in client.describe("groups")]
        world.crash()
        client.hello()


def test_a_topic_can_be_deleted_although_its_offsets_cannot_be_forgotten() -> None:
    """Whoever deletes a topic has nothing to do with the disk of some group's offsets."""
    world = World()
    t = world.topic("t")
    client = world.client()
    client.commit("g", (t, 5))
    place = own(world, "g")
    world.log(place).fail(BROKEN)

    assert client.delete("t").outcome == {}
    assert client.ping().error is None


def test_more_offsets_than_a_batch_holds_are_forgotten_too() -> None:
    world = World()
    t = world.topic("t", 1_200)
    client = world.client()
    group = "g" * 200
    for start in range(0, 1_200, 600):
        sent = client.commit(group, *[(t[n], 1) for n in range(start, start + 600)])
        assert sent.outcome == [None] * 600
    log = world.log(own(world, group))
    log.config = replace(log.config, batch_bytes_max=260_000)
    client.delete("t")

    assert client.committed(group).outcome == []


def test_a_damaged_partition_of_offsets_refuses_its_groups_and_no_others() -> None:
    """A group must not begin again at the start without anybody knowing why."""
    world = World()
    t = world.topic("t")
    client = world.client()
    client.commit("g", (t, 5))
    client.commit("g", (t, 6))
    client.commit(other_group("g"), (t, 7))
    world.checkpoint()
    world.flip(own(world, "g"), 0)
    world.crash()
    client.hello()

    assert world.broker.is_started
    assert client.committed("g").error == "STORAGE_DAMAGED"
    assert client.commit("g", (t, 8)).error == "STORAGE_DAMAGED"
    assert client.committed(other_group("g")).outcome == [(0, 7)]


def test_a_partition_of_offsets_that_cannot_be_read_does_not_stop_the_broker() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    client.commit("g", (t, 5))
    world.stop()
    world.hold(FlushFiles)
    world.disk = world.disk.kill_state()
    world.start()
    world.disk.fail("read", count=100)
    world.release(FlushFiles)

    assert world.broker.is_started
    client.hello()
    assert client.committed("g").error == "STORAGE_OFFLINE"


# LIST_OFFSETS


def test_the_end_is_what_is_committed_and_the_start_what_is_kept() -> None:
    world = World()
    t = world.topic("t", segment_bytes=4096)
    client = world.client()
    for _ in range(3):
        client.produce(t, bytes(3000))
    log = world.log(t)
    log.drop_before(log.segments[1].base_offset)
    world.hold(FlushFiles)
    client.produce(t, b"a")

    assert client.list_offsets((t, "start"), (t, "end")).outcome == [1, 3]


def test_a_time_finds_the_first_batch_appended_then_or_later() -> None:
    world = World()
    t = world.topic("t", segment_bytes=4096)
    client = world.client()
    times = []
    for _ in range(8):
        world.advance(100)
        times.append(world.ms)
        client.produce(t, bytes(900))

    for offset, ms in enumerate(times):
        found = client.list_offsets((t, ms), (t, ms - 1), (t, ms + 1))
        assert found.outcome == [offset, offset, min(offset + 1, 8)]
    assert client.list_offsets((t, 0)).fields == {"offsets": [[0, times[0]]]}
    assert client.list_offsets((t, times[-1] + 1)).fields == {"offsets": [[8, None]]}


def test_a_time_finds_nothing_that_is_not_committed() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    client.produce(t, b"a")
    world.hold(FlushFiles)
    world.advance(100)
    client.produce(t, b"b")

    assert client.list_offsets((t, world.ms)).fields == {"offsets": [[1, None]]}


def test_a_time_is_not_looked_up_in_damaged_bytes() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    client.produce(t, b"a")
    segment = world.log(t).segments[0]
    world.disk.flip(segment.path, 7, 0x55)

    assert client.list_offsets((t, 0)).outcome == ["STORAGE_DAMAGED"]


def test_each_entry_has_its_own_error() -> None:
    world = World()
    t = world.topic("t")
    found = world.client().list_offsets((t[9], "end"), (t, "end"), (t, "middle"), (t, -1))

    assert found.outcome == ["UNKNOWN_PARTITION", 0, "MALFORMED", "MALFORMED"]


def test_a_failed_log_says_so() -> None:
    world = World()
    t = world.topic("t")
    world.log(t).fail(BROKEN)

    assert world.client().list_offsets((t, "end")).outcome == ["STORAGE_OFFLINE"]


def test_a_disk_that_fails_a_search_is_answered() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    client.produce(t, b"a")
    world.disk.fail("read")

    assert client.list_offsets((t, 0)).outcome == ["STORAGE_OFFLINE"]


def test_a_commit_that_came_during_a_flush_waits_for_the_next() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    world.hold(FlushFiles)
    first, second = client.commit("g", (t, 5)), client.commit("g", (t, 6))
    world.end_flush()
    assert (first.outcome, second.outcome) == ([None], None)
    assert client.committed("g").outcome == [(0, 5)]

    world.end_flush()
    assert client.committed("g").outcome == [(0, 6)]
