"""Reading a log: from an offset to whole batches whose checksums hold (L15, L17).

A read has two halves, so that a broker need not wait for the disk between them: `place` says
which bytes are wanted, `take` cuts the batches out of them. Every batch is checked on its way
out. One that fails marks the log damaged from its offset on, and nothing behind it is served.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from zmqmq.batch.layout import HEADER_SIZE, SIZE_AT, head_is_valid, unpack_header, verify
from zmqmq.core.storage.disk import Buffer, File
from zmqmq.core.storage.log import Damage, Log
from zmqmq.core.storage.segment import Segment
from zmqmq.errors import Code, CorruptDataError, refusal
from zmqmq.model.limits import BATCH_BYTES_MAX

_HINTS_MAX: Final = 64


class Place(NamedTuple):
    """Bytes to read: they hold the wanted offset, or begin a little before it."""

    file: File
    position: int
    size: int
    segment: Segment
    base_offset: int
    """The offset of the batch at `position`."""


class Taken(NamedTuple):
    """Whole batches, none if `data` is empty."""

    data: Buffer
    next_offset: int
    """Behind the last of them."""


def place(log: Log, offset: int, max_bytes: int) -> Place:
    """Where to read for the batch that holds `offset` and about `max_bytes` from there on.

    Never beyond one segment. Raises the refusals OFFSET_OUT_OF_RANGE, STORAGE_DAMAGED and
    STORAGE_OFFLINE.
    """
    check_offset(log, offset)
    hint = log.hints.pop(offset, None)
    if hint is not None and hint[1] < hint[0].size:
        segment, position = hint
        base_offset, slack = offset, 0
    else:
        segment = log.segment_of(offset)
        base_offset, position = segment.place_before(offset)
        slack = log.options.index_interval_bytes if base_offset < offset else 0
    size = min(max(max_bytes, HEADER_SIZE) + slack, segment.size - position)
    return Place(segment.file, position, size, segment, base_offset)


def check_offset(log: Log, offset: int) -> None:
    """Raise the refusal of an offset that is not stored, or that cannot be served."""
    if log.failed or (log.damage and offset >= log.damage.offset):
        log.check_usable()
    if not log.start_offset <= offset <= log.end_offset:
        raise refusal(
            Code.OFFSET_OUT_OF_RANGE,
            f"offset {offset} is not stored; this partition has {log.start_offset} to "
            f"{log.end_offset}",
            {"log_start": log.start_offset, "end": log.end_offset},
        )


def take(
    log: Log, where: Place, data: Buffer, offset: int, end: int, max_bytes: int
) -> Taken | int:
    """The whole batches in what was read, from the one that holds `offset` up to `end`.

    An int means that the first batch is larger than what was read: read that many bytes from the
    same place. Raises CorruptDataError, and marks the log, at a batch that is not what was
    written.
    """
    view = memoryview(data)
    size = len(view)
    position, first, expected = 0, -1, where.base_offset
    while position + HEADER_SIZE <= size and expected < end:
        _, batch_size = SIZE_AT.unpack_from(view, position)
        if position + batch_size > size:
            if first >= 0:
                break
            return _whole_batch(log, where, position, batch_size, expected)
        try:
            next_offset = _checked(log, where, view, position, expected)
        except CorruptDataError:
            if first >= 0:
                break  # what lies before it is whole; whoever asks for more is refused
            raise
        if next_offset > end:
            break
        if next_offset > offset:
            if first < 0:
                first = position
            elif position + batch_size - first > max_bytes:
                break
        position += batch_size
        expected = next_offset
    if first < 0:
        rest = where.segment.size - where.position - size
        # A header that straddles the end of what was read: it takes a longer read to tell.
        if rest and expected < end:
            return size + min(rest, HEADER_SIZE)
        return Taken(b"", offset)
    # A compaction may have put another segment in the place of the one that was read.
    if log.segment_of(expected) is where.segment:
        log.hints[expected] = (where.segment, where.position + position)
        if len(log.hints) > _HINTS_MAX:
            log.hints.popitem(last=False)
    if first == 0 and position == size:
        return Taken(data, expected)
    part = view[first:position]
    # A short piece of a long read is copied, or it would keep all of it in memory until sent.
    return Taken(part if len(part) * 2 > size else part.tobytes(), expected)


def read_in_memory(log: Log, offset: int, max_bytes: int, end: int) -> Taken | Place:
    """The same as `read`, if it need not wait for the disk; else where to read.

    Raises what `place` and `take` raise, and StorageError.
    """
    where = place(log, offset, max_bytes)
    while True:
        data = where.file.read_cached(where.position, where.size)
        if data is None:
            return where
        taken = take(log, where, data, offset, end, max_bytes)
        if not isinstance(taken, int):
            return taken
        where = where._replace(size=taken)


def read(log: Log, offset: int, max_bytes: int, end: int) -> Buffer:
    """Whole batches from the one that holds `offset` up to `end`, waiting for the disk."""
    where = place(log, offset, max_bytes)
    while True:
        data = where.file.read(where.position, where.size)
        taken = take(log, where, data, offset, end, max_bytes)
        if not isinstance(taken, int):
            return taken.data
        where = where._replace(size=taken)


def find_time(log: Log, append_ms: int, end: int) -> tuple[int, int] | None:
    """The first batch below `end` appended at `append_ms` or later: its offset and time.

    Waits for the disk. Raises CorruptDataError, and marks the log, as `take` does.
    """
    for segment in log.segments:
        if segment.last_append_ms < append_ms or not segment.record_count:
            continue
        offset, position = segment.place_before_time(append_ms)
        while position + HEADER_SIZE <= segment.size:
            data = segment.file.read(position, HEADER_SIZE)
            header = unpack_header(data)
            if not head_is_valid(data, 0, header.head_crc):
                where = Place(segment.file, position, HEADER_SIZE, segment, offset)
                raise _damaged(log, where, 0, offset, "a checksum is wrong")
            if header.base_offset >= end:
                return None
            if header.append_time_ms >= append_ms:
                return max(header.base_offset, log.start_offset), header.append_time_ms
            offset, position = header.next_offset, position + header.size
    if log.damage:
        log.check_usable()  # what is wanted may lie behind it
    return None


def bytes_between(log: Log, offset: int, end: int) -> int:
    """About how many bytes lie between two offsets."""
    total = 0
    for segment in log.segments:
        if segment.end_offset <= offset or segment.base_offset >= end:
            continue
        hint = log.hints.get(offset)
        if hint is not None and hint[0] is segment:
            low = hint[1]
        else:
            low = segment.place_before(offset)[1]
        high = segment.size if end >= segment.end_offset else segment.place_before(end)[1]
        total += max(high - low, 0)
    return total


def _whole_batch(log: Log, where: Place, position: int, batch_size: int, expected: int) -> int:
    """How much to read so that the first batch is whole; more than a batch can have is damage."""
    needed = position + batch_size
    if batch_size > BATCH_BYTES_MAX or where.position + needed > where.segment.size:
        raise _damaged(log, where, position, expected, f"batch says it has {batch_size} bytes")
    return needed


def _checked(log: Log, where: Place, view: memoryview, position: int, expected: int) -> int:
    """The offset behind the batch at `position`, which must be the one expected there."""
    base_offset, next_offset = verify(view, position, log.seed)
    if base_offset == expected:
        return next_offset
    if base_offset < 0:
        raise _damaged(log, where, position, expected, "a checksum is wrong")
    found = f"offset {base_offset} stands where {expected} belongs"
    raise _damaged(log, where, position, expected, found)


def _damaged(log: Log, where: Place, position: int, offset: int, why: str) -> CorruptDataError:
    damage = Damage(offset, where.segment.path, where.position + position, why)
    # Not of a segment that was cut or replaced while it was read.
    if where.segment in log.segments:
        log.note_damage(damage)
    return CorruptDataError(f"{log.key.folder} is damaged at {damage}")
