"""Every rule of replication is named where it is kept, and where it is tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COUNTS = {"L": 17, "F": 12, "C": 12, "D": 14}
REPLACED = {"L12", "L13"}
"""By D10 and D11: a lease gives no authority."""
RULES = [
    f"{letter}{number}"
    for letter, count in COUNTS.items()
    for number in range(1, count + 1)
    if f"{letter}{number}" not in REPLACED
]
RANGE = re.compile(r"\b([LFCD])(\d+)-(?:\1)?(\d+)\b")


def rules_in(*folders: str) -> set[str]:
    """The rules that the Python files below these folders name, also as `L15-L17` and in names of
    tests."""
    found: set[str] = set()
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text()
            found.update(re.findall(r"\b[LFCD]\d+\b", text))
            found.update(rule.upper() for rule in re.findall(r"_([lfcd]\d+)_", text))
            for letter, first, last in RANGE.findall(text):
                found.update(f"{letter}{n}" for n in range(int(first), int(last) + 1))
    return found


@pytest.mark.parametrize(
    "folders",
    [
        pytest.param(("zmqmq/core", "zmqmq/wire", "zmqmq/client/machines"), id="kept"),
        pytest.param(
            ("tests/unit/control", "tests/unit/replication", "tests/unit/core", "tests/sim"),
            id="tested",
        ),
    ],
)
def test_every_rule_is_named(folders: tuple[str, ...]) -> None:
    named = rules_in(*folders)
    assert [rule for rule in RULES if rule not in named] == []
