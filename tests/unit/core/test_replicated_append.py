"""A follower appends what its leader sends, byte for byte, and nothing else (F8)."""

from __future__ import annotations

from random import Random

import pytest

from tests.support.lineages import FollowerLog, batch_at, between, check_same, extended
from tests.support.log_driver import CONFIG, KEY, History, read_from
from zmqmq.batch.layout import BODY_AT, BODY_CRC_AT, HEADER_SIZE, stamp, unpack_header
from zmqmq.core.storage.reading import place, read, take
from zmqmq.errors import CorruptDataError, DiskFullError, StorageError, WireError
from zmqmq.model.topics import TopicConfig
from zmqmq.sim.disk import SimDisk

RNG = 3


def leader(count: int = 30) -> History:
    return extended(History(), 0, 1, count, Random(RNG))


def test_the_follower_has_what_the_leader_has() -> None:
    """Bytes, producers, epochs and times, over several segments of its own."""
    history = extended(leader(20), leader(20).end, 4, 20, Random(1))
    follower = FollowerLog(SimDisk())

    follower.copy(history, history.end, burst=7)

    assert len(follower.log.segments) > 3
    check_same(follower.log, history, history.end)
    assert read_from(follower.log, 0, history.end) == bytes(history.data)


def test_a_reply_goes_down_in_one_write() -> None:
    history = leader(10)
    disk = SimDisk()
    follower = FollowerLog(disk, config=TopicConfig())
    before = len(disk.operations)

    assert follower.log.append_replicated(history.data) == history.end
    follower.log.write_out()

    writes = [o for o in disk.operations[before:] if type(o).__name__ == "Wrote"]
    assert len(writes) == 1
    follower.flush()
    assert follower.log.flushed_end == history.end


@pytest.mark.parametrize("epoch", [1, 2])
def test_sequences_are_noted_and_not_judged(epoch: int) -> None:
    """The leader has judged them; here the producer was never heard of."""
    follower = FollowerLog(SimDisk())

    follower.log.append_replicated(batch_at(0, producer=5, sequence=90, epoch=epoch))

    assert follower.log.producers.check(5, 0, 91, 91) is None
    assert follower.log.epochs.latest == epoch


def changed(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def restamped(data: bytes, size: int) -> bytes:
    """With another size in a head whose checksum holds."""
    h = unpack_header(data)
    head = stamp(
        h.base_offset,
        size,
        h.leader_epoch,
        h.append_time_ms,
        h.committed_end,
        data[BODY_CRC_AT:BODY_AT],
    )
    return head + data[len(head) :]


GOOD = batch_at(1, epoch=5, append_ms=2_000)
WRONG = {
    "head": changed(GOOD, 3),
    "body": changed(GOOD, HEADER_SIZE + 2),
    "committed end": changed(GOOD, 30),
    "offset ahead": batch_at(2, epoch=5, append_ms=2_000),
    "offset again": batch_at(0, epoch=5, append_ms=2_000),
    "epoch falls": batch_at(1, epoch=4, append_ms=2_000),
    "time falls": batch_at(1, epoch=5, append_ms=1_999),
    "header cut": GOOD[: HEADER_SIZE - 1],
    "body cut": GOOD[:-1],
    "size beyond": restamped(GOOD, len(GOOD) + 1),
    "no size": restamped(GOOD, 0),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_batch_that_cannot_come_next_is_refused_with_all_behind_it(name: str) -> None:
    """What stands before it was taken; nothing else has changed."""
    follower = FollowerLog(SimDisk())
    first = batch_at(0, epoch=5, append_ms=2_000, producer=3)

    with pytest.raises(CorruptDataError):
        follower.log.append_replicated(first + WRONG[name] + GOOD)

    log = follower.log
    log.write_out()
    assert (log.end_offset, log.size_bytes, log.last_append_ms) == (1, len(first), 2_000)
    assert log.failed is None
    log.append_replicated(GOOD)
    log.write_out()
    assert read_from(log, 0, 2) == first + GOOD


def test_a_batch_of_another_partition_is_refused() -> None:
    """Its body checksum starts from topic id and partition."""
    follower = FollowerLog(SimDisk())
    follower.log.seed ^= 1

    with pytest.raises(CorruptDataError, match="body checksum"):
        follower.log.append_replicated(batch_at(0))


def test_a_full_disk_refuses_the_rest_and_keeps_what_it_took() -> None:
    disk = SimDisk()
    follower = FollowerLog(disk)
    history = leader(10)
    disk.fail("allocate", at=2, full=True)

    with pytest.raises(DiskFullError):
        follower.log.append_replicated(history.data)

    end = follower.log.end_offset
    assert 0 < end < history.end
    follower.log.append_replicated(between(history, end, history.end))
    follower.log.write_out()
    check_same(follower.log, history, history.end)


def test_a_log_whose_disk_has_failed_takes_nothing() -> None:
    disk = SimDisk()
    follower = FollowerLog(disk)
    follower.log.append_replicated(batch_at(0))
    disk.fail("write")
    with pytest.raises(StorageError):
        follower.log.write_out()

    with pytest.raises(WireError):
        follower.log.append_replicated(batch_at(1))


def test_what_is_only_buffered_is_not_written() -> None:
    """Followers of this broker are sent what lies below `written_end` alone."""
    history = leader(12)
    half = history.batches[5].header.next_offset
    follower = FollowerLog(SimDisk(), config=TopicConfig())
    log = follower.log
    assert log.written_end == 0
    log.append_replicated(between(history, 0, half))
    log.write_out()
    log.append_replicated(between(history, half, history.end))

    assert (log.written_end, log.end_offset) == (half, history.end)
    for offset in (sent.header.base_offset for sent in history.batches[:6]):
        for max_bytes in (1, 300, 1 << 20):
            data = bytes(read(log, offset, max_bytes, log.written_end))
            assert data
            assert between(history, offset, half).startswith(data)
    where = place(log, half, 1 << 20)
    assert take(log, where, where.file.read(where.position, where.size), half, half, 1) == (
        b"",
        half,
    )

    log.write_out()
    assert log.written_end == history.end
    assert read_from(log, 0, log.written_end) == bytes(history.data)


def test_a_roll_writes_out_what_is_buffered() -> None:
    history = leader(30)
    follower = FollowerLog(SimDisk(), config=CONFIG)

    follower.log.append_replicated(history.data)

    log = follower.log
    assert log.segments[-1].base_offset <= log.written_end < log.end_offset
    assert read_from(log, 0, log.written_end) == between(history, 0, log.written_end)


def test_a_copy_without_damage_is_opened_again() -> None:
    disk = SimDisk()
    follower = FollowerLog(disk)
    history = leader()
    follower.copy(history, history.end)
    follower.flush()
    follower.checkpoint(history.end)

    again = FollowerLog(disk.kill_state())

    check_same(again.log, history, history.end)
    assert again.log.checkpointed_high_watermark == history.end
    assert KEY.folder in again.log.name
