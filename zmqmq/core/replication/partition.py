"""One partition that this broker leads: appends, commits, acknowledges.

A record is committed once every in-sync replica has it, flushed or in memory as the topic's
`flush` says (L4, L5, D2). With one replica that is the leader alone, and the high watermark is
how far its own log is flushed (`fsync`) or written (`replicated`).

    log start <= high watermark <= log end
"""

from __future__ import annotations

from typing import NamedTuple

from zmqmq.batch.columns import Column, ColumnReader
from zmqmq.batch.layout import (
    BODY_AT,
    BODY_CRC_AT,
    CONTROL,
    HEADER_SIZE,
    TRANSACTIONAL,
    BatchHeader,
    body_is_valid,
    check_fields,
    stamp,
    unpack_header,
)
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import Log
from zmqmq.errors import (
    Code,
    CorruptDataError,
    DiskFullError,
    StorageError,
    WireError,
    refusal,
)
from zmqmq.model.topics import TopicConfig


class Appended(NamedTuple):
    """Where a batch went, now or the first time it was sent."""

    base_offset: int
    next_offset: int
    append_ms: int


class Partition:
    """Lives for one leader epoch."""

    __slots__ = ("epoch", "flushes", "high_watermark", "is_closed", "log", "topic")

    def __init__(self, topic: str, log: Log, epoch: int) -> None:
        self.topic = topic
        self.log = log
        self.epoch = epoch
        self.flushes = log.config.flush == "fsync"
        """Whether the high watermark waits for the disk."""
        self.high_watermark = log.flushed_end
        self.is_closed = False
        """Whether its topic was deleted."""

    @property
    def name(self) -> str:
        """For messages to people."""
        return f"{self.topic}/{self.log.key.partition}"

    def append(self, now_ms: int, batch: Buffer) -> Appended:
        """Check a producer's batch and append it; nothing is written out yet.

        Raises refusals, with nothing changed.
        """
        header = self._checked(batch)
        log = self.log
        if header.producer_id:
            again = log.producers.check(
                header.producer_id,
                header.producer_epoch,
                header.base_sequence,
                header.last_sequence,
            )
            if again is not None:
                return Appended(again.base_offset, again.next_offset, again.append_ms)
        self._make_room(len(batch), header.record_count)
        append_ms = max(now_ms, log.last_append_ms)
        view = memoryview(batch)
        base_offset, size = log.end_offset, len(view)
        # With flush=replicated the high watermark is ahead of the disk. What a power cut takes
        # from there must not look like damage to recovery.
        committed = min(self.high_watermark, log.flushed_end)
        head = stamp(
            base_offset,
            size,
            self.epoch,
            append_ms,
            committed,
            view[BODY_CRC_AT:BODY_AT].tobytes(),
        )
        stamped = BatchHeader(base_offset, size, self.epoch, append_ms, committed, 0, *header[6:])
        try:
            log.append(stamped, (head, view[BODY_CRC_AT:]))
        except StorageError as error:
            raise self._refusal(error) from None
        return Appended(base_offset, log.end_offset, append_ms)

    def _refusal(self, error: StorageError) -> WireError:
        code = Code.DISK_FULL if isinstance(error, DiskFullError) else Code.STORAGE_OFFLINE
        return refusal(code, f"{self.name}: {error}")

    def advance(self) -> bool:
        """Move the high watermark to where the log allows it; whether it moved."""
        end = self.log.flushed_end if self.flushes else self.log.end_offset
        if end <= self.high_watermark:
            return False
        self.high_watermark = end
        return True

    def _checked(self, batch: Buffer) -> BatchHeader:
        """The header of a batch that may be stored as it is."""
        size, config = len(batch), self.log.config
        if size <= HEADER_SIZE or size > config.batch_bytes_max:
            limit = config.batch_bytes_max
            code = Code.TOO_LARGE if size > limit else Code.CORRUPT_BATCH
            raise refusal(code, f"batch for {self.name} has {size} bytes; the limit is {limit}")
        header = unpack_header(batch)
        try:
            self._verify(header, batch)
        except CorruptDataError as error:
            raise refusal(Code.CORRUPT_BATCH, f"batch for {self.name}: {error}") from None
        return header

    def _verify(self, header: BatchHeader, batch: Buffer) -> None:
        """Raise CorruptDataError unless the batch is whole, of this partition and a producer's."""
        check_fields(header)
        if header.attributes & (CONTROL | TRANSACTIONAL):
            raise CorruptDataError("control and transactional batches are the broker's own")
        if header.last_offset_delta + 1 != header.record_count:
            raise CorruptDataError(
                f"last offset delta {header.last_offset_delta} does not fit "
                f"{header.record_count} records"
            )
        if not body_is_valid(batch, 0, len(batch), header.body_crc, self.log.seed):
            raise CorruptDataError("body checksum is wrong for this topic id and partition")
        view = memoryview(batch)[HEADER_SIZE:]
        columns = ColumnReader(view, header.codec, header.record_count, header.inflated_size)
        columns.check_counts()
        if columns.has(Column.OFFSET_DELTAS):
            raise CorruptDataError("offset deltas (column 1) are for compaction alone")

    def _make_room(self, size: int, records: int) -> None:
        """Keep within the topic's capacity (DESIGN 5): refuse, or drop the oldest segments.

        Drops nothing unless that makes room enough.
        """
        log, config = self.log, self.log.config
        if not config.capacity_bytes and not config.capacity_records:
            return
        log.check_usable()
        held_bytes, held_records = log.size_bytes, log.record_count
        over = _over(config, held_bytes, held_records, size, records)
        if over is None:
            return
        if config.full == "refuse" or _over(config, 0, 0, size, records):
            raise refusal(
                Code.TOPIC_FULL,
                f"{self.name} is full: {over}; wait for retention or raise the limit",
            )
        for at, segment in enumerate(log.segments):
            held_bytes -= segment.size
            held_records -= segment.record_count
            if _over(config, held_bytes, held_records, size, records) is None:
                self._drop_through(at)
                return

    def _drop_through(self, at: int) -> None:
        """Drop the segments up to this one, or say why that has to wait."""
        log = self.log
        if at + 1 == len(log.segments):
            # All there is, the segment that is being written included: it must be ended first.
            try:
                log.roll()
            except StorageError as error:
                if not isinstance(error, DiskFullError):
                    log.fail(error)
                raise self._refusal(error) from None
        target = log.segments[at + 1].base_offset
        if target > min(self.high_watermark, log.flushed_base):
            raise refusal(Code.TOPIC_FULL, f"{self.name} is full of uncommitted records")
        log.drop_before(target)


def _over(
    config: TopicConfig, held_bytes: int, held_records: int, size: int, records: int
) -> str | None:
    """What is beyond the capacity once this much more is there."""
    if config.capacity_bytes and held_bytes + size > config.capacity_bytes:
        return f"{held_bytes} bytes, {size} more, and capacity_bytes is {config.capacity_bytes}"
    if config.capacity_records and held_records + records > config.capacity_records:
        return (
            f"{held_records} records, {records} more, and capacity_records is "
            f"{config.capacity_records}"
        )
    return None
