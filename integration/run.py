"""One run: a cluster, clients, faults for a while, then none; what must hold is judged."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

import zmqmq
from integration.clients import REQUEST_MS, Consuming, Grouped, Producing, Working
from integration.copies import differences, end_of
from integration.faults import Planned, Scene
from integration.history import SharedHistory
from integration.nemesis import Nemesis
from integration.processes import Processes
from integration.settle import LateError, Probe, drain, out_of_sync, unequal, until
from zmqmq.errors import Code, ZmqmqError
from zmqmq.sim.checkers import Allowed, Violation, check
from zmqmq.sim.history import OK, POLL, SEND

TOPICS: Final = {"t": 3, "u": 2}
CONFIG: Final = {"segment_bytes": 262_144, "retention_ms": 0}
FOUNDING_S: Final = 60.0
QUIET_S: Final = 2.0
"""So long clients work before the first fault."""
WELL_S: Final = 60.0
"""In so much time after the last fault all copies are in sync, and all partitions take records."""
ENDING_S: Final = 60.0

Say = Callable[[str], object]


@dataclass
class Verdict:
    """What came of it."""

    violations: list[Violation] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    spared: Counter[str] = field(default_factory=Counter)
    figures: dict[str, float] = field(default_factory=dict)
    history: SharedHistory = field(default_factory=SharedHistory)


class Run:
    """A run, phase by phase."""

    def __init__(self, seed: int, world: Processes, say: Say) -> None:
        self.world = world
        self.verdict = Verdict()
        self.history = history = self.verdict.history
        self._say = say
        self._began = time.monotonic()
        servers = self._servers = world.servers
        self.clients: list[Working] = [
            Producing(history, servers, "p1", TOPICS, seed),
            Producing(history, servers, "p2", TOPICS, seed),
            Producing(history, servers, "p3", TOPICS, seed, idempotent=False),
            Consuming(history, servers, "c1", TOPICS, seed),
            Consuming(history, servers, "c2", TOPICS, seed, rack="r2"),
            Grouped(history, servers, "g1", TOPICS, seed),
        ]
        self.nemesis = Nemesis(Scene(world, self._is_in_sync, self._is_whole), self.say)
        self._topic_ids: dict[bytes, str] = {}

    def say(self, line: str) -> None:
        """With the time since the beginning."""
        self._say(f"[{time.monotonic() - self._began:6.1f}] {line}")

    def found(self) -> None:
        """Start everything, make the topics, and begin to work."""
        for node in (*self.world.members, *self.world.brokers):
            self.world.start(node)
        took = until("not founded", FOUNDING_S, self._unmade)
        took += until("not founded", FOUNDING_S, self._unsettled)
        self.say(f"the cluster is up ({took:.1f} s)")
        for client in self.clients:
            client.start()
        time.sleep(QUIET_S)

    def suffer(self, schedule: Sequence[Planned]) -> None:
        """The faults."""
        self.say("     at  kind             whom for  amount")
        began = time.monotonic_ns()
        try:
            self.nemesis.work(schedule)
        finally:
            self.nemesis.heal()
        self.say("no more faults")
        figures = self.verdict.figures
        for name, f in (("without an acknowledgement", SEND), ("without a record read", POLL)):
            times = [e.at for e in self.history.entries if e.f == f and e.type == OK]
            times = [began, *(at for at in times if at > began), time.monotonic_ns()]
            figures[f"longest {name}"] = max(b - a for a, b in pairwise(times)) / 10**9

    def recover(self) -> None:
        """All becomes well by itself, and the clients come to an end."""
        figures = self.verdict.figures
        probe = Probe(self.history, self._servers, TOPICS)
        figures["until in sync"] = until("not healed", WELL_S, self._unsettled)
        figures["until taken"] = until("takes nothing", WELL_S, probe.open_matter)
        for client in self.clients:
            client.stop()
        end = time.monotonic() + ENDING_S
        for client in self.clients:
            client.join(max(end - time.monotonic(), 0))
            if client.is_alive():
                raise LateError(f"clients do not end: {client.name}")
        until("not healed", WELL_S, self._unsettled)
        self.say(f"in sync after {figures['until in sync']:.1f} s")

    def drain(self) -> None:
        """Read everything that is left."""
        tries = 0

        def try_it() -> str:
            nonlocal tries
            tries += 1
            return drain(self.history, self._servers, TOPICS, tries)

        until("not drained", WELL_S, try_it)
        until("replicas differ", WELL_S, lambda: unequal(self._servers, TOPICS))

    def judge(self) -> None:
        """What the clients saw, what the copies are, and how the processes fared."""
        found = self.verdict.violations
        # A leader whose disk has failed may say so to readers, until it has halted.
        failed = any(self.nemesis.done[kind] for kind in ("dead-disk", "bad-syncs"))
        allowed = Allowed(refusals=(Code.STORAGE_OFFLINE.name,) if failed else ())
        # As it stands now: in a run that was late, clients go on writing it.
        found += check(tuple(self.history.entries), allowed)
        for node in self.world.brokers:
            self.world.stop(node)
        folders = {node: self.world.folder(node) for node in self.world.brokers}
        for difference in differences(folders, self._topic_ids):
            found.append(Violation("copies", "cluster", difference, ()))

    def play(self, schedule: Sequence[Planned], *, disks_lie: bool) -> Verdict:
        """All of it."""
        verdict = self.verdict
        try:
            self.found()
            if disks_lie:
                self.world.lie()
            self.suffer(schedule)
            self.recover()
            self.drain()
        except LateError as late:
            verdict.violations.append(Violation("late", "cluster", str(late), ()))
        self.judge()
        for complaint in self.world.complaints():
            verdict.violations.append(Violation("crashed", "cluster", complaint, ()))
        for client in self.clients:
            for crash in client.crashes:
                verdict.violations.append(Violation("crashed", client.name, repr(crash), ()))
        verdict.faults, verdict.spared = self.nemesis.done, self.nemesis.spared
        self._count()
        return verdict

    def _count(self) -> None:
        entries = self.history.entries
        figures = self.verdict.figures
        figures["seconds"] = time.monotonic() - self._began
        figures["sent"] = sum(e.f == SEND and e.number == e.asked for e in entries)
        figures["acknowledged"] = sum(e.f == SEND and e.type == OK for e in entries)
        figures["read"] = sum(len(e.value.records) for e in entries if e.f == POLL and e.type == OK)

    def _unmade(self) -> str:
        with zmqmq.connect(self._servers, request_timeout_ms=REQUEST_MS) as client:
            if len(client.describe("broker")) < 1:
                return "no broker"
            for topic, partitions in TOPICS.items():
                info = client.topics.create(
                    topic, partitions, replicas=3, config=CONFIG, if_not_exists=True
                )
                self._topic_ids[info.id] = topic
        return ""

    def _unsettled(self) -> str:
        down = [node for node in self.world.brokers if not self.world.is_running(node)]
        for node in down:
            self.world.start(node)
        return f"{down} are down" if down else out_of_sync(self._servers, TOPICS)

    def _is_in_sync(self) -> bool:
        try:
            return not out_of_sync(self._servers, TOPICS)
        except ZmqmqError:
            return False

    def _is_whole(self, node: str) -> bool:
        folder = self.world.folder(node)
        try:
            with zmqmq.connect(self._servers, request_timeout_ms=REQUEST_MS) as client:
                ends = {id_: client.offsets(topic, "end") for id_, topic in self._topic_ids.items()}
        except ZmqmqError:
            return False
        return all(
            end_of(folder, topic_id, partition) >= end
            for topic_id, by_partition in ends.items()
            for partition, end in by_partition.items()
        )


def run(
    seed: int,
    schedule: Sequence[Planned],
    folder: Path,
    etcd: str,
    say: Say,
    *,
    disks_lie: bool = False,
) -> Verdict:
    """A run in this sandbox."""
    world = Processes(folder, etcd, may_lie=disks_lie)
    try:
        play = Run(seed, world, say)
        return play.play(schedule, disks_lie=disks_lie)
    finally:
        world.close()
