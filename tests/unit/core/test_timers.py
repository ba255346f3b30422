"""Deadlines: whoever is due is told once, in order, and whoever is done is not told."""

from __future__ import annotations

from zmqmq.core.broker.timers import Timers


class Waiter:
    def __init__(self) -> None:
        self.done = False

    def expire(self) -> None:
        self.done = True


def test_those_that_are_due_come_in_the_order_of_their_deadlines() -> None:
    timers, waiters = Timers(), [Waiter() for _ in range(3)]
    for deadline, waiter in zip((30, 10, 20), waiters, strict=True):
        timers.add(deadline, waiter)

    assert list(timers.due(9)) == []
    assert list(timers.due(20)) == [waiters[1], waiters[2]]
    assert list(timers.due(20)) == []
    assert list(timers.due(99)) == [waiters[0]]


def test_who_is_done_is_skipped_and_does_not_hide_others() -> None:
    timers, early, late = Timers(), Waiter(), Waiter()
    timers.add(10, early)
    timers.add(20, late)
    early.expire()

    assert list(timers.due(20)) == [late]


def test_the_next_deadline_says_when_to_look_again() -> None:
    timers = Timers()
    assert timers.next_ns is None
    timers.add(30, Waiter())
    timers.add(10, Waiter())

    assert timers.next_ns == 10


def test_those_that_are_done_do_not_pile_up() -> None:
    timers = Timers()
    for at in range(10_000):
        waiter = Waiter()
        waiter.done = at % 100 != 0
        timers.add(10_000 - at, waiter)

    assert len(timers._heap) < 2_300
    assert len(list(timers.due(10_000))) == 100
