"""The simulation from the command line.

python -m zmqmq.sim SEED           run one seed again, with a line for every step
python -m zmqmq.sim SEED --shrink  the smallest schedule of faults that still fails
python -m zmqmq.sim --soak FOLDER  fresh seeds on all cores until told to stop; goes on where it was
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from zmqmq.sim.faults import dump, load
from zmqmq.sim.run import Result, run
from zmqmq.sim.shrink import Shrinker, command, lines_of
from zmqmq.sim.soak import soak
from zmqmq.sim.trace import Trace


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 if something was violated."""
    asked = _parser().parse_args(arguments)
    if asked.soak is not None:
        return soak(
            asked.soak,
            say,
            minutes=asked.minutes,
            seeds=asked.seeds,
            processes=asked.processes,
            first=asked.seed,
        )
    if asked.seed is None:
        say("which seed? see --help")
        return 2
    return _replay(asked)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m zmqmq.sim",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("seed", type=int, nargs="?", help="the seed, or the first one of --soak")
    add("--seconds", type=int, help="how long faults go on; drawn if not given")
    add("--schedule", type=Path, help="take the faults from this file, not from the seed")
    add("--without", default="", help="clients to leave out, with commas between")
    add("--quiet", action="store_true", help="say only what came of it")
    add("--last", type=int, default=0, help="only so many of the last lines")
    add("--shrink", action="store_true", help="find a smaller run that fails in the same way")
    add("--soak", type=Path, help="run fresh seeds; totals are kept in this folder")
    add("--minutes", type=int, help="for how long, with --soak")
    add("--seeds", type=int, help="how many, with --soak")
    add("--processes", type=int, help="how many, with --soak; one for each core if not given")
    return parser


def _replay(asked: argparse.Namespace) -> int:
    schedule = None if asked.schedule is None else load(asked.schedule.read_text())
    without = tuple(filter(None, asked.without.split(",")))
    is_quiet = asked.quiet or asked.shrink
    trace = Trace() if is_quiet else Trace(keep=asked.last, out=None if asked.last else say)
    result = run(asked.seed, schedule, seconds=asked.seconds, without=without, trace=trace)
    for line in trace.lines:
        say(line)
    report(result, say_all=not is_quiet)
    if not result.violations:
        return 0
    if asked.shrink:
        shrink(result)
    else:
        say(f"again: python -m zmqmq.sim {asked.seed}, smaller: with --shrink")
    return 1


def shrink(first: Result) -> None:
    """Find the smallest case, and say how to run it."""
    shrinker = Shrinker(first.seed, first, say)
    case = shrinker.shrink()
    file = Path(f"schedule-{first.seed}.json")
    file.write_text(dump(case.schedule))
    say("")
    for line in lines_of(case.schedule):
        say(line)
    say(f"VIOLATION {shrinker.violation.kind}: {shrinker.violation.detail}")
    say(command(first.seed, case, str(file)))


def report(result: Result, *, say_all: bool) -> None:
    """Say what came of it."""
    if say_all:
        say("")
        for counter in (result.marks, result.faults, result.times):
            say(", ".join(f"{name} {count}" for name, count in sorted(counter.items())))
        for line in lines_of(result.schedule):
            say(line)
    for violation in result.violations:
        say(f"VIOLATION {violation.kind} {violation.where}: {violation.detail}")
    say(
        f"seed {result.seed}: {len(result.violations)} violations, {result.steps} steps, "
        f"{result.simulated_ns / 1e9:.1f} s, digest {result.digest}, "
        f"Python {sys.version.partition(' ')[0]}"
    )


def say(line: str) -> None:
    """To whoever started this."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
