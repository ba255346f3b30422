"""Single requests, repeated while that is safe: to any broker, a coordinator or the controller.

Who the controller is nobody tells beforehand: any broker is asked, and says it when it refuses.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Final

from zmqmq.client.machines.backoff import backoff_delay
from zmqmq.client.machines.connection import Connection
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
from zmqmq.client.machines.routing import Routing
from zmqmq.errors import Code, DisconnectedError, RefusedError, WireError, refusal
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
_FOR_CONTROLLER: Final = frozenset({Api.REASSIGN, Api.ELECT})


class Call:
    """One request of a caller, over all its attempts."""

    __slots__ = (
        "api",
        "at",
        "deadline",
        "failures",
        "fields",
        "is_exact",
        "is_lost",
        "promise",
        "to",
    )

    def __init__(self, api: Api, fields: Fields, deadline: int, promise: Promise) -> None:
        self.api = api
        self.fields = fields
        self.deadline = deadline
        self.promise = promise
        self.failures = 0
        self.at = 0
        """When to ask again; NEVER while being asked."""
        self.is_lost = False
        """Whether it waits for news of who the coordinator is."""
        self.to: int | None = None
        """The broker that was said to be the controller, or that is wanted; None: any will do."""
        self.is_exact = False
        """Whether no other broker will do, and the whole reply is wanted."""


class Admin:
    """The calls of one client that are under way.

    A refusal that the broker calls retriable is asked again until the deadline. A lost answer is
    asked for again only where asking changes nothing: whoever creates or deletes is told
    *perhaps*, since only they can look.
    """

    def __init__(
        self, network: Network, routing: Routing, chance: Chance, effects: list[Effect]
    ) -> None:
        self._network = network
        self._routing = routing
        self._chance = chance
        self._effects = effects
        self._calls: dict[Call, None] = {}

    def call(
        self,
        now: int,
        api: Api,
        fields: Fields,
        deadline: int,
        promise: Promise,
        broker: int | None = None,
    ) -> None:
        """Ask, this broker if it can be reached; the promise gets the fields of the reply, or the
        error."""
        call = Call(api, fields, deadline, promise)
        call.to = broker
        self._calls[call] = None
        self._ask(now, call)

    def call_exactly(
        self, now: int, api: Api, fields: Fields, deadline: int, promise: Promise, broker: int
    ) -> None:
        """Ask this broker and no other, once; the promise gets the Reply with its body, or the
        error. Where it listens must have been noted (Network.note_brokers)."""
        call = Call(api, fields, deadline, promise)
        call.to, call.is_exact = broker, True
        self._calls[call] = None
        self._ask(now, call)

    def pump(self, now: int) -> None:
        """Ask again whatever is due."""
        for call in [call for call in self._calls if call.at <= now or call.is_lost]:
            self._ask(now, call)

    def next_wake(self) -> int:
        """When `pump` has something to do next."""
        return min((call.at for call in self._calls), default=NEVER)

    def _ask(self, now: int, call: Call) -> None:
        if call.api is Api.OFFSET_FETCH:
            self._ask_coordinator(now, call)
            return
        if call.to is not None and self._ask_controller(now, call, call.to):
            return
        if call.is_exact and call.to is not None:
            del self._calls[call]
            detail = self._network.failure_of(call.to)
            self._effects.append(Rejected(call.promise, DisconnectedError(detail)))
            return
        call.at = NEVER
        answered = partial(self._answered, call, None)
        self._network.request_any(now, call.api, dict(call.fields), call.deadline, answered)

    def _ask_controller(self, now: int, call: Call, broker: int) -> bool:
        """False: it is not reached, or not known where it is; another one may know better."""
        connection = self._network.to_broker(broker)
        if connection is not None:
            call.at, call.is_lost = NEVER, False
            answered = partial(self._answered, call, None)
            connection.request(now, call.api, dict(call.fields), (), call.deadline, answered)
            return True
        call.is_lost = not self._network.is_failing(broker) and now < call.deadline
        if call.is_lost:
            call.at = call.deadline
        elif not call.is_exact:
            call.to = None
        return call.is_lost

    def _ask_coordinator(self, now: int, call: Call) -> None:
        connection = self._routing.to_coordinator(now, call.fields["group"])
        call.is_lost = connection is None and now < call.deadline
        if connection is not None:
            call.at = NEVER
            answered = partial(self._answered, call, connection)
            connection.request(now, call.api, dict(call.fields), (), call.deadline, answered)
        elif call.is_lost:
            call.at = call.deadline
        else:
            group = call.fields["group"]
            detail = f"no coordinator of group {group!r} was found; {self._network.failures()}"
            del self._calls[call]
            error = refusal(Code.DEADLINE_PASSED, detail)
            self._effects.append(Rejected(call.promise, error))

    def _answered(
        self, call: Call, coordinator: Connection | None, now: int, answer: Reply | Failure
    ) -> None:
        if isinstance(answer, Reply):
            del self._calls[call]
            value = answer if call.is_exact else answer.fields
            self._effects.append(Resolved(call.promise, value))
            return
        error = answer.error
        if call.is_exact:
            del self._calls[call]
            self._effects.append(Rejected(call.promise, error))
            return
        if coordinator is not None:
            group = call.fields["group"]
            self._routing.note_coordinator_error(now, group, coordinator, error)
        if call.api in _FOR_CONTROLLER and isinstance(error, WireError):
            self._note_controller(now, call, error)
        is_no = isinstance(error, RefusedError) or not answer.is_sent
        if error.retriable and now < call.deadline and (is_no or call.api in _HARMLESS):
            call.failures += 1
            delay = backoff_delay(100 * MS, RETRY_MAX, call.failures, self._chance.jitter())
            if now + delay < call.deadline:
                call.at = now + delay
                return
        del self._calls[call]
        self._effects.append(Rejected(call.promise, error))

    def _note_controller(self, now: int, call: Call, error: WireError) -> None:
        """Whoever is not the controller says who is; where that one listens METADATA tells."""
        leader = error.hints.get("leader") if error.code is Code.NOT_LEADER else None
        call.to = leader if type(leader) is int else None
        if call.to is not None:
            fields: Fields = {"topics": []}
            deadline = call.deadline
            self._network.request_any(now, Api.METADATA, fields, deadline, self._take_brokers)

    def _take_brokers(self, _now: int, answer: Reply | Failure) -> None:
        if isinstance(answer, Reply):
            with suppress(KeyError, TypeError, ValueError, IndexError):
                self._network.note_brokers({e[0]: e[1] for e in answer.fields["brokers"]})
