"""REASSIGN and ELECT: what operators want of partitions, handed to the controller (C7, C8, C9).

Only the broker that is the controller carries it out; any other says who that is, as far as it
knows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from zmqmq.core.broker.admin_request import AdminRequest
from zmqmq.core.broker.catalog import Catalog, Topic
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.sessions import Session
from zmqmq.core.broker.timers import Timers
from zmqmq.core.control.controller import Answer, Controller
from zmqmq.core.control.image import Image
from zmqmq.core.meta.keys import BROKER_ID_MAX
from zmqmq.core.security.authorize import Action, authorize
from zmqmq.errors import Code, WireError, error_to_wire, refusal
from zmqmq.model.now import Now
from zmqmq.wire.apis import REQUESTS, Api
from zmqmq.wire.frame import Fields
from zmqmq.wire.schema import malformed, reader, row, whole

_read_reassign = reader(REQUESTS[Api.REASSIGN])
_read_elect = reader(REQUESTS[Api.ELECT])

TIMEOUT_NS: Final = 60 * 10**9
Step = Callable[[Answer], None]
"""Asks for one partition; the answer comes at once or later."""


class Moves:
    """Asks the controller of this broker, partition by partition."""

    def __init__(
        self,
        catalog: Catalog,
        image: Image,
        outbox: Outbox,
        timers: Timers,
        controller: Controller,
    ) -> None:
        self._catalog = catalog
        self._image = image
        self._outbox = outbox
        self._timers = timers
        self._controller = controller

    def handle(
        self, now: Now, session: Session, api: Api, correlation: int, fields: Fields
    ) -> None:
        """Answer, or begin to."""
        request = AdminRequest(self._outbox, session, api, correlation)
        try:
            if api is Api.REASSIGN:
                steps = self._reassign(now, session, fields)
            else:
                steps = self._elect(now, session, fields)
        except WireError as error:
            request.refuse(error)
            return
        results: list[Any] = [None] * len(steps)
        waiting = len(steps)

        def answered(at: int, _now: Now, error: WireError | None) -> None:
            nonlocal waiting
            results[at] = None if error is None else error_to_wire(error)
            waiting -= 1
            if not waiting:
                request.finish({"results": results})

        for at, step in enumerate(steps):
            step(partial(answered, at))
        if not request.done:
            self._timers.add(now.ns + TIMEOUT_NS, request)

    def _reassign(self, now: Now, session: Session, fields: Fields) -> list[Step]:
        name, entries = _read_reassign(fields)
        wanted = [_read_target(entry) for entry in entries]
        topic = self._topic(session, name)
        return [partial(self._move, now, topic, number, target) for number, target in wanted]

    def _move(
        self, now: Now, topic: Topic, number: int, target: tuple[int, ...] | None, then: Answer
    ) -> None:
        if number >= topic.partition_count:
            then(now, _no_partition(topic, number))
        elif target is None:
            self._controller.cancel_reassignment(now, (topic.id, number), then)
        else:
            self._controller.reassign(now, (topic.id, number), target, then)

    def _elect(self, now: Now, session: Session, fields: Fields) -> list[Step]:
        name, kind, entries = _read_elect(fields)
        if kind not in ("preferred", "unclean"):
            raise malformed(f"kind {kind!r} is not preferred or unclean")
        numbers = [whole(entry) for entry in entries or ()]
        if any(type(number) is not int or number < 0 for number in numbers):
            raise malformed("field 'partitions' holds something that is not a partition")
        topic = self._topic(session, name)
        if entries is None:
            numbers = list(range(topic.partition_count))
        elect = self._prefer if kind == "preferred" else self._allow_unclean
        return [partial(elect, now, topic, number) for number in numbers]

    def _prefer(self, now: Now, topic: Topic, number: int, then: Answer) -> None:
        if number >= topic.partition_count:
            then(now, _no_partition(topic, number))
        else:
            self._controller.prefer(now, (topic.id, number), then)

    def _allow_unclean(self, now: Now, topic: Topic, number: int, then: Answer) -> None:
        known = self._image.partitions.get((topic.id, number))
        if known is None:
            then(now, _no_partition(topic, number))
            return
        if known.document.leader is None:
            self._controller.allow_unclean(now, (topic.id, number))
        then(now, None)  # also when somebody leads it: nobody needs to be elected

    def _topic(self, session: Session, name: str) -> Topic:
        """The topic, if this broker may do something about it."""
        if not authorize(session.principal, Action.ALTER, "topic", name):
            raise refusal(Code.DENIED, f"may not alter topic {name!r}")
        if not self._controller.is_active:
            known = self._image.controller
            who = "nobody is, for now" if known is None else f"broker {known.document.broker_id} is"
            hints = {} if known is None else {"leader": known.document.broker_id}
            raise refusal(Code.NOT_LEADER, f"this broker is not the controller; {who}", hints)
        return self._catalog.topic(name)


def _read_target(entry: object) -> tuple[int, tuple[int, ...] | None]:
    """A partition, and where it is to go. Raises refusal(MALFORMED)."""
    number, *rest = row("partitions", entry, int)
    if not rest:
        raise malformed("an entry of 'partitions' is not an array of 2 values")
    target = rest[0]
    if target is None:
        return number, None
    ids = tuple(map(whole, target)) if type(target) is list else (None,)
    if any(type(broker_id) is not int or not 0 <= broker_id <= BROKER_ID_MAX for broker_id in ids):
        raise malformed(f"an entry of 'partitions' has {target!r:.100} where broker ids belong")
    return number, ids


def _no_partition(topic: Topic, number: int) -> WireError:
    return refusal(
        Code.UNKNOWN_PARTITION,
        f"topic {topic.name!r} has {topic.partition_count} partitions; there is no {number}",
    )
