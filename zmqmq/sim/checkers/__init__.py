"""Checkers: each looks for breaches of one promise in what the clients saw, and nowhere else.

A checker for something new (groups, queues, transactions, delays) is a function from the facts to
violations, and an entry in `CHECKERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from zmqmq.sim.checkers.facts import Allowed, Facts, Violation
from zmqmq.sim.checkers.reading import (
    latest_reads_are_latest,
    logs_begin_where_they_should,
    polls_are_gapless,
    readers_are_not_refused,
)
from zmqmq.sim.checkers.records import (
    acknowledged_is_kept,
    appends_follow_real_time,
    everything_read_was_sent,
    nothing_is_doubled,
    one_value_an_offset,
    order_is_kept,
    read_is_kept,
)
from zmqmq.sim.checkers.registers import commits_are_kept, topics_are_as_ordered
from zmqmq.sim.history import Entry

__all__ = ["CHECKERS", "Allowed", "Facts", "Violation", "check"]

Checker = Callable[[Facts], Iterable[Violation]]

CHECKERS: Final[tuple[Checker, ...]] = (
    acknowledged_is_kept,
    one_value_an_offset,
    everything_read_was_sent,
    order_is_kept,
    nothing_is_doubled,
    appends_follow_real_time,
    polls_are_gapless,
    read_is_kept,
    readers_are_not_refused,
    latest_reads_are_latest,
    logs_begin_where_they_should,
    commits_are_kept,
    topics_are_as_ordered,
)


def check(
    entries: Sequence[Entry],
    allowed: Allowed | None = None,
    checkers: Sequence[Checker] = CHECKERS,
) -> list[Violation]:
    """Everything that is wrong with a history, checker by checker."""
    facts = Facts(entries, allowed or Allowed())
    return [violation for checker in checkers for violation in checker(facts)]
