"""Schedules: drawn from a seed before anything runs, so that they can be printed and repeated."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from integration.faults import KINDS, Part, Planned, Target, takes_of

PACE_MS: Final = (300, 3_500)
"""So far apart faults begin."""
STEP_MS: Final = 100
GAP_MS: Final = 1_500
"""Between two that need the same part of a node."""
TRIES_MAX: Final = 50


def draw(
    seed: int,
    count: int,
    brokers: Sequence[str],
    members: Sequence[str],
    kinds: Sequence[str] = tuple(KINDS),
) -> list[Planned]:
    """So many faults. Every kind comes before any comes again."""
    random = Random(f"schedule/{seed}")
    taken: dict[tuple[str, Part], int] = {}
    plans: list[Planned] = []
    deck: list[str] = []
    at = 0
    while len(plans) < count:
        if not deck:
            deck = list(kinds)
            random.shuffle(deck)
        kind = deck.pop()
        at += random.randrange(*PACE_MS, STEP_MS)
        for _ in range(TRIES_MAX):
            plan = _draw_one(random, at, kind, brokers, members)
            takes = takes_of(plan, brokers, members)
            if all(taken.get(part, 0) <= at for part in takes):
                break
            at += random.randrange(*PACE_MS, STEP_MS)
        else:
            continue
        taken |= dict.fromkeys(takes, at + plan.duration_ms + GAP_MS)
        plans.append(plan)
    return plans


def _draw_one(
    random: Random, at: int, kind: str, brokers: Sequence[str], members: Sequence[str]
) -> Planned:
    found = KINDS[kind]
    nodes = {
        Target.BROKERS: ["all"],
        Target.MEMBER: members,
        Target.MEMBERS: ["all"],
    }.get(found.target, brokers)
    lasts = random.randrange(*found.lasts_ms, STEP_MS)
    return Planned(at, kind, random.choice(nodes), lasts, random.choice(found.amounts))
