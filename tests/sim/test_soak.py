"""Runs without end: what is kept, added up and told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from zmqmq.sim import coverage
from zmqmq.sim.soak import FILE, Outcome, Totals, describe


def outcome(seed: int, violation: str = "") -> Outcome:
    return Outcome(seed, 10**9, 100, {"election": 2}, {"kill": 1}, {"not healed": seed}, violation)


def test_totals_add_up() -> None:
    totals = Totals()
    for seed in (1, 2, 3):
        totals.add(outcome(seed, "lost t/0: offset 7" if seed == 2 else ""))
    totals.wall_ms = 1_500

    assert totals.next_seed == 4
    assert totals.marks == {"election": 6}
    assert totals.times == {"not healed": 3}
    assert totals.failures == {"2": "lost t/0: offset 7"}
    text = describe(totals)
    assert text.startswith("3 seeds, 120 a minute")
    assert "FAILED: python -m zmqmq.sim 2  # lost t/0: offset 7" in text


def test_a_mark_that_was_never_hit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "MARKS", {"election": 1, "comet": 2, "unicorn": 3})
    totals = Totals()
    totals.add(outcome(1))
    assert "NEVER" not in describe(totals)
    totals.add(outcome(2))

    assert "NEVER HAPPENED: comet" in describe(totals)


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    def soak(*options: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "zmqmq.sim", "--soak", str(tmp_path), *options],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        return done.stdout

    assert "seed 3000 on, 0 were run before" in soak("3000", "--seeds", "2", "--processes", "1")
    assert "seed 3002 on, 2 were run before" in soak("--seeds", "1", "--processes", "1")

    kept = json.loads((tmp_path / FILE).read_text())
    assert kept["seeds"] == 3
    assert kept["next_seed"] == 3003
    assert kept["simulated_ns"] > 30 * 10**9
