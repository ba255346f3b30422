"""What must come about by itself once nothing goes wrong any more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zmqmq.core.meta.keys import PartitionKey, TopicKey
from zmqmq.core.meta.values import PartitionDocument, TopicDocument
from zmqmq.core.replication.partition import Partition
from zmqmq.sim.broker_host import KEYS
from zmqmq.sim.cluster import Cluster
from zmqmq.sim.history import OK, Log, Stored
from zmqmq.sim.workloads.base import SimClient
from zmqmq.sim.workloads.consume import ConsumingClient
from zmqmq.sim.workloads.produce import ProducingClient


class ProbingClient(ProducingClient):
    """Sends to every partition until each has taken something, with acks=all."""

    waiting: dict[Log, None] | None = None

    @property
    def is_done(self) -> bool:
        """Whether each has."""
        return self.waiting == {}

    def turn(self) -> None:
        """Send to one that has not."""
        if self.waiting is None:
            self.waiting = {(t, p): None for t, count in self._topics.items() for p in range(count)}
            self._seen = len(self.history.entries)
        entries = self.history.entries
        for entry in entries[self._seen :]:
            if entry.client == self.name and entry.type == OK:
                stored: Stored = entry.value
                self.waiting.pop((stored.topic, stored.partition), None)
        self._seen = len(entries)
        if self.waiting:
            topic, partition = self.stream.choice(list(self.waiting))
            self._send(topic, partition, None)


def faults_of_cluster(cluster: Cluster) -> Iterator[str]:
    """What is not yet as it should be, as far as roles go."""
    for host in cluster.hosts:
        if host.broker is None:
            yield f"{host.node.name} is down"
        elif not host.broker.is_started:
            yield f"{host.node.name} has not started"
    keys = cluster.store.keys
    for kv in keys.list(KEYS.prefix).items:
        match KEYS.parse(kv.key):
            case TopicKey(_):
                state = TopicDocument.decode(kv.value).state
                if state != "ready":
                    yield f"topic {kv.key!r} is {state}"
            case PartitionKey(topic_id, number):
                document = PartitionDocument.decode(kv.value)
                for fault in _faults_of_document(cluster, document):
                    yield f"{topic_id.hex()[-4:]}/{number} {fault}"
            case _:
                pass


def _faults_of_document(cluster: Cluster, document: PartitionDocument) -> Iterator[str]:
    leader = document.leader
    if leader is None:
        if not _is_lost(cluster, document):
            yield f"has no leader: {document}"
        return
    if document.adding or document.removing or document.recovering:
        yield f"is being changed: {document}"
    if {m.broker_id for m in document.isr} != set(document.replicas):
        yield f"has not all in its ISR: {document}"
    for member in document.isr:
        broker = cluster.hosts[member.broker_id - 1].broker
        if broker is None or broker.identity.epoch != member.broker_epoch:
            yield f"has an old run of {member} in its ISR"


def _is_lost(cluster: Cluster, document: PartitionDocument) -> bool:
    """Whether it was given to runs that never came to know of it, or of themselves: those of an
    empty directory that ended between the registration and its note on the disk. What comes after
    them cannot tell a new disk from a lost one (D4), so an operator has to."""
    return document.flush == "fsync" and not any(
        member.broker_epoch in cluster.hosts[member.broker_id - 1].epochs
        for member in (*document.isr, *document.elr)
    )


def unread(cluster: Cluster, clients: Iterable[SimClient]) -> Iterator[str]:
    """What readers have not read yet, when nobody writes any more."""
    ends: dict[Log, int] = {}
    for host in cluster.hosts:
        if host.broker is None:
            continue
        for replica in host.broker.replicas:
            if isinstance(replica.role, Partition):
                topic_id, number = replica.place
                name = host.broker.catalog.by_id[topic_id].name
                ends[name, number] = replica.role.high_watermark
    for client in clients:
        if isinstance(client, ConsumingClient):
            yield from client.behind(ends)


def faults_of_copies(cluster: Cluster) -> Iterator[str]:
    """What is not yet as it should be when nobody writes: copies that differ in their ends."""
    for host in cluster.hosts:
        if host.broker is None:
            continue
        for replica in host.broker.replicas:
            role, log = replica.role, replica.log
            if not isinstance(role, Partition) or log is None:
                continue
            place = f"{replica.key.folder[-8:]} led by {host.node.name}"
            if role.high_watermark != log.end_offset:
                yield f"{place} has committed {role.high_watermark} of {log.end_offset}"
            for member in host.broker.image.partitions[replica.place].document.isr:
                broker = cluster.hosts[member.broker_id - 1].broker
                if broker is None or broker is host.broker:
                    continue
                copy = broker.replicas.all.get(replica.place)
                if copy is None or copy.log is None:
                    yield f"{place} has no copy on b{member.broker_id}"
                elif copy.log.end_offset != log.end_offset:
                    yield (
                        f"{place} ends at {log.end_offset}, and at {copy.log.end_offset} "
                        f"on b{member.broker_id}"
                    )
                elif copy.high_watermark != role.high_watermark:
                    yield f"{place} has another high watermark on b{member.broker_id}"
