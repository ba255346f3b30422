"""One run: a world from a seed, faults for a while, then none; what must hold is checked."""

from __future__ import annotations

import gc
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from zmqmq.errors import Code
from zmqmq.sim.checkers import Allowed, Violation, check
from zmqmq.sim.cluster import Cluster
from zmqmq.sim.coverage import Coverage
from zmqmq.sim.faults import Fault
from zmqmq.sim.history import Log
from zmqmq.sim.invariants import Invariants
from zmqmq.sim.liveness import ProbingClient, faults_of_cluster, faults_of_copies, unread
from zmqmq.sim.nemesis import Nemesis
from zmqmq.sim.node import MS, SECOND
from zmqmq.sim.swarm import World, draw_world, make_clients
from zmqmq.sim.trace import Trace
from zmqmq.sim.violation import InvariantError
from zmqmq.sim.workloads.base import SimClient
from zmqmq.sim.workloads.consume import ConsumingClient
from zmqmq.sim.workloads.settle import DrainingClient, FoundingClient

SLICE_NS: Final = 100 * MS
FOUNDING_NS: Final = 30 * SECOND
HEALING_NS: Final = 60 * SECOND
"""In so much time all partitions are led and in sync again, and every one takes records."""
ENDING_NS: Final = 90 * SECOND
"""In so much time whatever clients have asked for has an outcome: more than any time-out."""
READING_NS: Final = 300 * SECOND
"""In so much time consumers have got everything: also one that asks for a few records at a time,
in the worst weather, and that first has to hear of a partition (METADATA)."""
DRAINING_NS: Final = 60 * SECOND


@dataclass(slots=True)
class Result:
    """What came of it."""

    seed: int
    violations: list[Violation] = field(default_factory=list)
    digest: str = ""
    marks: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    times: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    simulated_ns: int = 0
    schedule: Sequence[Fault] = ()
    run: Run | None = None
    """For whoever wants to look closer."""


class _Late(Exception):  # noqa: N818 - a verdict, not an error
    """Something did not come about in time."""


class Run:
    """A run, phase by phase."""

    def __init__(self, seed: int, world: World, trace: Trace) -> None:
        self.world = world
        self.cluster = Cluster(seed, world.cluster, trace)
        self.invariants = Invariants(self.cluster)
        self.coverage = Coverage(self.cluster)
        self.times: Counter[str] = Counter()
        """How many milliseconds some things took that may take only so long."""
        self.topics = {name: plan.partitions for name, plan in world.topics.items()}
        brokers = world.cluster.brokers
        stage = self.cluster.stage
        self.clients = make_clients(stage, world.clients, world.topics, brokers)
        self.nemesis = Nemesis(self.cluster, self.clients)

    def found(self) -> None:
        """Start the brokers; make the topics."""
        self.cluster.start()
        founders = []
        for name, plan in self.world.topics.items():
            founder = FoundingClient(
                self.cluster.stage,
                f"f-{name}",
                {name: plan.partitions},
                plan.replicas,
                {name: plan.config},
            )
            founder.start()
            founders.append(founder)
        self._await("not founded", FOUNDING_NS, lambda: _busy(founders))

    def suffer(self) -> None:
        """The clients work, and the nemesis too."""
        for client in self.clients.values():
            client.start()
        self.nemesis.begin(self.world.schedule)
        loop = self.cluster.loop
        loop.run_until(loop.now + self.world.seconds * SECOND)

    def recover(self) -> None:
        """Nothing goes wrong any more: everything has to work again, and come to an end."""
        self.nemesis.heal()
        for client in self.clients.values():
            # Segments of some kilobytes and slow links are a match for a producer in a hurry.
            client.calm()
            if not client.node.is_up:
                client.node.restart()
        probe = ProbingClient(
            self.cluster.stage, "probe", self.topics, 20, acks="all", idempotent=True
        )
        probe.start()
        self._await("not healed", HEALING_NS, lambda: faults_of_cluster(self.cluster))
        self._await("takes nothing", HEALING_NS, lambda: _unproven(probe))
        clients = [probe, *self.clients.values()]
        self._await_readers(clients)
        for client in clients:
            client.stop()
        self._await("clients do not end", ENDING_NS, lambda: _busy(clients))
        self._await("copies differ", HEALING_NS, lambda: faults_of_copies(self.cluster))
        self._await("not healed", HEALING_NS, lambda: faults_of_cluster(self.cluster))

    def _await_readers(self, clients: Sequence[SimClient]) -> None:
        """Whoever reads gets everything, once nobody writes any more."""
        others = [client for client in clients if not isinstance(client, ConsumingClient)]
        for client in others:
            client.stop()
        self._await("clients do not end", ENDING_NS, lambda: _busy(others))
        self._await("copies differ", HEALING_NS, lambda: faults_of_copies(self.cluster))
        for client in clients:
            if isinstance(client, ConsumingClient):
                client.catch_up()
        self._await("not read", READING_NS, lambda: unread(self.cluster, clients))

    def drain(self) -> None:
        """Read everything that is left."""
        drainer = DrainingClient(self.cluster.stage, "drain", self.topics)
        drainer.start()
        self._await("not drained", DRAINING_NS, lambda: () if drainer.is_done else ("drain",))
        self.invariants.finish()

    def _await(self, kind: str, bound: int, open_matters: Callable[[], Iterable[str]]) -> None:
        loop = self.cluster.loop
        began = loop.now
        while (matter := next(iter(open_matters()), None)) is not None:
            if loop.now >= began + bound:
                raise _Late(kind, f"after {bound / SECOND:.0f} s: {matter}")
            loop.run_until(loop.now + SLICE_NS)
        self.times[kind] = max(self.times[kind], (loop.now - began) // MS)

    def allowed(self) -> Allowed:
        """What was announced."""
        losses: dict[Log, list[tuple[int, int | None]]] = {}
        for loss in self.invariants.losses:
            losses.setdefault((loss.topic, loss.partition), []).append((loss.start, loss.end))
        trimmed = [name for name, plan in self.world.topics.items() if plan.is_trimmed]
        compacted = [name for name, plan in self.world.topics.items() if plan.is_compacted]
        # The one copy of a partition that has no other is offline when its disk has failed.
        failed = self.nemesis.census["disk_fails"] + self.nemesis.census["full_disk"]
        refusals = (Code.STORAGE_OFFLINE.name,) if failed else ()
        return Allowed(losses, trimmed, refusals, compacted, self.invariants.starts())


def run(
    seed: int,
    schedule: Sequence[Fault] | None = None,
    *,
    seconds: int | None = None,
    without: Sequence[str] = (),
    trace: Trace | None = None,
) -> Result:
    """Run a seed; with another schedule, for another time or without some clients if given."""
    world = draw_world(seed, seconds)
    if schedule is not None:
        world = replace(world, schedule=schedule)
    if without:
        world = replace(
            world,
            clients=[plan for plan in world.clients if plan.name not in without],
            schedule=[fault for fault in world.schedule if fault.target not in without],
        )
    trace = trace or Trace()
    result = Result(seed, schedule=world.schedule)
    play = result.run = Run(seed, world, trace)
    gc.disable()  # a tenth of the time, and a run makes few cycles
    try:
        _play(play, result)
    finally:
        gc.enable()
    result.digest = trace.digest()
    result.steps, result.simulated_ns = play.cluster.loop.steps, play.cluster.loop.now
    result.marks = play.coverage.finish(play.cluster.history.entries)
    result.faults, result.times = play.nemesis.census, play.times
    return result


def _play(play: Run, result: Result) -> None:
    try:
        play.found()
        play.suffer()
        play.recover()
        play.drain()
    except _Late as late:
        kind, detail = late.args
        result.violations.append(Violation(kind, "cluster", detail, ()))
        return
    except InvariantError as error:
        result.violations.append(Violation(f"invariant {error.rule}", "cluster", str(error), ()))
        return
    except Exception as error:  # noqa: BLE001 - whatever a machine raises is a broken promise
        where = traceback.extract_tb(error.__traceback__)[-1]
        detail = "".join(traceback.format_exception(error))
        place = f"{where.filename.rpartition('zmqmq/')[2]}:{where.lineno}"
        result.violations.append(Violation("crashed", place, detail, ()))
        return
    result.violations += check(play.cluster.history.entries, play.allowed())


def _busy(clients: Iterable[SimClient]) -> Iterable[str]:
    return (client.name for client in clients if not client.is_idle)


def _unproven(probe: ProbingClient) -> Iterable[str]:
    return () if probe.is_done else (f"{probe.waiting}",)
