"""Schedules about partitions of which nobody vouches for everything any more: the recovery election
(D8, D9). The controllers are the real ones here."""

from __future__ import annotations

from tests.sim.driven import Driven
from zmqmq.core.replication.follower import Follower


def test_a_recovery_waits_for_every_last_member() -> None:
    """1 forgets a record with its power, 2 and 3 have it and are fenced. Nobody who is here
    vouches.

    2 and 3 may come back with everything, so nobody is elected without them (D8)."""
    d = Driven(flush="replicated")
    d.send_acked()
    d.run(0.1)
    d.hold_flushes(1)
    d.send_acked()
    d.fence(2, 3)
    d.power_cut(1)
    d.settle()
    d.restart(1)
    assert d.end(1) == 1
    d.begin_control()
    d.run(15)
    assert d.document.leader is None
    d.finish()
    assert not d.invariants.losses


def test_a_recovery_takes_the_longest_log() -> None:
    """All lose their power; 1 has lost a record, 2 and 3 had flushed it.

    The mode is `replicated`, so nobody vouches; but the longest log of all that were there last
    has everything (D8)."""
    d = Driven(flush="replicated")
    d.send_acked()
    d.run(0.1)
    d.hold_flushes(1)
    d.send_acked()
    d.run(0.1)
    d.power_cut(1, 2, 3)
    d.settle()
    d.restart(1, 2, 3)
    assert [d.end(i) for i in (1, 2, 3)] == [1, 2, 2]
    d.finish()
    assert d.document.rec > 0


def test_a_recovery_is_among_the_last_members() -> None:
    """3 has led an epoch, written a record that nobody else got, and is out. A record of an older
    epoch is committed then by 1 and 2, and all lose their power (Raft's figure 8).

    The log of 3 has the higher last epoch, and not the record: it is no member (D8)."""
    d = Driven(flush="replicated")
    d.send_acked()
    apart = d.separate(1, 2)
    d.separate(1, 3)
    sent = d.send()
    d.until(lambda: d.end(1) == 2, "1 has one more")
    d.blind(1, 2)
    d.elect(3)
    d.until(lambda: d.is_leading(3), "3 leads")
    d.separate(3, 1, 2)
    loose = d.hand("loose", [3], acks=1)
    lost = loose.send()
    d.until(lambda: lost.outcome, "3 has written one")
    d.fence(3)
    d.elect(1, isr=[1, 2])
    apart.lose()
    d.see(1, 2)
    d.until(lambda: sent.is_acked, "1 has committed its record with 2")
    assert d.batches(1) == [(d.epoch, 0), (d.epoch, 1)]
    d.run(0.1)
    assert d.batches(3) == [(d.epoch, 0), (d.epoch + 1, 1)]

    d.power_cut(1, 2, 3)
    d.settle()
    d.restart(1, 2, 3)
    d.finish()


def test_after_a_recovery_a_copy_shows_nothing_before_it_has_heard_of_the_leader() -> None:
    """1 and 2 lose a committed record with their power, and go on with another one. 3, which was
    out, has the old one and knew it to be committed.

    It shows nothing before its leader has said that its log is a prefix of its own (D9)."""
    d = Driven(flush="replicated")
    d.send_acked()
    d.run(0.1)
    d.hold_flushes(1, 2)
    d.send_acked()
    d.run(0.6)
    assert d.high_watermark(3) == 2
    d.fence(3)
    d.settle()
    d.separate(1, 3)
    d.power_cut(1, 2)
    d.settle()
    d.restart(1, 2)
    d.begin_control()
    d.until(lambda: d.document.rec, "somebody leads")
    leader = d.document.leader
    assert leader is not None
    apart = d.separate(leader.broker_id, 3)
    d.let_register(3)
    d.until(lambda: isinstance(d.role(3), Follower), "3 follows")
    assert d.high_watermark(3) == 0
    sent = d.hand("p2").send()
    d.until(lambda: sent.is_acked, "another record is committed")
    apart.lose()
    d.heal()
    d.until(lambda: d.batches(3) == d.batches(1) and d.isr == [1, 2, 3], "3 has what they have")


def test_a_copy_may_begin_behind_everything_that_an_unclean_election_leaves() -> None:
    """Only the leader gets records, and retention removes all that others have too. An unclean
    election gives the partition to 2. The old leader comes back as its follower.

    It shows nothing: its high watermark cannot be below where its log begins, and is no more."""
    d = Driven(min_isr=1, config={"segment_bytes": 4096, "retention_bytes": 8192})
    d.send_acked(bytes(1_000))
    d.until(lambda: d.high_watermark(2) == 1, "2 knows what is committed")
    apart = d.separate(1, 2, 3)
    d.leave_isr(2, 3)
    for _ in range(30):
        d.send_acked(bytes(1_000))
    d.until(lambda: d.log(1).start_offset > 1, "retention has removed the first records")
    d.fence(1)
    d.elect_uncleanly(2)
    d.until(lambda: d.is_leading(2), "2 leads")
    gate = d.separate(2, 1)
    d.let_register(1)
    d.until(lambda: isinstance(d.role(1), Follower), "1 follows")
    assert d.high_watermark(1) == d.log(1).start_offset
    apart.lose()
    gate.lose()
    d.until(lambda: d.batches(1) == d.batches(2), "1 has what 2 has")


def test_a_stop_that_could_not_flush_is_none_that_vouches() -> None:
    """Seed 19074. Under `replicated` the only copy has acknowledged what its disk then refuses; the
    broker is stopped in good order, and loses its power.

    Its entry counts only after a clean stop (D6), and this was none: the loss is flagged (D8)."""
    d = Driven(brokers=1, flush="replicated", min_isr=1)
    d.send_acked()
    d.hosts[1].disk.fail("sync", count=1_000, end=".log")
    d.run(0.2)
    d.stop(1)
    d.hosts[1].disk.mend()
    d.power_cut(1)
    d.restart(1)
    d.settle()
    assert d.document.leader is None
    d.begin_control()
    d.until(lambda: d.document.leader is not None, "the only copy leads again")
    assert d.document.rec == d.document.leader_epoch
