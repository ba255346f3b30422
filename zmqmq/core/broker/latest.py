"""Answers that must be the latest, and not only true a moment ago (D10, L14).

A leader that was replaced, and does not know it yet, would answer with an end that others have
passed. So a latest answer waits until every in-sync replica has confirmed, in this leader epoch,
something that was sent to it after the question came. A leader that is alone in its ISR, and is
enough, answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.sessions import Session
from zmqmq.core.broker.timers import Timers
from zmqmq.core.replication.partition import Partition
from zmqmq.errors import Code, WireError, refusal
from zmqmq.model.now import Now
from zmqmq.wire.apis import Api

WAIT_NS: Final = 5 * 10**9


class LatestRequest:
    """A request that waits for its rounds."""

    __slots__ = ("_latest", "api", "correlation", "done", "finish", "rounds", "session")

    def __init__(
        self,
        latest: Latest,
        session: Session,
        api: Api,
        correlation: int,
        finish: Callable[[], None],
        rounds: dict[Partition, int],
    ) -> None:
        self._latest = latest
        self.session = session
        self.api = api
        self.correlation = correlation
        self.finish = finish
        self.rounds = rounds
        """The stamp at the beginning, for each partition whose round is not over."""
        self.done = False

    def expire(self) -> None:
        """The followers do not answer: perhaps another broker leads by now."""
        names = ", ".join(partition.name for partition in self.rounds)
        error = refusal(Code.NOT_LEADER, f"cannot tell whether this broker still leads {names}")
        self._latest.end(self, error)


class Latest:
    """Who waits for a round."""

    def __init__(
        self,
        outbox: Outbox,
        timers: Timers,
        stamp: Callable[[], int],
        hurry: Callable[[Partition], None],
    ) -> None:
        self._outbox = outbox
        self._timers = timers
        self._stamp = stamp
        self._hurry = hurry
        """Answers the followers that are parked, so that they ask again soon."""
        self._waiting: dict[Partition, dict[LatestRequest, None]] = {}

    def ask(
        self,
        now: Now,
        session: Session,
        api: Api,
        correlation: int,
        partitions: Iterable[Partition],
        finish: Callable[[], None],
    ) -> None:
        """Call `finish` when what these partitions say is the latest; it answers, or raises."""
        stamp = self._stamp()
        rounds = {p: stamp for p in partitions if not p.round_is_over(stamp)}
        if not rounds:
            finish()
            return
        session.waiting += 1
        request = LatestRequest(self, session, api, correlation, finish, rounds)
        for partition in rounds:
            self._waiting.setdefault(partition, {})[request] = None
            self._hurry(partition)
        self._timers.add(now.ns + WAIT_NS, request)

    @property
    def awaited(self) -> list[Partition]:
        """Partitions for which somebody waits."""
        return list(self._waiting)

    def is_owed(self, partition: Partition, echo: int) -> bool:
        """Whether somebody waits for more than this echo from a follower. One that has answered is
        not hurried any more, or it would be asked for ever while another one is silent."""
        requests = self._waiting.get(partition, ())
        return any(echo <= request.rounds[partition] for request in requests)

    def check(self, partition: Partition) -> None:
        """A follower has confirmed something, or the ISR or the high watermark has changed."""
        waiting = self._waiting.get(partition)
        for request in tuple(waiting) if waiting else ():
            if partition.round_is_over(request.rounds[partition]):
                self._over(request, partition)

    def drop(self, partition: Partition) -> None:
        """It is led here no more; whoever asked is told so when the request is finished."""
        for request in tuple(self._waiting.get(partition, ())):
            self._over(request, partition)

    def end(self, request: LatestRequest, error: WireError | None = None) -> None:
        """Answer."""
        for partition in tuple(request.rounds):
            self._forget(request, partition)
        request.done = True
        request.session.waiting -= 1
        try:
            if error is not None:
                raise error
            request.finish()
        except WireError as problem:
            self._outbox.refuse(request.session, request.api, request.correlation, problem)

    def _over(self, request: LatestRequest, partition: Partition) -> None:
        self._forget(request, partition)
        if not request.rounds:
            self.end(request)

    def _forget(self, request: LatestRequest, partition: Partition) -> None:
        del request.rounds[partition]
        waiting = self._waiting[partition]
        del waiting[request]
        if not waiting:
            del self._waiting[partition]
