"""Where replicas and leaders should be: plans to even out the load and to empty a broker.

A plan is a list of moves that can be run in any number at a time, each leaving its partition with
as many replicas as before. What a plan for balance promises, of the brokers that may be given
replicas (those that are up and not cordoned):

1. No partition is spread over fewer racks than before; one that shares a rack without need is
   spread. A broker that names no rack is a rack of its own.
2. Within a rack, and everywhere if no racks are named, the numbers of replicas differ by one at
   most. No more replicas move than that takes, where racks do not stand in the way.
3. Within the same racks the bytes of two brokers differ by a tenth of the average, or by the
   size of the largest partition, whichever is more. Replicas are swapped for that. Where disks are
   of different size, that holds of the bytes as shares of the disks.
4. Nobody is the first replica of two more than it could be: leaders are shared as evenly as the
   replicas allow. That moves no data.
5. As far as 1 to 4 allow, the CPU that partitions take differs by a tenth of a core, or by a fifth
   of the average if that is more. Leaders are handed over for that, then replicas swapped.
6. What brokers have that may be given nothing stays there. To empty one is another plan. A disk
   that is or would be over 80 % full gets no fuller, but by what comes from one that is as full.
7. Of what a plan has brought about, the next plan is empty, if the load stays the same.

Each step of 1 raises the number of racks, each of 2 lowers the sum of the squares of the numbers
of replicas and leaves 1 alone, each of 3 lowers that of the bytes and leaves 1 and 2 alone, and so
on: so it ends, and ends where no step is left. Those of 5 are in relieving.py.

CPU is what the work of a partition (core/broker/traffic.py) takes the broker that has it. What it
takes is measured, a broker by itself: a slow one, or one that is busy with other things too, has
less to do. A cluster that has nothing to do is planned by 1 to 4 alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from zmqmq.client.machines.loads import Loads, Placed, Seat
from zmqmq.client.machines.relieving import relieve

__all__ = ["Move", "Placed", "Seat", "Why", "plan_balance", "plan_drain"]


class Why(NamedTuple):
    """What a move is for: what a broker has now, and will have when all moves are done."""

    what: str
    """`racks`, `replicas`, `bytes`, `leaders` or `cpu`, which is in millicores."""
    broker: int
    before: int
    after: int


class Move(NamedTuple):
    """A partition, its replicas now and as they should be, the preferred leader first."""

    topic: str
    partition: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    bytes: int
    """Of one replica; 0 if that is not known."""
    why: Why | None = None

    @property
    def added(self) -> tuple[int, ...]:
        """The brokers that get a replica."""
        return tuple(b for b in self.after if b not in self.before)

    @property
    def removed(self) -> tuple[int, ...]:
        """The brokers that lose theirs."""
        return tuple(b for b in self.before if b not in self.after)

    @property
    def moved_bytes(self) -> int:
        """What has to be copied."""
        return self.bytes * len(self.added)


def plan_balance(seats: Iterable[Seat], partitions: Sequence[Placed]) -> list[Move]:
    """Moves that even out the load; none if it is even. Those that move data come first."""
    loads = Loads(seats, partitions)
    if len(loads.open) > 1:
        while _even_out_data(loads):
            pass
        _even_out_leaders(loads)
        relieve(loads, _settle)
    return _explained(_moves(partitions, loads), Loads(loads.seats, partitions), loads)


def plan_drain(
    seats: Iterable[Seat], partitions: Sequence[Placed], leaving: int
) -> tuple[list[Move], int]:
    """Moves that empty a broker, and how many replicas have to stay there: for want of others, or
    because they are fixed.

    Of what stays for want of others it is the first replica only where it is the only one.
    """
    loads = Loads(seats, partitions)
    loads.close(leaving)
    staying = 0
    # The largest first: what is left evens out what they have made uneven.
    order = sorted(loads.held[leaving], key=lambda i: (-partitions[i].bytes, i))
    for index in order:
        if partitions[index].is_fixed:
            staying += 1
            continue
        target = loads.best_place(index, leaving)
        if target is not None:
            loads.move(index, leaving, target)
            continue
        staying += 1
        others = [b for b in loads.replicas[index] if b != leaving]
        if others and loads.replicas[index][0] == leaving:
            first = min(others, key=lambda b: (b not in loads.open, loads.led[b], b))
            loads.lead(index, first)
            loads.put_last(index, leaving)
    return _moves(partitions, loads), staying


def _moves(partitions: Sequence[Placed], loads: Loads) -> list[Move]:
    moves = [
        Move(p.topic, p.partition, p.replicas, loads.replicas[index], p.bytes)
        for index, p in enumerate(partitions)
        if loads.replicas[index] != p.replicas
    ]
    return [m for m in moves if m.added] + [m for m in moves if not m.added]


def _explained(moves: list[Move], before: Loads, after: Loads) -> list[Move]:
    """With the reason of each."""
    places = {(p.topic, p.partition): i for i, p in enumerate(after.partitions)}
    found = []
    for move in moves:
        index = places[move.topic, move.partition]
        what, broker = after.whys[index]
        was, will = (_amount(what, broker, index, loads) for loads in (before, after))
        found.append(move._replace(why=Why(what, broker, was, will)))
    return found


def _amount(what: str, broker: int, index: int, loads: Loads) -> int:
    match what:
        case "racks":
            return loads.rack_count(index)
        case "replicas":
            return loads.count(broker)
        case "bytes":
            return loads.bytes[broker]
        case "leaders":
            return loads.led[broker]
        case _:
            return loads.cpu(broker)


def _settle(loads: Loads) -> int:
    """Promises 1 to 4; how many steps that took."""
    return _even_out_data(loads) + _even_out_leaders(loads)


def _even_out_data(loads: Loads) -> int:
    return _spread(loads) + _even_out_replicas(loads) + _even_out_bytes(loads)


def _spread(loads: Loads) -> int:
    """Promise 1: give partitions that have two replicas in one rack another one."""
    steps = 0
    for index in loads.movable:
        while loads.shares_rack(index):
            step = loads.best_spread(index)
            if step is None:
                break
            loads.move(index, *step)
            loads.note(index, "racks", step[0])
            steps += 1
    return steps


def _even_out_replicas(loads: Loads) -> int:
    """Promise 2."""
    steps = 0
    while any(
        loads.count(high) - loads.count(low) > 1 and _move_one(loads, high, low)
        for high, low in loads.pairs(loads.count)
    ):
        steps += 1
    return steps


def _move_one(loads: Loads, high: int, low: int) -> bool:
    """Move what brings the bytes of the two closest together; of one topic as the others."""
    gap, scale = loads.fill(high) - loads.fill(low), loads.scale[high] + loads.scale[low]
    sizes = loads.partitions
    found = [
        i for i in loads.movable_between(high, low) if loads.has_room(high, low, sizes[i].bytes)
    ]
    if not found:
        return False
    topics = loads.topics

    def cost(index: int) -> tuple[int, int, int]:
        topic = sizes[index].topic
        surplus = topics[high].get(topic, 0) - topics[low].get(topic, 0)
        return abs(gap - scale * sizes[index].bytes), -surplus, index

    best = min(found, key=cost)
    loads.move(best, high, low)
    loads.note(best, "replicas", high)
    return True


def _even_out_bytes(loads: Loads) -> int:
    """Promise 3."""
    steps = 0
    tolerance = sum(map(loads.fill, loads.open)) // (10 * len(loads.open))
    while any(
        loads.fill(high) - loads.fill(low) > tolerance and _exchange(loads, high, low)
        for high, low in loads.pairs(loads.fill)
    ):
        steps += 1
    return steps


def _exchange(loads: Loads, high: int, low: int) -> bool:
    """Move one replica, or swap two, so that the difference becomes smaller."""
    gap, scale = loads.fill(high) - loads.fill(low), loads.scale[high] + loads.scale[low]
    sizes = loads.partitions

    def helps(less: int) -> bool:
        return 0 < scale * less < 2 * gap and loads.has_room(high, low, less)

    mine = loads.movable_between(high, low)
    if loads.count(high) > loads.count(low):
        alone = [i for i in mine if helps(sizes[i].bytes)]
        if alone:
            chosen = min(alone, key=lambda i: (abs(gap - scale * sizes[i].bytes), i))
            loads.move(chosen, high, low)
            loads.note(chosen, "bytes", high)
            return True
    theirs = sorted(loads.movable_between(low, high), key=lambda i: (sizes[i].bytes, i))
    best: tuple[int, int, int] | None = None
    for index in mine:
        other = _closest(theirs, sizes, sizes[index].bytes - gap // scale)
        for candidate in other:
            less = sizes[index].bytes - sizes[candidate].bytes
            if helps(less):
                found = (abs(gap - scale * less), index, candidate)
                best = found if best is None else min(best, found)
    if best is None:
        return False
    loads.move(best[1], high, low)
    loads.move(best[2], low, high)
    loads.note(best[1], "bytes", high)
    loads.note(best[2], "bytes", high)
    return True


def _closest(ordered: list[int], sizes: Sequence[Placed], size: int) -> list[int]:
    """Those whose size is next to this one, below and above."""
    low, high = 0, len(ordered)
    while low < high:
        middle = (low + high) // 2
        if sizes[ordered[middle]].bytes < size:
            low = middle + 1
        else:
            high = middle
    return ordered[max(low - 1, 0) : low + 1]


def _even_out_leaders(loads: Loads) -> int:
    """Promise 4: hand first places along a chain of brokers, from who has two more than its end."""
    steps = 0
    while any(_hand_on(loads, high) for high in loads.by_leaders()):
        steps += 1
    return steps


def _hand_on(loads: Loads, high: int) -> bool:
    if all(loads.led[b] > loads.led[high] - 2 for b in loads.open):
        return False
    came: dict[int, tuple[int, int]] = {}
    """Of each broker that is reached: from whom, by which partition."""
    queue = deque([high])
    while queue:
        broker = queue.popleft()
        if loads.led[broker] <= loads.led[high] - 2:
            while broker != high:
                before, index = came[broker]
                loads.lead(index, broker)
                loads.note(index, "leaders", high)
                broker = before
            return True
        for index in loads.led_by(broker):
            for other in loads.replicas[index][1:]:
                if other in loads.open and other != high and other not in came:
                    came[other] = (broker, index)
                    queue.append(other)
    return False
