"""All machines of one client put together: the one thing that the driver drives.

The driver hands in what happened and the time, calls `pump`, carries out `effects`, and comes
back at `next_wake` at the latest.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from zmqmq.client.machines.accumulator import Accumulator
from zmqmq.client.machines.admin import Admin
from zmqmq.client.machines.connection import Identity
from zmqmq.client.machines.consumer import Consumer
from zmqmq.client.machines.effects import (
    MS,
    Body,
    Chance,
    Effect,
    Link,
    News,
    Promise,
    Rejected,
    Resolved,
)
from zmqmq.client.machines.lookup import Answers, Lookup, Question
from zmqmq.client.machines.network import Network
from zmqmq.client.machines.places import StoredOffsets
from zmqmq.client.machines.producer import Producer
from zmqmq.client.machines.push import Push
from zmqmq.client.machines.routing import Routing
from zmqmq.client.machines.stream import Place
from zmqmq.client.options import ConsumerOptions, ProducerOptions
from zmqmq.errors import DisconnectedError, WireError, ZmqmqError


class Core:
    """One client's connections, metadata, producers and consumers."""

    def __init__(
        self, servers: Sequence[str], client: str, request_timeout_ms: int, chance: Chance
    ) -> None:
        self.effects: list[Effect] = []
        self.news = News()
        """Looked at by the driver after each message: is a `pump` called for?"""
        self.request_timeout = request_timeout_ms * MS
        self._chance = chance
        self.network = Network(servers, Identity(client), chance, self.effects, self.news)
        self.routing = Routing(self.network, chance, self.request_timeout, self.news)
        self.push = Push(self.network, self.request_timeout, self.effects, self.news)
        self.lookup = Lookup(self.network, self.routing, chance)
        self.admin = Admin(self.network, self.routing, chance, self.effects)
        self._producers: dict[Producer, None] = {}
        self._consumers: dict[Consumer, None] = {}
        self._connecting: dict[Promise, int] = {}
        self._describing: dict[Promise, tuple[str, int]] = {}

    # Commands

    def connect(self, promise: Promise, deadline: int) -> None:
        """Resolve the promise once any broker answers, reject it at the deadline."""
        self._connecting[promise] = deadline

    def describe_topic(self, now: int, name: str, promise: Promise, deadline: int) -> None:
        """Resolve to the topic's metadata, or reject if there is no such topic."""
        self.routing.ask_again(now, name)
        self._describing[promise] = (name, deadline)

    def list_offsets(
        self, now: int, questions: Sequence[Question], promise: Promise, deadline: int
    ) -> None:
        """Resolve to the offset of each question; the first error rejects."""

        def answered(_: int, answers: Answers) -> None:
            error = next((a for a in answers.values() if isinstance(a, ZmqmqError)), None)
            if error is not None:
                self.effects.append(Rejected(promise, error))
            else:
                self.effects.append(Resolved(promise, answers))

        self.lookup.ask(now, questions, deadline, answered)

    def add_producer(
        self,
        options: ProducerOptions,
        accumulator: Accumulator,
        guard: AbstractContextManager[object],
        promise: Promise,
    ) -> Producer:
        """Drive this accumulator from now on."""
        timeout = self.request_timeout
        if options.request_timeout_ms is not None:
            timeout = options.request_timeout_ms * MS
        producer = Producer(
            options,
            timeout,
            accumulator,
            guard,
            promise,
            self.network,
            self.routing,
            self._chance,
            self.effects,
            self.news,
        )
        self._producers[producer] = None
        return producer

    def remove_producer(self, producer: Producer) -> None:
        """End a producer; batches without an outcome get one."""
        if self._producers.pop(producer, 0) is None:
            producer.close()

    def add_consumer(
        self,
        options: ConsumerOptions,
        start: Place,
        topics: Sequence[str],
        promise: Promise,
        stored: StoredOffsets | None = None,
    ) -> Consumer:
        """Begin to fetch. A broadcast consumer brings what it has stored, and goes on there."""
        consumer = Consumer(
            options,
            start,
            stored,
            topics,
            self.request_timeout,
            promise,
            self.network,
            self.routing,
            self.lookup,
            self.push,
            self._chance,
            self.effects,
        )
        self._consumers[consumer] = None
        return consumer

    def remove_consumer(self, now: int, consumer: Consumer) -> None:
        """End a consumer."""
        if self._consumers.pop(consumer, 0) is None:
            consumer.close(now)

    # Driving

    def handle_message(self, now: int, socket: int, frames: Sequence[Body]) -> None:
        """A message came in."""
        if not self.network.handle_message(now, socket, frames):
            self.push.handle_message(now, socket, frames)

    def handle_link(self, now: int, socket: int, link: Link) -> None:
        """A socket's TCP connection came up or went away."""
        self.network.handle_link(now, socket, link)

    def pump(self, now: int) -> None:
        """Let every machine do what it can do now."""
        self.news.is_fresh = False
        self.network.handle_time(now)
        if self._connecting:
            self._end_connecting(now)
        if self._describing:
            self._end_describing(now)
        for producer in list(self._producers):
            producer.pump(now)
        self.lookup.pump(now)
        for consumer in list(self._consumers):
            consumer.pump(now)
        self.push.pump(now)
        if self.lookup.pump(now):  # some places need no question
            for consumer in list(self._consumers):
                consumer.pump(now)
        self.admin.pump(now)
        self.routing.handle_time(now)

    def pump_producer(self, now: int, producer: Producer) -> int:
        """Let one producer send what has become due; when to come back for it, as `next_wake`."""
        producer.pump(now)
        return min(producer.next_wake(), self.network.next_wake())

    def next_wake(self) -> int:
        """The time by which `pump` has to be called again."""
        wake = min(
            self.network.next_wake(),
            self.routing.next_wake(),
            self.lookup.next_wake(),
            self.push.next_wake(),
            self.admin.next_wake(),
        )
        for producer in self._producers:
            wake = min(wake, producer.next_wake())
        for consumer in self._consumers:
            wake = min(wake, consumer.next_wake())
        if self._connecting or self._describing:
            wake = min(
                wake,
                *self._connecting.values(),
                *(deadline for _, deadline in self._describing.values()),
            )
        return wake

    def close(self, now: int) -> None:
        """End everything; whatever has no answer yet gets one."""
        for producer in list(self._producers):
            self.remove_producer(producer)
        for consumer in list(self._consumers):
            self.remove_consumer(now, consumer)
        self.push.close()
        self.network.close(now)
        closed = DisconnectedError("the client was closed")
        for promise in (*self._connecting, *self._describing):
            self.effects.append(Rejected(promise, closed))
        self._connecting.clear()
        self._describing.clear()

    def check(self) -> None:
        """Assert what holds between events."""
        self.network.check()
        for producer in self._producers:
            producer.accumulator.check()

    def _end_connecting(self, now: int) -> None:
        ready = self.network.any_ready(now)
        for promise, deadline in list(self._connecting.items()):
            if ready is not None:
                self.effects.append(Resolved(promise, ready.address))
            elif now >= deadline:
                detail = f"no server answered; {self.network.failures()}"
                self.effects.append(Rejected(promise, DisconnectedError(detail)))
            else:
                continue
            del self._connecting[promise]

    def _end_describing(self, now: int) -> None:
        for promise, (name, deadline) in list(self._describing.items()):
            topic = self.routing.topics.get(name)
            error: WireError | None = self.routing.unknown.get(name)
            if topic is not None:
                self.effects.append(Resolved(promise, topic))
            elif error is not None:
                self.effects.append(Rejected(promise, error))
            elif now >= deadline:
                detail = f"topic {name!r}: {self.routing.open_question(name)}"
                self.effects.append(Rejected(promise, DisconnectedError(detail)))
            else:
                continue
            del self._describing[promise]
