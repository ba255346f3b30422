"""From a failing run to a small one: fewer faults, less time, fewer clients (delta debugging).

Every purpose has its own stream of chance, so a schedule with a fault less is otherwise the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from zmqmq.sim.checkers import Violation
from zmqmq.sim.faults import Fault
from zmqmq.sim.node import SECOND
from zmqmq.sim.run import Result, run

RUNS_MAX: Final = 1_500

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Case:
    """A run that fails."""

    schedule: tuple[Fault, ...]
    seconds: int
    without: tuple[str, ...]


class Shrinker:
    """Tries smaller cases of one seed; one that fails in the same way replaces the one before."""

    def __init__(
        self, seed: int, first: Result, say: Say, attempt: Callable[..., Result] = run
    ) -> None:
        assert first.violations, "there is nothing to shrink"
        assert first.run is not None
        world = first.run.world
        self.seed = seed
        self.case = Case(tuple(world.schedule), world.seconds, ())
        self.violation = first.violations[0]
        self.runs = 0
        self._clients = [plan.name for plan in world.clients]
        self._say = say
        self._attempt = attempt
        self._tried: dict[Case, None] = {}

    def shrink(self) -> Case:
        """The smallest that was found."""
        before = None
        while before != self.case and self.runs < RUNS_MAX:
            before = self.case
            self._shrink_faults()
            self._shrink_time()
            self._shrink_clients()
        return self.case

    def _shrink_faults(self) -> None:
        """ddmin (Zeller, Hildebrandt 2002), complements only."""
        pieces = 2
        while (count := len(self.case.schedule)) and self.runs < RUNS_MAX:
            size = -(-count // pieces)
            for start in range(0, count, size):
                schedule = self.case.schedule
                left = schedule[:start] + schedule[start + size :]
                if self._fails(replace(self.case, schedule=left)):
                    pieces = max(pieces - 1, 2)
                    break
            else:
                if size == 1:
                    return
                pieces = min(count, 2 * pieces)

    def _shrink_time(self) -> None:
        last = max((fault.at for fault in self.case.schedule), default=0)
        for seconds in range(1 + last // SECOND, self.case.seconds):
            if self._fails(replace(self.case, seconds=seconds)):
                return

    def _shrink_clients(self) -> None:
        for name in self._clients:
            if name not in self.case.without:
                self._fails(replace(self.case, without=(*self.case.without, name)))

    def _fails(self, case: Case) -> bool:
        """Whether it fails in the same way; then it is the one to go on from."""
        if case in self._tried or self.runs >= RUNS_MAX:
            return False
        self._tried[case] = None
        self.runs += 1
        result = self._attempt(self.seed, case.schedule, seconds=case.seconds, without=case.without)
        for violation in result.violations:
            if is_same(violation, self.violation):
                self.case, self.violation = case, violation
                text = f"{len(case.schedule)} faults, {case.seconds} s, {self.runs} runs"
                self._say(text)
                return True
        return False


def is_same(one: Violation, other: Violation) -> bool:
    """Whether two runs fail in the same way."""
    return one.kind == other.kind and (one.kind != "crashed" or one.where == other.where)


def command(seed: int, case: Case, file: str) -> str:
    """What runs it again."""
    without = f" --without {','.join(case.without)}" if case.without else ""
    return f"python -m zmqmq.sim {seed} --seconds {case.seconds} --schedule {file}{without}"


def lines_of(schedule: Sequence[Fault]) -> list[str]:
    """For people."""
    return [f"{fault.at / SECOND:9.3f} s  {fault}" for fault in schedule]
