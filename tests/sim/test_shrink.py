"""A failing run is made small, and stays a failing run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from zmqmq.sim.checkers import Violation
from zmqmq.sim.faults import Fault, dump, load
from zmqmq.sim.node import SECOND
from zmqmq.sim.run import Result, run
from zmqmq.sim.shrink import Shrinker, command

LOST = Violation("lost", "t/0", "", ())
SEED = 7


def result_of(
    schedule: Sequence[Fault] | None, fails: Callable[[list[str]], bool], seconds: int
) -> Result:
    kinds = [f.kind for f in schedule or () if f.at < seconds * SECOND]
    return Result(SEED, violations=[LOST] if fails(kinds) else [])


@pytest.fixture
def first() -> Result:
    """Of a real run, so that there are faults and clients to leave out."""
    result = run(SEED)
    assert len(result.schedule) > 20
    result.violations.append(LOST)
    return result


def test_what_is_not_needed_is_left_out(first: Result) -> None:
    kinds = [fault.kind for fault in first.schedule]
    needed = (kinds[3], kinds[17])
    said: list[str] = []

    def attempt(
        seed: int, schedule: Sequence[Fault], *, seconds: int, without: Sequence[str]
    ) -> Result:
        assert seed == SEED
        if "p1" in without:
            return Result(SEED)
        return result_of(schedule, lambda found: all(kind in found for kind in needed), seconds)

    shrinker = Shrinker(SEED, first, said.append, attempt)
    case = shrinker.shrink()

    assert sorted(fault.kind for fault in case.schedule) == sorted(set(needed))
    assert all(fault in first.schedule for fault in case.schedule)
    assert case.seconds == max(fault.at for fault in case.schedule) // SECOND + 1
    assert "p1" not in case.without
    assert "c1" in case.without
    assert shrinker.runs < 200
    assert said


def test_another_violation_does_not_count(first: Result) -> None:
    other = Violation("duplicate", "t/0", "", ())
    shrinker = Shrinker(
        SEED, first, lambda _: None, lambda *_, **__: Result(SEED, violations=[other])
    )

    assert shrinker.shrink().schedule == tuple(first.schedule)


def test_what_fails_without_any_fault_ends_with_none(first: Result) -> None:
    shrinker = Shrinker(
        SEED, first, lambda _: None, lambda *_, **__: Result(SEED, violations=[LOST])
    )
    case = shrinker.shrink()

    assert case.schedule == ()
    assert case.seconds == 1
    assert command(SEED, case, "f.json").startswith("python -m zmqmq.sim 7 --seconds 1")


def test_a_schedule_survives_its_file(first: Result) -> None:
    assert load(dump(first.schedule)) == first.schedule


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[[1, "flood", "b1", 2, 0]]', "'flood' is unknown"),
        ('[[1, "kill"]]', "a fault is"),
        ("[", "Expecting value"),
    ],
)
def test_a_bad_file_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        load(text)


def test_a_schedule_of_its_own_replaces_that_of_the_seed() -> None:
    (fault,) = schedule = [Fault(SECOND, "kill", "all", SECOND)]

    result = run(SEED, schedule, seconds=3)

    assert not result.violations
    assert result.faults == {fault.kind: 1}
