"""Single requests that any broker can answer, repeated while that is safe."""

from __future__ import annotations

from typing import Final

from zmqmq.client.machines.backoff import backoff_delay
from zmqmq.client.machines.effects import (
    MS,
    NEVER,
    Chance,
    Effect,
    Failure,
    Promise,
    Rejected,
    Reply,
    Resolved,
)
from zmqmq.client.machines.network import Network
from zmqmq.errors import RefusedError, WireError
from zmqmq.wire.apis import Api
from zmqmq.wire.frame import Fields

RETRY_MAX: Final = 1_000 * MS
_HARMLESS: Final = frozenset(
    {
        Api.PING,
        Api.METADATA,
        Api.LIST_OFFSETS,
        Api.OFFSET_FETCH,
        Api.DESCRIBE,
    }
)
"""What can be asked again although the first answer was lost: it changes nothing."""


class Call:
    """One request of a caller, over all its attempts."""

    __slots__ = ("api", "at", "deadline", "failures", "fields", "promise")

    def __init__(self, api: Api, fields: Fields, deadline: int, promise: Promise) -> None:
        self.api = api
        self.fields = fields
        self.deadline = deadline
        self.promise = promise
        self.failures = 0
        self.at = 0
        """When to ask again; NEVER while being asked."""


class Admin:
    """The calls of one client that are under way.

    A refusal that the broker calls retriable is asked again until the deadline. A lost answer is
    asked for again only where asking changes nothing: whoever creates or deletes is told
    *perhaps*, since only they can look.
    """

    def __init__(self, network: Network, chance: Chance, effects: list[Effect]) -> None:
        self._network = network
        self._chance = chance
        self._effects = effects
        self._calls: dict[Call, None] = {}

    def call(self, now: int, api: Api, fields: Fields, deadline: int, promise: Promise) -> None:
        """Ask; the promise gets the fields of the reply, or the error."""
        call = Call(api, fields, deadline, promise)
        self._calls[call] = None
        self._ask(now, call)

    def pump(self, now: int) -> None:
        """Ask again whatever is due."""
        for call in [call for call in self._calls if call.at <= now]:
            self._ask(now, call)

    def next_wake(self) -> int:
        """When `pump` has something to do next."""
        return min((call.at for call in self._calls), default=NEVER)

    def _ask(self, now: int, call: Call) -> None:
        call.at = NEVER

        def answered(now: int, answer: Reply | Failure) -> None:
            self._answered(now, call, answer)

        self._network.request_any(now, call.api, dict(call.fields), call.deadline, answered)

    def _answered(self, now: int, call: Call, answer: Reply | Failure) -> None:
        if isinstance(answer, Reply):
            del self._calls[call]
            self._effects.append(Resolved(call.promise, answer.fields))
            return
        error = answer.error
        is_no = isinstance(error, RefusedError) or not answer.is_sent
        may_retry = isinstance(error, WireError) and error.retriable
        if may_retry and now < call.deadline and (is_no or call.api in _HARMLESS):
            call.failures += 1
            delay = backoff_delay(100 * MS, RETRY_MAX, call.failures, self._chance.jitter())
            if now + delay < call.deadline:
                call.at = now + delay
                return
        del self._calls[call]
        self._effects.append(Rejected(call.promise, error))
