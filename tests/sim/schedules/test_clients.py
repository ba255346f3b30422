"""Schedules about what clients are promised across a change of the leader: nothing twice, and no
committed offset forgotten."""

from __future__ import annotations

from tests.sim.driven import Driven
from tests.sim.driven_clients import Reader
from zmqmq.model.groups import offsets_partition
from zmqmq.model.names import OFFSETS_TOPIC
from zmqmq.sim.history import FAIL, POLL


def test_schedule_37_redpanda_3039_a_batch_that_comes_again_after_a_failover_is_known() -> None:
    """The first record of a producer is committed, and the leader dies before it has answered. The
    producer sends it to the next one.

    What is known of producers is a function of the log, and every copy has it (P4)."""
    d = Driven()
    sent = d.hand("p2").send()
    d.until(lambda: d.end(1) == 1, "1 has it")
    d.network.cut("b1", "p2", both=False)
    d.until(lambda: d.end(2) == d.end(3) == 1, "all have it")
    d.run(0.1)
    assert not sent.outcome
    d.kill(1)
    d.settle()
    d.until(lambda: sent.is_acked, "2 answers")
    assert sent.outcome == (0, 0)
    d.finish()


def test_what_was_cut_of_a_producer_is_forgotten() -> None:
    """1 has a producer's record that nobody else got. 2 leads for a while, and 1 cuts it. 1 leads
    again, and the producer sends it again.

    The record is not there: 1 must not take it for one that it has (P4, F7)."""
    d = Driven()
    d.network.cut("b2", "p2")
    d.network.cut("b3", "p2")
    d.send_acked()
    apart = d.separate(1, 2, 3)
    hand = d.hand("p2", [1], request_timeout_ms=3_000)
    sent = hand.send()
    d.until(lambda: d.end(1) == 2, "1 has it")
    d.network.cut("b1", "p2")
    d.elect(2, isr=[1, 2, 3])
    d.until(lambda: d.is_leading(2), "2 leads")
    apart.lose()
    d.send_acked()
    d.until(lambda: d.batches(1) == d.batches(2), "1 has cut it")
    d.elect(1, isr=[1, 2, 3])
    d.until(lambda: d.is_leading(1), "1 leads again")
    d.network.heal("b1", "p2")
    d.until(lambda: sent.outcome, "the producer has its answer", 60 * 10**9)
    d.finish()


def begin_group(d: Driven) -> tuple[Reader, int, int, int]:
    """A member of group g that has read a record; its coordinator, and the other brokers. From now
    on `d` is about the coordinator's partition. The coordinator leads the topic too."""
    reader = d.reader("c", "g")
    d.until(lambda: reader.positions, "it has begun")
    topic = d.place
    d.place = (d.topic_id(OFFSETS_TOPIC), offsets_partition("g", 2))
    leader = d.document.leader
    assert leader is not None
    old = leader.broker_id
    one, two = (i for i in d.hosts if i != old)
    d.until(lambda: d.is_following(one, old) and d.is_following(two, old), "both follow")
    d.place, own = topic, d.place
    if old != 1:
        d.elect(old)
        d.until(lambda: d.is_leading(old), "it leads the topic too")
        d.until(lambda: d.is_following(one, old) and d.is_following(two, old), "both follow")
    d.send_acked()
    d.until(lambda: reader.offsets == [0], "it is read")
    d.place = own
    reader.commit()
    d.until(lambda: reader.is_idle, "the offset is committed")
    return reader, old, one, two


def test_an_offset_that_was_committed_is_known_to_the_next_coordinator() -> None:
    """A group commits an offset. The next leader of the partition of `__offsets` has the record,
    and does not know that it is committed.

    It loads the table when it knows, and not before (L14): a commit that it has not seen then is
    in no table any more."""
    d = Driven()
    topic = d.place
    reader, old, one, two = begin_group(d)
    assert (d.high_watermark(one), d.end(one)) == (0, 1)
    d.fence(old)
    d.elect(one, isr=[one, two])
    d.until(lambda: d.is_leading(one), "another one leads")
    d.until(lambda: d.high_watermark(one) == 1, "it knows that the record is committed")
    reader.ask_committed()
    d.until(lambda: reader.is_idle, "the group has asked")
    d.place = topic
    d.finish()


def test_what_is_told_to_be_committed_is_the_latest() -> None:
    """The coordinator of a group has been replaced, and does not know it. The group has committed
    another offset since; somebody asks the old one.

    It answers when its followers have confirmed that they still follow it, in this very partition
    (D10)."""
    d = Driven()
    topic = d.place
    _, old, one, two = begin_group(d)
    d.network.cut("late", f"b{one}")
    d.network.cut("late", f"b{two}")
    late = d.reader("late", "g", [old])
    d.until(lambda: late.positions, "another member has begun")
    d.send_acked()
    d.blind(old)
    d.elect(one, isr=[one, two])
    d.until(lambda: d.is_leading(one) and d.is_following(two, one), "another one leads")
    other = d.reader("other", "g", [one])
    d.until(lambda: other.offsets == [1], "a third member has read on")
    other.commit()
    d.until(lambda: other.is_idle, "another offset is committed")
    late.ask_committed()
    d.run(2)
    d.place = topic
    d.finish()


def test_f12_a_group_hears_that_what_it_has_read_was_lost() -> None:
    """A group commits behind a record that only the leader has. That one dies, and an unclean
    election gives the partition to another, which has other records there by the time somebody
    goes on for the group.

    The offset alone says nothing; the leader epoch that was committed with it does."""
    d = Driven(min_isr=1)
    topic = d.place
    reader, old, one, two = begin_group(d)
    offsets, d.place = d.place, topic
    d.elect(one)
    d.until(lambda: d.is_following(old, one) and d.is_following(two, one), "another one leads")
    d.separate(one, old, two)
    d.leave_isr(old, two)
    d.send_acked()
    d.until(lambda: reader.offsets == [0, 1], "it is read")
    reader.commit()
    d.until(lambda: reader.is_idle, "the offset is committed")
    d.kill(one)
    d.place = offsets
    d.leave_isr(one)
    d.place = topic
    d.elect_uncleanly(two)
    d.until(lambda: d.is_leading(two), "two leads")
    other = d.hand("p2")
    sent = [other.send(), other.send()]
    d.until(lambda: all(s.is_acked for s in sent), "other records stand there")

    late = d.reader("late", "g")
    d.until(lambda: late.offsets == [0, 1, 2], "it has begun anew")
    (refused,) = [e.value for e in late.history.entries if (e.f, e.type) == (POLL, FAIL)]
    assert refused.code == "OFFSET_OUT_OF_RANGE"
    assert "from offset 1 on records were lost" in refused.detail


def test_a_batch_is_known_to_a_replica_that_was_filled_from_what_compaction_left() -> None:
    """A record is committed, and its producer hears nothing of it. Newer ones of its key come, and
    the leader compacts its log; 3, which had nothing, is filled from what is left, is in sync, and
    is elected. The producer sends its record again.

    The record was replaced, and its batch still says which one it was (P4, decision 11)."""
    d = Driven(config={"segment_bytes": 4_096, "cleanup": "compact"})
    d.kill(3)
    d.settle()
    assert d.isr == [1, 2]
    sent = d.hand("p2").send(bytes(100), b"k")
    d.until(lambda: d.end(1) == 1, "1 has it")
    d.network.cut("b1", "p2", both=False)
    for _ in range(150):
        d.send_acked(bytes(100), b"k")
    size = d.log(1).size_bytes
    d.until(lambda: d.log(1).size_bytes < size, "1 has compacted it")
    d.restart(3)
    d.until_isr(1, 2, 3)
    assert not sent.outcome

    d.elect(3)
    d.until(lambda: sent.is_acked, "3 answers")
    assert sent.outcome == (0, 0)
    d.finish()
