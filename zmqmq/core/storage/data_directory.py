"""What a data directory says about itself, and the checkpoint of all its logs.

    format       this directory's format version, cluster and last broker epoch (JSON)
    checkpoints  recovery point and start offset of every log; whether the last stop was clean
    metadata.db  the embedded metadata store
    lock         held by the broker that has it open
    logs/<topic id>.<partition>.<log>/

Both small files are replaced whole and carry a CRC-32C. A `checkpoints` that cannot be read costs
a longer start; a `format` that cannot be read is an error, for nothing else says whose data this
is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

import msgpack
from crc32c import crc32c

from zmqmq.core.storage.disk import Disk, is_whole, read_all, replace
from zmqmq.core.storage.log import LOGS_FOLDER
from zmqmq.core.storage.recovery import Checkpoint
from zmqmq.errors import DirectoryError

FORMAT_VERSION: Final = 1
FORMAT_FILE: Final = "format"
CHECKPOINTS_FILE: Final = "checkpoints"
_CHECKPOINTS_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Format:
    """Whose data this is."""

    cluster: str
    """Cluster id, 32 hex digits."""
    broker: int
    epoch: int
    """The broker epoch of the last process that opened this directory."""
    format: int = FORMAT_VERSION


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
    return Format(**fields)


def write_format(disk: Disk, values: Format) -> None:
    """Replace the file, durably."""
    text = json.dumps(asdict(values)).encode()
    replace(disk, FORMAT_FILE, text + b"\n%08x" % crc32c(text))


def read_checkpoints(disk: Disk) -> dict[str, Checkpoint]:
    """The checkpoint of each log, by folder; empty where there is none that can be trusted."""
    content = read_all(disk, CHECKPOINTS_FILE)
    if content is None or not is_whole(content):
        return {}
    version, logs = msgpack.unpackb(content[4:])
    if version != _CHECKPOINTS_VERSION:
        return {}
    return {folder: Checkpoint(*row) for folder, *row in logs}


def write_checkpoints(disk: Disk, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Replace the file, durably.

    A checkpoint that calls its log clean must be taken back before anything is appended to it.
    """
    rows = [
        [folder, c.recovery_point, c.start_offset, c.clean]
        for folder, c in sorted(checkpoints.items())
    ]
    body = msgpack.packb([_CHECKPOINTS_VERSION, rows])
    replace(disk, CHECKPOINTS_FILE, crc32c(body).to_bytes(4, "big") + body)
