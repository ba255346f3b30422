"""The client against a real broker process: what docs/client.md promises, blocking and asyncio.

What the machines decide in each case is in tests/unit/client; here sockets, threads, processes
and the broker's answers are the real ones.
"""

from __future__ import annotations

import socket
import threading

import pytest

import zmqmq
from tests.e2e.client_broker import SECONDS, eventually
from tests.e2e.command_line import until_it_holds
from tests.support.etcd_process import free_ports
from zmqmq.errors import (
    BufferFullError,
    ClosedError,
    ConfigError,
    ConflictError,
    DisconnectedError,
    NotFoundError,
    RefusedError,
    UsageError,
)


class TestConnecting:
    def test_a_client_is_connected_and_says_so(self, mq: zmqmq.Client) -> None:
        assert mq.state == "connected"
        assert mq.healthy()
        assert 0 < mq.ping() < SECONDS

    def test_the_broker_knows_the_clients_name(self, mq: zmqmq.Client) -> None:
        clients = [item["client"] for item in mq.describe("sessions")]

        assert any("zmqmq-python" in client and "e2e" in client for client in clients)

    def test_the_broker_is_told_when_a_client_goes(self, servers: str, mq: zmqmq.Client) -> None:
        def sessions() -> list[str]:
            return [item["client"] for item in mq.describe("sessions")]

        with zmqmq.connect(servers, client_name="short-lived"):
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

    def test_a_server_that_is_not_there_is_passed_over(self, servers: str) -> None:
        (nobody,) = free_ports(1)
        with zmqmq.connect([f"127.0.0.1:{nobody}", servers]) as client:
            assert client.healthy()

    def test_the_environment_names_the_servers(
        self, servers: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ZMQMQ_SERVERS", f"zmqmq://{servers}")
        with zmqmq.connect() as client:
            assert client.healthy()

    def test_a_closed_client_does_nothing(self, servers: str) -> None:
        client = zmqmq.connect(servers)
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


class TestInterceptors:
    def test_they_see_what_goes_out_and_what_comes_in(self, servers: str, topic: str) -> None:
        seen: list[object] = []

        class Hook:
            def on_send(self, *_: object) -> tuple[bytes, bytes, dict[str, bytes]]:
                return b"key", b"changed", {"by": b"hook"}

            def on_delivery(self, delivery: zmqmq.Delivery) -> None:
                seen.append(delivery.exception())

            def on_receive(self, batch: zmqmq.RecordBatch) -> None:
                seen.append(batch.values)

        with zmqmq.connect(servers, interceptors=[Hook()]) as mq:
            with mq.producer(topic) as producer:
                producer.send(b"v")
            (record,) = mq.consumer(topic, stop_at_end=True)

        assert (record.key, record.value, record.headers) == (
            b"key",
            b"changed",
            (("by", b"hook"),),
        )
        assert seen == [None, [b"changed"]]
