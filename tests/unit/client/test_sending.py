"""Records in, on the caller's thread: the short way, the long way, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.client.scripted import START_MS, World, WorldDriver
from zmqmq.client.delivery import ManyDelivery, RecordDelivery, RecordMetadata
from zmqmq.client.machines.accumulator import CLOSED
from zmqmq.client.options import ProducerOptions
from zmqmq.client.sending import Sender
from zmqmq.errors import (
    BufferFullError,
    ClosedError,
    Code,
    InvalidNameError,
    NotFoundError,
    RefusedError,
    UsageError,
)
from zmqmq.wire.apis import Api


class WorldSender(Sender[RecordDelivery, ManyDelivery]):
    """A sender that never waits."""

    def __init__(
        self, world: World, topic: str | None = "t", interceptors: Any = (), **options: Any
    ) -> None:
        self.driver = WorldDriver(world)
        super().__init__(
            self.driver,  # type: ignore[arg-type]
            ProducerOptions(**{"linger_ms": 5, **options}),
            topic,
            interceptors,
            RecordDelivery,
            ManyDelivery,
        )
        self.world = world
        self.driver.post(self.start)

    def notify(self) -> None:
        """Nobody waits."""

    def _like(self, options: ProducerOptions) -> WorldSender:  # type: ignore[override]
        return WorldSender(self.world, self._topic, acks=options.acks, idempotent=False)

    def _wait_for_room(self, size: int, waited: float) -> float:
        raise self._buffer_full(size, waited)

    @property
    def accumulator(self) -> Any:
        return self._accumulator


def sender_of(partitions: int = 1, **options: Any) -> WorldSender:
    world = World(topics={"t": partitions})
    sender = WorldSender(world, **options)
    world.greet()
    world.tell_metadata()
    if world.sent:
        world.tell_producer_id()
    return sender


def acknowledge_all(world: World) -> None:
    offset = 0
    while requests := world.take_all(Api.PRODUCE):
        for sent in requests:
            results: list[object] = []
            for header in sent.headers:
                results.append([offset, START_MS])
                offset += header.record_count
            world.answer(sent, {"results": results})


def flush(sender: WorldSender) -> None:
    sender._seal_all()
    acknowledge_all(sender.world)


def test_the_short_way_and_the_long_way_lead_to_the_same_batch() -> None:
    sender = sender_of()
    first = sender.send(b"a")
    assert sender.accumulator.plain is first.batch
    second = sender.send(b"b")
    third = sender.send(b"c", timestamp_ms=first.batch.timestamp_ms)

    assert first.batch is second.batch is third.batch
    assert [d.index for d in (first, second, third)] == [0, 1, 2]
    flush(sender)
    assert third.result(0) == RecordMetadata("t", 0, 2, START_MS)
    sender.accumulator.check()


def test_keys_take_the_short_way_too() -> None:
    sender = sender_of(4)
    deliveries = [sender.send(b"v", b"k%d" % (n % 3)) for n in range(30)]
    by_key = [{d.batch for d in deliveries[n::3]} for n in range(3)]

    assert all(len(batches) == 1 for batches in by_key)
    for delivery, n in zip(deliveries, range(30), strict=True):
        keys = delivery.batch.keys
        assert keys is not None
        assert keys[delivery.index] == b"k%d" % (n % 3)
    sender.accumulator.check()


def test_the_i_o_thread_is_woken_once_for_a_batch() -> None:
    sender = sender_of()
    woken = []
    post = sender.driver.post_producer

    def counting(*arguments: Any) -> None:
        woken.append(arguments)
        post(*arguments)

    sender._driver.post_producer = counting  # type: ignore[method-assign]
    for _ in range(100):
        sender.send(b"v")

    assert len(woken) == 1


def test_a_full_batch_is_sent_while_the_next_one_fills() -> None:
    sender = sender_of(batch_records=10, linger_ms=60_000)
    for n in range(25):
        sender.send(b"%d" % n)

    counts = [h.record_count for s in sender.world.take_all(Api.PRODUCE) for h in s.headers]
    assert counts == [10, 10]


def test_order_is_kept_whatever_way_records_take() -> None:
    sender = sender_of(batch_bytes=200)
    deliveries = []
    for n in range(200):
        if n % 7 == 0:
            deliveries.append(sender.send(b"%d" % n, headers={"h": b"1"}))
        elif n % 11 == 0:
            deliveries.append(sender.send(b"%d" % n, b"key"))
        else:
            deliveries.append(sender.send(b"%d" % n))
        sender.accumulator.check()
    flush(sender)

    assert [d.result(0).offset for d in deliveries] == list(range(200))


def test_many_are_one_handle() -> None:
    sender = sender_of(2, batch_records=4)
    delivery = sender.send_many([b"%d" % n for n in range(10)])
    assert not delivery.done()
    flush(sender)
    parts = delivery.result(0)

    assert [n for _, _, n in parts] == [4, 4, 2]
    assert parts[0][0] == parts[2][0] != parts[1][0]


def test_many_with_keys_go_where_their_keys_say() -> None:
    sender = sender_of(8)
    values = [b"%d" % n for n in range(100)]
    keys = [b"k%d" % (n % 10) for n in range(100)]
    many = sender.send_many(values, keys)
    single = {key: sender.send(b"x", key).batch.queue.partition for key in set(keys)}
    flush(sender)

    assert sum(n for _, _, n in many.result(0)) == 100
    for part in many.parts:
        assert part.batch.queue.partition in single.values()


def test_many_of_nothing_is_done_at_once() -> None:
    delivery = sender_of().send_many([])

    assert delivery.done()
    assert delivery.result(0) == []


def test_bytes_that_can_change_are_copied() -> None:
    sender = sender_of()
    value = bytearray(b"before")
    one = sender.send(value)
    many = sender.send_many([value, memoryview(value)])
    value[:] = b"after!"

    assert one.batch.values == [b"before"] * 3
    assert many.parts[0].batch is one.batch


@pytest.mark.parametrize("value", ["text", 1, 1.5, [b"x"]])
def test_what_is_not_bytes_is_refused_where_it_is_sent(value: Any) -> None:
    sender = sender_of()
    with pytest.raises(UsageError, match="must be bytes"):
        sender.send(value)
    with pytest.raises(UsageError, match="must be bytes"):
        sender.send_many([b"fine", value])
    with pytest.raises(UsageError, match="must be bytes"):
        sender.send(b"v", key=value)
    assert sender.pending_records == 0


def test_a_tombstone_is_none() -> None:
    sender = sender_of()
    assert sender.send(None, b"k").batch.values == [None]
    many = sender.send_many([None, b"v"], [b"k", b"l"])

    assert many.parts[0].batch.values[-2:] == [None, b"v"]


def test_headers_are_pairs_in_the_order_given() -> None:
    sender = sender_of()
    batch = sender.send(b"v", headers=[("b", b"1"), ("a", b"2")]).batch
    sender.send(b"v", headers={"c": b"3"})

    assert batch.headers == [["b", b"1", "a", b"2"], ["c", b"3"]]
    with pytest.raises(UsageError, match="not a tuple"):
        sender.send(b"v", headers=[("a", b"1", b"2")])  # type: ignore[list-item]


def test_refusing_takes_nothing_when_the_buffer_is_full() -> None:
    sender = sender_of(buffer_bytes=2_000, batch_bytes=1_000, on_full="refuse")
    with pytest.raises(BufferFullError, match="buffer_bytes=2000"):
        sender.send_many([b"x" * 500] * 10)
    assert sender.pending_records == 0

    for _ in range(3):
        sender.send(b"x" * 500)
    with pytest.raises(BufferFullError, match=r"wait for some of them \(flush\)"):
        sender.send(b"x" * 500)
    assert sender.pending_bytes <= 2_000


def test_blocking_in_the_middle_of_many_tells_how_many_were_taken() -> None:
    sender = sender_of(buffer_bytes=2_000, batch_bytes=1_000)
    with pytest.raises(BufferFullError, match="2 records were taken"):
        sender.send_many([b"x" * 900] * 10)


def test_pending_counts_bytes_and_records() -> None:
    sender = sender_of()
    sender.send(b"x" * 95)
    sender.send_many([b"x" * 95] * 9)
    assert (sender.pending_records, sender.pending_bytes) == (10, 1_000)
    flush(sender)

    assert (sender.pending_records, sender.pending_bytes) == (0, 0)


def test_a_closed_producer_takes_nothing() -> None:
    sender = sender_of()
    sender.send(b"v")
    sender._is_closed = True
    sender._accumulator.stop()

    with pytest.raises(ClosedError):
        sender.send(b"v")
    with pytest.raises(ClosedError):
        sender.send_many([b"v"])


def test_a_topic_has_to_be_named_and_to_have_a_name_that_can_be() -> None:
    world = World()
    sender = WorldSender(world, topic=None)
    with pytest.raises(UsageError, match="topic="):
        sender.send(b"v")
    with pytest.raises(InvalidNameError):
        sender.send(b"v", topic="no spaces")
    with pytest.raises(InvalidNameError):
        sender.send(b"v", topic="__internal")


def test_another_topic_than_the_producers_own() -> None:
    sender = sender_of()
    sender.world.topics["other"] = 1
    delivery = sender.send(b"v", topic="other")
    sender.world.tell_metadata()
    flush(sender)

    assert delivery.result(0).topic == "other"


def test_a_topic_that_does_not_exist_fails_its_records() -> None:
    sender = sender_of()
    delivery = sender.send(b"v", topic="typo")
    for _ in range(3):
        sender.world.tell_metadata()
        sender.world.greet_all()
        sender.world.advance(200)

    assert isinstance(delivery.exception(0), NotFoundError)


def test_a_partition_that_does_not_exist_is_refused_at_once() -> None:
    with pytest.raises(RefusedError) as caught:
        sender_of(2).send(b"v", partition=2)
    assert caught.value.code is Code.UNKNOWN_PARTITION


def test_oneway_goes_without_acknowledgement() -> None:
    sender = sender_of()
    sender.oneway().send(b"v")
    sender._seal_all()
    sent = sender.world.take(Api.PRODUCE)

    assert sent.fields["acks"] == 0
    assert sent.headers[0].producer_id == 0


class TestInterceptors:
    def test_on_send_may_change_and_none_changes_nothing(self) -> None:
        class Upper:
            def on_send(self, topic: str, key: Any, value: Any, _headers: Any) -> Any:
                assert topic == "t"
                return (key, value.upper(), {"by": b"me"}) if value == b"a" else None

        sender = sender_of(interceptors=[Upper()])
        batch = sender.send(b"a").batch
        sender.send_many([b"b", b"a"])

        assert batch.values == [b"A", b"b", b"A"]
        assert batch.headers == [["by", b"me"], None, ["by", b"me"]]
        assert sender.accumulator.plain is CLOSED

    def test_raising_fails_the_call_and_sends_nothing(self) -> None:
        class Broken:
            def on_send(self, *_: Any) -> None:
                raise ValueError("no")

        sender = sender_of(interceptors=[Broken()])
        with pytest.raises(ValueError, match="no"):
            sender.send(b"v")
        assert sender.pending_records == 0

    def test_on_delivery_hears_of_every_record(self) -> None:
        heard: list[int] = []

        class Listening:
            def on_delivery(self, delivery: RecordDelivery) -> None:
                heard.append(delivery.result(0).offset)

        sender = sender_of(interceptors=[Listening()])
        for _ in range(3):
            sender.send(b"v")
        sender.send_many([b"v"] * 2)
        sender._seal_all()
        world = sender.world
        sent = world.take(Api.PRODUCE)
        batch = next(iter(sender.accumulator.unsettled))
        world.acknowledge(sent, 10)
        for watch in batch.watchers:
            watch()

        assert heard == [10, 11, 12, 13, 14]
