"""A bridge, and a network namespace for each node. All of it ends with the process that made it.

To be used in a sandbox (sandbox.py): the bridge is made in the namespace that this process is in.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from integration.world import Way, Weather

SUBNET: Final = "10.77.0"
HUB: Final = f"{SUBNET}.254"
"""Where clients are."""
QUEUE: Final = 1


def run(*command: str) -> str:
    """What a command prints; raises what it complains about."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def make_bridge() -> None:
    """In this namespace."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "addr", "add", f"{HUB}/24", "dev", "br0")
    run("ip", "link", "set", "br0", "up")


class Port:
    """A node's namespace and its link to the bridge."""

    def __init__(self, node: str, number: int) -> None:
        self.node = node
        self.address = f"{SUBNET}.{number}"
        self._shaper: subprocess.Popen[bytes] | None = None
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        pid = self._holder.pid
        ours = Path("/proc/self/ns/net").stat().st_ino
        while Path(f"/proc/{pid}/ns/net").stat().st_ino == ours:
            time.sleep(0.005)
        link = f"to-{node}"
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        run("ip", "link", "set", link, "master", "br0", "up")
        self._run("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self._run("ip", "link", "set", "eth0", "up")
        self._run("ip", "link", "set", "lo", "up")

    def inside(self, *command: str) -> list[str]:
        """The command, to be run in the namespace."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--", *command]

    def cut(self, others: Sequence[str], way: Way) -> None:
        """Drop packets from or to these addresses."""
        self._rules("-A", others, way)

    def heal(self, others: Sequence[str], way: Way) -> None:
        """The opposite of the same cut."""
        self._rules("-D", others, way)

    def reset(self) -> None:
        """Break all connections, at both ends."""
        self._run("ss", "-K", "dst", f"{SUBNET}.0/24")

    def slow(self, weather: Weather) -> None:
        """Hand whatever comes in to a process that keeps it for a while (shaper.py)."""
        assert self._shaper is None
        self._shaper = subprocess.Popen(
            self.inside(sys.executable, "-m", "integration.shaper", *map(str, weather))
        )
        self._run(*self._queueing("-A"))

    def calm(self) -> None:
        """The opposite."""
        if self._shaper is not None:
            self._run(*self._queueing("-D"))
            self._shaper.kill()
            self._shaper.wait()
            self._shaper = None

    def close(self) -> None:
        """The link goes with the namespace, when the last process in it has ended."""
        self.calm()
        self._holder.kill()
        self._holder.wait()

    def _rules(self, action: str, others: Sequence[str], way: Way) -> None:
        both = (Way.IN, "INPUT", "-s"), (Way.OUT, "OUTPUT", "-d")
        for direction, chain, side in both:
            if way in (Way.BOTH, direction):
                self._run("iptables", "-w", action, chain, side, ",".join(others), "-j", "DROP")

    def _queueing(self, action: str) -> list[str]:
        # Without a process that listens the packets pass.
        target = ("-j", "NFQUEUE", "--queue-num", str(QUEUE), "--queue-bypass")
        return ["iptables", "-w", action, "INPUT", "-i", "eth0", *target]

    def _run(self, *command: str) -> str:
        return run(*self.inside(*command))
