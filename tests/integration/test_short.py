"""A cluster of processes under every kind of fault; each test takes seconds to two minutes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from integration.faults import KINDS
from integration.processes import BROKERS
from tests.integration.runs import run, run_schedule

pytestmark = pytest.mark.root

SEED = 4
EVERY_POWER_GOES = ("2.0 power-cut-all all 1.0 0",)


@pytest.mark.timeout(400)
def test_every_kind_of_fault(tmp_path: Path) -> None:
    outcome = run(tmp_path, str(SEED), "--faults", str(len(KINDS)), seconds=390)
    assert outcome.code == 0, outcome.output
    assert len(outcome.faults) >= len(KINDS) - 2, "too much of it was spared"
    assert outcome.figure("acknowledged") > 1_000, "hardly anything was tested"
    logs = "".join((tmp_path / "cluster" / f"{node}.log").read_text() for node in BROKERS)
    assert re.search(r"sync '.*' failed: EIO", logs), "no broker has met a flush that failed"


def test_all_may_die_at_once(tmp_path: Path) -> None:
    """`kill -9` of all three, then their power: they come back by themselves, nothing is lost."""
    lines = ("2.0 kill-all all 1.0 0", "6.0 power-cut-all all 1.0 0", "9.0 etcd-all all 1.0 0")
    outcome = run_schedule(tmp_path, *lines, seconds=110)
    assert outcome.code == 0, outcome.output
    assert sum(outcome.faults.values()) == 3


def test_the_judge_sees_what_disks_lose_that_lie(tmp_path: Path) -> None:
    """A broker whose flushes do nothing breaks its word when the power goes, and is found out."""
    outcome = run_schedule(tmp_path, *EVERY_POWER_GOES, flags=["--disks-lie"], seconds=110)
    assert outcome.code == 1, outcome.output
    assert "kind='lost'" in outcome.output
