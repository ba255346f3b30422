"""What is evidence that a broker has failed, and what is not (DESIGN 6, decision 13)."""

from __future__ import annotations

import pytest

from zmqmq.core.control.detector import DEAF_NS, GONE_NS, LOOK_NS, PING_NS, SILENT_NS, Detector
from zmqmq.core.meta.fields import Member

ME, TWO, THREE, FOUR = Member(1, 10), Member(2, 20), Member(3, 30), Member(4, 40)


class Looking:
    """Broker 1's detector, and its clock. These others are registered, and have answered."""

    def __init__(self, *others: Member) -> None:
        self.detector = Detector()
        self.others = {member.broker_id: member.broker_epoch for member in others}
        self.now = 10**9
        self.look()
        for member in others:
            self.hear(member)

    def look(self) -> None:
        self.detector.look(self.now, self.others)

    def hear(self, member: Member, *suspects: Member) -> None:
        self.detector.answered(member, suspects)

    def wait(self, ns: int, *heard: Member) -> None:
        """So much time goes by, and these answer all the while."""
        end = self.now + ns
        while self.now < end:
            self.now = min(self.now + LOOK_NS, end)
            self.look()
            for member in heard:
                self.hear(member)

    @property
    def failed(self) -> list[Member]:
        return self.detector.failed(ME, self.others)


# Gone


def test_one_whose_connection_broke_and_who_does_not_answer_anew_is_gone() -> None:
    looking = Looking(TWO)
    looking.detector.broke(2)
    looking.wait(GONE_NS - 1)
    assert looking.failed == []
    looking.wait(1)
    assert looking.failed == [TWO]
    assert looking.detector.suspects() == [TWO]


def test_nobody_waits_for_one_that_was_connected_and_refuses_a_new_connection() -> None:
    looking = Looking(TWO)
    looking.detector.refused(2)
    assert looking.failed == []
    looking.detector.broke(2)
    looking.detector.refused(2)
    assert looking.failed == [TWO]


def test_breaking_again_does_not_begin_anew() -> None:
    looking = Looking(TWO)
    for _ in range(2):
        looking.detector.broke(2)
        looking.wait(GONE_NS // 2)
    assert looking.failed == [TWO]


def test_one_that_answers_on_a_new_connection_is_there() -> None:
    looking = Looking(TWO)
    looking.detector.broke(2)
    looking.wait(GONE_NS - 1)
    looking.hear(TWO)
    looking.wait(GONE_NS)
    assert looking.failed == []


def test_nothing_is_said_of_a_run_that_was_never_heard() -> None:
    """Only that another one was: or who cannot be reached would be fenced for ever."""
    looking = Looking(TWO)
    looking.others = {2: 21}
    looking.detector.broke(2)
    looking.wait(2 * SILENT_NS)
    assert looking.failed == []


# Silent


def test_where_there_is_no_other_its_own_finding_is_enough() -> None:
    looking = Looking(TWO)
    looking.wait(SILENT_NS - 1)
    assert looking.failed == []
    looking.wait(1)
    assert looking.failed == [TWO]


def test_what_others_are_told_is_a_little_early() -> None:
    looking = Looking(TWO)
    looking.wait(SILENT_NS - PING_NS - 1)
    assert looking.detector.suspects() == []
    looking.wait(1)
    assert looking.detector.suspects() == [TWO]


def test_one_that_sends_other_things_is_not_silent() -> None:
    """Its answer waits behind them. Whether its connection is new they do not tell."""
    looking = Looking(TWO)
    looking.detector.broke(2)
    for _ in range(5):
        looking.wait(SILENT_NS // 2)
        looking.detector.heard(2)
    assert not looking.detector.is_silent(2)
    assert looking.failed == [TWO]


def test_time_in_which_this_process_stood_still_proves_nothing() -> None:
    looking = Looking(TWO)
    looking.detector.broke(2)
    looking.now += 60 * 10**9
    looking.look()
    assert looking.failed == []
    assert looking.detector.suspects() == []


# What the others say


@pytest.mark.parametrize("is_gone", [True, False])
def test_another_one_has_to_find_the_same(is_gone: bool) -> None:
    looking = Looking(TWO, THREE)
    if is_gone:
        looking.detector.broke(2)
    looking.wait(SILENT_NS, THREE)
    assert looking.failed == []
    looking.hear(THREE, Member(2, 19))
    assert looking.failed == []
    looking.hear(THREE, TWO)
    assert looking.failed == [TWO]


def test_one_that_does_not_hear_us_is_no_witness() -> None:
    """It may be the sick one, that accuses everybody."""
    looking = Looking(TWO, THREE, FOUR)
    looking.wait(SILENT_NS, THREE, FOUR)
    looking.hear(THREE, TWO, ME, FOUR)
    assert looking.failed == []
    looking.hear(FOUR, TWO)
    assert looking.failed == [TWO]


def test_one_whose_own_connection_broke_is_no_witness() -> None:
    looking = Looking(TWO, THREE)
    looking.hear(THREE, TWO)
    for broker_id in (2, 3):
        looking.detector.broke(broker_id)
    looking.wait(GONE_NS)
    assert looking.failed == []


def test_who_hears_nobody_counts_no_silence() -> None:
    """Else the first pair that hears one another again would fence all the rest."""
    looking = Looking(TWO, THREE, FOUR)
    looking.wait(10 * SILENT_NS)
    assert looking.detector.suspects() == []
    looking.hear(THREE, TWO, FOUR)
    looking.wait(DEAF_NS, THREE)
    assert looking.failed == []


def test_others_are_asked_when_somebody_seems_to_be_gone_just_now() -> None:
    looking = Looking(TWO, THREE)
    looking.detector.broke(2)
    assert not looking.detector.is_pressing()
    looking.wait(GONE_NS, THREE)
    assert looking.detector.is_pressing()
    looking.wait(SILENT_NS, THREE)
    assert not looking.detector.is_pressing()
