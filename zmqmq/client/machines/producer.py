"""One producer: batches out, answers in, each batch with exactly one outcome.

Decides what goes into which PRODUCE request, numbers the batches of an idempotent producer, and
says what an answer means for a batch: stored, try again, or given up. `sequences.py` keeps the
numbers of one partition; `accumulator.py` has what was not sent yet.

The promise: a record is stored once, in the order of `send` within its partition, or its handle
says why not. A refused batch is *no*; one that may have been appended is *perhaps*, and an
idempotent producer sends it again, byte for byte, until it knows (replication.md P1-P5).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

from zmqmq.client.machines.accumulator import Accumulator
from zmqmq.client.machines.backoff import Backoff
from zmqmq.client.machines.batch import Batch, PartitionQueue, Stored
from zmqmq.client.machines.connection import Connection
from zmqmq.client.machines.effects import (
    MS,
    NEVER,
    Chance,
    Effect,
    Failure,
    Observed,
    Reply,
    Settled,
)
from zmqmq.client.machines.network import Network
from zmqmq.client.machines.routing import Routing
from zmqmq.client.machines.sequences import Sequences
from zmqmq.client.options import ProducerOptions
from zmqmq.errors import (
    Code,
    DisconnectedError,
    OutcomeUnknownError,
    ProtocolError,
    RefusedError,
    TimedOutError,
    WireError,
    ZmqmqError,
    error_from_wire,
    refusal,
)
from zmqmq.wire.apis import ACKS_NONE, WAIT_MS_MAX, Api

HEADER_ROOM: Final = 8_192
"""Bytes of a request that are kept for its header."""
REQUESTS_KEPT_FREE: Final = 4
"""Of a connection's requests in flight, so many are left for fetches and commits."""
ANSWER_SLACK: Final = 2_000 * MS
"""How much longer than `timeout_ms` to wait for the answer itself."""
BACKOFF_MAX: Final = 2_000 * MS

_MOVED = frozenset({Code.NOT_LEADER, Code.UNKNOWN_TOPIC, Code.UNKNOWN_PARTITION})
_GAP = frozenset({Code.OUT_OF_ORDER_SEQUENCE, Code.UNKNOWN_PRODUCER})


class Producer:
    """The I/O side of a producer. Lives on the I/O thread; the accumulator is shared.

    `guard` is held around each call into the accumulator, and around nothing else, so that a
    thread in `send` never waits for an encoding.
    """

    def __init__(
        self,
        options: ProducerOptions,
        request_timeout: int,
        accumulator: Accumulator,
        guard: AbstractContextManager[object],
        network: Network,
        routing: Routing,
        chance: Chance,
        effects: list[Effect],
    ) -> None:
        self.accumulator = accumulator
        self.is_closed = False
        self._guard = guard
        self._network = network
        self._routing = routing
        self._effects = effects
        self._acks = options.wire_acks
        self._in_flight = options.in_flight
        self._timeout = request_timeout
        self._sequences = Sequences(
            is_idempotent=options.idempotent and self._acks != ACKS_NONE, codec=options.codec
        )
        self._retry = Backoff(chance, options.retry_backoff_ms * MS, BACKOFF_MAX)
        self._id_backoff = Backoff(chance, longest=BACKOFF_MAX)
        self._id_at = 0
        self._is_asking_id = False
        self._routed: dict[str, int] = {}
        """Topics that have been routed, and the routing version it was done with."""
        self._routing_version = -1
        self._pausing: dict[PartitionQueue, None] = {}
        """Queues that wait for their `not_before`."""

    def pump(self, now: int) -> None:
        """Send whatever can be sent now, and give up on what is overdue."""
        with self._guard:
            self.accumulator.collect(now)
            late = self.accumulator.overdue(now)
        if late:
            self._give_up(now, late)
        self._route(now)
        for queue in [q for q in self._pausing if q.not_before <= now]:
            del self._pausing[queue]
            self.accumulator.sendable[queue] = None
        if self.accumulator.sendable and self._has_id(now):
            self._send(now)

    def next_wake(self) -> int:
        """When `pump` has something to do next, besides when an answer or a record comes."""
        with self._guard:
            wake = self.accumulator.next_wake()
        for queue in self._pausing:
            wake = min(wake, queue.not_before)
        if self._sequences.needs_id and not self._is_asking_id:
            wake = min(wake, self._id_at)
        return wake

    def close(self, now: int) -> None:
        """Whatever has no outcome yet gets one: never sent is *no*, sent is *perhaps*."""
        self.is_closed = True
        with self._guard:
            left = list(self.accumulator.unsettled)
        for batch in left:
            self._abandon(batch, "the producer was closed")
        self._settle(left)

    def send_oneway(self, now: int, batch: Batch) -> None:
        """Send one batch without asking for an answer. It is lost when its leader is not there."""
        queue = batch.queue
        batch.is_oneway = True
        connection = self._connection(queue)
        if connection is not None:
            data = self._sequences.encode_oneway(batch)
            fields = {"acks": ACKS_NONE, "batches": [(queue.topic.id, queue.partition)]}
            connection.send_unanswered(Api.PRODUCE, fields, (data,))
            batch.outcome = Stored(-1, -1)
        else:
            batch.outcome = refusal(
                Code.NOT_LEADER, f"{batch!r} was dropped: its leader is not connected"
            )
        self._settle((batch,))

    # Sending

    def _send(self, now: int) -> None:
        requests: dict[Connection, Request] = {}
        sendable = self.accumulator.sendable
        for queue in list(sendable):
            if not queue.topic.id:
                del sendable[queue]  # `_route` puts it back
                continue
            if queue.not_before > now:
                del sendable[queue]
                self._pausing[queue] = None
                continue
            connection = self._connection(queue)
            if connection is None:
                self._routing.refresh(now)
                self._hold(queue)
                continue
            if connection.room <= REQUESTS_KEPT_FREE:
                self._hold(queue)
                continue
            request = requests.get(connection)
            if request is None:
                request = requests[connection] = Request(connection)
            if self._fill(now, request, queue):
                del sendable[queue]
            else:
                # More than one request holds: the queue goes to the end, others come first.
                del sendable[queue]
                sendable[queue] = None
                self._hold(queue)
        for request in requests.values():
            if request.batches:
                self._transmit(now, request)

    def _fill(self, now: int, request: Request, queue: PartitionQueue) -> bool:
        """Put the queue's next batches into the request; False if some are left for another."""
        for batch in self._sequences.to_resend(queue):
            if not request.takes(batch):
                return False
            request.add(batch)
        while len(queue.in_flight) < self._in_flight and not queue.is_bumping:
            if request.is_full(self.accumulator.batch_bytes):
                return False
            with self._guard:
                batch_or_none = self.accumulator.take(queue)
            if batch_or_none is None:
                return True
            self._sequences.assign(batch_or_none)
            if not self._encode(batch_or_none, request.connection):
                continue
            queue.in_flight.append(batch_or_none)
            if not request.takes(batch_or_none):
                return False
            request.add(batch_or_none)
        self._hold(queue)
        return True

    def _encode(self, batch: Batch, connection: Connection) -> bool:
        """Make the batch's bytes; False when it has got its outcome instead."""
        try:
            data = self._sequences.encode(batch)
        except (ValueError, TypeError, OverflowError) as error:
            self._reject(batch, refusal(Code.MALFORMED, f"cannot be encoded: {error!r}"))
            return False
        limit = connection.limits.batch_bytes
        if len(data) > limit:
            detail = f"the batch has {len(data)} bytes; the broker takes {limit}"
            self._reject(batch, refusal(Code.TOO_LARGE, detail))
            return False
        return True

    def _transmit(self, now: int, request: Request) -> None:
        batches = request.batches
        fields: dict[str, Any] = {
            "acks": self._acks,
            "batches": [(b.queue.topic.id, b.queue.partition) for b in batches],
        }
        body = [batch.data for batch in batches if batch.data is not None]
        assert len(body) == len(batches)
        if self._acks == ACKS_NONE:
            request.connection.send_unanswered(Api.PRODUCE, fields, body)
            for batch in batches:
                batch.queue.in_flight.remove(batch)
                batch.outcome = Stored(-1, -1)
            self._settle(batches)
            return
        wait = min(self._timeout, max(max(b.deadline for b in batches) - now, MS))
        fields["timeout_ms"] = min(wait // MS, WAIT_MS_MAX)
        fields["expires_ms"] = request.connection.broker_time_ms(now + wait) + 1
        for batch in batches:
            batch.is_in_request = batch.is_uncertain = True
        request.connection.request(
            now, Api.PRODUCE, fields, body, now + wait + ANSWER_SLACK, partial(self._answered, batches)
        )

    # Answers

    def _answered(self, now: int, batches: Sequence[Batch], answer: Any) -> None:  # noqa: ANN401
        raise NotImplementedError
