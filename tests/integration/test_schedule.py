"""Schedules are what a seed says, can be written down, and keep to the budget."""

from __future__ import annotations

import pytest

from integration.faults import KINDS, Planned, takes_of
from integration.processes import BROKERS, MEMBERS
from integration.schedule import draw


@pytest.mark.parametrize("seed", range(20))
def test_a_schedule_can_be_repeated(seed: int) -> None:
    schedule = draw(seed, 100, BROKERS, MEMBERS)
    assert schedule == draw(seed, 100, BROKERS, MEMBERS)
    assert [Planned.parse(str(plan)) for plan in schedule] == schedule
    assert {plan.kind for plan in schedule} == set(KINDS)


@pytest.mark.parametrize("seed", range(20))
def test_no_two_faults_need_the_same_part_of_a_node(seed: int) -> None:
    taken: dict[object, int] = {}
    until = together = 0
    for plan in draw(seed, 100, BROKERS, MEMBERS):
        for part in takes_of(plan, BROKERS, MEMBERS):
            assert taken.get(part, 0) <= plan.at_ms, f"{part} is wanted twice: {plan}"
            taken[part] = plan.at_ms + plan.duration_ms
        together += until > plan.at_ms
        until = max(until, plan.at_ms + plan.duration_ms)
    assert together > 30, "hardly ever more than one at once"


@pytest.mark.parametrize("line", ["1.0 kill b1 2.0", "1.0 hug b1 2.0 0", "1.0 one-way b1 2.0 3"])
def test_what_is_no_fault_is_refused(line: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        Planned.parse(line)
