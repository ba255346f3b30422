"""What is evidence that a broker has failed, and what is not (DESIGN 6, decision 13)."""

from __future__ import annotations

from collections.abc import Sequence

from zmqmq.core.control.detector import GONE_NS, LOOK_NS, PING_NS, SILENT_NS, Detector
from zmqmq.core.meta.fields import Member

TWO, THREE = Member(2, 20), Member(3, 30)
ALL = {2: 20, 3: 30}
"""Who is registered besides broker 1, which looks."""


class Looking:
    """Broker 1's detector, and its clock."""

    def __init__(self, *members: Member) -> None:
        self.detector = Detector()
        self.now = 10**9
        self.detector.look(self.now)
        for member in members:
            self.hear(member)

    def hear(self, member: Member, suspects: Sequence[Member] = ()) -> None:
        self.detector.answered(member, suspects)

    def wait(self, ns: int, *heard: Member) -> None:
        """So much time goes by, and these answer all the while."""
        end = self.now + ns
        while self.now < end:
            self.now = min(self.now + LOOK_NS, end)
            self.detector.look(self.now)
            for member in heard:
                self.hear(member)


def test_one_whose_connection_broke_and_who_does_not_answer_anew_is_gone() -> None:
    looking = Looking(TWO, THREE)
    looking.detector.broke(2)
    looking.wait(GONE_NS - 1, THREE)
    assert looking.detector.failed(ALL) == []
    looking.wait(1, THREE)
    assert looking.detector.failed(ALL) == [TWO]
    assert looking.detector.suspects() == [TWO]


def test_breaking_again_does_not_begin_anew() -> None:
    looking = Looking(TWO)
    for _ in range(2):
        looking.detector.broke(2)
        looking.wait(GONE_NS // 2)
    assert looking.detector.failed(ALL) == [TWO]


def test_one_that_answers_on_a_new_connection_is_there() -> None:
    looking = Looking(TWO)
    looking.detector.broke(2)
    looking.wait(GONE_NS - 1)
    looking.hear(TWO)
    looking.wait(GONE_NS)
    assert looking.detector.failed(ALL) == []


def test_nothing_is_said_of_a_run_that_was_never_heard() -> None:
    """Only that another one was: or who cannot be reached would be fenced for ever."""
    looking = Looking(TWO)
    looking.detector.broke(2)
    looking.detector.broke(3)
    looking.wait(2 * SILENT_NS)
    assert looking.detector.failed({2: 21, 3: 30}) == []


def test_one_that_is_silent_has_failed_if_another_finds_the_same() -> None:
    looking = Looking(TWO, THREE)
    looking.wait(SILENT_NS, THREE)
    assert looking.detector.failed(ALL) == []
    looking.hear(THREE, [Member(2, 19)])
    assert looking.detector.failed(ALL) == []
    looking.hear(THREE, [TWO])
    assert looking.detector.failed(ALL) == [TWO]


def test_where_there_is_no_other_its_own_finding_is_enough() -> None:
    looking = Looking(TWO)
    looking.wait(SILENT_NS - 1)
    assert looking.detector.failed({2: 20}) == []
    looking.wait(1)
    assert looking.detector.failed({2: 20}) == [TWO]


def test_one_that_hears_nobody_may_be_cut_off_itself() -> None:
    looking = Looking(TWO, THREE)
    looking.hear(THREE, [TWO])
    looking.wait(SILENT_NS + 1)
    assert looking.detector.failed(ALL) == []


def test_what_others_are_told_is_a_little_early() -> None:
    looking = Looking(TWO)
    looking.wait(SILENT_NS - PING_NS - 1)
    assert looking.detector.suspects() == []
    looking.wait(1)
    assert looking.detector.suspects() == [TWO]


def test_time_in_which_this_process_stood_still_proves_nothing() -> None:
    looking = Looking(TWO, THREE)
    looking.hear(THREE, [TWO])
    looking.detector.broke(3)
    looking.now += 60 * 10**9
    looking.detector.look(looking.now)
    assert looking.detector.failed(ALL) == []
    assert looking.detector.suspects() == []
