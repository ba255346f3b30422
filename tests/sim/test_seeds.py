"""Fresh seeds in every test run, and all that ever failed."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from random import SystemRandom

import pytest

from zmqmq.sim.coverage import missing
from zmqmq.sim.run import Result, run

SEEDS = int(os.environ.get("ZMQMQ_SIM_SEEDS", "300"))
CHUNK = 10
TWICE = 20
"""One in so many is run twice."""
BASE_MAX = 1 << 40
FAILED = Path(__file__).with_name("failed_seeds.txt")


def failed_seeds() -> list[int]:
    lines = FAILED.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


def base_seed() -> int:
    """Drawn once for all processes of a test run."""
    if "ZMQMQ_SIM_BASE" in os.environ:
        return int(os.environ["ZMQMQ_SIM_BASE"])
    drawn = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    return int(drawn, 16) % BASE_MAX if drawn else SystemRandom().randrange(BASE_MAX)


BASE = base_seed()


def passes(seed: int) -> Result:
    result = run(seed)
    found = "\n".join(f"{v.kind} {v.where}: {v.detail}" for v in result.violations)
    assert not result.violations, f"python -m zmqmq.sim {seed}\n{found}"
    return result


@pytest.mark.timeout(600)
@pytest.mark.parametrize("chunk", range(-(-SEEDS // CHUNK)))
def test_fresh_seeds(chunk: int) -> None:
    marks: Counter[str] = Counter()
    seeds = range(BASE + chunk * CHUNK, BASE + min((chunk + 1) * CHUNK, SEEDS))
    for seed in seeds:
        result = passes(seed)
        marks += result.marks
        if seed % TWICE == 0:
            again = run(seed)
            assert again.digest == result.digest, f"seed {seed} went another way the second time"

    lacking = missing(marks, len(seeds))
    assert not lacking, f"seeds {seeds} never saw {lacking}"


@pytest.mark.parametrize("seed", failed_seeds())
def test_a_seed_that_once_failed(seed: int) -> None:
    passes(seed)
