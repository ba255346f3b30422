"""Who vouches (D4, D5), and what goes with a change of ISR, least ISR or replicas (L8, D6, D7)."""

from __future__ import annotations

import pytest

from tests.support.documents import PLACE, check_i8, members, partition
from zmqmq.core.meta.fields import Member
from zmqmq.core.replication.transitions import (
    with_isr,
    with_member,
    with_min_isr,
    with_replicas,
)
from zmqmq.core.replication.vouching import Registration, vouches

OTHER = (PLACE[0], 1)


@pytest.mark.parametrize(
    ("entry_epoch", "registration", "fsync", "replicated"),
    [
        # Nobody, and the run itself.
        (7, None, False, False),
        (7, Registration(7, None, None, {}), True, True),
        # D4: a range of earlier epochs, its beginning by the mode.
        (7, Registration(9, 5, None, {}), True, False),
        (7, Registration(9, 5, 7, {}), True, True),
        (7, Registration(9, 5, 8, {}), True, False),
        (4, Registration(9, 5, 5, {}), False, False),
        (7, Registration(9, None, 5, {}), False, True),
        # An epoch that is not over in the store's order is no earlier one.
        (11, Registration(9, 5, 5, {}), False, False),
        # D5: damaged partitions; another one is none of theirs.
        (7, Registration(9, 5, 5, {PLACE: None}), False, False),
        (7, Registration(9, 5, 5, {PLACE: 8}), False, False),
        (8, Registration(9, 5, 5, {PLACE: 8}), True, True),
        (6, Registration(9, 7, 7, {PLACE: 2}), False, False),
        (7, Registration(9, 5, 5, {OTHER: None}), True, True),
        (9, Registration(9, 5, 5, {PLACE: None}), True, True),
    ],
)
def test_d4_d5_who_vouches(
    entry_epoch: int, registration: Registration | None, fsync: bool, replicated: bool
) -> None:
    entry = Member(1, entry_epoch)
    assert vouches(entry, registration, PLACE, "fsync") is fsync
    assert vouches(entry, registration, PLACE, "replicated") is replicated


def test_d4_stopping_twice_before_anybody_looks_still_vouches() -> None:
    """The mend of prev_epoch: 5 -> 8 -> 9 with an entry of epoch 5."""
    assert vouches(Member(1, 5), Registration(9, 5, None, {}), PLACE, "fsync")


def test_l8_enough_in_sync_leaves_no_elr() -> None:
    document = partition(leader=(1, 1), isr=[(1, 1)], elr=[(2, 2), (3, 3)])
    after = with_isr(document, members([(1, 1), (2, 9)]))
    assert (after.isr, after.elr) == (members([(1, 1), (2, 9)]), ())
    check_i8(after)


def test_l8_who_leaves_below_the_least_is_eligible() -> None:
    document = partition(leader=(1, 1), isr=[(1, 1), (2, 2), (3, 3)])
    two = with_isr(document, document.isr[:2])
    assert (two.isr, two.elr) == (members([(1, 1), (2, 2)]), ())
    one = with_isr(two, two.isr[:1])
    assert (one.isr, one.elr) == (members([(1, 1)]), members([(2, 2)]))


def test_l8_a_new_incarnation_replaces_the_old_one_in_both() -> None:
    document = partition(min_isr=3, leader=(1, 1), isr=[(1, 1), (3, 3)], elr=[(2, 2)])
    after = with_member(document, Member(2, 8))
    assert (after.isr, after.elr) == (members([(1, 1), (2, 8), (3, 3)]), ())
    again = with_member(with_isr(document, members([(1, 1)])), Member(3, 9))
    assert (again.isr, again.elr) == (members([(1, 1), (3, 9)]), members([(2, 2)]))


def test_members_stand_in_the_order_of_the_replicas() -> None:
    document = partition((3, 1, 2), leader=(1, 1), isr=[(1, 1)])
    assert with_isr(document, members([(2, 2), (1, 1), (3, 3)])).isr == members(
        [(3, 3), (1, 1), (2, 2)]
    )


def test_l5_fewer_replicas_than_the_least_isr_are_all_of_them() -> None:
    document = partition((1,), leader=(1, 1), isr=[(1, 1)], min_isr=2)
    assert document.effective_min_isr == 1
    assert with_isr(document, ()).elr == members([(1, 1)])
    assert with_isr(document, document.isr).elr == ()


def test_d7_a_lower_least_isr_ends_the_elr_if_somebody_can_commit() -> None:
    document = partition(leader=(1, 1), isr=[(1, 1)], elr=[(2, 2)])
    assert with_min_isr(document, 1).elr == ()
    assert with_min_isr(document, 2) == document
    assert with_min_isr(document, 3).elr == members([(2, 2)])


def test_d7_without_an_isr_the_elr_stays() -> None:
    document = partition(elr=[(1, 1), (2, 2)])
    assert with_min_isr(document, 1).elr == document.elr


def test_d7_fewer_replicas_lower_the_least_isr_too() -> None:
    document = partition((1, 2, 3), leader=(1, 1), isr=[(1, 1)], elr=[(2, 2), (3, 3)], min_isr=3)
    after = with_replicas(document, (1, 2))
    assert (after.effective_min_isr, after.elr) == (2, ())
    check_i8(after)


def test_c9_who_goes_leaves_isr_and_elr() -> None:
    document = partition((1, 2, 3, 4), leader=(2, 2), isr=[(2, 2), (4, 4)], min_isr=2)
    after = with_replicas(document, (4, 1))
    assert (after.replicas, after.isr, after.elr) == ((4, 1), members([(4, 4)]), ())
