"""Run by test_faults.py in a sandbox: does each tool do what it says, to a real packet, disk or
clock? Prints one line for each that was tried."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from integration.network import HUB
from integration.processes import Processes
from integration.world import Way, Weather, What

PORT = 7_000
REACHED_S = 10.0
CUT_S = 0.5


def say(tried: str) -> None:
    """It does."""
    sys.stdout.write(f"{tried}\n")
    sys.stdout.flush()


def refused_by(action: Callable[[], object]) -> str:
    """The name of the error; empty: it went well."""
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)
    return ""


class Echo:
    """A server in this namespace, and questions asked from a node's."""

    def __init__(self, world: Processes) -> None:
        self._world = world
        self._listener = socket.create_server((HUB, PORT))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):  # it is reset
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    def ask(self, node: str, script: str = "", seconds: float = REACHED_S) -> str:
        """What a question from there comes to: `TIMEOUT`, or how many ms it took."""
        code = f"""
import socket, time
s = socket.socket()
s.settimeout({seconds})
try:
    s.connect(({HUB!r}, {PORT}))
    {script or "pass"}
    began = time.monotonic()
    s.sendall(b"x")
    s.recv(1)
    print(round((time.monotonic() - began) * 1000))
except TimeoutError:
    print("TIMEOUT")
except OSError as error:
    print(type(error).__name__)
"""
        command = self._world.inside(node, sys.executable, "-c", code)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def quickest(self, node: str) -> int:
        """Of three questions, for whoever answers may be held up; in ms."""
        return min(int(self.ask(node)) for _ in range(3))


def try_network(world: Processes) -> None:
    """Cuts, resets, delay and loss."""
    echo = Echo(world)
    assert echo.ask("b1").isdigit()
    for what, reaches in (
        (What.ALL, False), (What.CLIENTS, False), (What.ETCD, True), (What.PEERS, True)
    ):  # fmt: skip
        for way in Way:
            world.cut("b1", what, way)
            said = echo.ask("b1", seconds=REACHED_S if reaches else CUT_S)
            assert (said != "TIMEOUT") == reaches, (what, way, said)
            world.heal("b1", what, way)
        assert echo.ask("b1").isdigit(), what
    world.cut("b1", What.ALL)
    assert echo.ask("b2").isdigit(), "another node is cut off too"
    world.heal("b1", What.ALL)
    say("cut")
    waiting = subprocess.Popen(
        world.inside("b1", sys.executable, "-c", RESET), stdout=subprocess.PIPE, text=True
    )
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "connected\n"
    world.reset("b1")
    assert waiting.communicate(timeout=10)[0].strip() in {
        "ConnectionResetError",
        "ConnectionAbortedError",
    }
    say("reset")
    world.slow("b1", Weather(delay_ms=150))
    time.sleep(0.5)
    found = echo.quickest("b1")
    assert 150 <= found < 1_500, found
    world.calm("b1")
    found = echo.quickest("b1")
    assert found < 150, found
    say("delay")
    world.slow("b1", Weather(loss=1.0))
    time.sleep(0.5)
    assert echo.ask("b1", seconds=CUT_S) == "TIMEOUT"
    world.calm("b1")
    assert echo.ask("b1").isdigit()
    say("loss")


RESET = f"""
import socket
s = socket.create_connection(({HUB!r}, {PORT}))
print("connected", flush=True)
try:
    s.recv(1)
except OSError as error:
    print(type(error).__name__)
"""


def try_disks(world: Processes) -> None:
    """Power, death and room."""
    root = world.folder("b1").parent
    kept, lost = root / "kept", root / "lost"
    with kept.open("wb") as file:
        file.write(b"kept")
        file.flush()
        os.fsync(file.fileno())
    descriptor = os.open(root, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    lost.write_bytes(b"lost")
    world.cut_power(["b1"])
    assert (
        refused_by(lost.read_bytes) in {"EIO", "ENOENT"}
        or refused_by(lambda: (root / "new").write_bytes(b"")) == "EIO"
    )
    world.mend_disk("b1")
    assert kept.read_bytes() == b"kept"
    assert not (lost.exists() and lost.read_bytes()), "nothing was lost when the power went"
    say("power-cut")
    world.fill("b1")
    assert refused_by(lambda: (root / "more").write_bytes(bytes(1 << 20))) == "ENOSPC"
    world.free("b1")
    world.cut_power(["b1"])
    world.mend_disk("b1")  # what filled it does not come back with the power
    assert refused_by(lambda: (root / "more").write_bytes(bytes(1 << 20))) == ""
    say("full-disk")


def try_clocks(world: Processes) -> None:
    """The wall clock of a broker and nobody else's; the monotonic one is right."""
    code = "import time; print(time.time(), time.monotonic())"
    for seconds in (3_600, -3_600, 0):
        world.skew("b1", seconds)
        for node, ahead in (("b1", seconds), ("b2", 0)):
            command = [sys.executable, "-c", code]
            done = subprocess.run(
                command, capture_output=True, text=True, env=world.environ(node), check=True
            )
            wall, monotonic = map(float, done.stdout.split())
            assert abs(wall - time.time() - ahead) < 5, (node, seconds, wall)
            assert abs(monotonic - time.monotonic()) < 5
    say("clock")


if __name__ == "__main__":
    world = Processes(Path(sys.argv[1]), "etcd")
    try:
        try_network(world)
        try_disks(world)
        try_clocks(world)
    finally:
        world.close()
