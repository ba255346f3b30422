"""Schedules about who is in sync, and what waits for whom (replication.md 9). What they have to do
with one another, and where the others are, stands in tests/sim/test_schedules.py."""

from __future__ import annotations

from tests.sim.driven import Driven
from zmqmq.core.replication.proposals import JOIN_WAIT_NS
from zmqmq.model.names import OFFSETS_TOPIC
from zmqmq.sim.disk import SimDisk
from zmqmq.sim.node import MS, SECOND


def test_schedule_04_kafka_7128_nobody_joins_a_leader_below_where_its_epoch_began() -> None:
    """1 and 2 have a record that 2 does not know to be committed. 2 leads; 3, which is out of the
    ISR, reaches the high watermark of 2. 2 dies, and 3 would be elected without the record.

    3 joins when it has all that 2 had when its epoch began (L7)."""
    d = Driven()
    d.send_acked()
    d.leave_isr(3)
    d.separate(1, 3)
    d.send_acked()
    assert (d.high_watermark(2), d.end(2), d.end(3)) == (1, 2, 1)

    d.fence(1)
    d.settle()
    assert d.isr == [2]
    d.separate(2, 1)
    d.hold_replies(2, 3)
    d.until(lambda: d.is_leading(2), "2 leads")
    d.never(lambda: 3 in d.isr, "3 is in the ISR", 2)

    d.kill(2)
    d.settle()
    d.run(0.5)
    d.finish()


def test_schedule_08_kafka_15021_nobody_waits_for_a_broker_that_is_about_to_stop() -> None:
    """2 stops cleanly and has left the ISR, but still fetches: its last flush takes long.

    The leader waits for replicas that are about to join (L5), but never for one that may not: acks
    would come only when 2 is gone."""
    d = Driven()
    d.send_acked()
    d.hold_flushes(2)
    sent = d.send()
    d.until(lambda: d.end(2) == 2, "2 has it")
    d.hosts[2].stop()
    d.run(0.1)
    d.settle()
    assert d.isr == [1, 3]
    d.until(lambda: sent.is_acked, "the record is acknowledged", JOIN_WAIT_NS // 2)
    d.run(0.6)
    sent = d.send()
    d.until(lambda: sent.is_acked, "another one is acknowledged", JOIN_WAIT_NS // 2)
    d.hosts[2].flush()
    d.until(lambda: not d.hosts[2].node.is_up, "2 has stopped")
    d.finish()


def test_schedule_09_kafka_15221_who_joins_is_the_run_that_fetched() -> None:
    """3 has caught up and loses its power, and with it what it had not flushed. It is registered
    again before the leader, which knows of that, has added it.

    How far a follower is and which run of it that was come from one fetch (L7); the commit is
    refused if that run is not registered any more."""
    d = Driven(flush="replicated")
    d.send_acked()
    d.leave_isr(3)
    d.hold_flushes(3)
    d.hold_commits(1)
    d.send_acked()
    d.until(lambda: d.end(3) == 2, "3 has it")
    commit = d.next_commit(1)
    assert [m.broker_id for m in commit.document.isr] == [1, 2, 3]
    d.power_cut(3)
    d.restart(3)
    apart = d.separate(1, 3)
    assert not commit.land().ok
    commit.answer()
    d.run(1)
    for late in d.hosts[1].commits:
        late.go()
    assert d.isr == [1, 2]

    d.fence(1, 2)
    d.settle()
    assert d.document.leader is None
    apart.end()
    d.finish()


def test_schedule_10_kip_903_a_wiped_broker_is_not_taken_for_what_it_was() -> None:
    """3 catches up, loses its disk, and is registered again. The leader remembers how far it was,
    and dies; 3 would be elected with an empty log.

    What the leader remembers is of the run that fetched, and an entry of the ISR names a run (L7);
    a directory without logs vouches for nothing that was before (D5)."""
    d = Driven()
    d.send_acked()
    d.leave_isr(3)
    d.until(lambda: len(d.leading(1).isr.maximal()) == 2, "1 has seen it")
    d.hold_commits(1)
    d.blind(1)
    d.send_acked()
    d.until(lambda: d.end(3) == 2, "3 has it")
    commit = d.next_commit(1)
    d.power_cut(3)
    d.hosts[3].disk = SimDisk(keeps_history=False)
    d.restart(3)
    apart = d.separate(1, 3)
    commit.go()
    d.see(1)
    d.run(1)
    for late in d.hosts[1].commits:
        late.go()
    d.run(0.1)
    assert d.isr == [1, 2]
    d.fence(1, 2)
    d.settle()
    assert d.document.leader is None
    apart.end()
    d.finish()


def test_schedule_15_kafka_13790_a_document_of_the_same_epoch_resets_nothing() -> None:
    """The controller writes the document with another min_isr, in the same leader epoch.

    The leader takes that over and goes on; only a new epoch begins with LESO and followers of
    which nothing is known (L2)."""
    d = Driven()
    d.send_acked()
    partition = d.leading(1)
    followers, leso = dict(partition.isr.followers), partition.isr.leso
    d.alter(min_isr=1)
    d.settle()
    d.until(lambda: partition.isr.document.min_isr == 1, "1 has seen it")
    assert d.leading(1) is partition
    assert partition.isr.followers == followers
    assert partition.isr.leso == leso
    d.send_acked()
    d.finish()


def test_schedule_16_kafka_14154_a_refused_change_is_over() -> None:
    """3 is to join and has registered anew meanwhile: the commit is refused, and the document is as
    it was.

    So nothing is pending any more, and records are committed without 3 (L9). It joins in its new
    run."""
    d = Driven()
    d.leave_isr(3)
    d.hold_commits(1)
    d.send_acked()
    commit = d.next_commit(1)
    assert [m.broker_id for m in commit.document.isr] == [1, 2, 3]
    d.kill(3)
    commit.go()
    assert commit.outcome is not None
    assert not commit.outcome.ok
    d.send_acked()
    d.restart(3)
    d.hosts[1].holds_commits = False
    d.until(lambda: d.isr == [1, 2, 3], "3 is in sync")
    d.finish()


def test_schedule_17_kafka_2729_a_leader_whose_version_is_old_takes_what_the_store_shows() -> None:
    """1 hears nothing of the metadata, and the document was written anew, in its own epoch. 3 has
    to leave the ISR.

    The refused commit shows what stands there, and the next one rests on that: it never waits for
    somebody to tell (L9)."""
    d = Driven()
    d.send_acked()
    d.blind(1)
    d.alter(min_isr=1, by=2)
    d.settle()
    d.separate(1, 3)
    d.hand("p2", [2])
    sent = d.hands["p2"].send()
    d.until(lambda: d.isr == [1, 2], "3 is out")
    d.until(lambda: sent.is_acked, "the record is acknowledged")
    d.finish()


def test_schedule_24_jepsen_kafka_0_8_an_outsider_is_never_elected() -> None:
    """min_isr is 1 and only 1 is in the ISR. It acknowledges a record, and dies; 2 and 3 are here.

    Nobody leads until 1 is back (C4)."""
    d = Driven(min_isr=1)
    d.send_acked()
    d.leave_isr(2, 3)
    apart = d.separate(1, 2, 3)
    d.send_acked()
    d.kill(1)
    d.settle()
    assert d.document.leader is None
    apart.lose()
    d.run(5)
    assert d.document.leader is None
    d.finish()


def test_schedule_26_rocketmq_6662_who_has_not_fetched_holds_everything_up() -> None:
    """1 is elected while 3 is cut off from it, and 1 and 2 are cut off from the store.

    The high watermark is not computed over those who happen to be connected: 3 is in the ISR, and
    as long as nobody knows how far it is nothing is committed (L5). 3 may be elected any time. Nor
    is anything acknowledged that 1 has taken in, and that is lost (rocketmq#7017)."""
    d = Driven()
    d.send_acked()
    d.separate(1, 3)
    d.elect(2)
    d.until(lambda: d.is_leading(2), "2 leads")
    d.elect(1)
    d.until(lambda: d.is_leading(1, d.epoch + 2), "1 leads")
    d.hold_commits(1)
    sent = d.send()
    d.until(lambda: d.end(2) == 2, "2 has it")
    d.run(1)
    assert not sent.is_acked

    d.blind(1)
    d.fence(1, 2)
    d.settle()
    assert d.isr == [3]
    d.until(lambda: d.is_leading(3), "3 leads")
    d.run(1)
    assert not sent.is_acked
    d.finish()


def test_schedule_35_an_ambiguous_joining_counts_until_it_is_known() -> None:
    """3 is to join, and the store does not say what became of it. The leader asks once more, and
    hears nothing of that either. Then the first attempt lands, and 3 is elected.

    Until the outcome is known, 3 has to have what is committed (L6, L9)."""
    d = Driven(flush="replicated")
    d.leave_isr(3)
    d.hold_commits(1)
    d.send_acked()
    commit = d.next_commit(1)
    assert [m.broker_id for m in commit.document.isr] == [1, 2, 3]
    commit.time_out()
    apart = d.separate(1, 3)
    sent = d.send()
    d.until(lambda: d.end(2) == 2, "2 has it")
    d.run(0.1)
    assert not sent.is_acked
    again = d.next_commit(1)
    again.time_out()
    d.run(1)
    assert not sent.is_acked

    assert commit.land().ok
    assert not again.land().ok
    d.fence(1, 2)
    d.settle()
    assert d.isr == [3]
    d.until(lambda: d.is_leading(3), "3 leads")
    apart.lose()
    d.finish()


def test_schedule_35_an_ambiguous_leaving_counts_until_it_is_known() -> None:
    """3 is behind and is to leave, and the store does not say what became of that.

    Perhaps nothing, and then 3 may be elected: the leader waits for it (L6)."""
    d = Driven(flush="replicated")
    d.send_acked()
    d.separate(1, 3)
    d.hold_commits(1)
    sent = d.send()
    d.until(lambda: d.end(2) == 2, "2 has it")
    commit = d.next_commit(1)
    assert [m.broker_id for m in commit.document.isr] == [1, 2]
    commit.time_out()
    d.run(1)
    assert not sent.is_acked

    d.fence(1, 2)
    d.settle()
    assert d.isr == [3]
    d.until(lambda: d.is_leading(3), "3 leads")
    d.finish()


def test_an_outcome_that_nobody_tells_is_found_out() -> None:
    """The commit that takes 3 in is lost on its way, and the leader hears nothing. 3 dies.

    The leader settles it by another commit under the same guard (D13), or it would wait for 3."""
    d = Driven()
    d.leave_isr(3)
    d.hold_commits(1)
    d.send_acked()
    commit = d.next_commit(1)
    assert [m.broker_id for m in commit.document.isr] == [1, 2, 3]
    d.hosts[1].holds_commits = False
    commit.time_out()
    d.kill(3)
    sent = d.send()
    d.until(lambda: sent.is_acked, "the record is acknowledged", 5 * SECOND)
    d.finish()


def test_what_a_follower_said_in_an_earlier_epoch_is_forgotten() -> None:
    """2 has two records of 1 that are not committed, and 1 is told. 3 leads, and 2 cuts them. 1
    leads again.

    What it was told in its first epoch does not commit them now (L1, L5)."""
    d = Driven()
    d.send_acked()
    d.separate(1, 3)
    sent = [d.send(), d.send()]
    d.until(lambda: d.leading(1).isr.followers[2].flushed == 3, "2 has two more, and 1 knows")
    assert not any(s.is_acked for s in sent)
    d.blind(1)
    d.elect(3, isr=[1, 2, 3])
    d.until(lambda: d.is_following(2, 3) and d.end(2) == 1, "2 has cut them")
    d.separate(1, 2)
    d.elect(1, isr=[1, 2])
    d.see(1)
    d.until(lambda: d.is_leading(1, d.epoch + 2), "1 leads again")
    d.run(1)
    assert not any(s.is_acked for s in sent)

    d.fence(1, 3)
    d.settle()
    assert d.isr == [2]
    d.until(lambda: d.is_leading(2), "2 leads")
    d.finish()


def test_what_another_run_of_a_member_has_does_not_count_for_the_one_that_is_named() -> None:
    """2 is in the ISR and starts anew. What its new run says is not what the entry promises.

    Under `replicated` the entry stands for memory that is gone: nothing is committed with it before
    the new run has joined in its own name (L5)."""
    d = Driven(flush="replicated")
    d.send_acked()
    d.hold_commits(1)
    d.kill(2)
    d.restart(2)
    d.until(lambda: 2 in d.leading(1).isr.followers, "it fetches")
    sent = d.send()
    d.until(lambda: d.end(2) == d.end(3) == 2, "all have it")
    d.run(1)
    assert not sent.is_acked
    assert d.loop.now < 10 * SECOND
    d.settle()
    d.until(lambda: sent.is_acked, "it is committed with 1 and 3")
    d.finish()


def test_f3_a_new_leader_is_asked_at_once_though_an_older_question_waits_there() -> None:
    """2 leads `__offsets`, so that 3 has a request waiting there, for half a second at most, when
    2 begins to lead the topic too. Nothing can be committed there before 3 has asked for it."""
    d = Driven()
    topic = d.place
    reader = d.reader("c", "g")
    d.until(lambda: reader.positions, "the topic is there")
    d.place = (d.topic_id(OFFSETS_TOPIC), 0)
    if not d.is_leading(2):
        d.elect(2)
    d.until(lambda: d.is_leading(2) and d.is_following(3, 2) and d.is_following(1, 2), "2 leads")
    d.place = topic
    d.send_acked()
    for round_ in range(4):
        d.run(1 + round_ / 7)
        d.elect(2 if d.is_leading(1) else 1)
        began = d.loop.now
        d.send_acked()
        assert d.loop.now - began < 200 * MS
    d.finish()
