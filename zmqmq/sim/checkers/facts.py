"""A history read once: what was sent, what is known of each log. Checkers look things up here."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from zmqmq.sim.history import (
    DELETE,
    DRAINED,
    END,
    INVOKE,
    OK,
    POLL,
    SEND,
    Drained,
    Entry,
    Log,
    Polled,
    Position,
    Sending,
    Stored,
    sender_of,
)
from zmqmq.wire.apis import ACKS_ALL


class Violation(NamedTuple):
    """A promise that was not kept."""

    kind: str
    """A short stable name."""
    where: str
    """The log, group or topic."""
    detail: str
    entries: tuple[int, ...]
    """The entries of the history that contradict each other, by number."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What was announced, and so breaks no promise."""

    losses: Mapping[Log, Sequence[tuple[int, int | None]]] = field(default_factory=dict)
    """Offsets, from and to, that an unclean election has flagged as lost; they are used again."""
    trimmed: Container[str] = ()
    """Topics from whose logs retention may remove what is old."""
    refusals: Container[str] = ()
    """Codes with which readers may be refused."""
    compacted: Container[str] = ()
    """Topics from whose logs a record may vanish when a newer one has its key."""
    starts: Mapping[Log, int] = field(default_factory=dict)
    """Where logs from which retention removes what is old began at some time; another copy may have
    more."""


class Sent:
    """One record from its sending to its outcome."""

    __slots__ = ("asked", "asking", "ended", "number", "sender", "stored", "type")

    def __init__(self, asked: int, asking: Sending, sender: str, number: int) -> None:
        self.asked = asked
        self.asking = asking
        self.sender = sender
        self.number = number
        self.type = INVOKE
        """INVOKE while it has no outcome."""
        self.ended = -1
        self.stored: Stored | None = None


class LogFacts:
    """What all clients together know of one partition."""

    __slots__ = (
        "acked",
        "drained",
        "drained_at",
        "found",
        "known",
        "newest",
        "order",
        "polled",
        "raised",
    )

    def __init__(self) -> None:
        self.known: dict[int, tuple[bytes, int]] = {}
        """By offset: the value, and the entry that told it first. From committed reads and from
        acknowledgements of acks=all."""
        self.order: list[int] = []
        """The offsets of `known`, ascending."""
        self.polled: dict[int, int] = {}
        """By offset: the entry of the first read."""
        self.acked: list[Sent] = []
        """With acks=all."""
        self.drained: Drained | None = None
        self.drained_at = -1
        self.found: dict[int, bytes] = {}
        """What whoever drained it has read."""
        self.newest: dict[bytes, int] = {}
        """By key: the highest offset under which a record is known, in compacted logs; of what was
        found at the end, if it was drained."""
        self.raised: list[tuple[int, int]] = []
        """The committed end as far as anybody knew it: entry and end, whenever it grew."""

    def learn(self, index: int, offset: int, value: bytes) -> bool:
        """Note a committed record; whether nothing else is known of its offset."""
        known = self.known.setdefault(offset, (value, index))
        return known[0] == value

    def raise_end(self, index: int, end: int) -> None:
        """Somebody was told of something committed that ends there."""
        if not self.raised or end > self.raised[-1][1]:
            self.raised.append((index, end))


class Facts:
    """Everything of a history that several checkers want."""

    def __init__(self, entries: Sequence[Entry], allowed: Allowed) -> None:
        self.entries = entries
        self.allowed = allowed
        self.sent: dict[bytes, Sent] = {}
        """Every record that anybody sent, by value."""
        self.places: dict[bytes, tuple[Log, int, int]] = {}
        """By value: the log and offset where it was seen first, and the entry."""
        self.twice: list[tuple[bytes, Log, int, int]] = []
        """Values seen at another place too: log, offset, entry."""
        self.conflicts: list[tuple[Log, int, bytes, int]] = []
        """Other values under an offset: log, offset, value, entry."""
        self.logs: dict[Log, LogFacts] = {}
        self.deleted: dict[str, int] = {}
        """Topics that somebody began to delete."""
        self._by_asked: dict[int, Sent] = {}
        self._draining: dict[tuple[str, Log], dict[int, bytes]] = {}
        self._read()

    def log(self, log: Log) -> LogFacts:
        """What is known of one."""
        facts = self.logs.get(log)
        if facts is None:
            facts = self.logs[log] = LogFacts()
        return facts

    def is_lost(self, log: Log, first: int, end: int | None = None) -> bool:
        """Whether a flagged loss touches the offset, or the range."""
        ranges = self.allowed.losses.get(log, ())
        last = first if end is None else end - 1
        return any(start <= last and (stop is None or first < stop) for start, stop in ranges)

    def first_lost(self, log: Log) -> int | None:
        """The lowest offset that a flagged loss may have taken."""
        return min((start for start, _ in self.allowed.losses.get(log, ())), default=None)

    def is_replaced(self, log: Log, offset: int) -> bool:
        """Whether compaction may have taken a record that is known: a newer one has its key, or had
        it and was lost with a flag."""
        facts = self.logs[log]
        known = facts.known.get(offset)
        sent = None if known is None else self.sent.get(known[0])
        key = None if sent is None else sent.asking.key
        if key is None or log[0] not in self.allowed.compacted:
            return False
        return log in self.allowed.losses or facts.newest.get(key, -1) > offset

    def _read(self) -> None:
        for entry in self.entries:
            f = entry.f
            if f == SEND:
                self._read_send(entry)
            elif f == POLL and entry.type == OK:
                self._read_poll(entry)
            elif f == END and entry.type == OK:
                position: Position = entry.value
                log = self.log((position.topic, position.partition))
                log.raise_end(entry.number, position.offset)
            elif f == DRAINED:
                drained: Drained = entry.value
                key = drained.topic, drained.partition
                log = self.log(key)
                log.found = found = self._draining.get((entry.client, key), {})
                if drained.topic in self.allowed.trimmed:
                    # Each copy is trimmed by its own broker: another leader may begin earlier.
                    first = min(found, default=drained.end)
                    drained = drained._replace(start=max(drained.start, first))
                log.drained, log.drained_at = drained, entry.number
            elif f == DELETE and entry.type == INVOKE:
                self.deleted[entry.value.topic] = entry.number
        for key, log in self.logs.items():
            log.order = sorted(log.known)
            if key[0] in self.allowed.compacted:
                self._find_newest(log)

    def _find_newest(self, log: LogFacts) -> None:
        for offset in log.order:
            if log.drained is None or offset in log.found:
                sent = self.sent.get(log.known[offset][0])
                if sent is not None and sent.asking.key is not None:
                    log.newest[sent.asking.key] = offset

    def _read_send(self, entry: Entry) -> None:
        if entry.type == INVOKE:
            asking: Sending = entry.value
            sender, number = sender_of(asking.value) or ("", 0)
            assert sender, "a workload sends what is no record of the history"
            sent = Sent(entry.number, asking, sender, number)
            self.sent[asking.value] = self._by_asked[entry.number] = sent
            return
        sent = self._by_asked[entry.asked]
        sent.type, sent.ended = entry.type, entry.number
        if entry.type != OK:
            return
        stored: Stored = entry.value
        sent.stored = stored
        if sent.asking.acks != ACKS_ALL:
            return
        key = stored.topic, stored.partition
        log = self.log(key)
        log.acked.append(sent)
        if stored.offset >= 0:
            self._learn(key, log, entry.number, stored.offset, sent.asking.value)
            log.raise_end(entry.number, stored.offset + 1)

    def _read_poll(self, entry: Entry) -> None:
        polled: Polled = entry.value
        key = polled.topic, polled.partition
        log = self.log(key)
        index = entry.number
        drain = self._draining.setdefault((entry.client, key), {})
        for offset, value in polled.records:
            drain[offset] = value
            log.polled.setdefault(offset, index)
            self._learn(key, log, index, offset, value)
        if polled.records:
            log.raise_end(index, polled.records[-1][0] + 1)

    def _learn(self, key: Log, log: LogFacts, index: int, offset: int, value: bytes) -> None:
        if not log.learn(index, offset, value):
            self.conflicts.append((key, offset, value, index))
        place = self.places.setdefault(value, (key, offset, index))
        if place[1] != offset or place[0] != key:
            self.twice.append((value, key, offset, index))


def name_of(log: Log) -> str:
    """How violations name a log."""
    return f"{log[0]}/{log[1]}"
