"""A hundred subscribers of one partition, of which some stand still, some are slow and some lose
what is sent to them: each gets every record once and in order, and the disk is read by none."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import zmqmq
from tests.e2e.command_line import start_broker, stop
from tests.support.etcd_process import free_ports
from tests.support.lossy_push import LossyPush

SECONDS = 220
pytestmark = pytest.mark.timeout(300)
RECORDS = 1_500
SIZES = [10, 300, 3_000, 10_000]
LOST = 0.02
PAUSE_MS = 150
"""Of the slow ones after each fetch: produced is faster."""
COLD_MAX = 10
COLD_SHARE = 0.05
"""Of the reads. The kernel does not always tell what it has in memory, while pages are written in
particular; what it then reads from the disk is nothing."""
READ_MAX = 1_000_000
"""Bytes; the topic has five times as many, and each reader reads all of them."""


@contextmanager
def readers(
    address: str, topic: str, count: int, mode: str = "push", pause: int = 0, records: int = RECORDS
) -> Iterator[subprocess.Popen[str]]:
    """A process with so many consumers, which are connected."""
    words = [address, topic, str(count), str(records), mode, str(pause)]
    command = [sys.executable, "-m", "tests.e2e.fan_out_readers", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[str], count: int) -> None:
    """All of its consumers had everything."""
    out, _ = process.communicate(timeout=SECONDS)
    assert out == f"{count}\n"


def measures(mq: zmqmq.Client, broker: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What the broker says, and what the kernel says that it read from a disk."""
    io = Path(f"/proc/{broker.pid}/io").read_text().split()
    return {**mq.describe("broker")[0], "read_from_disk": int(io[io.index("read_bytes:") + 1])}


def check_disk(before: dict[str, Any], after: dict[str, Any]) -> None:
    """As good as nothing was read from it."""
    grown = {name: after[name] - before[name] for name in ("cold_reads", "shared_reads")}
    assert grown["cold_reads"] < COLD_MAX + COLD_SHARE * grown["shared_reads"], grown
    assert after["read_from_disk"] - before["read_from_disk"] < READ_MAX


def produce(mq: zmqmq.Client, topic: str, records: int = RECORDS, pace: float = 0.006) -> None:
    """At a pace at which a small machine follows, with bursts in between."""
    chance = random.Random(1)
    with mq.producer(topic, linger_ms=0) as producer:
        for number in range(records):
            producer.send(b"%d " % number + bytes(chance.choice(SIZES)))
            if chance.random() < 0.7:
                time.sleep(pace)
        producer.flush()


def stall(process: subprocess.Popen[str], over: threading.Event) -> None:
    """It stands still for a second, and goes on for half of one."""
    while not over.wait(0.5):
        process.send_signal(signal.SIGSTOP)
        over.wait(1)
        process.send_signal(signal.SIGCONT)


def test_a_hundred_subscribers(tmp_path: Path) -> None:
    told, bound = free_ports(2)
    ports = "--bind-push", f"127.0.0.1:{bound}", "--advertise-push", f"127.0.0.1:{told}"
    broker, address = start_broker(tmp_path / "data", *ports)
    over = threading.Event()
    with (
        LossyPush(told, bound, LOST) as lossy,
        zmqmq.connect(address) as mq,
    ):
        mq.topics.create("t", 1)
        with (
            readers(address, "t", 60) as fast,
            readers(address, "t", 20) as stalled,
            readers(address, "t", 20, pause=PAUSE_MS) as slow,
        ):
            before = measures(mq, broker)
            stalling = threading.Thread(target=stall, args=(stalled, over))
            stalling.start()
            try:
                produce(mq, "t")
            finally:
                over.set()
                stalling.join()
            for process, count in (fast, 60), (stalled, 20), (slow, 20):
                finish(process, count)
        after = measures(mq, broker)
    assert stop(broker) == 0
    print(  # noqa: T201
        f"{after['pushes'] - before['pushes']} published, {lossy.passed} delivered, "
        f"{lossy.lost} lost; {after['bytes_in'] - before['bytes_in']} bytes in, "
        f"{after['bytes_out'] - before['bytes_out']} fetched, {after['shared_reads']} shared reads"
    )
    assert lossy.lost > 0
    assert lossy.passed > 20 * (after["pushes"] - before["pushes"]), "most of it was published"
    check_disk(before, after)
    assert after["shared_reads"] > before["shared_reads"]


def test_consumers_that_pull_at_the_same_position_share_reads(tmp_path: Path) -> None:
    broker, address = start_broker(tmp_path / "data")
    with zmqmq.connect(address) as mq:
        mq.topics.create("t", 1)
        produce(mq, "t", pace=0)
        before = measures(mq, broker)
        with readers(address, "t", 20, mode="pull") as all_of_them:
            finish(all_of_them, 20)
        after = measures(mq, broker)
    assert stop(broker) == 0
    read = after["bytes_out"] - before["bytes_out"]
    assert read >= 20 * before["bytes_in"]
    assert after["shared_reads"] - before["shared_reads"] >= 10
    assert 0 < after["read_cache_bytes"] <= 32 << 20
    check_disk(before, after)
