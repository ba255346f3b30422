"""All the randomness of a simulation: one seed, and a stream of its own for every purpose.

Separate streams keep one fault from reshuffling the rest: a schedule with a fault less still has
the same delays everywhere else, so a failing one can be shrunk (reliability.md 5.1).

Text seeds a generator through SHA-512, so neither the hash seed of the process nor the order in
which streams are first asked for matters.
"""

from __future__ import annotations

from random import Random
from typing import Final

Stream = Random
"""A stream of chance. Of its methods use `random`, `randrange`, `choice`, `sample` and `shuffle`:
those which take logarithms depend on the C library."""

PARTS: Final = 1_000_000
"""Odds are given in parts of a million."""


class Chance:
    """The streams of one seed, by name."""

    __slots__ = ("_streams", "seed")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, Stream] = {}

    def stream(self, name: str) -> Stream:
        """The stream of this name, always the same object."""
        stream = self._streams.get(name)
        if stream is None:
            stream = Random(f"{self.seed}/{name}")  # noqa: S311 - hides nothing
            self._streams[name] = stream
        return stream


def happens(stream: Stream, parts: int) -> bool:
    """Whether something with these odds, in parts of a million, comes to pass."""
    return stream.random() * PARTS < parts
