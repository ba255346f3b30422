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


@pytest.mark.timeout(1_200)
def test_a_hundred_faults(tmp_path: Path) -> None:
    outcome = run(tmp_path, str(SEED), "--faults", str(FAULTS), seconds=1_190)
    assert outcome.code == 0, outcome.output
    assert sum(outcome.faults.values()) > 0.8 * FAULTS, "too much of it was spared"


@pytest.mark.timeout(300)
def test_a_minute_without_the_metadata_store(tmp_path: Path) -> None:
    """Acknowledging and reading go on all the time, and nothing is lost (L11)."""
    outcome = run_schedule(tmp_path, f"1.0 etcd-all all {OUTAGE_S} 0", seconds=290)
    assert outcome.code == 0, outcome.output
    assert outcome.figure("longest without an acknowledgement") < 5
    assert outcome.figure("longest without a record read") < 5
