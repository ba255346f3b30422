"""What a broker does now and then: nobody goes without because of another."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from zmqmq.config.load import load
from zmqmq.core.broker.events import OpenLog
from zmqmq.core.storage.data_directory import (
    QUARANTINE_FOLDER,
    read_checkpoints,
    write_checkpoints,
)
from zmqmq.core.storage.log import Log, LogKey
from zmqmq.core.storage.recovery import Checkpoint
from zmqmq.errors import DiskFullError
from zmqmq.model.topics import TopicConfig
from zmqmq.runtime.main import RunningBroker
from zmqmq.runtime.os_disk import OSDisk
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
                    producer.send(bytes(3_000)).result(30)
        monkeypatch.setattr(Log, "_allocate", refuse)
        end = time.monotonic() + 60
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
                producer.send(b"x").result(30)
            asyncio.run(asyncio.sleep(0.1))
    with Broker(tmp_path, settings) as broker, broker.connect() as mq:
        assert mq.offsets("t", "end") == {0: 5}
    assert not [*tmp_path.glob("*.tmp")]


def test_a_copy_that_is_put_aside_waits_for_the_checkpoint_that_is_being_written(
    tmp_path: Path,
) -> None:
    """Two writers of one file; and the later one would bring back what the log no longer has."""
    key = LogKey(b"of a topic gone.", 0)
    disk = OSDisk(tmp_path)
    flags = {"broker.bind": "127.0.0.1:0", "broker.data_dir": str(tmp_path)}

    async def put_aside() -> None:
        async with RunningBroker(load(None, {}, flags).config) as running:
            damaged = tmp_path / key.folder
            damaged.mkdir(parents=True)
            (damaged / "00000000000000000000.log").write_bytes(b"damaged")
            housekeeping = running.server._housekeeping
            housekeeping.checkpoints[key.folder] = Checkpoint(recovery_point=9)
            await housekeeping.write()
            assert read_checkpoints(disk)[key.folder].recovery_point == 9
            async with housekeeping._writing:
                running.server._carry_out([OpenLog(key, "t/0", TopicConfig(), quarantine=True)])
                for _ in range(3_000):
                    if not damaged.exists():
                        break
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
                assert key.folder in read_checkpoints(disk)
                assert not damaged.exists(), "it is opened only without the old checkpoint"
            for _ in range(3_000):
                if key.folder not in read_checkpoints(disk):
                    break
                await asyncio.sleep(0.01)
            assert key.folder not in read_checkpoints(disk)

    asyncio.run(put_aside())
    aside = tmp_path / QUARANTINE_FOLDER / key.folder.rpartition("/")[2]
    assert [file.read_bytes() for file in aside.iterdir()] == [b"damaged"]


def test_a_full_disk_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, and once more when there is room again: a follower has nobody else to tell."""
    free = 1_000_000
    monkeypatch.setattr(OSDisk, "room", lambda _: {"disk_free_bytes": free})
    monkeypatch.setattr("zmqmq.runtime.server.MEASURE_NS", 1)

    def said() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.name == "zmqmq.housekeeping"]

    def wait_for(count: int) -> None:
        end = time.monotonic() + 60
        while len(said()) < count:
            assert time.monotonic() < end, said()
            time.sleep(0.05)

    with caplog.at_level("WARNING"), Broker(tmp_path, {"storage.free_bytes_min": "2MB"}):
        wait_for(1)
        free = 30_000_000
        wait_for(2)
        time.sleep(0.5)
    full, again = said()
    assert "the disk has 1000000 bytes left and storage.free_bytes_min is 2000000" in full
    assert again == "the disk has room again: 30000000 bytes"


def test_a_stop_leaves_the_checkpoint_file_to_one_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was under way goes on in its thread while another one, of a log that is cut, wants
    to write: both would have the same scratch file, and the older rows could be the last."""
    writes, works = threading.Event(), threading.Event()
    writers: list[int] = []
    most: list[int] = []

    def write_slowly(disk: OSDisk, rows: dict[str, Checkpoint]) -> None:
        writers.append(1)
        most.append(len(writers))
        writes.set()
        assert works.wait(30)
        write_checkpoints(disk, rows)
        writers.pop()

    async def work() -> None:
        flags = {"broker.bind": "127.0.0.1:0", "broker.data_dir": str(tmp_path)}
        async with RunningBroker(load(None, {}, flags).config) as running:
            housekeeping = running.server._housekeeping
            monkeypatch.setattr("zmqmq.runtime.housekeeping.write_checkpoints", write_slowly)
            housekeeping._tasks.append(asyncio.create_task(housekeeping.write()))
            assert await asyncio.to_thread(writes.wait, 30)
            stopping = asyncio.create_task(housekeeping.stop())
            cutting = asyncio.create_task(housekeeping.discard("logs/x"))
            await asyncio.sleep(0.3)
            works.set()
            await stopping
            await cutting

    asyncio.run(work())
    assert max(most) == 1
