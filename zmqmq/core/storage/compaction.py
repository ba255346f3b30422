"""Compaction: of each key the newest record stays (KIP-58's promise, in fewer moving parts).

Only closed segments below the high watermark are touched. A pass has three steps: planning on the
owner's thread, `run` in a worker, which reads the old files and writes new ones beside them, and
`install` on the owner's thread, which puts them in place one rename at a time. After a crash
between any two of these every segment is either old or new, and any mixture is right: a record
is only left out when a newer one of its key stands further on, which stays in this pass. So a
tombstone goes in a pass that finds nothing older of its key, the older value having gone durably
in one before; else the rename that takes the tombstone could outlive a power cut alone.

A segment with a batch that does not decode is left as it is: nobody can say which keys it has, so
none of its records counts as newer, and the tombstones behind it stay.

Offsets stay without a gap: a batch of which nothing is left is covered by its neighbour, and the
last record of a segment always stays. Records without a key stay too, since nothing replaces them.

What is known of idempotent producers stays a function of the log (P4): a batch that is remembered
at the end of the pass keeps its offsets, producer, epoch and sequence numbers, and at least one
record. So a replica that is filled from what is left knows what its leader knows (decision 11).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from typing import Final

from crc32c import crc32c

from zmqmq.batch.columns import Column
from zmqmq.batch.decode import RecordBatch, decode_batches
from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import BODY_AT, BODY_CRC_AT, HEADER_SIZE, stamp, unpack_header
from zmqmq.core.storage.disk import Disk, File
from zmqmq.core.storage.log import Log, LogKey
from zmqmq.core.storage.options import StorageOptions
from zmqmq.core.storage.producers import ProducerTable, Written
from zmqmq.core.storage.segment import Segment
from zmqmq.errors import CorruptDataError, StorageError
from zmqmq.model.limits import BATCH_BYTES_MAX, BATCH_INFLATED_BYTES_MAX, MIB

KEYS_BYTES_MAX: Final = 128 * MIB
"""Memory for the keys that one reading of the segments tells apart."""
KEY_OVERHEAD: Final = 160
"""What a key takes of it besides its own bytes."""
READINGS_MAX: Final = 16
"""So often a pass reads to tell keys apart; those that are left wait for a later one."""
RECORDS_MAX: Final = 1 << 29
"""A pass takes one bit of memory for each record, and covers fewer segments when there are more."""
DIRTY_SHARE: Final = 2
"""A pass begins when at least one part in so many of the closed bytes is new since the last."""
_CHUNK: Final = 4 * MIB
SCRATCH_SUFFIX: Final = ".compacting"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one pass will do."""

    segments: tuple[Segment, ...]
    end: int
    """The offset behind the last segment."""
    tombstones_before_ms: int
    """Tombstones appended earlier than this have been there long enough."""


def plan_compaction(log: Log, now_ms: int, high_watermark: int, compacted_end: int) -> Plan | None:
    """Whether a pass is worth its reading, and over which segments."""
    if log.config.cleanup != "compact":
        return None
    # Not beyond the checkpoint either: a start replays what lies behind the last state below it,
    # and would miss the leader epochs of which nothing is left.
    end = min(high_watermark, log.flushed_base, log.checkpointed)
    limit_ms = now_ms - log.config.compact_lag_ms
    segments, records = [], 0
    for segment in log.segments[:-1]:
        records += segment.record_count
        if segment.end_offset > end or segment.last_append_ms > limit_ms or records > RECORDS_MAX:
            break
        segments.append(segment)
    total = sum(segment.size for segment in segments)
    dirty = sum(segment.size for segment in segments if segment.end_offset > compacted_end)
    if not dirty or dirty * DIRTY_SHARE < total:
        return None
    # Dropped segments come back after a power cut until a checkpoint says that they are gone, and
    # may hold what a tombstone deletes.
    coming_back = any(segment.base_offset < log.start_offset for segment in log.doomed)
    tombstones_before_ms = 0 if coming_back else now_ms - log.config.tombstone_ms
    return Plan(tuple(segments), segments[-1].end_offset, tombstones_before_ms)


class Compaction:
    """One pass."""

    def __init__(self, disk: Disk, key: LogKey, plan: Plan, options: StorageOptions) -> None:
        self._disk = disk
        self._key = key
        self._plan = plan
        self._options = options
        self._seed = key.seed
        self._gone = bytearray()
        """A bit for each record of the segments that decode, in their order."""
        self._unknown_from = plan.end
        """From here on older values may be in a segment that does not decode."""
        self._producers = ProducerTable(options.producers_max, options.producer_expiry_ms)
        self._remembered: frozenset[int] = frozenset()
        """Base offsets of the batches that make a producer's known at the end (P4)."""
        self.is_stopped = False
        """Set from another thread: `run` then ends at the next batch."""

    def run(self, segment_bytes: int) -> list[tuple[Segment, list[Segment]]]:
        """Write and flush new segments; each with the old ones that it is to replace.

        Neighbours that have become small are joined. Raises StorageError and CorruptDataError,
        and nothing is in place then.
        """
        readable = []
        for segment in self._plan.segments:
            if self._decodes(segment):
                readable.append(segment)
            else:
                self._unknown_from = min(self._unknown_from, segment.base_offset)
        # As where the segment behind the last one began, and the state was saved.
        self._producers.expire(self._plan.segments[-1].last_append_ms)
        self._remembered = self._producers.base_offsets()
        self._learn(readable)
        results = []
        run: list[Segment] = []
        out: _Writer | None = None
        number = 0
        for segment, following in zip(readable, [*readable[1:], None], strict=True):
            if out is None:
                out = _Writer(self._scratch(segment), self._seed)
            run.append(segment)
            number = self._rewrite(segment, number, out)
            is_last = following is None or following.base_offset != segment.end_offset
            if is_last or out.segment.size >= segment_bytes // 2:
                if out.segment.size < sum(old.size for old in run):
                    out.segment.file.sync()
                    results.append((out.segment, run))
                else:
                    self._disk.remove(out.segment.path + SCRATCH_SUFFIX)
                run, out = [], None
        self._remove_sidecars(results)
        return results

    def _remove_sidecars(self, results: list[tuple[Segment, list[Segment]]]) -> None:
        """Durably, before any rename: joined segments may be as large as the first one was alone,
        and its sidecar would fit them. It makes the renames of the last pass durable, too, which
        this one counts on."""
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

    def _decodes(self, segment: Segment) -> bool:
        """Whether all its batches can be read, and so written again. Of those whose checksums
        hold, what a producer sent may still be nonsense. Their producers are noted in any case."""
        decodes = True
        for _, batch in self._batches(segment):
            header = batch.header
            if header.producer_id:
                written = Written.of(header)
                self._producers.note(header.producer_id, header.producer_epoch, written)
            try:
                _ = batch.offsets, batch.keys, batch.values
                _ = batch.timestamps_ms, batch.tags, batch.headers
            except CorruptDataError:
                decodes = False
        return decodes

    def _learn(self, segments: list[Segment]) -> None:
        """Find out which records go, in as many readings as it takes to hold all keys."""
        self._gone = bytearray(sum(segment.record_count for segment in segments) // 8 + 1)
        # Each pass begins with other keys, should there be too many for all its readings.
        left = [(crc32c(self._plan.end.to_bytes(8, "big")), 1)]
        for _ in range(READINGS_MAX):
            if left:
                left += self._learn_part(segments, *left.pop())

    def _learn_part(self, segments: list[Segment], part: int, of: int) -> list[tuple[int, int]]:
        """Look at the keys whose hash is `part` modulo `of`; returns the parts that were put off.

        When these are too many, half of them are put off, and the other half goes on.
        """
        put_off = []
        newest: dict[bytes, int] = {}
        room = KEYS_BYTES_MAX
        numbers = count()
        for segment in segments:
            for _, batch in self._batches(segment):
                may_end = (
                    segment.base_offset < self._unknown_from
                    and batch.header.append_time_ms < self._plan.tombstones_before_ms
                )
                for key, value, number in zip(batch.keys, batch.values, numbers, strict=False):
                    if key is None or not _belongs(key, part, of):
                        continue
                    older = newest.get(key)
                    if older is not None:
                        self._drop(older)
                    elif value is None and may_end:
                        self._drop(number)
                        continue
                    else:
                        room -= len(key) + KEY_OVERHEAD
                    newest[key] = number
                    while room < 0 and len(newest) > 1:
                        of *= 2
                        put_off.append((part + of // 2, of))
                        newest = {k: n for k, n in newest.items() if _belongs(k, part, of)}
                        room = KEYS_BYTES_MAX - sum(len(k) + KEY_OVERHEAD for k in newest)
        return put_off

    def _scratch(self, first: Segment) -> Segment:
        interval = self._options.index_interval_bytes
        segment = Segment(self._disk, self._key.folder, first.base_offset, interval)
        path = segment.path + SCRATCH_SUFFIX
        self._disk.remove(path)
        segment.adopt(self._disk.open(path, create=True))
        return segment

    def _batches(self, segment: Segment) -> Iterator[tuple[bytes, RecordBatch]]:
        for data in _whole_batches(segment.file, segment.size):
            if self.is_stopped:
                raise StorageError("stopped before its end; the next start does it again")
            for batch in decode_batches(data, self._seed, "", self._key.partition):
                yield data, batch

    def _rewrite(self, segment: Segment, number: int, out: _Writer) -> int:
        """Write what stays of a segment whose first record has this number; the next one's."""
        for data, batch in self._batches(segment):
            if batch.header.leader_epoch != out.epoch:
                # No batch reaches over records of another epoch: a follower that ends with it
                # would be told that its log has parted from ours there (F4).
                out.end(batch.base_offset)
                out.epoch = batch.header.leader_epoch
            offsets = batch.offsets
            kept = [
                at
                for at, offset in enumerate(offsets)
                if offset == segment.end_offset - 1 or not self._is_gone(number + at)
            ]
            if not kept and batch.next_offset == segment.end_offset:
                kept = [len(offsets) - 1]
            if batch.header.producer_id and batch.base_offset in self._remembered:
                out.add_remembered(data, batch, kept or [len(offsets) - 1])
            elif kept:
                out.add(data, batch, kept)
            else:
                out.skip(data, batch)
            number += len(offsets)
        out.end(segment.end_offset)
        return number

    def _drop(self, number: int) -> None:
        self._gone[number >> 3] |= 1 << (number & 7)

    def _is_gone(self, number: int) -> int:
        return self._gone[number >> 3] & (1 << (number & 7))


class _Writer:
    """Writes what stays of one batch after the other, so that their offsets leave no gap.

    A batch is held back until it is known how far it must reach: up to the next one of which
    something stays, or to the end of the segment.
    """

    def __init__(self, segment: Segment, seed: int) -> None:
        self.segment = segment
        self.epoch = -1
        """Leader epoch of the batches that are being looked at."""
        self._seed = seed
        self._held: tuple[bytes, RecordBatch, list[int]] | None = None
        self._skipped: tuple[bytes, RecordBatch] | None = None
        """The last batch of which nothing need stay, if none is held before it that covers it."""

    def add(self, data: bytes, batch: RecordBatch, kept: list[int]) -> None:
        """The records `kept` of this batch stay."""
        self.end(batch.base_offset)
        self._held = (data, batch, kept)
        self._skipped = None

    def skip(self, data: bytes, batch: RecordBatch) -> None:
        """Nothing of this batch need stay."""
        if self._held is None:
            self._skipped = (data, batch)

    def add_remembered(self, data: bytes, batch: RecordBatch, kept: list[int]) -> None:
        """The same, and it stays the batch that its producer may send again: it covers no others,
        and so one record stays of those before it that nobody else covers."""
        if self._skipped is not None:
            skipped = self._skipped[1]
            self.add(*self._skipped, [len(skipped) - 1])
        self.end(batch.base_offset)
        end = batch.next_offset
        if len(kept) < len(batch):
            body = _pick(batch, self._seed, batch.base_offset, end, kept, names_producer=True)
            if _fits(body):
                self._write(_stamped(batch, batch.base_offset, end, body), batch, end, len(kept))
                return
        self._write(data, batch, end, len(batch))

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
        if len(kept) > 1 and not _fits(body):
            half = len(kept) // 2
            middle = batch.offsets[kept[half]]
            self._write_part(batch, base, middle, kept[:half])
            self._write_part(batch, middle, end, kept[half:])
            return
        self._write(_stamped(batch, base, end, body), batch, end, len(kept))

    def _write(self, data: bytes, batch: RecordBatch, end: int, record_count: int) -> None:
        position = self.segment.size
        self.segment.file.write(position, [data])
        self.segment.note(position, end, len(data), batch.header.append_time_ms, record_count)


def _belongs(key: bytes, part: int, of: int) -> bool:
    """Whether a key is of this part of all keys.

    By a cryptographic hash, so that nobody can make keys that no halving parts, and not by
    hash(), which differs from run to run.
    """
    if of == 1:
        return True
    number = int.from_bytes(blake2b(key, digest_size=8).digest(), "big")
    return (number - part) % of == 0


def _pick(
    batch: RecordBatch,
    seed: int,
    base: int,
    end: int,
    kept: list[int],
    *,
    names_producer: bool = False,
) -> bytes:
    """The chosen records of a batch, as one that covers the offsets from `base` to `end`."""
    head = batch.header
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
        codec=head.codec,
        producer_id=head.producer_id if names_producer else 0,
        producer_epoch=head.producer_epoch if names_producer else 0,
        base_sequence=head.base_sequence if names_producer else 0,
    )


def _fits(body: bytes) -> bool:
    """Whether it is a batch that readers take."""
    inflated_size = unpack_header(body).inflated_size
    return len(body) <= BATCH_BYTES_MAX and inflated_size <= BATCH_INFLATED_BYTES_MAX


def _stamped(batch: RecordBatch, base: int, end: int, body: bytes) -> bytes:
    """What is left of a batch, with the leader's part."""
    head = batch.header
    stamped = stamp(
        base,
        len(body),
        head.leader_epoch,
        head.append_time_ms,
        max(head.committed_end, end),
        body[BODY_CRC_AT:BODY_AT],
    )
    return stamped + body[BODY_CRC_AT:]


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
