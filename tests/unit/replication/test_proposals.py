"""What a leader changes in its document: who joins, who leaves, and the flush mode
(L7, L8, L9, D12, D13, C7)."""

from __future__ import annotations

from dataclasses import replace

from tests.support.replicas import KEYS, MS, PLACE, Cluster, S
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.store import AmbiguousError, Commit, Delete, If, UnavailableError
from zmqmq.core.replication.proposals import Proposal

LOST = AmbiguousError("no answer")


def proposed(c: Cluster, leader: int = 1) -> Proposal:
    proposal = c.propose(leader)
    assert proposal is not None
    return proposal


def members(proposal: Proposal) -> list[int]:
    return [member.broker_id for member in proposal.document.isr]


# Joining


def test_l7_a_follower_joins_once_it_has_fetched_all() -> None:
    c = Cluster(isr=[1, 2])
    assert c.propose(1) is None
    c.fetch(3)
    c.settle_isr(1)

    assert c.isr == [1, 2, 3]
    assert c.brokers[1].leading.isr.document == c.document


def test_l7_a_join_is_guarded_by_the_document_and_both_live_keys() -> None:
    c = Cluster(isr=[1, 2])
    c.fetch(3)

    assert set(proposed(c).ifs) == {
        If(KEYS.partition(*PLACE), "mod", "==", c.known[1]),
        If(KEYS.live(1), "create", "==", c.brokers[1].epoch),
        If(KEYS.live(3), "create", "==", c.brokers[3].epoch),
    }


def test_l7_a_follower_below_the_high_watermark_does_not_join() -> None:
    c = Cluster(isr=[1, 2])
    c.fetch(3)
    c.shutting_down[3] = None  # or it would be waited for
    c.brokers[1].send()
    c.brokers[1].flush()
    c.fetch(2, 2)
    c.shutting_down.clear()
    assert c.brokers[1].leading.high_watermark == 1

    assert c.propose(1) is None


def test_l7_a_follower_below_leso_does_not_join_although_the_high_watermark_is_lower() -> None:
    """KAFKA-7128: what the leader before committed is not yet known here to be committed."""
    c = Cluster(isr=[1, 2])
    c.brokers[1].send()
    c.brokers[1].flush()
    c.fetch(2)
    c.answer(1, c.ask(2))  # and lost: 2 does not know that it is committed
    assert c.brokers[1].leading.high_watermark == 1
    c.elect(2)
    leader = c.brokers[2].leading
    asked = c.ask(3)
    reply = c.answer(2, asked)  # and lost: it has nothing of it
    assert (leader.high_watermark, leader.isr.leso) == (0, 1)
    assert c.propose(2) is None
    c.deliver(asked, *reply)
    c.brokers[3].flush()
    c.fetch(3)

    assert members(proposed(c, 2)) == [1, 2, 3]


def test_l7_under_fsync_a_follower_joins_with_what_is_flushed() -> None:
    c = Cluster(isr=[1, 2])
    c.brokers[1].send()
    c.brokers[1].flush()
    c.fetch(2, 2)
    c.fetch(3, flush=False)
    follower, session = c.brokers[3], c.brokers[1].sessions.of(3)
    assert session is not None
    session.entries[PLACE] = follower.following.listed()
    assert c.brokers[1].leading.fetched(c.now_ns, session) is None
    assert session.entries[PLACE].written == 1

    assert c.propose(1) is None


def test_l7_nobody_joins_who_is_shutting_down_or_not_registered_as_it_fetched() -> None:
    c = Cluster(isr=[1, 2])
    c.fetch(3)
    c.shutting_down[3] = None
    assert c.propose(1) is None
    c.shutting_down.clear()
    c.register(3)

    assert c.propose(1) is None


def test_l7_a_broker_that_is_no_replica_is_no_follower() -> None:
    c = Cluster(isr=[1, 2])
    c.change(1, 2, replicas=(1, 2))
    c.fetch(3)

    assert not c.brokers[1].leading.isr.followers
    assert c.propose(1) is None


def test_l7_a_follower_that_has_registered_anew_meanwhile_does_not_get_in() -> None:
    c = Cluster(isr=[1, 2])
    c.fetch(3)
    proposal = proposed(c)
    c.register(3)
    c.ended(1, c.commit(proposal))

    assert c.isr == [1, 2]
    assert c.brokers[1].leading.isr.maximal() == c.document.isr


def test_l7_a_broker_whose_earlier_run_is_a_member_waits_until_that_is_out() -> None:
    c = Cluster(min_isr=1)
    c.change(isr=(*c.document.isr[:2], Member(3, 1)))
    c.fetch(2)
    c.fetch(3)
    assert c.propose(1) is None
    c.change(isr=c.document.isr[:2])

    assert members(proposed(c)) == [1, 2, 3]


def test_c7_nobody_joins_before_the_leader_has_cleared_recovering() -> None:
    c = Cluster(isr=[1], recovering=True, min_isr=1)
    c.fetch(2)
    proposal = proposed(c)

    assert not proposal.document.recovering
    assert members(proposal) == [1]
    c.ended(1, c.commit(proposal))
    assert members(proposed(c)) == [1, 2]


# Leaving


def test_l8_a_member_that_is_behind_for_3_s_leaves() -> None:
    c = Cluster()
    c.fetch(2)
    c.fetch(3)
    c.brokers[1].send()
    c.now_ns += 2900 * MS
    c.fetch(2, 2)
    assert c.propose(1) is None
    c.now_ns += 200 * MS

    assert members(proposed(c)) == [1, 2]


def test_l8_nobody_leaves_who_has_everything_however_long_it_is_silent() -> None:
    c = Cluster()
    c.fetch(2)
    c.fetch(3)
    for _ in range(40):
        c.now_ns += 500 * MS
        assert c.propose(1) is None
    c.brokers[1].send()

    assert c.propose(1) is None


def test_l8_a_follower_that_keeps_up_with_a_busy_leader_stays() -> None:
    """It never has everything, but always what there was when it last asked."""
    c = Cluster(2)
    for _ in range(20):
        asked = c.ask(2)
        reply = c.answer(1, asked)
        c.now_ns += 500 * MS
        c.brokers[1].send()
        c.deliver(asked, *reply)
        c.brokers[2].flush()
        assert c.propose(1) is None


def test_l8_a_follower_that_falls_ever_further_behind_leaves() -> None:
    c = Cluster(2, min_isr=1)
    c.brokers[1].send()
    for _ in range(5):
        for _ in range(3):
            c.brokers[1].send()
        asked = c.ask(2)
        c.deliver(asked, *c.answer(1, asked, max_bytes=1))
        c.brokers[2].flush()
        c.now_ns += 1000 * MS

    assert members(proposed(c)) == [1]


def test_l8_a_member_that_never_came_leaves_once_somebody_waits_for_it() -> None:
    c = Cluster()
    c.fetch(2)
    c.now_ns += 10 * S
    assert c.propose(1) is None
    c.brokers[1].send()

    assert members(proposed(c)) == [1, 2]


def test_l8_below_min_isr_those_who_leave_stay_eligible() -> None:
    c = Cluster()
    c.brokers[1].send()
    c.now_ns += 4 * S
    c.settle_isr(1)

    assert c.isr == [1]
    assert [m.broker_id for m in c.document.elr] == [2, 3]


# What becomes of a proposal


def test_l9_one_change_is_in_flight_at_a_time() -> None:
    c = Cluster(isr=[1])
    c.fetch(2)
    c.fetch(3)
    first = proposed(c)
    assert members(first) == [1, 2]
    assert c.propose(1) is None
    c.ended(1, c.commit(first))

    assert members(proposed(c)) == [1, 2, 3]


def test_l9_a_leader_that_lost_the_race_takes_over_what_stands_there() -> None:
    c = Cluster(isr=[1, 2])
    c.fetch(3)
    proposal = proposed(c)
    c.change(2, min_isr=1)  # the controller; the watch of the leader is late
    c.ended(1, c.commit(proposal))

    assert c.brokers[1].leading.isr.document == c.document
    assert members(proposed(c)) == [1, 2, 3]


def test_l9_a_leader_that_was_replaced_learns_it_from_its_commit() -> None:
    c = Cluster(isr=[1, 2])
    c.fetch(3)
    proposal = proposed(c)
    c.elect(2, 2)
    c.ended(1, c.commit(proposal))
    c.now_ns += S

    assert c.brokers[1].leading.is_deposed
    assert c.propose(1) is None


def test_l9_after_a_definite_failure_nothing_is_pending_and_it_is_tried_again() -> None:
    c = Cluster(isr=[1, 2])
    c.fetch(3)
    proposed(c)
    c.ended(1, UnavailableError("away"))
    assert c.brokers[1].leading.isr.maximal() == c.document.isr
    assert c.propose(1) is None
    c.now_ns += S

    assert members(proposed(c)) == [1, 2, 3]


def test_l9_while_the_outcome_is_unknown_the_joiner_counts() -> None:
    c = Cluster(isr=[1, 2])
    c.fetch(3)
    proposed(c)
    c.ended(1, LOST)

    assert [m.broker_id for m in c.brokers[1].leading.isr.maximal()] == [1, 2, 3]


def test_d13_an_unknown_outcome_is_forced_under_the_same_guard() -> None:
    c = Cluster(isr=[1, 2])
    c.fetch(3)
    first = proposed(c)
    c.ended(1, LOST)
    c.now_ns += S
    second = proposed(c)

    assert second.document == replace(c.document, write_id=second.document.write_id)
    assert second.document.write_id != first.document.write_id
    assert set(second.ifs) < set(first.ifs)
    late = c.commit(second)
    assert not c.commit(first).ok
    c.ended(1, late)
    assert members(proposed(c)) == [1, 2, 3]


def test_d13_a_commit_that_landed_late_is_found_by_the_one_that_forces() -> None:
    c = Cluster(isr=[1, 2])
    c.fetch(3)
    first = proposed(c)
    c.ended(1, LOST)
    c.now_ns += S
    second = proposed(c)
    assert c.commit(first).ok
    c.ended(1, c.commit(second))

    assert c.brokers[1].leading.isr.document == c.document
    assert c.isr == [1, 2, 3]


def test_d13_a_refusal_by_a_live_key_does_not_settle_an_earlier_attempt() -> None:
    c = Cluster(isr=[1, 2])
    c.fetch(3)
    first = proposed(c)
    c.ended(1, LOST)
    c.now_ns += S
    second = proposed(c)
    refused = without_live_key(c, second)
    c.ended(1, refused)

    assert [m.broker_id for m in c.brokers[1].leading.isr.maximal()] == [1, 2, 3]
    assert c.commit(first).ok


def without_live_key(c: Cluster, proposal: Proposal) -> Commit:
    """The outcome, had our live key been gone just then."""
    never = If(KEYS.live(1), "create", "==", 10**6)
    return c.store.commit(proposal.ops, (*proposal.ifs, never))


def test_d13_a_leader_without_a_live_key_commits_nothing() -> None:
    c = Cluster(isr=[1, 2])
    c.fetch(3)
    c.store.commit([Delete(KEYS.live(1))])

    assert c.propose(1) is None


def test_l9_the_watch_may_tell_before_the_answer_does() -> None:
    c = Cluster(isr=[1, 2])
    c.fetch(3)
    proposal = proposed(c)
    outcome = c.commit(proposal)
    c.see(1)
    assert c.propose(1) is None  # the answer is still to come
    c.ended(1, outcome)

    assert c.brokers[1].leading.isr.document == c.document
    assert c.propose(1) is None


# The flush mode


def wish(c: Cluster, flush: str) -> None:
    for broker in c.brokers.values():
        broker.log.config = replace(broker.log.config, flush=flush)


def switching() -> Cluster:
    """Everything replicated and flushed everywhere, and the topic now wants fsync."""
    c = Cluster(flush="replicated")
    c.brokers[1].send()
    c.brokers[1].flush()
    c.fetch(2, 2)
    c.fetch(3, 2)
    wish(c, "fsync")
    return c


def test_d12_the_leader_makes_fsync_effective_once_all_have_flushed_all() -> None:
    c = switching()
    proposal = proposed(c)
    assert proposal.document.flush == "fsync"
    c.ended(1, c.commit(proposal))

    assert c.document.flush == "fsync"
    assert c.brokers[1].leading.flushes


def test_d12_back_to_replicated_is_at_once() -> None:
    c = Cluster()
    wish(c, "replicated")
    c.settle_isr(1)

    assert c.document.flush == "replicated"
    assert not c.brokers[1].leading.flushes


def test_d12_1_progress_is_measured_in_flushed_offsets_from_the_wish_on() -> None:
    c = switching()
    c.brokers[1].send()
    c.propose(1)
    c.fetch(2, 2, flush=False)
    c.fetch(3, 2, flush=False)

    assert c.brokers[1].leading.high_watermark == 1


def test_d12_1_and_until_the_change_is_known_not_to_have_happened() -> None:
    c = switching()
    proposed(c)
    c.ended(1, LOST)
    wish(c, "replicated")
    c.now_ns += S
    c.propose(1)
    c.brokers[1].send()
    c.fetch(2, 2, flush=False)
    c.fetch(3, 2, flush=False)

    assert c.brokers[1].leading.high_watermark == 1


def test_d12_2_not_while_somebody_is_in_the_elr() -> None:
    c = switching()
    c.change(isr=c.document.isr[:2], elr=c.document.isr[2:])

    assert not c.brokers[1].leading._proposals.may_flush(1)


def test_d12_3_not_before_the_leader_has_flushed() -> None:
    c = Cluster(2, flush="replicated")
    c.brokers[1].send()
    c.fetch(2, 2)
    wish(c, "fsync")
    assert c.brokers[1].leading.high_watermark == 1
    assert c.propose(1) is None
    c.brokers[1].flush()

    assert proposed(c).document.flush == "fsync"


def test_d12_3_not_before_every_member_has_flushed() -> None:
    c = Cluster(2, flush="replicated")
    c.brokers[1].send()
    c.brokers[1].flush()
    c.fetch(2, 2, flush=False)
    wish(c, "fsync")
    assert c.brokers[1].leading.high_watermark == 1
    assert c.propose(1) is None
    c.brokers[2].flush()
    c.fetch(2)

    assert proposed(c).document.flush == "fsync"


def test_d12_3_a_report_of_an_earlier_run_does_not_count() -> None:
    c = switching()
    c.change(isr=(*c.document.isr[:2], Member(3, 1)))

    assert not c.brokers[1].leading._proposals.all_flushed(1)


def test_d12_4_not_while_another_change_is_in_flight() -> None:
    c = switching()
    c.change(isr=c.document.isr[:2])
    proposal = proposed(c)

    assert members(proposal) == [1, 2, 3]
    assert proposal.document.flush == "replicated"
    assert c.propose(1) is None
