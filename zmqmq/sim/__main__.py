"""`python -m zmqmq.sim SEED`: run one seed again, with a line for every step."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from zmqmq.sim.faults import Fault, dump, load
from zmqmq.sim.run import Result, run
from zmqmq.sim.trace import Trace


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 if something was violated."""
    parser = argparse.ArgumentParser(prog="python -m zmqmq.sim", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--seconds", type=int, help="how long faults go on; drawn if not given")
    parser.add_argument("--schedule", type=Path, help="faults from this file, not from the seed")
    parser.add_argument("--without", default="", help="clients to leave out, with commas between")
    parser.add_argument("--quiet", action="store_true", help="only the result")
    parser.add_argument("--last", type=int, default=0, help="only so many of the last lines")
    asked = parser.parse_args(arguments)
    schedule = None if asked.schedule is None else load(asked.schedule.read_text())
    without = tuple(filter(None, asked.without.split(",")))
    trace = Trace() if asked.quiet else Trace(keep=asked.last, out=None if asked.last else say)
    result = run(asked.seed, schedule, seconds=asked.seconds, without=without, trace=trace)
    for line in trace.lines:
        say(line)
    report(result, say_all=not asked.quiet)
    return 1 if result.violations else 0


def report(result: Result, *, say_all: bool) -> None:
    """Say what came of it."""
    if say_all:
        say("")
        for name, count in sorted(result.counts.items()):
            say(f"{name}: {count}")
        say("faults:\n" + dump(result.schedule))
    for violation in result.violations:
        say(f"VIOLATION {violation.kind} {violation.where}: {violation.detail}")
    say(
        f"seed {result.seed}: {len(result.violations)} violations, {result.steps} steps, "
        f"{result.simulated_ns / 1e9:.1f} s, digest {result.digest}"
    )


def say(line: str) -> None:
    """To whoever started this."""
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
