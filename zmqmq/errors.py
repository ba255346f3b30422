"""Everything that can go wrong and is not our own bug.

ZmqmqError
├── ConfigError               a setting is unknown, out of bounds or contradicts another
├── UsageError                the caller broke a rule of the API
│   ├── ClosedError           used after close()
│   └── BufferFullError       the producer's buffer is full and it was told to refuse
├── ProtocolError             the peer sent something that is not the protocol
├── CorruptDataError          bytes do not have the checksum or the shape they claim
├── StoreError                the metadata store (core/meta/store.py)
├── StorageError              the disk, or what is on it
│   ├── DiskFullError
│   └── DirectoryError        this data directory is not ours to open
├── RefusedError              the broker said no, and has changed nothing
│   ├── RetryError            no for now: wait, refresh, ask again
│   ├── FencedError           no for ever: somebody newer has taken this role
│   ├── DeniedError           this principal may not
│   ├── NotFoundError         no such topic, partition, group or broker
│   ├── ConflictError         it exists already, or has changed since it was read
│   └── OffsetOutOfRangeError nothing is stored under this offset
└── OutcomeUnknownError       it may have happened, it may yet happen
    ├── TimedOutError
    ├── DisconnectedError
    └── NotCommittedError     appended, but not known to be committed

Two rules:

- A broken invariant is none of these. It is an AssertionError: a broker stops on it, a
  client hands it to the caller, nobody catches it to carry on.
- Numbers in `Code` are part of the wire protocol. They are never reused, renumbered or
  given a new meaning. Names may be improved.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Code(enum.IntEnum):
    """Why a broker refused, or what it cannot promise. Sent over the wire."""

    MALFORMED = 1
    UNKNOWN_API = 2
    UNSUPPORTED_VERSION = 3
    TOO_LARGE = 4
    NEED_HELLO = 5
    SESSION_FENCED = 6
    DENIED = 7
    INVALID_NAME = 8
    INVALID_CONFIG = 9
    UNKNOWN_TOPIC = 10
    UNKNOWN_PARTITION = 11
    TOPIC_EXISTS = 12
    OFFSET_OUT_OF_RANGE = 13
    CORRUPT_BATCH = 14
    OUT_OF_ORDER_SEQUENCE = 15
    DUPLICATE_SEQUENCE = 16
    UNKNOWN_PRODUCER = 17
    PRODUCER_FENCED = 18
    CONFLICT = 19
    WRONG_CLUSTER = 20
    UNKNOWN_GROUP = 21
    UNKNOWN_BROKER = 22
    NOT_LEADER = 30
    COORDINATOR_LOADING = 31
    THROTTLED = 32
    TOPIC_FULL = 33
    DISK_FULL = 34
    DEADLINE_PASSED = 35
    SHUTTING_DOWN = 36
    TOO_MANY_SESSIONS = 37
    NOT_ENOUGH_REPLICAS = 38
    FENCED_LEADER_EPOCH = 39
    STORAGE_DAMAGED = 40
    STORAGE_OFFLINE = 41
    TIMED_OUT = 50
    NOT_COMMITTED = 51
    INTERNAL = 60


class ZmqmqError(Exception):
    """The base of every error that zmqmq raises on purpose."""

    retriable: bool = False
    """A broker's word on whether the same request may succeed later; nobody else says so."""


class ConfigError(ZmqmqError):
    """A setting is unknown, out of bounds or contradicts another."""


class UsageError(ZmqmqError):
    """The caller broke a rule of the API."""


class ClosedError(UsageError):
    """Used after close()."""


class BufferFullError(UsageError):
    """The producer's buffer is full, and it was told to refuse rather than wait."""


class ProtocolError(ZmqmqError):
    """The peer sent something that is not the protocol (docs/protocol.md)."""


class CorruptDataError(ZmqmqError):
    """Bytes do not have the checksum or the shape they claim."""


class StorageError(ZmqmqError):
    """The disk, or what is on it."""


class DiskFullError(StorageError):
    """No room; nothing was written."""


class DirectoryError(StorageError):
    """This data directory is in use, of another cluster, or of a newer format."""


class HaltedError(StorageError):
    """The broker has stopped itself: its disk failed, or it must not go on. Start it again."""


class WireError(ZmqmqError):
    """What a broker answered instead of a result.

    `code` is the stable number, `retriable` the broker's word on whether the same request
    may succeed later, `hints` what else it said (`retry_after_ms`, `leader`, …).
    """

    code: Code = Code.INTERNAL
    hints: Mapping[str, object]

    def __init__(
        self,
        detail: str = "",
        *,
        code: Code | None = None,
        retriable: bool | None = None,
        hints: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        if code is not None:
            self.code = code
        if retriable is not None:
            self.retriable = retriable
        self.hints = hints or {}

    @property
    def detail(self) -> str:
        """What is so, with the values, and the way out."""
        return str(self.args[0]) if self.args else ""


class RefusedError(WireError):
    """The broker said no, and has changed nothing."""


class RetryError(RefusedError):
    """No for now: wait, refresh metadata, ask again."""

    code = Code.THROTTLED
    retriable = True


class FencedError(RefusedError):
    """No for ever: somebody newer has taken this role."""

    code = Code.PRODUCER_FENCED


class DeniedError(RefusedError):
    """This principal may not do this to that."""

    code = Code.DENIED


class NotFoundError(RefusedError):
    """There is no such topic, partition, group or broker."""

    code = Code.UNKNOWN_TOPIC


class ConflictError(RefusedError):
    """It exists already, or has changed since it was read."""

    code = Code.CONFLICT


class InvalidNameError(RefusedError):
    """A topic or group may not be called this."""

    code = Code.INVALID_NAME


class OffsetOutOfRangeError(RefusedError):
    """Nothing is stored under this offset, or not what was read before it; `hints` has `log_start`
    and `end`, and in the latter case `parted`: from there on the log is another one."""

    code = Code.OFFSET_OUT_OF_RANGE


class OutcomeUnknownError(WireError):
    """It may have happened, it may yet happen.

    An idempotent producer can send the same batch again. Anyone else has to look first.
    """

    code = Code.TIMED_OUT
    retriable = True


class TimedOutError(OutcomeUnknownError):
    """No answer came in time."""


class DisconnectedError(OutcomeUnknownError):
    """The connection went away with the answer outstanding."""


class NotCommittedError(OutcomeUnknownError):
    """Appended, but not known to be committed."""

    code = Code.NOT_COMMITTED


_RETRIABLE = frozenset(
    {
        Code.NEED_HELLO,
        Code.OUT_OF_ORDER_SEQUENCE,
        Code.NOT_LEADER,
        Code.COORDINATOR_LOADING,
        Code.THROTTLED,
        Code.TOPIC_FULL,
        Code.DISK_FULL,
        Code.SHUTTING_DOWN,
        Code.TOO_MANY_SESSIONS,
        Code.NOT_ENOUGH_REPLICAS,
        Code.FENCED_LEADER_EPOCH,
        Code.TIMED_OUT,
        Code.NOT_COMMITTED,
    }
)

_CLASSES: dict[Code, type[WireError]] = {
    Code.DENIED: DeniedError,
    Code.INVALID_NAME: InvalidNameError,
    Code.UNKNOWN_TOPIC: NotFoundError,
    Code.UNKNOWN_PARTITION: NotFoundError,
    Code.UNKNOWN_GROUP: NotFoundError,
    Code.UNKNOWN_BROKER: NotFoundError,
    Code.TOPIC_EXISTS: ConflictError,
    Code.CONFLICT: ConflictError,
    Code.OFFSET_OUT_OF_RANGE: OffsetOutOfRangeError,
    Code.PRODUCER_FENCED: FencedError,
    Code.SESSION_FENCED: FencedError,
    Code.UNKNOWN_PRODUCER: FencedError,
    Code.TIMED_OUT: TimedOutError,
    Code.NOT_COMMITTED: NotCommittedError,
    Code.INTERNAL: OutcomeUnknownError,  # after a bug nobody knows what has happened
}


def is_retriable(code: Code) -> bool:
    """Whether the same request may succeed later without anybody changing it."""
    return code in _RETRIABLE


def refusal(code: Code, detail: str = "", hints: Mapping[str, object] | None = None) -> WireError:
    """The exception of a code, as the broker raises it and the client hands it on."""
    retriable = is_retriable(code)
    chosen = _CLASSES.get(code, RetryError if retriable else RefusedError)
    return chosen(detail, code=code, retriable=retriable, hints=hints)


def error_from_wire(fields: Mapping[object, object]) -> WireError:
    """The exception for an `error` map of a reply; unknown codes keep their `retriable`."""
    number, detail = fields.get("code"), str(fields.get("detail", ""))
    retriable = fields.get("retriable") is True
    hints = {
        str(k): v for k, v in fields.items() if k not in {"code", "name", "retriable", "detail"}
    }
    try:
        code = Code(number)  # type: ignore[arg-type]
    except ValueError:
        kind = RetryError if retriable else RefusedError
        return kind(
            f"{fields.get('name', number)}: {detail}",
            code=Code.INTERNAL,
            retriable=retriable,
            hints=hints,
        )
    error = refusal(code, detail, hints)
    error.retriable = retriable
    return error


def error_to_wire(error: WireError) -> dict[str, object]:
    """The `error` map of a reply."""
    return {
        "code": int(error.code),
        "name": error.code.name,
        "retriable": error.retriable,
        "detail": error.detail,
        **error.hints,
    }
