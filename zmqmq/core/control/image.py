"""The metadata of the cluster, decoded, as one broker sees it.

Fed with what the store says, revision by revision; every document is decoded once, and `apply`
tells what has changed with what stood there before, so that nobody else decodes. An image lags:
whatever is written because of it is guarded by the revisions that stand in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import (
    TOPIC_ID_BYTES,
    BrokerKey,
    ControllerKey,
    KeySpace,
    LiveKey,
    PartitionKey,
    TopicKey,
    TopicNameKey,
)
from zmqmq.core.meta.store import KV, Batch
from zmqmq.core.meta.values import (
    BrokerDocument,
    ControllerDocument,
    LiveDocument,
    PartitionDocument,
    TopicDocument,
    TopicNameDocument,
)
from zmqmq.core.replication.vouching import Place, Registration
from zmqmq.errors import CorruptDataError
from zmqmq.model.topics import TopicConfig


@dataclass(frozen=True, slots=True)
class KnownBroker:
    """A broker, whether it is up or not."""

    broker_id: int
    live: LiveDocument | None = None
    """None: it is not registered."""
    registration: Registration | None = None
    flags: BrokerDocument | None = None
    flags_revision: int = 0
    """mod_revision of the flags; 0: there are none."""

    @property
    def epoch(self) -> int | None:
        """The broker epoch of the run that is registered."""
        return None if self.registration is None else self.registration.epoch

    @property
    def is_shutting_down(self) -> bool:
        """Whether the run that is registered has said that it will stop (C10)."""
        flags = self.flags
        return flags is not None and flags.broker_epoch == self.epoch and flags.shutting_down

    @property
    def is_staying(self) -> bool:
        """Whether it is up, and has not said that it will stop."""
        return self.registration is not None and not self.is_shutting_down

    @property
    def is_cordoned(self) -> bool:
        """Whether it gets no new partitions."""
        return self.flags is not None and self.flags.cordoned


class KnownTopic(NamedTuple):
    """A topic, whatever state it is in."""

    document: TopicDocument
    config: TopicConfig
    """What its settings come to with this broker's defaults."""
    revision: int
    """mod_revision of the document."""


class KnownPartition(NamedTuple):
    """A partition."""

    document: PartitionDocument
    revision: int
    """mod_revision of the document: its version."""


class KnownController(NamedTuple):
    """Who is the controller."""

    document: ControllerDocument
    epoch: int
    """create_revision of the key."""

    @property
    def holder(self) -> Member:
        """The run of a broker that has the office."""
        return Member(self.document.broker_id, self.document.broker_epoch)


class BrokerChange(NamedTuple):
    """A broker came or went, or its flags changed."""

    broker_id: int
    before: KnownBroker
    after: KnownBroker


class TopicChange(NamedTuple):
    """A topic was made, changed or removed."""

    topic_id: bytes
    before: KnownTopic | None
    after: KnownTopic | None


class PartitionChange(NamedTuple):
    """The document of a partition was made, changed or removed."""

    place: Place
    before: KnownPartition | None
    after: KnownPartition | None


class ControllerChange(NamedTuple):
    """Another controller, or none."""

    before: KnownController | None
    after: KnownController | None


Change = BrokerChange | TopicChange | PartitionChange | ControllerChange


class Image:
    """Everything that brokers decide by."""

    def __init__(self, keys: KeySpace, topic_defaults: TopicConfig) -> None:
        self._keys = keys
        self._defaults = topic_defaults
        self.revision = 0
        """Everything up to here is in it."""
        self.brokers: dict[int, KnownBroker] = {}
        """Those that are registered or have flags."""
        self.topics: dict[bytes, KnownTopic] = {}
        self.names: dict[str, bytes] = {}
        """The topic that has a name."""
        self.partitions: dict[Place, KnownPartition] = {}
        self.numbers: dict[bytes, dict[int, None]] = {}
        """Of each topic the partitions that have a document."""
        self.held: dict[int, dict[Place, None]] = {}
        """The partitions of which a broker is a replica."""
        self.controller: KnownController | None = None

    def load(self, revision: int, items: Sequence[KV]) -> None:
        """Begin with all that stood in the store at this revision."""
        assert self.revision == 0, "an image is loaded once"
        for kv in items:
            self._put(kv)
        self.revision = revision

    def apply(self, batch: Batch) -> list[Change]:
        """Bring it forward; what has changed, in order. What is not of these kinds is left out.

        Raises CorruptDataError.
        """
        changes: list[Change] = []
        for event in batch.events:
            put = event.type == "put"
            change = self._put(event.kv) if put else self._delete(event.kv.key)
            if change is not None:
                changes.append(change)
        self.revision = max(self.revision, batch.revision)
        return changes

    def broker(self, broker_id: int) -> KnownBroker:
        """What is known of a broker, if only its number."""
        return self.brokers.get(broker_id) or KnownBroker(broker_id)

    def _put(self, kv: KV) -> Change | None:
        match self._keys.parse(kv.key):
            case PartitionKey(topic_id, number):
                document = PartitionDocument.decode(kv.value)
                return self._partition(
                    (topic_id, number), KnownPartition(document, kv.mod_revision)
                )
            case TopicKey(topic_id):
                topic = TopicDocument.decode(kv.value)
                config = self._defaults.changed(topic.config)
                return self._topic(topic_id, KnownTopic(topic, config, kv.mod_revision))
            case TopicNameKey(name):
                self.names[name] = TopicNameDocument.decode(kv.value).topic_id
            case LiveKey(broker_id):
                live = LiveDocument.decode(kv.value)
                registration = registration_of(live, kv.create_revision)
                known = replace(self.broker(broker_id), live=live, registration=registration)
                return self._broker(known)
            case BrokerKey(broker_id):
                flags = BrokerDocument.decode(kv.value)
                known = self.broker(broker_id)
                return self._broker(replace(known, flags=flags, flags_revision=kv.mod_revision))
            case ControllerKey():
                controller = ControllerDocument.decode(kv.value)
                return self._control(KnownController(controller, kv.create_revision))
            case _:
                pass
        return None

    def _delete(self, key: bytes) -> Change | None:
        match self._keys.parse(key):
            case PartitionKey(topic_id, number):
                return self._partition((topic_id, number), None)
            case TopicKey(topic_id):
                return self._topic(topic_id, None)
            case TopicNameKey(name):
                self.names.pop(name, None)
            case LiveKey(broker_id):
                known = replace(self.broker(broker_id), live=None, registration=None)
                return self._broker(known)
            case BrokerKey(broker_id):
                return self._broker(replace(self.broker(broker_id), flags=None, flags_revision=0))
            case ControllerKey():
                return self._control(None)
            case _:
                pass
        return None

    def _broker(self, after: KnownBroker) -> BrokerChange:
        before = self.broker(after.broker_id)
        if after.live is None and after.flags is None:
            self.brokers.pop(after.broker_id, None)
        else:
            self.brokers[after.broker_id] = after
        return BrokerChange(after.broker_id, before, after)

    def _topic(self, topic_id: bytes, after: KnownTopic | None) -> TopicChange:
        before = self.topics.get(topic_id)
        if after is None:
            self.topics.pop(topic_id, None)
        else:
            self.topics[topic_id] = after
        return TopicChange(topic_id, before, after)

    def _partition(self, place: Place, after: KnownPartition | None) -> PartitionChange:
        before = self.partitions.get(place)
        replicas = () if after is None else after.document.replicas
        if before is not None:
            for broker_id in before.document.replicas:
                if broker_id not in replicas:
                    del self.held[broker_id][place]
        for broker_id in replicas:
            self.held.setdefault(broker_id, {})[place] = None
        topic_id, number = place
        if after is None:
            self.partitions.pop(place, None)
            self.numbers.get(topic_id, {}).pop(number, None)
            if not self.numbers.get(topic_id, True):
                del self.numbers[topic_id]
        else:
            self.partitions[place] = after
            self.numbers.setdefault(topic_id, {})[number] = None
        return PartitionChange(place, before, after)

    def _control(self, after: KnownController | None) -> ControllerChange:
        before, self.controller = self.controller, after
        return ControllerChange(before, after)


def registration_of(live: LiveDocument, epoch: int) -> Registration:
    """What a live key says of the data of its broker. Raises CorruptDataError."""
    unvouched = {place_of(text): since for text, since in live.unvouched.items()}
    return Registration(epoch, live.since_fsync, live.since_clean, unvouched)


def place_of(text: str) -> Place:
    """The inverse of `text_of`. Raises CorruptDataError."""
    topic, _, number = text.partition(".")
    try:
        place = bytes.fromhex(topic), int(number)
    except ValueError:
        place = b"", -1
    if len(place[0]) != TOPIC_ID_BYTES or text_of(place) != text:
        raise CorruptDataError(f"live document: 'unvouched' has {text!r}, which is no partition")
    return place


def text_of(place: Place) -> str:
    """A partition as a live document names it."""
    return f"{place[0].hex()}.{place[1]}"
