"""What a data directory says about itself, and the checkpoint of all its logs.

    format       whose directory this is, and which broker epochs it vouches for (JSON)
    checkpoints  recovery point, start offset and high watermark of every log; whether it was
                 stopped cleanly
    metadata.db  the embedded metadata store
    lock         held by the broker that has it open
    logs/<topic id>.<partition>.<log>/
    quarantine/  the last damaged copy of each log, put aside

Both small files are replaced whole and carry a CRC-32C. A `checkpoints` that cannot be read costs
a longer start; a `format` that cannot be read is an error, for nothing else says whose data this
is.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field
from dataclasses import replace as changed
from typing import Final

import msgpack
from crc32c import crc32c

from zmqmq.core.storage.disk import Disk, is_whole, read_all, replace
from zmqmq.core.storage.log import LOGS_FOLDER, LogKey
from zmqmq.core.storage.recovery import Checkpoint
from zmqmq.core.storage.segment import LOG_SUFFIX
from zmqmq.errors import DirectoryError

FORMAT_VERSION: Final = 2
FORMAT_FILE: Final = "format"
CHECKPOINTS_FILE: Final = "checkpoints"
QUARANTINE_FOLDER: Final = "quarantine"
UNVOUCHED_MAX: Final = 1_000
"""Logs that `format` names one by one; with more of them it vouches for none."""
_CHECKPOINTS_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class Format:
    """Whose data this is."""

    cluster: str
    """Cluster id, 32 hex digits."""
    broker: int
    epoch: int
    """The broker epoch of the last process that opened this directory."""
    format: int = FORMAT_VERSION
    since_fsync: int | None = None
    """What was flushed since this broker epoch is here (D4). None: since the next one."""
    since_clean: int | None = None
    """What was written since this broker epoch is here, for every stop since was a clean one."""
    clean_epoch: int | None = None
    """The last process stopped cleanly, and this was its broker epoch."""
    unvouched: Mapping[str, int | None] = field(default_factory=dict)
    """Folders of logs of which that holds only since a later epoch (D5); None as above."""

    def without(self, folder: str) -> Format:
        """The same, but nothing is vouched for of this log; of none when they become too many."""
        unvouched = {**self.unvouched, folder: None}
        if len(unvouched) > UNVOUCHED_MAX:
            return changed(self, since_fsync=None, since_clean=None, unvouched={})
        return changed(self, unvouched=unvouched)


def key_of(name: str) -> LogKey | None:
    """Which log a folder in logs/ is of; None if it is none."""
    try:
        topic, partition, number = name.split(".")
        key = LogKey(bytes.fromhex(topic), int(partition), int(number))
    except ValueError:
        return None
    return key if key.folder == f"{LOGS_FOLDER}/{name}" else None


def orphans(disk: Disk, topics: Container[bytes]) -> list[str]:
    """Folders of logs whose topic is none of these.

    They stay where they are. A topic that was deleted while this broker was down, or whose deletion
    a crash has stopped, looks like one that a metadata.db of yesterday does not know yet (C12).
    """
    keys = [key_of(name) for name in disk.list(LOGS_FOLDER)]
    return [key.folder for key in keys if key is not None and key.topic_id not in topics]


def read_format(disk: Disk) -> Format | None:
    """What the directory says, or None for a new one. Raises DirectoryError."""
    content = read_all(disk, FORMAT_FILE)
    if content is None:
        if disk.list(LOGS_FOLDER):
            raise DirectoryError(
                f"there are logs but no file {FORMAT_FILE!r}: not a data directory of zmqmq, or "
                "the file was lost; restore it from a backup"
            )
        return None
    text, _, checksum = content.rpartition(b"\n")
    if checksum != b"%08x" % crc32c(text):
        raise DirectoryError(
            f"file {FORMAT_FILE!r} is damaged (its checksum is wrong); restore it from a backup"
        )
    fields = json.loads(text)
    if fields["format"] > FORMAT_VERSION:
        raise DirectoryError(
            f"the directory has format {fields['format']}; this release reads up to "
            f"{FORMAT_VERSION}: use a newer zmqmq"
        )
    if fields["format"] == 1:
        # Of a broker alone, whose logs were here from its first epoch on.
        fields.update(format=FORMAT_VERSION, since_fsync=0)
    return Format(**fields)


def write_format(disk: Disk, values: Format) -> None:
    """Replace the file, durably."""
    assert len(values.unvouched) <= UNVOUCHED_MAX
    text = json.dumps(asdict(values)).encode()
    replace(disk, FORMAT_FILE, text + b"\n%08x" % crc32c(text))


def read_checkpoints(disk: Disk) -> dict[str, Checkpoint]:
    """The checkpoint of each log, by folder; empty where there is none that can be trusted."""
    content = read_all(disk, CHECKPOINTS_FILE)
    if content is None or not is_whole(content):
        return {}
    version, logs = msgpack.unpackb(content[4:])
    if version > _CHECKPOINTS_VERSION:
        return {}
    return {folder: Checkpoint(*row) for folder, *row in logs}


def write_checkpoints(disk: Disk, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Replace the file, durably.

    A checkpoint that calls its log clean must be taken back before anything is appended to it.
    """
    rows = [
        [folder, c.recovery_point, c.start_offset, c.clean, c.high_watermark]
        for folder, c in sorted(checkpoints.items())
    ]
    body = msgpack.packb([_CHECKPOINTS_VERSION, rows])
    replace(disk, CHECKPOINTS_FILE, crc32c(body).to_bytes(4, "big") + body)


def quarantine(disk: Disk, key: LogKey) -> None:
    """Put a damaged copy aside, in place of the one that was put aside before, durably (D5).

    `format` says durably before that the log vouches for nothing. Afterwards its checkpoint goes,
    and then it is opened, empty. After a crash in between all its segments are missing, which is
    damage: this is done again, and keeps what is in quarantine already.
    """
    folder = key.folder
    aside = f"{QUARANTINE_FOLDER}/{folder.removeprefix(LOGS_FOLDER + '/')}"
    disk.make_directory(QUARANTINE_FOLDER)
    disk.sync_directory("")
    names = disk.list(folder)
    if any(name.endswith(LOG_SUFFIX) and disk.open(f"{folder}/{name}").size for name in names):
        _remove_folder(disk, aside)
        disk.sync_directory(QUARANTINE_FOLDER)
        disk.rename(folder, aside)
        disk.sync_directory(QUARANTINE_FOLDER)
    else:
        _remove_folder(disk, folder)
    disk.sync_directory(LOGS_FOLDER)


def _remove_folder(disk: Disk, folder: str) -> None:
    for name in disk.list(folder):
        disk.remove(f"{folder}/{name}")
    disk.remove(folder)
