"""Fresh seeds on all cores until told to stop; what was done is kept in a folder and added to.

The only module of the simulation that knows processes, signals and the time of day: what happens
within a run depends on none of them.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from itertools import chain, count, islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Final, Self

from zmqmq.sim.coverage import missing
from zmqmq.sim.run import run

RUN_SECONDS_MAX: Final = 300
"""A run that takes longer hangs."""
REPORT_SECONDS: Final = 60
LOOK_SECONDS: Final = 0.2
"""How often it is looked whether it is time to stop."""
SHOWN: Final = 300
"""Letters of what was violated, from its beginning and from its end."""
FILE: Final = "soak.json"

Say = Callable[[str], object]
Attempt = Callable[[int], "Outcome"]


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
    unfinished: list[int] = field(default_factory=list)
    """Seeds that were begun and have not ended; the next soak begins with them."""
    seeds: int = 0
    simulated_ns: int = 0
    steps: int = 0
    wall_ms: int = 0
    marks: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Seeds, and what was violated."""

    def begin(self, seed: int) -> None:
        """It is under way from here on."""
        if seed not in self.unfinished:
            self.unfinished.append(seed)
            self.next_seed = seed + 1

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self.unfinished.remove(outcome.seed)
        self.seeds += 1
        self.simulated_ns += outcome.simulated_ns
        self.steps += outcome.steps
        self.marks = dict(Counter(self.marks) + Counter(outcome.marks))
        self.faults = dict(Counter(self.faults) + Counter(outcome.faults))
        for name, ms in outcome.times.items():
            self.times[name] = max(self.times.get(name, 0), ms)
        if outcome.violation:
            self.failures[str(outcome.seed)] = outcome.violation


def attempt(seed: int) -> Outcome:
    """One run."""
    result = run(seed)
    violation = ""
    if result.violations:
        found = result.violations[0]
        violation = f"{found.kind} {found.where}: {_shortened(found.detail)}"
    return Outcome(
        seed,
        result.simulated_ns,
        result.steps,
        dict(result.marks),
        dict(result.faults),
        dict(result.times),
        violation,
    )


def soak(
    folder: Path,
    say: Say,
    *,
    minutes: int | None = None,
    seeds: int | None = None,
    processes: int | None = None,
    first: int | None = None,
    attempt: Attempt = attempt,
    seconds_max: int = RUN_SECONDS_MAX,
) -> int:
    """Go on where the folder ends. The exit status: 1 if anything failed, ever.

    A seed whose run raises, hangs or ends its process has failed like any other. When told to stop,
    runs that are under way are broken off; the next soak does them again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE
    totals = _read(file)
    if first is not None:
        totals.next_seed, totals.unfinished = first, []
    workers = processes or os.cpu_count() or 1
    say(f"seed {totals.next_seed} on, {totals.seeds} were run before; {workers} processes")
    due = islice(chain(tuple(totals.unfinished), count(totals.next_seed)), seeds)
    since = reported = time.monotonic()
    with _Stop(minutes) as stop, _Crew(workers, attempt, seconds_max) as crew:
        for outcome in crew.outcomes(due, totals.begin, stop):
            now = time.monotonic()
            totals.wall_ms += int((now - since) * 1_000)
            since = now
            totals.add(outcome)
            _write(file, totals)
            if outcome.violation:
                again = f"python -m zmqmq.sim {outcome.seed}"
                say(f"seed {outcome.seed} failed: {outcome.violation}\n  {again}")
            if now - reported > REPORT_SECONDS:
                reported = now
                say(describe(totals).partition("\n")[0])
    _write(file, totals)
    say(describe(totals))
    return 1 if totals.failures or missing(totals.marks, totals.seeds) else 0


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

    def __init__(self, minutes: int | None) -> None:
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._is_told = False

    def __enter__(self) -> Self:
        self._before = {n: signal.signal(n, self._tell) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def is_due(self) -> bool:
        """Whether to stop."""
        return self._is_told or (self._deadline is not None and time.monotonic() >= self._deadline)

    def _tell(self, *_: object) -> None:
        self._is_told = True


class _Worker:
    """A process that runs one seed after another."""

    def __init__(self, attempt: Attempt, seconds_max: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._seconds_max = seconds_max
        self._process = context.Process(target=_work, args=(theirs, attempt, seconds_max))
        self._process.start()
        theirs.close()  # the pipe then ends when the process does
        self.seed: int | None = None

    def begin(self, seed: int) -> None:
        """Its outcome comes through the pipe."""
        self.seed = seed
        with contextlib.suppress(OSError):  # it has died: so the pipe says
            self.pipe.send(seed)

    def outcome(self) -> Outcome | None:
        """What came of the seed; None if the process has died."""
        try:
            outcome: Outcome = self.pipe.recv()
        except (EOFError, OSError):
            return None
        self.seed = None
        return outcome

    def end(self) -> str:
        """It is not needed any more. How it died, if it was dead."""
        self._process.kill()
        self._process.join()
        self.pipe.close()
        code = self._process.exitcode
        if code == -signal.SIGALRM:
            return f"hangs: not done after {self._seconds_max} s"
        died = f"of {signal.Signals(-code).name}" if code and code < 0 else f"with status {code}"
        return f"its process died {died}"


class _Crew:
    """The processes; for one that dies another is started."""

    def __init__(self, size: int, attempt: Attempt, seconds_max: int) -> None:
        self._workers: list[_Worker] = []
        self._size, self._attempt, self._seconds_max = size, attempt, seconds_max

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()

    def outcomes(
        self, due: Iterator[int], begin: Callable[[int], None], stop: _Stop
    ) -> Iterator[Outcome]:
        """Run what is due, and tell of each seed that begins."""
        while not stop.is_due():
            while (worker := self._idle()) and (seed := next(due, None)) is not None:
                begin(seed)
                worker.begin(seed)
            busy = {worker.pipe: worker for worker in self._workers if worker.seed is not None}
            if not busy:
                return
            for pipe in wait(list(busy), LOOK_SECONDS):
                assert isinstance(pipe, Connection)
                worker = busy[pipe]
                outcome = worker.outcome() or self._bury(worker)
                if stop.is_due():
                    return
                yield outcome

    def _idle(self) -> _Worker | None:
        if len(self._workers) < self._size:
            self._workers.append(_Worker(self._attempt, self._seconds_max))
            return self._workers[-1]
        return next((worker for worker in self._workers if worker.seed is None), None)

    def _bury(self, worker: _Worker) -> Outcome:
        # A signal to all processes ends one that has just begun before it is heard here.
        time.sleep(LOOK_SECONDS)
        self._workers.remove(worker)
        assert worker.seed is not None
        return _failed(worker.seed, worker.end())


def _work(pipe: Connection, attempt: Attempt, seconds_max: int) -> None:
    """What a process does until there is nobody at the other end of the pipe."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # who started this process ends it
    # The kernel's own: an exception might be caught by what hangs.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            seed = pipe.recv()
            signal.alarm(seconds_max)
            try:
                outcome = attempt(seed)
            except Exception:  # noqa: BLE001 - a seed that fails must not end the others
                outcome = _failed(seed, f"raised: {_shortened(traceback.format_exc())}")
            signal.alarm(0)
            pipe.send(outcome)


def _failed(seed: int, why: str) -> Outcome:
    return Outcome(seed, 0, 0, {}, {}, {}, why)


def _shortened(text: str) -> str:
    return text if len(text) <= 2 * SHOWN else f"{text[:SHOWN]} ... {text[-SHOWN:]}"


def _read(file: Path) -> Totals:
    if not file.exists():
        return Totals()
    try:
        kept = json.loads(file.read_text())
    except ValueError as error:
        raise SystemExit(f"{file} cannot be read ({error}): move it away to begin anew") from None
    known = [each.name for each in fields(Totals)]  # others are of another release
    return Totals(**{name: value for name, value in kept.items() if name in known})


def _write(file: Path, totals: Totals) -> None:
    new = file.with_suffix(".tmp")
    with new.open("w") as stream:
        json.dump(asdict(totals), stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
