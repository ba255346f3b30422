"""Leader epoch to first offset: where two logs part (replication.md 1.3, D14)."""

from __future__ import annotations

from bisect import bisect_right

from zmqmq.model.limits import INTEGER_MAX


class EpochIndex:
    """Ascending pairs of (leader epoch, first offset written in it).

    Only epochs that wrote something stand here, so that the index is a function of the log: what
    D14 asks for, and what makes it needless to flush an entry before the epoch's first batch.
    """

    __slots__ = ("_epochs", "_starts")

    def __init__(self) -> None:
        self._epochs: list[int] = []
        self._starts: list[int] = []

    @property
    def latest(self) -> int:
        """The epoch of the last batch, or -1."""
        return self._epochs[-1] if self._epochs else -1

    def note(self, epoch: int, offset: int) -> None:
        """A batch of `epoch` was appended at `offset`."""
        if self._epochs and self._epochs[-1] == epoch:
            return
        assert not self._epochs or (epoch > self._epochs[-1] and offset > self._starts[-1])
        self._epochs.append(epoch)
        self._starts.append(offset)

    def end_offset_for(self, epoch: int, log_start: int, log_end: int) -> tuple[int, int]:
        """The greatest epoch not above `epoch`, and where it ends (F4).

        A leader that has written nothing in its own epoch answers for it with the last one that
        wrote, which ends where its own begins. Where all epochs are above, or there are none,
        the answer is `epoch` and the log start, or where the first of them begins if that is known
        to be before it: of what lies before nothing is known.
        """
        at = bisect_right(self._epochs, epoch) - 1
        if at < 0:
            return epoch, min(self._starts[0], log_start) if self._starts else log_start
        end = self._starts[at + 1] if at + 1 < len(self._starts) else log_end
        return self._epochs[at], end

    def truncate(self, end: int) -> None:
        """Forget epochs that begin at `end` or behind it."""
        while self._starts and self._starts[-1] >= end:
            self._starts.pop()
            self._epochs.pop()

    def snapshot(self, end: int = INTEGER_MAX) -> list[list[int]]:
        """The pairs in msgpack's types, or those that begin below `end`."""
        pairs = zip(self._epochs, self._starts, strict=True)
        return [[epoch, start] for epoch, start in pairs if start < end]

    def restore(self, snapshot: list[list[int]]) -> None:
        """Become what `snapshot` was taken of."""
        self._epochs = [pair[0] for pair in snapshot]
        self._starts = [pair[1] for pair in snapshot]
