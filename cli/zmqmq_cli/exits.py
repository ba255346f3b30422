"""From an error to an exit code, a stable name and a way out."""

from __future__ import annotations

import enum
import errno
import re
from dataclasses import dataclass
from typing import Final

from zmqmq.errors import (
    BufferFullError,
    Code,
    ConfigError,
    ConflictError,
    DeniedError,
    DirectoryError,
    DisconnectedError,
    NotFoundError,
    OffsetOutOfRangeError,
    OutcomeUnknownError,
    UsageError,
    WireError,
    ZmqmqError,
)


class Exit(enum.IntEnum):
    """What a script learns of how it went; documented in docs/cli.md."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    DENIED = 5
    CANNOT_CONNECT = 6
    INCOMPLETE = 7
    UNSUPPORTED = 8
    INTERRUPTED = 130
    BROKEN_PIPE = 141


MEANINGS: Final[dict[Exit, str]] = {
    Exit.OK: "done",
    Exit.FAILURE: "it failed, and none of the reasons below is the reason",
    Exit.USAGE: "the command line, a setting or a name is wrong",
    Exit.NOT_FOUND: "there is no such topic, partition, broker, offset or file",
    Exit.CONFLICT: "it exists already, or somebody else has it open",
    Exit.DENIED: "not allowed",
    Exit.CANNOT_CONNECT: "no broker could be reached, or the connection went away",
    Exit.INCOMPLETE: "no answer in time, or only a part was done",
    Exit.UNSUPPORTED: "the broker speaks no version that this client speaks",
    Exit.INTERRUPTED: "stopped by Ctrl-C",
    Exit.BROKEN_PIPE: "the reader of the output went away, as `head` does; nothing is said",
}


class PartialError(ZmqmqError):
    """Some of it was done; the message says how much."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to print about an error, and what to exit with."""

    exit: Exit
    code: str
    message: str
    hint: str = ""
    retriable: bool = False


_BY_CODE: Final[dict[Code, Exit]] = {
    Code.INVALID_NAME: Exit.USAGE,
    Code.INVALID_CONFIG: Exit.USAGE,
    Code.UNSUPPORTED_VERSION: Exit.UNSUPPORTED,
    Code.UNKNOWN_API: Exit.UNSUPPORTED,
}
_BY_CLASS: Final[tuple[tuple[type[Exception], Exit], ...]] = (
    (PartialError, Exit.INCOMPLETE),
    (ConfigError, Exit.USAGE),
    (BufferFullError, Exit.INCOMPLETE),
    (UsageError, Exit.USAGE),
    (DirectoryError, Exit.CONFLICT),
    (NotFoundError, Exit.NOT_FOUND),
    (OffsetOutOfRangeError, Exit.NOT_FOUND),
    (ConflictError, Exit.CONFLICT),
    (DeniedError, Exit.DENIED),
    (DisconnectedError, Exit.CANNOT_CONNECT),
    (OutcomeUnknownError, Exit.INCOMPLETE),
    (FileNotFoundError, Exit.NOT_FOUND),
    (PermissionError, Exit.DENIED),
)
_HINTS: Final[dict[Code, str]] = {
    Code.UNKNOWN_TOPIC: "zmqmq topics list shows what there is",
    Code.TOPIC_EXISTS: "--if-not-exists is content with the one that is there",
    Code.UNKNOWN_PARTITION: "zmqmq topics describe NAME shows the partitions",
    Code.UNKNOWN_BROKER: "zmqmq cluster brokers shows them; one that is down is there while it has "
    "replicas or is drained",
    Code.OFFSET_OUT_OF_RANGE: "zmqmq overview shows the offsets; -o start or -o end always exist",
    Code.INVALID_CONFIG: "docs/configuration.md, “Topics”, lists the settings",
    Code.TOPIC_FULL: "raise capacity_bytes or capacity_records with zmqmq topics alter, or consume",
    Code.DISK_FULL: "the broker takes records again once its disk has room",
    Code.UNSUPPORTED_VERSION: "use the zmqmq of the broker's version",
}
_CONNECT_HINT: Final = "zmqmq broker starts one here; -s HOST:PORT or ZMQMQ_SERVERS names another"
_TIMEOUT_HINT: Final = "--timeout 60s waits longer"


def verdict(error: Exception) -> Verdict:
    """What to make of an error that reached the top."""
    exit_code = next((code for kind, code in _BY_CLASS if isinstance(error, kind)), Exit.FAILURE)
    if isinstance(error, OSError):
        return _of_system(error, exit_code)
    if not isinstance(error, WireError):
        return Verdict(exit_code, _name_of(error), str(error))
    if isinstance(error, DisconnectedError):
        code, hint = _name_of(error), _CONNECT_HINT
    else:
        code, hint = error.code.name, _HINTS.get(error.code, "")
        if error.code is Code.TIMED_OUT:
            hint = _TIMEOUT_HINT
    return Verdict(
        _BY_CODE.get(error.code, exit_code), code, error.detail or code, hint, error.retriable
    )


def _of_system(error: OSError, exit_code: Exit) -> Verdict:
    name = errno.errorcode.get(error.errno or 0, "OS")
    said = (error.strerror or str(error)).lower()
    return Verdict(exit_code, name, f"{error.filename}: {said}" if error.filename else said)


def _name_of(error: Exception) -> str:
    """`ConfigError` to `CONFIG`, `DiskFullError` to `DISK_FULL`."""
    words = re.findall(r"[A-Z][a-z]*", type(error).__name__.removesuffix("Error"))
    return "_".join(words).upper()
