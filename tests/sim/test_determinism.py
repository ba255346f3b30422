"""The same seed goes the same way in every process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from zmqmq.sim.run import run
from zmqmq.sim.trace import Trace

SEEDS = (3, 39)


def digest_in_a_process(seed: int, hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "zmqmq.sim", str(seed), "--quiet"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stdout.splitlines()[-1]
    assert "digest " in last, done.stdout + done.stderr
    return last.partition("digest ")[2].partition(",")[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_hash_seed_makes_no_difference(seed: int) -> None:
    digests = {hash_seed: digest_in_a_process(seed, hash_seed) for hash_seed in ("0", "1", "777")}

    assert set(digests.values()) == {run(seed).digest}, digests


def test_lines_make_no_difference() -> None:
    lines: list[str] = []

    noisy = run(SEEDS[0], trace=Trace(out=lines.append))

    assert lines
    assert noisy.digest == run(SEEDS[0]).digest


def test_another_seed_goes_another_way() -> None:
    assert run(1, seconds=1).digest != run(2, seconds=1).digest
