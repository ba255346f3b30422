"""Runs `python -m integration` as people do."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from integration import sandbox
from integration.faults import KINDS
from tests.support.broker_process import missing
from tests.support.etcd_process import etcd_binary


@dataclass
class Outcome:
    """What a run printed, and its exit code."""

    code: int
    output: str

    def figure(self, name: str) -> float:
        """One of those at the end."""
        found = re.search(rf'"{name}": ([\d.]+)', self.output)
        assert found is not None, self.output
        return float(found[1])

    @property
    def faults(self) -> dict[str, int]:
        """Those that came about, by kind."""
        counts = {
            kind: re.search(rf'faults: .*"{kind}": (\d+).* spared', self.output) for kind in KINDS
        }
        return {kind: int(found[1]) for kind, found in counts.items() if found}


def in_sandbox(folder: Path, module: str, *arguments: str, seconds: float) -> Outcome:
    """`python -m` in a sandbox; skips the test where there can be none."""
    problem = sandbox.lacking() or ("" if sandbox.is_root() else "mounting disks needs root")
    if problem:
        missing(problem)
    # In a file, so that whatever outlived the sandbox could not keep us waiting.
    output = folder / "output"
    with output.open("wb") as file:
        code = subprocess.run(
            sandbox.command(module, *arguments),
            stdout=file,
            stderr=file,
            env=os.environ | {"ZMQMQ_ETCD": etcd_binary()},
            cwd=Path(__file__).parents[2],
            timeout=seconds,
            check=False,
        ).returncode
    return Outcome(code, output.read_text())


def run(folder: Path, *arguments: str, seconds: float) -> Outcome:
    """`python -m integration`."""
    into = ("--folder", str(folder / "cluster"))
    return in_sandbox(folder, "integration", *arguments, *into, seconds=seconds)


def run_schedule(folder: Path, *lines: str, flags: Sequence[str] = (), seconds: float) -> Outcome:
    """A run with faults of one's own: at, kind, target, duration, amount."""
    path = folder / "schedule"
    path.write_text("\n".join(lines))
    return run(folder, "1", "--schedule", str(path), *flags, seconds=seconds)
