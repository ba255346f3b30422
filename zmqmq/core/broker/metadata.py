"""Commits to the metadata store that are under way, and what to do when they are answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from zmqmq.core.broker.events import CommitMetadata
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.meta.store import AmbiguousError, Commit, If, Op, StoreError
from zmqmq.errors import Code, WireError, refusal
from zmqmq.model.now import Now

STEPS_PER_COMMIT: Final = 100
"""A store takes 128 operations, and as many conditions."""
Step = tuple[Op, tuple[If, ...]]
"""An operation, and on which conditions."""
Then = Callable[[Now, Commit | StoreError], None]


class Commits:
    """Tokens and continuations."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._tokens = 0
        self._under_way: dict[int, Then] = {}

    def begin(self, ops: Sequence[Op], ifs: Sequence[If], then: Then) -> None:
        """Ask for one commit; `then` is called with what became of it."""
        self._tokens += 1
        self._under_way[self._tokens] = then
        self._outbox.emit(CommitMetadata(self._tokens, tuple(ops), tuple(ifs)))

    def begin_all(self, steps: Sequence[Step], then: Then) -> None:
        """Many operations in as many commits as they need; the first that fails ends it.

        A crash in between leaves a part of them: whoever uses this marks the beginning in a way
        that others find, and the last step is the mark of the end.
        """
        some, rest = steps[:STEPS_PER_COMMIT], steps[STEPS_PER_COMMIT:]
        ifs = dict.fromkeys(condition for _, conditions in some for condition in conditions)

        def go_on(now: Now, outcome: Commit | StoreError) -> None:
            if rest and isinstance(outcome, Commit) and outcome.ok:
                self.begin_all(rest, then)
            else:
                then(now, outcome)

        self.begin([op for op, _ in some], list(ifs), go_on)

    def end(self, now: Now, token: int, outcome: Commit | StoreError) -> None:
        """The store has answered."""
        self._under_way.pop(token)(now, outcome)


def store_refusal(error: StoreError) -> WireError:
    """What a client is told when the metadata store failed its request."""
    if isinstance(error, AmbiguousError):
        return refusal(Code.TIMED_OUT, f"the metadata store did not say what became of it: {error}")
    return refusal(
        Code.COORDINATOR_LOADING, f"the metadata store: {error}", {"retry_after_ms": 1_000}
    )
