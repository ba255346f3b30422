"""How a broken invariant is told."""

from __future__ import annotations


class InvariantError(Exception):
    """What must hold after every step does not. The text is the whole story."""

    def __init__(self, rule: str, story: str) -> None:
        super().__init__(f"{rule}: {story}")
        self.rule = rule
        """Its number in the list of invariants, or that of the rule of replication."""
