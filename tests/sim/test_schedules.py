"""Where the failure schedules of research/replication.md are: 1-35 of its section 9, and the seven
directed ones of its section 12.1. Each is a test `test_schedule_NN_…` or `test_directed_…` in
tests/sim/schedules:

    test_logs        logs that part and are cut: 1-3, 5-7, 12, 18, 20, 21, 23; trunc_keeps_flushed
    test_isr         who is in sync, and what waits for whom: 4, 8-10, 15-17, 24, 26, 35
    test_elections   who may lead, and what a disk is worth: 11, 13, 14, 19, 27-34; mode_keeps_elr
    test_recoveries  elections that may lose something (D8, D9)
    test_health      brokers that fail while their leases last (decision 13; not of section 9)
    test_clients     producers and coordinators over a change of the leader: 37
    test_machines    too fine for whole brokers: 25; alone_below_min, mode_hw_only,
                     round_any_fetch, round_committed_isr, stale_epoch_entry

Those that do not concern what exists:

    22      KAFKA-9807: read_committed and the last stable offset; there are no transactions yet
    36-56   but for 37: transactions, groups, queues, delays and the clients' buffers

Some are told in the terms of this broker. 13: nobody looks for the last known leader; what is left
of it is that the ELR is never emptied while it holds the only candidates. 16: nobody is told
"fenced" for good; a refused commit shows what stands in the store. 28: there are no majorities;
what is left is that a run that has forgotten is none of the last members. 32: a reassignment is
guarded by the version of the document, and never counted in quorums.
"""

from __future__ import annotations

import importlib
import re

import pytest

from tests.sim.mutants import SCHEDULES

CONCERNED = [number for number in range(1, 36) if number != 22]
DIRECTED = [
    "alone_below_min",
    "mode_hw_only",
    "mode_keeps_elr",
    "round_any_fetch",
    "round_committed_isr",
    "stale_epoch_entry",
    "trunc_keeps_flushed",
]


def functions() -> dict[str, str | None]:
    """The docstring of each test by its name."""
    return {
        name: function.__doc__
        for module in map(importlib.import_module, SCHEDULES)
        for name, function in vars(module).items()
        if name.startswith("test_")
    }


@pytest.mark.parametrize("number", CONCERNED)
def test_every_schedule_that_concerns_what_exists_is_a_test(number: int) -> None:
    assert any(name.startswith(f"test_schedule_{number:02}_") for name in functions())


@pytest.mark.parametrize("name", DIRECTED)
def test_every_directed_schedule_is_a_test(name: str) -> None:
    assert any(found.startswith(f"test_directed_{name}") for found in functions())


@pytest.mark.parametrize("name", sorted(functions()))
def test_every_schedule_says_what_happens_and_which_rule_helps(name: str) -> None:
    doc = functions()[name]
    assert doc
    rules = re.search(r"\(?\b([LFCDPI]\d+|KIP-\d+|decision \d+)\b", doc)
    assert rules or not name.startswith(("test_schedule_", "test_directed_"))
