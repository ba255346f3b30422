"""Schedules in which logs part and are cut (replication.md 9, 12.1). What they have to do with one
another, and where the others are, stands in tests/sim/test_schedules.py."""

from __future__ import annotations

import pytest

from tests.sim.driven import Driven
from zmqmq.core.broker import peer_front


def test_schedule_01_kip_101_a_follower_keeps_what_is_above_its_high_watermark() -> None:
    """2 has record 1 and knows a high watermark of 1. It restarts; 1 and 3 go; 2 is elected.

    A follower that cut its log to its high watermark would have lost record 1, which was
    acknowledged. It keeps its log, and cuts only what its leader says has parted (F1)."""
    d = Driven()
    d.send_acked()
    d.send_acked()
    assert d.high_watermark(2) == 1
    d.kill(2)
    d.restart(2)
    d.separate(1, 2)
    d.until(lambda: d.is_following(2, 1), "2 follows 1 again")
    assert d.end(2) == 2

    d.fence(1, 3)
    d.settle()
    assert d.isr == [2]
    d.until(lambda: d.is_leading(2), "2 leads")
    d.finish()


def test_schedule_02_kip_279_an_epoch_that_the_leader_never_had_is_cut() -> None:
    """1 writes two records of epoch 1 alone; 2 leads epoch 2, writes one and dies; 1 leads epoch 3
    before it has cut anything. 2 comes back with an epoch that 1 never had.

    1 says where epoch 1 ends in its log, which is behind the end of 2's. By that alone 2 would cut
    nothing, and keep a record that nobody else has. It goes back to where epoch 1 ends in its own
    (F5)."""
    d = Driven()
    loose1 = d.hand("loose1", [1], acks=1)
    d.send_acked()
    e = d.epoch
    apart = d.separate(1, 2, 3)
    at_1 = [loose1.send(), loose1.send()]
    d.until(lambda: all(sent.outcome for sent in at_1), "1 has written two more")
    d.blind(1)
    d.separate(2, 3)
    d.elect(2)
    d.until(lambda: d.is_leading(2), "2 leads")
    loose2 = d.hand("loose2", [2], acks=1)
    at_2 = loose2.send()
    d.until(lambda: at_2.outcome, "2 has written one")
    d.kill(2)
    d.settle()
    assert d.isr == [1, 3]
    apart.lose()
    d.see(1)
    d.until(lambda: d.is_leading(1, e + 2), "1 leads the third epoch")
    assert d.batches(1) == [(e, 0), (e, 1), (e, 2)]

    d.restart(2)
    d.until(lambda: d.is_following(2, 1), "2 follows 1")
    d.until(lambda: d.batches(2) == d.batches(1), "2 has what 1 has")
    d.finish()


def test_schedule_03_kip_320_a_fetch_of_an_earlier_epoch_is_no_progress_in_a_later_one() -> None:
    """1 leads epoch 1, 2 leads epoch 2, 1 leads epoch 3, and 3 has heard of nothing: its fetch of
    epoch 1 arrives.

    The leader counts what was said in its own epoch alone (L5, F3): what 3 said in epoch 1 it may
    have cut in epoch 2."""
    d = Driven()
    d.send_acked()
    d.blind(3)
    gate = d.hold_requests(3, 1)
    sent = d.send()
    d.until(lambda: gate.messages, "3 has it, and says so")
    d.run(0.5)
    assert not sent.outcome
    d.elect(2)
    d.until(lambda: d.is_leading(2, d.epoch + 1), "2 leads")
    d.elect(1)
    d.until(lambda: d.is_leading(1, d.epoch + 2), "1 leads")
    gate.end()
    d.never(lambda: 3 in d.leading(1).isr.followers, "3 counts", 0.5)
    assert not sent.is_acked

    d.see(3)
    d.until(lambda: sent.is_acked, "3 has fetched in this epoch")
    d.finish()


def test_schedule_05_kafka_13141_a_diverging_fetch_is_no_progress() -> None:
    """1 has two records that nobody else got. 2 leads, writes two, and 1 asks for what is behind
    its own end.

    That end is as far as the leader's, and counted it would commit two records that 1 has not
    (F4). Then 1 is elected."""
    d = Driven()
    loose = d.hand("loose", [1], acks=1)
    d.send_acked()
    d.separate(1, 2, 3)
    lost = [loose.send(), loose.send()]
    d.until(lambda: all(sent.outcome for sent in lost), "1 has written two more")
    d.hold_replies(2, 1)
    asking = d.hold_requests(1, 2)
    d.separate(2, 3)
    d.leave_isr(3)
    d.elect(2)
    d.until(lambda: d.is_leading(2), "2 leads")
    sent = [d.send(), d.send()]
    d.until(lambda: d.end(2) == 3, "2 has written two")
    d.until(lambda: asking.messages, "1 asks for what is behind its own two")
    asking.end()
    d.run(1)
    assert not any(s.is_acked for s in sent)

    d.fence(2)
    d.settle()
    assert d.isr == [1]
    d.finish()


def test_schedule_06_kafka_14704_an_old_leader_shows_nothing_that_it_has_to_cut() -> None:
    """1 has three records that nobody else got; 2 leads and commits four others. 1 hears of it.

    It learns the high watermark of 2 when its own log is a prefix of 2's, and not before (F6)."""
    d = Driven()
    loose = d.hand("loose", [1], acks=1)
    d.send_acked()
    d.separate(1, 2, 3)
    lost = [loose.send() for _ in range(3)]
    d.until(lambda: all(sent.outcome for sent in lost), "1 has written three more")
    held = d.hold_replies(2, 1)
    d.elect(2, isr=[2, 3])
    d.until(lambda: d.is_leading(2), "2 leads")
    for _ in range(4):
        d.send_acked()
    d.until(lambda: held.messages, "1 is told that it has parted")
    assert d.high_watermark(1) == 1
    held.end()
    # As long as the old ones are there, nothing of them is shown.
    d.never(
        lambda: d.end(1) == 4 and (d.epoch, 3) in d.batches(1) and d.high_watermark(1) > 1, "seen"
    )
    d.until(lambda: d.high_watermark(1) == 5, "1 has caught up")
    d.finish()


def test_schedule_07_kafka_9491_a_follower_that_begins_anew_forgets_its_high_watermark() -> None:
    """3 is away until the leader has dropped all that it has. It begins anew, at the leader's log
    start.

    With its old high watermark it would stand below its own log start (F9, I5)."""
    d = Driven(config={"segment_bytes": 4096, "retention_bytes": 8192})
    for _ in range(3):
        d.send_acked()
    d.fence(3)
    d.kill(3)
    d.leave_isr(3)
    for _ in range(30):
        d.send_acked(b"." * 1000)
    d.until(lambda: d.log(1).start_offset > 3, "the leader has dropped old records")

    d.hosts[3].is_kept_out = False
    d.restart(3)
    d.until(lambda: d.log(3).start_offset > 3, "3 has begun anew")
    log = d.log(3)
    assert log.start_offset <= d.high_watermark(3) <= log.end_offset
    d.heal()
    d.until(lambda: d.isr == [1, 2, 3], "3 is in sync")
    log = d.log(3)
    assert log.start_offset <= d.high_watermark(3) == log.end_offset


def test_a_log_that_has_parted_below_the_leaders_log_start_is_begun_anew() -> None:
    """1 leads alone, with records that nobody else gets. 2 leads, and has others there, of which
    retention has removed as many as 1 has when that comes back.

    What 1 lacks is all there, and what it has was never committed. 2 knows by its own epochs that
    its log had parted before: 1 must not go on behind them (F4)."""
    d = Driven(config={"segment_bytes": 4096, "retention_bytes": 8192})
    loose = d.hand("loose", [1], acks=1, idempotent=False)
    apart = d.separate(1, 2, 3)
    lost = [loose.send(b"." * 1000) for _ in range(9)]
    d.until(lambda: lost[-1].outcome, "1 has them")
    d.kill(1)
    d.elect(2)
    d.until(lambda: d.is_leading(2), "2 leads")
    while d.log(2).start_offset < len(lost):
        d.send_acked(b"." * 1000)
        d.run(0.2)
    assert d.log(2).start_offset == len(lost)

    apart.lose()
    d.restart(1)
    assert d.end(1) == len(lost)
    d.heal()
    d.until(lambda: d.isr == [1, 2, 3], "all are in sync")
    assert d.batches(1) == d.batches(2)


def test_a_state_that_is_larger_than_a_frame_comes_in_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """3, which has nothing, begins where the leader's log does, and is told what was sent before
    (F9). 10,000 producers need more than the 8 MiB of a frame."""
    monkeypatch.setattr(peer_front, "STATE_FRAME_BYTES", 16)
    d = Driven(config={"segment_bytes": 4096, "retention_bytes": 8192})
    d.kill(3)
    d.settle()
    for _ in range(30):
        d.send_acked(b"." * 1000)
    d.until(lambda: d.log(1).start_offset > 0, "the leader has dropped old records")
    d.restart(3)
    d.until_isr(1, 2, 3)

    assert d.log(3).start_offset > 0
    assert d.log(3).producers.snapshot() == d.log(1).producers.snapshot()


def test_schedule_12_kafka_10527_a_restarted_leader_does_not_go_on_with_its_epoch() -> None:
    """1 loses an unflushed record that 2 has, and is back before anybody was elected.

    As the leader of epoch 1 it would write another record as (epoch 1, offset 1), and 2 could not
    tell the two apart. A leader epoch belongs to one run of a broker (L1)."""
    d = Driven(flush="replicated")
    loose = d.hand("loose", [1], acks=1)
    d.send_acked()
    d.separate(1, 3)
    d.hold_flushes(1)
    lost = loose.send(b"old")
    d.until(lambda: lost.outcome and d.end(2) == 2, "1 and 2 have it, and 3 not")
    d.power_cut(1)
    d.restart(1)
    assert d.end(1) == 1
    d.never(lambda: d.is_leading(1), "1 leads", 0.5)
    other = loose.send(b"new")
    d.run(1)
    assert not other.outcome

    d.settle()
    d.finish()


def test_schedule_18_kafka_15608_epochs_without_records_stop_no_follower() -> None:
    """Three epochs write nothing, and the leader of the last one restarts with what its log says.

    Whoever leads answers for every epoch below its own, also for those of which no log knows, and
    a follower that has nothing to fetch joins all the same (L1, F4)."""
    d = Driven()
    d.send_acked()
    for leader in (2, 1, 3):
        d.elect(leader)
        d.until(lambda leader=leader: d.is_leading(leader, d.document.leader_epoch), "it leads")  # type: ignore[misc]
    d.kill(3)
    d.restart(3)
    d.settle()
    assert d.isr == [1, 2]
    d.until(lambda: d.isr == [1, 2, 3], "3 is in sync again")
    d.elect(3)
    d.until(lambda: d.is_leading(3), "3 leads")
    d.send_acked()
    d.finish()


def test_schedule_20_kafka_13207_a_diverging_reply_is_used_once() -> None:
    """1 has three records that have to go. 2 tells it so, 1 cuts them and gets three others, which
    are committed. The same reply arrives once more.

    It fits the log, which ends where it ended then. Only that nobody waits for it shows that it is
    old (F2). Otherwise 1 cuts what is committed, and is elected."""
    d = Driven()
    loose = d.hand("loose", [1], acks=1)
    d.send_acked()
    d.separate(1, 2, 3)
    lost = [loose.send() for _ in range(3)]
    d.until(lambda: all(sent.outcome for sent in lost), "1 has written three more")
    held = d.hold_replies(2, 1)
    d.separate(2, 3)
    d.leave_isr(3)
    d.elect(2)
    d.until(lambda: d.is_leading(2), "2 leads")
    sent = [d.send() for _ in range(3)]
    d.until(lambda: held.messages, "1 is told that it has parted")
    held.deliver(keep=True)
    stale, held.messages = held.messages, []
    held.end()
    d.until(lambda: all(s.is_acked for s in sent), "1 has got the three others")
    assert d.end(1) == 4

    d.hosts[1].let_in(stale[0])
    d.run(0.001)
    d.fence(2)
    d.settle()
    assert d.isr == [1]
    d.finish()


def test_schedule_21_kafka_9835_a_consumer_gets_nothing_above_the_high_watermark() -> None:
    """The leader has a record that is not committed when a consumer reads to the end. Then another
    broker leads, and the record is replaced.

    One high watermark is taken for a read, before it (L15)."""
    d = Driven()
    loose = d.hand("loose", [1], acks=1)
    d.send_acked()
    d.separate(1, 2, 3)
    reader = d.reader("c")
    lost = loose.send()
    d.until(lambda: lost.outcome, "1 has written one more")
    d.run(2)
    assert reader.offsets == [0]

    d.elect(2)
    d.until(lambda: d.is_leading(2), "2 leads")
    d.send_acked()
    d.until(lambda: reader.offsets == [0, 1], "the reader has the other one")
    d.finish()


def test_schedule_23_kafka_5634_retention_stops_at_the_high_watermark() -> None:
    """The followers are away, and the leader has many segments that are not committed.

    Dropped, they would take the log start above the high watermark (L16, I5)."""
    d = Driven(config={"segment_bytes": 4096, "retention_bytes": 8192})
    loose = d.hand("loose", [1], acks=1)
    d.send_acked()
    d.separate(1, 2, 3)
    for _ in range(4):
        sent = [loose.send(b"." * 1000) for _ in range(10)]
        d.until(lambda sent=sent: all(s.outcome for s in sent), "1 has written more")  # type: ignore[misc]
    d.run(10)
    assert d.log(1).start_offset <= d.high_watermark(1) == 1
    assert len(d.log(1).segments) > 8
    d.heal()
    d.until(lambda: d.high_watermark(1) == 41 and d.log(1).start_offset > 1, "it goes on")


def test_directed_trunc_keeps_flushed_what_is_written_behind_a_cut_is_not_flushed() -> None:
    """2 has flushed a record that is cut, and takes another one in its place, which does not reach
    its disk.

    If the cut did not lower what counts as flushed, that record would be committed with 1 and 2,
    and be lost with the power of 2 (D2)."""
    d = Driven()
    loose = d.hand("loose", [2], acks=1)
    d.send_acked()
    d.leave_isr(3)
    d.elect(2, isr=[1, 2])
    d.until(lambda: d.is_leading(2), "2 leads")
    d.separate(2, 1, 3)
    lost = loose.send()
    d.until(lambda: lost.outcome and d.log(2).flushed_end == 2, "2 has a record and has flushed it")
    held = d.hold_replies(1, 2)
    d.elect(1, isr=[1, 2])
    d.until(lambda: d.is_leading(1), "1 leads")
    d.until(lambda: held.messages, "2 is told that it has parted")
    held.end()
    d.until(lambda: d.end(2) == 1 and d.is_following(2, 1), "2 has cut it")
    d.run(0.01)
    d.hold_flushes(2)
    sent = d.send()
    d.until(lambda: d.end(2) == 2, "2 has taken another one")
    d.run(1)
    assert not sent.is_acked

    d.power_cut(2)
    d.restart(2)
    d.fence(1, 3)
    d.settle()
    assert d.isr == [2]
    d.finish()
