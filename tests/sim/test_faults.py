"""What the nemesis may do, and that each kind of fault can be done and is taken back."""

from __future__ import annotations

import pytest

from zmqmq.sim.cluster import Cluster, ClusterOptions
from zmqmq.sim.faults import KINDS, Fault
from zmqmq.sim.faults.scene import Scene
from zmqmq.sim.nemesis import Nemesis
from zmqmq.sim.node import SECOND
from zmqmq.sim.run import run
from zmqmq.sim.swarm import PARAMETERS
from zmqmq.sim.trace import Trace
from zmqmq.sim.workloads.settle import FoundingClient

SEED = 1
"""Of a world with three brokers and three replicas, all of which may be lost one by one."""
TARGETS = {
    "cut": "b1-b2",
    "clog": "b1>b2",
    "reset": "p1-b1",
    "isolate": "b1-all",
    "storm": "all",
    "outage": "all",
    "ambiguous": "all",
    "client_kill": "p1",
    "client_pause": "c1",
    "push_lost": "c1",
    "push_twice": "c1",
    "push_late": "c1",
    "push_stalled": "c1",
}


def founded(brokers: int, replicas: int, **config: object) -> Cluster:
    topics = {"t": 1}
    cluster = Cluster(SEED, ClusterOptions(brokers=brokers, topics=topics), Trace())
    cluster.start()
    founder = FoundingClient(cluster.stage, "founder", topics, replicas, {"t": config})
    founder.start()
    while not founder.is_idle:
        cluster.loop.run_until(cluster.loop.now + SECOND // 10)
    cluster.loop.run_until(cluster.loop.now + SECOND)
    return cluster


def do(cluster: Cluster, kind: str, target: str = "b1", parameter: int = 0) -> bool:
    """Whether it was done."""
    fault = Fault(0, kind, target, SECOND, parameter)
    return KINDS[kind](Scene(cluster, {}), fault) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_alone_breaks_nothing(kind: str) -> None:
    schedule = [
        Fault((5 + 2 * at) * SECOND, kind, TARGETS.get(kind, "b1"), SECOND, parameter)
        for at, parameter in enumerate(dict.fromkeys(PARAMETERS.get(kind, (0,))))
    ]

    result = run(SEED, schedule, seconds=2 * len(schedule) + 5)

    assert not result.violations, result.violations[0]
    assert set(result.faults) == {kind}


def test_the_only_copy_is_not_wiped() -> None:
    assert not do(founded(brokers=1, replicas=1), "wipe")
    assert not do(founded(brokers=3, replicas=3, min_isr=1), "wipe")


def test_no_second_copy_is_wiped_while_the_first_may_count() -> None:
    # The third would hand over to the two if it stopped (seed 5296).
    cluster = founded(brokers=3, replicas=3, min_isr=2)
    scene = Scene(cluster, {})
    one, two = (Fault(0, "wipe", name, SECOND, 1) for name in ("b1", "b2"))

    assert KINDS["wipe"](scene, one)
    assert not KINDS["wipe"](scene, two)
    cluster.hosts[0].restart()
    cluster.loop.run_until(cluster.loop.now + 20 * SECOND)
    assert KINDS["wipe"](scene, two)


def test_who_is_down_is_no_spare() -> None:
    cluster = founded(brokers=3, replicas=3, min_isr=2)
    cluster.hosts[1].crash()
    cluster.hosts[2].crash()

    assert not do(cluster, "wipe", "b1")


def test_a_rotten_copy_is_no_spare() -> None:
    cluster = founded(brokers=2, replicas=2, min_isr=2)
    scene = Scene(cluster, {})
    ((place, document),) = (p for p in scene.partitions() if len(p[1].replicas) == 2)
    one, other = cluster.hosts
    path = f"logs/{place[0].hex()}.{place[1]}.0/00000000000000000000.log"
    assert scene.is_spare(one, place, document, is_counted=True)

    other.disk.open(path).write(0, [b"abc"])

    scene.flip(other, place, path, 1, 1)
    assert not scene.is_spare(one, place, document, is_counted=True)
    assert scene.is_spare(other, place, document, is_counted=True)

    other.disk.flip(path, 1)  # as it was
    assert scene.is_spare(one, place, document, is_counted=True)


def test_healing_ends_everything() -> None:
    cluster = founded(brokers=3, replicas=3)
    nemesis = Nemesis(cluster, {})
    hour = 3_600 * SECOND
    schedule = [
        Fault(SECOND, "kill", "b1", hour),
        Fault(SECOND, "slow_disk", "b2", hour, 400),
        Fault(SECOND, "full_disk", "b2", hour),
        Fault(SECOND, "pause", "b3", hour),
        Fault(SECOND, "clock_drift", "b3", hour, 1_000),
        Fault(SECOND, "isolate", "b3-brokers", hour),
        Fault(SECOND, "ambiguous", "all", hour, 1_000_000),
        Fault(9 * SECOND, "power_cut", "all", hour),
    ]
    nemesis.begin(schedule)
    cluster.loop.run_until(cluster.loop.now + 2 * SECOND)
    assert sum(nemesis.census.values()) == 7

    nemesis.heal()

    assert all(host.node.is_up and not host.node.is_still for host in cluster.hosts)
    assert all(host.slowness == 1 and host.disk.budget is None for host in cluster.hosts)
    assert not cluster.store.ambiguity
    assert not cluster.network.path("b3", "b1").is_blocked
    cluster.loop.run_until(cluster.loop.now + 10 * SECOND)
    assert nemesis.census["power_cut"] == 0
