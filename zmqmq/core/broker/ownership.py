"""Which partitions this broker leads, and their logs: opened, served, closed, deleted.

Every start of a broker is a new broker epoch, and every partition that it leads gets a new leader
epoch with it (L1): one with a single replica is no exception. A partition is served once its log
has been opened and what was found in it has been flushed (D3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from zmqmq.core.broker.catalog import Catalog, Topic
from zmqmq.core.broker.events import DeleteLog, Now, OpenLog
from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.metadata import OPERATIONS_PER_COMMIT, Commits
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import KeySpace, PartitionKey, TopicKey
from zmqmq.core.meta.store import KV, Batch, Commit, If, Put, StoreError
from zmqmq.core.meta.values import PartitionDocument, TopicDocument
from zmqmq.core.replication.partition import Partition
from zmqmq.core.storage.log import Log, LogKey
from zmqmq.errors import StorageError
from zmqmq.model.topics import TopicConfig

Closed = Callable[[Partition, str], None]


class Ownership:
    """Follows the metadata image and keeps the open partitions in step with it."""

    def __init__(
        self,
        catalog: Catalog,
        outbox: Outbox,
        commits: Commits,
        identity: Identity,
        keys: KeySpace,
        topic_defaults: TopicConfig,
        closed: Closed,
    ) -> None:
        self._catalog = catalog
        self._outbox = outbox
        self._commits = commits
        self._identity = identity
        self._keys = keys
        self._defaults = topic_defaults
        self._closed = closed
        self._opening: dict[LogKey, int] = {}
        """Logs that are being opened, with the leader epoch that they are opened for."""
        self._unserved: dict[Partition, None] = {}
        """Open, and waiting for their first flush."""
        self._unclaimed = 0
        self.deleted: list[Topic] = []
        """Topics that have just gone, for whoever keeps things about them."""

    @property
    def is_settled(self) -> bool:
        """Whether every partition that is led here is served, or known to be broken."""
        return not (self._unclaimed or self._opening or self._unserved)

    def claim(self, items: Sequence[KV]) -> None:
        """Take the leadership of every partition whose only replica is here, for this epoch."""
        me = Member(self._identity.broker_id, self._identity.epoch)
        changes = []
        for kv in items:
            key = self._keys.parse(kv.key)
            assert isinstance(key, PartitionKey)
            topic = self._catalog.by_id.get(key.topic_id)
            if topic is None or topic.state != "ready":
                continue  # on its way out
            document = PartitionDocument.decode(kv.value)
            if document.replicas != (me.broker_id,):
                continue
            claimed = replace(
                document,
                leader=me,
                leader_epoch=document.leader_epoch + 1,
                isr=(me,),
                elr=(),
                write_id=f"{me.broker_id}.{me.broker_epoch}",
            )
            changes.append(
                (Put(kv.key, claimed.encode()), If(kv.key, "mod", "==", kv.mod_revision))
            )
        for at in range(0, len(changes), OPERATIONS_PER_COMMIT):
            some = changes[at : at + OPERATIONS_PER_COMMIT]
            self._unclaimed += 1
            self._commits.begin([op for op, _ in some], [c for _, c in some], self._claimed)

    def _claimed(self, now: Now, outcome: Commit | StoreError) -> None:
        del now
        if isinstance(outcome, StoreError):
            raise outcome
        # Nobody else writes to an embedded store, and its directory has one broker.
        assert outcome.ok, "a partition document changed while this broker was starting"
        self._unclaimed -= 1

    def changed(self, batch: Batch) -> None:
        """Bring the image forward by one revision."""
        for event in batch.events:
            key = self._keys.parse(event.kv.key)
            match key:
                case TopicKey(topic_id):
                    if event.type == "delete":
                        self._gone(topic_id)
                    else:
                        self._topic(TopicDocument.decode(event.kv.value), event.kv.mod_revision)
                case PartitionKey(topic_id, number) if event.type == "put":
                    self._partition(topic_id, number, PartitionDocument.decode(event.kv.value))
                case _:
                    pass

    def opened(self, key: LogKey, log: Log | StorageError) -> Partition | None:
        """A log was opened; the partition to flush before it is served."""
        epoch = self._opening.pop(key, None)
        place = (key.topic_id, key.partition)
        topic = self._catalog.by_id.get(key.topic_id)
        if epoch is None or topic is None:
            self._outbox.emit(DeleteLog(key))
            return None
        if isinstance(log, StorageError):
            self._catalog.unopened[place] = str(log)
            return None
        log.config = topic.config
        partition = Partition(topic.name, log, epoch)
        self._unserved[partition] = None
        return partition

    def flushed(self, partition: Partition) -> bool:
        """A flush has ended; whether it was the first one of this partition, now served."""
        if partition not in self._unserved:
            return False
        del self._unserved[partition]
        key = partition.log.key
        if self._catalog.by_id.get(key.topic_id) is None:
            self._outbox.emit(DeleteLog(key))
            return False
        self._catalog.partitions[key.topic_id, key.partition] = partition
        return True

    def failed(self, partition: Partition, why: str) -> None:
        """The first flush of a partition has failed."""
        if self._unserved.pop(partition, 0) is None:
            key = partition.log.key
            self._catalog.unopened[key.topic_id, key.partition] = why

    def _topic(self, document: TopicDocument, revision: int) -> None:
        config = self._defaults.changed(document.config)
        topic = self._catalog.by_id.get(document.topic_id)
        if topic is None:
            topic = Topic(document.name, document.topic_id, 0, 0, config, {}, "creating")
            self._catalog.by_id[topic.id] = topic
        topic.partition_count = document.partitions
        topic.replicas = document.replicas
        topic.config = config
        topic.overrides = dict(document.config)
        topic.state = document.state
        topic.revision = revision
        if document.state == "deleting":
            if self._catalog.by_name.get(topic.name) is topic:
                del self._catalog.by_name[topic.name]
            return
        self._catalog.by_name[topic.name] = topic
        for partition in self._catalog.open_partitions(topic):
            partition.log.config = config
        if document.state == "ready":
            for number in sorted(topic.leaders):
                self._open_if_led(topic, number)

    def _partition(self, topic_id: bytes, number: int, document: PartitionDocument) -> None:
        topic = self._catalog.by_id.get(topic_id)
        if topic is None:
            return
        leader = document.leader
        topic.leaders[number] = (leader.broker_id if leader else None, document.leader_epoch)
        mine = Member(self._identity.broker_id, self._identity.epoch)
        if leader == mine:
            topic.led_here.add(number)
            if topic.state == "ready":
                self._open_if_led(topic, number)

    def _open_if_led(self, topic: Topic, number: int) -> None:
        key = LogKey(topic.id, number)
        place = (topic.id, number)
        if (
            number not in topic.led_here
            or number >= topic.partition_count
            or key in self._opening
            or place in self._catalog.partitions
            or place in self._catalog.unopened
            or any(p.log.key == key for p in self._unserved)
        ):
            return
        self._opening[key] = topic.leaders[number][1]
        self._outbox.emit(OpenLog(key, topic.config))

    def _gone(self, topic_id: bytes) -> None:
        topic = self._catalog.by_id.get(topic_id)
        if topic is None:
            return
        # Those that are being opened or flushed for the first time go when that is over.
        busy = {*self._opening, *(partition.log.key for partition in self._unserved)}
        for key in self._catalog.forget(topic):
            partition = self._catalog.partitions.pop((topic_id, key.partition), None)
            self._opening.pop(key, None)
            if partition is not None:
                partition.is_closed = True
                self._closed(partition, f"topic {topic.name!r} was deleted")
            if key not in busy:
                self._outbox.emit(DeleteLog(key))
        self.deleted.append(topic)
