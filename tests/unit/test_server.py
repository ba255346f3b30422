"""The shell around the broker: when it ticks, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.raw import RawClient
from zmqmq.config.load import load
from zmqmq.core.broker.events import DeleteLog, Halt, OpenLog, Ticked
from zmqmq.core.storage.data_directory import read_format
from zmqmq.core.storage.log import LogKey
from zmqmq.errors import DiskFullError, HaltedError, StorageError
from zmqmq.model.topics import TopicConfig
from zmqmq.runtime.main import RunningBroker
from zmqmq.runtime.os_disk import OSDisk, OSFile
from zmqmq.runtime.server import Server
from zmqmq.testing import Broker

SETTINGS = {"storage.flusher": "threads"}


@pytest.mark.timeout(60)
def test_a_flush_that_ends_after_the_sockets_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """
    The disk took longer than a stop waits. The acknowledgement has no way to go any more, and the
    record is there after the next start all the same.
    """
    monkeypatch.setattr("zmqmq.runtime.server.DRAIN_S", 0.2)
    closed = threading.Event()
    disconnect = Server._disconnect

    def disconnect_and_say(server: Server) -> None:
        disconnect(server)
        closed.set()

    monkeypatch.setattr(Server, "_disconnect", disconnect_and_say)
    works = threading.Event()
    syncs = threading.Event()
    sync = OSFile.sync

    def wait_and_sync(file: OSFile) -> None:
        if file.path.endswith(".log"):
            syncs.set()
            assert works.wait(30)
        sync(file)

    with Broker(tmp_path, SETTINGS) as broker:
        with broker.connect() as mq:
            mq.topics.create("orders")
            monkeypatch.setattr(OSFile, "sync", wait_and_sync)
            with mq.producer("orders", delivery_timeout_ms=3_000) as producer:
                waiting = producer.send(b"one")
                assert syncs.wait(10)
                stopping = threading.Thread(target=broker.stop)
                stopping.start()
                assert closed.wait(20), "the sockets were not closed"
                works.set()
                stopping.join(20)
                assert not stopping.is_alive()
                assert waiting.exception(10) is not None, "nobody was there to acknowledge it"
        wrong = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
        assert not wrong, wrong
        broker.start()
        with broker.connect() as mq:
            assert [record.value for record in mq.consumer("orders", stop_at_end=True)] == [b"one"]


def test_long_polls_are_answered_when_they_end(tmp_path: Path) -> None:
    """They do not wait for the next look at the clocks, which is up to 100 ms away."""
    with Broker(tmp_path) as broker, RawClient(broker.endpoint) as client:
        topic = client.make_topic("orders")
        took = []
        for _ in range(15):
            began = time.monotonic()
            assert client.fetch(topic, 0, max_wait_ms=10)[1] == []
            took.append(time.monotonic() - began)
    assert 0.01 <= statistics.median(took) < 0.04, took


KEY = LogKey(b"of a topic gone.", 0)


def running(folder: Path) -> RunningBroker:
    flags = {"broker.bind": "127.0.0.1:0", "broker.data_dir": str(folder)}
    return RunningBroker(load(None, {}, flags).config)


def test_nothing_is_begun_after_an_end_without_a_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the store still tells while it is closed may ask the disk for something."""

    async def work() -> None:
        broker = running(tmp_path)
        await broker.__aenter__()
        broker.server.abort()
        broker.server._carry_out(
            [OpenLog(KEY, "t/0", TopicConfig(), quarantine=False), DeleteLog(KEY)]
        )
        await broker._stack.aclose()
        await asyncio.sleep(0.1)

    asyncio.run(work())
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_a_broker_that_has_halted_can_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a test of somebody's: it told of a closed loop, and its directory stayed in use."""
    servers: list[Server] = []
    start = Server.start

    async def start_and_say(server: Server) -> None:
        servers.append(server)
        await start(server)

    monkeypatch.setattr(Server, "start", start_and_say)
    broker = Broker(tmp_path).start()
    assert broker._loop is not None
    assert broker._thread is not None
    halt = [Halt("the disk of t/0 has failed")]
    broker._loop.call_soon_threadsafe(servers[0]._carry_out, halt)
    broker._thread.join(30)
    with pytest.raises(HaltedError, match="t/0"):
        broker.stop()
    with broker, broker.connect() as client:
        client.ping()


def halt(broker: RunningBroker, patch: pytest.MonkeyPatch) -> None:
    del patch
    broker.server._carry_out([Halt("the disk of t/0 has failed")])


def be_wrong(broker: RunningBroker, patch: pytest.MonkeyPatch) -> None:
    def handle(*_: object) -> None:
        raise AssertionError("an invariant of t/0")

    with patch.context() as once, contextlib.suppress(AssertionError):
        once.setattr(broker.server._broker, "handle", handle)
        broker.server._feed(Ticked())


def lose_the_checkpoints(broker: RunningBroker, patch: pytest.MonkeyPatch) -> None:
    del broker
    patch.setattr("zmqmq.runtime.housekeeping.write_checkpoints", full)


def lose_the_format(broker: RunningBroker, patch: pytest.MonkeyPatch) -> None:
    del broker
    patch.setattr("zmqmq.runtime.disk_work.write_format", full)


def full(*_: object) -> None:
    raise DiskFullError("no room for what t/0 is to say")


@pytest.mark.parametrize("trouble", [halt, be_wrong, lose_the_checkpoints, lose_the_format])
def test_a_stop_ends_with_what_broke_meanwhile(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trouble: Callable[[RunningBroker, pytest.MonkeyPatch], None],
) -> None:
    """
    And is no clean one: nobody vouches for what is left. The directory is free again, and nothing
    is left for asyncio to say.
    """

    async def work() -> None:
        broker = running(tmp_path)
        await broker.__aenter__()
        with monkeypatch.context() as patch:
            trouble(broker, patch)
            with pytest.raises((AssertionError, StorageError), match="t/0"):
                await broker.__aexit__(None, None, None)
        form = read_format(OSDisk(tmp_path))
        assert form is not None
        assert form.clean_epoch is None
        assert broker.server._context.closed
        async with running(tmp_path):
            pass

    asyncio.run(work())
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]
