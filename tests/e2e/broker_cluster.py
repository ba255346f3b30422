"""Several real brokers on a real etcd, for the tests of clusters."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.command_line import start_broker, stop
from tests.support.etcd_process import EtcdCluster, etcd_cluster, free_ports


@dataclass
class Running:
    """The brokers by number."""

    folder: Path
    etcd: EtcdCluster
    ports: dict[int, tuple[int, int]]
    racks: dict[int, str]
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def servers(self) -> str:
        """Where clients begin."""
        return ",".join(f"127.0.0.1:{clients}" for clients, _ in self.ports.values())

    def start(self, *numbers: int) -> None:
        """Start some, until they are ready."""
        for number in numbers:
            clients, peers = self.ports[number]
            self.processes[number], _ = start_broker(
                self.data(number),
                *("--node-id", str(number), "--rack", self.racks[number]),
                *("--etcd", self.etcd.endpoints, "--bind", f"127.0.0.1:{clients}"),
                *("--bind-peers", f"127.0.0.1:{peers}"),
            )

    def data(self, number: int) -> Path:
        """The data directory of one."""
        return self.folder / f"b{number}"

    def kill(self, number: int) -> None:
        """SIGKILL."""
        process = self.processes.pop(number)
        process.kill()
        process.communicate()

    def stop(self, number: int) -> None:
        """A clean stop."""
        assert stop(self.processes.pop(number)) == 0


@contextmanager
def running_cluster(folder: Path, racks: dict[int, str]) -> Iterator[Running]:
    """A broker for each number; none is started yet, and all are killed in the end."""
    ports = free_ports(2 * len(racks))
    pairs = {n: (ports[2 * i], ports[2 * i + 1]) for i, n in enumerate(racks)}
    with etcd_cluster(folder) as etcd:
        running = Running(folder, etcd, pairs, racks)
        try:
            yield running
        finally:
            for number in list(running.processes):
                running.kill(number)
