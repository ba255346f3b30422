"""Subscribers that read nothing, floods of them, and subjects that nobody may have: the broker
keeps its memory, and everybody else their records.

Each test writes what it measured to the report of the run (`-rA` shows it).
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import zmq

import zmqmq
from tests.hostile.raw import (
    MIB,
    SCALE,
    BrokerProcess,
    RawClient,
    batch_of,
    descriptors,
    wait_until,
)
from tests.hostile.zmtp import Wire
from zmqmq.wire.apis import PUSH_BYTES_MAX, PUSH_QUEUE, Api

pytestmark = pytest.mark.timeout(300)
STALLED_MAX = PUSH_QUEUE * PUSH_BYTES_MAX
"""16 MiB, which is what one subscriber may cost."""
SHARED = 24 * MIB
"""What all of them share: the cache of batches read last (16 MiB) and buffers of the system."""
SLACK = 24 * MIB
"""What an allocator keeps for itself when much was asked of it."""
FLOOD_PER_S = 1_000
FLOOD_S = 3 * SCALE
CHUNK = 20_000


class Topic:
    """A topic with one partition that is published, and where."""

    def __init__(self, broker: BrokerProcess, name: str = "t") -> None:
        self.name = name
        self.client = RawClient(broker.endpoint)
        self.id = self.client.make_topic(name)
        answer, _ = self.client.call(Api.SUBSCRIBE, {"partitions": [[self.id, 0]]})
        (self.subject,) = answer["subjects"]
        self.endpoint: str = answer["endpoint"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.client.socket.close()

    def put(self, value: bytes) -> None:
        """One batch."""
        assert "error" not in self.client.produce(self.id, batch_of(self.id, value))

    def measures(self) -> dict[str, Any]:
        return dict(self.client.call(Api.DESCRIBE, {"kind": "broker"})[0]["items"][0])

    def subscriber(self, **options: int) -> Wire:
        """A connection that may subscribe, by hand."""
        return Wire(self.endpoint, **options).shake("SUB")


class Follower(threading.Thread):
    """A consumer that has its records published; which number each of them has."""

    def __init__(self, broker: BrokerProcess, topic: str, count: int) -> None:
        super().__init__(daemon=True)
        self._endpoint, self._topic, self._count = broker.endpoint, topic, count
        self.numbers: list[int] = []
        self.start()

    def run(self) -> None:
        with (
            zmqmq.connect(self._endpoint) as client,
            client.consumer(self._topic, mode="push") as consumer,
        ):
            for record in consumer:
                self.numbers.append(int((record.value or b"").split()[0]))
                if len(self.numbers) == self._count:
                    return

    def finish(self) -> None:
        """It has all of them, once and in order."""
        self.join(120)
        assert self.numbers == list(range(self._count))


def subscription(subject: bytes) -> bytes:
    """As it goes over the wire."""
    return Wire.packed(b"\x01" + subject, more=False)


@pytest.mark.parametrize(("size", "count"), [(PUSH_BYTES_MAX - 200, 3_210), (500, 3_000)])
def test_one_that_never_reads_costs_its_queue(tmp_path: Path, size: int, count: int) -> None:
    """200 MiB of the largest batches that are pushed, and more small ones than the queue holds."""
    with BrokerProcess(tmp_path) as broker, Topic(broker) as topic:
        for number in range(300):  # caches fill, and allocators take what they will
            topic.put(b"%d " % number + bytes(size - 20))
        follower = Follower(broker, topic.name, 300 + count)
        assert wait_until(lambda: len(follower.numbers) == 300)
        before = broker.rss_bytes()
        with contextlib.ExitStack() as stack:
            stalled = [stack.enter_context(topic.subscriber(receive_buffer=4096)) for _ in range(3)]
            for wire in stalled:
                wire.socket.sendall(subscription(topic.subject))
            assert wait_until(lambda: all(wire.frame() == topic.subject for wire in stalled))
            broker.reset_peak()
            for number in range(300, 300 + count):
                topic.put(b"%d " % number + bytes(size - 20))
            peak = broker.peak_bytes()
            follower.finish()
        print(  # noqa: T201
            f"{count} batches of {size} B past 3 that do not read: RSS {before / 1e6:.0f} MB "
            f"before, {peak / 1e6:.0f} MB at most"
        )
    # They have the same bytes in their queues.
    assert peak - before < STALLED_MAX + SHARED


def test_a_flood_of_connections_leaves_nothing_behind(tmp_path: Path) -> None:
    """Who subscribes and is gone again at once, a thousand times a second."""
    with BrokerProcess(tmp_path) as broker, Topic(broker) as topic:
        flood(topic, 1)
        assert wait_until(lambda: topic.measures()["sessions"] == 1)
        time.sleep(0.5)
        before, files = broker.rss_bytes(), descriptors(broker)
        count = 300 * FLOOD_S
        follower = Follower(broker, topic.name, count)
        feeding = threading.Thread(target=feed, args=(broker, topic, count), daemon=True)
        feeding.start()
        connections, took = flood(topic, FLOOD_S)
        feeding.join(120)
        follower.finish()
        assert wait_until(lambda: descriptors(broker) <= files + 8)
        after = broker.rss_bytes()
        print(  # noqa: T201
            f"{connections} connections in {took:.1f} s: RSS {before / 1e6:.0f} MB before, "
            f"{after / 1e6:.0f} MB after, {descriptors(broker)} files, {files} before"
        )
    assert after - before < SLACK


def flood(topic: Topic, seconds: float) -> tuple[int, float]:
    """Connect, subscribe, hang up; how many times and how long it took."""
    began = time.monotonic()
    wanted = int(FLOOD_PER_S * seconds)
    for number in range(wanted):
        with Wire(topic.endpoint) as wire:
            wire.shake("SUB")
            garbage = secrets.token_bytes(40) if number % 4 == 0 else topic.subject
            wire.socket.sendall(subscription(garbage))
        early = began + number / FLOOD_PER_S - time.monotonic()
        if early > 0:
            time.sleep(early)
    return wanted, time.monotonic() - began


def feed(broker: BrokerProcess, topic: Topic, count: int) -> None:
    """Small records, a few hundred each second."""
    with RawClient(broker.endpoint) as client:
        for number in range(count):
            client.produce(topic.id, batch_of(topic.id, b"%d " % number + bytes(100)))
            time.sleep(0.002)


def garbage(_: Topic) -> Iterator[bytes]:
    """Neither subscriptions nor anything else."""
    while True:
        yield Wire.packed(b"\x02" + secrets.token_bytes(3), more=False)
        yield Wire.packed(b"", more=False)


def refused(_: Topic) -> Iterator[bytes]:
    """Subjects that nobody may have, each another one."""
    while True:
        yield subscription(secrets.token_bytes(50))


def cancelled(_: Topic) -> Iterator[bytes]:
    """What was never asked for."""
    while True:
        yield Wire.packed(b"\x00" + secrets.token_bytes(50), more=False)


def to_and_fro(topic: Topic) -> Iterator[bytes]:
    """A subject that anybody may have, now wanted and now not."""
    while True:
        yield subscription(topic.subject)
        yield Wire.packed(b"\x00" + topic.subject, more=False)


@pytest.mark.parametrize(
    ("messages", "count"),
    [
        (garbage, 1_000_000),
        (refused, 1_000_000),
        (cancelled, 100_000),
        (to_and_fro, 100_000),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_flood_of_messages_stays_in_bounds(
    tmp_path: Path, messages: Callable[[Topic], Iterator[bytes]], count: int
) -> None:
    """libzmq takes in what is sent to an XPUB and keeps it, however much it is."""
    with BrokerProcess(tmp_path) as broker, Topic(broker) as topic:
        feed(broker, topic, 10)
        before, published = broker.rss_bytes(), 500
        broker.reset_peak()
        follower = Follower(broker, topic.name, published)
        feeding = threading.Thread(target=feed_after, args=(broker, topic, 10, published))
        feeding.start()
        source = messages(topic)
        chunk = b"".join(next(source) for _ in range(CHUNK))
        sent = cut = 0
        while sent < count:
            try:
                with Wire(topic.endpoint) as wire:
                    wire.shake("SUB")
                    while sent < count:
                        wire.socket.sendall(chunk)
                        sent += CHUNK
            except OSError:  # the broker has ended it
                cut += 1
                time.sleep(0.01)
        feeding.join(120)
        follower.finish()
        peak = broker.peak_bytes()
        print(  # noqa: T201
            f"{sent} messages, cut {cut} times: RSS {before / 1e6:.0f} MB before, "
            f"{peak / 1e6:.0f} MB at most"
        )
        assert peak - before < 64 * MIB


def feed_after(broker: BrokerProcess, topic: Topic, first: int, count: int) -> None:
    with RawClient(broker.endpoint) as client:
        for number in range(first, count):
            client.produce(topic.id, batch_of(topic.id, b"%d " % number + bytes(100)))
            time.sleep(0.004)


def test_a_subscription_that_is_too_long_ends_its_connection(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path) as broker, Topic(broker) as topic:
        with topic.subscriber() as wire:
            wire.socket.sendall(subscription(bytes(300)))
            assert wire.socket.recv(1) == b""
        with topic.subscriber() as wire:
            wire.socket.sendall(subscription(topic.subject))
            assert wire.frame() == topic.subject
        assert topic.measures()["subscriptions_refused"] == 0


@pytest.mark.parametrize("subject", [b"", b"p", b"p.", b"p." + b"0" * 32 + b".0."])
def test_a_part_of_a_subject_or_all_subjects_is_not_to_be_had(
    broker: BrokerProcess, subject: bytes
) -> None:
    """A SUB gets whatever begins with what it asks for: not here."""
    with Topic(broker, f"t-{secrets.token_hex(4)}") as topic:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        with context.socket(zmq.SUB) as nosy, context.socket(zmq.SUB) as good:
            nosy.linger = good.linger = 0
            for socket, wanted in (nosy, subject), (good, topic.subject):
                socket.connect(f"tcp://{topic.endpoint}")
                socket.subscribe(wanted)
            assert good.poll(20_000), "a HEAD"
            refused = topic.measures()["subscriptions_refused"]
            topic.put(b"secret")
            while b"secret" not in good.recv_multipart()[-1]:
                assert good.poll(20_000)
            assert not nosy.poll(200)
            assert refused > 0
