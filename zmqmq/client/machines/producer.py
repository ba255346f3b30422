"""One producer: batches out, answers in, each batch with exactly one outcome.

Decides what goes into which PRODUCE request, numbers the batches of an idempotent producer, and
says what an answer means for a batch: stored, try again, or given up. `sequences.py` keeps the
numbers of one partition; `accumulator.py` has what was not sent yet.

The promise: a record is stored once, in the order of `send` within its partition, or its handle
says why not. A refused batch is *no*; one that may have been appended is *perhaps*, and an
idempotent producer sends it again, byte for byte, to whoever leads by now, until it knows
(replication.md P1-P5).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

from zmqmq.client.machines.accumulator import Accumulator
from zmqmq.client.machines.backoff import Backoff, backoff_delay
from zmqmq.client.machines.batch import BATCH_OVERHEAD, Batch, PartitionQueue, Stored, TopicQueue
from zmqmq.client.machines.connection import Connection
from zmqmq.client.machines.effects import (
    MS,
    Chance,
    Effect,
    Failure,
    News,
    Observed,
    Promise,
    Reply,
    Settled,
)
from zmqmq.client.machines.network import Network
from zmqmq.client.machines.outcomes import (
    error_of,
    given_up,
    is_too_late,
    pause_of,
)
from zmqmq.client.machines.request import Request
from zmqmq.client.machines.routing import MOVED, Routing
from zmqmq.client.machines.sequences import Sequences
from zmqmq.client.options import ProducerOptions
from zmqmq.errors import (
    Code,
    RefusedError,
    WireError,
    ZmqmqError,
    refusal,
)
from zmqmq.wire.apis import ACKS_NONE, WAIT_MS_MAX, Api

REQUESTS_KEPT_FREE: Final = 4
"""Of a connection's requests in flight, so many are left for fetches and commits."""
ANSWER_SLACK: Final = 2_000 * MS
"""How much longer than `timeout_ms` to wait for the answer itself."""
GAP_PAUSE: Final = 5 * MS
"""How long a batch waits whose predecessor has not arrived yet."""
BACKOFF_MAX: Final = 2_000 * MS

_NO_SEQUENCE = frozenset({Code.OUT_OF_ORDER_SEQUENCE, Code.UNKNOWN_PRODUCER})


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
        promise: Promise,
        network: Network,
        routing: Routing,
        chance: Chance,
        effects: list[Effect],
        news: News,
    ) -> None:
        self.accumulator = accumulator
        self.is_closed = False
        self._guard = guard
        self._promise = promise
        self._network = network
        self._routing = routing
        self._effects = effects
        self._news = news
        self._acks = options.wire_acks
        self._in_flight = options.in_flight
        self._timeout = request_timeout
        self._sequences = Sequences(
            is_idempotent=options.idempotent and self._acks != ACKS_NONE, codec=options.codec
        )
        self._chance = chance
        self._retry_first = options.retry_backoff_ms * MS
        self._id_backoff = Backoff(chance, longest=BACKOFF_MAX)
        self._id_at = 0
        self._is_asking_id = False
        self._routed = (-1, 0)
        """The routing version and the number of topics that `_route` saw last."""
        self._begun: set[TopicQueue] = set()
        self._settled: list[Batch] = []
        self._pausing: dict[PartitionQueue, None] = {}
        """Queues that wait for their `not_before`."""

    def pump(self, now: int) -> None:
        """Send whatever can be sent now, and give up on what is overdue."""
        accumulator = self.accumulator
        if accumulator.has_news or now >= accumulator.next_wake():
            with self._guard:
                accumulator.collect(now)
                late = accumulator.overdue(now)
            if late:
                self._give_up(late)
        if (self._routing.version, len(accumulator.topics)) != self._routed:
            self._route(now)
        if self._sequences.needs_id:
            self._ask_id(now)
            return
        if self._pausing:
            for queue in [q for q in self._pausing if q.not_before <= now]:
                del self._pausing[queue]
                accumulator.sendable[queue] = None
        while accumulator.sendable and self._send(now):
            pass

    def next_wake(self) -> int:
        """When `pump` has something to do next, besides when an answer or a record comes."""
        wake = self.accumulator.next_wake()
        for queue in self._pausing:
            wake = min(wake, queue.not_before)
        if self._sequences.needs_id and not self._is_asking_id:
            wake = min(wake, self._id_at)
        return wake

    def close(self) -> None:
        """Whatever has no outcome yet gets one: never sent is *no*, sent is *perhaps*."""
        self.is_closed = True
        with self._guard:
            left = list(self.accumulator.unsettled)
        for batch in left:
            batch.outcome = given_up(batch, "the producer was closed")
        self._settle(left)

    # Sending

    def _send(self, now: int) -> bool:
        """Fill and send one request to each broker; whether there is more to send at once."""
        requests: dict[Connection, Request] = {}
        sendable = self.accumulator.sendable
        has_more = False
        for queue in list(sendable):
            if queue.not_before > now:
                del sendable[queue]
                self._pausing[queue] = None
                continue
            connection = self._connection(now, queue)
            if connection is None or connection.room <= REQUESTS_KEPT_FREE:
                self._hold(queue)
                continue
            if queue.carrier is not connection and not self._move(queue, connection):
                self._hold(queue)
                continue
            request = requests.get(connection)
            if request is None:
                self._note_limits(connection)
                request = requests[connection] = Request(connection)
            del sendable[queue]
            if not self._fill(request, queue):
                sendable[queue] = None  # at the end: others come first
                has_more = True
        for request in requests.values():
            if request.batches:
                self._transmit(now, request)
        return has_more

    def _connection(self, now: int, queue: PartitionQueue) -> Connection | None:
        if queue.moved_at == self._routing.version:
            # The one who led it said that he does not: wait for other news.
            self._routing.refresh(now)
            return None
        return self._routing.to_leader(now, queue.topic.name, queue.partition)

    def _move(self, queue: PartitionQueue, connection: Connection) -> bool:
        """Another broker leads: whether its batches may go there now.

        Nothing may overtake what the old leader has not answered. Sent again to the new one, it
        is recognised there if it was stored; without idempotence its answer has to be awaited.
        """
        waiting = [batch for batch in queue.in_flight if batch.request is not None]
        if waiting and not self._sequences.is_idempotent:
            return False
        for batch in waiting:
            batch.request = None
            batch.unknowns += not batch.is_void
        queue.carrier = connection
        return True

    def _fill(self, request: Request, queue: PartitionQueue) -> bool:
        """Put the queue's next batches into the request; False if some are left for another."""
        for batch in self._sequences.to_send_again(queue):
            if not request.add(batch):
                return False
        limit = min(self._in_flight, request.connection.limits.batches_in_flight)
        while len(queue.in_flight) < limit and not queue.is_bumping:
            if request.is_full:
                return False
            with self._guard:
                taken = self.accumulator.take(queue)
            if taken is None:
                return True
            if not self._encode(taken, request.connection):
                continue
            queue.in_flight.append(taken)
            if not request.add(taken):
                return False
        self._hold(queue)
        return True

    def _encode(self, batch: Batch, connection: Connection) -> bool:
        """Make the batch's bytes; False when it has got its outcome instead."""
        try:
            data = self._sequences.encode(batch)
        except (ValueError, TypeError, OverflowError) as error:
            self._end(batch, refusal(Code.MALFORMED, f"the batch cannot be encoded: {error!r}"))
            return False
        limit = connection.limits.batch_bytes
        if len(data) > limit:
            self._sequences.take_back(batch)
            self._end(
                batch,
                refusal(
                    Code.TOO_LARGE,
                    f"the batch of {len(batch)} has {len(data)} bytes; the broker takes {limit}",
                ),
            )
            return False
        return True

    def _note_limits(self, connection: Connection) -> None:
        limit = max(connection.limits.batch_bytes - BATCH_OVERHEAD, 1)
        if limit < self.accumulator.batch_bytes:
            with self._guard:
                self.accumulator.batch_bytes = limit

    def _hold(self, queue: PartitionQueue) -> None:
        if queue.is_due:
            with self._guard:
                self.accumulator.hold(queue)

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
                self._end(batch, Stored(-1, -1))
            self._flush_settled()
            return
        wait = min(self._timeout, max(max(b.deadline for b in batches) - now, MS))
        fields["timeout_ms"] = min(wait // MS, WAIT_MS_MAX)
        fields["expires_ms"] = request.connection.broker_time_ms(now + wait) + 1
        for batch in batches:
            batch.request = request
        answered = partial(self._answered, request)
        deadline = now + wait + ANSWER_SLACK
        request.connection.request(now, Api.PRODUCE, fields, body, deadline, answered)

    # Answers

    def _answered(self, request: Request, now: int, answer: Reply | Failure) -> None:
        batches = request.batches
        if isinstance(answer, Reply):
            results = answer.fields.get("results")
            if type(results) is not list or len(results) != len(batches):
                outcomes: Sequence[object] = [results] * len(batches)
            else:
                outcomes = results
        else:
            outcomes = [answer.error] * len(batches)
        is_sent = isinstance(answer, Reply) or answer.is_sent
        again: dict[PartitionQueue, int] = {}
        held = {batch.queue for batch in batches if batch.queue.not_before > now}
        for batch, outcome in zip(batches, outcomes, strict=True):
            is_current = batch.request is request
            if is_current:
                batch.request = None
            if batch.outcome is not None:
                continue  # given up on meanwhile
            if type(outcome) is list and len(outcome) >= 2:
                self._end(batch, Stored(outcome[0], outcome[1]))
                batch.queue.retries = 0
            elif is_current:  # else it goes to another broker by now
                connection, error = request.connection, error_of(outcome)
                self._failed(now, batch, connection, error, again, is_sent=is_sent)
        for queue, pause in again.items():
            if queue not in held:  # requests that fail together are one failure
                queue.retries += 1
                jitter = self._chance.jitter()
                delay = backoff_delay(self._retry_first, BACKOFF_MAX, queue.retries, jitter)
                queue.not_before = now + delay
            queue.not_before = max(queue.not_before, now + pause)
        for queue in {batch.queue: None for batch in batches}:
            if queue.is_bumping:
                with self._guard:
                    self._sequences.maybe_bump(queue)
            if queue.has_work or queue.has_unsent:
                self.accumulator.sendable[queue] = None
        if self.accumulator.sendable:
            self._news.is_fresh = True
        self._flush_settled()

    def _failed(
        self,
        now: int,
        batch: Batch,
        connection: Connection,
        error: ZmqmqError,
        again: dict[PartitionQueue, int],
        *,
        is_sent: bool,
    ) -> None:
        """Decide what an error means for one batch."""
        queue = batch.queue
        batch.error = error
        code = error.code if isinstance(error, WireError) else None
        where = queue.topic.name, queue.topic.id, queue.partition
        if self._routing.note_error(now, *where, connection, error):
            queue.moved_at = self._routing.version
        is_unknown = is_sent and not isinstance(error, RefusedError)
        if is_unknown:
            batch.unknowns += not batch.is_void
            if self._sequences.is_idempotent:
                again.setdefault(queue, 0)
            else:
                self._end(batch, error)
        elif code is Code.DUPLICATE_SEQUENCE:
            self._end(batch, Stored(-1, -1))
        elif code in _NO_SEQUENCE and self._sequences.is_idempotent:
            self._out_of_sequence(now, batch)
        elif is_too_late(error):
            pass  # after a pause those behind it would be as old, and so on for ever
        elif not is_sent or code in MOVED or code is Code.DEADLINE_PASSED or error.retriable:
            again[queue] = max(again.get(queue, 0), pause_of(error))
        else:
            # No to this sending; perhaps to an earlier one that was never answered.
            doubt = batch.unknowns and given_up(batch, "it was refused when sent again")
            self._sequences.note_hole(batch)
            self._end(batch, doubt or error)

    def _out_of_sequence(self, now: int, batch: Batch) -> None:
        """The broker misses what comes before a batch, or has forgotten this producer."""
        queue = batch.queue
        if queue.is_bumping and not batch.unknowns:
            return  # it gets another number
        if queue.in_flight[0] is not batch:
            # What comes before it has to be decided first, and may well be all it takes.
            queue.not_before = max(queue.not_before, now + GAP_PAUSE)
            return
        self._sequences.note_hole(batch)
        if batch.unknowns:
            # An earlier sending may be in a log that this broker does not have, or be forgotten.
            # Under a new number it might be stored twice.
            self._end(batch, given_up(batch, "the broker does not know what came before it"))

    def _give_up(self, late: list[Batch]) -> None:
        """The delivery time-out is over."""
        for batch in late:
            if batch.base_sequence >= 0:
                self._sequences.note_hole(batch)
            with self._guard:
                self.accumulator.remove(batch)
            self._end(batch, given_up(batch, "delivery_timeout_ms is over"))
        for queue in {batch.queue: None for batch in late}:
            with self._guard:
                if self._sequences.maybe_bump(queue):
                    self.accumulator.sendable[queue] = None
        self._flush_settled()

    def _end(self, batch: Batch, outcome: Stored | ZmqmqError) -> None:
        """Give a batch its outcome; `_flush_settled` tells those who wait."""
        batch.outcome = outcome
        in_flight = batch.queue.in_flight
        if in_flight and in_flight[0] is batch:
            in_flight.popleft()
        elif batch in in_flight:
            in_flight.remove(batch)
        self._settled.append(batch)

    def _flush_settled(self) -> None:
        settled, self._settled = self._settled, []
        if settled:
            self._settle(settled)

    def _settle(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            if isinstance(batch.outcome, ZmqmqError):
                # Nobody may ever look at the handles.
                detail = f"{batch!r}: {batch.outcome}"
                self._effects.append(Observed("delivery-failed", detail, is_warning=True))
        with self._guard:
            for batch in batches:
                self.accumulator.release(batch)
        self._effects.append(Settled(batches, self._promise))

    # Topics and the producer id

    def _route(self, now: int) -> None:
        """Take in what METADATA says about the topics in use."""
        accumulator, routing = self.accumulator, self._routing
        with self._guard:
            topics = list(accumulator.topics.values())
        for queues in topics:
            name = queues.name
            if queues not in self._begun:
                self._begun.add(queues)
                routing.ask_again(now, name)
            topic = routing.topics.get(name)
            if topic is not None:
                if queues.id not in (b"", topic.id):
                    # Deleted and made anew: what was encoded for the old one is of no use.
                    for queue in queues.partitions:
                        self._sequences.begin_anew(queue)
                with self._guard:
                    homeless = accumulator.route(name, topic.id, len(topic.leaders))
                    for queue in queues.partitions:
                        self._sequences.maybe_bump(queue)
                for batch, error in homeless:
                    self._end(batch, error)
            elif name in routing.unknown:
                self._begun.discard(queues)
                with self._guard:
                    lost = [b for b in accumulator.unsettled if b.queue.topic is queues]
                    for batch in lost:
                        accumulator.remove(batch)
                    accumulator.forget(queues)
                for batch in lost:
                    doubt = batch.is_uncertain and given_up(batch, str(routing.unknown[name]))
                    self._end(batch, doubt or routing.unknown[name])
        self._routed = (routing.version, len(accumulator.topics))
        self._flush_settled()

    def _ask_id(self, now: int) -> None:
        if self._is_asking_id or now < self._id_at:
            return
        self._is_asking_id = True
        self._network.request_any(now, Api.INIT_PRODUCER, {}, now + self._timeout, self._take_id)

    def _take_id(self, now: int, answer: Reply | Failure) -> None:
        self._is_asking_id = False
        if isinstance(answer, Reply):
            fields = answer.fields
            producer_id, epoch = fields.get("producer_id"), fields.get("producer_epoch")
            if type(producer_id) is int and type(epoch) is int and producer_id > 0:
                self._sequences.note_id(producer_id, epoch)
                return
        self._id_at = now + self._id_backoff.next_delay()
