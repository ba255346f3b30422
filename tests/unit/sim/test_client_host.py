"""ClientHost and its producer and consumer against one real broker in the simulated world."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.sim.one_broker import ADDRESS, OneBroker, make_stage
from zmqmq.batch.decode import RecordBatch
from zmqmq.client.machines.effects import Observed
from zmqmq.client.machines.lookup import Question
from zmqmq.client.machines.stream import Place, PlaceKind
from zmqmq.client.options import ConsumerOptions, ProducerOptions
from zmqmq.errors import (
    ConflictError,
    DisconnectedError,
    OutcomeUnknownError,
    RefusedError,
    ZmqmqError,
)
from zmqmq.sim import network as sim_network
from zmqmq.sim.client_host import ClientHost, SimProducer
from zmqmq.sim.client_reader import SimConsumer
from zmqmq.sim.node import MS, SECOND, Node
from zmqmq.wire.apis import Api

START = Place(PlaceKind.START)


class Scene:
    """A broker and a client that share a topic."""

    def __init__(self) -> None:
        self.stage = make_stage(1)
        self.loop = self.stage.loop
        self.broker = OneBroker(self.stage)
        self.node = Node(self.loop, "c", self.stage.chance)
        self.news = 0
        self.host = self.begin()
        self.told: list[Any] = []
        """What became of everything that was asked for."""

    def begin(self) -> ClientHost:
        stream = self.stage.chance.stream("c")
        return ClientHost(self.node, self.stage.network, [ADDRESS], "c", stream, 2_000)

    def wait(self, ms: int = 200) -> None:
        self.loop.run_until(self.loop.now + ms * MS)

    def make_topic(self) -> None:
        fields = {"topic": "t", "partitions": 2, "replicas": 1}
        self.host.call(Api.CREATE_TOPIC, fields, self.told.append)
        self.wait()
        assert self.told.pop()["partitions"] == 2

    def producer(self, **options: Any) -> SimProducer:
        options = {"linger_ms": 1, "request_timeout_ms": 1_000, **options}
        return self.host.producer(ProducerOptions(**options), "t")

    def consumer(self, start: Place = START, **options: Any) -> SimConsumer:
        options = {"auto_commit": False, "partitions": (0,), **options}
        return SimConsumer(self.host, ConsumerOptions(**options), ["t"], start, self.noticed)

    def noticed(self) -> None:
        self.news += 1

    def send(self, producer: SimProducer, *values: bytes, partition: int = 0) -> None:
        for value in values:
            assert producer.send("t", value, None, self.told.append, partition)


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.make_topic()
    return scene


def read(consumer: SimConsumer) -> list[Any]:
    """Values and errors that lie ready."""
    found: list[Any] = []
    while (outcome := consumer.poll()) is not None:
        found += outcome.values if isinstance(outcome, RecordBatch) else [type(outcome)]
    return found


# The host


def test_any_request(scene: Scene) -> None:
    scene.host.call(Api.DESCRIBE, {"kind": "topics"}, scene.told.append)
    scene.host.call(Api.CREATE_TOPIC, {"topic": "t", "partitions": 1}, scene.told.append)
    scene.wait()

    described, refused = scene.told
    assert [item["name"] for item in described["items"]] == ["t"]
    assert isinstance(refused, ConflictError)


def test_offsets_and_topics(scene: Scene) -> None:
    question = Question("t", 1, "end")
    scene.host.list_offsets([question], scene.told.append)
    scene.wait()
    scene.host.describe_topic("t", scene.told.append)
    scene.wait()

    assert scene.told[0] == {question: 0}
    assert scene.told[1].leaders == (1, 1)


def test_nobody_answers(scene: Scene) -> None:
    scene.broker.node.crash()
    scene.host.call(Api.DESCRIBE, {"kind": "topics"}, scene.told.append)
    scene.wait(1_000)
    assert scene.told == []

    scene.wait(2_000)
    (error,) = scene.told
    assert isinstance(error, ZmqmqError)


def test_a_broker_that_comes_back(scene: Scene) -> None:
    seen: list[Observed] = []
    scene.host.observed = seen.append
    scene.broker.node.crash()
    scene.host.call(Api.DESCRIBE, {"kind": "topics"}, scene.told.append)
    scene.wait(300)
    scene.broker.node.restart()
    scene.wait(1_500)

    assert "items" in scene.told[0]
    assert "disconnected" in [observed.event for observed in seen]


def test_closing_answers_everything(scene: Scene) -> None:
    producer = scene.producer(linger_ms=1_000)
    scene.send(producer, b"a")
    scene.host.call(Api.CREATE_TOPIC, {"topic": "u", "partitions": 1}, scene.told.append)
    scene.host.close()
    scene.host.close()

    refused, perhaps = scene.told
    assert isinstance(refused, RefusedError)
    assert isinstance(perhaps, DisconnectedError)
    scene.wait(10_000)
    assert len(scene.told) == 2


def test_the_dead_hear_nothing(scene: Scene) -> None:
    scene.host.call(Api.CREATE_TOPIC, {"topic": "u", "partitions": 1}, scene.told.append)
    scene.node.crash()
    scene.wait(5_000)
    assert scene.told == []

    scene.node.restart()
    scene.begin().call(Api.DESCRIBE, {"kind": "topics"}, scene.told.append)
    scene.wait()
    assert len(scene.told) == 1


def test_the_paused_hear_later(scene: Scene) -> None:
    scene.host.call(Api.DESCRIBE, {"kind": "topics"}, scene.told.append)
    scene.node.pause(SECOND)
    scene.wait(900)
    assert scene.told == []

    scene.wait(200)
    assert len(scene.told) == 1


def test_an_idle_client_does_nothing(scene: Scene) -> None:
    scene.wait(1_000)
    steps = scene.loop.steps
    scene.wait(10_000)

    # The broker of the test looks at its clock 50 times a second.
    assert scene.loop.steps - steps < 520


def test_a_socket_that_is_full(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    producer = scene.producer(batch_records=1, linger_ms=0)
    monkeypatch.setattr(sim_network, "WIRE_MAX", 2)
    scene.send(producer, *(b"%d" % n for n in range(20)))
    scene.wait(1_000)

    assert scene.told == [(0, offset) for offset in range(20)]


# Producers


def test_records_get_their_offsets(scene: Scene) -> None:
    producer = scene.producer()
    scene.send(producer, b"a", b"b")
    scene.send(producer, b"c", partition=1)
    scene.wait()

    assert sorted(scene.told) == [(0, 0), (0, 1), (1, 0)]


def test_a_record_that_has_no_room(scene: Scene) -> None:
    producer = scene.producer(buffer_bytes=1_024, batch_bytes=512, linger_ms=1_000)
    sent = [producer.send("t", bytes(300), None, scene.told.append, 0) for _ in range(4)]
    scene.wait(3_000)

    assert sent == [True, True, True, False]
    assert len(scene.told) == 3


def test_a_record_that_can_never_be_sent(scene: Scene) -> None:
    producer = scene.producer()
    scene.send(producer, b"a")
    scene.wait()

    with pytest.raises(RefusedError):
        producer.send("t", b"b", None, scene.told.append, 7)


def test_a_record_without_an_answer(scene: Scene) -> None:
    producer = scene.producer(delivery_timeout_ms=1_500)
    scene.send(producer, b"a")
    scene.wait()
    scene.stage.network.cut("b1", "c", both=False)
    scene.send(producer, b"b")
    scene.wait(3_000)

    stored, perhaps = scene.told
    assert stored == (0, 0)
    assert isinstance(perhaps, OutcomeUnknownError)


def test_a_producer_that_ends(scene: Scene) -> None:
    producer = scene.producer(linger_ms=1_000)
    scene.send(producer, b"a")
    producer.close()

    (error,) = scene.told
    assert isinstance(error, RefusedError)


# Consumers


def test_records_are_read_in_order(scene: Scene) -> None:
    consumer = scene.consumer()
    scene.wait()
    assert consumer.positions == {("t", 0): 0}
    assert consumer.is_dry

    scene.send(scene.producer(), b"a", b"b")
    scene.wait()
    assert scene.news > 0
    assert not consumer.is_dry
    assert read(consumer) == [b"a", b"b"]
    assert consumer.is_dry


def test_seeking(scene: Scene) -> None:
    consumer = scene.consumer()
    scene.send(scene.producer(batch_records=2), b"a", b"b", b"c", b"d")
    scene.wait()
    assert read(consumer) == [b"a", b"b", b"c", b"d"]

    consumer.seek("t", 0, Place(PlaceKind.OFFSET, 1))
    scene.wait()
    assert isinstance(first := consumer.poll(), RecordBatch)
    assert first.values == [b"b"]

    # What lies ready and what is half read is stale.
    consumer.seek("t", 0, Place(PlaceKind.END))
    scene.wait()
    assert read(consumer) == []
    assert consumer.positions == {("t", 0): 4}


def test_a_group_goes_on_where_it_was(scene: Scene) -> None:
    scene.send(scene.producer(), b"a", b"b", b"c")
    scene.wait()
    consumer = scene.consumer(group="g")
    consumer.commit({("t", 0): 2}, scene.told.append)
    scene.wait()
    assert scene.told[3:] == [None]
    consumer.close()

    again = scene.consumer(Place(PlaceKind.STORED), group="g")
    scene.wait()
    assert read(again) == [b"c"]


def test_what_cannot_be_read_stops_its_partition_alone(scene: Scene) -> None:
    consumer = scene.consumer(partitions=None)
    scene.wait()
    scene.stage.network.path("b1", "c").clog(scene.loop.now + SECOND)
    producer = scene.producer()
    scene.send(producer, b"a")
    scene.wait(100)
    scene.send(producer, b"b", partition=1)
    scene.wait(2_000)
    for chunk in list(consumer.machine.chunks):
        if chunk.stream.partition == 0:
            damaged = bytes(chunk.data[:-1]) + bytes([chunk.data[-1] ^ 1])
            at = consumer.machine.chunks.index(chunk)
            consumer.machine.chunks[at] = chunk._replace(data=damaged)

    found = read(consumer)
    assert b"b" in found
    assert [error.__name__ for error in found if type(error) is type] == ["CorruptDataError"]
    assert consumer.machine.streams["t", 0].is_stopped

    consumer.seek("t", 0, START)
    scene.wait()
    assert read(consumer) == [b"a"]


def test_a_topic_that_is_not_there(scene: Scene) -> None:
    options = ConsumerOptions(auto_commit=False)
    consumer = SimConsumer(scene.host, options, ["nothing"], START, scene.noticed)
    scene.wait(2_000)

    assert [error.__name__ for error in read(consumer)] == ["NotFoundError"]


def test_little_is_fetched_ahead(scene: Scene) -> None:
    producer = scene.producer(batch_records=1)
    scene.send(producer, *(bytes(400) for _ in range(20)))
    scene.wait()
    consumer = scene.consumer(fetch_bytes=500, prefetch_bytes=1_000)
    scene.wait()
    assert 0 < consumer.machine.buffered_bytes < 3_000

    values = []
    for _ in range(30):
        values += read(consumer)
        scene.wait(50)
    assert len(values) == 20
