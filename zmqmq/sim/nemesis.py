"""Brings the faults of a schedule about, and takes them all back when it is time to heal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from zmqmq.sim.broker_host import BrokerHost
from zmqmq.sim.cluster import Cluster
from zmqmq.sim.faults import KINDS, End, Fault, Scene
from zmqmq.sim.node import SECOND
from zmqmq.sim.workloads.base import SimClient


class Nemesis:
    """Works from `begin` to `heal`."""

    def __init__(self, cluster: Cluster, clients: Mapping[str, SimClient]) -> None:
        self.scene = Scene(cluster, clients)
        self.census: Counter[str] = Counter()
        """Faults by kind, those that were done."""
        self.spared: Counter[str] = Counter()
        """Those that would have been too much, or met nobody."""
        self._cluster = cluster
        self._open: dict[int, End] = {}
        self._is_over = False

    def begin(self, schedule: Sequence[Fault]) -> None:
        """From now on the schedule runs."""
        loop = self._cluster.loop
        for number, fault in enumerate(schedule):
            loop.post(loop.now + fault.at, None, self._start, number, fault)

    def heal(self) -> None:
        """Everything is well again, at once; what is left of the schedule does not happen."""
        self._is_over = True
        for number in list(self._open):
            self._end(number)
        cluster = self._cluster
        cluster.network.heal_all()
        for host in cluster.hosts:
            host.disk.mend()
            host.node.resume()
            host.restart()
            # When no flush is under way any more that has failed already.
            cluster.loop.call_at(cluster.loop.now + SECOND, None, _start_anew, host)
        for client in self.scene.clients.values():
            client.node.resume()

    def _start(self, number: int, fault: Fault) -> None:
        if self._is_over:
            return
        end = KINDS[fault.kind](self.scene, fault)
        if end is None:
            self.spared[fault.kind] += 1
            return
        self.census[fault.kind] += 1
        loop = self._cluster.loop
        self._cluster.trace.event(loop.now, "nemesis", str(fault))
        self._open[number] = end
        loop.post(loop.now + fault.duration, None, self._end, number)

    def _end(self, number: int) -> None:
        end = self._open.pop(number, None)
        if end is not None:
            end()


def _start_anew(host: BrokerHost) -> None:
    """As its operator would, where a log that has failed has no other copy."""
    broker = host.broker
    if broker is not None and (
        broker.catalog.unopened or any(log.failed or log.damage for log in broker.replicas.logs)
    ):
        host.crash()
        host.restart()
