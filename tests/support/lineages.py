"""What several leaders write one after the other, and a follower that copies it.

A `History` (log_driver.py) is the log of one leader; `extended` gives that of the next one, which
has the same beginning. `FollowerLog` is what the world does with a follower's log.
"""

from __future__ import annotations

from random import Random

from tests.support.log_driver import CONFIG, KEY, OPTIONS, History, table_of
from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import BODY_AT, BODY_CRC_AT, HEAD_SIZE, stamp, unpack_header
from zmqmq.core.storage.data_directory import read_checkpoints, write_checkpoints
from zmqmq.core.storage.log import LOGS_FOLDER, Log
from zmqmq.core.storage.recovery import Checkpoint, open_log
from zmqmq.core.storage.truncation import cut, lowered
from zmqmq.model.topics import TopicConfig
from zmqmq.sim.disk import SimDisk


def batch_at(
    offset: int,
    *,
    epoch: int = 1,
    append_ms: int = 1_000,
    committed: int = 0,
    values: tuple[bytes, ...] = (b"value",),
    producer: int = 0,
    sequence: int = 0,
) -> bytes:
    """A batch as a leader stamped it."""
    data = encode_batch(
        KEY.seed,
        list(values),
        timestamp_ms=append_ms,
        producer_id=producer,
        producer_epoch=0,
        base_sequence=sequence,
    )
    head = stamp(offset, len(data), epoch, append_ms, committed, data[BODY_CRC_AT:BODY_AT])
    return head + data[HEAD_SIZE:]


def extended(
    history: History, end: int, epoch: int, count: int, rng: Random, *, committed: int = 0
) -> History:
    """The log of a leader that had `history` up to `end` and wrote `count` batches.

    It knew that what lies below `committed` was.
    """
    result = history.up_to(end)
    append_ms = result.batches[-1].header.append_time_ms if result.batches else 1_000
    for _ in range(count):
        append_ms += rng.randrange(3)
        producer = rng.choice((0, 0, 7, 8, 9))
        known = result.producers(result.end).get(producer)
        sequence = known[1][-1][1] + 1 if known else 0
        values = tuple(rng.randbytes(rng.randint(1, 150)) for _ in range(rng.randint(1, 4)))
        data = batch_at(
            result.end,
            epoch=epoch,
            append_ms=append_ms,
            committed=committed,
            values=values,
            producer=producer,
            sequence=sequence,
        )
        result.add(unpack_header(data), data)
    return result


def between(history: History, start: int, end: int) -> bytes:
    """The bytes of the batches from one offset to another."""
    return bytes(history.data[history.position(start) : history.position(end)])


class FollowerLog:
    """A follower's log, its checkpoint, and the order in which the world changes them."""

    def __init__(self, disk: SimDisk, *, config: TopicConfig = CONFIG) -> None:
        disk.make_directory(LOGS_FOLDER)
        disk.sync_directory("")
        self.disk = disk
        self.row = read_checkpoints(disk).get(KEY.folder, Checkpoint())
        self._write()
        self.log: Log = open_log(disk, KEY, config, OPTIONS, self.row)

    def copy(self, history: History, end: int, *, burst: int = 3) -> None:
        """Append what the leader has up to `end`, a few batches with each write."""
        bursts: list[bytes] = []
        for number, sent in enumerate(
            s for s in history.batches if self.log.end_offset < s.header.next_offset <= end
        ):
            if number % burst == 0:
                bursts.append(b"")
            bursts[-1] += sent.data
        for data in bursts:
            self.log.append_replicated(data)
            self.log.write_out()

    def flush(self) -> None:
        log = self.log
        log.write_out()
        flush = log.begin_flush()
        for file in dict.fromkeys(flush.files):
            file.sync()
        for folder in flush.folders:
            self.disk.sync_directory(folder)
        log.end_flush(flush)

    def checkpoint(self, high_watermark: int) -> None:
        log = self.log
        committed = min(high_watermark, log.flushed_end)
        self.row = Checkpoint(log.recovery_point, log.start_offset, high_watermark=committed)
        self._write()
        log.note_checkpoint(self.row.recovery_point, self.row.high_watermark)

    def cut(self, to: int, state: bytes | None = None) -> None:
        """As the world does TruncateLog."""
        self.row = lowered(self.row, self.log, to, state)
        self._write()
        cut(self.log, to, state)

    def _write(self) -> None:
        write_checkpoints(self.disk, {KEY.folder: self.row})


def check_same(log: Log, history: History, end: int) -> None:
    """Everything known of the log is what a replay of `history` up to `end` gives."""
    assert log.damage is None, str(log.damage)
    assert log.end_offset == end
    assert log.written_end == end
    assert table_of(log.producers) == history.producers(end)
    assert log.epochs.snapshot() == history.epochs(end)
    batches = [s for s in history.batches if s.header.next_offset <= end]
    if batches:
        assert log.last_append_ms == batches[-1].header.append_time_ms
    here = [s.header for s in batches if s.header.base_offset >= log.start_offset]
    assert log.record_count == sum(header.record_count for header in here)
    assert log.size_bytes == sum(header.size for header in here)
    bases = [segment.base_offset for segment in log.segments]
    ends = [segment.end_offset for segment in log.segments]
    assert bases[1:] == ends[:-1]
    assert (bases[0], ends[-1]) == (log.start_offset, end)
