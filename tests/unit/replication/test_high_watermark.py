"""What a leader counts as committed (L2-L6, D2), and what it refuses to take (L3)."""

from __future__ import annotations

import pytest

from tests.support.replicas import MS, PLACE, Cluster
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.store import UnavailableError
from zmqmq.errors import Code, RetryError, StorageError


def test_l5_a_record_is_committed_when_every_member_has_flushed_it() -> None:
    c = Cluster()
    leader = c.brokers[1]
    leader.send()
    leader.flush()
    c.fetch(2, 2)
    assert leader.leading.high_watermark == 0
    c.fetch(3, 2)

    assert leader.leading.high_watermark == 1


def test_l5_the_leaders_own_flush_counts_like_any_other() -> None:
    c = Cluster()
    c.brokers[1].send()
    c.fetch(2, 2)
    c.fetch(3, 2)
    assert c.brokers[1].leading.high_watermark == 0
    c.brokers[1].flush()

    assert c.brokers[1].leading.high_watermark == 1


def test_d2_under_fsync_what_a_follower_has_only_written_does_not_count() -> None:
    c = Cluster(2)
    leader = c.brokers[1]
    leader.send()
    leader.flush()
    c.fetch(2, flush=False)
    told = c.brokers[2].following.listed()

    assert (told.written, told.flushed) == (1, 0)
    c.brokers[2].flush()
    c.fetch(2)
    assert leader.leading.high_watermark == 1


def test_d2_under_replicated_what_is_written_counts() -> None:
    c = Cluster(2, flush="replicated")
    c.brokers[1].send()
    c.fetch(2, 2, flush=False)

    assert c.brokers[1].log.flushed_end == c.brokers[2].log.flushed_end == 0
    assert c.brokers[1].leading.high_watermark == 1


def test_d2_a_follower_asks_again_only_when_all_is_flushed_that_came() -> None:
    c = Cluster(2)
    c.brokers[1].send()
    c.fetch(2, flush=False)

    assert c.brokers[2].fetcher.next_request(c.now_ns, 10**6) is None
    c.brokers[2].flush()
    assert c.brokers[2].fetcher.next_request(c.now_ns, 10**6) is not None


def test_l5_a_member_that_has_not_fetched_in_this_epoch_holds_everything_up() -> None:
    c = Cluster()
    c.brokers[1].send()
    c.brokers[1].flush()
    c.fetch(2, 3)
    c.elect(1)
    c.fetch(2, 2)

    assert c.brokers[1].leading.high_watermark == 0
    c.fetch(3, 2)
    assert c.brokers[1].leading.high_watermark == 1


def test_l5_a_later_run_of_a_member_does_not_count_for_the_one_that_is_named() -> None:
    c = Cluster(2, min_isr=1)
    c.change(isr=(c.brokers[1].me, Member(2, 1)))
    c.brokers[1].send()
    c.brokers[1].flush()
    c.fetch(2, 3)

    assert c.brokers[1].leading.high_watermark == 0


def test_l5_below_min_isr_nothing_is_committed() -> None:
    c = Cluster(isr=[1])
    leader = c.brokers[1]
    leader.send(acks=1)
    leader.flush()
    assert leader.leading.high_watermark == 0
    c.change(min_isr=1)

    assert leader.leading.high_watermark == 1


def test_l5_the_high_watermark_waits_for_a_follower_that_is_about_to_join() -> None:
    c = Cluster(isr=[1, 2])
    leader = c.brokers[1]
    c.fetch(3, 2)
    c.fetch(2, 2)
    proposal = c.propose(1)
    assert proposal is not None
    c.ended(1, UnavailableError("the store is away"))
    assert c.propose(1) is None
    leader.send()
    leader.flush()
    c.fetch(2, 2)

    assert leader.leading.high_watermark == 0
    c.fetch(3, 2)
    assert leader.leading.high_watermark == 1


def test_l5_it_waits_no_longer_than_the_lag_limit() -> None:
    c = Cluster(isr=[1, 2])
    leader = c.brokers[1]
    c.fetch(3, 2)
    c.shutting_down[3] = None
    assert c.propose(1) is None
    c.shutting_down.clear()
    leader.send()
    leader.flush()
    c.fetch(2, 2)
    c.now_ns += 4000 * MS
    c.propose(1)

    assert leader.leading.high_watermark == 1


def test_l6_a_joiner_counts_from_the_proposal_on() -> None:
    c = Cluster(isr=[1, 2])
    leader = c.brokers[1]
    c.fetch(2, 2)
    c.fetch(3, 2)
    proposal = c.propose(1)
    assert proposal is not None
    assert [m.broker_id for m in proposal.document.isr] == [1, 2, 3]
    leader.send()
    leader.flush()
    c.fetch(2, 2)

    assert leader.leading.high_watermark == 0
    c.fetch(3, 2)
    assert leader.leading.high_watermark == 1


def test_l6_a_leaver_counts_until_its_leaving_is_committed() -> None:
    c = Cluster()
    leader = c.brokers[1]
    c.fetch(2, 2)
    leader.send()
    leader.flush()
    c.now_ns += 4000 * MS
    c.fetch(2, 2)
    proposal = c.propose(1)
    assert proposal is not None
    assert [m.broker_id for m in proposal.document.isr] == [1, 2]
    assert leader.leading.high_watermark == 0
    c.ended(1, c.commit(proposal))

    assert leader.leading.high_watermark == 1


def test_l2_an_older_document_changes_nothing_and_a_newer_one_forgets_nothing() -> None:
    c = Cluster()
    leader = c.brokers[1].leading
    older = c.known
    c.fetch(2, 2)
    c.change(min_isr=1)
    leader.changed(*older)

    assert leader.isr.document.min_isr == 1
    assert set(leader.isr.followers) == {2}
    assert leader.isr.leso == 0


def test_l5_the_high_watermark_never_falls_within_an_epoch() -> None:
    c = Cluster(flush="replicated")
    leader = c.brokers[1]
    leader.send()
    c.fetch(2, 2)
    c.fetch(3, 2)
    assert leader.leading.high_watermark == 1
    c.change(flush="fsync")  # nothing is flushed

    assert leader.leading.flushes
    assert leader.leading.high_watermark == 1


def test_l3_with_too_few_in_sync_acks_all_is_refused_with_nothing_written() -> None:
    c = Cluster(isr=[1])
    leader = c.brokers[1]
    with pytest.raises(RetryError, match="1 of 3 replicas in sync, and min_isr is 2") as caught:
        leader.send()
    assert caught.value.code is Code.NOT_ENOUGH_REPLICAS
    assert caught.value.retriable
    assert leader.log.end_offset == 0

    leader.send(acks=1)
    assert leader.log.end_offset == 1


def test_l10_a_document_of_another_epoch_ends_this_one() -> None:
    c = Cluster()
    leader = c.brokers[1].leading
    c.elect(2, 2, 3)
    document, revision = c.known
    leader.changed(document, revision)

    assert leader.is_deposed
    assert leader.isr.document.leader_epoch == 1  # what it still commits needs its own members


def test_l14_caught_up_means_that_all_from_before_the_epoch_is_known_to_be_committed() -> None:
    c = Cluster()
    c.brokers[1].send()
    c.brokers[1].flush()
    c.fetch(2)
    c.elect(2)
    assert not c.brokers[2].leading.is_caught_up
    c.fetch(1, 2)
    c.fetch(3, 2)

    assert c.brokers[2].leading.is_caught_up
    assert c.brokers[2].leading.place == PLACE


def test_l3_nothing_is_committed_by_a_log_that_has_failed() -> None:
    # The broker goes on with the only copy, and may be elected once more (seed 6003).
    c = Cluster(1, flush="replicated")
    leader = c.brokers[1]
    leader.send()
    leader.log.fail(StorageError("EIO"))
    leader.leading.high_watermark = 0  # what it knew of this log before

    assert not leader.leading.advance()
    assert leader.leading.high_watermark == 0
