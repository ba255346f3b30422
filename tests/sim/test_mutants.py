"""The simulation is honest: a broker without one of its rules is found out (mutants.py).

A schedule that catches a mutant passes without it, as a test of its own; a seed that does is run
here without it too."""

from __future__ import annotations

import contextlib
from functools import cache

import pytest

from tests.sim import find_mutants
from tests.sim.driven import Driven
from tests.sim.mutants import Mutant, all_mutants
from zmqmq.sim.checkers import Violation
from zmqmq.sim.run import run
from zmqmq.sim.violation import InvariantError

MUTANTS = all_mutants()
BY_SCHEDULE = [
    pytest.param(mutant, number, id=f"{mutant.name}-{number}")
    for mutant in MUTANTS
    for number in range(len(mutant.schedules))
]
BY_SEED = [pytest.param(mutant, id=mutant.name) for mutant in MUTANTS if mutant.seeds]


def test_the_document_tells_of_them() -> None:
    text = find_mutants.DOCUMENT.read_text()

    assert find_mutants.document(text) == text, "`python -m tests.sim.find_mutants` writes it"


def test_there_are_enough_and_each_is_caught() -> None:
    assert len(MUTANTS) >= 40
    assert all(mutant.schedules or mutant.seeds for mutant in MUTANTS)


@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.name) for mutant in MUTANTS])
def test_it_serves_as_long_as_nothing_goes_wrong(
    mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would be caught for being no broker at all."""
    mutant.apply(monkeypatch)
    with contextlib.suppress(InvariantError):  # some break one at once
        world = Driven()
        world.send_acked()
        world.finish()


@pytest.mark.parametrize(("mutant", "number"), BY_SCHEDULE)
def test_a_schedule_catches_it(
    mutant: Mutant, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = mutant.find_schedules()[number]
    mutant.apply(monkeypatch)
    with pytest.raises((AssertionError, InvariantError)):
        schedule()


@pytest.mark.parametrize("mutant", BY_SEED)
def test_a_seed_catches_it(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own, or else one that was recorded for another mutant: whatever changes the order of
    things makes another world of every seed."""
    others = (seed for other in MUTANTS for seed in other.seeds)
    mutant.apply(monkeypatch)
    for seed in dict.fromkeys((*mutant.seeds, *others)):
        if run(seed).violations:
            monkeypatch.undo()
            assert not violations_of(seed)
            return
    pytest.fail("`python -m tests.sim.find_mutants` looks for other seeds")


@cache
def violations_of(seed: int) -> list[Violation]:
    """Those of the broker as it is."""
    return run(seed).violations
