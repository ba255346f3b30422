"""Brings the faults of a schedule about, and ends them."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Sequence

from integration.faults import KINDS, Fault, Part, Planned, Scene, nodes_of, takes_of


class Nemesis:
    """Works in the thread that calls it."""

    def __init__(self, scene: Scene, say: Callable[[str], object]) -> None:
        self.done: Counter[str] = Counter()
        """By kind."""
        self.spared: Counter[str] = Counter()
        """Those that the budget forbade."""
        self._scene = scene
        self._say = say
        self._open: dict[Fault, frozenset[tuple[str, Part]]] = {}

    def work(self, schedule: Sequence[Planned]) -> None:
        """The schedule, from its beginning until its last fault has ended.

        One that takes long to come about or to end makes all others so much later: if they came at
        once then, most would meet what is taken, and be spared.
        """
        began = time.monotonic()
        ends: list[tuple[float, int, Fault]] = []
        waiting = list(reversed(schedule))
        while waiting or ends:
            now = (time.monotonic() - began) * 1_000
            due = min([ends[0][0]] if ends else [], default=float("inf"))
            begins = waiting[-1].at_ms if waiting else float("inf")
            if min(due, begins) > now:
                time.sleep(min(due, begins, now + 1_000) / 1_000 - now / 1_000)
                continue
            busy_since = time.monotonic()
            if due <= begins:
                self._end(heapq.heappop(ends)[2])
            else:
                plan = waiting.pop()
                fault = self._begin(plan)
                if fault is not None:
                    heapq.heappush(ends, (now + plan.duration_ms, len(waiting), fault))
            began += time.monotonic() - busy_since

    def heal(self) -> None:
        """Every fault has ended, and every process runs."""
        for fault in list(self._open):
            self._end(fault)
        world = self._scene.world
        for node in (*world.members, *world.brokers):
            world.start(node)

    def _begin(self, plan: Planned) -> Fault | None:
        cluster = self._scene.world.brokers, self._scene.world.members
        fault = KINDS[plan.kind].make(self._scene, nodes_of(plan, *cluster), plan.amount)
        takes = takes_of(plan, *cluster)
        if any(takes & taken for taken in self._open.values()) or not fault.start():
            self.spared[plan.kind] += 1
            self._say(f"{plan}  SPARED")
            return None
        self.done[plan.kind] += 1
        self._say(str(plan))
        self._open[fault] = takes
        return fault

    def _end(self, fault: Fault) -> None:
        fault.stop()
        del self._open[fault]
