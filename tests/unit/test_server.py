"""The shell around the broker: when it ticks, and how it stops."""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path

import pytest

from tests.hostile.raw import RawClient
from zmqmq.runtime.os_disk import OSFile
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
                time.sleep(0.6)  # drained for 0.2 s, and let go of everything
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
