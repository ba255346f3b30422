"""Topics and partitions as this broker knows them: the metadata image, and what is open here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from zmqmq.core.control.image import KnownTopic
from zmqmq.core.replication.partition import Partition
from zmqmq.core.security.authorize import Action, Principal, authorize
from zmqmq.core.storage.log import Log
from zmqmq.errors import Code, refusal
from zmqmq.model.topics import TopicConfig


class Leadership(NamedTuple):
    """Who leads a partition, and who has copies of it, as METADATA tells."""

    leader: int | None = None
    epoch: int = 0
    copies: tuple[int, ...] = ()
    """Broker ids, those in sync first."""


@dataclass(slots=True, eq=False)
class Topic:
    """One topic of the image."""

    name: str
    id: bytes
    partition_count: int
    replicas: int
    config: TopicConfig
    overrides: dict[str, int | str]
    """The settings that were given for it; the others follow the broker's defaults."""
    state: str
    leaders: dict[int, Leadership] = field(default_factory=dict)
    """Of each partition."""
    revision: int = 0
    """mod_revision of the topic's document."""


class Catalog:
    """Everything by name and id."""

    def __init__(self) -> None:
        self.by_name: dict[str, Topic] = {}
        self.by_id: dict[bytes, Topic] = {}
        self.partitions: dict[tuple[bytes, int], Partition] = {}
        """Those that are led and open here."""
        self.unopened: dict[tuple[bytes, int], str] = {}
        """Those that could not be opened, and why."""
        self.is_given_up: Callable[[Log], bool] = lambda _: False
        """Asked of a damaged log: whether another copy takes its place (L17)."""

    def partition(self, topic_id: bytes, partition: int) -> Partition:
        """The open partition; refusals name the topic as people know it."""
        found = self.partitions.get((topic_id, partition))
        if found is not None and (found.log.damage is None or not self.is_given_up(found.log)):
            return found
        topic = self.check_exists(topic_id, partition)
        why = self.unopened.get((topic_id, partition))
        if why is not None:
            raise refusal(Code.STORAGE_OFFLINE, f"{topic.name}/{partition} is offline: {why}")
        leader, epoch, _ = topic.leaders.get(partition, Leadership())
        hints = {} if leader is None else {"leader": leader, "leader_epoch": epoch}
        told = "nobody" if leader is None else f"broker {leader}"
        raise refusal(
            Code.NOT_LEADER,
            f"{topic.name}/{partition} is not served by this broker: {told} leads it in epoch "
            f"{epoch}",
            hints,
        )

    def check_exists(self, topic_id: bytes, partition: int) -> Topic:
        """The topic, if it has this partition, led here or not. Raises refusals."""
        topic = self.by_id.get(topic_id)
        if topic is None:
            raise refusal(
                Code.UNKNOWN_TOPIC,
                f"there is no topic with id {topic_id.hex()}: it was deleted, or never here",
            )
        if partition >= topic.partition_count:
            raise refusal(
                Code.UNKNOWN_PARTITION,
                f"topic {topic.name!r} has {topic.partition_count} partitions; "
                f"there is no {partition}",
            )
        return topic

    def check_readable(self, principal: Principal, topic_id: bytes, partition: int) -> None:
        """Raise the refusal of who may not read it, or of what is not there."""
        topic = self.check_exists(topic_id, partition).name
        if not authorize(principal, Action.READ, "topic", topic):
            raise refusal(Code.DENIED, f"may not read {topic!r}")

    def topic(self, name: str) -> Topic:
        """The topic of this name, or the refusal that says how to make it."""
        found = self.by_name.get(name)
        if found is None or found.state != "ready":
            raise refusal(
                Code.UNKNOWN_TOPIC,
                f"there is no topic {name!r}; make it with `zmqmq topics create {name}`",
            )
        return found

    def note(self, known: KnownTopic) -> None:
        """A topic was made or changed."""
        document = known.document
        topic = self.by_id.get(document.topic_id)
        if topic is None:
            topic = Topic(document.name, document.topic_id, 0, 0, known.config, {}, "creating")
            self.by_id[topic.id] = topic
        topic.partition_count = document.partitions
        topic.replicas = document.replicas
        topic.config = known.config
        topic.overrides = dict(document.config)
        topic.state = document.state
        topic.revision = known.revision
        if document.state != "deleting":
            self.by_name[topic.name] = topic
        elif self.by_name.get(topic.name) is topic:
            del self.by_name[topic.name]

    def open_partitions(self, topic: Topic) -> Iterator[Partition]:
        """Those of one topic that are open here, in order."""
        for number in range(topic.partition_count):
            found = self.partitions.get((topic.id, number))
            if found is not None:
                yield found

    def forget(self, topic: Topic) -> None:
        """Take a deleted topic out."""
        del self.by_id[topic.id]
        if self.by_name.get(topic.name) is topic:
            del self.by_name[topic.name]
