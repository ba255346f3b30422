"""Hands work from brokers that have much to brokers that have little, and keeps all else even.

A step is between two brokers: a first place or a replica for another one, or for nothing where the
one broker has one more of them. So the numbers of replicas and leaders stay as they are. Leaders
are handed over as long as that helps, because it moves no data; then replicas are swapped, if
nothing that a plan promises before suffers by it.

Each step lowers what the busier of the two has by STEP at least, and raises the other one less
high than that was: so it ends.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from zmqmq.client.machines.loads import COST_UNIT, Loads

FLOOR: Final = 100
"""Millicores. Two brokers that differ by a tenth of a core are even."""
STEP: Final = 20
TRIES_MAX: Final = 64
"""So many swaps are tried out before it is said that none is good; of two brokers a few."""
TRIES_OF_TWO: Final = 4

Item = tuple[int, int]
"""Work, and the partition that it comes with."""


class Step(NamedTuple):
    """What one broker gives, and what it gets for it; None: nothing."""

    given: int
    got: int | None
    leads_only: bool

    def apply(self, loads: Loads, high: int, low: int) -> None:
        """Do it."""
        for index, source, target in ((self.given, high, low), (self.got, low, high)):
            if index is not None:
                if self.leads_only:
                    loads.lead(index, target)
                else:
                    loads.move(index, source, target)
                loads.note(index, "cpu", high)


def relieve(loads: Loads, settle: Callable[[Loads], int]) -> None:
    """Make all the steps that there are. `settle` evens out all else; here it has nothing to do,
    and neither has it after any step."""
    while True:
        for high, low in _uneven(loads):
            step = next(_hand_overs(loads, high, low), None)
            if step is not None:
                break
        else:
            found = _find_swap(loads, settle)
            if found is None:
                return
            high, low, step = found
        step.apply(loads, high, low)


def _uneven(loads: Loads) -> Iterator[tuple[int, int]]:
    """A tenth of a core may be between two brokers, or a fifth of the average if that is more."""
    average = sum(map(loads.cpu, loads.open)) // len(loads.open)
    tolerance = max(FLOOR, average // 5)
    for high, low in loads.pairs(loads.cpu):
        if loads.cpu(high) - loads.cpu(low) <= tolerance:
            return
        yield high, low


def _hand_overs(loads: Loads, high: int, low: int) -> Iterator[Step]:
    """First places of partitions that both have, the best first."""

    def items(of: int, to: int) -> list[Item]:
        led = [i for i in loads.led_by(of) if to in loads.replicas[i]]
        return [(loads.work_of_leading(i), i) for i in led]

    has_more = loads.led[high] == loads.led[low] + 1
    for given, got in _best(loads, high, low, items(high, low), items(low, high), alone=has_more):
        yield Step(given, got, leads_only=True)


def _find_swap(loads: Loads, settle: Callable[[Loads], int]) -> tuple[int, int, Step] | None:
    tried = 0
    for high, low in _uneven(loads):
        for count, step in enumerate(_swaps(loads, high, low)):
            if count == TRIES_OF_TWO or tried == TRIES_MAX:
                break
            tried += 1
            trial = loads.copy()
            step.apply(trial, high, low)
            if settle(trial) == 0:
                return high, low, step
    return None


def _swaps(loads: Loads, high: int, low: int) -> Iterator[Step]:
    """Replicas that one has and the other has not, leaders for leaders and followers for
    followers."""
    there, back = loads.movable_between(high, low), loads.movable_between(low, high)
    for leading in (True, False):
        mine, theirs = (
            [(loads.work_at(i, of), i) for i in held if (loads.replicas[i][0] == of) is leading]
            for of, held in ((high, there), (low, back))
        )
        has_more = loads.count(high) == loads.count(low) + 1
        if leading:
            has_more = has_more and loads.led[high] == loads.led[low] + 1
        for given, got in _best(loads, high, low, mine, theirs, alone=has_more):
            size = loads.partitions[given].bytes
            size -= 0 if got is None else loads.partitions[got].bytes
            source, target = (high, low) if size > 0 else (low, high)
            if size == 0 or loads.has_room(source, target, abs(size)):
                yield Step(given, got, leads_only=False)


def _best(
    loads: Loads, high: int, low: int, mine: Sequence[Item], theirs: Sequence[Item], *, alone: bool
) -> list[tuple[int, int | None]]:
    """What to give for what: those first that leave the busier of both least, then those with the
    least to copy."""
    limit = loads.cpu(high) - STEP
    wanted = (loads.cpu(high) - loads.cpu(low)) * COST_UNIT
    wanted //= max(loads.cost(high) + loads.cost(low), 1)
    ordered = sorted(theirs)
    found = []
    for work, index in mine:
        at = bisect_left(ordered, (work - wanted, 0))
        others: list[tuple[int, int | None]] = [*ordered[max(at - 1, 0) : at + 1]]
        if alone:
            others.append((0, None))
        for less, other in others:
            most = max(loads.cpu(high, less - work), loads.cpu(low, work - less))
            if most <= limit:
                size = loads.partitions[index].bytes
                size += 0 if other is None else loads.partitions[other].bytes
                found.append((most // STEP, size, index, -1 if other is None else other))
    return [(index, None if other < 0 else other) for _, _, index, other in sorted(found)]
