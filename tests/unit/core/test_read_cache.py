"""What was read last is shared, and forgotten when it may be something else."""

from __future__ import annotations

from tests.support.world import World
from tests.unit.core.test_fetch import cold_world, world_with
from zmqmq.core.broker.options import ServingOptions
from zmqmq.model.limits import MIB


def test_what_was_read_before_a_cut_is_not_shown_after_it() -> None:
    world, t = cold_world(b"old")
    asked = world.client().fetch(t)
    log = world.log(t)
    world.broker.replicas.by_log[log].role = None
    log.rewinds += 1
    world.end_cold_read()
    assert asked.outcome == ["NOT_LEADER"]
    assert world.broker.cache.find(log, 0, MIB, 1) is None


def test_a_log_that_is_deleted_is_not_kept() -> None:
    world, t = world_with(b"a")
    client = world.client()
    client.fetch(t)
    assert client.describe("broker")[0]["read_cache_bytes"] > 0
    client.delete("t")
    world.advance(5_000)
    assert client.describe("broker")[0]["read_cache_bytes"] == 0


def test_small_pieces_count_with_what_they_take() -> None:
    world = World(serving=ServingOptions(offsets_partitions=1, read_cache_bytes=10_000))
    t = world.topic("t")
    client = world.client()
    for offset in range(100):
        client.produce(t, b"x")
        client.fetch((t, offset))
    assert 0 < client.describe("broker")[0]["read_cache_bytes"] <= 10_000
    assert len(world.broker.cache._chunks) < 20
