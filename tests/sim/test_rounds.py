"""What a round through the ISR (D10) costs."""

from __future__ import annotations

from zmqmq.core.replication.partition import Partition
from zmqmq.sim.cluster import Cluster, ClusterOptions
from zmqmq.sim.node import MS, SECOND
from zmqmq.sim.trace import Trace
from zmqmq.sim.workloads.consume import ConsumingClient
from zmqmq.sim.workloads.settle import FoundingClient


def test_a_silent_follower_does_not_make_the_others_ask_for_ever() -> None:
    options = ClusterOptions(topics={"t": 1})
    cluster = Cluster(1, options, Trace())
    cluster.start()
    founder = FoundingClient(cluster.stage, "founder", options.topics, 3)
    founder.start()
    cluster.loop.run_until(5 * SECOND)
    assert founder.is_idle
    leader = next(
        host
        for host in cluster.hosts
        if host.broker is not None
        and any(isinstance(r.role, Partition) for r in host.broker.replicas)
    )
    silent = next(host for host in cluster.hosts if host is not leader)
    silent.node.pause(20 * SECOND)
    client = ConsumingClient(cluster.stage, "client", options.topics)
    client.start()
    cluster.loop.run_until(5 * SECOND + 100 * MS)
    asked: list[object] = []
    client.ask_offset("end", "t", 0, asked.append)

    broker = leader.broker
    assert broker is not None
    before = broker.leading.stamp()
    cluster.loop.run_until(7 * SECOND)
    waiting = broker.latest.awaited
    assert waiting, "nobody waits: the test has lost its point"
    # The other follower is answered once for the round, and then as its long poll ends.
    assert broker.leading.stamp() - before < 20
