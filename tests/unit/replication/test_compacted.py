"""A follower that copies a log whose leader has compacted it."""

from __future__ import annotations

from tests.support.replicas import KEY, OPTIONS, PLACE, Broker, Cluster
from zmqmq.batch.encode import encode_batch
from zmqmq.core.storage.compaction import Compaction, plan_compaction
from zmqmq.model.topics import TopicConfig


def put(broker: Broker, key: bytes) -> None:
    """Append one record with a key."""
    value = bytes(range(200))
    broker.leading.append(1_000, encode_batch(KEY.seed, [value], keys=[key], timestamp_ms=1), 1)
    broker.flush()
    broker.sessions.mark(PLACE)


def test_f4_a_compacted_batch_reaches_over_no_other_epoch() -> None:
    # Otherwise a follower that ends with it is told that the logs have parted, cuts it off, and
    # asks for it again, for ever.
    c = Cluster(2, isr=[1], min_isr=1)
    for broker in c.brokers.values():
        broker.log.config = TopicConfig(cleanup="compact", segment_bytes=4096)
    leader = c.brokers[1]
    put(leader, b"b")
    c.change(1, leader_epoch=4)
    for keys in ((b"a", b"d"), (b"a",)):
        for key in keys:
            put(leader, key)
        leader.log.roll()
        leader.flush()
    put(leader, b"c")
    leader.leading.advance()
    leader.log.note_checkpoint(leader.log.recovery_point, leader.leading.high_watermark)
    plan = plan_compaction(leader.log, 10**9, leader.leading.high_watermark, 0)
    assert plan is not None
    compaction = Compaction(leader.disk, KEY, plan, OPTIONS)
    compaction.install(leader.log, compaction.run(leader.log.segment_bytes))
    leader.flush()
    c.see(2)

    for _ in range(6):
        c.fetch(2, max_bytes=200)

    follower = c.brokers[2].log
    assert follower.end_offset == leader.log.end_offset == 5
    assert follower.epochs.snapshot() == leader.log.epochs.snapshot()
