"""Commits to the metadata store that are under way, and what to do when they are answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zmqmq.core.broker.events import CommitMetadata, Now
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.meta.store import AmbiguousError, Commit, If, Op, StoreError
from zmqmq.errors import Code, WireError, refusal

OPERATIONS_PER_COMMIT = 100
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

    def begin_all(self, ops: Sequence[Op], last: Sequence[Op], then: Then) -> None:
        """Many unconditional operations in as many commits as they need, `last` in the last.

        A crash in between leaves a part of them: whoever uses this marks the beginning in a way
        that a restart finds, and `last` is the mark of the end.
        """
        head, rest = ops[:OPERATIONS_PER_COMMIT], ops[OPERATIONS_PER_COMMIT:]
        if not rest and len(head) + len(last) <= OPERATIONS_PER_COMMIT:
            self.begin([*head, *last], (), then)
            return

        def go_on(now: Now, outcome: Commit | StoreError) -> None:
            if isinstance(outcome, StoreError):
                then(now, outcome)
            else:
                self.begin_all(rest, last, then)

        self.begin(head, (), go_on)

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
