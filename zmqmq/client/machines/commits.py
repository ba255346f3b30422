"""Committing offsets: one request at a time, so that an older one never overtakes a newer one."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

from zmqmq.client.machines.backoff import Backoff
from zmqmq.client.machines.effects import (
    MS,
    NEVER,
    Chance,
    Effect,
    Failure,
    Observed,
    Promise,
    Rejected,
    Reply,
    Resolved,
)
from zmqmq.client.machines.network import Network
from zmqmq.client.machines.routing import Routing
from zmqmq.errors import (
    Code,
    ProtocolError,
    WireError,
    ZmqmqError,
    error_from_wire,
    refusal,
)
from zmqmq.wire.apis import Api

PARTITIONS_AT_ONCE: Final = 1_000
"""Partitions in one request: what surely fits a header of 64 KiB."""
WAITING_MAX: Final = 256
"""Commits of one consumer that may wait for their turn."""

Offsets = Mapping[tuple[str, int], int]
"""Topic and partition, and the offset of the next record to be read."""


class _Commit(NamedTuple):
    parts: deque[Offsets]
    """What is not committed yet, in pieces that fit one request each."""
    deadline: int
    promise: Promise | None


class Commits:
    """The commits of one consumer, in the order in which they were asked for."""

    def __init__(
        self,
        group: str,
        network: Network,
        routing: Routing,
        chance: Chance,
        effects: list[Effect],
    ) -> None:
        self.committed: dict[tuple[str, int], int] = {}
        """What this consumer has committed, and the broker has confirmed."""
        self._group = group
        self._network = network
        self._routing = routing
        self._effects = effects
        self._backoff = Backoff(chance, longest=1_000 * MS)
        self._waiting: deque[_Commit] = deque()
        self._is_asking = False
        self._not_before = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._waiting

    def commit(self, now: int, offsets: Offsets, deadline: int, promise: Promise | None) -> None:
        """Commit these; a promise hears of the end."""
        if len(self._waiting) >= WAITING_MAX:
            detail = f"{WAITING_MAX} commits of group {self._group!r} wait already"
            if promise is not None:
                self._effects.append(Rejected(promise, refusal(Code.THROTTLED, detail)))
            return
        entries = list(offsets.items())
        parts = [
            dict(entries[at : at + PARTITIONS_AT_ONCE])
            for at in range(0, max(len(entries), 1), PARTITIONS_AT_ONCE)
        ]
        self._waiting.append(_Commit(deque(parts), deadline, promise))
        self.pump(now)

    def pump(self, now: int) -> None:
        """Send the next one if it is its turn."""
        while self._waiting and not self._is_asking and now >= self._not_before:
            commit = self._waiting[0]
            entries = []
            for (name, partition), offset in commit.parts[0].items():
                topic = self._routing.want(now, name)
                if topic is not None:
                    epoch = self._routing.epoch(name, partition)
                    entries.append((topic.id, partition, offset, epoch, ""))
                elif name in self._routing.unknown:
                    self._end(self._routing.unknown[name])
                    break
                elif now >= commit.deadline:
                    detail = f"topic {name!r}: no broker answered; {self._network.failures()}"
                    self._end(refusal(Code.DEADLINE_PASSED, detail))
                    break
                else:
                    self._not_before = now + 20 * MS
                    return
            else:
                if not entries:
                    self._end(None)
                    continue
                self._is_asking = True
                fields = {"group": self._group, "offsets": entries}
                self._network.request_any(
                    now, Api.OFFSET_COMMIT, fields, commit.deadline, self._take_answer
                )

    def next_wake(self) -> int:
        """When `pump` has something to do next."""
        return self._not_before if self._waiting and not self._is_asking else NEVER

    def _take_answer(self, now: int, answer: Reply | Failure) -> None:
        self._is_asking = False
        commit = self._waiting[0]
        error = _error_in(answer, len(commit.parts[0]))
        if error is None:
            self.committed.update(commit.parts.popleft())
            self._backoff.reset()
            if not commit.parts:
                self._end(None)
        elif isinstance(error, WireError) and error.retriable and now < commit.deadline:
            # Committing the same offsets once more does no harm.
            self._not_before = now + self._backoff.next_delay()
        else:
            self._end(error)

    def _end(self, error: ZmqmqError | None) -> None:
        promise = self._waiting.popleft().promise
        if error is None:
            if promise is not None:
                self._effects.append(Resolved(promise, None))
        elif promise is not None:
            self._effects.append(Rejected(promise, error))
        else:
            detail = f"group {self._group!r}: {error}"
            self._effects.append(Observed("commit-failed", detail, is_warning=True))


def _error_in(answer: Reply | Failure, count: int) -> ZmqmqError | None:
    if isinstance(answer, Failure):
        return answer.error
    results = answer.fields.get("results")
    if type(results) is not list or len(results) != count:
        return ProtocolError(f"OFFSET_COMMIT was answered with {results!r:.100}")
    return next((error_from_wire(r) for r in results if isinstance(r, dict)), None)
