"""The cluster as processes of this machine, each in a network namespace, brokers on small disks.

To be used in a sandbox (sandbox.py).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from integration.disks import Disk
from integration.network import HUB, Port, make_bridge
from integration.world import Way, Weather, What

BROKERS: Final = ("b1", "b2", "b3")
MEMBERS: Final = ("e1", "e2", "e3")
CLIENT_PORT, PEER_PORT = 5755, 5757
ETCD_PORT, ETCD_PEER_PORT = 2379, 2380
STOP_S: Final = 10.0
SESSION_MS: Final = 3_000
SETTINGS: Final = {
    "BROKER__SESSION_MS": str(SESSION_MS),
    "SERVING__OFFSETS_PARTITIONS": "3",
    "STORAGE__ALLOCATE_BYTES": "262144",
    "STORAGE__FREE_BYTES_MIN": "8388608",
    "STORAGE__CHECKPOINT_MS": "500",
    "STORAGE__RETENTION_CHECK_MS": "500",
}
FLUSHERS: Final = {"b1": "threads", "b2": "threads", "b3": "auto"}
"""strace and the shim cannot reach what a kernel thread flushes."""
SYNCS: Final = "fsync,fdatasync,syncfs"
GAVE_UP: Final = "error: no answer from etcd"
"""A broker ends that loses its etcd in the middle of its start, for its supervisor to start it
again."""
COMPLAINT: Final = re.compile(
    r"^Traceback .*(?:\n .*)*\n.*|^.* was never (?:retrieved|awaited).*", re.MULTILINE
)
"""What nobody has caught, or what was logged as if nobody had."""


class Process:
    """A command that can be started again and again, and what it wrote."""

    def __init__(
        self, name: str, command: Sequence[str], environ: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        self.deaths: list[str] = []
        """Those that nobody asked for."""
        self.is_excused = False
        """Whether it may end by itself: its disk has failed."""
        self._command = command
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        process = self._process
        if process is not None and process.poll() is not None:
            last = self.log.read_text(errors="replace").rstrip().rpartition("\n")[2]
            if not (self.is_excused or last.startswith(GAVE_UP)):
                code = process.returncode
                self.deaths.append(f"{self.name} ended by itself with {code}: {last}")
            self._process = process = None
        return None if process is None else process.pid

    def start(self) -> None:
        """Unless it runs."""
        if self.pid is None:
            self.is_excused = False
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command, stdout=log, stderr=log, env=self._environ
                )

    def signal(self, number: signal.Signals) -> None:
        """If it runs."""
        if self.pid is not None:
            assert self._process is not None
            self._process.send_signal(number)

    def kill(self) -> None:
        """If it runs."""
        if self.pid is not None:
            assert self._process is not None
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """If it runs; with patience, but not for ever."""
        if self.pid is not None:
            assert self._process is not None
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
                self._process = None
            except subprocess.TimeoutExpired:
                self.kill()


class Processes:
    """A `World` (world.py)."""

    def __init__(self, folder: Path, etcd: str, *, may_lie: bool = False) -> None:
        self._may_lie = may_lie
        self.brokers: Sequence[str] = BROKERS
        self.members: Sequence[str] = MEMBERS
        self._folder = folder
        make_bridge()
        numbers = {n: i for i, n in enumerate(BROKERS, 1)} | {
            n: i for i, n in enumerate(MEMBERS, 11)
        }
        self._ports = {node: Port(node, number) for node, number in numbers.items()}
        self._disks = {node: Disk(folder / node) for node in BROKERS}
        self._shim = self._build_shim()
        self._processes = {node: self._member(node, etcd) for node in MEMBERS}
        self._processes |= {node: self._broker(node, n) for n, node in enumerate(BROKERS, 1)}
        self._tracers: dict[str, subprocess.Popen[bytes]] = {}
        self._full: set[str] = set()
        """On these disks a broker may not even start."""

    @property
    def servers(self) -> str:
        """Where clients begin."""
        return ",".join(f"{self._ports[node].address}:{CLIENT_PORT}" for node in BROKERS)

    # Processes

    def start(self, node: str) -> None:
        """Start it, unless it runs; does not wait until it serves."""
        process = self._processes[node]
        process.start()
        process.is_excused |= node in self._full

    def stop(self, node: str) -> None:
        """SIGTERM, and SIGKILL if that does not end it in a while."""
        self._processes[node].stop()
        self._untrace(node)

    def kill(self, node: str) -> None:
        """SIGKILL, if it runs."""
        self._processes[node].kill()
        self._untrace(node)

    def pause(self, node: str) -> None:
        """SIGSTOP, if it runs."""
        self._processes[node].signal(signal.SIGSTOP)

    def resume(self, node: str) -> None:
        """SIGCONT, if it runs."""
        self._processes[node].signal(signal.SIGCONT)

    # Network

    def cut(self, node: str, what: What, way: Way = Way.BOTH) -> None:
        """From now on packets are lost in silence."""
        self._ports[node].cut(self._others(node, what), way)

    def heal(self, node: str, what: What, way: Way = Way.BOTH) -> None:
        """The opposite of the same `cut`."""
        self._ports[node].heal(self._others(node, what), way)

    def reset(self, node: str) -> None:
        """Every connection that it has breaks, at both ends."""
        self._ports[node].reset()

    def slow(self, node: str, weather: Weather) -> None:
        """Delay, reorder and lose what it receives."""
        self._ports[node].slow(weather)

    def calm(self, node: str) -> None:
        """The opposite."""
        self._ports[node].calm()

    # Disks and clocks

    def cut_power(self, nodes: Sequence[str]) -> None:
        """At one instant: the processes are gone, and whatever was not flushed with them."""
        self._still(nodes)
        for node in nodes:
            self._disks[node].cut_power()
        for node in nodes:
            self.kill(node)

    def kill_disk(self, node: str) -> None:
        """From now on the disk answers EIO, to a broker that goes on."""
        self._processes[node].is_excused = True
        self._still([node])
        self._disks[node].cut_power()
        self.resume(node)

    def mend_disk(self, node: str) -> None:
        """What is on it can be read again. The broker must be down."""
        self._disks[node].mend()

    def fail_syncs(self, node: str) -> None:
        """Its fsync and its like answer EIO until it is killed."""
        process = self._processes[node]
        process.is_excused = True
        command = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", f"trace={SYNCS}"]
        command += ["-e", f"inject={SYNCS}:error=EIO", "-p", str(process.pid)]
        tracer = self._tracers[node] = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        tasks = Path(f"/proc/{process.pid}/task")
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            while tracer.poll() is None and any(
                "TracerPid:\t0\n" in status.read_text() for status in tasks.glob("*/status")
            ):
                time.sleep(0.02)

    def fill(self, node: str) -> None:
        """No room is left on its disk."""
        self._full.add(node)
        self._processes[node].is_excused = True
        self._disks[node].fill()

    def free(self, node: str) -> None:
        """The opposite."""
        self._disks[node].free()
        self._full.discard(node)

    def wipe(self, node: str) -> None:
        """Remove its data. The broker must be down."""
        shutil.rmtree(self.folder(node))

    def skew(self, node: str, seconds: int) -> None:
        """Its wall clock is wrong by so much. The monotonic one is not."""
        self._write_shim(node, 0, seconds * 10**9)

    def lie(self) -> None:
        """From now on all disks answer that they have flushed what they have not, against which
        nothing helps: the judge must see it. What there is by now, they keep."""
        assert self._may_lie
        os.sync()
        for node in BROKERS:
            self._write_shim(node, 1, 1)

    # What there is to see

    def inside(self, node: str, *command: str) -> list[str]:
        """A command, to be run where the node is in the network."""
        return self._ports[node].inside(*command)

    def environ(self, node: str) -> dict[str, str]:
        """The environment of a broker."""
        flusher = "threads" if self._may_lie else FLUSHERS[node]
        settings = SETTINGS | {"STORAGE__FLUSHER": flusher}
        environ = os.environ | {f"ZMQMQ_BROKER__{name}": value for name, value in settings.items()}
        return environ | {"LD_PRELOAD": str(self._shim), "SHIM": str(self._shim_of(node))}

    def folder(self, node: str) -> Path:
        """The data directory of a broker."""
        return self._disks[node].root / "data"

    def is_running(self, node: str) -> bool:
        """Whether there is a process."""
        return self._processes[node].pid is not None

    def complaints(self) -> Sequence[str]:
        """What no process should have done: died by itself, or raised what is a bug."""
        found = []
        for node in BROKERS:
            process = self._processes[node]
            said = process.log.read_text(errors="replace") if process.log.exists() else ""
            found += process.deaths
            found += [f"{node}: {match[0]}" for match in COMPLAINT.finditer(said)]
        return found

    def close(self) -> None:
        """End everything; what is forgotten here ends with the sandbox."""
        for node, process in self._processes.items():
            process.is_excused = True
            process.kill()
            self._untrace(node)
        for disk in self._disks.values():
            disk.close()
        for port in self._ports.values():
            port.close()

    # Inside

    def _still(self, nodes: Sequence[str]) -> None:
        """Stop these processes. Flushes that are under way come to an end first: the kernel
        answers 0 to some that the ioctl overtakes, which no machine without power would."""
        for node in nodes:
            self.pause(node)
        time.sleep(0.1)

    def _untrace(self, node: str) -> None:
        tracer = self._tracers.pop(node, None)
        if tracer is not None:
            tracer.kill()
            tracer.wait()

    def _others(self, node: str, what: What) -> list[str]:
        peers = [n for n in (BROKERS if node in BROKERS else MEMBERS) if n != node]
        rest = MEMBERS if node in BROKERS else BROKERS
        addresses = {
            What.PEERS: [self._ports[n].address for n in peers],
            What.ETCD: [self._ports[n].address for n in MEMBERS if n != node],
            What.CLIENTS: [HUB],
            What.ALL: [HUB, *(self._ports[n].address for n in (*peers, *rest))],
        }
        return addresses[what]

    def _build_shim(self) -> Path:
        library = self._folder / "shim.so"
        source = Path(__file__).with_name("shim.c")
        command = ["gcc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source)]
        subprocess.run(command, check=True)
        for node in BROKERS:
            self._shim_of(node).write_bytes(bytes(16))
        return library

    def _shim_of(self, node: str) -> Path:
        return self._folder / f"{node}.shim"

    def _write_shim(self, node: str, field: int, value: int) -> None:
        with self._shim_of(node).open("r+b", buffering=0) as file:
            file.seek(8 * field)
            file.write(struct.pack("=q", value))

    def _broker(self, node: str, number: int) -> Process:
        port = self._ports[node]
        etcd = ",".join(f"{self._ports[m].address}:{ETCD_PORT}" for m in MEMBERS)
        command = port.inside(
            *(sys.executable, "-m", "zmqmq_cli.main", "broker"),
            *("--data-dir", str(self.folder(node)), "--node-id", str(number)),
            *("--rack", f"r{number}", "--etcd", etcd, "--insecure"),
            *("--bind", f"{port.address}:{CLIENT_PORT}"),
            *("--bind-peers", f"{port.address}:{PEER_PORT}"),
        )
        return Process(node, command, self.environ(node), self._folder / f"{node}.log")

    def _member(self, node: str, etcd: str) -> Process:
        port = self._ports[node]
        client = f"http://{port.address}:{ETCD_PORT}"
        peers = {m: f"http://{self._ports[m].address}:{ETCD_PEER_PORT}" for m in MEMBERS}
        environ = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        command = port.inside(
            *(etcd, "--name", node, "--data-dir", str(self._folder / node)),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peers[node], "--initial-advertise-peer-urls", peers[node]),
            *("--initial-cluster", ",".join(f"{m}={url}" for m, url in peers.items())),
            # What a killed process wrote is in the page cache; nobody cuts the power of these.
            *("--unsafe-no-fsync", "--logger", "zap", "--log-level", "warn"),
        )
        return Process(node, command, environ, self._folder / f"{node}.log")
