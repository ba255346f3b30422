"""Fresh seeds on all cores until told to stop; what was done is kept in a folder and added to.

The only module of the simulation that knows processes, signals and the time of day: what happens
within a run depends on none of them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from zmqmq.sim.coverage import missing
from zmqmq.sim.run import run

ROUND: Final = 50
"""Seeds of one round and process; at its end all wait for the slowest."""
RUN_SECONDS_MAX: Final = 300
"""A run that takes longer hangs."""
REPORT_SECONDS: Final = 60
FILE: Final = "soak.json"

Say = Callable[[str], object]


@dataclass(slots=True)
class Outcome:
    """Of one seed, small enough to send around."""

    seed: int
    simulated_ns: int
    steps: int
    marks: dict[str, int]
    faults: dict[str, int]
    times: dict[str, int]
    violation: str


@dataclass(slots=True)
class Totals:
    """Of all runs into one folder."""

    next_seed: int = 1
    seeds: int = 0
    simulated_ns: int = 0
    steps: int = 0
    wall_ms: int = 0
    marks: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Seeds, and what was violated."""

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self.next_seed = outcome.seed + 1
        self.seeds += 1
        self.simulated_ns += outcome.simulated_ns
        self.steps += outcome.steps
        self.marks = dict(Counter(self.marks) + Counter(outcome.marks))
        self.faults = dict(Counter(self.faults) + Counter(outcome.faults))
        for name, ms in outcome.times.items():
            self.times[name] = max(self.times.get(name, 0), ms)
        if outcome.violation:
            self.failures[str(outcome.seed)] = outcome.violation


def soak(
    folder: Path,
    say: Say,
    *,
    minutes: int | None = None,
    seeds: int | None = None,
    processes: int | None = None,
    first: int | None = None,
) -> int:
    """Go on where the folder ends. The exit status: 1 if anything failed, ever."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE
    totals = Totals(**json.loads(file.read_text())) if file.exists() else Totals()
    if first is not None:
        totals.next_seed = first
    count = processes or os.cpu_count() or 1
    stop = _Stop(None if minutes is None else time.monotonic() + 60 * minutes)
    say(f"seed {totals.next_seed} on, {totals.seeds} were run before; {count} processes")
    context = multiprocessing.get_context("spawn")
    with context.Pool(count, _ignore_interrupt) as pool:
        end = None if seeds is None else totals.next_seed + seeds
        while not stop.is_due and totals.next_seed != end:
            before = len(totals.failures)
            round_end = totals.next_seed + ROUND * count
            batch = range(totals.next_seed, round_end if end is None else min(round_end, end))
            _round(pool.imap(attempt, batch), totals, stop, file, say)
            for seed, violation in list(totals.failures.items())[before:]:
                say(f"seed {seed} failed: {violation}\n  python -m zmqmq.sim {seed}")
        pool.terminate()
    say(describe(totals))
    return 1 if totals.failures or missing(totals.marks, totals.seeds) else 0


def attempt(seed: int) -> Outcome:
    """One run."""
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(RUN_SECONDS_MAX)
    result = run(seed)
    signal.alarm(0)
    violation = ""
    if result.violations:
        found = result.violations[0]
        violation = f"{found.kind} {found.where}: {found.detail[:300]}"
    return Outcome(
        seed,
        result.simulated_ns,
        result.steps,
        dict(result.marks),
        dict(result.faults),
        dict(result.times),
        violation,
    )


def describe(totals: Totals) -> str:
    """For people."""
    minutes = max(totals.wall_ms / 60_000, 0.001)
    hours = totals.simulated_ns / 3_600e9
    lines = [
        f"{totals.seeds} seeds, {totals.seeds / minutes:.0f} a minute; {hours:.1f} simulated "
        f"hours, {totals.simulated_ns / 1e6 / max(totals.wall_ms, 1):.0f} s in a second; "
        f"{totals.steps} steps; {len(totals.failures)} seeds failed",
        f"faults: {sum(totals.faults.values())}: {_list(totals.faults)}",
        f"marks: {_list(totals.marks)}",
        f"at most, in ms: {_list(totals.times)}",
    ]
    if lacking := missing(totals.marks, totals.seeds):
        lines.append(f"NEVER HAPPENED: {', '.join(lacking)}")
    lines += [f"FAILED: python -m zmqmq.sim {s}  # {v[:120]}" for s, v in totals.failures.items()]
    return "\n".join(lines)


class _Stop:
    """Told by a signal, or by the time."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._is_told = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._tell)

    @property
    def is_due(self) -> bool:
        return self._is_told or (self._deadline is not None and time.monotonic() >= self._deadline)

    def _tell(self, *_: object) -> None:
        self._is_told = True


def _round(outcomes: Iterable[Outcome], totals: Totals, stop: _Stop, file: Path, say: Say) -> None:
    since = reported = time.monotonic()
    for outcome in outcomes:
        now = time.monotonic()
        totals.wall_ms += int((now - since) * 1_000)
        since = now
        totals.add(outcome)
        if stop.is_due:
            break
        if now - reported > REPORT_SECONDS:
            reported = now
            say(describe(totals).partition("\n")[0])
    _write(file, asdict(totals))


def _write(file: Path, values: dict[str, Any]) -> None:
    new = file.with_suffix(".tmp")
    new.write_text(json.dumps(values, indent=1))
    new.replace(file)


def _ignore_interrupt() -> None:
    """Ctrl-C reaches all processes; who started this one ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _hang(*_: object) -> None:
    raise TimeoutError(f"a run takes more than {RUN_SECONDS_MAX} s")


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
