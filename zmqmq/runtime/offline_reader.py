"""Reads, checks and repairs a data directory without a broker.

Checking opens every log as a start would, on a disk that takes no writes, and then reads every
batch that the log would serve. Repairing is for a log that has damage and no replica: it cuts the
log where the damage begins, keeps what it cuts in `damaged/`, and says what was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from zmqmq.batch.decode import check_batch
from zmqmq.batch.layout import HEADER_SIZE
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.values import TopicDocument
from zmqmq.core.storage.data_directory import (
    CHECKPOINTS_FILE,
    key_of,
    orphans,
    read_checkpoints,
    read_format,
    write_checkpoints,
)
from zmqmq.core.storage.disk import Buffer, File
from zmqmq.core.storage.log import LOGS_FOLDER, Log
from zmqmq.core.storage.options import StorageOptions
from zmqmq.core.storage.reading import read
from zmqmq.core.storage.recovery import Checkpoint, open_log
from zmqmq.core.storage.segment import LOG_SUFFIX, base_of
from zmqmq.errors import CorruptDataError, DirectoryError, StorageError, WireError
from zmqmq.model.limits import MIB
from zmqmq.model.topics import TopicConfig
from zmqmq.runtime.main import CLUSTER, locked
from zmqmq.runtime.os_disk import OSDisk
from zmqmq.runtime.sqlite_store import SqliteStore

DAMAGED_FOLDER: Final = "damaged"
_READ_BYTES: Final = 4 * MIB


@dataclass(slots=True)
class LogReport:
    """What was found in one log."""

    folder: str
    topic: str
    partition: int
    status: str
    """`ok`; `torn tail`: the next start cuts what was never acknowledged; `damaged`."""
    start: int
    end: int
    batches: int
    records: int
    bytes: int
    detail: str = ""


@dataclass(slots=True)
class Report:
    """What was found in a data directory."""

    folder: str
    cluster: str
    broker: int
    clean: bool
    """Whether the last stop was a clean one."""
    logs: list[LogReport] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    """What a repair did, or would do."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing that was acknowledged is damaged."""
        return all(log.status != "damaged" for log in self.logs)


def describe_segment(path: Path) -> Iterator[dict[str, Any]]:
    """One map for each batch of a segment file, in order.

    Without the right folder name the body checksum cannot be judged: `checksum` is then None.
    The last map has `error` where the rest is not a batch. Raises StorageError.
    """
    key = key_of(path.parent.name)
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from None
    if base_of(path.name, LOG_SUFFIX) is None:
        raise StorageError(f"{path.name} is not a segment: twenty digits and {LOG_SUFFIX}")
    position = 0
    while position + HEADER_SIZE <= len(data):
        try:
            header = check_batch(data, position, key.seed if key else 0)
        except CorruptDataError as error:
            if data[position:].tobytes().strip(b"\0"):
                yield {"position": position, "error": str(error)}
            return
        yield {
            "position": position,
            "offset": header.base_offset,
            "last_offset": header.next_offset - 1,
            "records": header.record_count,
            "bytes": header.size,
            "leader_epoch": header.leader_epoch,
            "append_time_ms": header.append_time_ms,
            "committed_end": header.committed_end,
            "compression": header.codec.name.lower(),
            "producer_id": header.producer_id,
            "producer_epoch": header.producer_epoch,
            "sequence": header.base_sequence,
        }
        position += header.size


def verify_directory(folder: Path) -> Report:
    """Check every batch of every log. Changes nothing.

    Raises DirectoryError for a folder that is in use or is no data directory.
    """
    with locked(_existing(folder)):
        return _verify(folder)[0]


def repair_directory(folder: Path, *, apply: bool) -> Report:
    """Cut damaged logs where the damage begins; without `apply` only say so.

    What is cut is kept below `damaged/`. Raises DirectoryError, StorageError.
    """
    with locked(_existing(folder)):
        report, damaged = _verify(folder)
        disk = OSDisk(folder)
        checkpoints = read_checkpoints(disk)
        for log in damaged:
            assert log.damage is not None
            at = log.damage.offset
            lost = max(checkpoints.get(log.key.folder, Checkpoint()).recovery_point - at, 0)
            report.actions.append(
                f"{log.key.folder}: cut at offset {at}; at least {lost} acknowledged records "
                f"from there on are given up, and kept in {DAMAGED_FOLDER}/{log.key.folder}"
            )
            if apply:
                checkpoints[log.key.folder] = _cut(disk, log)
        if apply and damaged:
            write_checkpoints(disk, checkpoints)
        return report


def _existing(folder: Path) -> Path:
    if not (folder / "format").is_file():
        raise DirectoryError(f"{folder} is not a data directory: it has no file 'format'")
    return folder


def _verify(folder: Path) -> tuple[Report, list[Log]]:
    disk = OSDisk(folder)
    form = read_format(disk)
    assert form is not None
    checkpoints = read_checkpoints(disk)
    report = Report(
        str(folder),
        form.cluster,
        form.broker,
        bool(checkpoints) and all(c.clean for c in checkpoints.values()),
    )
    if not checkpoints and disk.exists(CHECKPOINTS_FILE):
        report.actions.append(f"{CHECKPOINTS_FILE} cannot be read: the next start scans every log")
    names = _topic_names(folder)
    damaged = []
    for name in disk.list(LOGS_FOLDER):
        key = key_of(name)
        if key is None:
            report.actions.append(f"{LOGS_FOLDER}/{name} is not the folder of a log: left alone")
            continue
        watching = _WatchingDisk(disk)
        log = open_log(watching, key, TopicConfig(), StorageOptions(), checkpoints.get(key.folder))
        found = _read_all(log, (names or {}).get(key.topic_id, key.topic_id.hex()))
        if log.damage is not None:
            found.status, found.detail = "damaged", str(log.damage)
            damaged.append(log)
        elif watching.cuts:
            found.status, found.detail = "torn tail", "; ".join(watching.cuts)
        report.logs.append(found)
    report.actions += [
        f"{orphan} is of no topic in metadata.db: left alone, see 'Left over' in docs/storage.md"
        for orphan in ([] if names is None else orphans(disk, names))
    ]
    return report, damaged


def _read_all(log: Log, topic: str) -> LogReport:
    """Read every batch that the log would serve; the first bad one ends up in `log.damage`."""
    report = LogReport(
        log.key.folder,
        topic,
        log.key.partition,
        "ok",
        log.start_offset,
        log.end_offset,
        0,
        log.record_count,
        log.size_bytes,
    )
    offset = log.start_offset
    while offset < log.end_offset:
        try:
            data = memoryview(read(log, offset, _READ_BYTES, log.end_offset))
        except (CorruptDataError, WireError):
            break
        position = 0
        while position < len(data):
            header = check_batch(data, position, log.seed)
            position += header.size
            offset = header.next_offset
            report.batches += 1
    report.end = offset
    return report


def _cut(disk: OSDisk, log: Log) -> Checkpoint:
    """Move what lies at the damage and behind it aside; the checkpoint of what is left."""
    assert log.damage is not None
    folder, aside = log.key.folder, f"{DAMAGED_FOLDER}/{log.key.folder}"
    disk.make_directory(aside)
    bases = [b for n in disk.list(folder) if (b := base_of(n, LOG_SUFFIX)) is not None]
    if bases and log.damage.offset < bases[0]:
        # The beginning is missing: what is left begins later, and nothing is cut.
        return Checkpoint(bases[0], bases[0])
    for base in bases:
        path = f"{folder}/{base:020d}{LOG_SUFFIX}"
        if base > log.damage.offset or (base == log.damage.offset and base != bases[0]):
            disk.rename(path, f"{aside}/{base:020d}{LOG_SUFFIX}")
        elif path == log.damage.segment:
            file = disk.open(path)
            rest = file.read(log.damage.position, file.size)
            kept = disk.open(f"{aside}/{base:020d}.{log.damage.position}", create=True)
            kept.write(0, [rest])
            kept.sync()
            file.truncate(log.damage.position)
            file.sync()
    for place in (aside, folder, f"{DAMAGED_FOLDER}/{LOGS_FOLDER}", DAMAGED_FOLDER, ""):
        disk.sync_directory(place)
    return Checkpoint(log.damage.offset, min(log.start_offset, log.damage.offset))


def _topic_names(folder: Path) -> dict[bytes, str] | None:
    """Names of topics by id; None where there is no embedded store."""

    async def names() -> dict[bytes, str]:
        store = SqliteStore(folder / "metadata.db")
        await store.open()
        try:
            snapshot = await store.list(KeySpace.of_cluster(CLUSTER).topic_prefix)
            documents = [TopicDocument.decode(kv.value) for kv in snapshot.items]
            return {document.topic_id: document.name for document in documents}
        finally:
            await store.close()

    if not (folder / "metadata.db").is_file():
        return None
    return asyncio.run(names())


class _WatchingFile:
    """A file that is read and never written."""

    def __init__(self, file: File | None) -> None:
        self._file = file

    @property
    def size(self) -> int:
        return self._file.size if self._file else 0

    def write(self, position: int, buffers: Sequence[Buffer]) -> None:
        del position, buffers

    def read(self, position: int, size: int) -> bytes:
        return self._file.read(position, size) if self._file else b""

    def read_cached(self, position: int, size: int) -> Buffer | None:
        return self._file.read_cached(position, size) if self._file else b""

    def allocate(self, size: int) -> None:
        del size

    def truncate(self, size: int) -> None:
        del size

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class _CutFile(_WatchingFile):
    """A segment; to truncate it means that a torn tail was found."""

    def __init__(self, file: File | None, path: str, cuts: list[str]) -> None:
        super().__init__(file)
        self._path = path
        self._cuts = cuts

    def truncate(self, size: int) -> None:
        if size < self.size:  # a start also sets the size that there is, to have it flushed
            self._cuts.append(
                f"{self._path} has {self.size - size} bytes behind the last whole batch"
            )


class _WatchingDisk:
    """The disk of a log that is only looked at; notes what a start would cut."""

    def __init__(self, disk: OSDisk) -> None:
        self._disk = disk
        self.cuts: list[str] = []

    def open(self, path: str, *, create: bool = False) -> File:
        file = None if create and not self._disk.exists(path) else self._disk.open(path)
        return _CutFile(file, path, self.cuts) if path.endswith(LOG_SUFFIX) else _WatchingFile(file)

    def exists(self, path: str) -> bool:
        return self._disk.exists(path)

    def list(self, path: str) -> list[str]:
        return self._disk.list(path)

    def make_directory(self, path: str) -> None:
        del path

    def rename(self, source: str, target: str) -> None:
        del source, target

    def remove(self, path: str) -> None:
        if path.endswith(LOG_SUFFIX):
            self.cuts.append(f"{path} would be removed")

    def sync_directory(self, path: str) -> None:
        del path

    def free_bytes(self) -> int:
        return self._disk.free_bytes()
