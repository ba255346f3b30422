"""What a broker does now and then: nobody goes without because of another."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from zmqmq.core.storage.log import Log
from zmqmq.errors import DiskFullError
from zmqmq.testing import Broker

SETTINGS = {
    "storage.retention_check_ms": "100",
    "storage.checkpoint_ms": "100",
    "storage.free_bytes_min": "0",
}


def segments(folder: Path) -> int:
    return len([*folder.glob("logs/*/*.log")])


def test_a_partition_that_cannot_roll_takes_retention_from_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The disk is full when retention is wanted most: it must go on for all, and the segment that is
    old must not need room of its own to be ended.
    """
    full = Log._allocate

    def refuse(*_: object) -> None:
        raise DiskFullError("no room")

    with Broker(tmp_path, SETTINGS) as broker, broker.connect() as mq:
        config = {"segment_bytes": "4096", "retention_ms": "300", "segment_ms": "100"}
        for name in ("one", "two"):
            mq.topics.create(name, config=config)
            with mq.producer(name) as producer:
                for _ in range(8):
                    producer.send(bytes(3_000)).result(10)
        monkeypatch.setattr(Log, "_allocate", refuse)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            starts = [mq.offsets(name, "start")[0] for name in ("one", "two")]
            if starts == [8, 8]:
                break
            time.sleep(0.05)
        monkeypatch.setattr(Log, "_allocate", full)

        assert starts == [8, 8]


def test_a_stop_waits_for_what_is_being_written(tmp_path: Path) -> None:
    """Two writers of one checkpoint file would leave neither's content."""
    settings = {**SETTINGS, "storage.checkpoint_ms": "100"}
    for _ in range(5):
        with Broker(tmp_path, settings) as broker, broker.connect() as mq:
            mq.topics.create("t", if_not_exists=True)
            with mq.producer("t") as producer:
                producer.send(b"x").result(10)
            asyncio.run(asyncio.sleep(0.1))
    with Broker(tmp_path, settings) as broker, broker.connect() as mq:
        assert mq.offsets("t", "end") == {0: 5}
    assert not [*tmp_path.glob("*.tmp")]
