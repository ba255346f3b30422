"""The client against a real broker process: what docs/client.md promises, blocking and asyncio.

What the machines decide in each case is in tests/unit/client; here sockets, threads, processes
and the broker's answers are the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path

import pytest

import zmqmq
import zmqmq.aio
from tests.e2e.command_line import until_it_holds
from tests.support.etcd_process import free_ports
from zmqmq.errors import (
    BufferFullError,
    ClosedError,
    ConfigError,
    ConflictError,
    DisconnectedError,
    NotFoundError,
    OffsetOutOfRangeError,
    RefusedError,
    TimedOutError,
    UsageError,
)

SECONDS = 60
WAIT = SECONDS * 1_000
"""What a fetch waits for records that are there: half a second is the default."""
_numbers = count()


class Broker:
    """A broker process that can be killed and started again on the same port and directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "zmqmq_cli.main", "broker", "--data-dir"]
        log = (self.folder.parent / "broker.log").open("ab")
        self.process = subprocess.Popen(
            [*command, str(self.folder), "--bind", self.address], stdout=subprocess.PIPE, stderr=log
        )
        log.close()
        stdout = self.process.stdout
        assert stdout is not None
        assert select.select([stdout], [], [], SECONDS)[0], "the broker does not become ready"
        assert b"ready" in stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def stop(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.communicate(timeout=SECONDS)
        self.kill()


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until it is so."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"not within {SECONDS} s: {what}"
        time.sleep(0.01)


def run_script(text: str, address: str) -> subprocess.CompletedProcess[str]:
    """A program of its own, with the broker's address as its argument."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), address],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("client") / "data")
    yield broker
    broker.stop()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """One that the test may kill."""
    broker = Broker(tmp_path / "data")
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def mq(broker: Broker) -> Iterator[zmqmq.Client]:
    with zmqmq.connect(broker.address, client_name="e2e") as client:
        yield client


@pytest.fixture
def topic(mq: zmqmq.Client) -> str:
    """A new topic of two partitions."""
    name = f"topic-{next(_numbers)}"
    mq.topics.create(name, partitions=2)
    return name


class TestConnecting:
    def test_a_client_is_connected_and_says_so(self, mq: zmqmq.Client) -> None:
        assert mq.state == "connected"
        assert mq.healthy()
        assert 0 < mq.ping() < SECONDS

    def test_the_broker_knows_the_clients_name(self, mq: zmqmq.Client) -> None:
        clients = [item["client"] for item in mq.describe("sessions")]

        assert any("zmqmq-python" in client and "e2e" in client for client in clients)

    def test_the_broker_is_told_when_a_client_goes(self, broker: Broker, mq: zmqmq.Client) -> None:
        def sessions() -> list[str]:
            return [item["client"] for item in mq.describe("sessions")]

        with zmqmq.connect(broker.address, client_name="short-lived"):
            assert any("short-lived" in client for client in sessions())
        eventually(lambda: not any("short-lived" in c for c in sessions()), "the session ends")

    def test_nobody_there_is_told_with_each_address(self) -> None:
        one, two = free_ports(2)

        def is_told() -> None:  # unless the last attempt was under way when the time was over
            with pytest.raises(DisconnectedError) as caught:
                zmqmq.connect(f"127.0.0.1:{one},127.0.0.1:{two}", connect_timeout_ms=700)
            assert f"127.0.0.1:{one}: refused" in str(caught.value)
            assert f"127.0.0.1:{two}: " in str(caught.value)

        until_it_holds(is_told)

    def test_a_peer_that_is_no_broker_is_told(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with pytest.raises(DisconnectedError, match="connected, but HELLO was not answered"):
                zmqmq.connect(f"127.0.0.1:{port}", connect_timeout_ms=2_500)

    def test_a_server_that_is_not_there_is_passed_over(self, broker: Broker) -> None:
        (nobody,) = free_ports(1)
        with zmqmq.connect([f"127.0.0.1:{nobody}", broker.address]) as client:
            assert client.healthy()

    def test_the_environment_names_the_servers(
        self, broker: Broker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ZMQMQ_SERVERS", f"zmqmq://{broker.address}")
        with zmqmq.connect() as client:
            assert client.healthy()

    def test_a_closed_client_does_nothing(self, broker: Broker) -> None:
        client = zmqmq.connect(broker.address)
        client.close()
        client.close()

        assert client.state == "closed"
        with pytest.raises(ClosedError):
            client.ping()
        with pytest.raises(ClosedError):
            client.producer("t")


class TestTopics:
    def test_they_are_created_listed_described_altered_and_deleted(self, mq: zmqmq.Client) -> None:
        info = mq.topics.create("life", partitions=2, config={"retention_ms": 60_000})
        assert (info.name, info.partitions, info.config["retention_ms"]) == ("life", 2, 60_000)
        assert "life" in [i.name for i in mq.topics.list()]
        with pytest.raises(ConflictError):
            mq.topics.create("life")
        assert mq.topics.create("life", if_not_exists=True).id == info.id
        with pytest.raises(ConflictError, match="2 partitions, not 3"):
            mq.topics.ensure("life", partitions=3)

        assert mq.topics.alter("life", partitions=3).partitions == 3
        described = mq.topics.describe("life")
        assert [p.partition for p in described.partitions] == [0, 1, 2]
        assert (
            mq.topics.alter("life", config={"retention_ms": None}).config["retention_ms"] > 60_000
        )
        mq.topics.delete("life")
        with pytest.raises(NotFoundError):
            mq.topics.describe("life")

    def test_an_unknown_one_is_told_at_once(self, mq: zmqmq.Client) -> None:
        with pytest.raises(NotFoundError):
            mq.producer("no-such-topic")
        with pytest.raises(NotFoundError):
            mq.consumer("no-such-topic")

    def test_internal_ones_are_shown_when_asked_for(self, mq: zmqmq.Client) -> None:
        assert not any(i.name.startswith("__") for i in mq.topics.list())
        assert any(i.name == "__offsets" for i in mq.topics.list(internal=True))


class TestProducing:
    def test_a_record_comes_back_as_it_was(self, mq: zmqmq.Client, topic: str) -> None:
        with mq.producer(topic) as producer:
            delivery = producer.send(
                b"value",
                b"key",
                headers=[("a", b"1"), ("a", b"2")],
                tag="tag",
                partition=1,
                timestamp_ms=1_234,
            )
            stored = delivery.result(SECONDS)
        (record,) = mq.consumer(topic, stop_at_end=True)

        assert (stored.topic, stored.partition, stored.offset) == (topic, 1, 0)
        assert record == (topic, 1, 0, 1_234, b"key", b"value", (("a", b"1"), ("a", b"2")), "tag")

    @pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
    @pytest.mark.parametrize("acks", [0, 1, "all"])
    def test_nothing_is_lost_or_reordered(
        self, mq: zmqmq.Client, topic: str, acks: object, compression: str
    ) -> None:
        options = {"acks": acks, "compression": compression, "batch_bytes": 2_000}
        with mq.producer(topic, **options) as producer:  # type: ignore[arg-type]
            for n in range(2_000):
                producer.send(b"%d" % n, b"%d" % (n % 10))
        if acks != "all":  # nobody said when it would be committed
            eventually(lambda: sum(mq.offsets(topic).values()) == 2_000, "all are stored")
        seen: dict[bytes | None, list[int]] = {}
        for record in mq.consumer(topic, stop_at_end=True):
            seen.setdefault(record.key, []).append(int(record.value or b""))

        assert seen == {b"%d" % k: list(range(k, 2_000, 10)) for k in range(10)}

    def test_many_are_one_handle(self, mq: zmqmq.Client, topic: str) -> None:
        values = [b"%d" % n for n in range(5_000)]
        with mq.producer(topic, batch_records=1_000) as producer:
            ranges = producer.send_many(values).result(SECONDS)
            producer.send_many(values, [b"k"] * 5_000, tag="x").result(SECONDS)
        records = list(mq.consumer(topic, stop_at_end=True))

        assert [n for _, _, n in ranges] == [1_000] * 5
        assert sorted(r.value for r in records if r.key is None) == sorted(values)
        assert [r.value for r in records if r.key == b"k"] == values
        assert {r.tag for r in records if r.key == b"k"} == {"x"}

    def test_oneway_records_arrive(self, mq: zmqmq.Client, topic: str) -> None:
        with mq.producer(topic) as producer:
            for _ in range(10):
                producer.send_oneway(b"v")
        eventually(lambda: sum(mq.offsets(topic).values()) == 10, "all are stored")

    def test_tombstones_are_none(self, mq: zmqmq.Client, topic: str) -> None:
        with mq.producer(topic) as producer:
            producer.send(None, b"k")
        (record,) = mq.consumer(topic, stop_at_end=True)

        assert record.value is None

    def test_several_topics_through_one_producer(self, mq: zmqmq.Client, topic: str) -> None:
        other = f"{topic}-other"
        mq.topics.create(other)
        with mq.producer() as producer:
            assert producer.send(b"1", topic=topic).result(SECONDS).topic == topic
            assert producer.send(b"2", topic=other).result(SECONDS).topic == other
            assert producer.send_many([b"3"] * 3, topic=other).result(SECONDS)
            with pytest.raises(NotFoundError):
                producer.send(b"4", topic="no-such-topic").result(SECONDS)

    def test_callbacks_are_called_with_the_handle(self, mq: zmqmq.Client, topic: str) -> None:
        called = threading.Event()
        handles: list[object] = []
        with mq.producer(topic) as producer:
            delivery = producer.send(b"v")
            delivery.add_done_callback(lambda d: (handles.append(d), called.set()))
            assert called.wait(SECONDS)

        assert handles == [delivery]

    def test_a_callback_that_waits_is_told_not_to(self, mq: zmqmq.Client, topic: str) -> None:
        caught: list[BaseException] = []
        called = threading.Event()
        with mq.producer(topic) as producer:

            def wait(_: object) -> None:
                for wrong in (producer.flush, mq.ping, producer.send(b"w").result):
                    try:
                        wrong()
                    except UsageError as error:
                        caught.append(error)
                called.set()

            producer.send(b"v").add_done_callback(wait)
            assert called.wait(SECONDS)

        assert len(caught) == 3

    def test_many_threads_share_a_producer(self, mq: zmqmq.Client, topic: str) -> None:
        results: list[tuple[int, int, bytes]] = []

        def work(number: int) -> None:
            for n in range(300):
                value = b"%d-%d" % (number, n)
                delivery = producer.send(value, b"%d" % number if n % 2 else None)
                if n % 50 == 0:
                    stored = delivery.result(SECONDS)
                    results.append((stored.partition, stored.offset, value))

        with mq.producer(topic, linger_ms=1) as producer:
            threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(SECONDS)
        found = {(r.partition, r.offset): r.value for r in mq.consumer(topic, stop_at_end=True)}

        assert len(found) == 1_200
        assert all(found[partition, offset] == value for partition, offset, value in results)

    def test_a_full_buffer_refuses_or_waits(self, mq: zmqmq.Client, topic: str) -> None:
        small = {"buffer_bytes": 10_000, "batch_bytes": 1_000, "linger_ms": 60_000}
        with mq.producer(topic, on_full="refuse", **small) as producer:  # type: ignore[arg-type]
            values = [b"x" * 900] * 100
            with pytest.raises(BufferFullError, match="buffer_bytes=10000"):
                producer.send_many(values)
            assert producer.pending_records == 0
        with mq.producer(topic, **small) as producer:  # type: ignore[arg-type]
            for _ in range(200):
                producer.send(b"x" * 900)
            assert producer.pending_bytes <= 10_000

    def test_a_record_that_is_too_large_is_refused_where_it_is_sent(
        self, mq: zmqmq.Client, topic: str
    ) -> None:
        with mq.producer(topic) as producer:
            assert producer.send(b"x" * 1_000_000).result(SECONDS)
            with pytest.raises(RefusedError, match="the limit is"):
                producer.send(b"x" * 1_100_000)

    def test_a_closed_producer_takes_nothing(self, mq: zmqmq.Client, topic: str) -> None:
        producer = mq.producer(topic)
        delivery = producer.send(b"v")
        producer.close()

        assert delivery.done()
        with pytest.raises(ClosedError):
            producer.send(b"v")

    def test_a_wrong_option_is_told_with_the_right_one(self, mq: zmqmq.Client, topic: str) -> None:
        with pytest.raises(ConfigError, match="did you mean 'linger_ms'"):
            mq.producer(topic, linger=5)  # type: ignore[call-arg]

    def test_partitions_added_later_are_used(self, mq: zmqmq.Client, topic: str) -> None:
        with mq.producer(topic, batch_records=1, linger_ms=0) as producer:
            producer.send(b"v").result(SECONDS)
            mq.topics.alter(topic, partitions=4)

            def partition_used() -> bool:
                return producer.send(b"v").result(SECONDS).partition == 3

            eventually(partition_used, "the new partition is used")


class TestConsuming:
    @pytest.fixture
    def filled(self, mq: zmqmq.Client, topic: str) -> str:
        """Ten records in partition 0, their values their offsets, in two batches."""
        with mq.producer(topic) as producer:
            for half in (range(5), range(5, 10)):
                producer.send_many([b"%d" % n for n in half], partition=0).result(SECONDS)
        return topic

    @pytest.mark.parametrize(
        ("start", "first"), [("start", 0), (3, 3), (-2, 8), ("@0", 0), (10, None), ("end", None)]
    )
    def test_starts(
        self, mq: zmqmq.Client, filled: str, start: str | int, first: int | None
    ) -> None:
        with mq.consumer(filled, start=start, stop_at_end=True) as consumer:
            offsets = [record.offset for record in consumer]

        assert offsets == ([] if first is None else list(range(first, 10)))

    def test_a_start_by_time(self, mq: zmqmq.Client, filled: str) -> None:
        time.sleep(0.01)
        moment = datetime.now(tz=UTC)
        time.sleep(0.01)
        with mq.producer(filled) as producer:
            producer.send(b"late", partition=0).result(SECONDS)
        with mq.consumer(filled, start=moment, stop_at_end=True) as consumer:
            assert [record.value for record in consumer] == [b"late"]

    def test_waiting_for_what_comes_later(self, mq: zmqmq.Client, filled: str) -> None:
        with mq.consumer(filled, start="end") as consumer, mq.producer(filled) as producer:
            assert consumer.fetch(max_wait_ms=10) == []
            timer = threading.Timer(0.05, lambda: producer.send(b"news"))
            timer.start()
            (record,) = consumer.fetch(max_wait_ms=WAIT)

        assert record.value == b"news"

    def test_batches_come_whole(self, mq: zmqmq.Client, filled: str) -> None:
        with mq.consumer(filled, stop_at_end=True) as consumer:
            batches = []
            while not consumer.is_finished:
                batches += consumer.fetch_batches()

        assert [b.values for b in batches] == [
            [b"0", b"1", b"2", b"3", b"4"],
            [b"5", b"6", b"7", b"8", b"9"],
        ]

    def test_seeking_about(self, mq: zmqmq.Client, filled: str) -> None:
        with mq.consumer(filled) as consumer:
            assert consumer.fetch(3, WAIT)[-1].offset == 2
            assert consumer.position(filled, 0) == 3
            consumer.seek(filled, 0, 8)
            assert [r.offset for r in consumer.fetch(10, WAIT)] == [8, 9]
            consumer.seek(filled, 0, "start")
            assert consumer.fetch(1, WAIT)[0].offset == 0
            consumer.seek(filled, 0, -1)
            assert [r.offset for r in consumer.fetch(10, WAIT)] == [9]
            assert consumer.lag() == {(filled, 0): 0, (filled, 1): 0}

    def test_a_seek_within_a_loop(self, mq: zmqmq.Client, filled: str) -> None:
        seen = []
        with mq.consumer(filled, stop_at_end=True) as consumer:
            for record in consumer:
                seen.append(record.offset)
                if len(seen) == 2:
                    consumer.seek(filled, 0, 7)

        assert seen == [0, 1, 7, 8, 9]

    def test_pausing_one_partition(self, mq: zmqmq.Client, filled: str) -> None:
        with mq.producer(filled) as producer:
            producer.send(b"other", partition=1).result(SECONDS)
        with mq.consumer(filled) as consumer:
            consumer.pause(filled, 0)
            assert [r.value for r in consumer.fetch(10, WAIT)] == [b"other"]
            consumer.resume(filled, 0)
            assert [r.offset for r in consumer.fetch(10, WAIT)] == list(range(10))

    def test_partitions_by_option_and_by_assignment(self, mq: zmqmq.Client, filled: str) -> None:
        with mq.consumer(filled, partitions=[1]) as consumer:
            assert consumer.assignment == [(filled, 1)]
            assert consumer.fetch(max_wait_ms=20) == []
            consumer.assign([(filled, 0)])
            assert consumer.assignment == [(filled, 0)]
            assert len(consumer.fetch(100, WAIT)) == 10
            with pytest.raises(UsageError):
                consumer.seek(filled, 1, 0)

    def test_a_position_beyond_the_end_is_told(self, mq: zmqmq.Client, filled: str) -> None:
        consumer = mq.consumer(filled, start=1_000, partitions=[0])
        with consumer, pytest.raises(OffsetOutOfRangeError):
            consumer.fetch(max_wait_ms=WAIT)

    def test_more_than_fits_into_the_prefetch(self, mq: zmqmq.Client, topic: str) -> None:
        with mq.producer(topic) as producer:
            producer.send_many([b"x" * 1_000] * 3_000)
        options = {"prefetch_bytes": 200_000, "fetch_bytes": 100_000}
        with mq.consumer(topic, stop_at_end=True, **options) as consumer:  # type: ignore[arg-type]
            time.sleep(0.1)
            assert consumer.machine.buffered_bytes <= 400_000
            assert sum(1 for _ in consumer) == 3_000

    def test_with_stop_at_end_nothing_means_the_end(self, mq: zmqmq.Client, topic: str) -> None:
        with mq.producer(topic) as producer:
            producer.send_many([b"x"] * 100)
        with mq.consumer(topic, stop_at_end=True, max_wait_ms=0) as consumer:
            seen = 0
            while records := consumer.fetch(7):
                seen += len(records)
            assert seen == 100
            assert consumer.fetch_batches() == []

    def test_a_consumer_that_nobody_holds_ends(self, mq: zmqmq.Client, filled: str) -> None:
        known = mq._core._consumers
        before = len(known)
        for _ in range(5):
            assert sum(1 for _ in mq.consumer(filled, stop_at_end=True)) == 10
        eventually(lambda: len(known) <= before, "they are forgotten")

    def test_offsets_of_a_topic(self, mq: zmqmq.Client, filled: str) -> None:
        assert mq.offsets(filled) == {0: 10, 1: 0}
        assert mq.offsets(filled, "start") == {0: 0, 1: 0}
        assert mq.offsets(filled, 0)[0] == 0

    def test_a_closed_consumer_reads_nothing(self, mq: zmqmq.Client, filled: str) -> None:
        consumer = mq.consumer(filled)
        consumer.close()
        with pytest.raises(ClosedError):
            consumer.fetch()


class TestGroups:
    def test_a_group_goes_on_behind_the_record_that_was_done(
        self, mq: zmqmq.Client, topic: str
    ) -> None:
        with mq.producer(topic) as producer:
            producer.send_many([b"%d" % n for n in range(10)], partition=0)
        with mq.consumer(topic, group="g1") as consumer:
            for record in consumer:
                if record.offset == 4:
                    break
        with mq.consumer(topic, group="g1") as consumer:
            assert consumer.committed(topic, 0) == 4
            assert consumer.fetch(1, WAIT)[0].offset == 4

    def test_an_explicit_commit_counts_the_record_in_hand(
        self, mq: zmqmq.Client, topic: str
    ) -> None:
        with mq.producer(topic) as producer:
            producer.send_many([b"v"] * 10, partition=0)
        with mq.consumer(topic, group="g2", auto_commit=False) as consumer:
            for _ in islice(consumer, 3):
                pass
            consumer.commit()
            assert consumer.committed(topic, 0) == 3
            consumer.commit({(topic, 0): 7})
        with mq.consumer(topic, group="g2") as consumer:
            assert consumer.fetch(1, WAIT)[0].offset == 7
        groups = {group.name: group.offsets for group in mq.groups()}
        assert groups["g2"][topic, 0] == 7

    def test_closing_does_not_go_back_behind_an_explicit_commit(
        self, mq: zmqmq.Client, topic: str
    ) -> None:
        with mq.producer(topic) as producer:
            producer.send_many([b"x"] * 10, partition=0).result(SECONDS)
        group = f"{topic}-closing"
        with mq.consumer(topic, group=group) as consumer:
            assert len(consumer.fetch(5, WAIT)) == 5
            assert len(consumer.fetch(5, WAIT)) == 5
            consumer.commit()
            consumer.commit({(topic, 0): 10})
        with mq.consumer(topic, group=group) as consumer:
            assert consumer.committed(topic, 0) == 10

    def test_automatic_commits_come_while_reading(self, mq: zmqmq.Client, topic: str) -> None:
        with mq.producer(topic) as producer:
            producer.send_many([b"v"] * 10, partition=0)
        with mq.consumer(topic, group="g3", auto_commit_ms=20) as consumer:
            for _ in islice(consumer, 5):
                pass
            eventually(lambda: consumer.committed(topic, 0) == 4, "the commit")
            time.sleep(0.1)
            assert consumer.committed(topic, 0) == 4

    def test_there_is_nothing_to_commit_without_a_group(self, mq: zmqmq.Client, topic: str) -> None:
        with mq.consumer(topic) as consumer, pytest.raises(UsageError, match="group="):
            consumer.commit()


class TestInterceptors:
    def test_they_see_what_goes_out_and_what_comes_in(self, broker: Broker, topic: str) -> None:
        seen: list[object] = []

        class Hook:
            def on_send(self, *_: object) -> tuple[bytes, bytes, dict[str, bytes]]:
                return b"key", b"changed", {"by": b"hook"}

            def on_delivery(self, delivery: zmqmq.Delivery) -> None:
                seen.append(delivery.exception())

            def on_receive(self, batch: zmqmq.RecordBatch) -> None:
                seen.append(batch.values)

        with zmqmq.connect(broker.address, interceptors=[Hook()]) as mq:
            with mq.producer(topic) as producer:
                producer.send(b"v")
            (record,) = mq.consumer(topic, stop_at_end=True)

        assert (record.key, record.value, record.headers) == (
            b"key",
            b"changed",
            (("by", b"hook"),),
        )
        assert seen == [None, [b"changed"]]


class TestTrouble:
    def test_a_broker_that_is_killed_loses_and_doubles_nothing(self, own_broker: Broker) -> None:
        with zmqmq.connect(own_broker.address) as mq:
            mq.topics.create("t", partitions=2)
            with mq.producer("t", linger_ms=1, batch_records=50) as producer:
                deliveries = []
                for n in range(6_000):
                    deliveries.append(producer.send(b"%d" % n, b"%d" % (n % 2)))
                    if n in (2_000, 4_000):
                        own_broker.kill()
                        own_broker.start()
                stored = [delivery.result(SECONDS) for delivery in deliveries]
            records = list(mq.consumer("t", stop_at_end=True))
        by_key = {k: [int(r.value or b"") for r in records if r.key == k] for k in (b"0", b"1")}

        assert by_key == {b"0": list(range(0, 6_000, 2)), b"1": list(range(1, 6_000, 2))}
        places = {(r.partition, r.offset): r.value for r in records}
        assert all(places[s.partition, s.offset] == b"%d" % n for n, s in enumerate(stored))

    def test_a_consumer_goes_on_when_the_broker_is_back(self, own_broker: Broker) -> None:
        with zmqmq.connect(own_broker.address) as mq:
            mq.topics.create("t")
            with mq.consumer("t", group="g") as consumer, mq.producer("t") as producer:
                producer.send(b"before")
                assert consumer.fetch(max_wait_ms=WAIT)[0].value == b"before"
                own_broker.kill()
                eventually(lambda: mq.state == "connecting", "the loss is noticed")
                own_broker.start()
                producer.send(b"after")
                assert consumer.fetch(max_wait_ms=WAIT)[0].value == b"after"
                consumer.commit()
                assert consumer.committed("t", 0) == 2

    def test_without_a_broker_never_sent_is_no(self, own_broker: Broker) -> None:
        with zmqmq.connect(own_broker.address) as mq:
            mq.topics.create("t")
            with mq.producer("t", delivery_timeout_ms=300, linger_ms=0) as producer:
                own_broker.kill()
                eventually(lambda: not mq.healthy(), "the loss is noticed")
                with pytest.raises(RefusedError):
                    producer.send(b"v").result(SECONDS)

    def test_a_frozen_broker_means_perhaps(self, own_broker: Broker) -> None:
        with zmqmq.connect(own_broker.address) as mq:
            mq.topics.create("t")
            with mq.producer("t", delivery_timeout_ms=4_000, linger_ms=0) as producer:
                producer.send(b"warm").result(SECONDS)
                own_broker.process.send_signal(signal.SIGSTOP)
                try:
                    with pytest.raises(TimedOutError, match="may yet be stored"):
                        producer.send(b"v").result(SECONDS)
                finally:
                    own_broker.process.send_signal(signal.SIGCONT)
                assert producer.send(b"w").exception(SECONDS) is None

    def test_closing_gives_up_after_its_time(self, own_broker: Broker) -> None:
        with zmqmq.connect(own_broker.address) as mq:
            mq.topics.create("t")
            producer = mq.producer("t", linger_ms=0)
            own_broker.kill()
            eventually(lambda: not mq.healthy(), "the loss is noticed")
            delivery = producer.send(b"v")
            with pytest.raises(TimedOutError, match="1 records"):
                producer.close(timeout=0.1)
            assert delivery.done()


class TestProcesses:
    def test_a_program_that_forgets_to_flush_is_told_and_flushed(
        self, broker: Broker, mq: zmqmq.Client, topic: str
    ) -> None:
        done = run_script(
            f"""
            import sys, zmqmq
            mq = zmqmq.connect(sys.argv[1])
            producer = mq.producer({topic!r}, linger_ms=60_000)
            for n in range(10):
                producer.send(b"v")
            """,
            broker.address,
        )

        assert done.returncode == 0, done.stderr
        assert "10 records not acknowledged" in done.stderr
        assert sum(mq.offsets(topic).values()) == 10

    def test_a_loop_that_ends_with_records_unsent_is_told(self, broker: Broker, topic: str) -> None:
        done = run_script(
            f"""
            import asyncio, sys, zmqmq.aio
            async def main():
                global mq, producer
                mq = await zmqmq.aio.connect(sys.argv[1])
                producer = await mq.producer({topic!r}, linger_ms=60_000)
                producer.send(b"v")
            asyncio.run(main())
            """,
            broker.address,
        )

        assert "1 records not acknowledged" in done.stderr

    def test_a_forked_child_cannot_use_its_parents_client(self, broker: Broker, topic: str) -> None:
        done = run_script(
            f"""
            import os, sys, zmqmq
            from zmqmq.errors import UsageError
            with zmqmq.connect(sys.argv[1]) as mq:
                producer = mq.producer({topic!r})
                producer.send(b"v")
                child = os.fork()
                if child == 0:
                    failed = 0
                    for use in (mq.ping, lambda: producer.send(b"v"), lambda: mq.consumer("t")):
                        try:
                            use()
                        except UsageError:
                            failed += 1
                    os._exit(failed)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
                print(producer.send(b"w").result(20).offset >= 0, mq.ping() > 0)
            """,
            broker.address,
        )

        assert done.stdout.split() == ["True", "True"], done.stderr

    def test_ctrl_c_ends_a_wait(self, broker: Broker, topic: str) -> None:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import sys, zmqmq; mq = zmqmq.connect(sys.argv[1])\n"
                f"with mq.consumer({topic!r}) as consumer:\n"
                "    try:\n"
                "        print('waiting', flush=True)\n"
                "        for record in consumer: pass\n"
                "    except KeyboardInterrupt:\n"
                "        print('interrupted', flush=True)\n"
                "mq.close()",
                broker.address,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)

        assert out == b"interrupted\n", err
        assert process.returncode == 0

    def test_importing_is_cheap(self) -> None:
        done = run_script(
            """
            import sys, zmqmq
            print([m for m in ("zmq", "msgpack", "asyncio", "lz4") if m in sys.modules])
            print("connect" in dir(zmqmq), zmqmq.__version__)
            """,
            "",
        )

        assert done.stdout.splitlines() == ["[]", f"True {zmqmq.__version__}"], done.stderr


class TestAsyncio:
    """The same names with await, on the caller's loop."""

    def test_producing_and_consuming(self, broker: Broker) -> None:
        async def main() -> None:
            async with await zmqmq.aio.connect(broker.address) as mq:
                assert mq.healthy()
                assert await mq.ping() > 0
                info = await mq.topics.create("aio", partitions=2)
                assert info in await mq.topics.list()
                async with mq.producer("aio") as producer:
                    one = producer.send(b"v", b"k")
                    many = producer.send_many([b"w"] * 10)
                    assert (await one).offset == 0
                    assert sum(n for _, _, n in await many) == 10
                    assert (await one).topic == "aio"
                    producer.send_oneway(b"x", b"k")
                    await producer.flush()
                while sum((await mq.offsets("aio")).values()) < 12:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)  # nobody says when it is committed
                async with mq.consumer("aio", stop_at_end=True) as consumer:
                    values = sorted([record.value async for record in consumer])
                assert values == [b"v", *[b"w"] * 10, b"x"]
                assert (await mq.topics.describe("aio")).id == info.id
                await mq.topics.delete("aio")
                with pytest.raises(NotFoundError):
                    await mq.producer("aio")

        asyncio.run(main())

    def test_groups_and_moving_about(self, broker: Broker) -> None:
        async def main() -> None:
            async with await zmqmq.aio.connect(broker.address) as mq:
                await mq.topics.ensure("aio-groups")
                producer = await mq.producer("aio-groups")
                await producer.send_many([b"%d" % n for n in range(10)])
                await producer.close()
                async with mq.consumer("aio-groups", group="aio") as consumer:
                    assert [r.offset for r in await consumer.fetch(3, WAIT)] == [0, 1, 2]
                    await consumer.commit()
                    assert await consumer.committed("aio-groups", 0) == 3
                    assert await consumer.lag() == {("aio-groups", 0): 7}
                    consumer.seek("aio-groups", 0, 8)
                    (batch,) = await consumer.fetch_batches(max_wait_ms=WAIT)
                    assert batch.values == [b"8", b"9"]
                    assert await consumer.fetch(max_wait_ms=10) == []
                    consumer.pause("aio-groups", 0)
                    consumer.resume("aio-groups", 0)
                    await consumer.assign([("aio-groups", 0)])
                    assert consumer.assignment == [("aio-groups", 0)]
                assert ("aio-groups", 0) in {k for g in await mq.groups() for k in g.offsets}

        asyncio.run(main())

    def test_a_full_buffer_is_drained(self, broker: Broker) -> None:
        async def main() -> None:
            async with await zmqmq.aio.connect(broker.address) as mq:
                await mq.topics.ensure("aio-full")
                options = {"buffer_bytes": 10_000, "batch_bytes": 2_000}
                async with mq.producer("aio-full", **options) as producer:  # type: ignore[arg-type]
                    with pytest.raises(BufferFullError):
                        producer.send_many([b"x" * 500] * 100)
                    for _ in range(100):
                        await producer.drain()
                        producer.send(b"x" * 500)

        asyncio.run(main())

    def test_waiting_can_be_cancelled_without_losing_anything(self, broker: Broker) -> None:
        async def main() -> None:
            async with await zmqmq.aio.connect(broker.address) as mq:
                await mq.topics.ensure("aio-cancel")
                async with (
                    mq.consumer("aio-cancel") as consumer,
                    mq.producer("aio-cancel", linger_ms=0) as producer,
                ):
                    seen: list[int] = []
                    for n in range(50):
                        producer.send(b"%d" % n)
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(0.0005):
                                seen += [r.offset for r in await consumer.fetch()]
                    while len(seen) < 50:
                        seen += [r.offset for r in await consumer.fetch(max_wait_ms=WAIT)]
                assert seen == list(range(50))

        asyncio.run(main())

    def test_nobody_there_is_told(self) -> None:
        async def main() -> None:
            (port,) = free_ports(1)
            with pytest.raises(DisconnectedError, match="refused"):
                await zmqmq.aio.connect(f"127.0.0.1:{port}", connect_timeout_ms=300)

        until_it_holds(lambda: asyncio.run(main()))

    def test_on_uvloop(self, broker: Broker) -> None:
        uvloop = pytest.importorskip("uvloop")

        async def main() -> int:
            async with await zmqmq.aio.connect(broker.address) as mq:
                await mq.topics.ensure("aio-uvloop")
                async with mq.producer("aio-uvloop") as producer:
                    return (await producer.send(b"v")).offset

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(main()) == 0


def test_no_thread_and_no_descriptor_is_left_behind(broker: Broker) -> None:
    def used() -> tuple[int, int]:
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    with zmqmq.connect(broker.address):
        pass
    before = used()
    for _ in range(3):
        with zmqmq.connect(broker.address) as mq:
            mq.ping()

    def is_as_before() -> None:
        assert used() <= before

    until_it_holds(is_as_before)


def test_the_example_of_the_package_runs(broker: Broker) -> None:
    text = re.sub(r"127\.0\.0\.1:5755", broker.address, zmqmq.__doc__ or "")
    code = textwrap.dedent("\n".join(ln for ln in text.splitlines() if ln.startswith("    ")))
    done = run_script(code, "")

    assert done.returncode == 0, done.stderr
    assert "b'hello'" in done.stdout
