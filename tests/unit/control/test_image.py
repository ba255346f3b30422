"""The decoded metadata: what it holds, and what it says has changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.control_world import KEYS, topic_put
from tests.support.documents import PLACE, TOPIC, live, partition
from tests.support.memory_store import MemoryStore
from zmqmq.core.control.image import (
    BrokerChange,
    Change,
    ControllerChange,
    Image,
    KnownBroker,
    PartitionChange,
    TopicChange,
    place_of,
    text_of,
)
from zmqmq.core.meta.store import Batch, Delete, Op, Put
from zmqmq.core.meta.values import (
    BrokerDocument,
    ControllerDocument,
    ProducerIdsDocument,
    TopicNameDocument,
)
from zmqmq.core.replication.vouching import Registration
from zmqmq.errors import CorruptDataError
from zmqmq.model.topics import TopicConfig

DOCUMENT = partition(leader=(1, 1), isr=[(1, 1), (2, 2)])
FLAGS = BrokerDocument(broker_epoch=2, shutting_down=False, cordoned=True)


class Follower:
    """A store, and an image of it."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.image = Image(KEYS, TopicConfig())

    def commit(self, *ops: Op) -> list[Change]:
        commit = self.store.commit(ops)
        (batch,) = self.store.events(b"", commit.revision)
        return self.image.apply(batch)


def test_partitions_are_known_by_place_topic_and_broker() -> None:
    f = Follower()
    key = KEYS.partition(*PLACE)
    (made,) = f.commit(Put(key, DOCUMENT.encode()))
    assert isinstance(made, PartitionChange)
    assert (made.place, made.before) == (PLACE, None)
    assert made.after == f.image.partitions[PLACE] == (DOCUMENT, 2)
    assert f.image.numbers == {TOPIC: {0: None}}
    assert {b: list(places) for b, places in f.image.held.items()} == {
        1: [PLACE], 2: [PLACE], 3: [PLACE]
    }  # fmt: skip

    moved = replace(DOCUMENT, replicas=(1, 2, 4))
    (change,) = f.commit(Put(key, moved.encode()))
    assert isinstance(change, PartitionChange)
    assert (change.before, change.after) == ((DOCUMENT, 2), (moved, 3))
    assert not f.image.held[3]
    assert list(f.image.held[4]) == [PLACE]

    (gone,) = f.commit(Delete(key))
    assert gone == PartitionChange(PLACE, (moved, 3), None)
    assert (f.image.partitions, f.image.numbers) == ({}, {})
    assert not any(f.image.held.values())


def test_a_broker_is_its_registration_and_its_flags() -> None:
    f = Follower()
    assert f.image.broker(1) == KnownBroker(1)
    document = live(3, 4, {text_of(PLACE): None})
    (came,) = f.commit(Put(KEYS.live(1), document.encode()))
    assert isinstance(came, BrokerChange)
    assert came.after.registration == Registration(2, 3, 4, {PLACE: None})
    assert (came.before.epoch, came.after.epoch) == (None, 2)
    (flagged,) = f.commit(Put(KEYS.broker(1), FLAGS.encode()))
    assert isinstance(flagged, BrokerChange)
    assert (flagged.after.flags, flagged.after.flags_revision) == (FLAGS, 3)
    assert flagged.after.is_cordoned
    f.commit(Delete(KEYS.live(1)))
    assert f.image.broker(1).is_cordoned
    assert not f.image.broker(1).is_staying
    f.commit(Delete(KEYS.broker(1)))
    assert f.image.brokers == {}


def test_a_key_that_was_created_again_is_another_run() -> None:
    f = Follower()
    f.commit(Put(KEYS.live(1), live().encode()))
    f.store.commit([Delete(KEYS.live(1))])
    (change,) = f.commit(Put(KEYS.live(1), live().encode()))  # the gap of a list after compaction
    assert isinstance(change, BrokerChange)
    assert (change.before.epoch, change.after.epoch) == (2, 4)


def test_topics_with_their_settings_and_names() -> None:
    f = Follower()
    (change,) = f.commit(
        topic_put(config={"min_isr": 2}),
        Put(KEYS.topic_name("t"), TopicNameDocument(topic_id=TOPIC).encode()),
    )
    assert isinstance(change, TopicChange)
    assert change.after is not None
    assert (change.after.config.min_isr, change.after.revision) == (2, 2)
    assert f.image.names == {"t": TOPIC}
    (gone,) = f.commit(Delete(KEYS.topic(TOPIC)), Delete(KEYS.topic_name("t")))
    assert gone == TopicChange(TOPIC, change.after, None)
    assert (f.image.topics, f.image.names) == ({}, {})


def test_the_controller_and_its_epoch() -> None:
    f = Follower()
    document = ControllerDocument(broker_id=1, broker_epoch=7)
    (change,) = f.commit(Put(KEYS.controller, document.encode()))
    assert change == ControllerChange(None, f.image.controller)
    assert f.image.controller == (document, 2)
    (gone,) = f.commit(Delete(KEYS.controller))
    assert isinstance(gone, ControllerChange)
    assert gone.after is None


def test_what_is_of_no_concern_moves_it_on() -> None:
    f = Follower()
    unknown = KEYS.prefix + b"ctl/other"
    ids = ProducerIdsDocument(next_id=5).encode()
    assert f.commit(Put(KEYS.producer_ids, ids), Put(unknown, b"?")) == []
    assert f.commit(Delete(KEYS.producer_ids), Delete(unknown)) == []
    assert f.image.revision == 3
    assert f.image.apply(Batch(9, ())) == []
    assert f.image.revision == 9


def test_loaded_or_followed_it_is_the_same() -> None:
    f = Follower()
    f.commit(topic_put(), Put(KEYS.partition(*PLACE), DOCUMENT.encode()))
    f.commit(Put(KEYS.live(1), live().encode()), Put(KEYS.broker(1), FLAGS.encode()))
    loaded = Image(KEYS, TopicConfig())
    loaded.load(f.store.revision, list(f.store.now.values()))
    for name in ("revision", "brokers", "topics", "partitions", "numbers", "held"):
        assert getattr(loaded, name) == getattr(f.image, name)


@pytest.mark.parametrize("text", ["", ".", "00.1", f"{TOPIC.hex()}", f"{TOPIC.hex()}.01", "x.1"])
def test_a_voucher_for_no_partition_is_corrupt(text: str) -> None:
    assert place_of(text_of(PLACE)) == PLACE
    with pytest.raises(CorruptDataError, match="no partition"):
        place_of(text)
