"""What takes minutes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.runs import run, run_schedule

pytestmark = [pytest.mark.root, pytest.mark.slow]

SEED = int(os.environ.get("ZMQMQ_INTEGRATION_SEED", "100"))
FAULTS = 100
OUTAGE_S = 60.0
KILLERS = {
    # A minority misses writes, the one that overlaps with it loses its power, and who is up swaps.
    "pause-kill": (
        "1.0 pause b3 12.0 0",
        "8.0 power-cut b1 9.0 0",
        "13.5 kill b2 4.0 0",
        "20.0 pause b2 8.0 0",
        "24.0 power-cut b3 8.0 0",
        "28.5 kill b1 4.0 0",
    ),
    "part-kill": (
        "1.0 cut b3 12.0 0",
        "8.0 power-cut b1 9.0 0",
        "13.5 kill b2 4.0 0",
        "20.0 cut-from-peers b2 8.0 0",
        "24.0 power-cut b3 8.0 0",
        "28.5 kill b1 4.0 0",
    ),
    # A leader that etcd no longer hears of goes on while others think that it is gone.
    "zombies": (
        "1.0 cut-from-etcd b1 9.0 0",
        "5.0 cut-from-etcd b2 9.0 0",
        "9.0 etcd-pause e1 6.0 0",
        "12.0 cut-from-etcd b3 9.0 0",
        "16.0 pause b1 6.0 0",
        "18.0 etcd-quorum all 5.0 1",
    ),
    "rolling under bad links": (
        "1.0 loss b1 30.0 10",
        "1.5 reorder b2 30.0 40",
        "2.0 delay b3 30.0 50",
        "4.0 rolling all 11.0 0",
        "18.0 kill-all all 2.0 0",
    ),
}


@pytest.mark.timeout(1_200)
def test_a_hundred_faults(tmp_path: Path) -> None:
    outcome = run(tmp_path, str(SEED), "--faults", str(FAULTS), seconds=1_190)
    assert outcome.code == 0, outcome.output
    assert sum(outcome.faults.values()) > 0.8 * FAULTS, "too much of it was spared"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", KILLERS)
def test_faults_that_rarely_come_in_this_order(tmp_path: Path, name: str) -> None:
    outcome = run_schedule(tmp_path, *KILLERS[name], seconds=290)
    assert outcome.code == 0, outcome.output
    assert sum(outcome.faults.values()) == len(KILLERS[name])


@pytest.mark.timeout(300)
def test_a_minute_without_the_metadata_store(tmp_path: Path) -> None:
    """Acknowledging and reading go on all the time, and nothing is lost (L11)."""
    outcome = run_schedule(tmp_path, f"1.0 etcd-all all {OUTAGE_S} 0", seconds=290)
    assert outcome.code == 0, outcome.output
    assert outcome.figure("longest without an acknowledgement") < 5
    assert outcome.figure("longest without a record read") < 5
