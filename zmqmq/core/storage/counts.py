"""What a log has had to do since it was opened."""

from __future__ import annotations

from typing import NamedTuple


class Counts(NamedTuple):
    """At one moment."""

    batches_in: int = 0
    bytes_in: int = 0
    reads_out: int = 0
    """By clients, and what is pushed to them, once for all; replicas are not counted."""
    bytes_out: int = 0

    def since(self, before: Counts) -> Counts:
        """What came between two moments."""
        return Counts(*(now - then for now, then in zip(self, before, strict=True)))


class Counters:
    """The same, as it grows."""

    __slots__ = ("batches_in", "bytes_in", "bytes_out", "reads_out")

    def __init__(self) -> None:
        self.batches_in = self.bytes_in = self.reads_out = self.bytes_out = 0

    def took(self, size: int) -> None:
        """So many bytes were appended as a batch."""
        self.batches_in += 1
        self.bytes_in += size

    def sent(self, size: int) -> None:
        """So many bytes were read and sent."""
        self.reads_out += 1
        self.bytes_out += size

    def read(self) -> Counts:
        """As they stand."""
        return Counts(self.batches_in, self.bytes_in, self.reads_out, self.bytes_out)
