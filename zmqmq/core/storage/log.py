"""One partition's log on one disk: append, write out, flush, read, roll, drop.

Reading is in reading.py, opening in recovery.py. The log assigns nothing and waits for nothing:
whoever owns it (core/replication/partition.py) stamps offsets and decides when a record counts as
committed; the log keeps the bytes in order and says how far they are written and how far flushed.

    start_offset <= flushed_end <= end_offset

An append is buffered until `write_out`, so that all batches that arrived together go down in one
write. Room for them is taken on the disk first: a full disk refuses the append while nothing has
changed, and `write_out` fails only when the disk does. After such a failure, or a failed flush,
the log is `failed`: it serves nothing and takes nothing until it is opened anew, because nobody
knows which of the bytes behind `flushed_end` are really there (disk.py, 3).

A log with `damage` has bytes that are wrong below what was once committed (L17). It serves what
lies before them and refuses what lies behind, and appends, until it is repaired.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from zmqmq.batch.layout import BatchHeader, log_seed
from zmqmq.core.storage.counts import Counters
from zmqmq.core.storage.disk import Buffer, Disk, File
from zmqmq.core.storage.epochs import EpochIndex
from zmqmq.core.storage.options import StorageOptions
from zmqmq.core.storage.producers import ProducerTable, Written
from zmqmq.core.storage.replicated import Last, check_next
from zmqmq.core.storage.segment import FIRST_ALLOCATION, Segment
from zmqmq.core.storage.states import State, read_state, remove_old_states, write_state
from zmqmq.errors import Code, DiskFullError, StorageError, refusal
from zmqmq.model.topics import TopicConfig

LOGS_FOLDER: Final = "logs"
OPEN_SEGMENTS_MAX: Final = 4


class LogKey(NamedTuple):
    """Which log: number 0 is the data of a partition, others are its companions (DESIGN 5)."""

    topic_id: bytes
    partition: int
    number: int = 0

    @property
    def folder(self) -> str:
        """Where it lives, relative to the data directory."""
        return f"{LOGS_FOLDER}/{self.topic_id.hex()}.{self.partition}.{self.number}"

    @property
    def seed(self) -> int:
        """What the body CRC of every batch starts from."""
        return log_seed(self.topic_id, self.partition)


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are wrong although they were once committed."""

    offset: int
    segment: str
    position: int
    reason: str

    def __str__(self) -> str:
        return f"offset {self.offset} ({self.segment} byte {self.position}): {self.reason}"


@dataclass(frozen=True, slots=True)
class Flush:
    """What must be synced for everything below `end` to be durable."""

    end: int
    files: tuple[File, ...]
    base: int
    """Of the last segment."""
    folders: tuple[str, ...]
    """Whose names must be durable too, since files were begun or removed."""


class Log:
    """See the module. Built by `recovery.open_log`, never by hand."""

    def __init__(
        self, disk: Disk, key: LogKey, config: TopicConfig, options: StorageOptions
    ) -> None:
        self.key = key
        self.name = key.folder
        """For messages to people."""
        self.config = config
        self.segments: list[Segment] = []
        self.producers = ProducerTable(options.producers_max, options.producer_expiry_ms)
        self.epochs = EpochIndex()
        self.start_offset = 0
        self.end_offset = 0
        self.flushed_end = 0
        self.flushed_base = 0
        """The base of the newest segment that a flush has covered, its state included."""
        self.opened_at = 0
        """The recovery point that the checkpoint file said when this was opened."""
        self.checkpointed = 0
        """The one that it says now; 0 until the first checkpoint since."""
        self.checkpointed_high_watermark = 0
        """What the checkpoint file says was committed, as far as it is there (D3)."""
        self.last_append_ms = 0
        self.damage: Damage | None = None
        self.failed: str | None = None
        self.doomed: list[Segment] = []
        """Segments to unlink: those below `start_offset`, once that is in the checkpoint, and
        those that a compaction has joined to others."""
        self.options = options
        self.seed = key.seed
        self.counters = Counters()
        self.disk = disk
        self._pending: list[Buffer] = []
        self._pending_at = 0
        self._pending_offset = 0
        self._unsynced: dict[Segment, None] = {}
        self._unsynced_states: list[File] = []
        self._unsynced_folders: dict[str, None] = {}
        self._newest_state: int | None = None
        """A state was saved here since old ones were last removed."""
        self.hints: OrderedDict[int, tuple[Segment, int]] = OrderedDict()
        """Where readers that follow the log will go on: offset to place."""
        self.rewinds = 0
        """How often its end was cut. What was read before may not be what stands there now."""

    def __repr__(self) -> str:
        return f"<Log {self.key.folder} {self.start_offset} to {self.end_offset}>"

    @property
    def written_end(self) -> int:
        """Everything below has been handed to the disk: what followers may be sent."""
        return self._pending_offset if self._pending else self.end_offset

    @property
    def size_bytes(self) -> int:
        """Bytes of all batches that can be read."""
        return sum(segment.size for segment in self.segments)

    @property
    def record_count(self) -> int:
        """Records that can be read."""
        return sum(segment.record_count for segment in self.segments)

    @property
    def segment_bytes(self) -> int:
        """Where a segment ends; small enough that dropping the oldest frees an eighth."""
        capacity = self.config.capacity_bytes
        return min(self.config.segment_bytes, max(capacity // 8, 4096) if capacity else 1 << 40)

    @property
    def segment_records(self) -> int:
        """The same in records."""
        capacity = self.config.capacity_records
        return max(capacity // 8, 1) if capacity else 1 << 62

    # Appending

    def append(self, header: BatchHeader, buffers: Sequence[Buffer]) -> None:
        """Buffer a stamped batch behind the last one.

        `header` is that of the stamped batch. Raises DiskFullError or a refusal with nothing
        changed, StorageError with the log failed.
        """
        self.check_usable()
        assert header.base_offset == self.end_offset
        assert header.append_time_ms >= self.last_append_ms
        try:
            active = self._room_for(header.size)
        except DiskFullError:
            raise
        except StorageError as error:
            self.fail(error)
            raise
        if not self._pending:
            self._pending_at, self._pending_offset = active.size, self.end_offset
        self._pending.extend(buffers)
        self.counters.took(header.size)
        self._take(active, active.size, header)

    def append_replicated(self, data: Buffer) -> int:
        """Buffer whole batches as a leader sent them (F8); the new end of the log.

        Raises CorruptDataError at one that cannot come next, and what `append` raises. What stands
        before it in `data` was taken then, and nothing of it or behind it.
        """
        view = memoryview(data)
        position = 0
        while position < len(view):
            last = Last(self.end_offset, self.epochs.latest, self.last_append_ms)
            header = check_next(view, position, self.seed, last)
            self.append(header, (view[position : position + header.size],))
            position += header.size
        return self.end_offset

    def _room_for(self, size: int) -> Segment:
        """The segment that the next batch goes to, with room for it."""
        active = self.segments[-1]
        if active.size and (
            active.size + size > self.segment_bytes or active.record_count >= self.segment_records
        ):
            active = self.roll()
        if active.size + size > active.allocated:
            self._allocate(active, active.size + size)
        return active

    def write_out(self) -> None:
        """Hand what is buffered to the disk in one write. Raises StorageError: `failed` then.

        Raises it of a log that has failed already, too: what was buffered then is lost, and
        whoever waits for it must not take silence for success.
        """
        if self.failed:
            raise StorageError(self.failed)
        if not self._pending:
            return
        active = self.segments[-1]
        pending, self._pending = self._pending, []
        try:
            active.file.write(self._pending_at, pending)
        except StorageError as error:
            self.fail(error)
            raise
        self._unsynced[active] = None

    def roll(self, *, reserve: bool = True) -> Segment:
        """Begin a new segment. Raises DiskFullError with nothing changed but what was buffered.

        Without `reserve` no room is taken for it, so that retention can end a segment, and then
        drop it, although the disk has no room to spare.
        """
        self.write_out()
        old = self.segments[-1]
        new = Segment(
            self.disk, self.key.folder, self.end_offset, self.options.index_interval_bytes
        )
        try:
            new.create()
            if reserve:
                self._allocate(new, min(FIRST_ALLOCATION, self.segment_bytes))
            self.save_state()
            old.file.truncate(old.size)
            old.allocated = old.size
            old.save_index()
        except StorageError:
            # An empty segment file without a segment: recovery would take it for the active one.
            new.remove()
            raise
        self.segments.append(new)
        self._unsynced[old] = None
        self._unsynced[new] = None
        self.mark_folder_unsynced()
        self._close_idle_segments()
        return new

    def replay(
        self, segment: Segment, position: int, header: BatchHeader, *, remember: bool
    ) -> None:
        """Take in a batch that already stands on the disk; for recovery.

        Without `remember` the restored state has seen it.
        """
        if remember:
            self._take(segment, position, header)
        else:
            self._place(segment, position, header)

    def _take(self, segment: Segment, position: int, header: BatchHeader) -> None:
        self._place(segment, position, header)
        self.epochs.note(header.leader_epoch, header.base_offset)
        if header.producer_id:
            written = Written.of(header)
            self.producers.note(header.producer_id, header.producer_epoch, written)

    def _place(self, segment: Segment, position: int, header: BatchHeader) -> None:
        self.end_offset = header.next_offset
        self.last_append_ms = header.append_time_ms
        segment.note(
            position,
            self.end_offset,
            header.size,
            header.append_time_ms,
            header.record_count,
        )

    def _allocate(self, segment: Segment, needed: int) -> None:
        free = self.disk.free_bytes()
        if free < self.options.free_bytes_min + needed - segment.allocated:
            raise DiskFullError(
                f"the disk has {free} bytes left and storage.free_bytes_min is "
                f"{self.options.free_bytes_min}: make room, or lower retention"
            )
        grown = min(segment.size * 2, segment.size + self.options.allocate_bytes)
        size = max(needed, min(max(grown, FIRST_ALLOCATION), self.segment_bytes))
        segment.file.allocate(size)
        segment.allocated = size

    # Flushing

    @property
    def is_dirty(self) -> bool:
        """Whether something was written since the last flush began."""
        return bool(self._unsynced or self._unsynced_folders)

    def begin_flush(self) -> Flush:
        """What to sync now. Nothing may be buffered."""
        assert not self._pending
        files = [segment.file for segment in self._unsynced]
        files += self._unsynced_states
        base = self.segments[-1].base_offset
        flush = Flush(self.end_offset, tuple(files), base, tuple(self._unsynced_folders))
        self._unsynced.clear()
        self._unsynced_states.clear()
        self._unsynced_folders.clear()
        return flush

    def mark_unsynced(self, segment: Segment) -> None:
        """Include this segment in the next flush; for recovery."""
        self._unsynced[segment] = None

    def mark_folder_unsynced(self, *, new: bool = False) -> None:
        """Include the folder in the next flush, and with `new` the one that it is in."""
        self._unsynced_folders[self.key.folder] = None
        if new:
            self._unsynced_folders[LOGS_FOLDER] = None

    def end_flush(self, flush: Flush) -> None:
        """All of it is durable."""
        assert flush.end <= self.end_offset
        self.flushed_end = max(self.flushed_end, flush.end)
        self.flushed_base = max(self.flushed_base, flush.base)

    @property
    def recovery_point(self) -> int:
        """What the next checkpoint says. It never falls: of a damaged log that opens with less than
        it had, the next start would take the damage for a torn tail, and cut it."""
        return max(self.flushed_end, self.opened_at)

    def note_checkpoint(self, recovery_point: int, high_watermark: int) -> None:
        """A checkpoint that says this is durable."""
        self.checkpointed = max(self.checkpointed, recovery_point)
        self.checkpointed_high_watermark = high_watermark
        # Neither a crash nor a truncation takes anything below.
        stays = min(self.checkpointed, high_watermark)
        if self._newest_state is None or stays < self._newest_state:
            return
        self._newest_state = None
        with contextlib.suppress(StorageError):  # those that stay do no harm
            bases = {segment.base_offset for segment in self.segments}
            remove_old_states(self.disk, self.key.folder, stays, bases)

    def fail(self, error: Exception) -> None:
        """The disk failed us; nothing behind `flushed_end` can be trusted from now on."""
        self.failed = str(error)
        self._pending.clear()

    def segment_of(self, offset: int) -> Segment:
        """The segment that holds an offset; the last one for the end of the log."""
        at = bisect_right(self.segments, offset, key=lambda segment: segment.base_offset)
        return self.segments[max(at - 1, 0)]

    def note_damage(self, damage: Damage) -> None:
        """Remember the first damage; from its offset on nothing is served any more."""
        if self.damage is None or damage.offset < self.damage.offset:
            self.damage = damage

    def check_usable(self) -> None:
        """Raise the refusal of a log that has failed or is damaged."""
        if self.failed:
            raise refusal(
                Code.STORAGE_OFFLINE,
                f"{self.key.folder} is offline since its disk failed ({self.failed}); "
                "mend the disk and start the broker again",
            )
        if self.damage:
            raise refusal(
                Code.STORAGE_DAMAGED,
                f"{self.key.folder} is damaged at {self.damage}; see `zmqmq inspect repair`",
            )

    # Making room

    def drop_before(self, offset: int) -> None:
        """Move the start to a segment's base; the files go when the checkpoint says so too (L16).

        `offset` must be the base of a segment, and at most `flushed_base`: its state says what
        the dropped ones said of producers, so it must be there when they are not.
        """
        assert self.start_offset <= offset <= self.flushed_base
        while self.segments[0].base_offset < offset:
            segment = self.segments.pop(0)
            self._unsynced.pop(segment, None)
            self.doomed.append(segment)
        assert self.segments[0].base_offset == offset
        self.start_offset = offset
        self.hints.clear()

    def release_doomed(self, count: int) -> list[Segment]:
        """Give up the first `count` segments that are no longer needed; `unlink` removes them.

        `count` is how many there were before the checkpoint was begun: one that was doomed while
        it was written still stands in it.
        """
        doomed, self.doomed = self.doomed[:count], self.doomed[count:]
        return doomed

    def replace_segments(self, new: Segment, old: list[Segment]) -> None:
        """A compacted segment that is on the disk under the first one's name takes their place."""
        at = self.segments.index(old[0])
        assert self.segments[at : at + len(old)] == old
        assert new.base_offset == old[0].base_offset
        assert new.end_offset == old[-1].end_offset
        self.segments[at : at + len(old)] = [new]
        self.hints.clear()
        for segment in old:
            self._unsynced.pop(segment, None)
        self.doomed.extend(old[1:])
        self.mark_folder_unsynced()

    def close(self) -> None:
        """Leave sidecars from which the next start need not scan. Nothing is flushed here."""
        if self.failed:
            return
        self.write_out()
        active = self.segments[-1]
        active.file.truncate(active.size)
        active.allocated = active.size
        self._unsynced[active] = None
        active.save_index()
        self.save_state()

    # The state beside the data

    def save_state(self) -> None:
        """Snapshot what replaying the log up to here would give."""
        self.producers.expire(self.last_append_ms)
        state = State(
            self.end_offset, self.last_append_ms, self.producers.snapshot(), self.epochs.snapshot()
        )
        # Flushed with the data, since a start trusts states at or below the recovery point: an
        # older content under this name must not come back.
        self._unsynced_states.append(write_state(self.disk, self.key.folder, state))
        self._newest_state = self.end_offset
        self.mark_folder_unsynced()

    def load_state(self, offset: int) -> bool:
        """Take over the snapshot taken at `offset`, if it is there and whole."""
        state = read_state(self.disk, self.key.folder, offset)
        if state is not None:
            self.restore(state)
        return state is not None

    def restore(self, state: State) -> None:
        """Know of producers, epochs and times what this says."""
        self.last_append_ms = state.last_append_ms
        self.producers.restore(state.producers)
        self.epochs.restore(state.epochs)

    def rewind(self, segments: list[Segment], end: int) -> None:
        """Count on these segments alone, and on nothing from `end` on; truncation replays them."""
        self.segments = segments
        self.end_offset = end
        self.flushed_end = min(self.flushed_end, end)
        self.flushed_base = min(self.flushed_base, end)
        self.opened_at = min(self.opened_at, end)
        self.checkpointed = min(self.checkpointed, end)
        self.checkpointed_high_watermark = min(self.checkpointed_high_watermark, end)
        self._unsynced = {s: None for s in self._unsynced if s in segments}
        # Files of the names of others may be made anew.
        self.doomed = [s for s in self.doomed if s.base_offset < segments[-1].base_offset]
        self._newest_state = None
        self.rewinds += 1
        self.hints.clear()

    def _close_idle_segments(self) -> None:
        for segment in self.segments[: -OPEN_SEGMENTS_MAX - 1]:
            if segment not in self._unsynced:
                segment.let_go()


def unlink(disk: Disk, folder: str, segments: Sequence[Segment]) -> None:
    """Remove the files of released segments, oldest first. Waits for the disk; any thread.

    The names of those that took their place must be durable before theirs go.
    """
    disk.sync_directory(folder)
    for segment in segments:
        segment.remove()
