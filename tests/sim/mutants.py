"""Brokers and readers without one of their rules: the simulation must notice (research/style.md
3.4).

A mutant takes one rule away from the code as it is, by monkeypatch; the product has no switch for
that. It is caught if a schedule fails that passes otherwise, or a seed of the simulation has a
violation that it has not otherwise. `all_mutants` are those of mutants_*.py, and
docs/testing-mutants.md says which is caught by what (find_mutants.py).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import pytest

Patch = pytest.MonkeyPatch
Schedule = Callable[[], None]

MODULES: Final = (
    "mutants_replication",
    "mutants_control",
    "mutants_storage",
    "mutants_broker",
    "mutants_push",
)
SCHEDULES: Final = (
    "tests.sim.schedules.test_logs",
    "tests.sim.schedules.test_isr",
    "tests.sim.schedules.test_elections",
    "tests.sim.schedules.test_recoveries",
    "tests.sim.schedules.test_clients",
    "tests.sim.schedules.test_machines",
    "tests.sim.schedules.test_copies",
    "tests.sim.schedules.test_pushes",
)


@dataclass(frozen=True)
class Mutant:
    """A broker or a reader without one rule."""

    name: str
    rule: str
    """Its number in research/replication.md, or, with U, in docs/testing-mutants.md."""
    what: str
    """What is done without it."""
    apply: Callable[[Patch], None]
    schedules: tuple[str, ...]
    """Names of test functions, or how they begin."""
    seeds: tuple[int, ...]

    def find_schedules(self) -> list[Schedule]:
        """The functions; each must pass, and must fail with the mutant."""
        return [find_schedule(name) for name in self.schedules]


_found: dict[str, Mutant] = {}


def mutant(
    rule: str, *, schedules: Sequence[str] = (), seeds: Sequence[int] = ()
) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Declare one: its name is that of the function, and the docstring says what it does."""

    def declare(apply: Callable[[Patch], None]) -> Callable[[Patch], None]:
        name = apply.__name__
        assert name not in _found, name
        assert apply.__doc__, name
        what = " ".join(apply.__doc__.split())
        _found[name] = Mutant(name, rule, what, apply, tuple(schedules), tuple(seeds))
        return apply

    return declare


def always(value: object) -> Callable[..., object]:
    """A function that says nothing else, whatever it is given."""
    return lambda *_, **__: value


def all_mutants() -> list[Mutant]:
    """Every one that is declared."""
    for module in MODULES:
        importlib.import_module(f"tests.sim.{module}")
    return list(_found.values())


def find_schedule(name: str) -> Schedule:
    """The one test function whose name, without `test_`, begins so."""
    functions = {
        function: getattr(module, function)
        for module in map(importlib.import_module, SCHEDULES)
        for function in vars(module)
        if function.startswith(f"test_{name}")
    }
    assert len(functions) == 1, f"{name}: {list(functions)}"
    return next(iter(functions.values()))
