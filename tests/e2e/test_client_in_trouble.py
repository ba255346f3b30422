"""The client when brokers die or freeze, in threads, processes and event loops that end."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import zmqmq
import zmqmq.aio
from tests.e2e.client_broker import SECONDS, WAIT, Broker, eventually, run_script
from tests.e2e.command_line import until_it_holds
from tests.support.etcd_process import free_ports
from zmqmq.errors import (
    BufferFullError,
    DisconnectedError,
    NotFoundError,
    RefusedError,
    TimedOutError,
)


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
        self, servers: str, mq: zmqmq.Client, topic: str
    ) -> None:
        done = run_script(
            f"""
            import sys, zmqmq
            mq = zmqmq.connect(sys.argv[1])
            producer = mq.producer({topic!r}, linger_ms=60_000)
            for n in range(10):
                producer.send(b"v")
            """,
            servers,
        )

        assert done.returncode == 0, done.stderr
        assert "10 records not acknowledged" in done.stderr
        assert sum(mq.offsets(topic).values()) == 10

    def test_a_loop_that_ends_with_records_unsent_is_told(self, servers: str, topic: str) -> None:
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
            servers,
        )

        assert "1 records not acknowledged" in done.stderr

    def test_a_forked_child_cannot_use_its_parents_client(self, servers: str, topic: str) -> None:
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
            servers,
        )

        assert done.stdout.split() == ["True", "True"], done.stderr

    def test_ctrl_c_ends_a_wait(self, servers: str, topic: str) -> None:
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
                servers,
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

    def test_producing_and_consuming(self, servers: str) -> None:
        async def main() -> None:
            async with await zmqmq.aio.connect(servers) as mq:
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

    def test_groups_and_moving_about(self, servers: str) -> None:
        async def main() -> None:
            async with await zmqmq.aio.connect(servers) as mq:
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

    def test_a_full_buffer_is_drained(self, servers: str) -> None:
        async def main() -> None:
            async with await zmqmq.aio.connect(servers) as mq:
                await mq.topics.ensure("aio-full")
                options = {"buffer_bytes": 10_000, "batch_bytes": 2_000}
                async with mq.producer("aio-full", **options) as producer:  # type: ignore[arg-type]
                    with pytest.raises(BufferFullError):
                        producer.send_many([b"x" * 500] * 100)
                    for _ in range(100):
                        await producer.drain()
                        producer.send(b"x" * 500)

        asyncio.run(main())

    def test_waiting_can_be_cancelled_without_losing_anything(self, servers: str) -> None:
        async def main() -> None:
            async with await zmqmq.aio.connect(servers) as mq:
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

    def test_on_uvloop(self, servers: str) -> None:
        uvloop = pytest.importorskip("uvloop")

        async def main() -> int:
            async with await zmqmq.aio.connect(servers) as mq:
                await mq.topics.ensure("aio-uvloop")
                async with mq.producer("aio-uvloop") as producer:
                    return (await producer.send(b"v")).offset

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(main()) == 0


def test_no_thread_and_no_descriptor_is_left_behind(servers: str) -> None:
    def used() -> tuple[int, int]:
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    with zmqmq.connect(servers):
        pass
    before = used()
    for _ in range(3):
        with zmqmq.connect(servers) as mq:
            mq.ping()

    def is_as_before() -> None:
        assert used() <= before

    until_it_holds(is_as_before)


def test_the_example_of_the_package_runs(servers: str) -> None:
    text = re.sub(r"127\.0\.0\.1:5755", servers, zmqmq.__doc__ or "")
    code = textwrap.dedent("\n".join(ln for ln in text.splitlines() if ln.startswith("    ")))
    done = run_script(code, "")

    assert done.returncode == 0, done.stderr
    assert "b'hello'" in done.stdout
