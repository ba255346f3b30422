"""A client's machines with a script in the place of sockets, clock and chance.

`World` drives a `Core` as client/driver.py does: it takes the effects, keeps what was sent as
values, and hands in the answers that a test gives. Time moves when the test says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import BatchHeader, log_seed, stamp, unpack_header
from zmqmq.client.machines.accumulator import Accumulator
from zmqmq.client.machines.consumer import Consumer
from zmqmq.client.machines.core import Core
from zmqmq.client.machines.effects import (
    MS,
    CloseSocket,
    CommitDue,
    Fetched,
    Link,
    Observed,
    OpenSocket,
    OpenSubscriber,
    Rejected,
    Resolved,
    Settled,
    Subscribe,
    Transmit,
    Unsubscribe,
)
from zmqmq.client.machines.producer import Producer
from zmqmq.client.machines.stream import Place, PlaceKind, end_of_batches
from zmqmq.client.options import ConsumerOptions, ProducerOptions
from zmqmq.errors import Code, WireError, error_to_wire, refusal
from zmqmq.model.names import OFFSETS_TOPIC
from zmqmq.wire.apis import Api, push_subject
from zmqmq.wire.frame import decode_header, encode_header

TOPIC_ID = b"topic id of 16 b"
PUSH_ADDRESS = "a:2"
START_MS = 1_700_000_000_000


class Chance:
    """No chance at all: full delays, and sessions that are numbered."""

    def __init__(self) -> None:
        self.sessions = 0

    def jitter(self) -> int:
        return 0

    def session_id(self) -> bytes:
        self.sessions += 1
        return self.sessions.to_bytes(16, "big")


@dataclass
class Sent:
    """One request as the broker would see it."""

    socket: int
    api: Api
    correlation: int
    fields: dict[str, Any]
    body: list[bytes]

    @property
    def headers(self) -> list[BatchHeader]:
        """The headers of the batches in a PRODUCE."""
        return [unpack_header(frame) for frame in self.body]

    @property
    def sequences(self) -> list[tuple[int, int, int]]:
        """Partition, epoch and base sequence of each batch in a PRODUCE."""
        places = [partition for _, partition in self.fields["batches"]]
        return [
            (p, h.producer_epoch, h.base_sequence)
            for p, h in zip(places, self.headers, strict=True)
        ]


class Promise:
    """Records what a command came to."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: Any = None
        self.is_done = False
        self.notified = 0
        self.commits_due = 0

    def notify(self) -> None:
        self.notified += 1

    def commit_due(self, _now: int) -> None:
        self.commits_due += 1


@dataclass
class World:
    """One client, its brokers played by the test."""

    servers: Sequence[str] = ("a:1",)
    topics: dict[str, int] = field(default_factory=lambda: {"t": 1})
    """Topics that METADATA knows, and how many partitions they have."""
    limits: dict[str, int] = field(default_factory=dict)
    leader: int | None = 1
    epoch: int = 1
    leads: dict[tuple[str, int], tuple[int | None, int]] = field(default_factory=dict)
    """Leader and epoch of partitions where these are not `leader` and `epoch`."""
    copies: tuple[int, ...] = ()
    """Brokers that have a copy of every partition."""
    ids: dict[str, bytes] = field(default_factory=dict)
    """Topic ids where these are not `id_of`."""
    brokers: dict[int, str] = field(default_factory=lambda: {1: "a:1", 2: "b:2", 3: "c:3"})
    now: int = 1_000 * MS

    def __post_init__(self) -> None:
        self.chance = Chance()
        self.core = Core(self.servers, "test", 30_000, self.chance)
        self.open: dict[int, str] = {}
        self.closed: list[int] = []
        self.subscribers: dict[int, list[bytes]] = {}
        """Open SUB sockets, and their subjects."""
        self.sent: list[Sent] = []
        self.observed: list[Observed] = []
        self.settled: list[Any] = []
        self.step()

    @property
    def socket(self) -> int:
        """The socket that was opened last."""
        return max(self.open)

    def step(self) -> None:
        """Let the machines look, and carry out what they want."""
        for _ in range(20):
            self.core.pump(self.now)
            self.take_effects()
            self.core.check()
            if self.core.next_wake() > self.now and not self.core.news.is_fresh:
                return
        raise AssertionError("the machines never come to rest")

    def take_effects(self) -> None:
        effects = self.core.effects
        for effect in effects:
            match effect:
                case Transmit(socket, frames):
                    api, _, correlation, fields = decode_header(bytes(frames[0]))
                    body = [bytes(f) for f in frames[1:]]
                    self.sent.append(Sent(socket, Api(api), correlation, fields, body))
                case OpenSocket(socket, address):
                    self.open[socket] = address
                case OpenSubscriber(socket, address):
                    assert address == PUSH_ADDRESS
                    self.subscribers[socket] = []
                case Subscribe(socket, subject):
                    self.subscribers[socket].append(subject)
                case Unsubscribe(socket, subject):
                    self.subscribers[socket].remove(subject)
                case CloseSocket(socket) if socket in self.subscribers:
                    del self.subscribers[socket]
                case CloseSocket(socket):
                    del self.open[socket]
                    self.closed.append(socket)
                case Resolved(promise, value):
                    promise.value, promise.is_done = value, True
                case Rejected(promise, error):
                    promise.error, promise.is_done = error, True
                case Settled(batches, promise):
                    self.settled += batches
                    promise.notify()
                case Fetched(promise):
                    promise.notify()
                case CommitDue(promise):
                    promise.commit_due(self.now)
                case Observed():
                    self.observed.append(effect)
        effects.clear()

    def advance(self, ms: float) -> None:
        """Let time pass, stopping wherever a machine wants to be woken."""
        end = self.now + int(ms * MS)
        while True:
            wake = self.core.next_wake()
            if wake > end:
                break
            self.now = max(wake, self.now)
            self.step()
        self.now = end
        self.step()

    def take(self, api: Api) -> Sent:
        """The oldest request of this API that was not taken yet."""
        for index, sent in enumerate(self.sent):
            if sent.api is api:
                return self.sent.pop(index)
        raise AssertionError(f"no {api.name} was sent; there is {[s.api.name for s in self.sent]}")

    def take_all(self, api: Api) -> list[Sent]:
        """All requests of this API that were not taken yet."""
        found = [s for s in self.sent if s.api is api]
        self.sent = [s for s in self.sent if s.api is not api]
        return found

    def answer(self, sent: Sent, fields: dict[str, Any], body: Sequence[bytes] = ()) -> None:
        """The broker's reply to one request."""
        header = encode_header(sent.api, sent.correlation, fields)
        self.core.handle_message(self.now, sent.socket, [header, *body])
        self.take_effects()
        if self.core.news.is_fresh:
            self.step()

    def refuse(self, sent: Sent, code: Code, **hints: object) -> None:
        """The broker refuses one request as a whole."""
        self.answer(sent, {"error": error_to_wire(refusal(code, "scripted", hints))})

    def tell_subjects(self) -> Sent:
        """Answer SUBSCRIBE."""
        sent = self.take(Api.SUBSCRIBE)
        subjects = [push_subject(*place) for place in sent.fields["partitions"]]
        self.answer(sent, {"subjects": subjects, "endpoint": PUSH_ADDRESS})
        return sent

    def publish(
        self, data: bytes = b"", *, prev: int = 0, partition: int = 0, **other: int
    ) -> bool:
        """PUSH, or without data HEAD, to whoever has the subject; whether somebody has."""
        subject = push_subject(id_of("t"), partition)
        fields = {"epoch": self.epoch, **other}
        if data:
            fields = {"prev": prev, "end": end_of_batches(data)[0], **fields}
        else:
            fields = {"start": 0, **fields}
        header = encode_header(Api.PUSH if data else Api.HEAD, 0, fields)
        body = [data] if data else []
        found = [s for s, subjects in self.subscribers.items() if subject in subjects]
        for socket in found:
            self.core.handle_message(self.now, socket, [subject, header, *body])
            self.take_effects()
            if self.core.news.is_fresh:
                self.step()
        return bool(found)

    def lose(self, socket: int | None = None) -> None:
        """The TCP connection of a socket is gone."""
        self.core.handle_link(self.now, self.socket if socket is None else socket, Link.LOST)
        self.step()

    def refuse_connection(self) -> None:
        self.core.handle_link(self.now, self.socket, Link.REFUSED)
        self.step()

    def broker_of(self, sent: Sent) -> int:
        """Which broker a request went to."""
        address = self.open[sent.socket]
        return next(broker for broker, at in self.brokers.items() if at == address)

    def socket_to(self, broker: int) -> int:
        """The open socket to a broker."""
        return next(s for s, at in self.open.items() if at == self.brokers[broker])

    def greet_all(self) -> None:
        """Each broker that was said HELLO to answers."""
        while any(s.api is Api.HELLO for s in self.sent):
            hello = next(s for s in self.sent if s.api is Api.HELLO)
            if hello.socket in self.open:
                self.greet(self.broker_of(hello))
            else:
                self.sent.remove(hello)

    def greet(self, broker: int = 1, lease_ms: int = 60_000) -> Sent:
        """Answer HELLO."""
        hello = self.take(Api.HELLO)
        self.answer(
            hello,
            {
                "version": 1,
                "server": "scripted",
                "cluster": b"c" * 16,
                "broker": broker,
                "broker_epoch": 1,
                "principal": "anonymous",
                "lease_ms": lease_ms,
                "time_ms": START_MS + self.now // MS,
                "endpoints": {"clients": self.servers[0]},
                "limits": self.limits,
            },
        )
        return hello

    def tell_metadata(self) -> Sent:
        """Answer METADATA with `topics`."""
        sent = self.take(Api.METADATA)
        entries = []
        for name in sent.fields["topics"]:
            count = self.topics.get(name, 1 if name == OFFSETS_TOPIC else None)
            if count is None:
                error = error_to_wire(refusal(Code.UNKNOWN_TOPIC, f"no topic {name!r}"))
                entries.append({"name": name, "error": error})
            else:
                default = self.leader, self.epoch
                leads = [self.leads.get((name, n), default) for n in range(count)]
                partitions = [[*lead, list(self.copies)] for lead in leads]
                topic_id = self.ids.get(name, id_of(name))
                entries.append({"name": name, "id": topic_id, "partitions": partitions})
        brokers = [[broker, address, None] for broker, address in self.brokers.items()]
        self.answer(sent, {"brokers": brokers, "topics": entries})
        return sent

    def tell_producer_id(self, producer_id: int = 7) -> None:
        """Answer INIT_PRODUCER."""
        self.answer(self.take(Api.INIT_PRODUCER), {"producer_id": producer_id, "producer_epoch": 0})

    def acknowledge(self, sent: Sent, *results: object) -> None:
        """Answer PRODUCE: offsets, codes or error maps, in order."""
        shown = [_result(result) for result in results]
        self.answer(sent, {"results": shown})

    def reconnect(self) -> None:
        """After a loss: wait for the next socket and greet on it."""
        self.advance(200)
        self.greet()


def _result(result: object) -> object:
    if isinstance(result, Code):
        return error_to_wire(refusal(result, "scripted"))
    if isinstance(result, WireError):
        return error_to_wire(result)
    return [result, START_MS] if isinstance(result, int) else result


def id_of(topic: str) -> bytes:
    """The scripted id of a topic."""
    return topic.encode().ljust(16, b".")


class Sending:
    """A producer in a world: its accumulator as the caller's thread uses it."""

    def __init__(self, world: World, topic: str = "t", **options: Any) -> None:
        self.world = world
        self.options = ProducerOptions(**{"linger_ms": 0, **options})
        self.accumulator = Accumulator(self.options, start=0)
        self.accumulator.default_topic = topic
        self.accumulator.topic(topic)
        self.name = topic
        self.promise = Promise()
        self.machine: Producer = world.core.add_producer(
            self.options, self.accumulator, nullcontext(), self.promise
        )
        world.step()

    def ready(self) -> Sending:
        """Greet, tell metadata and a producer id."""
        self.world.greet()
        self.world.tell_metadata()
        if self.options.idempotent and self.options.acks != 0:
            self.world.tell_producer_id()
        return self

    def put(self, value: bytes = b"v", key: bytes | None = None, **other: Any) -> Any:
        """Append one record without letting the I/O side look; its batch."""
        place = self.accumulator.append(
            self.world.now,
            START_MS,
            self.accumulator.topic(other.pop("topic", self.name)),
            other.pop("partition", None),
            value,
            key,
            **other,
        )
        assert place is not None, "the buffer is full"
        return place[0]

    def send(self, value: bytes = b"v", key: bytes | None = None, **other: Any) -> Any:
        """Append one record and let the I/O side look; its batch."""
        batch = self.put(value, key, **other)
        self.world.step()
        return batch


def sending(**options: Any) -> Sending:
    """A producer that is connected and knows its topic `t` of one partition."""
    return Sending(World(), **options).ready()


class Fetching:
    """A consumer in a world."""

    def __init__(
        self,
        world: World,
        *topics: str,
        start: Place = Place(PlaceKind.OFFSET, 0),  # noqa: B008 - a constant
        **options: Any,
    ) -> None:
        self.world = world
        self.promise = Promise()
        self.machine: Consumer = world.core.add_consumer(
            ConsumerOptions(**options), start, topics or ("t",), self.promise
        )
        world.step()


def answer_fetch(
    world: World, sent: Sent, data: dict[int, bytes], *, end: int = 1_000, start: int = 0
) -> None:
    """Answer FETCH with the bytes of some partitions."""
    entries, body = [], []
    for _, partition, *_ in sent.fields["partitions"]:
        frame = data.get(partition, b"")
        entries.append([len(frame), end, start])
        if frame:
            body.append(frame)
    world.answer(sent, {"partitions": entries}, body)


def stored_batch(
    base_offset: int,
    values: Sequence[bytes],
    *,
    topic: str = "t",
    partition: int = 0,
    keys: list[bytes | None] | None = None,
    epoch: int = 1,
) -> bytes:
    """A batch as a broker serves it."""
    data = encode_batch(
        log_seed(id_of(topic), partition), list(values), timestamp_ms=START_MS, keys=keys
    )
    head = stamp(base_offset, len(data), epoch, START_MS, base_offset, data[36:40])
    return head + data[36:]


class WorldDriver:
    """Stands for client/driver.py where a Sender or Reader wants one: everything runs at once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.core = world.core
        self.listeners: set[object] = set()

    def post(self, action: Callable[..., None], *arguments: object) -> None:
        action(self.world.now, *arguments)
        self.world.step()

    def post_producer(self, sender: Any) -> None:
        machine = sender.woken()
        if machine is not None:
            self.core.pump_producer(self.world.now, machine)
            self.world.take_effects()
            if self.core.news.is_fresh:
                self.world.step()

    def check_usable(self) -> None:
        return
