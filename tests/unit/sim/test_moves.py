"""REASSIGN and ELECT in a simulated cluster: partitions move while they are written and read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from zmqmq.core.meta.values import PartitionDocument, TopicNameDocument
from zmqmq.core.replication.vouching import Place
from zmqmq.errors import Code, WireError, ZmqmqError
from zmqmq.sim.broker_host import KEYS
from zmqmq.sim.checkers import check
from zmqmq.sim.client_host import ClientHost
from zmqmq.sim.cluster import Cluster, ClusterOptions
from zmqmq.sim.history import ALTER, ELECT, FAIL, MOVE, OK, POLL
from zmqmq.sim.liveness import faults_of_cluster, faults_of_copies
from zmqmq.sim.node import SECOND, Node
from zmqmq.sim.trace import Trace
from zmqmq.sim.workloads.administer import AdministeringClient
from zmqmq.sim.workloads.base import SimClient
from zmqmq.sim.workloads.consume import ConsumingClient
from zmqmq.sim.workloads.produce import ProducingClient
from zmqmq.sim.workloads.settle import DrainingClient, FoundingClient
from zmqmq.wire.apis import Api

TOPICS = {"t": 2}


class Play:
    """A cluster with one topic, and somebody who asks for things."""

    def __init__(self, seed: int, brokers: int, replicas: int) -> None:
        self.cluster = Cluster(seed, ClusterOptions(brokers=brokers, topics=TOPICS), Trace())
        self.cluster.start()
        self.stage = self.cluster.stage
        founder = FoundingClient(self.stage, "f", TOPICS, replicas)
        founder.start()
        self.until(lambda: founder.is_idle)
        self.clients: list[SimClient] = []
        loop, chance = self.cluster.loop, self.cluster.chance
        self.node = Node(loop, "operator", chance)
        self.host = ClientHost(
            self.node,
            self.cluster.network,
            list(self.stage.servers),
            "operator",
            chance.stream("operator"),
            10_000,
        )

    def until(self, is_so: Callable[[], object], seconds: int = 40) -> None:
        loop = self.cluster.loop
        end = loop.now + seconds * SECOND
        while not is_so():
            assert loop.now < end, "it takes too long"
            loop.run_until(loop.now + SECOND // 20)

    def work(self, *clients: SimClient) -> None:
        self.clients = list(clients)
        for client in clients:
            client.start()

    def ask(self, api: Api, **fields: Any) -> Any:
        answers: list[Any] = []
        self.host.call(api, {"topic": "t", **fields}, answers.append)
        self.until(lambda: answers)
        return answers[0]

    @property
    def place(self) -> Place:
        """The first partition of the topic."""
        kv = self.cluster.store.keys.get(KEYS.topic_name("t"))
        assert kv is not None
        return TopicNameDocument.decode(kv.value).topic_id, 0

    def document(self) -> PartitionDocument:
        """The document of the first partition."""
        kv = self.cluster.store.keys.get(KEYS.partition(*self.place))
        assert kv is not None
        return PartitionDocument.decode(kv.value)

    def finish(self) -> None:
        """Everybody stops; whatever was stored is read, and all copies are alike."""
        for client in self.clients:
            client.stop()
        self.until(lambda: all(client.is_idle for client in self.clients), 90)
        faults: list[str] = []

        def is_well() -> bool:
            faults[:] = [*faults_of_cluster(self.cluster), *faults_of_copies(self.cluster)]
            return not faults

        self.until(is_well, 60)
        drainer = DrainingClient(self.stage, "d", TOPICS)
        drainer.start()
        self.until(lambda: drainer.is_done, 60)
        assert check(self.stage.history.entries) == []

    def count(self, f: str) -> int:
        return sum(1 for e in self.stage.history.entries if (e.f, e.type) == (f, OK))


def ids(members: Sequence[Any]) -> list[int]:
    return sorted(member.broker_id for member in members)


def test_a_partition_moves_to_brokers_that_had_nothing_of_it() -> None:
    play = Play(1, brokers=5, replicas=2)
    old = play.document().replicas
    new = [broker for broker in range(1, 6) if broker not in old][:2]
    play.work(
        ProducingClient(play.stage, "p1", TOPICS, 20),
        ConsumingClient(play.stage, "c1", TOPICS, 50),
    )
    play.cluster.loop.run_until(play.cluster.loop.now + 3 * SECOND)
    answer = play.ask(Api.REASSIGN, partitions=[(0, new)])
    assert answer == {"results": [None]}
    play.until(lambda: not play.document().adding and not play.document().removing)

    document = play.document()
    assert list(document.replicas) == new
    assert ids(document.isr) == sorted(new)
    assert document.leader is not None
    assert document.leader.broker_id in new
    play.cluster.loop.run_until(play.cluster.loop.now + 3 * SECOND)
    play.finish()
    for number in old:
        broker = play.cluster.hosts[number - 1].broker
        assert broker is not None
        assert play.place not in broker.replicas.all, "it has nothing of it any more"


def test_a_move_that_cannot_end_is_given_up() -> None:
    play = Play(2, brokers=3, replicas=2)
    old = play.document().replicas
    (away,) = {1, 2, 3} - set(old)
    play.cluster.network.cut(f"b{away}", f"b{old[0]}")
    play.cluster.network.cut(f"b{away}", f"b{old[1]}")
    assert play.ask(Api.REASSIGN, partitions=[(0, [away, old[0]])]) == {"results": [None]}
    play.cluster.loop.run_until(play.cluster.loop.now + 5 * SECOND)
    assert play.document().adding == (away,)
    assert play.ask(Api.REASSIGN, partitions=[(0, None)]) == {"results": [None]}

    assert sorted(play.document().replicas) == sorted(old)
    assert not play.document().adding
    play.cluster.network.heal_all()
    play.finish()


def test_the_first_replica_leads_when_asked_for() -> None:
    play = Play(3, brokers=3, replicas=3)
    first, *others = play.document().replicas
    assert play.ask(Api.REASSIGN, partitions=[(0, [*others, first])]) == {"results": [None]}
    assert play.ask(Api.ELECT, kind="preferred") == {"results": [None, None]}

    leader = play.document().leader
    assert leader is not None
    assert leader.broker_id == others[0]
    play.finish()


def test_an_unclean_election_is_waited_for_and_marked() -> None:
    play = Play(4, brokers=2, replicas=2)
    leader = play.document().leader
    assert leader is not None
    (other,) = {1, 2} - {leader.broker_id}
    hosts = play.cluster.hosts
    hosts[other - 1].crash()
    play.until(lambda: ids(play.document().isr) == [leader.broker_id])
    hosts[leader.broker_id - 1].crash()
    hosts[other - 1].restart()
    play.until(lambda: play.document().leader is None)
    # min_isr is 1 of 2: whoever was left may have taken more.
    answer = play.ask(Api.ELECT, kind="unclean", partitions=[0])
    assert answer == {"results": [None]}
    began = play.cluster.loop.now
    play.until(lambda: play.document().leader is not None)

    assert play.cluster.loop.now - began > 5 * SECOND
    document = play.document()
    assert document.leader is not None
    assert document.leader.broker_id == other
    assert document.rec == document.leader_epoch
    hosts[leader.broker_id - 1].restart()
    play.finish()


def test_f12_a_consumer_hears_that_what_it_has_read_was_lost() -> None:
    """Its next offset is there, and is another record than the one that follows what it read."""
    play = Play(6, brokers=2, replicas=2)
    leader = play.document().leader
    assert leader is not None
    first, second = leader.broker_id, 3 - leader.broker_id
    hosts = play.cluster.hosts
    consumer = ConsumingClient(play.stage, "c1", {"t": 1}, 50)
    play.work(ProducingClient(play.stage, "p1", {"t": 1}, 20), consumer)
    hosts[second - 1].crash()
    play.until(lambda: ids(play.document().isr) == [first])
    play.cluster.loop.run_until(play.cluster.loop.now + 3 * SECOND)
    read = consumer._next["t", 0]
    consumer.node.pause(120 * SECOND)
    hosts[first - 1].crash()
    hosts[second - 1].restart()
    play.until(lambda: play.document().leader is None)
    assert play.ask(Api.ELECT, kind="unclean") == {"results": [None, None]}

    def has_more() -> bool:
        broker = hosts[second - 1].broker
        partition = broker and broker.catalog.partitions.get(play.place)
        return partition is not None and partition.high_watermark > read + 20

    play.until(has_more)
    consumer.node.resume()

    def refusals() -> list[str]:
        polls = [e for e in play.stage.history.entries if (e.f, e.type) == (POLL, FAIL)]
        return [e.value.code for e in polls if "lost in an election" in e.value.detail]

    play.until(refusals)
    assert refusals()[0] == "OFFSET_OUT_OF_RANGE"


def test_nobody_is_asked_for_ever_while_there_is_no_controller() -> None:
    play = Play(5, brokers=3, replicas=3)
    play.cluster.store.outage(play.cluster.loop.now + 60 * SECOND)
    play.cluster.store.expire(None)
    answer = play.ask(Api.ELECT, kind="preferred")

    assert isinstance(answer, ZmqmqError)
    assert not isinstance(answer, WireError) or answer.code in (Code.NOT_LEADER, Code.TIMED_OUT)


@pytest.mark.parametrize("seed", range(4))
def test_everything_moves_and_nothing_is_lost(seed: int) -> None:
    brokers = 3 + seed % 2
    play = Play(seed, brokers, replicas=2 + seed % 2)
    mover = AdministeringClient(
        play.stage, "a1", 150, movable=TOPICS, brokers=range(1, brokers + 1), replicas=(1, 2)
    )
    play.work(
        ProducingClient(play.stage, "p1", TOPICS, 20),
        ProducingClient(play.stage, "p2", TOPICS, 40),
        ConsumingClient(play.stage, "c1", TOPICS, 50),
        mover,
    )
    play.cluster.loop.run_until(play.cluster.loop.now + 15 * SECOND)
    play.finish()

    assert play.count(MOVE) > 5
    assert play.count(ELECT) > 1
    assert play.count(ALTER) > 1
