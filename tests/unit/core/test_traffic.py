"""What a broker tells of its CPU, and of what its partitions have to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.world import World
from zmqmq.core.broker.events import Measured
from zmqmq.core.broker.traffic import BATCH_COST, SAMPLES, Traffic
from zmqmq.core.replication.partition import Partition


class Watched:
    """A broker that is measured each second, with one topic of two partitions."""

    def __init__(self) -> None:
        self.world = World()
        self.topic = self.world.topic("t", 2)
        self.client = self.world.client()
        self.cpu_ms = 0

    def run(self, seconds: int, cpu_ms: int = 0, each: Callable[[], object] = int) -> None:
        """Time goes by; in each second so much CPU is used, and something done."""
        for _ in range(seconds):
            self.client.ping(rx=1 << 40)
            each()
            self.world.advance(1_000)
            self.cpu_ms += cpu_ms
            self.world.broker.handle(self.world._now, Measured({}, self.cpu_ms * 10**6))

    def broker(self) -> dict[str, Any]:
        (found,) = self.client.describe("broker")
        return {key: found.get(key) for key in ("cpu_millicores", "work_per_s")}

    def partitions(self) -> list[list[Any]]:
        (found,) = self.client.describe("topics", names=["t"])
        keys = ("bytes_in_per_s", "bytes_out_per_s", "work_per_s", "copy_work_per_s")
        return [[p.get(key) for key in keys] for p in found["partitions"]]


def test_the_last_minute_is_told() -> None:
    it = Watched()
    size = 0

    def once() -> None:
        nonlocal size
        before = it.world.log(it.topic[0]).size_bytes
        it.client.produce(it.topic[0], b"x" * 1_000)
        size = it.world.log(it.topic[0]).size_bytes - before
        assert it.client.fetch((it.topic[0], 0), max_bytes=1).records

    it.run(300, cpu_ms=900)
    it.run(90, cpu_ms=250, each=once)

    ((in_s, out_s, work, copy), idle) = it.partitions()
    assert (in_s, out_s) == (size, size), "one batch was written and one read in each second"
    assert (work, copy) == (2 * (size + BATCH_COST), size + BATCH_COST)
    assert idle == [0, 0, 0, 0]
    assert it.broker() == {"cpu_millicores": 250, "work_per_s": work}
    it.run(70)
    assert it.broker() == {"cpu_millicores": 0, "work_per_s": 0}
    assert it.partitions() == [[0] * 4, [0] * 4]


def test_of_less_than_ten_seconds_nothing_is_told() -> None:
    it = Watched()
    it.run(9, cpu_ms=100)
    assert it.broker() == {"cpu_millicores": None, "work_per_s": None}
    assert it.partitions() == [[None] * 4] * 2

    it.run(7, cpu_ms=100)

    assert it.broker() == {"cpu_millicores": 100, "work_per_s": 0}
    assert it.partitions() == [[0] * 4] * 2


def test_a_leader_tells_what_came_to_it_as_leader() -> None:
    """What a follower has copied before, a whole partition perhaps, is not its traffic."""
    it = Watched()
    it.run(30, each=lambda: it.client.produce(it.topic[0], b"x" * 1_000))
    old = it.world.partition(it.topic[0])
    isr = old.isr
    now_ns = it.world.ns
    young = Partition("t", old.log, isr.document, 1, isr.me, old.high_watermark, now_ns)
    traffic = it.world.broker.traffic

    assert traffic.of_partition(now_ns, old)["bytes_in_per_s"] > 1_000
    assert traffic.of_partition(now_ns + 9 * 10**9, young) == {}
    assert traffic.of_partition(now_ns + 10 * 10**9, young)["bytes_in_per_s"] == 0


def test_what_is_put_down_is_bounded() -> None:
    it = Watched()
    it.run(600)
    traffic: Traffic = it.world.broker.traffic

    assert len(traffic._samples) == SAMPLES
    assert all(
        not sample.counts.keys() & {it.world.log(it.topic[1])} for sample in traffic._samples
    )
