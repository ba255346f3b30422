"""Who holds what while a plan is made: counts that follow every move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from typing import Final, NamedTuple

FULL_PERCENT: Final = 80
"""A disk that would be fuller gets nothing, but from one that is at least as full as it is."""
COST_UNIT: Final = 10**9


class Seat(NamedTuple):
    """A broker."""

    broker: int
    rack: str | None
    is_open: bool
    """Whether it may be given replicas: it is up, and not cordoned."""
    cost: int = 0
    """Billionths of a millicore that work of one a second takes it; 0: CPU does not count."""
    other_cpu: int = 0
    """Millicores that it needs for what is not the work of partitions."""
    disk_bytes: int = 0
    """The size of its disk; 0: not known."""
    disk_used_bytes: int = 0


class Placed(NamedTuple):
    """A partition and where it is."""

    topic: str
    partition: int
    replicas: tuple[int, ...]
    """The preferred leader first; of one that is being moved, those that it will have."""
    bytes: int
    """Of one replica."""
    is_fixed: bool = False
    """Whether it stays as it is: it is being moved already, or nobody leads it."""
    work: int = 0
    """What it gives its leader to do (core/broker/traffic.py), a second."""
    copy_work: int = 0
    """And each follower."""


class Loads:
    """The brokers and partitions of a plan."""

    def __init__(self, seats: Iterable[Seat], partitions: Sequence[Placed]) -> None:
        self.partitions = partitions
        self.seats = tuple(seats)
        known = {seat.broker: seat for seat in self.seats}
        for placed in partitions:
            for broker in placed.replicas:
                known.setdefault(broker, Seat(broker, None, is_open=False))
        brokers = sorted(known)
        self._racks = {b: _rack_of(known[b]) for b in brokers}
        self.open = {b: None for b in brokers if known[b].is_open}
        self._seats = known
        self.scale = _scales(known, self.open)
        """By which the bytes of a broker are multiplied to be compared: the less disk it has, the
        more they weigh."""
        self.held: dict[int, dict[int, None]] = {b: {} for b in brokers}
        self.bytes = dict.fromkeys(brokers, 0)
        self.work = dict.fromkeys(brokers, 0)
        self.led = dict.fromkeys(brokers, 0)
        self.topics: dict[int, dict[str, int]] = {b: {} for b in brokers}
        """Of each broker, how many replicas of a topic it has."""
        self.replicas = [placed.replicas for placed in partitions]
        self.movable = [i for i, placed in enumerate(partitions) if not placed.is_fixed]
        self._fixed = {i: None for i, placed in enumerate(partitions) if placed.is_fixed}
        for index, placed in enumerate(partitions):
            self.led[placed.replicas[0]] += 1
            for broker in placed.replicas:
                self._take(index, broker)
        self._bytes_before = dict(self.bytes)
        self.whys: dict[int, tuple[str, int]] = {}
        """Of what has been moved: what for, and for the sake of which broker."""

    def copy(self) -> Loads:
        """To try something out."""
        other = copy(self)
        other.replicas = list(self.replicas)
        other.open = dict(self.open)
        other.held = {b: dict(held) for b, held in self.held.items()}
        other.topics = {b: dict(counts) for b, counts in self.topics.items()}
        other.whys = dict(self.whys)
        other.bytes, other.work, other.led = dict(self.bytes), dict(self.work), dict(self.led)
        return other

    def close(self, broker: int) -> None:
        """It may be given nothing any more."""
        self.open.pop(broker, None)
        if broker not in self.held:
            self.held[broker] = {}

    def count(self, broker: int) -> int:
        """How many replicas it has."""
        return len(self.held[broker])

    def fill(self, broker: int) -> int:
        """Its bytes, as a share of its disk; of brokers with disks of one size they compare as the
        bytes do."""
        return self.bytes[broker] * self.scale[broker]

    def cpu(self, broker: int, more_work: int = 0) -> int:
        """Its millicores, with so much more work or less."""
        seat = self._seats[broker]
        return seat.other_cpu + (self.work[broker] + more_work) * seat.cost // COST_UNIT

    def cost(self, broker: int) -> int:
        """What work takes it."""
        return self._seats[broker].cost

    def disk_permille(self, broker: int, more_bytes: int = 0) -> int:
        """How full its disk is when all is done; 0: not known."""
        seat = self._seats[broker]
        come = self.bytes[broker] - self._bytes_before[broker] + more_bytes
        used = max(seat.disk_used_bytes + come, 0)
        return used * 1_000 // seat.disk_bytes if seat.disk_bytes else 0

    def has_room(self, source: int, target: int, size: int) -> bool:
        """Whether one may be given so many bytes of the other."""
        return self.disk_permille(target, size) <= 10 * FULL_PERCENT or self.disk_permille(
            target
        ) <= self.disk_permille(source)

    def pairs(self, load: Callable[[int], int]) -> Iterator[tuple[int, int]]:
        """Brokers with more and with less of it, those that differ most first."""
        loads = {broker: load(broker) for broker in self.open}
        found = [
            (loads[low] - loads[high], high, low)
            for high in loads
            for low in loads
            if loads[high] > loads[low]
        ]
        for _, high, low in sorted(found):
            yield high, low

    def by_leaders(self) -> list[int]:
        """Open brokers, those first that are the first replica of most."""
        return sorted(self.open, key=lambda b: (-self.led[b], b))

    def led_by(self, broker: int) -> list[int]:
        """Movable partitions of which it is the first replica."""
        return [
            i for i in self.held[broker] if self.replicas[i][0] == broker and i not in self._fixed
        ]

    def movable_between(self, source: int, target: int) -> list[int]:
        """Partitions that one has and the other has not, and whose racks are none the fewer."""
        held = self.held[target]
        return [
            i
            for i in self.held[source]
            if i not in held and i not in self._fixed and self._keeps_racks(i, source, target)
        ]

    def rack_count(self, index: int) -> int:
        """Over how many racks a partition is spread."""
        return len(self._racks_of(index))

    def shares_rack(self, index: int) -> bool:
        """Whether two replicas of a partition are in one rack."""
        return self.rack_count(index) < len(self.replicas[index])

    def best_spread(self, index: int) -> tuple[int, int] | None:
        """From where to where a replica goes to be in a rack of its own; None: there is none."""
        racks = self._racks_of(index)
        sources = [b for b in self.replicas[index] if racks[self._racks[b]] > 1 and b in self.open]
        if not sources:
            return None
        source = max(sources, key=lambda b: (self.count(b), self.fill(b), b))
        size = self.partitions[index].bytes
        targets = (
            b for b in self.open if self._racks[b] not in racks and self.has_room(source, b, size)
        )
        target = min(targets, key=self._fullness, default=None)
        return None if target is None else (source, target)

    def best_place(self, index: int, leaving: int) -> int | None:
        """Which open broker takes a replica over: in a rack apart from the others if there is one,
        then the one that has least."""
        racks = self._racks_of(index)
        racks[self._racks[leaving]] -= 1
        size = self.partitions[index].bytes
        others = (b for b in self.open if b not in self.replicas[index])
        return min(
            (b for b in others if self.has_room(leaving, b, size)),
            key=lambda b: (racks.get(self._racks[b], 0), *self._fullness(b)),
            default=None,
        )

    def move(self, index: int, source: int, target: int) -> None:
        """A replica goes from one broker to another, to the same place in the order."""
        placed, replicas = self.partitions[index], self.replicas[index]
        self.work[source] -= self.work_at(index, source)
        self.replicas[index] = tuple(target if b == source else b for b in replicas)
        if replicas[0] == source:
            self.led[source] -= 1
            self.led[target] += 1
        del self.held[source][index]
        self.bytes[source] -= placed.bytes
        self.topics[source][placed.topic] -= 1
        self._take(index, target)

    def note(self, index: int, what: str, broker: int) -> None:
        """Why a partition is moved; the first reason counts."""
        self.whys.setdefault(index, (what, broker))

    def lead(self, index: int, broker: int) -> None:
        """It becomes the first replica; the others keep their order."""
        replicas, more = self.replicas[index], self.work_of_leading(index)
        self.led[replicas[0]] -= 1
        self.led[broker] += 1
        self.work[replicas[0]] -= more
        self.work[broker] += more
        self.replicas[index] = (broker, *(b for b in replicas if b != broker))

    def put_last(self, index: int, broker: int) -> None:
        """It becomes the last replica; it is not the first."""
        self.replicas[index] = (*(b for b in self.replicas[index] if b != broker), broker)

    def work_at(self, index: int, broker: int) -> int:
        """What a partition gives one of its replicas to do."""
        placed = self.partitions[index]
        return placed.work if self.replicas[index][0] == broker else placed.copy_work

    def work_of_leading(self, index: int) -> int:
        """What goes with the first place."""
        return self.partitions[index].work - self.partitions[index].copy_work

    def _take(self, index: int, broker: int) -> None:
        placed = self.partitions[index]
        self.held[broker][index] = None
        self.bytes[broker] += placed.bytes
        self.work[broker] += self.work_at(index, broker)
        topics = self.topics[broker]
        topics[placed.topic] = topics.get(placed.topic, 0) + 1

    def _fullness(self, broker: int) -> tuple[int, int, int]:
        return self.count(broker), self.fill(broker), broker

    def _racks_of(self, index: int) -> dict[str, int]:
        """How many replicas of a partition are in each rack."""
        racks: dict[str, int] = {}
        for broker in self.replicas[index]:
            racks[self._racks[broker]] = racks.get(self._racks[broker], 0) + 1
        return racks

    def _keeps_racks(self, index: int, source: int, target: int) -> bool:
        # Asked of every replica for every pair of brokers: no more is built than is needed.
        racks = self._racks
        if racks[source] == racks[target]:
            return True
        others = [racks[b] for b in self.replicas[index] if b != source]
        return racks[source] in others or racks[target] not in others


def _rack_of(seat: Seat) -> str:
    return f"broker {seat.broker}" if seat.rack is None else f"rack {seat.rack}"


def _scales(seats: dict[int, Seat], among: Iterable[int]) -> dict[int, int]:
    """By the size of disks, if those of all open brokers are known."""
    sizes = [seats[b].disk_bytes for b in among]
    if not sizes or not all(sizes):
        return dict.fromkeys(seats, 1)
    most = max(sizes)
    return {b: 1_000 * most // (seat.disk_bytes or most) for b, seat in seats.items()}
