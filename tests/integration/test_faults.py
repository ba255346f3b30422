"""The tools do what they say: otherwise a cluster that survives them has survived nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.runs import in_sandbox

pytestmark = pytest.mark.root


def test_packets_disks_and_clocks_feel_it(tmp_path: Path) -> None:
    outcome = in_sandbox(tmp_path, "tests.integration.inside", str(tmp_path), seconds=100)
    assert outcome.code == 0, outcome.output
    tried = outcome.output.split()
    assert tried == ["cut", "reset", "delay", "loss", "power-cut", "full-disk", "clock"]
