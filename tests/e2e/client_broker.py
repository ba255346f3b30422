"""A broker that a test of the client kills and starts again, and programs that use one."""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.etcd_process import free_ports

SECONDS = 60
WAIT = SECONDS * 1_000
"""What a fetch waits for records that are there: half a second is the default."""


class Broker:
    """A broker process that can be killed and started again on the same port and directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "zmqmq_cli.main", "broker", "--data-dir"]
        log = (self.folder.parent / "broker.log").open("ab")
        self.process = subprocess.Popen(
            [*command, str(self.folder), "--bind", self.address], stdout=subprocess.PIPE, stderr=log
        )
        log.close()
        stdout = self.process.stdout
        assert stdout is not None
        assert select.select([stdout], [], [], SECONDS)[0], "the broker does not become ready"
        assert b"ready" in stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def stop(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.communicate(timeout=SECONDS)
        self.kill()


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until it is so."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"not within {SECONDS} s: {what}"
        time.sleep(0.01)


def run_script(text: str, address: str) -> subprocess.CompletedProcess[str]:
    """A program of its own, with the broker's address as its argument."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), address],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
