"""From what a crash left on disk to a log that may be opened (DESIGN 5 "Damage"; F10, D3-D5).

After a clean stop the checkpoint says so, and the sidecars are taken over. After any other, every
batch at or above the recovery point is read and checked. At the first one that is wrong:

- below the recovery point it is damage: it was flushed once;
- with a later valid batch that states a committed end beyond it, it is damage too: it was
  committed when that one was appended;
- otherwise it is a torn tail, never acknowledged, and is cut with all behind it.

Damage is never cut and never skipped. The log opens, serves what lies before it, and refuses the
rest. What cannot be told apart from a torn tail is damage to the very last group that was
written before the crash: nothing behind it says that it was committed.

What was found is written once more before it is flushed. A page whose write-back failed counts as
clean in the kernel, so flushing alone could succeed without the disk having it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from zmqmq.batch.decode import check_batch
from zmqmq.batch.layout import HEADER_SIZE, MAGIC, MAGIC_AT, BatchHeader, unpack_header
from zmqmq.core.storage.disk import Disk, File
from zmqmq.core.storage.log import Damage, Log, LogKey
from zmqmq.core.storage.options import StorageOptions
from zmqmq.core.storage.segment import (
    INDEX_SUFFIX,
    LOG_SUFFIX,
    STATE_SUFFIX,
    Segment,
    base_of,
)
from zmqmq.core.storage.states import states_in
from zmqmq.errors import CorruptDataError
from zmqmq.model.limits import BATCH_BYTES_MAX, INTEGER_MAX, MIB
from zmqmq.model.topics import TopicConfig

CHUNK: Final = 4 * MIB
"""Segments are read in pieces of this size; more than any batch."""

assert CHUNK > BATCH_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the checkpoint file says of one log."""

    recovery_point: int = 0
    """Everything below was flushed."""
    start_offset: int = 0
    clean: bool = False
    """The log ended at `recovery_point` and its sidecars were flushed."""
    high_watermark: int = 0
    """Everything below was committed, and flushed here (D3)."""


class BadBatch(Exception):  # noqa: N818 - not an error: how a scan ends
    """A batch that is not what should stand here."""

    def __init__(self, segment: Segment, position: int, reason: str) -> None:
        super().__init__(reason)
        self.segment = segment
        self.position = position
        self.reason = reason


def open_log(
    disk: Disk,
    key: LogKey,
    config: TopicConfig,
    options: StorageOptions,
    checkpoint: Checkpoint | None = None,
) -> Log:
    """Open a log, or make it. It is dirty afterwards: flush it before anything is served.

    Raises StorageError where the disk does not let us; damage is not an error but `log.damage`.
    """
    checkpoint = checkpoint or Checkpoint()
    log = _open(Log(disk, key, config, options), disk, checkpoint)
    log.checkpointed_high_watermark = min(checkpoint.high_watermark, log.end_offset)
    return log


def _open(log: Log, disk: Disk, checkpoint: Checkpoint) -> Log:
    key, options = log.key, log.options
    log.opened_at = checkpoint.recovery_point
    disk.make_directory(key.folder)
    bases = _tidy(disk, key.folder)
    segments = [Segment(disk, key.folder, base, options.index_interval_bytes) for base in bases]
    segments = _above_start(segments, checkpoint.start_offset, log)
    if not segments:
        _begin(log, disk, max(checkpoint.start_offset, checkpoint.recovery_point))
        if checkpoint.recovery_point > checkpoint.start_offset:
            path = log.segments[0].path
            log.start_offset = checkpoint.start_offset
            log.note_damage(Damage(checkpoint.start_offset, path, 0, "all segments are missing"))
        else:
            log.load_state(log.start_offset)
            _remove_stale(log, disk, checkpoint)
        return log
    first = segments[0].base_offset
    log.start_offset = max(checkpoint.start_offset, first)
    log.end_offset = first
    if first > checkpoint.start_offset and checkpoint.recovery_point > checkpoint.start_offset:
        # Retention writes the new start before it unlinks, so this file did not go by itself.
        reason = f"segments before offset {first} are missing"
        log.note_damage(Damage(checkpoint.start_offset, segments[0].path, 0, reason))
        log.start_offset = checkpoint.start_offset
    _load(log, disk, segments, checkpoint)
    return log


def _tidy(disk: Disk, folder: str) -> list[int]:
    """The bases of all segments; leftovers of unfinished work are removed."""
    bases = []
    for name in disk.list(folder):
        base = base_of(name, LOG_SUFFIX)
        if base is not None:
            bases.append(base)
        elif base_of(name, INDEX_SUFFIX) is None and base_of(name, STATE_SUFFIX) is None:
            disk.remove(f"{folder}/{name}")
    return bases


def _above_start(segments: list[Segment], start: int, log: Log) -> list[Segment]:
    """Those that reach beyond the log's start; the others were on their way out."""
    while len(segments) > 1 and segments[1].base_offset <= start:
        log.doomed.append(segments.pop(0))
    return segments


def _begin(log: Log, disk: Disk, offset: int) -> None:
    log.start_offset = log.end_offset = log.flushed_end = offset
    log.segments = [Segment(disk, log.key.folder, offset, log.options.index_interval_bytes)]
    log.segments[0].create()
    log.mark_unsynced(log.segments[0])
    log.mark_folder_unsynced(new=True)


def _load(log: Log, disk: Disk, segments: list[Segment], checkpoint: Checkpoint) -> None:
    trusted = _restore_state(log, disk, segments, checkpoint)
    bad: BadBatch | None = None
    for number, segment in enumerate(segments):
        if segment.base_offset < log.end_offset:
            # What a compaction that merged segments left over: the one before covers it.
            log.doomed.append(segment)
            continue
        if segment.base_offset > log.end_offset:
            active = log.segments[-1]
            bad = BadBatch(active, active.size, "the next batch is missing")
            break
        try:
            last = number == len(segments) - 1
            _load_segment(log, segment, checkpoint, trusted, last=last)
        except BadBatch as found:
            bad = found
            break
        log.segments.append(segment)
    log.flushed_end = min(checkpoint.recovery_point, log.end_offset)
    if bad is None and log.end_offset < checkpoint.recovery_point:
        active = log.segments[-1]
        bad = BadBatch(active, active.size, "the log ends before its recovery point")
    if bad is not None:
        _judge(log, segments, bad, checkpoint)
    if log.damage is None:
        _rewrite_tail(log, checkpoint)
        _remove_stale(log, disk, checkpoint)
        # What retention and compaction take away stands in states alone, so one is flushed before
        # anything can be taken away: the one that was loaded may never have been.
        log.save_state()
    log.mark_unsynced(log.segments[-1])
    # Names too: the last process may have been killed before it flushed those that it made.
    log.mark_folder_unsynced(new=True)


def _restore_state(log: Log, disk: Disk, segments: list[Segment], checkpoint: Checkpoint) -> int:
    """Load the newest state at or below the recovery point; from where to replay the log.

    States above it may be of a tail that is gone, but for the one where the log begins. What
    follows those below the first segment can no longer be replayed.
    """
    first = segments[0].base_offset
    for offset in reversed(states_in(disk, log.key.folder)):
        if first <= offset <= max(checkpoint.recovery_point, first) and log.load_state(offset):
            return offset
    return 0


def _load_segment(
    log: Log, segment: Segment, checkpoint: Checkpoint, trusted: int, *, last: bool
) -> None:
    """Take in one segment, from its sidecar where nothing of it needs to be read."""
    if segment.load_index():
        flushed = segment.end_offset <= checkpoint.recovery_point
        known = segment.end_offset <= trusted and (not last or checkpoint.clean)
        if flushed and known:
            log.end_offset = segment.end_offset
            log.last_append_ms = max(log.last_append_ms, segment.last_append_ms)
            return
        segment.reset()
    scan(log, segment, trusted)


def scan(log: Log, segment: Segment, trusted: int, end: int = INTEGER_MAX) -> None:
    """Read a segment from its start and take in every batch that ends at `end` or before.

    What lies below `trusted` is known of producers and epochs. Raises BadBatch.
    """
    file = segment.file
    position, size = 0, file.size
    start, view = 0, memoryview(b"")
    while position < size and log.end_offset < end:
        if position + HEADER_SIZE > start + len(view) or _reaches_beyond(view, position - start):
            start, view = position, memoryview(file.read(position, CHUNK))
            if len(view) < HEADER_SIZE:
                break
        try:
            header = check_batch(view, position - start, log.seed)
        except CorruptDataError as error:
            if _is_zero_from(file, position):
                break
            raise BadBatch(segment, position, str(error)) from None
        if header.base_offset != log.end_offset:
            wrong = f"offset {header.base_offset} stands where {log.end_offset} belongs"
            raise BadBatch(segment, position, wrong)
        if header.next_offset > end:
            break
        remember = header.base_offset >= trusted
        if remember and header.leader_epoch < log.epochs.latest:
            wrong = f"leader epoch {header.leader_epoch} stands behind {log.epochs.latest}"
            raise BadBatch(segment, position, wrong)
        log.replay(segment, position, header, remember=remember)
        position += header.size


def _is_zero_from(file: File, position: int) -> bool:
    """Whether nothing but preallocated room is left."""
    while chunk := file.read(position, CHUNK):
        if chunk.strip(b"\0"):
            return False
        position += len(chunk)
    return True


def _reaches_beyond(view: memoryview, position: int) -> bool:
    """Whether a batch that claims a possible size ends behind what was read."""
    size = unpack_header(view, position).size
    return size <= BATCH_BYTES_MAX and position + size > len(view) and position > 0


def _judge(log: Log, segments: list[Segment], bad: BadBatch, checkpoint: Checkpoint) -> None:
    """Torn tail or damage? Cut the one, remember the other."""
    offset = log.end_offset
    if bad.segment not in log.segments:
        log.segments.append(bad.segment)
    damage = Damage(offset, bad.segment.path, bad.position, bad.reason)
    if offset < checkpoint.recovery_point:
        log.note_damage(damage)
        return
    later = segments[segments.index(bad.segment) :]
    witness = _witness(log, later, bad.position, offset)
    if witness is not None:
        reason = f"{bad.reason}; the batch at {witness.base_offset} says it was committed"
        log.note_damage(Damage(offset, bad.segment.path, bad.position, reason))
        return
    bad.segment.file.truncate(bad.position)
    bad.segment.allocated = bad.position
    log.mark_unsynced(bad.segment)
    for segment in later[1:]:
        segment.remove()
    log.mark_folder_unsynced()


def _witness(log: Log, segments: list[Segment], position: int, offset: int) -> BatchHeader | None:
    """A valid batch behind the bad one that says the bad one was committed."""
    for segment in segments:
        file = segment.file
        size = file.size
        while position < size:
            view = memoryview(file.read(position, CHUNK + BATCH_BYTES_MAX))
            data = view.tobytes()
            at = data.find(MAGIC)
            while 0 <= at < CHUNK:
                header = _valid_at(view, at - MAGIC_AT, log.seed)
                if header and header.base_offset > offset and header.committed_end > offset:
                    return header
                at = data.find(MAGIC, at + 1)
            position += CHUNK - MAGIC_AT - len(MAGIC)
        position = 0
    return None


def _valid_at(view: memoryview, position: int, seed: int) -> BatchHeader | None:
    if position < 0:
        return None
    try:
        return check_batch(view, position, seed)
    except CorruptDataError:
        return None


def _rewrite_tail(log: Log, checkpoint: Checkpoint) -> None:
    """Write what stands above the recovery point once more (see the module)."""
    for segment in log.segments:
        if segment.end_offset <= checkpoint.recovery_point and not segment.is_empty:
            continue
        position = segment.place_before(checkpoint.recovery_point)[1]
        while position < segment.size:
            data = segment.file.read(position, min(CHUNK, segment.size - position))
            segment.file.write(position, [data])
            position += len(data)
        # The size as well, which the failed flush was to make durable and this one would not.
        size = segment.file.size
        segment.file.truncate(size + 1)
        segment.file.truncate(size)
        log.mark_unsynced(segment)


def _remove_stale(log: Log, disk: Disk, checkpoint: Checkpoint) -> None:
    """Sidecars that do not belong to what was found must not be taken for it next time.

    States above the recovery point go even if they do: perhaps they were never flushed. The one
    where the log begins stays, for nothing else says what was before.
    """
    folder = log.key.folder
    trusted = max(checkpoint.recovery_point, log.segments[0].base_offset)
    kept = {segment.base_offset for segment in log.segments[:-1]}
    for name in disk.list(folder):
        index, state = base_of(name, INDEX_SUFFIX), base_of(name, STATE_SUFFIX)
        if (index is not None and index not in kept) or (state is not None and state > trusted):
            disk.remove(f"{folder}/{name}")
            log.mark_folder_unsynced()
