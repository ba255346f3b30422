"""Where logs part, how a follower gets back to its leader's, and what the leader refuses it
(F1-F9, D3, D9, D14)."""

from __future__ import annotations

import pytest

from tests.support.replicas import PLACE, Cluster
from zmqmq.batch.encode import encode_batch
from zmqmq.core.meta.fields import Member
from zmqmq.core.replication.divergence import cut_for, divergence
from zmqmq.core.replication.follower import Cut
from zmqmq.core.replication.follower_session import FollowerSession
from zmqmq.core.replication.partition import Refused
from zmqmq.core.storage.reading import read
from zmqmq.core.storage.truncation import cut, state_at_start
from zmqmq.errors import CorruptDataError
from zmqmq.wire.peers import Answer, Listed, PeerCode


def lists(c: Cluster, leader: int, **changes: int) -> Refused | None:
    """What the leader says to broker 2 that lists this."""
    log = c.brokers[leader].log
    listed = Listed(*PLACE, c.document.leader_epoch, log.end_offset, log.epochs.latest, 0, 0)
    session = FollowerSession(Member(2, changes.pop("broker_epoch", c.brokers[2].epoch)), 1)
    session.entries[PLACE] = listed._replace(**changes)  # type: ignore[arg-type]
    return c.brokers[leader].leading.fetched(c.now_ns, session)


def led(c: Cluster, *epochs: tuple[int, int]) -> None:
    """Broker 1 leads these epochs one after the other and writes so many batches in each."""
    for epoch, batches in epochs:
        if c.document.leader_epoch < epoch:
            c.change(1, leader_epoch=epoch)
        for _ in range(batches):
            c.brokers[1].send(acks=1)


# What the leader says


def test_f3_another_leader_epoch_is_fenced_or_unknown() -> None:
    c = Cluster()

    assert lists(c, 1, leader_epoch=0) == (PeerCode.FENCED_LEADER_EPOCH, 0, 0)
    assert lists(c, 1, leader_epoch=2) == (PeerCode.UNKNOWN_LEADER_EPOCH, 0, 0)
    assert not c.brokers[1].leading.isr.followers


def test_f3_an_earlier_run_of_a_follower_is_rejected() -> None:
    c = Cluster()
    assert lists(c, 1) is None

    assert lists(c, 1, broker_epoch=1) == (PeerCode.STALE_BROKER_EPOCH, 0, 0)


def test_f4_the_answer_is_where_the_last_common_epoch_ends() -> None:
    c = Cluster()
    led(c, (1, 3), (4, 2), (6, 1))

    assert lists(c, 1) is None
    assert lists(c, 1, written=5, last_epoch=4) is None
    assert lists(c, 1, written=6, last_epoch=4) == (PeerCode.DIVERGING, 4, 5)
    assert lists(c, 1, written=4, last_epoch=3) == (PeerCode.DIVERGING, 1, 3)
    assert lists(c, 1, written=9, last_epoch=6) == (PeerCode.DIVERGING, 6, 6)
    assert lists(c, 1, written=2, last_epoch=0) == (PeerCode.DIVERGING, 0, 0)


def test_f4_an_epoch_that_wrote_nothing_ends_where_the_last_one_that_wrote_does() -> None:
    c = Cluster()
    led(c, (1, 3), (4, 0))

    assert lists(c, 1, written=3, last_epoch=1) is None
    assert lists(c, 1, written=4, last_epoch=2) == (PeerCode.DIVERGING, 1, 3)
    assert lists(c, 1, written=4, last_epoch=4) == (PeerCode.DIVERGING, 1, 3)


def test_f4_an_empty_log_is_a_prefix_of_any() -> None:
    c = Cluster()
    led(c, (1, 3))

    assert lists(c, 1, written=0, last_epoch=-1) is None
    assert lists(c, 1, written=4, last_epoch=-1) == (PeerCode.OUT_OF_RANGE, 0, 3)


def test_f4_below_the_log_start_is_out_of_range_also_for_a_log_that_has_parted() -> None:
    c = Cluster(1)
    c.change(replicas=(1, 2))
    log = c.brokers[1].log
    led(c, (1, 3))
    log.roll()
    led(c, (1, 1))
    c.brokers[1].flush()
    log.drop_before(3)
    c.register(2)
    session = FollowerSession(Member(2, 9), 1)
    session.entries[PLACE] = Listed(*PLACE, 1, 2, 0, 0, 0)

    assert c.brokers[1].leading.fetched(0, session) == (PeerCode.OUT_OF_RANGE, 3, 4)


def test_f4_a_diverging_fetch_is_no_progress() -> None:
    c = Cluster(2)
    led(c, (1, 1))
    c.brokers[1].flush()
    assert lists(c, 1, written=5, last_epoch=0, flushed=5) is not None
    c.brokers[1].leading.advance()

    assert not c.brokers[1].leading.isr.followers
    assert c.brokers[1].leading.high_watermark == 0


# What the follower does


def test_f1_f5_a_deposed_leader_goes_back_to_where_the_logs_part_and_no_further() -> None:
    c = Cluster()
    c.brokers[1].send()
    c.fetch(2)
    c.fetch(3)
    c.brokers[1].send()
    c.brokers[1].send()
    c.elect(2)
    c.brokers[2].send()
    c.fetch(1)
    assert c.brokers[1].values == [(1, 0)]
    c.fetch(1)

    assert c.brokers[1].values == c.brokers[2].values == [(1, 0), (2, 1)]


def test_f5_a_follower_without_the_leaders_epoch_goes_back_and_asks_again() -> None:
    """KIP-279: each knows epochs that the other has never seen."""
    c = Cluster()
    c.brokers[1].send()
    c.fetch(2)
    c.fetch(3)
    c.elect(2, 2)
    c.brokers[2].send(acks=1)  # epoch 2, on broker 2 alone
    c.elect(3, 3)
    c.brokers[3].send(acks=1)  # epoch 3, on broker 3 alone
    c.elect(2, 2)
    c.brokers[2].send(acks=1)  # epoch 4
    c.elect(3)
    assert c.brokers[2].values == [(1, 0), (2, 1), (4, 2)]
    c.fetch(2, 3)

    assert c.brokers[2].values == c.brokers[3].values == [(1, 0), (3, 1)]


def test_f5_the_cut_is_at_the_followers_own_end_of_the_epoch_if_that_is_earlier() -> None:
    c = Cluster()
    c.brokers[1].send()
    c.fetch(2)
    c.brokers[1].send()
    c.fetch(3)
    c.elect(2, 2)
    c.brokers[2].send(acks=1)
    c.elect(3)
    assert (c.brokers[2].values, c.brokers[3].values) == ([(1, 0), (2, 1)], [(1, 0), (1, 1)])
    c.fetch(2, 2)

    assert c.brokers[2].values == c.brokers[3].values


def test_f5_the_cut_is_where_the_epoch_ends_first_in_either_log() -> None:
    c = Cluster(1)
    led(c, (1, 3), (4, 2))
    log = c.brokers[1].log

    assert cut_for(log, 1, 2) == 2
    assert cut_for(log, 1, 9) == 3
    assert cut_for(log, 2, 9) == 3
    assert cut_for(log, 4, 9) == 5
    assert cut_for(log, 0, 7) == 0
    assert divergence(log, 5, 4) is None


def test_f6_f7_a_diverging_follower_shows_nothing_of_what_it_will_cut() -> None:
    c = Cluster(2, flush="replicated", min_isr=1)
    c.brokers[1].send()
    c.fetch(2, 2)
    follower = c.brokers[2].following
    assert follower.high_watermark == 1
    follower.take(Answer(*PLACE, 1, 1, PeerCode.DIVERGING, 0, 0), None)

    assert follower.cut == Cut(0)
    assert follower.high_watermark == 0
    assert not follower.is_asking


def test_f8_a_follower_knows_the_high_watermark_as_far_as_it_has_the_log() -> None:
    c = Cluster(isr=[1], min_isr=1)
    for _ in range(3):
        c.brokers[1].send()
    c.brokers[1].flush()
    assert c.brokers[1].leading.high_watermark == 3
    asked = c.ask(2)
    c.deliver(asked, *c.answer(1, asked, max_bytes=1))

    assert c.brokers[2].log.end_offset == 1
    assert c.brokers[2].following.high_watermark == 1


def test_f8_what_does_not_come_next_is_not_appended() -> None:
    c = Cluster(2)
    wrong = encode_batch(1, [b"v"], timestamp_ms=1)
    follower = c.brokers[2].following
    with pytest.raises(CorruptDataError):
        follower.take(Answer(*PLACE, 1, 0, PeerCode.NONE, 0, 0, len(wrong)), wrong)

    assert c.brokers[2].log.end_offset == 0


def test_f8_the_log_start_follows_the_leaders_by_whole_segments() -> None:
    c = Cluster()
    for broker_id in (1, 1, 1):
        c.brokers[broker_id].send()
    c.brokers[1].flush()
    c.fetch(2, 2)
    c.fetch(3, 2)
    follower = c.brokers[2]
    follower.log.roll()
    c.brokers[1].log.roll()
    c.brokers[1].send()
    c.brokers[1].flush()
    c.fetch(2, 2)
    c.fetch(3, 2)
    c.brokers[1].log.drop_before(3)
    c.brokers[1].sessions.mark(PLACE)
    c.fetch(2)

    assert follower.log.start_offset == 3


def test_f9_a_leader_with_less_makes_an_empty_follower_shorter() -> None:
    c = Cluster(2)
    follower = c.brokers[2].following
    follower.take(Answer(*PLACE, 1, 0, PeerCode.OUT_OF_RANGE, 0, 0), None)
    assert follower.cut is None
    c.brokers[1].send()
    c.fetch(2)
    follower.take(Answer(*PLACE, 1, 1, PeerCode.OUT_OF_RANGE, 0, 0), None)

    assert follower.cut == Cut(0)


def test_f9_behind_the_leaders_log_start_a_follower_begins_anew_with_its_state() -> None:
    c = Cluster()
    leader = c.brokers[1]
    batch = encode_batch(leader.log.seed, [b"v"], timestamp_ms=1, producer_id=7)
    leader.leading.append(1_000, batch)
    leader.log.roll()
    leader.send()
    leader.flush()
    leader.log.drop_before(1)
    follower = c.brokers[2]
    asked = c.ask(2)
    c.deliver(asked, *c.answer(1, asked))
    assert follower.following.cut == Cut(1, needs_state=True)
    cut(follower.log, 1, state_at_start(leader.log))
    follower.following.was_cut(follower.log)
    assert follower.following.high_watermark == 1
    follower.fetcher.touch(PLACE)
    c.fetch(2)

    assert follower.values == leader.values
    assert follower.log.producers.check(7, 0, 0, 0) is not None


def test_f9_a_cut_below_the_followers_own_start_begins_anew() -> None:
    c = Cluster(2)
    c.brokers[1].send()
    c.brokers[1].flush()
    c.fetch(2)
    follower = c.brokers[2]
    follower.log.roll()
    follower.flush()
    follower.log.drop_before(1)
    follower.following.take(Answer(*PLACE, 1, 1, PeerCode.DIVERGING, 1, 0), None)

    assert follower.following.cut == Cut(0, needs_state=True)


def test_a_follower_that_ends_within_a_compacted_batch_goes_back_to_its_beginning() -> None:
    c = Cluster(2)
    leader, follower = c.brokers[1], c.brokers[2]
    leader.send()
    c.fetch(2)
    # What compaction makes of offsets 0 to 2, as far as the follower can tell.
    other = Cluster(2).brokers[1]
    other.send(b"a", b"b", b"c")
    body = bytes(read(other.log, 0, 10_000, 3))
    follower.following.take(Answer(*PLACE, 1, 1, PeerCode.NONE, 3, 0, len(body)), body)

    assert follower.following.cut == Cut(0)
    follower.cut()
    follower.following.take(Answer(*PLACE, 1, 0, PeerCode.NONE, 3, 0, len(body)), body)
    assert follower.log.end_offset == 3


def test_d9_a_follower_that_was_told_nothing_yet_shows_nothing() -> None:
    c = Cluster(2, flush="replicated")
    c.brokers[1].send()
    c.fetch(2, 2)
    assert c.brokers[2].following.high_watermark == 1
    c.brokers[2].high_watermark = 0
    c.brokers[2].role = None
    c.change(leader_epoch=2, rec=2)
    assert c.brokers[2].following.high_watermark == 0
    c.fetch(2, 2)

    assert c.brokers[2].following.high_watermark == 1


def test_d14_an_epoch_that_was_led_without_a_record_leaves_nothing_behind() -> None:
    c = Cluster()
    c.brokers[1].send()
    c.elect(2)
    c.elect(1)
    c.fetch(2, 2)

    assert c.brokers[2].log.epochs.snapshot() == [[1, 0]]
    c.elect(2)
    assert lists(c, 2, written=1, last_epoch=1) is None
