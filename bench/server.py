"""Server processes of a benchmark: on loopback, in a fresh folder, ended by their pid."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PORTS = range(32_000, 32_768)
"""Below those that connections are given (net.ipv4.ip_local_port_range)."""
READY_SECONDS = 60
STOP_SECONDS = 20


class ServerError(Exception):
    """A server did not start; the message ends with what it said."""


class Server:
    """A process that serves one port of 127.0.0.1 from a folder of its own."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
        self.process = process
        self.port = port
        self.folder = folder
        self.ready_seconds = 0.0

    @property
    def pid(self) -> int:
        """The process that does the work."""
        return self.process.pid

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"


@contextlib.contextmanager
def serving(
    command: Sequence[str], port: int, folder: Path, *, ready: bytes | None = b"ready"
) -> Iterator[Server]:
    """Run a server until the block ends.

    It is ready once it has printed a line with `ready`; with None, once the port takes a
    connection. Its stderr goes to a file, which is shown when it does not come up.
    """
    log = folder / "stderr.txt"
    began = time.perf_counter()
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE if ready else stderr, stderr=stderr
        )
    server = Server(process, port, folder)
    try:
        arrived = _said(process, ready) if ready else _listens(process, port)
        if not arrived:
            raise ServerError(f"{command[0]} did not start: {log.read_text()[-800:]}")
        server.ready_seconds = time.perf_counter() - began
        yield server
    finally:
        _end(process)


@contextlib.contextmanager
def fresh_folder(parent: Path | None) -> Iterator[Path]:
    """A folder on the disk to be measured, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="zmqmq-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[Server]:
    """A zmqmq broker with its default settings, as `zmqmq broker` starts it."""
    port = free_port()
    data = folder / "data"
    command = [sys.executable, "-m", "zmqmq_cli.main", "broker", "--data-dir", str(data)]
    with serving([*command, "--bind", f"127.0.0.1:{port}"], port, folder) as server:
        yield server


@contextlib.contextmanager
def bare(folder: Path, *, fsync: bool) -> Iterator[Server]:
    """The yardstick."""
    port = free_port()
    command = [sys.executable, "-m", "bench.bare", str(port), str(folder / "log"), str(int(fsync))]
    with serving(command, port, folder) as server:
        yield server


def free_port() -> int:
    """A port of loopback that nobody has now, nor may be given for a connection meanwhile."""
    while True:
        port = secrets.choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def settle() -> None:
    """What was written so far goes to the disk now, and not during the next measurement."""
    os.sync()
    time.sleep(0.3)


def _said(process: subprocess.Popen[bytes], word: bytes) -> bool:
    assert process.stdout is not None
    end = time.monotonic() + READY_SECONDS
    seen = b""
    while (left := end - time.monotonic()) > 0:
        if not select.select([process.stdout], [], [], left)[0]:
            return False
        chunk = os.read(process.stdout.fileno(), 4096)
        seen += chunk
        if word in seen:
            return True
        if not chunk:
            return False
    return False


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for one that does not hear it."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
