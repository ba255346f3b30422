"""The faults: each kind begins and ends, and says what it takes.

The budget, so that whatever the judge finds is a bug and no argument:

- Processes may die, freeze and stop, nodes may be cut off, disks may fail and lose their power, in
  any number and all at once: under `flush = fsync` what was acknowledged lies on the disks of two
  brokers at least, and nothing here takes what was flushed away from a disk.
- But for `wipe`. A directory is only removed while nothing else is wrong, every copy of every
  partition is in sync, and it lasts until they are again: two whole copies remain at any time. If
  they are not in sync within `IN_SYNC_S`, the fault is spared.
- Two faults that need the same part of a node (`takes_of`) are never there together, or the end of
  one would end the other.
- Members of etcd keep what they wrote, and at the end all three run: the metadata is not what is
  tested here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from threading import Thread
from typing import Final, NamedTuple, Protocol

from integration.world import Way, Weather, What, World

IN_SYNC_S: Final = 40.0
RESTART_S: Final = 2.0
LAST_MS: Final = (500, 7_000)
"""So long faults last: often when the next has begun already."""


class Part(StrEnum):
    """What of a node a fault may need for itself."""

    PROCESS = "process"
    NETWORK = "network"
    DISK = "disk"
    CLOCK = "clock"


class Target(StrEnum):
    """Whom a fault meets."""

    BROKER = "a broker"
    BROKERS = "all brokers"
    MEMBER = "a member of etcd"
    MEMBERS = "all members of etcd"
    ALONE = "a broker, and nothing else may be wrong"


class Planned(NamedTuple):
    """One line of a schedule."""

    at_ms: int
    kind: str
    target: str
    """A node, or `all` of a sort."""
    duration_ms: int
    amount: int
    """What it means is for the kind to say."""

    def __str__(self) -> str:
        at, lasts = self.at_ms / 1_000, self.duration_ms / 1_000
        return f"{at:6.1f}  {self.kind:16} {self.target:3} {lasts:5.1f} {self.amount:5}"

    @classmethod
    def parse(cls, line: str) -> Planned:
        """The opposite of `str`. Raises ValueError, KeyError."""
        at, kind, target, lasts, amount = line.split()
        if kind not in KINDS or int(amount) not in KINDS[kind].amounts:
            raise ValueError(f"{line!r} is no fault")
        return cls(round(float(at) * 1_000), kind, target, round(float(lasts) * 1_000), int(amount))


@dataclass(frozen=True, slots=True)
class Scene:
    """What faults act upon."""

    world: World
    is_in_sync: Callable[[], bool]
    """Whether every copy of every partition is."""
    is_whole: Callable[[str], bool]
    """Whether a broker has all that is committed on its disk."""


class Fault(Protocol):
    """One fault."""

    def start(self) -> bool:
        """Begin; False: it would be more than the budget allows, and nothing was done."""

    def stop(self) -> None:
        """What it did is undone."""


class Down:
    """Processes end, and are started again."""

    def __init__(
        self, end: Callable[[World, str], None], scene: Scene, nodes: Sequence[str], _amount: int
    ) -> None:
        self._end = end
        self._world = scene.world
        self._nodes = nodes

    def start(self) -> bool:
        """End them."""
        for node in self._nodes:
            self._end(self._world, node)
        return True

    def stop(self) -> None:
        """Start them."""
        for node in self._nodes:
            self._world.start(node)


class Rolling:
    """SIGTERM and a start of one broker after the other."""

    def __init__(self, scene: Scene, nodes: Sequence[str], _amount: int) -> None:
        self._world = scene.world
        self._nodes = nodes

        self._thread = Thread(target=self._work)

    def start(self) -> bool:
        """One broker every few seconds."""
        self._thread.start()
        return True

    def stop(self) -> None:
        """It is over when the last has been started."""
        self._thread.join()

    def _work(self) -> None:
        for node in self._nodes:
            self._world.stop(node)
            self._world.start(node)
            time.sleep(RESTART_S)


class Pause:
    """SIGSTOP: what waited happens at once afterwards."""

    def __init__(self, scene: Scene, nodes: Sequence[str], _amount: int) -> None:
        self._world = scene.world
        self._nodes = nodes

    def start(self) -> bool:
        """Stop them."""
        for node in self._nodes:
            self._world.pause(node)
        return True

    def stop(self) -> None:
        """Let them go on."""
        for node in self._nodes:
            self._world.resume(node)


class Cut:
    """No packet passes between the node and some others; in one direction where the amount says so:
    it hears nothing (1), or is not heard (2)."""

    def __init__(self, what: What, scene: Scene, nodes: Sequence[str], amount: int) -> None:
        self._world = scene.world
        self._node = nodes[0]
        self._what = what
        self._way = (Way.BOTH, Way.IN, Way.OUT)[amount]

    def start(self) -> bool:
        """Cut it off."""
        self._world.cut(self._node, self._what, self._way)
        return True

    def stop(self) -> None:
        """Connect it again."""
        self._world.heal(self._node, self._what, self._way)


class Reset:
    """Its connections break, when it begins and when it ends."""

    def __init__(self, scene: Scene, nodes: Sequence[str], _amount: int) -> None:
        self._world = scene.world
        self._node = nodes[0]

    def start(self) -> bool:
        """Break them."""
        self._world.reset(self._node)
        return True

    def stop(self) -> None:
        """Break those that were made since."""
        self._world.reset(self._node)


class BadLink:
    """Packets to a node come late (milliseconds), in another order (by so many milliseconds) or
    not at all (so many of a hundred)."""

    def __init__(self, how: str, scene: Scene, nodes: Sequence[str], amount: int) -> None:
        self._world = scene.world
        self._node = nodes[0]
        self._weather = {
            "delay": Weather(delay_ms=amount),
            "reorder": Weather(delay_ms=1, jitter_ms=amount),
            "loss": Weather(loss=amount / 100),
        }[how]

    def start(self) -> bool:
        """From now on."""
        self._world.slow(self._node, self._weather)
        return True

    def stop(self) -> None:
        """Until now."""
        self._world.calm(self._node)


class FullDisk:
    """No room is left."""

    def __init__(self, scene: Scene, nodes: Sequence[str], _amount: int) -> None:
        self._world = scene.world
        self._node = nodes[0]

    def start(self) -> bool:
        """Fill it."""
        self._world.fill(self._node)
        return True

    def stop(self) -> None:
        """Make room."""
        self._world.free(self._node)


class BadDisk:
    """The disk fails under a broker that goes on, all of it (`World.kill_disk`) or its flushes
    alone (`World.fail_syncs`). Then the broker is killed and has a disk that works, with all that
    was flushed."""

    def __init__(
        self, fail: Callable[[World, str], None], scene: Scene, nodes: Sequence[str], _amount: int
    ) -> None:
        self._fail = fail
        self._world = scene.world
        self._node = nodes[0]

    def start(self) -> bool:
        """Make it fail."""
        self._fail(self._world, self._node)
        return True

    def stop(self) -> None:
        """Replace it."""
        self._world.kill(self._node)
        self._world.mend_disk(self._node)
        self._world.start(self._node)


class PowerCut:
    """The power of some brokers goes at one instant, and comes back."""

    def __init__(self, scene: Scene, nodes: Sequence[str], _amount: int) -> None:
        self._world = scene.world
        self._nodes = nodes

    def start(self) -> bool:
        """It goes."""
        self._world.cut_power(self._nodes)
        return True

    def stop(self) -> None:
        """It comes back."""
        for node in self._nodes:
            self._world.mend_disk(node)
            self._world.start(node)


class Clock:
    """The wall clock jumps by so many seconds, and back."""

    def __init__(self, scene: Scene, nodes: Sequence[str], amount: int) -> None:
        self._world = scene.world
        self._node = nodes[0]
        self._seconds = amount

    def start(self) -> bool:
        """There."""
        self._world.skew(self._node, self._seconds)
        return True

    def stop(self) -> None:
        """And back."""
        self._world.skew(self._node, 0)


class Wipe:
    """A broker is killed and comes back without its data."""

    def __init__(self, scene: Scene, nodes: Sequence[str], _amount: int) -> None:
        self._scene = scene
        self._node = nodes[0]

    def start(self) -> bool:
        """Only where two whole copies of everything remain."""
        if not _until(self._scene.is_in_sync):
            return False
        world = self._scene.world
        world.kill(self._node)
        world.wipe(self._node)
        world.start(self._node)
        return True

    def stop(self) -> None:
        """Nothing else goes wrong before the third copy is there again. That it is in sync does not
        say so: that may be its former self."""
        _until(lambda: self._scene.is_whole(self._node))


def _until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + IN_SYNC_S
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.3)
    return False


class Kind(NamedTuple):
    """A kind of fault."""

    make: Callable[[Scene, Sequence[str], int], Fault]
    """Of what, which nodes, how much."""
    target: Target = Target.BROKER
    parts: tuple[Part, ...] = (Part.PROCESS,)
    amounts: tuple[int, ...] = (0,)
    lasts_ms: tuple[int, int] = LAST_MS


_kill = partial(Down, lambda world, node: world.kill(node))
_terminate = partial(Down, lambda world, node: world.stop(node))


def _minority_left(scene: Scene, nodes: Sequence[str], amount: int) -> Fault:
    """All members but one are killed (amount 0) or frozen (1)."""
    return (Pause if amount else _kill)(scene, nodes[1:], amount)


_LINK: Final = (Part.NETWORK,)
_STORE: Final = (Part.PROCESS, Part.DISK)

KINDS: Final[Mapping[str, Kind]] = {
    "kill": Kind(_kill),
    "kill-all": Kind(_kill, Target.BROKERS),
    "terminate": Kind(_terminate),
    "rolling": Kind(Rolling, Target.BROKERS, lasts_ms=(10_000, 12_000)),
    "pause": Kind(Pause),
    "cut": Kind(partial(Cut, What.ALL), parts=_LINK),
    "cut-from-etcd": Kind(partial(Cut, What.ETCD), parts=_LINK),
    "cut-from-peers": Kind(partial(Cut, What.PEERS), parts=_LINK),
    "cut-from-clients": Kind(partial(Cut, What.CLIENTS), parts=_LINK),
    "one-way": Kind(partial(Cut, What.ALL), parts=_LINK, amounts=(1, 2)),
    "reset": Kind(Reset, parts=_LINK),
    "delay": Kind(partial(BadLink, "delay"), parts=_LINK, amounts=(5, 50, 200)),
    "reorder": Kind(partial(BadLink, "reorder"), parts=_LINK, amounts=(10, 40)),
    "loss": Kind(partial(BadLink, "loss"), parts=_LINK, amounts=(2, 10, 30)),
    "full-disk": Kind(FullDisk, parts=(Part.DISK,)),
    "dead-disk": Kind(partial(BadDisk, lambda world, node: world.kill_disk(node)), parts=_STORE),
    "bad-syncs": Kind(partial(BadDisk, lambda world, node: world.fail_syncs(node)), parts=_STORE),
    "power-cut": Kind(PowerCut, parts=_STORE),
    "power-cut-all": Kind(PowerCut, Target.BROKERS, parts=_STORE),
    "clock": Kind(Clock, parts=(Part.CLOCK,), amounts=(-3_600, -10, 10, 3_600)),
    "wipe": Kind(Wipe, Target.ALONE, parts=tuple(Part)),
    "etcd-kill": Kind(_kill, Target.MEMBER),
    "etcd-pause": Kind(Pause, Target.MEMBER),
    "etcd-cut": Kind(partial(Cut, What.ALL), Target.MEMBER, parts=_LINK),
    "etcd-quorum": Kind(_minority_left, Target.MEMBERS, amounts=(0, 1)),
    "etcd-all": Kind(_kill, Target.MEMBERS),
}


NEED_DISKS: Final = frozenset({"full-disk", "dead-disk", "power-cut", "power-cut-all"})
"""Not without a disk of each broker's own, for which it takes root."""


def nodes_of(plan: Planned, brokers: Sequence[str], members: Sequence[str]) -> Sequence[str]:
    """Whom it meets."""
    target = KINDS[plan.kind].target
    return {Target.BROKERS: brokers, Target.MEMBERS: members}.get(target, [plan.target])


def takes_of(
    plan: Planned, brokers: Sequence[str], members: Sequence[str]
) -> frozenset[tuple[str, Part]]:
    """Node and part of it: what nobody else may touch while this lasts."""
    kind = KINDS[plan.kind]
    is_alone = kind.target is Target.ALONE
    nodes = [*brokers, *members] if is_alone else nodes_of(plan, brokers, members)
    return frozenset((node, part) for node in nodes for part in kind.parts)
