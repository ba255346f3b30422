"""What the machines of control need of the broker around them: its clock and its commits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from zmqmq.core.meta.store import Commit, If, Op, StoreError
from zmqmq.model.now import Now

OPERATIONS_PER_COMMIT: Final = 100
RETRY_FIRST_NS: Final = 100 * 10**6
RETRY_LAST_NS: Final = 2 * 10**9


Moment = Now
Then = Callable[[Moment, Commit | StoreError], None]
Begin = Callable[[Sequence[Op], Sequence[If], Then], None]
"""Ask for one commit; `Then` is called with what became of it, later and once."""


class Pause:
    """Waits longer each time the store does not answer, up to a limit."""

    def __init__(self) -> None:
        self._length_ns = RETRY_FIRST_NS
        self.until_ns: int | None = None

    def fail(self, now: Moment) -> None:
        """It did not answer: leave it alone for a while."""
        self.until_ns = now.ns + self._length_ns
        self._length_ns = min(2 * self._length_ns, RETRY_LAST_NS)

    def reset(self) -> None:
        """It answers."""
        self._length_ns = RETRY_FIRST_NS
        self.until_ns = None

    def is_over(self, now: Moment) -> bool:
        """Whether it may be asked."""
        if self.until_ns is not None and self.until_ns <= now.ns:
            self.until_ns = None
        return self.until_ns is None
