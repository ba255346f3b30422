"""Owns a log as Partition, Server and Housekeeping do, over any Disk, and remembers what it said.

`Story` is what was sent and what was acknowledged, in terms of how many operations the disk had
seen; `check` compares with it what a start finds on a disk that went through a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

from zmqmq.batch.decode import check_batch, decode_batches
from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import BatchHeader, unpack_header
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.core.replication.partition import Partition
from zmqmq.core.storage.compaction import Compaction, plan_compaction
from zmqmq.core.storage.data_directory import read_checkpoints, write_checkpoints
from zmqmq.core.storage.disk import Disk
from zmqmq.core.storage.log import LOGS_FOLDER, Flush, Log, LogKey, unlink
from zmqmq.core.storage.options import StorageOptions
from zmqmq.core.storage.producers import ProducerTable, Written
from zmqmq.core.storage.reading import read
from zmqmq.core.storage.recovery import Checkpoint, open_log
from zmqmq.errors import Code, WireError
from zmqmq.model.topics import TopicConfig

KEY = LogKey(bytes(range(16)), 3)
OPTIONS = StorageOptions(index_interval_bytes=400, allocate_bytes=512, free_bytes_min=0)
CONFIG = TopicConfig(segment_bytes=1200, retention_ms=0)
COMPACTED = TopicConfig(
    segment_bytes=1200, cleanup="compact", tombstone_ms=50, batch_bytes_max=1 << 20
)


ME = Member(1, 1)


def alone(epoch: int, config: TopicConfig) -> PartitionDocument:
    """The document of a partition that this broker leads, and nobody follows."""
    return PartitionDocument(
        replicas=(1,),
        adding=(),
        removing=(),
        leader=ME,
        leader_epoch=epoch,
        isr=(ME,),
        elr=(),
        last_leader=None,
        min_isr=1,
        recovering=False,
        rec=0,
        write_id="",
        flush=config.flush,
    )


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch as it was stamped, and what a full replay up to it gives (I14)."""

    header: BatchHeader
    data: bytes
    position: int
    """Of its end in the data of its history."""
    producers: dict[Any, Any]
    epochs: list[list[int]]


class History:
    """The batches of one lineage, in order. A crash that cuts the end begins another one."""

    def __init__(self, batches: Sequence[Sent] = (), data: bytes = b"") -> None:
        self.batches = list(batches)
        self.data = bytearray(data)
        self._numbers = {sent.header.next_offset: n for n, sent in enumerate(self.batches)}
        self._producers: ProducerTable | None = None

    @property
    def end(self) -> int:
        return self.batches[-1].header.next_offset if self.batches else 0

    def add(self, header: BatchHeader, data: bytes) -> None:
        assert header.base_offset == self.end
        table = self._producers
        if table is None:
            table = self._producers = ProducerTable(10_000, 1 << 50)
            table.restore([[i, *rest] for i, rest in self.producers(self.end).items()])
        end = header.next_offset
        if header.producer_id:
            written = Written(
                header.base_sequence,
                header.last_sequence,
                header.base_offset,
                end,
                header.append_time_ms,
            )
            table.note(header.producer_id, header.producer_epoch, written)
        epochs = self.epochs(self.end)
        if not epochs or epochs[-1][0] != header.leader_epoch:
            epochs = [*epochs, [header.leader_epoch, header.base_offset]]
        self.data += data
        self._numbers[end] = len(self.batches)
        self.batches.append(Sent(header, data, len(self.data), table_of(table), epochs))

    def has(self, offset: int) -> bool:
        """Whether a log may end there: behind a batch, or empty."""
        return offset == 0 or offset in self._numbers

    def producers(self, end: int) -> dict[Any, Any]:
        return self.batches[self._numbers[end]].producers if end else {}

    def epochs(self, end: int) -> list[list[int]]:
        return self.batches[self._numbers[end]].epochs if end else []

    def position(self, offset: int) -> int:
        return self.batches[self._numbers[offset]].position if offset else 0

    def up_to(self, end: int) -> History:
        """The same as far as a log that now ends there."""
        count = self._numbers[end] + 1 if end else 0
        return History(self.batches[:count], bytes(self.data[: self.position(end)]))

    def records(self, end: int) -> dict[int, tuple[bytes | None, bytes | None]]:
        """Offset to key and value."""
        found = {}
        for batch in decode_batches(bytes(self.data[: self.position(end)]), KEY.seed, "", 3):
            for offset, key, value in zip(batch.offsets, batch.keys, batch.values, strict=True):
                found[offset] = (key, value)
        return found


def table_of(table: ProducerTable) -> dict[Any, Any]:
    """In a form that does not depend on who came first."""
    return {row[0]: row[1:] for row in table.snapshot()}


@dataclass(frozen=True, slots=True)
class Mark:
    """What was known once the disk had seen so many operations."""

    operations: int
    history: History
    end: int
    """Of the history, by then."""
    acknowledged: int
    start: int
    """Nobody was promised what lies before it."""
    compacted: bool = False


@dataclass(slots=True)
class Story:
    """Marks in the order of time."""

    marks: list[Mark] = field(default_factory=list)

    def at(self, operations: int) -> Mark:
        """What was known when the disk had seen so many."""
        for mark in reversed(self.marks):
            if mark.operations <= operations:
                return mark
        return self.marks[0]


class LogDriver:
    """One run of a broker with one partition."""

    def __init__(
        self,
        disk: Disk,
        *,
        config: TopicConfig = CONFIG,
        options: StorageOptions = OPTIONS,
        before: Mark | None = None,
        now_ms: int = 1_000,
        rng: Random | None = None,
    ) -> None:
        """Open what is there; `before` is what was known when it crashed or was closed."""
        self.disk = disk
        self.config = config
        self.options = options
        self.now_ms = now_ms
        self.rng = rng or Random(0)
        self.story = Story()
        self.history = before.history if before else History()
        self.acknowledged = before.acknowledged if before else 0
        self.promised_start = before.start if before else 0
        self.compacted = before.compacted if before else False
        self._visible_end = before.end if before else 0
        self.partition: Any = None
        """Once it serves."""
        self._flush: Flush | None = None
        self._in_flush: list[Callable[[], None]] = []
        self._compacted_end = 0
        self.mark()
        disk.make_directory(LOGS_FOLDER)
        disk.sync_directory("")
        found = self.checkpoints = read_checkpoints(disk)
        if any(c.clean for c in self.checkpoints.values()):
            # From here on the last stop was not a clean one.
            self.checkpoints = {f: replace(c, clean=False) for f, c in self.checkpoints.items()}
            write_checkpoints(disk, self.checkpoints)
        self.log = open_log(disk, KEY, config, options, found.get(KEY.folder))

    def serve(self) -> None:
        """Flush what was found, and begin a new leader epoch. Nothing is served before."""
        log = self.log
        assert log.damage is None, str(log.damage)
        epoch = max(log.epochs.latest, 0) + 1
        self.partition = Partition("t", log, alone(epoch, self.config), 1, ME, log.flushed_end, 0)
        self.begin_flush()
        self.finish_flush(opened=True)

    def mark(self) -> None:
        operations = len(getattr(self.disk, "operations", ()))
        self.story.marks.append(
            Mark(
                operations,
                self.history,
                self._visible_end,
                self.acknowledged,
                self.promised_start,
                self.compacted,
            )
        )

    # What a broker does

    def append(self, batch: bytes) -> tuple[int, int]:
        """Append a producer's batch; its offset and the one behind. Not written out yet."""
        log = self.log
        end = log.end_offset
        self.now_ms += 1
        # Known before it reaches the disk: any part of it may be there after a crash.
        done = self.partition.append(self.now_ms, batch)
        if log.end_offset != end:
            data = b"".join(bytes(buffer) for buffer in log._pending[-2:])
            self.history.add(check_batch(memoryview(data), 0, KEY.seed), data)
            self._visible_end = self.history.end
        if log.start_offset > self.promised_start:
            self.promised_start = log.start_offset  # drop-oldest
        self.mark()
        return done.base_offset, done.next_offset

    def send(self, count: int, *, size: int = 60, producer: int = 0, keys: int = 0) -> None:
        """Append records of no interest in themselves."""
        self.append(self.batch(count, size=size, producer=producer, keys=keys))

    def batch(self, count: int, *, size: int = 60, producer: int = 0, keys: int = 0) -> bytes:
        rng = self.rng
        values: list[bytes | None] = [rng.randbytes(rng.randint(1, size)) for _ in range(count)]
        names: list[bytes | None] | None = None
        if keys:
            names = [b"%d" % rng.randrange(keys) for _ in range(count)]
            values = [None if rng.random() < 0.15 else v for v in values]
        epoch, sequence = 0, 0
        if producer:
            found = table_of(self.log.producers).get(producer)
            if found is not None:
                epoch, batches = found
                sequence = batches[-1][1] + 1
        return encode_batch(
            KEY.seed,
            values,
            timestamp_ms=self.now_ms,
            keys=names,
            producer_id=producer,
            producer_epoch=epoch,
            base_sequence=sequence,
        )

    def begin_flush(self) -> None:
        """Take what is dirty; `step_flush` syncs one thing, in no order."""
        assert self._flush is None
        self.log.write_out()
        flush = self._flush = self.log.begin_flush()
        steps: list[Callable[[], None]] = [file.sync for file in dict.fromkeys(flush.files)]
        steps += [partial(self.disk.sync_directory, folder) for folder in flush.folders]
        self.rng.shuffle(steps)
        self._in_flush = steps

    def step_flush(self) -> None:
        if self._in_flush:
            self._in_flush.pop()()

    def finish_flush(self, *, opened: bool = False) -> None:
        """Sync the rest, then acknowledge."""
        flush = self._flush
        assert flush is not None
        while self._in_flush:
            self.step_flush()
        self._flush = None
        self.log.end_flush(flush)
        self.partition.advance()
        if opened:
            # From now on the end that was cut must never come back.
            self.history = self.history.up_to(self.log.end_offset)
            self._visible_end = self.log.end_offset
            self.promised_start = self.log.start_offset
        # With flush=replicated more was acknowledged, and a power cut may take it.
        self.acknowledged = min(self.partition.high_watermark, self.log.flushed_end)
        self.mark()

    @property
    def is_flushing(self) -> bool:
        return self._flush is not None

    def flush(self) -> None:
        if self.is_flushing:
            self.finish_flush()
        self.begin_flush()
        self.finish_flush()

    def roll(self) -> None:
        if not self.log.segments[-1].is_empty:
            self.log.roll()

    def retain(self, segments: int) -> None:
        """Drop so many of the oldest, where they may be dropped. The files stay for now."""
        log = self.log
        for following in log.segments[1 : segments + 1]:
            if following.base_offset <= log.flushed_base:
                self.promised_start = following.base_offset
                self.mark()
                log.drop_before(following.base_offset)

    def checkpoint(self, *, clean: bool = False) -> None:
        self._write_checkpoint(self._row(clean=clean))

    def _row(self, *, clean: bool = False) -> Checkpoint:
        log = self.log
        known = log.checkpointed_high_watermark
        committed = known if self.partition is None else self.partition.high_watermark
        committed = min(committed, log.flushed_end)
        return Checkpoint(log.recovery_point, log.start_offset, clean, committed)

    def _write_checkpoint(self, row: Checkpoint) -> None:
        self.checkpoints = {KEY.folder: row}
        write_checkpoints(self.disk, self.checkpoints)
        self.log.note_checkpoint(row.recovery_point, row.high_watermark)

    def unlink(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """As Housekeeping: a checkpoint, while others go on, then the files."""
        count = len(self.log.doomed)
        row = self._row()
        meanwhile()
        self._write_checkpoint(row)
        unlink(self.disk, self.log.key.folder, self.log.release_doomed(count))

    def compact(self, meanwhile: Callable[[], None] = lambda: None) -> bool:
        """A whole pass, if there is one to do."""
        log = self.log
        plan = plan_compaction(
            log, self.now_ms + 1_000, self.partition.high_watermark, self._compacted_end
        )
        if plan is None:
            return False
        self.compacted = True
        self.mark()
        compaction = Compaction(self.disk, KEY, plan, self.options)
        results = compaction.run(log.segment_bytes)
        meanwhile()
        compaction.install(log, results)
        self._compacted_end = plan.end
        return True

    def close(self) -> Mark:
        """A clean stop."""
        if self.is_flushing:
            self.finish_flush()
        self.log.close()
        self.begin_flush()
        self.finish_flush()
        self.checkpoint(clean=True)
        self.mark()
        return self.story.marks[-1]


# What a start must find


def read_from(log: Log, offset: int, end: int, max_bytes: int = 1 << 20) -> bytes:
    """All batches between, through the reader, checksums and all."""
    parts = []
    while offset < end:
        data = bytes(read(log, offset, max_bytes, end))
        assert data, f"nothing to read at {offset} of {end}"
        parts.append(data)
        position = 0
        while position < len(data):
            header = unpack_header(data, position)
            position += header.size
            offset = header.next_offset
    return b"".join(parts)


def check(log: Log, known: Mark) -> None:
    """Everything that was acknowledged is there, once, in order; and nothing that never was."""
    assert log.damage is None, f"a crash looks like damage: {log.damage}"
    history, end, start = known.history, log.end_offset, log.start_offset
    assert end >= known.acknowledged, f"{known.acknowledged} were acknowledged, {end} are there"
    assert end <= known.end, f"{known.end} were sent, and the log ends at {end}"
    assert history.has(end), f"the log ends within a batch, at {end}"
    assert start <= known.start, f"begins at {start}, although {known.start} was the start"
    data = read_from(log, start, end)
    if known.compacted:
        check_compacted(data, log, history)
    else:
        assert data == history.data[history.position(start) : history.position(end)], "other bytes"
    assert table_of(log.producers) == history.producers(end), "producers are not those of the log"
    assert log.epochs.snapshot() == history.epochs(end), "epochs are not those of the log"
    bases = [segment.base_offset for segment in log.segments]
    ends = [segment.end_offset for segment in log.segments]
    assert bases[1:] == ends[:-1], "the segments leave a gap"
    assert ends[-1] == end


def check_compacted(data: bytes, log: Log, history: History) -> None:
    """Only what a newer record of its key (or the age of a tombstone) makes needless is gone, and
    no deleted key comes back."""
    sent = history.records(log.end_offset)
    newest = {key: offset for offset, (key, _) in sent.items()}
    found: dict[bytes | None, int] = {}
    expected, seen, last = log.start_offset, set(), -1
    for batch in decode_batches(data, KEY.seed, "", 3):
        assert batch.base_offset == expected, "offsets leave a gap"
        expected = batch.next_offset
        for offset, key, value in zip(batch.offsets, batch.keys, batch.values, strict=True):
            assert offset > last
            last = offset
            assert sent[offset] == (key, value), f"another record at {offset}"
            seen.add(offset)
            found[key] = offset
    assert expected == log.end_offset
    for offset, (key, value) in sent.items():
        if offset in seen or offset < log.start_offset:
            continue
        assert key is not None, f"{offset} is gone, and has no key"
        assert newest[key] > offset or value is None, f"{offset} is gone, and is the newest"
    for key, offset in found.items():
        is_newest = key is None or offset == newest[key]
        assert is_newest or sent[offset][1] is None, f"{key!r} was deleted; its value is back"


def walk(driver: LogDriver, rng: Random, steps: int, keys: int = 0) -> None:
    """Do what comes to mind."""
    for _ in range(steps):
        one_step(driver, rng, keys)


def one_step(driver: LogDriver, rng: Random, keys: int = 0) -> None:
    kind = rng.choices(
        ["send", "begin", "step", "flush", "roll", "retain", "checkpoint", "unlink", "compact"],
        [40, 10, 12, 14, 5, 4, 5, 5, 6],
    )[0]

    def burst() -> None:
        for _ in range(rng.randint(1, 3)):
            # TOPIC_FULL: the oldest ones are not flushed yet
            try:
                driver.send(
                    rng.randint(1, 4),
                    size=rng.choice((10, 60, 150)),
                    producer=rng.choice((0, 7, 8, 9)),
                    keys=keys,
                )
            except WireError as error:
                if error.code != Code.TOPIC_FULL:
                    raise
        driver.log.write_out()

    match kind:
        case "send":
            burst()
        case "begin" if not driver.is_flushing:
            driver.begin_flush()
        case "step" if driver.is_flushing:
            driver.step_flush()
        case "flush":
            driver.flush()
        case "roll":
            driver.roll()
        case "retain" if driver.config.cleanup == "delete":
            driver.retain(rng.randint(1, 2))
        case "checkpoint":
            driver.checkpoint()
        case "unlink":
            meanwhile = rng.choice((lambda: None, burst, lambda: driver.retain(1)))
            if driver.config.cleanup == "compact":
                meanwhile = burst
            driver.unlink(meanwhile)
        case "compact" if driver.config.cleanup == "compact":
            driver.compact(rng.choice((lambda: None, burst, driver.flush)))
        case _:
            burst()
