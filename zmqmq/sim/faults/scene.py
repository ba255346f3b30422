"""What a fault is, and what it can reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from zmqmq.core.meta.keys import PartitionKey
from zmqmq.core.meta.values import PartitionDocument, TopicDocument
from zmqmq.core.replication.vouching import Place
from zmqmq.sim.broker_host import KEYS, BrokerHost
from zmqmq.sim.chance import Stream
from zmqmq.sim.cluster import Cluster
from zmqmq.sim.node import MS
from zmqmq.sim.workloads.base import SimClient

ALL: Final = "all"
TWO: Final = 2

End = Callable[[], object]


class Fault(NamedTuple):
    """One thing that will happen."""

    at: int
    """Nanoseconds after the faults begin."""
    kind: str
    target: str
    """A node, `all` brokers, or two nodes as `a-b` or, in one direction, `a>b`."""
    duration: int
    parameter: int = 0
    """What it means depends on the kind."""

    def __str__(self) -> str:
        return f"{self.kind} {self.target} {self.duration / MS:.0f} ms, {self.parameter}"


class _Rot(NamedTuple):
    """A byte that was damaged."""

    host: BrokerHost
    place: Place
    path: str
    position: int
    byte: bytes

    @property
    def is_there(self) -> bool:
        """Whether it still is."""
        disk = self.host.disk
        return disk.exists(self.path) and self.byte == disk.open(self.path).read(self.position, 1)


class Scene:
    """What faults can reach."""

    def __init__(self, cluster: Cluster, clients: Mapping[str, SimClient]) -> None:
        self.cluster = cluster
        self.clients = clients
        self._rotten: list[_Rot] = []
        self._lost: dict[int, int] = {}
        """Brokers whose disks were taken, and the revision of the store then."""

    def hosts(self, target: str) -> list[BrokerHost]:
        """The brokers that are meant."""
        return [h for h in self.cluster.hosts if target in (ALL, h.node.name)]

    def stream(self, fault: Fault) -> Stream:
        """The fault's own chance, which taking others away does not change."""
        return self.cluster.chance.stream(f"fault/{fault.at}/{fault.kind}/{fault.target}")

    def partitions(self) -> Iterator[tuple[Place, PartitionDocument]]:
        """Every partition as the store has it."""
        for kv in self.cluster.store.keys.list(KEYS.prefix + b"part/").items:
            key = KEYS.parse(kv.key)
            assert isinstance(key, PartitionKey)
            yield (key.topic_id, key.partition), PartitionDocument.decode(kv.value)

    def is_compacted(self, place: Place) -> bool:
        """Whether logs of this topic are compacted."""
        kv = self.cluster.store.keys.get(KEYS.topic(place[0]))
        return kv is not None and TopicDocument.decode(kv.value).config.get("cleanup") == "compact"

    def is_spare(
        self, host: BrokerHost, place: Place, document: PartitionDocument, *, is_counted: bool
    ) -> bool:
        """Whether this copy can be lost: another broker surely has everything that is committed.

        It must still count if its session ends before the controller knows of the loss. With a
        min_isr of 1 it would not: the ISR would shrink to the lost copy, and there is no ELR. The
        lost one is counted if it is in the ISR, or could come into it by a commit that is under
        way, as long as its broker is registered. And no third one may be lost or damaged without
        anybody knowing: the two would count without the one that is well, if that one stops.
        """
        others = [self.cluster.hosts[i - 1] for i in document.replicas if i != host.broker_id]
        if any(self._is_rotten(other, place) for other in others):
            return False
        members = (*document.isr, *document.elr)
        if any(self._is_lost(*m) for m in members if m.broker_id != host.broker_id):
            return False
        in_sync = [member.broker_id for member in document.isr]
        is_counted = is_counted or host.broker_id in in_sync
        if is_counted and document.effective_min_isr < TWO:
            return False
        return any(
            member.broker_id != host.broker_id and self._is_well(*member) for member in document.isr
        )

    def flip(self, host: BrokerHost, place: Place, path: str, position: int, mask: int) -> None:
        """Damage a byte. As long as nobody has found it the copy looks as well as any other."""
        host.disk.flip(path, position, mask)
        byte = host.disk.open(path).read(position, 1)
        self._rotten.append(_Rot(host, place, path, position, byte))

    def _is_rotten(self, host: BrokerHost, place: Place) -> bool:
        return any(r.host is host and r.place == place and r.is_there for r in self._rotten)

    def lose(self, host: BrokerHost, *, is_quick: bool) -> None:
        """Its process ends; its session too, unless what happens to the disk happens quickly."""
        host.crash()
        self._lost[host.broker_id] = self.cluster.store.keys.revision
        if not is_quick:
            self.cluster.store.expire(host.node.name)

    def _is_lost(self, broker_id: int, broker_epoch: int) -> bool:
        """Whether what this run had is gone."""
        return broker_epoch <= self._lost.get(broker_id, 0)

    def _is_well(self, broker_id: int, broker_epoch: int) -> bool:
        kv = self.cluster.store.keys.get(KEYS.live(broker_id))
        host = self.cluster.hosts[broker_id - 1]
        broker = host.broker
        return (
            kv is not None
            and kv.create_revision == broker_epoch
            and broker is not None
            and broker.identity.epoch == broker_epoch
        )


Begin = Callable[[Scene, Fault], End | None]
"""Brings a fault about; None: it would be too much, or meets nobody."""


def nothing() -> None:
    """The end of what is over by itself."""


def up(hosts: Sequence[BrokerHost]) -> None:
    """Those that are down start again."""
    for host in hosts:
        host.restart()
