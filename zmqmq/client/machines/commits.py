"""Committing offsets: one request at a time, so that an older one never overtakes a newer one.

They go to the group's coordinator, whoever that is by now. A commit that was not answered may have
been taken, and is sent again: the same offsets once more do no harm. No newer one goes out before
it has an outcome.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Final

from zmqmq.client.machines.backoff import Backoff
from zmqmq.client.machines.connection import Connection
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
from zmqmq.client.machines.limits import PARTITIONS_AT_ONCE
from zmqmq.client.machines.network import Network
from zmqmq.client.machines.routing import MOVED, Routing
from zmqmq.client.machines.stream import EPOCH_UNKNOWN, Stream
from zmqmq.errors import (
    Code,
    ProtocolError,
    RefusedError,
    TimedOutError,
    WireError,
    ZmqmqError,
    error_from_wire,
    refusal,
)
from zmqmq.wire.apis import Api

WAITING_MAX: Final = 256
"""Commits of one consumer that may wait for their turn."""

Offsets = Mapping[tuple[str, int], int]
"""Topic and partition, and the offset of the next record to be read."""


class _Commit:
    __slots__ = ("deadline", "error", "is_perhaps", "parts", "promise")

    def __init__(self, parts: deque[Offsets], deadline: int, promise: Promise | None) -> None:
        self.parts = parts
        """What is not committed yet, in pieces that fit one request each."""
        self.deadline = deadline
        self.promise = promise
        self.error: ZmqmqError | None = None
        """What became of the last attempt."""
        self.is_perhaps = False
        """Whether an attempt ended without an answer."""


class Commits:
    """The commits of one consumer, in the order in which they were asked for."""

    def __init__(
        self,
        group: str,
        streams: Mapping[tuple[str, int], Stream],
        network: Network,
        routing: Routing,
        chance: Chance,
        effects: list[Effect],
    ) -> None:
        self.committed: dict[tuple[str, int], int] = {}
        """What this consumer has committed, and the broker has confirmed."""
        self._group = group
        self._streams = streams
        self._network = network
        self._routing = routing
        self._effects = effects
        self._backoff = Backoff(chance, longest=1_000 * MS)
        self._waiting: deque[_Commit] = deque()
        self._is_asking = False
        self._not_before = 0
        self._pumped_at = 0

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
        parts: deque[Offsets] = deque(
            dict(entries[at : at + PARTITIONS_AT_ONCE])
            for at in range(0, max(len(entries), 1), PARTITIONS_AT_ONCE)
        )
        self._waiting.append(_Commit(parts, deadline, promise))
        self.pump(now)

    def pump(self, now: int) -> None:
        """Send the next one if it is its turn."""
        self._pumped_at = now
        while self._waiting and not self._is_asking and now >= self._not_before:
            commit = self._waiting[0]
            names = dict.fromkeys(name for name, _ in commit.parts[0])
            missing = [name for name in names if self._routing.want(now, name) is None]
            unknown = self._routing.unknown
            refused = next((unknown[name] for name in missing if name in unknown), None)
            if not names:
                self._end(None)
            elif refused is not None:
                self._end(refused)
            elif now >= commit.deadline:
                detail = f"no coordinator took the offsets; {self._network.failures()}"
                self._end(refusal(Code.DEADLINE_PASSED, detail))
            else:
                # Of all but the last two there will be news when they are there.
                connection = self._routing.to_coordinator(now, self._group)
                if missing or connection is None:
                    return
                self._send(now, connection, commit)

    def next_wake(self) -> int:
        """When `pump` has something to do next, besides when there is news of the cluster."""
        if not self._waiting or self._is_asking:
            return NEVER
        if self._not_before > self._pumped_at:
            return self._not_before
        return self._waiting[0].deadline

    def _send(self, now: int, connection: Connection, commit: _Commit) -> None:
        self._is_asking = True
        entries = [
            (self._id_of(*where), where[1], offset, self._epoch_at(where, offset), "")
            for where, offset in commit.parts[0].items()
        ]
        fields = {
            "group": self._group,
            "offsets": entries,
            # What is taken later than that could undo what was committed since.
            "expires_ms": connection.broker_time_ms(commit.deadline) + 1,
        }
        answered = partial(self._take_answer, connection)
        connection.request(now, Api.OFFSET_COMMIT, fields, (), commit.deadline, answered)

    def _id_of(self, name: str, partition: int) -> bytes:
        """The id of the topic that was read: its offsets mean nothing in one made anew."""
        stream = self._streams.get((name, partition))
        if stream is not None and stream.topic_id:
            return stream.topic_id
        return self._routing.topics[name].id

    def _epoch_at(self, where: tuple[str, int], offset: int) -> int:
        """So that whoever goes on there hears if what was read is no more (F12)."""
        stream = self._streams.get(where)
        return EPOCH_UNKNOWN if stream is None else stream.epoch_at(offset)

    def _take_answer(self, connection: Connection, now: int, answer: Reply | Failure) -> None:
        self._is_asking = False
        commit = self._waiting[0]
        error = _error_in(answer, len(commit.parts[0]))
        if error is None:
            self.committed.update(commit.parts.popleft())
            self._backoff.reset()
            if not commit.parts:
                self._end(None)
            return
        is_sent = isinstance(answer, Reply) or answer.is_sent
        commit.error = error
        commit.is_perhaps |= is_sent and not isinstance(error, RefusedError)
        self._routing.note_coordinator_error(now, self._group, connection, error)
        if now < commit.deadline and self._may_retry(error, commit):
            self._not_before = now + self._backoff.next_delay()
        else:
            self._end(error)

    def _may_retry(self, error: ZmqmqError, commit: _Commit) -> bool:
        if not isinstance(error, WireError):
            return False
        if error.retriable or error.code is Code.DEADLINE_PASSED:
            return True  # the latter: the broker's clock was not known well
        # A coordinator may not have heard of a topic yet; METADATA tells when there is none.
        return error.code in MOVED and all(
            topic is not None and topic.id == self._id_of(name, partition)
            for name, partition in commit.parts[0]
            for topic in [self._routing.topics.get(name)]
        )

    def _end(self, error: ZmqmqError | None) -> None:
        commit = self._waiting.popleft()
        promise = commit.promise
        if error is not None and isinstance(error, RefusedError) and commit.is_perhaps:
            detail = f"the offsets may be committed; the last attempt: {commit.error or error}"
            error = TimedOutError(detail)
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
