"""Real etcd members as processes on loopback, which can be killed, frozen and started again."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvloop

from tests.support.broker_process import missing
from zmqmq.runtime.etcd.version import Version

START_S = 30.0
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
PORTS = range(12_000 + 2_500 * WORKER, 14_500 + 2_500 * WORKER)
"""Below net.ipv4.ip_local_port_range; other workers have others."""
OLDEST = Version(3, 5, 16)


@functools.cache
def etcd_binary(name: str = "etcd") -> str:
    """`$ZMQMQ_ETCD` or what is beside it, else what is on PATH; skips the test without one."""
    given = os.environ.get("ZMQMQ_ETCD")
    found = str(Path(given).with_name(name)) if given else shutil.which(name)
    if found is None or not os.access(found, os.X_OK):
        missing(
            f"no {found or name}: `.ci/get-etcd DIR` gets one on Debian; name it in ZMQMQ_ETCD, "
            "or put it on PATH"
        )
        raise AssertionError
    if name == "etcd":
        environ = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        said = subprocess.run(
            [found, "--version"], capture_output=True, text=True, env=environ, check=True
        ).stdout
        version = Version.parse(said.partition("etcd Version: ")[2])
        if version < OLDEST:
            missing(f"{found} is {version}; the tests need {OLDEST}, which loses less")
    return found


def on_uvloop(work: Coroutine[Any, Any, None]) -> None:
    """Run it on the loop that a broker has. The conformance suite runs on asyncio's own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


_start = secrets.randbelow(len(PORTS))
_ports = itertools.cycle([*PORTS[_start:], *PORTS[:_start]])


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has now. Not from where connections take theirs, and none
    twice before all others had their turn: one of those could be taken before it is listened on,
    or while its broker is down."""
    found: list[int] = []
    while len(found) < count:
        port = next(_ports)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


class EtcdMember:
    """One process, and the command that starts it again with the same data."""

    def __init__(self, name: str, endpoint: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.endpoint = endpoint
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self._process is None
        # etcd takes every variable ETCD_* for a flag, and stops at one that it does not know.
        environ = {k: v for k, v in os.environ.items() if not k.startswith("ETCD_")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                # Dies with whoever runs the tests, also if that is killed.
                ["setpriv", "--pdeathsig", "KILL", *self._command],
                stdout=log,
                stderr=log,
                env=environ,
            )

    def wait_listening(self) -> None:
        host, _, port = self.endpoint.partition(":")
        end = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection((host, int(port)), timeout=1).close()
                return
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            assert time.monotonic() < end, self._log.read_text()[-3000:]
            time.sleep(0.02)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        assert self._process is not None
        self._process.wait(30)
        self._process = None


class EtcdCluster:
    """One member or several, all alike."""

    def __init__(self, folder: Path, size: int = 1, flags: Sequence[str] = ()) -> None:
        ports = free_ports(2 * size)
        peers = {f"m{i}": f"http://127.0.0.1:{ports[size + i]}" for i in range(size)}
        scheme = "https" if "--client-cert-auth" in flags else "http"
        self.members = []
        for i, (name, peer) in enumerate(peers.items()):
            client = f"{scheme}://127.0.0.1:{ports[i]}"
            command = [
                etcd_binary(), "--name", name, "--data-dir", str(folder / name),
                "--listen-client-urls", client, "--advertise-client-urls", client,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", ",".join(f"{n}={url}" for n, url in peers.items()),
                # What a killed process wrote is in the page cache; nobody cuts the power here.
                "--unsafe-no-fsync", "--logger", "zap", "--log-level", "warn", *flags,
            ]  # fmt: skip
            endpoint = f"127.0.0.1:{ports[i]}"
            self.members.append(EtcdMember(name, endpoint, command, folder / f"{name}.log"))

    @property
    def endpoints(self) -> str:
        return ",".join(member.endpoint for member in self.members)

    def leader(self) -> EtcdMember:
        """Who leads now, in the eyes of those who answer; an election is waited for."""
        end = time.monotonic() + START_S
        while True:
            said = self.ctl("endpoint", "status", "-w", "json")
            for each in json.loads(said):
                status = each["Status"]
                if status["leader"] == status["header"]["member_id"]:
                    (found,) = (m for m in self.members if each["Endpoint"].endswith(m.endpoint))
                    return found
            assert time.monotonic() < end, f"nobody leads: {said}"
            time.sleep(0.1)

    def ctl(self, *arguments: str) -> str:
        """What etcdctl prints."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        command = [etcd_binary("etcdctl"), "--endpoints", self.endpoints]
        command += ["--command-timeout", "20s", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environ, timeout=START_S, check=False
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self) -> None:
        """Start those that do not run, and wait until they listen."""
        down = [member for member in self.members if not member.is_running]
        for member in down:
            member.start()
        for member in down:
            member.wait_listening()

    def close(self) -> None:
        for member in self.members:
            if member.is_running:
                member.kill()


@contextlib.contextmanager
def etcd_cluster(folder: Path, size: int = 1, flags: Sequence[str] = ()) -> Iterator[EtcdCluster]:
    cluster = EtcdCluster(folder, size, flags)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
