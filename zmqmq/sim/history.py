"""What the clients of a simulation saw, in order: the only thing that the checkers look at.

Every operation is an `invoke` entry and later an `ok`, a `fail` (a definite no: it has not happened
and never will) or an `info` (*perhaps*). One whose client has died is left without an end, which
means *perhaps* too. What merely arrives, such as records, is an `ok` of its own.

A client that starts again is another client: `p1.2` is the second life of `p1`. Records carry
their sender and number, and a checksum over both and the padding, so that one that was damaged,
mixed up or never sent shows itself wherever it turns up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol
from zlib import crc32

INVOKE: Final = "invoke"
OK: Final = "ok"
FAIL: Final = "fail"
INFO: Final = "info"

SEND: Final = "send"
POLL: Final = "poll"
SEEK: Final = "seek"
END: Final = "end"
START: Final = "start"
DRAINED: Final = "drained"
COMMIT: Final = "commit"
COMMITTED: Final = "committed"
STORED: Final = "stored"
CREATE: Final = "create"
ALTER: Final = "alter"
DELETE: Final = "delete"
SURVEY: Final = "survey"
MOVE: Final = "move"
ELECT: Final = "elect"

Log = tuple[str, int]
"""A topic's label and a partition. A topic made anew under an old name has another label: see
`label_of`."""


class Sending(NamedTuple):
    """SEND, asked: a record, and the partition if it was given one."""

    topic: str
    partition: int | None
    value: bytes
    acks: int
    is_idempotent: bool
    key: bytes | None = None


class Stored(NamedTuple):
    """SEND, ok: where the record is; offset -1: the broker did not say."""

    topic: str
    partition: int
    offset: int


class Polled(NamedTuple):
    """POLL, ok: records that a consumer was handed, in order."""

    topic: str
    partition: int
    records: list[tuple[int, bytes]]
    epoch: int
    """The leader epoch of their batch."""


class Refused(NamedTuple):
    """POLL, fail: what a consumer was told instead of records."""

    code: str
    detail: str


class Position(NamedTuple):
    """SEEK, ok: where a consumer goes on. END and START, ok: what LIST_OFFSETS said."""

    topic: str
    partition: int
    offset: int


class Drained(NamedTuple):
    """DRAINED, ok: this client has read all of a log, from its start to its end."""

    topic: str
    partition: int
    start: int
    end: int


class Committing(NamedTuple):
    """COMMIT, asked: offsets of a group, by log. COMMITTED, asked: the same without offsets."""

    group: str
    offsets: Mapping[Log, int | None]


class Resumed(NamedTuple):
    """STORED, ok: where a member of a group began; the log's start if nothing was committed."""

    group: str
    topic: str
    partition: int
    offset: int


class Described(NamedTuple):
    """CREATE, ALTER, DELETE: a topic as it was asked for. SURVEY, ok: as it was found after
    everything. No partitions: there is no such topic."""

    topic: str
    partitions: int
    config: Mapping[str, object]


class Moving(NamedTuple):
    """MOVE: to which brokers a partition is to go; None: nowhere, it stays. ELECT: no brokers."""

    topic: str
    partition: int
    brokers: tuple[int, ...] | None


class Entry(NamedTuple):
    """One line of the history."""

    number: int
    at: int
    """True time in nanoseconds, which the clients cannot see."""
    client: str
    type: str
    f: str
    value: Any
    asked: int
    """The number of the invocation that this ends; its own where there is none."""


class Clock(Protocol):
    """True time."""

    @property
    def now(self) -> int:
        """In nanoseconds."""


class History:
    """Collects the entries."""

    __slots__ = ("_clock", "entries")

    def __init__(self, clock: Clock) -> None:
        self.entries: list[Entry] = []
        self._clock = clock

    def invoke(self, client: str, f: str, value: object) -> int:
        """Somebody asks; the number of the entry is for `end`."""
        number = len(self.entries)
        self.entries.append(Entry(number, self._clock.now, client, INVOKE, f, value, number))
        return number

    def end(self, asked: int, type_: str, value: object) -> None:
        """What became of it."""
        entries = self.entries
        number, begun = len(entries), entries[asked]
        entries.append(Entry(number, self._clock.now, begun.client, type_, begun.f, value, asked))

    def note(self, client: str, f: str, value: object, type_: str = OK) -> None:
        """Something that came unasked, or whose asking does not matter."""
        number = len(self.entries)
        self.entries.append(Entry(number, self._clock.now, client, type_, f, value, number))

    def lines(self) -> list[str]:
        """As JSON, an entry a line."""
        return [json.dumps(_plain(entry)) for entry in self.entries]


def label_of(name: str, life: int) -> str:
    """What the history calls the topic that was made under this name for the n-th time."""
    return f"{name}@{life}" if life else name


def make_value(client: str, number: int, padding: bytes) -> bytes:
    """A record's value: who sent it as their how-many-th, the checksum, and padding."""
    head = b"%s-%d-" % (client.encode(), number)
    return b"%s%08x-%s" % (head, crc32(padding, crc32(head)), padding)


def sender_of(value: bytes) -> tuple[str, int] | None:
    """Who sent it, and as their how-many-th record; None: it is damaged."""
    pieces = value.split(b"-", 3)
    if len(pieces) != 4:
        return None
    client, number, checksum, padding = pieces
    try:
        found = int(number)
        if int(checksum, 16) != crc32(padding, crc32(b"%s-%d-" % (client, found))):
            return None
    except ValueError:
        return None
    return client.decode(errors="replace"), found


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever an entry holds
    """What JSON can hold; bytes become text one to one."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, Mapping):
        return [[_plain(key), _plain(entry)] for key, entry in value.items()]
    if hasattr(value, "_asdict"):
        return {name: _plain(entry) for name, entry in value._asdict().items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return value
