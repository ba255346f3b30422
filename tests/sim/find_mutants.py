"""Looks for seeds that catch mutants, and writes the table of docs/testing-mutants.md.

python -m tests.sim.find_mutants                       write the table
python -m tests.sim.find_mutants FROM TO [NAME ...]    look among these seeds, the short ones first
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.sim.mutants import Mutant, all_mutants
from zmqmq.sim.run import run

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "testing-mutants.md"
BEGIN: Final = "<!-- mutants -->"
END: Final = "<!-- end: mutants -->"
RULES: Final = "LFCDPU"
"""In this order they stand in the table."""


def document(text: str) -> str:
    """The document with the table of now."""
    before, start, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"{DOCUMENT} has lost its markers"
    return f"{before}{start}\n{_table()}{end}{after}"


def _table() -> str:
    mutants = sorted(all_mutants(), key=lambda m: (RULES.index(m.rule[0]), int(m.rule[1:]), m.name))
    rows = [f"| `{m.name}` | {m.rule} | {m.what} | {_catchers(m)} |" for m in mutants]
    head = ["| mutant | rule | without it | caught by |", "|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def _catchers(mutant: Mutant) -> str:
    names = [schedule.__name__.removeprefix("test_") for schedule in mutant.find_schedules()]
    return ", ".join([*(f"`{name}`" for name in names), *(f"seed {s}" for s in mutant.seeds)])


def search(first: int, last: int, names: Sequence[str]) -> None:
    """Print the first seed that catches each; one that fails without it counts for nothing."""
    left = [m for m in all_mutants() if m.name in names or not names]
    lengths: dict[int, float] = {}
    for seed in range(first, last):
        began = time.process_time()
        if not run(seed).violations:
            lengths[seed] = time.process_time() - began
    for tried, seed in enumerate(sorted(lengths, key=lambda seed: lengths[seed]), start=1):
        for mutant in tuple(left):
            with pytest.MonkeyPatch.context() as patch:
                mutant.apply(patch)
                violations = run(seed).violations
            if violations:
                left.remove(mutant)
                print(f"{mutant.name}: seed {seed}, the {tried}., {violations[0].kind}", flush=True)  # noqa: T201
    print("not caught:", *(mutant.name for mutant in left))  # noqa: T201


if __name__ == "__main__":
    if len(sys.argv) > 1:
        search(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    else:
        DOCUMENT.write_text(document(DOCUMENT.read_text()))
