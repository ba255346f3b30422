"""Records that are published: every one once and in order, whatever is lost on the way."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import zmqmq
import zmqmq.aio
from tests.e2e.broker_cluster import running_cluster
from tests.e2e.command_line import CLI, start_broker, stop
from tests.support.etcd_process import free_ports
from zmqmq.wire.apis import PUSH_BYTES_MAX

SECONDS = 100
pytestmark = pytest.mark.timeout(300)
SIZES = [10, 100, 5_000, 40_000, PUSH_BYTES_MAX, 200_000]
"""Of records: some batches are pushed together, others one by one or not at all."""


def measures(mq: zmqmq.Client) -> dict[str, Any]:
    return mq.describe("broker")[0]


class Reader(threading.Thread):
    """Reads until it has a record with the value `end` of every partition; offsets must have no
    gap and no double."""

    def __init__(self, mq: zmqmq.Client, topic: str, **options: Any) -> None:
        super().__init__()
        self._mq = mq
        self._topic = topic
        self._pause = options.pop("pause", 0.0)
        self._options = {"start": "start", "mode": "push", **options}
        self.values: dict[int, list[bytes]] = {}
        self.error: BaseException | None = None
        self.is_ready = threading.Event()
        self.start()
        assert self.is_ready.wait(SECONDS)

    def run(self) -> None:
        try:
            with self._mq.consumer(self._topic, **self._options) as consumer:
                self.is_ready.set()
                self._read(consumer)
                if "group" in self._options:
                    consumer.commit()
        except BaseException as error:  # noqa: BLE001 - raised in `finish`
            self.error = error
            self.is_ready.set()

    def _read(self, consumer: zmqmq.Consumer) -> None:
        ended: set[int] = set()
        deadline = time.monotonic() + SECONDS
        positions: dict[int, int] = {}
        while len(ended) < len(consumer.assignment) or not ended:
            assert time.monotonic() < deadline, (positions, ended)
            for record in consumer.fetch(100, max_wait_ms=200):
                expected = positions.get(record.partition, record.offset)
                assert record.offset == expected, (record.partition, record.offset, expected)
                positions[record.partition] = record.offset + 1
                self.values.setdefault(record.partition, []).append(record.value or b"")
                if record.value == b"end":
                    ended.add(record.partition)
            time.sleep(self._pause)

    def finish(self) -> dict[int, list[bytes]]:
        """What it read."""
        self.join(SECONDS)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.values


def produce(mq: zmqmq.Client, topic: str, count: int, seed: int = 1) -> dict[int, list[bytes]]:
    """Records of all sizes, now together and now one by one; what is in each partition."""
    chance = random.Random(seed)
    partitions = len(mq.topics.describe(topic).partitions)
    sent: dict[int, list[bytes]] = {}
    with mq.producer(topic, linger_ms=0, delivery_timeout_ms=SECONDS * 1_000) as producer:
        for number in range(count):
            partition = chance.randrange(partitions)
            value = b"%d " % number + bytes(chance.choice(SIZES))
            handle = producer.send(value, partition=partition)
            sent.setdefault(partition, []).append(value)
            if chance.random() < 0.3:
                handle.result(SECONDS)
        for partition in range(partitions):
            producer.send(b"end", partition=partition).result(SECONDS)
            sent.setdefault(partition, []).append(b"end")
    return sent


@pytest.mark.parametrize("mode", ["push", "auto"])
def test_everything_comes_once_and_in_order(mq: zmqmq.Client, mode: str) -> None:
    topic = f"all-{mode}"
    mq.topics.create(topic, 3)
    before = measures(mq)
    readers = [
        Reader(mq, topic, mode=mode),
        Reader(mq, topic, mode=mode, prefetch_bytes=100_000, pause=0.01),
        Reader(mq, topic, mode="pull"),
    ]
    sent = produce(mq, topic, 600)
    for reader in readers:
        assert reader.finish() == sent
    after = measures(mq)
    assert after["pushes"] > before["pushes"]
    assert after["subscriptions_refused"] == 0


def test_asyncio(servers: str, mq: zmqmq.Client) -> None:
    mq.topics.create("aio", 1)
    sent: list[bytes] = []

    async def read() -> list[bytes]:
        got: list[bytes] = []
        async with (
            await zmqmq.aio.connect(servers) as client,
            client.consumer("aio", mode="push", start="start") as consumer,
        ):
            writing = asyncio.create_task(
                asyncio.to_thread(lambda: sent.extend(produce(mq, "aio", 300)[0]))
            )
            async with asyncio.timeout(SECONDS):
                async for record in consumer:
                    assert record.offset == len(got)
                    got.append(record.value or b"")
                    if record.value == b"end":
                        break
            await writing
        return got

    assert asyncio.run(read()) == sent


def test_a_group_goes_on_where_it_was(mq: zmqmq.Client) -> None:
    mq.topics.create("group", 1)
    sent = produce(mq, "group", 100)[0]
    first = Reader(mq, "group", group="g").finish()[0]
    with mq.producer("group", linger_ms=0) as producer:
        producer.send(b"more").result(SECONDS)
        producer.send(b"end").result(SECONDS)
    assert first == sent
    assert Reader(mq, "group", group="g", start=None).finish() == {0: [b"more", b"end"]}


def test_seeking_and_pausing(mq: zmqmq.Client) -> None:
    mq.topics.create("moves", 1)
    with (
        mq.producer("moves", linger_ms=0) as producer,
        mq.consumer("moves", mode="push", start="start") as consumer,
    ):

        def send(value: bytes) -> None:
            producer.send(value).result(SECONDS)

        def take(count: int) -> list[bytes | None]:
            got: list[bytes | None] = []
            while len(got) < count:
                got += [record.value for record in consumer.fetch(count - len(got), 10_000)]
            return got

        for round_ in range(5):
            for number in range(5):
                send(b"%d%d" % (round_, number))
            assert take(5) == [b"%d%d" % (round_, number) for number in range(5)]
            time.sleep(0.1)  # now it is pushed
            consumer.seek("moves", 0, 6 * round_)
            assert take(2) == [b"%d0" % round_, b"%d1" % round_]
            consumer.pause("moves", 0)
            send(b"%d5" % round_)
            assert consumer.fetch(10, 100) == []
            consumer.resume("moves", 0)
            assert take(4)[-1] == b"%d5" % round_
            consumer.seek("moves", 0, "end")
            assert consumer.fetch(10, 100) == []
            consumer.seek("moves", 0, 6 * (round_ + 1) - 1)
            assert take(1) == [b"%d5" % round_]


def test_a_push_port_that_nobody_reaches_leaves_pulling(tmp_path: Path) -> None:
    (nobody,) = free_ports(1)
    process, address = start_broker(tmp_path / "data", "--advertise-push", f"127.0.0.1:{nobody}")
    with zmqmq.connect(address) as client:
        client.topics.create("t", 1)
        reader = Reader(client, "t")
        sent = produce(client, "t", 100)
        assert reader.finish() == sent
    assert stop(process) == 0


def test_brokers_die_and_stop_under_it(tmp_path: Path) -> None:
    """Every leader in turn, by SIGKILL and in good order."""
    with running_cluster(tmp_path, {n: f"r{n}" for n in (1, 2, 3)}) as cluster:
        cluster.start(1, 2, 3)
        with zmqmq.connect(cluster.servers) as client:
            client.topics.create("t", 3, replicas=3)
            readers = [Reader(client, "t"), Reader(client, "t", group="g", start=None)]
            result: list[dict[int, list[bytes]]] = []
            writing = threading.Thread(target=lambda: result.append(produce(client, "t", 1_500)))
            writing.start()
            for number in (1, 2, 3):
                time.sleep(1)
                end = cluster.kill if number == 2 else cluster.stop
                end(number)
                cluster.start(number)
            writing.join(SECONDS)
            for reader in readers:
                assert reader.finish() == result[0]


def test_the_command_line_prints_what_is_published(servers: str) -> None:
    cli = CLI(servers)
    cli("topics", "create", "printed")
    with cli.start("consume", "printed", "--push", "-n", "500") as consuming:
        cli("produce", "printed", stdin=b"".join(b"%d\n" % n for n in range(500)))
        out, _ = consuming.communicate(timeout=SECONDS)
    assert out == b"".join(b"%d\n" % n for n in range(500))
