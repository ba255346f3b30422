"""Each fault once, under a producer with acks=all: nothing acknowledged is lost or out of order."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count

import pytest

import zmqmq
from integration.containers import ContainerCluster
from tests.containers.engine import ETCD_IMAGE, until
from zmqmq.errors import DisconnectedError, ZmqmqError

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]
PARTITIONS = 3
SECONDS = 60

_names = count()


@pytest.fixture(scope="module")
def cluster(image: str) -> Iterator[ContainerCluster]:
    with ContainerCluster(image, ETCD_IMAGE) as cluster:
        try:
            for node in cluster.brokers:
                until(lambda node=node: answers(cluster, node), f"{node} serves")  # type: ignore[misc]
            yield cluster
        finally:
            for node in (*cluster.members, *cluster.brokers):  # pytest shows it with a failure
                sys.stderr.write(f"--- {node}\n{cluster.logs(node)[-5_000:]}\n")


@pytest.fixture
def client(cluster: ContainerCluster) -> Iterator[zmqmq.Client]:
    with zmqmq.connect(cluster.servers, connect_timeout_ms=60_000) as client:
        yield client


def answers(cluster: ContainerCluster, node: str) -> bool:
    """Whether a client that knows nobody else is served."""
    try:
        with zmqmq.connect(cluster.address(node), connect_timeout_ms=1_000) as client:
            client.ping()
    except DisconnectedError:
        return False
    return True


class Producing:
    """Sends numbered values to every partition, all the time, and keeps what came of each."""

    def __init__(self, client: zmqmq.Client, topic: str) -> None:
        self._producer = client.producer(topic, delivery_timeout_ms=SECONDS * 1_000)
        self._sent: dict[int, list[tuple[bytes, zmqmq.Delivery]]] = {
            partition: [] for partition in range(PARTITIONS)
        }
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        for number in count():
            for partition, sent in self._sent.items():
                value = b"%d-%d" % (partition, number)
                sent.append((value, self._producer.send(value, partition=partition)))
            if self._stopping.wait(0.005):
                return

    def wait_for_more(self) -> None:
        """Until each partition has acknowledged something that is sent after this moment."""
        for sent in self._sent.values():
            before = len(sent)
            until(lambda sent=sent, before=before: len(sent) > before, "more")  # type: ignore[misc]
            sent[before][1].result(SECONDS)

    def acknowledged(self) -> dict[int, list[bytes]]:
        """End; the values of each partition, all of which must have been acknowledged."""
        self._stopping.set()
        self._thread.join()
        self._producer.close(SECONDS)
        for sent in self._sent.values():
            for _, handle in sent:
                handle.result(0)
        return {partition: [v for v, _ in sent] for partition, sent in self._sent.items()}


def isr_of(client: zmqmq.Client, topic: str) -> list[int]:
    """How many replicas of each partition count; nothing while that cannot be told."""
    with suppress(ZmqmqError):
        return [len(each.isr) for each in client.topics.describe(topic).partitions]
    return []


def values_in(client: zmqmq.Client, topic: str) -> dict[int, list[bytes]]:
    """What is read, by partition."""
    found: dict[int, list[bytes]] = {partition: [] for partition in range(PARTITIONS)}
    with client.consumer(topic, start="start", stop_at_end=True) as consumer:
        for record in consumer:
            found[record.partition].append(record.value or b"")
    return found


Do = Callable[[ContainerCluster, str], None]


def stop_cleanly(cluster: ContainerCluster, node: str) -> None:
    cluster.stop(node)
    assert cluster.exit_code(node) == 0


def lose_disk(cluster: ContainerCluster, node: str) -> None:
    cluster.kill(node)
    cluster.wipe(node)


def cut(what: str) -> Do:
    return lambda cluster, node: cluster.cut(node, what)


def heal(what: str) -> Do:
    return lambda cluster, node: cluster.heal(node, what)


@pytest.mark.parametrize(
    ("begin", "end", "is_felt"),
    [
        pytest.param(ContainerCluster.kill, ContainerCluster.start, "by peers", id="killed"),
        pytest.param(ContainerCluster.pause, ContainerCluster.resume, "by peers", id="paused"),
        pytest.param(stop_cleanly, ContainerCluster.start, "by peers", id="stopped"),
        pytest.param(lose_disk, ContainerCluster.start, "by peers", id="wiped"),
        pytest.param(cut("all"), heal("all"), "by peers", id="cut off"),
        pytest.param(cut("etcd"), heal("etcd"), "by peers", id="cut off from etcd"),
        pytest.param(cut("peers"), heal("peers"), "by peers", id="cut off from its peers"),
        pytest.param(cut("clients"), heal("clients"), "by clients", id="cut off from clients"),
    ],
)
def test_a_leader_is(
    cluster: ContainerCluster,
    client: zmqmq.Client,
    begin: Do,
    end: Do,
    is_felt: str,
) -> None:
    topic = f"t{next(_names)}"
    client.topics.create(topic, PARTITIONS, replicas=3)
    whole = [3] * PARTITIONS
    until(lambda: isr_of(client, topic) == whole, "in sync", SECONDS)
    producing = Producing(client, topic)
    producing.wait_for_more()
    victim = f"b{client.topics.describe(topic).partitions[0].leader}"

    begin(cluster, victim)
    try:
        # What the fault is about must have been felt, or nothing was tested.
        if is_felt == "by clients":
            until(lambda: not answers(cluster, victim), "out of reach", SECONDS)
            time.sleep(3)
        else:
            until(lambda: isr_of(client, topic) not in ([], whole), "left by the ISR", SECONDS)
    finally:
        end(cluster, victim)
    until(lambda: isr_of(client, topic) == whole, "in sync again", SECONDS)
    producing.wait_for_more()
    acknowledged = producing.acknowledged()

    assert values_in(client, topic) == acknowledged
