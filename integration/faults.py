"""The faults: each kind begins and ends, and says what it takes.

The budget, so that whatever the judge finds is a bug and no argument:

- Processes may die, freeze and stop, nodes may be cut off, disks may fail and lose their power, in
  any number and all at once: under `flush = fsync` what was acknowledged lies on the disks of two
  brokers at least, and nothing here takes what was flushed away from a disk.
- But for `wipe`. A directory is only removed while nothing else is wrong, every copy of every
  partition is in sync, and it lasts until they are again: two whole copies remain at any time. If
  they are not in sync within `IN_SYNC_S`, the fault is spared.
- Two faults that need the same part of a node (`Fault.takes`) are never there together, or the end
  of one would end the other.
- Members of etcd keep what they wrote, and at the end all three run: the metadata is not what is
  tested here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from integration.world import Way, Weather, What, World

IN_SYNC_S: Final = 40.0
ALL: Final = "all"
PROCESS, NETWORK, DISK, CLOCK = "process", "network", "disk", "clock"
PARTS: Final = (PROCESS, NETWORK, DISK, CLOCK)
RESTART_S: Final = 2.0


class Planned(NamedTuple):
    """One line of a schedule."""

    at_ms: int
    kind: str
    target: str
    """A node, or `all` of a kind of nodes."""
    duration_ms: int
    amount: int
    """What it means is for the kind to say."""

    def __str__(self) -> str:
        at, lasts = self.at_ms / 1_000, self.duration_ms / 1_000
        return f"{at:6.1f} s  {self.kind} {self.target} for {lasts:.1f} s ({self.amount})"


@dataclass(frozen=True, slots=True)
class Scene:
    """What faults act upon."""

    world: World
    is_in_sync: Callable[[], bool]
    """Whether every copy of every partition is."""


class Fault:
    """One fault: `start`, later `stop`."""

    parts: ClassVar[tuple[str, ...]] = (PROCESS,)
    """What of its nodes nobody else may touch meanwhile."""
    of_members: ClassVar[bool] = False
    """Whether its targets are members of etcd."""
    on_all: ClassVar[bool] = False
    """Whether its target is every node of a kind."""
    amounts: ClassVar[tuple[int, ...]] = (0,)

    def __init__(self, scene: Scene, plan: Planned) -> None:
        self.world = scene.world
        self.scene = scene
        self.plan = plan
        self.node = plan.target

    def takes(self) -> frozenset[tuple[str, str]]:
        """Node and part of it, as drawn: `takes_of` this plan."""
        return takes_of(self.plan, self.world.brokers, self.world.members)

    def start(self) -> bool:
        """Begin; False: it would be more than the budget allows, and nothing was done."""
        self.begin()
        return True

    def begin(self) -> None:
        """What `start` does where the budget is no matter."""
        raise NotImplementedError

    def stop(self) -> None:
        """All is as it was."""
        raise NotImplementedError


class Kill(Fault):
    """SIGKILL, and a start."""

    def begin(self) -> None:
        self.world.kill(self.node)

    def stop(self) -> None:
        self.world.start(self.node)


class KillAll(Fault):
    """SIGKILL of every broker."""

    on_all = True

    def begin(self) -> None:
        for node in self.world.brokers:
            self.world.kill(node)

    def stop(self) -> None:
        for node in self.world.brokers:
            self.world.start(node)


class Terminate(Kill):
    """SIGTERM, and a start."""

    def begin(self) -> None:
        self.world.stop(self.node)


class Rolling(Fault):
    """SIGTERM and a start of one broker after the other."""

    on_all = True

    def begin(self) -> None:
        for node in self.world.brokers:
            self.world.stop(node)
            self.world.start(node)
            time.sleep(RESTART_S)

    def stop(self) -> None:
        """It is over when the last has been started."""


class Pause(Fault):
    """SIGSTOP: what waited happens at once afterwards."""

    def begin(self) -> None:
        self.world.pause(self.node)

    def stop(self) -> None:
        self.world.resume(self.node)


class Cut(Fault):
    """No packet passes between the node and some others."""

    parts = (NETWORK,)
    what: ClassVar[What] = What.ALL
    ways: ClassVar[tuple[Way, ...]] = (Way.BOTH,)

    @property
    def _way(self) -> Way:
        return self.ways[self.plan.amount]

    def begin(self) -> None:
        self.world.cut(self.node, self.what, self._way)

    def stop(self) -> None:
        self.world.heal(self.node, self.what, self._way)


class CutFromEtcd(Cut):
    what = What.ETCD


class CutFromPeers(Cut):
    what = What.PEERS


class CutFromClients(Cut):
    what = What.CLIENTS


class OneWay(Cut):
    """It hears and is not heard (1), or the other way round (0)."""

    amounts = (0, 1)
    ways = (Way.IN, Way.OUT)


class Reset(Fault):
    """Its connections break, again and again while it lasts (only at the start and the end)."""

    parts = (NETWORK,)

    def begin(self) -> None:
        self.world.reset(self.node)

    def stop(self) -> None:
        self.world.reset(self.node)


class Delay(Fault):
    """Packets come late by so many milliseconds."""

    parts = (NETWORK,)
    amounts = (5, 50, 200)

    def weather(self) -> Weather:
        return Weather(delay_ms=self.plan.amount)

    def begin(self) -> None:
        self.world.slow(self.node, self.weather())

    def stop(self) -> None:
        self.world.calm(self.node)


class Reorder(Delay):
    """Packets come late by up to so many milliseconds, each by another time."""

    amounts = (10, 40)

    def weather(self) -> Weather:
        return Weather(delay_ms=1, jitter_ms=self.plan.amount)


class Loss(Delay):
    """So many of a hundred packets are lost."""

    amounts = (2, 10, 30)

    def weather(self) -> Weather:
        return Weather(loss=self.plan.amount / 100)


class FullDisk(Fault):
    """No room is left."""

    parts = (DISK,)

    def begin(self) -> None:
        self.world.fill(self.node)

    def stop(self) -> None:
        self.world.free(self.node)


class DeadDisk(Fault):
    """Every call to the disk fails while the broker goes on; then it is replaced as it was when it
    failed, without what had not been flushed."""

    parts = (PROCESS, DISK)

    def begin(self) -> None:
        self.world.kill_disk(self.node)

    def stop(self) -> None:
        self.world.kill(self.node)
        self.world.mend_disk(self.node)
        self.world.start(self.node)


class BadSyncs(Fault):
    """fsync fails; then the broker is killed and started."""

    parts = (PROCESS, DISK)

    def begin(self) -> None:
        self.world.fail_syncs(self.node)

    def stop(self) -> None:
        self.world.kill(self.node)
        self.world.start(self.node)


class PowerCut(Fault):
    """The power of one broker goes, and comes back."""

    parts = (PROCESS, DISK)

    def nodes(self) -> Iterable[str]:
        return (self.node,)

    def begin(self) -> None:
        self.world.cut_power(list(self.nodes()))

    def stop(self) -> None:
        for node in self.nodes():
            self.world.mend_disk(node)
            self.world.start(node)


class PowerCutAll(PowerCut):
    """The power of all brokers goes at one instant."""

    on_all = True

    def nodes(self) -> Iterable[str]:
        return self.world.brokers


class Clock(Fault):
    """The wall clock jumps by so many seconds, and back."""

    parts = (CLOCK,)
    amounts = (-3_600, -10, 10, 3_600)

    def begin(self) -> None:
        self.world.skew(self.node, self.plan.amount)

    def stop(self) -> None:
        self.world.skew(self.node, 0)


class Wipe(Fault):
    """A broker comes back without its data, while nothing else is wrong."""

    parts = PARTS
    on_all = True

    def start(self) -> bool:
        """Only where two whole copies of everything remain."""
        if not self._wait_in_sync():
            return False
        self.begin()
        return True

    def begin(self) -> None:
        node = self.world.brokers[self.plan.amount]
        self.world.kill(node)
        self.world.wipe(node)
        self.world.start(node)

    def stop(self) -> None:
        """Nothing else goes wrong before the copies are there again."""
        self._wait_in_sync()

    amounts = (0, 1, 2)

    def _wait_in_sync(self) -> bool:
        end = time.monotonic() + IN_SYNC_S
        while time.monotonic() < end:
            if self.scene.is_in_sync():
                return True
            time.sleep(0.5)
        return False


class KillMember(Kill):
    of_members = True


class PauseMember(Pause):
    of_members = True


class CutMember(Cut):
    """A member of etcd is cut off from everybody."""

    of_members = True


class LoseQuorum(Fault):
    """Two members of etcd are killed (amount 0) or frozen (1)."""

    of_members = True
    on_all = True
    amounts = (0, 1)

    def begin(self) -> None:
        for node in self.world.members[1:]:
            (self.world.pause if self.plan.amount else self.world.kill)(node)

    def stop(self) -> None:
        for node in self.world.members[1:]:
            (self.world.resume if self.plan.amount else self.world.start)(node)


class LoseEtcd(Fault):
    """All members are killed."""

    of_members = True
    on_all = True

    def begin(self) -> None:
        for node in self.world.members:
            self.world.kill(node)

    def stop(self) -> None:
        for node in self.world.members:
            self.world.start(node)


KINDS: Final[Mapping[str, type[Fault]]] = {
    "kill": Kill,
    "kill-all": KillAll,
    "terminate": Terminate,
    "rolling": Rolling,
    "pause": Pause,
    "cut": Cut,
    "cut-from-etcd": CutFromEtcd,
    "cut-from-peers": CutFromPeers,
    "cut-from-clients": CutFromClients,
    "one-way": OneWay,
    "reset": Reset,
    "delay": Delay,
    "reorder": Reorder,
    "loss": Loss,
    "full-disk": FullDisk,
    "dead-disk": DeadDisk,
    "bad-syncs": BadSyncs,
    "power-cut": PowerCut,
    "power-cut-all": PowerCutAll,
    "clock": Clock,
    "wipe": Wipe,
    "etcd-kill": KillMember,
    "etcd-pause": PauseMember,
    "etcd-cut": CutMember,
    "etcd-quorum": LoseQuorum,
    "etcd-all": LoseEtcd,
}


def takes_of(
    plan: Planned, brokers: Iterable[str], members: Iterable[str]
) -> frozenset[tuple[str, str]]:
    """Node and part of it: what nobody else may touch while this lasts."""
    kind = KINDS[plan.kind]
    nodes = [plan.target]
    if kind.on_all:
        nodes = list(members if kind.of_members else brokers)
        if kind.parts == PARTS:
            nodes = [*brokers, *members]
    return frozenset((node, part) for node in nodes for part in kind.parts)
