"""What the copies of a partition hold, as read from their files behind the brokers' backs.

A Shadow is one copy: its batches by header, kept in step with the log. The Lineage is what all
copies have in common: a batch is named by its leader epoch and offset, and has one content and one
predecessor wherever it stands (I2). So two logs that have one batch in common are equal up to it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, NoReturn

from zmqmq.batch.layout import HEADER_SIZE, MAGIC, unpack_header, verify
from zmqmq.core.storage.log import Log
from zmqmq.core.storage.segment import Segment
from zmqmq.sim.cached_file import CachedFile
from zmqmq.sim.disk import SimDisk

Fail = Callable[[str, str], NoReturn]
"""Raises InvariantError of a rule, with what is wrong."""


class Batch(NamedTuple):
    """What the header of a stored batch says."""

    base: int
    next: int
    epoch: int
    crc: int
    """Of the header, that of the body included: equal batches are equal byte for byte."""
    size: int
    producer: tuple[int, int, int] | None
    """Id, epoch and first sequence number, if the producer is idempotent."""

    def __str__(self) -> str:
        return f"{self.base}-{self.next - 1} of epoch {self.epoch} (crc {self.crc:08x})"


class Unreadable(Exception):  # noqa: N818 - the disk is what is wrong
    """A header is not what was written."""


class Tail:
    """Where reading a log has ended, so that it need not be looked for again."""

    __slots__ = ("file", "offset", "position", "segment")

    def __init__(self) -> None:
        self.segment: Segment | None = None
        self.file: CachedFile | None = None
        self.offset = self.position = 0


def stored(
    disk: SimDisk,
    log: Log,
    start: int,
    end: int,
    *,
    tail: Tail | None = None,
    former: Shadow | None = None,
) -> Iterator[tuple[Batch, memoryview]]:
    """The batches of a log between two offsets as they stand in its files.

    `former` is what was there once: it says what a header was that has rotted, as long as the
    broker has not seen that either. Raises Unreadable.
    """
    while start < end:
        if tail is not None and tail.segment is log.segments[-1] and tail.offset == start:
            segment, file, offset, position = tail.segment, tail.file, start, tail.position
        else:
            segment = log.segment_of(start)
            file = disk.peek(segment.path)
            offset, position = segment.place_before(start)
        view = memoryview(b"" if file is None else file.data)
        if position >= segment.size:
            raise Unreadable(f"{segment.path} has nothing from offset {start} on")
        wanted = start
        while start < end and position < segment.size:
            batch = _batch_at(view, position, offset)
            if disk.is_rotten and (batch is None or not _is_whole(view, position, batch, log.seed)):
                batch = None if former is None else former.beginning(offset)
            if batch is None:
                raise Unreadable(f"{segment.path} byte {position}: not the batch at {offset}")
            offset = batch.next
            if offset > start:
                start = offset
                yield batch, view[position : position + batch.size]
            position += batch.size
        if start == wanted:  # what was there once does not lead through what compaction wrote
            raise Unreadable(f"{segment.path} byte {position}: nothing leads to offset {start}")
        if tail is not None:
            tail.segment, tail.file = segment, file
            tail.offset, tail.position = offset, position


def _batch_at(view: memoryview, position: int, offset: int) -> Batch | None:
    """The batch there, if it is that of the offset."""
    if position + HEADER_SIZE > len(view):
        return None
    header = unpack_header(view, position)
    if header.base_offset != offset or header.magic != MAGIC:
        return None
    producer = None
    if header.producer_id:
        producer = (header.producer_id, header.producer_epoch, header.base_sequence)
    return Batch(
        offset, header.next_offset, header.leader_epoch, header.head_crc, header.size, producer
    )


def _is_whole(view: memoryview, position: int, batch: Batch, seed: int) -> bool:
    """Whether both checksums hold, so that no field of the header has rotted."""
    return position + batch.size <= len(view) and verify(view, position, seed)[0] == batch.base


class Shadow:
    """The batches of one copy, from its start to its end."""

    __slots__ = ("_nexts", "batches", "end", "start")

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self.batches: list[Batch] = []
        self._nexts: list[int] = []

    def add(self, batch: Batch) -> None:
        """The next one."""
        self.batches.append(batch)
        self._nexts.append(batch.next)
        self.end = batch.next

    def cut(self, to: int) -> None:
        """Forget what ends behind `to`."""
        keep = bisect_right(self._nexts, to)
        del self.batches[keep:], self._nexts[keep:]
        self.end = self._nexts[-1] if self._nexts else self.start

    def drop(self, start: int) -> None:
        """Forget what ends at `start` or before."""
        gone = bisect_right(self._nexts, start)
        del self.batches[:gone], self._nexts[:gone]
        self.start = start

    @property
    def last(self) -> Batch | None:
        """The last batch."""
        return self.batches[-1] if self.batches else None

    def ending(self, offset: int) -> Batch | None:
        """The batch that ends there, if one does."""
        at = bisect_left(self._nexts, offset)
        found = at < len(self._nexts) and self._nexts[at] == offset
        return self.batches[at] if found else None

    def beginning(self, offset: int) -> Batch | None:
        """The batch that begins there, if one does."""
        at = bisect_right(self._nexts, offset)
        found = at < len(self._nexts) and self.batches[at].base == offset
        return self.batches[at] if found else None

    def between(self, start: int, end: int) -> Sequence[Batch]:
        """Those that lie there."""
        return self.batches[bisect_right(self._nexts, start) : bisect_right(self._nexts, end)]

    def common_end(self, other: Shadow) -> int:
        """How far two copies are the same, if they have anything of the same offsets."""
        for batch in reversed(self.batches):
            its = other.ending(batch.next)
            if its is not None and its.epoch == batch.epoch:  # so all before are the same (I2)
                return batch.next
        return max(self.start, other.start)

    def epochs(self) -> list[list[int]]:
        """Where leader epochs begin, but for the first one here: that may have begun before."""
        found = []
        for before, batch in zip(self.batches, self.batches[1:], strict=False):
            if batch.epoch != before.epoch:
                found.append([batch.epoch, batch.base])
        return found


class Lineage:
    """Every batch that any copy of a partition ever had."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[Batch, tuple[int, int] | None, str]] = {}

    def note(self, batch: Batch, before: Batch | None, who: str, fail: Fail) -> None:
        """`who` has a batch behind another one; None: nobody knows behind what."""
        name = (batch.epoch, batch.base)
        previous = None if before is None else (before.epoch, before.base)
        known = self._known.get(name)
        if known is None:
            self._known[name] = (batch, previous, who)
            return
        if known[0] != batch:
            fail("I2", f"{who} has batch {batch}, and {known[2]} had {known[0]}")
        if known[1] is None:
            self._known[name] = (batch, previous, who)
        elif previous is not None and previous != known[1]:
            fail(
                "I2",
                f"batch {batch} follows (epoch, offset) {previous} on {who}, and followed "
                f"{known[1]} on {known[2]}",
            )
