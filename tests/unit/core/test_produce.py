"""PRODUCE: when is it answered, with what, and what of it is kept?"""

from __future__ import annotations

import pytest

from tests.support.world import STORAGE, Place, World, batch_of
from zmqmq.core.broker.events import FlushFiles, OpenLog, ReadCold
from zmqmq.core.broker.options import ServingOptions
from zmqmq.model.limits import MIB
from zmqmq.wire.apis import ACKS_ALL, ACKS_LEADER, ACKS_NONE, Api

SMALL_SEGMENTS = {"segment_bytes": 4096}


def flushing(partitions: int = 1, **config: object) -> tuple[World, Place]:
    """A topic in a world where the test says when a flush ends."""
    world = World()
    place = world.topic("t", partitions, **config)
    world.hold(FlushFiles)
    return world, place


def test_acks_all_is_answered_when_the_flush_has_ended() -> None:
    world, t = flushing()
    sent = world.client().produce(t, b"a")
    assert sent.outcome is None

    world.end_flush()
    assert sent.outcome == [0]


def test_acks_1_is_answered_at_the_end_of_the_burst_before_the_flush() -> None:
    world, t = flushing()
    client = world.client()
    with world.burst():
        sent = client.produce(t, b"a", acks=ACKS_LEADER)
        assert sent.outcome is None

    assert sent.outcome == [0]
    assert world.waiting(FlushFiles) == 1


def test_acks_0_is_never_answered_and_stored_all_the_same() -> None:
    world, t = flushing()
    client = world.client()
    sent = client.produce(t, b"a", acks=ACKS_NONE)
    world.end_flush()

    assert sent.outcome is None
    assert client.fetch(t).outcome == [[b"a"]]


def test_acks_0_is_not_even_told_of_an_error() -> None:
    world, t = flushing()
    nowhere = Place(b"\0" * 16)
    client = world.client()

    assert client.produce(nowhere, b"a", acks=ACKS_NONE).frames == []
    assert client.ask(Api.PRODUCE, {"acks": ACKS_NONE}).frames == []
    assert client.produce(t, b"a", acks=ACKS_NONE, common={"expires_ms": 1}).frames == []


def test_the_answer_tells_the_brokers_time_of_the_append() -> None:
    world, t = flushing()
    world.advance(5)
    sent = world.client().produce(t, b"a", acks=ACKS_LEADER)

    assert sent.fields == {"results": [[0, world.ms]]}


def test_what_arrives_during_a_flush_shares_the_next_one() -> None:
    world, t = flushing()
    before = world.flushes
    client, other = world.client("one"), world.client("two")
    first = client.produce(t, b"a")
    later = [client.produce(t, b"b"), other.produce(t, b"c"), client.produce(t, b"d")]
    assert world.flushes == before + 1

    world.end_flush()
    assert first.outcome == [0]
    assert [sent.outcome for sent in later] == [None, None, None]
    assert world.flushes == before + 2

    world.end_flush()
    assert [sent.outcome for sent in later] == [[1], [2], [3]]
    assert world.waiting(FlushFiles) == 0


def test_one_flush_covers_all_partitions_of_a_burst() -> None:
    world, t = flushing(3)
    client = world.client()
    before = world.flushes
    with world.burst():
        sent = [client.produce(t[n], b"a") for n in range(3)]
    assert world.flushes == before + 1

    world.end_flush()
    assert [s.outcome for s in sent] == [[0], [0], [0]]


def test_a_request_for_several_partitions_is_answered_once_when_all_are_committed() -> None:
    world, t = flushing(2)
    client = world.client()
    client.produce(t, b"x")
    both = client.produce(t, batches=[(t, batch_of(t, b"a")), (t[1], batch_of(t[1], b"b"))])

    world.end_flush()
    assert both.outcome is None
    world.end_flush()
    assert both.outcome == [1, 0]


def test_a_batch_that_is_refused_does_not_keep_the_others_out() -> None:
    world, t = flushing(2)
    wrong = bytearray(batch_of(t, b"a"))
    wrong[-1] ^= 1
    sent = world.client().produce(t, batches=[(t, bytes(wrong)), (t[1], batch_of(t[1], b"b"))])
    world.end_flush()

    assert sent.outcome == ["CORRUPT_BATCH", 0]


def test_a_request_of_nothing_but_errors_is_answered_at_once() -> None:
    world, t = flushing()
    client = world.client()

    assert client.produce(Place(b"\0" * 16), b"a").outcome == ["UNKNOWN_TOPIC"]
    assert client.produce(t[1], b"a").outcome == ["UNKNOWN_PARTITION"]
    assert world.waiting(FlushFiles) == 0


def test_as_many_batches_as_frames_or_nothing_is_taken() -> None:
    world, t = flushing()
    client = world.client()
    sent = client.ask(
        Api.PRODUCE, {"acks": -1, "batches": [[t.id, 0], [t.id, 0]]}, [batch_of(t, b"a")]
    )

    assert sent.error == "MALFORMED"
    assert world.log(t).end_offset == 0


def test_the_brokers_own_topics_take_nothing_from_clients() -> None:
    world = World()
    own = world.offsets_place(0)

    assert world.client().produce(own, b"a").outcome == ["DENIED"]


def test_nobody_can_produce_to_a_partition_that_is_being_opened() -> None:
    world = World()
    admin = world.client("admin")
    world.hold(OpenLog)
    created = admin.create("t")
    t = Place(world.broker.catalog.by_name["t"].id)
    sent = admin.produce(t, b"a")

    assert sent.outcome == ["NOT_LEADER"]
    assert created.outcome is None


# Failing disks


def test_a_failed_flush_answers_its_waiters_not_committed_and_others_go_on() -> None:
    world, t = flushing(2)
    client = world.client()
    with world.burst():
        lost, kept = client.produce(t, b"a"), client.produce(t[1], b"b")
    world.end_flush(failing=["t/0"])

    assert (lost.outcome, kept.outcome) == (["NOT_COMMITTED"], [0])
    assert client.produce(t, b"a").outcome == ["STORAGE_OFFLINE"]
    assert client.fetch(t).outcome == ["STORAGE_OFFLINE"]
    again = client.produce(t[1], b"c")
    world.end_flush()
    assert again.outcome == [1]


def test_what_waits_for_the_next_flush_of_a_failed_log_is_not_committed_either() -> None:
    world, t = flushing()
    client = world.client()
    first, second = client.produce(t, b"a"), client.produce(t, b"b")
    world.end_flush(failing=["t/0"])

    assert (first.outcome, second.outcome) == (["NOT_COMMITTED"], ["NOT_COMMITTED"])
    assert world.waiting(FlushFiles) == 0


def test_a_failed_flush_is_never_tried_again() -> None:
    world, t = flushing()
    client = world.client()
    client.produce(t, b"a")
    world.end_flush(failing=["t/0"])
    world.advance(60_000)

    assert world.waiting(FlushFiles) == 0


@pytest.mark.parametrize("acks", [ACKS_LEADER, ACKS_ALL])
def test_a_failed_write_confirms_nothing(acks: int) -> None:
    world, t = flushing()
    client = world.client()
    world.disk.fail("write")
    sent = client.produce(t, b"a", acks=acks)

    assert sent.outcome == ["NOT_COMMITTED"]
    assert client.fetch(t).outcome == ["STORAGE_OFFLINE"]


@pytest.mark.parametrize("acks", [ACKS_LEADER, ACKS_ALL])
def test_a_retry_after_a_failed_write_is_not_taken_for_a_success(acks: int) -> None:
    """The table remembers the batch, although the disk never got it."""
    world, t = flushing()
    client = world.client()
    world.disk.fail("write")
    client.produce(t, b"a", acks=acks, producer=7)

    assert client.produce(t, b"a", acks=acks, producer=7).outcome == ["NOT_COMMITTED"]


def test_a_write_that_fails_while_a_segment_is_ended_fails_all_who_wait_for_the_log() -> None:
    """What it ends was written in an earlier burst, so nothing else touches the log."""
    world, t = flushing(**SMALL_SEGMENTS)
    client = world.client()
    waiting = client.produce(t, bytes(3000))
    reader = client.fetch((t, 0), wait_ms=60_000)
    world.disk.fail("truncate")
    refused = client.produce(t, bytes(3000))

    assert refused.outcome == ["STORAGE_OFFLINE"]
    assert waiting.outcome == ["NOT_COMMITTED"]
    assert reader.outcome == ["STORAGE_OFFLINE"]


def test_a_read_that_fails_fails_all_who_wait_for_the_log() -> None:
    world, t = flushing()
    client = world.client()
    client.produce(t, b"a")
    world.end_flush()
    waiting = client.produce(t, b"b")
    world.disk.cached = False
    world.hold(ReadCold)
    client.fetch(t)
    world.disk.fail("read")
    world.end_cold_read()
    assert waiting.outcome == ["NOT_COMMITTED"]

    world.end_flush()
    assert world.partition(t).high_watermark == 1


def test_a_full_disk_refuses_with_nothing_changed_and_recovers() -> None:
    world, t = flushing()
    world.release(FlushFiles)
    client = world.client()
    client.produce(t, b"a")
    operations = len(world.disk.operations)
    world.disk.budget = 0
    refused = client.produce(t, bytes(70_000), producer=7)

    assert refused.outcome == ["DISK_FULL"]
    assert len(world.disk.operations) == operations
    assert client.fetch(t).outcome == [[b"a"]]
    world.disk.budget = None
    assert client.produce(t, bytes(70_000), producer=7).outcome == [1]


def test_a_full_disk_that_shows_while_a_segment_is_ended_refuses_and_recovers() -> None:
    world, t = flushing(**SMALL_SEGMENTS)
    world.release(FlushFiles)
    client = world.client()
    client.produce(t, bytes(3000))
    world.disk.fail("allocate", full=True)

    assert client.produce(t, bytes(3000)).outcome == ["DISK_FULL"]
    assert client.produce(t, bytes(3000)).outcome == [1]


def test_appends_leave_the_configured_room_on_the_disk() -> None:
    world = World()
    t = world.topic("t")
    world.disk.budget = 10 * MIB
    log = world.log(t)
    log.options = type(STORAGE)(free_bytes_min=20 * MIB)
    refused = world.client().produce(t, bytes(70_000))

    assert refused.outcome == ["DISK_FULL"]


# Idempotence


def test_a_batch_that_comes_again_waits_for_the_commit_of_the_first() -> None:
    world, t = flushing()
    client = world.client()
    first = client.produce(t, b"a", producer=7)
    client.produce(t, b"b", producer=7, sequence=1)
    again = client.produce(t, b"a", producer=7)
    assert again.outcome is None

    world.end_flush()
    assert (first.outcome, again.outcome) == ([0], [0])
    world.end_flush()
    assert client.fetch(t).outcome == [[b"a", b"b"]]


def test_a_batch_that_comes_again_later_gets_the_offset_and_time_of_the_first() -> None:
    world, t = flushing()
    world.release(FlushFiles)
    client = world.client()
    client.produce(t, b"x")
    first = client.produce(t, b"a", producer=7)
    world.advance(1_000)
    flushes = world.flushes
    again = client.produce(t, b"a", producer=7)

    assert first.fields == again.fields
    assert world.flushes == flushes
    assert client.fetch(t).outcome == [[b"x", b"a"]]


def test_a_batch_twice_in_one_burst_is_written_once() -> None:
    world, t = flushing()
    client = world.client()
    with world.burst():
        both = [client.produce(t, b"a", producer=7) for _ in range(2)]
    world.end_flush()

    assert [sent.outcome for sent in both] == [[0], [0]]
    assert client.fetch(t).outcome == [[b"a"]]


def test_a_duplicate_of_an_older_batch_does_not_hold_up_later_ones() -> None:
    """The duplicate of offset 0 stands behind a waiter for offset 2 in the queue."""
    world, t = flushing()
    client = world.client()
    client.produce(t, b"a", producer=7)
    later = client.produce(t, b"b", producer=7, sequence=1)
    duplicates = [client.produce(t, b"a", producer=7) for _ in range(3)]
    world.end_flush()
    assert [sent.outcome for sent in duplicates] == [[0]] * 3
    assert later.outcome is None

    world.end_flush()
    assert later.outcome == [1]


def test_wrong_sequences_are_refused_each_by_its_name() -> None:
    world, t = flushing()
    client = world.client()

    def send(**coding: int) -> object:
        return client.produce(t, b"a", acks=ACKS_LEADER, **coding).outcome

    assert send(producer=7, sequence=3) == ["UNKNOWN_PRODUCER"]
    assert [send(producer=7, sequence=n) for n in range(70)] == [[n] for n in range(70)]
    assert send(producer=7, sequence=71) == ["OUT_OF_ORDER_SEQUENCE"]
    assert send(producer=7, sequence=3) == ["DUPLICATE_SEQUENCE"]
    assert send(producer=7, sequence=6) == [6]
    assert send(producer=7, epoch=1) == [70]
    assert send(producer=7, sequence=70) == ["PRODUCER_FENCED"]
    assert send(producer=7, epoch=2, sequence=1) == ["UNKNOWN_PRODUCER"]


# Deadlines and room


def test_a_commit_that_takes_too_long_is_answered_perhaps_and_may_still_come() -> None:
    world, t = flushing()
    client = world.client()
    sent = client.produce(t, b"a", timeout_ms=500)
    world.advance(499)
    assert sent.outcome is None
    world.advance(1)
    assert sent.outcome == ["TIMED_OUT"]

    world.end_flush()
    assert len(sent.frames) == 1
    assert client.fetch(t).outcome == [[b"a"]]


def test_an_error_that_is_certain_stays_one_when_the_others_time_out() -> None:
    world, t = flushing()
    sent = world.client().produce(
        t, batches=[(t[1], batch_of(t[1], b"b")), (t, batch_of(t, b"a"))], timeout_ms=1
    )
    world.advance(1)

    assert sent.outcome == ["UNKNOWN_PARTITION", "TIMED_OUT"]


def test_bytes_beyond_what_may_wait_for_the_disk_are_throttled_until_it_is_done() -> None:
    world = World(serving=ServingOptions(unflushed_bytes=4 * MIB, offsets_partitions=1))
    t = world.topic("t")
    world.hold(FlushFiles)
    client = world.client()
    sent = [client.produce(t, bytes(MIB - 500)) for _ in range(5)]
    assert [s.outcome for s in sent] == [None, None, None, None, "THROTTLED"]
    assert sent[4].fields is not None
    assert sent[4].fields["error"]["retry_after_ms"] == 50

    world.end_flush()
    assert client.produce(t, b"a").outcome is None
    world.end_flush()
    world.end_flush() if world.waiting(FlushFiles) else None
    assert [s.outcome for s in sent[:4]] == [[0], [1], [2], [3]]
    with world.burst():
        assert [client.produce(t, bytes(MIB - 500)).outcome for _ in range(5)][-1] == "THROTTLED"


def test_duplicates_and_failed_logs_do_not_use_up_the_room_for_ever() -> None:
    world = World(serving=ServingOptions(unflushed_bytes=4 * MIB, offsets_partitions=1))
    t = world.topic("t", 2)
    client = world.client()
    for _ in range(9):
        assert client.produce(t, bytes(MIB - 500), producer=7).outcome == [0]
    world.disk.fail("write")
    assert client.produce(t, bytes(MIB - 500)).outcome == ["NOT_COMMITTED"]
    for n in range(9):
        assert client.produce(t[1], bytes(MIB - 500)).outcome == [n]


def test_a_session_may_have_only_so_many_requests_waiting() -> None:
    world, t = flushing()
    client = world.client()
    batch = batch_of(t, b"a")
    with world.burst():
        sent = [client.produce(t, batch=batch) for _ in range(4_097)]

    assert sent[4_096].outcome == "THROTTLED"
    world.end_flush()
    assert sent[4_095].outcome == [4_095]
    assert client.ping().error is None


# Topics that are flushed later


def test_with_flush_replicated_a_write_is_a_commit() -> None:
    world, t = flushing(flush="replicated")
    client = world.client()
    with world.burst():
        sent = client.produce(t, b"a")
        assert client.fetch(t).outcome == [[]]
    assert sent.outcome == [0]
    assert world.waiting(FlushFiles) == 1
    assert client.fetch(t).outcome == [[b"a"]]


def test_with_flush_replicated_a_failed_write_commits_nothing() -> None:
    world, t = flushing(flush="replicated")
    client = world.client()
    world.disk.fail("write")

    assert client.produce(t, b"a").outcome == ["NOT_COMMITTED"]


def test_what_a_flush_has_covered_makes_room_while_the_next_one_goes_on() -> None:
    world = World(serving=ServingOptions(unflushed_bytes=4 * MIB, offsets_partitions=1))
    t = world.topic("t")
    world.hold(FlushFiles)
    client = world.client()
    for _ in range(4):
        assert client.produce(t, bytes(MIB - 500)).error is None
    world.end_flush()

    assert world.waiting(FlushFiles) == 1
    assert client.produce(t, bytes(MIB - 500)).error is None
    assert client.produce(t, bytes(MIB - 500)).error == "THROTTLED"
