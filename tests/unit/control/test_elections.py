"""What the controller makes of one document (C3-C10, D6-D8, D12)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.documents import PLACE, broker, check_i8, members, partition, up
from zmqmq.core.control.elections import (
    Brokers,
    Report,
    Wishes,
    guards,
    preferred,
    recover,
    recovery_members,
    settle,
    unclean,
)
from zmqmq.core.control.reassignment import begun, cancelled
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.errors import Code, WireError

WISHES = Wishes(2, "fsync")
HEALTHY = partition(leader=(1, 1), isr=[(1, 1), (2, 2), (3, 3)])
ALL = up(broker(1, 1), broker(2, 2), broker(3, 3))


def settled(
    document: PartitionDocument,
    brokers: Brokers,
    wishes: Wishes = WISHES,
    changed: PartitionDocument | None = None,
) -> PartitionDocument:
    """What settle makes of it; that must need no second look."""
    after = settle(document, PLACE, wishes, brokers, changed)
    assert after is not None
    check_i8(after)
    assert settle(after, PLACE, wishes, brokers) is None
    return after


def test_c2_what_is_as_it_should_be_stays() -> None:
    assert settle(HEALTHY, PLACE, WISHES, ALL) is None


# C3, C5, C6: brokers that are gone


def test_c3_c6_a_follower_that_is_gone_leaves_the_isr_in_the_same_leader_epoch() -> None:
    after = settled(HEALTHY, up(broker(1, 1), broker(3, 3)))
    assert after == replace(HEALTHY, isr=members([(1, 1), (3, 3)]))


def test_c5_another_run_of_a_follower_is_not_the_one_in_the_isr() -> None:
    after = settled(HEALTHY, up(broker(1, 1), broker(2, 9, 2, 2), broker(3, 3)))
    assert after.isr == members([(1, 1), (3, 3)])
    assert (after.leader, after.leader_epoch) == (Member(1, 1), 5)


def test_c3_below_the_least_the_gone_ones_are_kept_in_mind() -> None:
    after = settled(HEALTHY, up(broker(1, 1)))
    assert (after.isr, after.elr) == (members([(1, 1)]), members([(2, 2), (3, 3)]))


def test_c4_the_first_of_the_isr_in_the_assigned_order_leads() -> None:
    document = partition((3, 1, 2), leader=(3, 3), isr=[(2, 2), (1, 1), (3, 3)])
    after = settled(document, up(broker(1, 1), broker(2, 2)))
    assert (after.leader, after.leader_epoch) == (Member(1, 1), 6)
    assert guards(document, after, ALL) == (Member(1, 1),)


def test_c4_one_that_stays_before_one_that_stops() -> None:
    after = settled(HEALTHY, up(broker(2, 2, stops=True), broker(3, 3)))
    assert (after.leader, after.isr, after.elr) == (
        Member(3, 3), members([(3, 3)]), members([(1, 1), (2, 2)])
    )  # fmt: skip


def test_c4_one_that_stops_is_better_than_nobody() -> None:
    after = settled(HEALTHY, up(broker(2, 2, stops=True)))
    assert after.leader == Member(2, 2)


def test_c4_nobody_left() -> None:
    after = settled(HEALTHY, {})
    assert (after.leader, after.isr, after.leader_epoch) == (None, (), 6)
    assert after.elr == HEALTHY.isr
    assert after.last_leader == 1
    assert guards(HEALTHY, after, {}) == ()
    assert settle(after, PLACE, WISHES, {}) is None  # and no epoch is used up while it lasts


def test_c4_from_the_elr_only_when_the_isr_is_empty() -> None:
    document = partition(leader=(3, 3), isr=[(3, 3)], elr=[(1, 1), (2, 2)])
    assert settle(document, PLACE, WISHES, ALL) is None
    after = settled(document, up(broker(1, 1), broker(2, 2)))
    assert (after.leader, after.isr) == (Member(1, 1), members([(1, 1)]))
    assert after.elr == members([(2, 2), (3, 3)])


def test_c4_an_elr_alone_that_is_enough_ends_the_others() -> None:
    document = partition(elr=[(1, 1), (2, 2)], min_isr=1, last_leader=3)
    after = settled(document, up(broker(2, 2)), Wishes(1, "fsync"))
    assert (after.leader, after.isr, after.elr) == (Member(2, 2), members([(2, 2)]), ())
    assert after.last_leader is None


def test_c4_never_the_last_leader_because_it_led() -> None:
    """KAFKA-19522: it is here, it does not vouch, so it does not lead."""
    document = partition(elr=[(1, 1)], last_leader=1)
    assert settle(document, PLACE, WISHES, up(broker(1, 9))) is None


@pytest.mark.parametrize("epochs", [(9,), (8, 9, 12)])
def test_d4_one_replica_is_back_after_kill_9_however_often(epochs: tuple[int, ...]) -> None:
    document = partition((1,), leader=(1, 3), isr=[(1, 3)], min_isr=1)
    after = settled(document, up(broker(1, epochs[-1], since_fsync=3)), Wishes(1, "fsync"))
    assert (after.leader, after.leader_epoch) == (Member(1, epochs[-1]), 6)
    assert (after.isr, after.elr) == (members([(1, epochs[-1])]), ())


def test_d4_by_mode_a_kill_is_survived_under_fsync_alone() -> None:
    document = partition((1,), leader=(1, 3), isr=[(1, 3)], min_isr=1, flush="replicated")
    back = up(broker(1, 9, since_fsync=3, since_clean=9))
    after = settled(document, back, Wishes(1, "replicated"))
    assert (after.leader, after.elr) == (None, members([(1, 3)]))
    clean = up(broker(1, 9, since_fsync=3, since_clean=3))
    assert settled(document, clean, Wishes(1, "replicated")).leader == Member(1, 9)


def test_d6_who_does_not_vouch_stays_in_the_elr_without_counting() -> None:
    document = partition(leader=(1, 1), isr=[(1, 1)], elr=[(2, 2)])
    after = settled(document, up(broker(1, 9)))
    assert (after.leader, after.elr) == (None, members([(1, 1), (2, 2)]))
    later = settled(after, up(broker(1, 9), broker(2, 9, since_fsync=2)))
    assert (later.leader, later.elr) == (Member(2, 9), members([(1, 1)]))


# C10: controlled shutdown


def test_c10_a_leader_that_stops_hands_over() -> None:
    after = settled(HEALTHY, up(broker(1, 1, stops=True), broker(2, 2), broker(3, 3)))
    assert (after.leader, after.leader_epoch) == (Member(2, 2), 6)
    assert after.isr == members([(2, 2), (3, 3)])


def test_c10_a_follower_that_stops_leaves_in_the_same_leader_epoch() -> None:
    after = settled(HEALTHY, up(broker(1, 1), broker(2, 2, stops=True), broker(3, 3)))
    assert (after.leader, after.leader_epoch) == (Member(1, 1), 5)
    assert after.isr == members([(1, 1), (3, 3)])


def test_c10_the_last_one_keeps_what_it_has() -> None:
    document = partition(leader=(1, 1), isr=[(1, 1)], elr=[(2, 2)])
    assert settle(document, PLACE, WISHES, up(broker(1, 1, stops=True), broker(2, 9))) is None


def test_c10_all_that_stop_together_keep_what_they_have() -> None:
    stopping = up(*(broker(i, i, stops=True) for i in (1, 2, 3)))
    assert settle(HEALTHY, PLACE, WISHES, stopping) is None


def test_c10_the_flag_is_about_one_run() -> None:
    known = broker(1, 9, stops=True)
    assert known.flags is not None
    older = replace(known, flags=replace(known.flags, broker_epoch=1))
    assert known.is_shutting_down
    assert not older.is_shutting_down


# C8


def test_c8_the_first_replica_leads_again() -> None:
    document = replace(HEALTHY, leader=Member(3, 3))
    after = preferred(document, ALL)
    assert after == replace(HEALTHY, leader_epoch=6)
    assert guards(document, after, ALL) == (Member(1, 1),)


@pytest.mark.parametrize(
    ("document", "brokers"),
    [
        (HEALTHY, ALL),
        (partition(leader=(3, 3), isr=[(2, 2), (3, 3)]), ALL),
        (partition(elr=[(1, 1)]), ALL),
        (replace(HEALTHY, leader=Member(3, 3), recovering=True), ALL),
        (replace(HEALTHY, leader=Member(3, 3)), up(broker(1, 9, 1, 1), broker(3, 3))),
        (replace(HEALTHY, leader=Member(3, 3)), up(broker(1, 1, stops=True), broker(3, 3))),
        (replace(HEALTHY, leader=Member(3, 3)), up(broker(3, 3))),
    ],
    ids=["leads", "not in sync", "leaderless", "recovering", "another run", "stops", "gone"],
)
def test_c8_only_who_can_lead_at_once(document: PartitionDocument, brokers: Brokers) -> None:
    assert preferred(document, brokers) is None


# D7, D12: what the topic wishes


def test_d7_the_topics_least_isr_comes_into_force() -> None:
    below = partition(leader=(1, 1), isr=[(1, 1)], elr=[(2, 2)])
    after = settled(below, ALL, Wishes(1, "fsync"))
    assert (after.min_isr, after.elr, after.leader_epoch) == (1, (), 5)
    assert settled(HEALTHY, ALL, Wishes(3, "fsync")).min_isr == 3


def test_d7_and_an_election_at_once_lose_no_candidate() -> None:
    after = settled(HEALTHY, {}, Wishes(1, "fsync"))
    assert (after.min_isr, after.elr) == (1, HEALTHY.isr)


def test_d12_to_replicated_at_once_to_fsync_never() -> None:
    assert settled(HEALTHY, ALL, Wishes(2, "replicated")).flush == "replicated"
    replicated = replace(HEALTHY, flush="replicated")
    assert settle(replicated, PLACE, WISHES, ALL) is None


def test_d12_an_election_of_the_same_write_is_still_by_the_old_mode() -> None:
    document = partition((1,), leader=(1, 3), isr=[(1, 3)], min_isr=1)
    after = settled(document, up(broker(1, 9, since_fsync=3)), Wishes(1, "replicated"))
    assert (after.leader, after.flush) == (Member(1, 9), "replicated")


# D8 and C7


def report(broker_id: int, broker_epoch: int, last: int, end: int, leader_epoch: int = 5) -> Report:
    return Report(PLACE, broker_id, broker_epoch, leader_epoch, last, end)


def by_broker(*reports: Report) -> dict[int, Report]:
    return {each.broker_id: each for each in reports}


FORGOTTEN = partition(elr=[(1, 1), (2, 2)], flush="replicated", last_leader=1)
BACK = up(broker(1, 11), broker(2, 12), broker(3, 13))


@pytest.mark.parametrize(
    ("first", "second", "elected"),
    [((4, 7), (4, 9), 2), ((4, 9), (4, 7), 1), ((3, 99), (4, 1), 2), ((4, 7), (4, 7), 1),
     ((-1, 0), (0, 1), 2)],
)  # fmt: skip
def test_d8_the_longest_log_of_all_last_members_leads(
    first: tuple[int, int], second: tuple[int, int], elected: int
) -> None:
    reports = by_broker(report(1, 11, *first), report(2, 12, *second), report(3, 13, 9, 99))
    after = recover(FORGOTTEN, PLACE, BACK, reports)
    assert after is not None
    check_i8(after)
    leader = Member(elected, 10 + elected)
    assert (after.leader, after.isr, after.elr) == (leader, (leader,), ())
    assert (after.leader_epoch, after.rec, after.recovering) == (6, 6, False)
    assert sorted(guards(FORGOTTEN, after, BACK)) == [(1, 11), (2, 12)]


@pytest.mark.parametrize(
    ("document", "brokers"),
    [
        (replace(FORGOTTEN, flush="fsync"), BACK),
        (FORGOTTEN, up(broker(1, 11), broker(3, 13))),
        (FORGOTTEN, up(broker(1, 11), broker(2, 12, since_clean=2))),
        (replace(FORGOTTEN, elr=()), BACK),
        (partition(leader=(1, 11), isr=[(1, 11)], flush="replicated"), BACK),
    ],
    ids=["fsync", "a member is away", "a member vouches", "no members", "is led"],
)
def test_d8_no_recovery_election(document: PartitionDocument, brokers: Brokers) -> None:
    reports = by_broker(report(1, 11, 4, 7), report(2, 12, 4, 7), report(3, 13, 4, 7))
    assert recovery_members(document, PLACE, brokers) is None
    assert recover(document, PLACE, brokers, reports) is None


@pytest.mark.parametrize(
    "late",
    [
        None,
        report(2, 2, 4, 7),
        report(2, 12, 4, 7, leader_epoch=4),
        report(2, 12, 4, 7)._replace(place=(PLACE[0], 1)),
    ],
    ids=["none", "of an earlier run", "before adopting the epoch", "of another partition"],
)
def test_d8_every_report_counts_for_its_run_and_epoch(late: Report | None) -> None:
    reports = by_broker(report(1, 11, 4, 7))
    if late is not None:
        reports[2] = late
    assert recovery_members(FORGOTTEN, PLACE, BACK) == (1, 2)
    assert recover(FORGOTTEN, PLACE, BACK, reports) is None


def test_c7_the_longest_log_of_those_who_are_there() -> None:
    document = partition(elr=[(1, 1)], last_leader=1)
    brokers = up(broker(2, 12), broker(3, 13))
    reports = by_broker(report(2, 12, 4, 7), report(3, 13, 4, 9))
    after = unclean(document, PLACE, brokers, reports)
    assert after is not None
    check_i8(after)
    assert (after.leader, after.elr) == (Member(3, 13), ())
    assert (after.leader_epoch, after.rec, after.recovering) == (6, 6, True)
    assert guards(document, after, brokers) == (Member(3, 13),)
    assert settle(after, PLACE, WISHES, brokers) is None


def test_c7_nobody_who_is_gone_and_nobody_while_it_is_led() -> None:
    assert unclean(partition(elr=[(1, 1)]), PLACE, {}, by_broker(report(2, 12, 4, 7))) is None
    assert unclean(HEALTHY, PLACE, ALL, by_broker(report(1, 1, 4, 7))) is None


# Rule C9: a partition moves


def test_c9_begin_adds_and_waits() -> None:
    target = begun(HEALTHY, (4, 2))
    assert (target.replicas, target.adding, target.removing) == ((4, 2, 1, 3), (4,), (1, 3))
    four = up(*ALL.values(), broker(4, 4))
    after = settled(HEALTHY, four, Wishes(2, "fsync"), target)
    assert after == target


def test_c9_an_order_alone_is_done_at_once() -> None:
    after = settled(HEALTHY, ALL, WISHES, begun(HEALTHY, (3, 1, 2)))
    assert (after.replicas, after.adding, after.removing) == ((3, 1, 2), (), ())
    assert after.leader_epoch == 5


def test_c9_c6_all_new_ones_in_sync_ends_it_with_a_new_leader_epoch() -> None:
    document = replace(begun(HEALTHY, (4, 2)), isr=members([(4, 4), (2, 2), (1, 1), (3, 3)]))
    after = settled(document, up(*ALL.values(), broker(4, 4)))
    assert (after.replicas, after.adding, after.removing) == ((4, 2), (), ())
    assert (after.leader, after.leader_epoch) == (Member(4, 4), 6)
    assert after.isr == members([(4, 4), (2, 2)])


def test_c9_c6_the_epoch_rises_also_if_the_leader_stays() -> None:
    document = begun(HEALTHY, (1, 2))
    after = settled(HEALTHY, ALL, Wishes(1, "fsync"), document)
    assert (after.leader, after.leader_epoch) == (Member(1, 1), 6)
    assert after.replicas == (1, 2)


def test_c9_a_new_one_that_dies_is_waited_for() -> None:
    document = replace(begun(HEALTHY, (4, 2)), isr=members([(4, 4), (2, 2), (1, 1), (3, 3)]))
    after = settled(document, ALL)
    assert (after.replicas, after.adding) == ((4, 2, 1, 3), (4,))


def test_c9_a_second_target_goes_on_from_the_first() -> None:
    first = begun(HEALTHY, (4, 2))
    second = begun(first, (5, 2))
    assert second.replicas == (5, 2, 4, 1, 3)
    assert (second.adding, second.removing) == ((5,), (4, 1, 3))
    assert begun(first, (4, 2)) == first


@pytest.mark.parametrize("target", [(), (1, 1), tuple(range(10, 24))])
def test_c9_what_cannot_be_is_refused(target: tuple[int, ...]) -> None:
    with pytest.raises(WireError) as error:
        begun(HEALTHY, target)
    assert error.value.code is Code.INVALID_CONFIG


def test_c9_cancel_goes_back() -> None:
    document = replace(
        begun(HEALTHY, (4, 2)), leader=Member(4, 4), isr=members([(4, 4), (2, 2), (1, 1)])
    )
    after = settled(document, up(*ALL.values(), broker(4, 4)), WISHES, cancelled(document))
    assert sorted(after.replicas) == [1, 2, 3]
    assert (after.adding, after.removing, after.leader_epoch) == ((), (), 6)
    assert after.leader in (Member(1, 1), Member(2, 2))


def test_c9_cancel_needs_an_old_one_in_sync() -> None:
    document = replace(begun(HEALTHY, (4, 2)), leader=Member(4, 4), isr=members([(4, 4)]))
    for wrong in (document, HEALTHY):
        with pytest.raises(WireError) as error:
            cancelled(wrong)
        assert error.value.code is Code.CONFLICT
