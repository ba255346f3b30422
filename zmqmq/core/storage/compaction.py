"""Compaction: of each key the newest record stays (KIP-58's promise, in fewer moving parts).

Only closed segments below the high watermark are touched. A pass has three steps: planning on the
owner's thread, `run` in a worker, which reads the old files and writes new ones beside them, and
`install` on the owner's thread, which puts them in place one rename at a time. After a crash
between any two of these every segment is either old or new, and any mixture is right: a record
is only left out when a newer one of its key stands further on.

Offsets stay without a gap: a batch of which nothing is left is covered by its neighbour, and the
last record of a segment always stays. Records without a key stay too, since nothing replaces them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from zmqmq.batch.columns import Column
from zmqmq.batch.decode import RecordBatch, decode_batches
from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import BODY_AT, BODY_CRC_AT, HEADER_SIZE, stamp, unpack_header
from zmqmq.core.storage.disk import Disk, File
from zmqmq.core.storage.log import Log, LogKey
from zmqmq.core.storage.options import StorageOptions
from zmqmq.core.storage.segment import Segment
from zmqmq.errors import CorruptDataError
from zmqmq.model.limits import BATCH_BYTES_MAX, MIB

KEYS_MAX: Final = 1_000_000
"""Keys that one pass keeps in mind; it covers fewer segments when there are more."""
DIRTY_SHARE: Final = 2
"""A pass begins when at least one part in so many of the closed bytes is new since the last."""
_CHUNK: Final = 4 * MIB
SCRATCH_SUFFIX: Final = ".compacting"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one pass will do."""

    segments: tuple[Segment, ...]
    dirty_from: int
    """The first offset that no earlier pass has seen."""
    end: int
    """The offset behind the last segment."""
    tombstones_before_ms: int
    """Tombstones appended earlier than this have been there long enough."""


def plan_compaction(log: Log, now_ms: int, high_watermark: int, compacted_end: int) -> Plan | None:
    """Whether a pass is worth its reading, and over which segments."""
    if log.config.cleanup != "compact":
        return None
    # Not beyond the checkpoint either: a start replays what lies behind the last state below it,
    # and would miss the producers whose batches are gone.
    end = min(high_watermark, log.flushed_base, log.checkpointed)
    limit_ms = now_ms - log.config.compact_lag_ms
    segments = []
    for segment in log.segments[:-1]:
        if segment.end_offset > end or segment.last_append_ms > limit_ms:
            break
        segments.append(segment)
    total = sum(segment.size for segment in segments)
    dirty = sum(segment.size for segment in segments if segment.end_offset > compacted_end)
    if not dirty or dirty * DIRTY_SHARE < total:
        return None
    return Plan(
        tuple(segments), compacted_end, segments[-1].end_offset, now_ms - log.config.tombstone_ms
    )


class Compaction:
    """One pass."""

    def __init__(self, disk: Disk, key: LogKey, plan: Plan, options: StorageOptions) -> None:
        self._disk = disk
        self._key = key
        self._plan = plan
        self._options = options
        self._seed = key.seed
        self._newest: dict[bytes, int] = {}

    def run(self, segment_bytes: int) -> list[tuple[Segment, list[Segment]]]:
        """Write and flush new segments; each with the old ones that it is to replace.

        Neighbours that have become small are joined. Raises StorageError and CorruptDataError,
        and nothing is in place then.
        """
        self._learn()
        results = []
        run: list[Segment] = []
        out: _Writer | None = None
        for segment in self._plan.segments:
            if out is None:
                out = _Writer(self._scratch(segment), self._seed)
            run.append(segment)
            self._rewrite(segment, out)
            if out.segment.size >= segment_bytes // 2 or segment is self._plan.segments[-1]:
                if out.segment.size < sum(old.size for old in run):
                    out.segment.file.sync()
                    results.append((out.segment, run))
                run, out = [], None
        self._remove_sidecars(results)
        return results

    def _remove_sidecars(self, results: list[tuple[Segment, list[Segment]]]) -> None:
        """Durably, before any rename: joined segments may be as large as the first one was alone,
        and its sidecar would fit them."""
        for _, old in results:
            for segment in old:
                self._disk.remove(segment.index_path)
        if results:
            self._disk.sync_directory(self._key.folder)

    def install(self, log: Log, results: list[tuple[Segment, list[Segment]]]) -> None:
        """Put the new segments in the place of the old ones, one rename each."""
        for new, old in results:
            if any(segment not in log.segments for segment in old):
                self._disk.remove(new.path + SCRATCH_SUFFIX)  # retention was faster
                continue
            self._disk.rename(new.path + SCRATCH_SUFFIX, new.path)
            # At once: an old segment that is opened again would find the new file.
            log.replace_segments(new, old)
            new.save_index()

    def _learn(self) -> None:
        for segment in self._plan.segments:
            for _, batch in self._batches(segment):
                for key, offset in zip(batch.keys, batch.offsets, strict=True):
                    if key is not None and (key in self._newest or len(self._newest) < KEYS_MAX):
                        self._newest[key] = offset

    def _scratch(self, first: Segment) -> Segment:
        interval = self._options.index_interval_bytes
        segment = Segment(self._disk, self._key.folder, first.base_offset, interval)
        path = segment.path + SCRATCH_SUFFIX
        self._disk.remove(path)
        segment.adopt(self._disk.open(path, create=True))
        return segment

    def _batches(self, segment: Segment) -> Iterator[tuple[bytes, RecordBatch]]:
        for data in _whole_batches(segment.file, segment.size):
            for batch in decode_batches(data, self._seed, "", self._key.partition):
                yield data, batch

    def _rewrite(self, segment: Segment, out: _Writer) -> None:
        for data, batch in self._batches(segment):
            offsets, keys, values = batch.offsets, batch.keys, batch.values
            kept = [
                at
                for at, offset in enumerate(offsets)
                if offset == segment.end_offset - 1
                or self._stays(batch, keys[at], values[at], offset)
            ]
            if not kept and batch.next_offset == segment.end_offset:
                kept = [len(offsets) - 1]
            if kept:
                out.add(data, batch, kept)
        out.end(segment.end_offset)

    def _stays(
        self, batch: RecordBatch, key: bytes | None, value: bytes | None, offset: int
    ) -> bool:
        newest = self._newest.get(key) if key is not None else None
        if newest is None:
            return True
        if newest != offset:
            return False
        expired = batch.header.append_time_ms < self._plan.tombstones_before_ms
        return not (value is None and expired)


class _Writer:
    """Writes what stays of one batch after the other, so that their offsets leave no gap.

    A batch is held back until it is known how far it must reach: up to the next one of which
    something stays, or to the end of the segment.
    """

    def __init__(self, segment: Segment, seed: int) -> None:
        self.segment = segment
        self._seed = seed
        self._held: tuple[bytes, RecordBatch, list[int]] | None = None

    def add(self, data: bytes, batch: RecordBatch, kept: list[int]) -> None:
        """The records `kept` of this batch stay."""
        self.end(batch.base_offset)
        self._held = (data, batch, kept)

    def end(self, end: int) -> None:
        """What is held reaches to this offset."""
        if self._held is None:
            return
        data, batch, kept = self._held
        self._held = None
        base = self.segment.end_offset
        if base == batch.base_offset and end == batch.next_offset and len(kept) == len(batch):
            self._write(data, batch, end, len(kept))
        else:
            self._write_part(batch, base, end, kept)

    def _write_part(self, batch: RecordBatch, base: int, end: int, kept: list[int]) -> None:
        """The chosen records, covering `base` to `end`; in halves if they do not fit a batch.

        They may not, since offset deltas take room that dropped records need not have freed.
        """
        body = _pick(batch, self._seed, base, end, kept)
        if len(body) > BATCH_BYTES_MAX and len(kept) > 1:
            half = len(kept) // 2
            middle = batch.offsets[kept[half]]
            self._write_part(batch, base, middle, kept[:half])
            self._write_part(batch, middle, end, kept[half:])
            return
        head = batch.header
        stamped = stamp(
            base,
            len(body),
            head.leader_epoch,
            head.append_time_ms,
            max(head.committed_end, end),
            body[BODY_CRC_AT:BODY_AT],
        )
        self._write(stamped + body[BODY_CRC_AT:], batch, end, len(kept))

    def _write(self, data: bytes, batch: RecordBatch, end: int, record_count: int) -> None:
        position = self.segment.size
        self.segment.file.write(position, [data])
        self.segment.note(position, end, len(data), batch.header.append_time_ms, record_count)


def _pick(batch: RecordBatch, seed: int, base: int, end: int, kept: list[int]) -> bytes:
    """The chosen records of a batch, as one that covers the offsets from `base` to `end`."""
    offsets, values, timestamps = batch.offsets, batch.values, batch.timestamps_ms
    keys, tags, headers = batch.keys, batch.tags, batch.raw_headers
    times = [timestamps[at] for at in kept]
    return encode_batch(
        seed,
        [values[at] for at in kept],
        timestamp_ms=times[0],
        timestamps_ms=times if len(set(times)) > 1 else None,
        keys=[keys[at] for at in kept] if batch.has(Column.KEYS) else None,
        tags=[tags[at] for at in kept] if batch.has(Column.TAGS) else None,
        headers=[headers[at] for at in kept] if headers is not None else None,
        offset_deltas=[offsets[at] - base for at in kept],
        last_offset_delta=end - base - 1,
        codec=batch.header.codec,
    )


def _whole_batches(file: File, size: int) -> Iterator[bytes]:
    """The bytes of each batch."""
    position = 0
    while position + HEADER_SIZE <= size:
        chunk = memoryview(file.read(position, min(_CHUNK, size - position)))
        at = 0
        while at + HEADER_SIZE <= len(chunk):
            end = at + max(unpack_header(chunk, at).size, HEADER_SIZE)
            if end > len(chunk):
                break
            yield chunk[at:end].tobytes()
            at = end
        if not at:
            raise CorruptDataError(f"no whole batch at byte {position} of a segment")
        position += at
