"""Runs everything and prints how it compares: `python -m bench --help`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import kafka, targets
from bench.server import Server, bare, broker, fresh_folder, settle
from bench.workloads import WORKLOADS, Workload, scaled
from zmqmq.bench.processes import cpu_of, resident_bytes

IDLE_AFTER_SECONDS = 5
IDLE_SECONDS = 20
HELP_RUNS = 5
CHILD_SECONDS = 600

Results = dict[tuple[str, str], list[dict[str, Any]]]


class Run:
    """One run of the benchmarks."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._parent = None if options.folder is None else Path(options.folder)
        self.results: Results = {}
        self.errors: list[str] = []

    def measure(self) -> None:
        """Everything, in rounds in which each side has its turn."""
        options = self._options
        if options.only is None:
            self._at_rest()
        with contextlib.ExitStack() as stack:
            beside: Server | None = None
            if options.kafka:
                folder = stack.enter_context(fresh_folder(self._parent))
                beside = stack.enter_context(kafka.serving_kafka(Path(options.kafka), folder))
                kafka.warm_up(beside)
            for work in WORKLOADS:
                if options.only is None or options.only in work.name:
                    self._workload(scaled(work, options.scale), beside)

    def _workload(self, work: Workload, beside: Server | None) -> None:
        for turn in range(self._options.rounds):
            for side in work.sides:
                if side not in self._options.sides or (side == "kafka" and beside is None):
                    continue
                try:
                    with self._server(side, beside) as server:
                        settle()
                        done = _in_child(side, server, work)
                except Exception as error:  # noqa: BLE001  the others are still worth measuring
                    self.errors.append(f"{work.name}, {side}: {error}")
                    _say(f"{work.name:<44} {side:<6} FAILED: {error}")
                    continue
                self.results.setdefault((work.name, side), []).append(done)
                rate = done[targets.RATE]
                p50 = "" if done[targets.P50] is None else f"  p50 {done[targets.P50]:,.0f} us"
                _say(f"{work.name:<44} {side:<6} {turn + 1}: {rate:>12,.0f} records/s{p50}")

    @contextlib.contextmanager
    def _server(self, side: str, beside: Server | None) -> Iterator[Server]:
        if side == "kafka":
            assert beside is not None
            yield beside
            return
        with (
            fresh_folder(self._parent) as folder,
            bare(folder, fsync=True) if side == "bare" else broker(folder) as server,
        ):
            yield server

    def _at_rest(self) -> None:
        """A broker that nobody uses, how long it takes to come up, and the command line."""
        rows = self.results[targets.BROKER, "ours"] = []
        for turn in range(self._options.rounds):
            with fresh_folder(self._parent) as folder, broker(folder) as server:
                row: dict[str, Any] = {"ready_s": server.ready_seconds}
                row["help_s"] = _help_seconds()
                row["idle_cpu_percent"] = row["rss_mb"] = None
                if turn == 0:
                    row |= _idle(server)
            rows.append(row)
        shown = {name: rows[0][name] for name in ("idle_cpu_percent", "rss_mb", "ready_s")}
        _say(f"broker at rest: {shown}")

    def as_dict(self) -> dict[str, Any]:
        """For a program."""
        return {
            "schema": 1,
            "machine": machine(),
            "rounds": self._options.rounds,
            "targets": targets.as_dicts(self.results),
            "measurements": [
                {"workload": workload, "side": side, **row}
                for (workload, side), rows in self.results.items()
                for row in rows
            ],
            "errors": self.errors,
        }


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "when": time.strftime("%Y-%m-%d"),
        "load": os.getloadavg()[0],
    }


def _in_child(side: str, server: Server, work: Workload) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.workloads", side, str(server.port), str(server.pid)]
    done = subprocess.run(
        [*command, json.dumps(asdict(work))],
        capture_output=True,
        text=True,
        timeout=CHILD_SECONDS,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing was said"]
        raise RuntimeError(said[-1])
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _idle(server: Server) -> dict[str, float]:
    time.sleep(IDLE_AFTER_SECONDS)
    before, began = cpu_of(server.pid), time.perf_counter()
    time.sleep(IDLE_SECONDS)
    after, took = cpu_of(server.pid), time.perf_counter() - began
    resident = resident_bytes(server.pid)
    assert before
    assert after
    assert resident
    return {
        "idle_cpu_percent": (after.whole - before.whole) / took / 1e7,
        "rss_mb": resident / 1e6,
    }


def _help_seconds() -> float:
    program = Path(sys.executable).with_name("zmqmq")
    took = []
    for _ in range(HELP_RUNS):
        began = time.perf_counter()
        subprocess.run([program, "--help"], check=True, capture_output=True)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def print_table(lines: list[list[str]]) -> None:
    """Columns as wide as they must be; the first is text."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())


def main() -> int:
    """Measure, print, and say whether every measurement came off."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="medians of so many (3)")
    parser.add_argument("--only", metavar="TEXT", help="workloads whose name has this in it")
    parser.add_argument("--sides", default="bare,raw,ours,kafka", help="these only")
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the records")
    parser.add_argument("--folder", metavar="DIR", help="on the disk to measure (/tmp)")
    parser.add_argument("--kafka", metavar="LIBS", help="Kafka's jars (bench/README.md)")
    parser.add_argument("--json", metavar="FILE", help="write everything there too")
    options = parser.parse_args()
    options.sides = options.sides.split(",")
    run = Run(options)
    try:
        run.measure()
    finally:
        if options.json:
            Path(options.json).write_text(json.dumps(run.as_dict(), indent=2) + "\n")
    print_table(targets.figures(run.results))
    print()
    print_table(targets.table(run.results))
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine().items()))
    for error in run.errors:
        _say(f"failed: {error}")
    return 1 if run.errors else 0


if __name__ == "__main__":
    sys.exit(main())
