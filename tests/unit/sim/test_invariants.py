"""Each invariant of the simulation fires when a running cluster is broken on purpose, and none does
otherwise: a check that cannot fail proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from zmqmq.batch.layout import BODY_CRC_AT, stamp, unpack_header
from zmqmq.core.broker.replica import Replica
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.store import Put
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.core.replication.follower import Follower
from zmqmq.core.replication.isr import Isr
from zmqmq.core.replication.partition import Partition
from zmqmq.core.replication.vouching import Place
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import Log
from zmqmq.core.storage.producers import ProducerTable
from zmqmq.core.storage.truncation import cut
from zmqmq.errors import CorruptDataError
from zmqmq.sim.broker_host import KEYS, BrokerHost
from zmqmq.sim.cluster import Cluster, ClusterOptions
from zmqmq.sim.disk import SimDisk
from zmqmq.sim.documents import Documents, check_leaders_step, check_step
from zmqmq.sim.invariants import Invariants
from zmqmq.sim.node import MS, SECOND
from zmqmq.sim.observed import Batch, Lineage
from zmqmq.sim.trace import Trace
from zmqmq.sim.violation import InvariantError
from zmqmq.sim.workloads.base import SimClient
from zmqmq.sim.workloads.consume import ConsumingClient
from zmqmq.sim.workloads.produce import ProducingClient
from zmqmq.sim.workloads.settle import FoundingClient

Config = dict[str, object]


class Play:
    """A cluster of three brokers with one partition on all of them, and clients that use it."""

    def __init__(self, seed: int = 1, flush: str = "fsync", *, checked: bool = True) -> None:
        topics = {"t": 1}
        self.trace = Trace(keep=30)
        self.cluster = Cluster(seed, ClusterOptions(topics=topics), self.trace)
        if checked:
            self.invariants = Invariants(self.cluster)
        self.cluster.start()
        self.loop = self.cluster.loop
        stage = self.cluster.stage
        founder = FoundingClient(stage, "founder", topics, 3, {"t": {"flush": flush}})
        founder.start()
        while not founder.is_idle:
            self.run(100)
        self.clients: list[SimClient] = [
            ProducingClient(stage, "p1", topics),
            ProducingClient(stage, "p2", topics, idempotent=False),
            ConsumingClient(stage, "c1", topics),
        ]
        for client in self.clients:
            client.start()
        self.run(2000)
        self.place = next(p for p, d in self.documents() if d.replicas)
        assert self.document.leader is not None
        assert self.leader.log is not None
        assert self.leader.log.end_offset > 10

    def run(self, ms: int) -> None:
        self.loop.run_until(self.loop.now + ms * MS)

    def settle(self) -> None:
        """Nothing is under way any more."""
        for client in self.clients:
            client.stop()
        self.run(10_000)

    def documents(self) -> list[tuple[Place, PartitionDocument]]:
        found = []
        for known in self.cluster.hosts:
            if known.broker is not None:
                for topic_id, topic in known.broker.image.topics.items():
                    if topic.document.name == "t":
                        place = (topic_id, 0)
                        found.append((place, self.stored(place)))
        return found

    def stored(self, place: Place) -> PartitionDocument:
        kv = self.cluster.store.keys.get(KEYS.partition(*place))
        assert kv is not None
        return PartitionDocument.decode(kv.value)

    @property
    def document(self) -> PartitionDocument:
        return self.stored(self.place)

    def write(self, document: PartitionDocument) -> None:
        """Put a document into the store, whatever stands there."""
        self.cluster.store.commit([Put(KEYS.partition(*self.place), document.encode())], [])

    def replica(self, host: BrokerHost) -> Replica:
        assert host.broker is not None
        return host.broker.replicas.all[self.place]

    @property
    def leading(self) -> BrokerHost:
        leader = self.document.leader
        assert leader is not None
        return self.cluster.hosts[leader.broker_id - 1]

    @property
    def followers(self) -> list[BrokerHost]:
        return [host for host in self.cluster.hosts if host is not self.leading]

    @property
    def leader(self) -> Replica:
        return self.replica(self.leading)

    def follower(self) -> tuple[BrokerHost, Replica, Log, Follower]:
        """The first one, with all that belongs to it."""
        host = self.followers[0]
        replica = self.replica(host)
        assert replica.log is not None
        assert isinstance(replica.role, Follower)
        return host, replica, replica.log, replica.role

    def partition(self) -> Partition:
        role = self.leader.role
        assert isinstance(role, Partition)
        return role

    def fails(self, rule: str, does: Callable[[], object]) -> str:
        """What is told, when something breaks a rule."""
        with pytest.raises(InvariantError) as caught:
            does()
        assert caught.value.rule == rule, str(caught.value)
        assert "t/0 at" in str(caught.value)
        return str(caught.value)


def test_nothing_is_wrong_with_a_cluster_whose_brokers_come_and_go() -> None:
    for seed, flush in ((1, "fsync"), (2, "replicated"), (3, "fsync")):
        play = Play(seed, flush)
        for number, host in enumerate([*play.cluster.hosts, play.leading]):
            host.crash(power_cut=bool(number % 2))
            play.run(3000)
            host.restart()
            play.run(4000)
        play.cluster.network.cut("b1", "b2")
        play.run(5000)
        play.cluster.network.heal_all()
        play.run(10_000)
        play.settle()
        play.invariants.finish()
        assert not play.invariants.losses


def test_looking_changes_nothing() -> None:
    with_it, without = Play(), Play(checked=False)
    for play in (with_it, without):
        play.leading.crash()
        play.run(5000)
    assert with_it.trace.digest() == without.trace.digest()


def test_what_a_recovery_election_loses_is_flagged_and_no_violation() -> None:
    play = Play(flush="replicated")
    for host in play.cluster.hosts:
        host.disk.fail("sync", count=1_000_000)  # nothing more gets to the disks
        host.broker = host.broker
    play.settle_in_memory = None  # type: ignore[attr-defined]
    for host in play.cluster.hosts:
        host.crash(power_cut=True)
    for host in play.cluster.hosts:
        host.restart()
    play.run(15_000)
    assert play.document.rec > 0
    assert [loss.rec for loss in play.invariants.losses] == [play.document.rec]
    loss = play.invariants.losses[0]
    assert (loss.topic, loss.partition) == ("t", 0)
    assert loss.start <= loss.end
    play.settle()
    play.invariants.finish()
