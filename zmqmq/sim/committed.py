"""What is committed in a partition, as nobody in the simulation knows it: every batch that any
leader has committed, and what was lost with a flag (D8, C7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zmqmq.sim.observed import Batch, Fail, Shadow


@dataclass(slots=True)
class Loss:
    """A flagged election: what was acknowledged there before may be gone, and is no violation."""

    topic: str
    partition: int
    rec: int
    """Leader epochs below this one are concerned (D9)."""
    start: int
    end: int
    """Offsets that were committed and are not any more; grows as long as an old leader goes on."""
    at_ns: int


class Committed:
    """The committed batches of one partition."""

    __slots__ = ("_sequences", "end", "is_compacted", "shadow")

    def __init__(self) -> None:
        self.end = 0
        """The true high watermark."""
        self.shadow = Shadow(0)
        self.is_compacted = False
        """In copies batches may be replaced by smaller ones, or covered by others."""
        self._sequences: dict[tuple[int, int, int], Batch] = {}

    def grow(self, batches: Sequence[Batch], end: int, fail: Fail) -> None:
        """A leader has committed these (I11, I13)."""
        for batch in batches:
            if batch.base != self.shadow.end:
                fail("I11", f"batch {batch} was committed behind offset {self.shadow.end}")
            self.shadow.add(batch)
            self._note_producer(batch, fail)
        if self.shadow.end != end:
            fail("I3", f"{end} is committed, and lies within a batch")
        self.end = end

    def _note_producer(self, batch: Batch, fail: Fail) -> None:
        if batch.producer is None:
            return
        first = self._sequences.setdefault(batch.producer, batch)
        if first is not batch:
            fail(
                "I13",
                f"(producer, epoch, sequence) {batch.producer} is committed as {first} and again "
                f"as {batch}",
            )

    def cut(self, to: int) -> None:
        """The rest was lost, and flagged as such."""
        for batch in self.shadow.between(to, self.end):
            if batch.producer is not None:
                del self._sequences[batch.producer]
        self.shadow.cut(to)
        self.end = to

    def kept_by(self, copy: Shadow) -> int:
        """How much of it a copy has."""
        return self.shadow.common_end(copy) if self.end else 0

    def lacks(self, copy: Shadow) -> str:
        """What a copy lacks of it; nothing if it has everything."""
        if copy.end < self.end:
            return f"it ends at {copy.end}, and {self.end} is committed"
        if copy.start >= self.end:
            return ""
        return self.differs(copy, self.end)

    def differs(self, copy: Shadow, end: int) -> str:
        """Whether a copy has something else below `end`, which is committed."""
        if end <= max(copy.start, self.shadow.start):
            return ""
        has, should = copy.ending(end), self.shadow.ending(end)
        if has is None:
            is_same = self.is_compacted and end < self.end
        else:
            is_same = should is not None and has.epoch == should.epoch
            is_same = is_same and (self.is_compacted or has == should)
        if is_same:
            return ""
        return f"below {end} it has {has or 'the midst of a batch'}, and committed is {should}"
