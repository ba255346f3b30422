"""The tools do what they say: otherwise a cluster that survives them has survived nothing."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from integration import sandbox
from tests.integration.runs import in_sandbox
from tests.support.loop_disk import loop_disk, need_loop_devices

pytestmark = pytest.mark.root


def test_packets_disks_and_clocks_feel_it(tmp_path: Path) -> None:
    outcome = in_sandbox(tmp_path, "tests.integration.inside", str(tmp_path), seconds=100)
    assert outcome.code == 0, outcome.output
    tried = outcome.output.split()
    assert tried == ["cut", "reset", "delay", "loss", "power-cut", "full-disk", "clock"]


def test_a_sandbox_keeps_nobody_elses_disk(tmp_path: Path) -> None:
    """It begins with a copy of every mount, and its owner could not mount it again with power."""
    need_loop_devices()
    with loop_disk(tmp_path, 32) as disk:
        sleeps = sandbox.command("timeit", "-n1", "-r1", "import time; time.sleep(60)")
        with subprocess.Popen(sleeps) as process:
            try:
                mounts = Path(f"/proc/{process.pid}/ns/mnt")
                while mounts.readlink() == Path("/proc/self/ns/mnt").readlink():
                    time.sleep(0.01)
                disk.cut_power()
                disk.unmount()
                assert process.poll() is None, "it was to be there all the time"
                disk.mount()
                (disk.root / "file").write_bytes(b"written")
            finally:
                process.kill()
