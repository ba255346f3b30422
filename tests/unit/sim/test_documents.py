"""Which version of a partition document may follow another (I7, I9, I29, D8)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NoReturn

import pytest

from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.sim.documents import check_leaders_step, check_step

A, B, C = Member(1, 10), Member(2, 20), Member(3, 30)
DOCUMENT = PartitionDocument(
    replicas=(1, 2, 3),
    adding=(),
    removing=(),
    leader=A,
    leader_epoch=5,
    isr=(A, B),
    elr=(),
    last_leader=None,
    min_isr=2,
    recovering=False,
    rec=0,
    write_id="1.10.5.7",
    flush="replicated",
)
ALONE = replace(DOCUMENT, isr=(A,), elr=(B, C))
MOVING = replace(DOCUMENT, replicas=(1, 2, 3, 4), removing=(4,), isr=(A, B, C))


class Broken(Exception):  # noqa: N818 - what a test waits for
    """With the rule."""


def broken(rule: str, _: str) -> NoReturn:
    raise Broken(rule)


STEPS = {
    "another leader in the same epoch": (DOCUMENT, {"leader": B}, "I29"),
    "an epoch without a reason": (DOCUMENT, {"leader_epoch": 6}, "I29"),
    "an epoch left out": (DOCUMENT, {"leader": B, "leader_epoch": 7}, "I7"),
    "a stranger in the ELR": (DOCUMENT, {"isr": (A,), "elr": (B, C)}, "I29"),
    "one who left without a trace": (DOCUMENT, {"isr": (A,)}, "I29"),
    "an ELR that is forgotten": (ALONE, {"elr": (B,)}, "I29"),
    "a loss with a leader": (DOCUMENT, {"rec": 5}, "D8"),
    "recovering without a loss": (DOCUMENT, {"recovering": True}, "I29"),
    "a replica that left in the same epoch": (
        MOVING,
        {"replicas": (1, 2, 3), "removing": ()},
        "I29",
    ),
}
LEADERS_STEPS = {
    "one who does not lead": (DOCUMENT, {"isr": (A, B, C), "write_id": "2.20.5.1"}, "I9"),
    "a leader of an older epoch": (DOCUMENT, {"isr": (A, B, C), "write_id": "1.10.4.1"}, "I9"),
    "more than the ISR": (DOCUMENT, {"min_isr": 1}, "I29"),
    "two at once": (ALONE, {"isr": (A, B, C), "elr": ()}, "I29"),
    "one comes and one goes": (DOCUMENT, {"isr": (A, C)}, "I29"),
    "one comes while it recovers": (
        replace(DOCUMENT, recovering=True),
        {"isr": (A, B, C)},
        "I29",
    ),
    "fsync beside an ELR": (ALONE, {"flush": "fsync"}, "I29"),
}
GOOD_STEPS = {
    "one comes": (DOCUMENT, {"isr": (A, B, C)}),
    "one goes": (DOCUMENT, {"isr": (A,), "elr": (B,)}),
    "one comes back": (ALONE, {"isr": (A, B), "elr": ()}),
    "it has recovered": (replace(DOCUMENT, recovering=True), {"recovering": False}),
    "fsync": (DOCUMENT, {"flush": "fsync"}),
}
Steps = tuple[PartitionDocument, dict[str, Any], str]


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_version_that_may_not_follow(step: Steps) -> None:
    before, changes, rule = step
    with pytest.raises(Broken, match=rule):
        check_step(before, replace(before, **changes), broken)


@pytest.mark.parametrize("step", LEADERS_STEPS.values(), ids=LEADERS_STEPS)
def test_a_version_that_no_leader_may_write(step: Steps) -> None:
    before, changes, rule = step
    with pytest.raises(Broken, match=rule):
        check_leaders_step(before, replace(before, **changes), broken)


@pytest.mark.parametrize("step", GOOD_STEPS.values(), ids=GOOD_STEPS)
def test_a_version_that_may_follow(step: tuple[PartitionDocument, dict[str, Any]]) -> None:
    before, changes = step
    after = replace(before, **changes)
    check_step(before, after, broken)
    check_leaders_step(before, after, broken)
