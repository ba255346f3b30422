"""A client in the simulated world: drives the machines of one `Core`, as client/driver.py does.

There is one thread and nobody waits: whoever asks hands in a function that gets the result or the
error. A host lives as long as its process. A client that starts again makes another host on the
same node, and what the old one had asked for is never answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Final, Protocol, cast

from zmqmq.client.machines.accumulator import Accumulator
from zmqmq.client.machines.batch import Batch
from zmqmq.client.machines.batch import Stored as Placed
from zmqmq.client.machines.core import Core
from zmqmq.client.machines.effects import (
    MS,
    NEVER,
    Body,
    CloseSocket,
    CommitDue,
    Effect,
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
from zmqmq.client.machines.lookup import Question
from zmqmq.client.machines.producer import Producer
from zmqmq.client.options import ProducerOptions
from zmqmq.sim.chance import Stream
from zmqmq.sim.loop import Timer
from zmqmq.sim.network import Network
from zmqmq.sim.node import Node
from zmqmq.sim.pubsub import Subscriber
from zmqmq.sim.push_marks import PushMarks
from zmqmq.wire.apis import Api
from zmqmq.wire.frame import Fields

SEND_AGAIN: Final = 2 * MS
"""Until the next attempt to send into a full socket."""
PUMPS_AT_ONCE_MAX: Final = 1_000
"""Machines that want to be pumped so often at one moment would keep a processor busy for ever."""

Then = Callable[[Any], object]
"""Called once with what became of it: a result, or a ZmqmqError."""


class Listener(Protocol):
    """Whose promise the machines carry in Fetched, CommitDue and Settled."""

    def notify(self) -> None:
        """Something has changed: look again."""


class SeededChance:
    """What the machines are lent of chance."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def jitter(self) -> int:
        """A number from 0 to 999."""
        return self._stream.randrange(1_000)

    def session_id(self) -> bytes:
        """16 bytes that nobody else has."""
        return self._stream.randrange(1 << 128).to_bytes(16, "big")


class ClientHost:
    """One client process. `chance` goes to the machines and to nobody else."""

    def __init__(
        self,
        node: Node,
        network: Network,
        servers: Sequence[str],
        name: str,
        chance: Stream,
        request_timeout_ms: int = 10_000,
    ) -> None:
        self.node = node
        self.name = name
        self.chance = chance
        self.core = Core(servers, name, request_timeout_ms, SeededChance(chance))
        self.is_closed = False
        self.observed: Callable[[Observed], object] | None = None
        """Gets what a real client would log."""
        self._network = network
        self._push_marks = PushMarks(network.mischief.rarely)
        self._sockets: dict[int, _Dealer | _Sub] = {}
        self._timer: Timer | None = None
        self._timer_at = NEVER
        self._is_pump_due = False
        self._pumps = (0, 0)
        """Loop time of the last pump, and how many there were at that time."""

    # What a client asks

    def call(self, api: Api, fields: Fields, then: Then) -> None:
        """Ask what any broker can answer."""
        now = self.node.monotonic_ns()
        self.core.admin.call(now, api, fields, now + self.core.request_timeout, then)
        self.pump()

    def list_offsets(self, questions: Sequence[Question], then: Then) -> None:
        """Ask the leaders; the result maps each question to its offset."""
        now = self.node.monotonic_ns()
        self.core.list_offsets(now, questions, then, now + self.core.request_timeout)
        self.pump()

    def describe_topic(self, name: str, then: Then) -> None:
        """Ask for a topic's metadata (routing.Topic)."""
        now = self.node.monotonic_ns()
        self.core.describe_topic(now, name, then, now + self.core.request_timeout)
        self.pump()

    def producer(self, options: ProducerOptions, topic: str) -> SimProducer:
        """Begin to produce, mostly to this topic."""
        return SimProducer(self, options, topic)

    def close(self) -> None:
        """End in good order: everything that was asked for gets its outcome."""
        if not self.is_closed:
            self.core.close(self.node.monotonic_ns())
            self._carry_out()
            self.is_closed = True
            for socket in self._sockets.values():
                socket.wire.close()
            self._sockets.clear()
            self._set_timer(NEVER)

    # Driving

    def pump(self) -> None:
        """Let the machines do what they can do now."""
        self._is_pump_due = False
        if self.is_closed:
            return
        at, pumps = self._pumps
        now_true = self.node.loop.now
        self._pumps = (now_true, pumps + 1 if at == now_true else 1)
        assert pumps < PUMPS_AT_ONCE_MAX, f"{self.name}: its machines do not come to rest"
        core, now = self.core, self.node.monotonic_ns()
        core.pump(now)
        self._carry_out()
        wake = core.next_wake()
        if wake <= now or core.news.is_fresh:
            self.pump_soon()
        elif wake != self._timer_at:
            self._set_timer(wake)

    def pump_soon(self) -> None:
        """Pump after what is under way."""
        if not self._is_pump_due and not self.is_closed:
            self._is_pump_due = True
            self.node.call_soon(self.pump)

    def received(self, socket: int, frames: list[bytes]) -> None:
        """A message came in on a socket."""
        core = self.core
        core.handle_message(self.node.monotonic_ns(), socket, frames)
        if isinstance(self._sockets.get(socket), _Sub):
            self._push_marks.note(frames, core.effects)
        self._carry_out()
        if core.news.is_fresh:
            self.pump()

    def linked(self, socket: int, link: Link) -> None:
        """A socket's connection came up or went away."""
        self.core.handle_link(self.node.monotonic_ns(), socket, link)
        self.pump()

    def _set_timer(self, wake: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = wake
        self._timer = self.node.call_at(wake, self._timer_over) if wake < NEVER else None

    def _timer_over(self) -> None:
        self._timer, self._timer_at = None, NEVER
        self.pump()

    def _carry_out(self) -> None:
        effects = self.core.effects
        for effect in effects:  # more may be appended meanwhile
            self._effect(effect)
        effects.clear()

    def _effect(self, effect: Effect) -> None:
        if isinstance(effect, Transmit):  # most are
            socket = self._sockets.get(effect.socket)
            if isinstance(socket, _Dealer):
                socket.send(effect.frames)
            return
        match effect:
            case Settled(batches, promise):
                for batch in batches:
                    for watch in batch.watchers:
                        watch()
                cast("Listener", promise).notify()
            case Fetched(promise) | CommitDue(promise):
                cast("Listener", promise).notify()
            case Resolved(promise, outcome) | Rejected(promise, outcome):
                cast("Then", promise)(outcome)
            case OpenSocket(number, address):
                self._sockets[number] = _Dealer(self, self._network, number, address)
            case OpenSubscriber(number, address):
                self._sockets[number] = _Sub(self, self._network, number, address)
            case Subscribe(number, subject):
                self._sub(number).subscribe(subject)
            case Unsubscribe(number, subject):
                self._sub(number).unsubscribe(subject)
            case CloseSocket(number):
                closing = self._sockets.pop(number, None)
                if closing is not None:
                    closing.wire.close()
            case Observed():
                self._push_marks.note_observed(effect)
                if self.observed is not None:
                    self.observed(effect)

    def _sub(self, number: int) -> Subscriber:
        sub = self._sockets[number]
        assert isinstance(sub, _Sub)
        return sub.wire


class _Socket:
    """The receiver of one socket."""

    __slots__ = ("_host", "_number")

    def __init__(self, host: ClientHost, number: int) -> None:
        self._host = host
        self._number = number

    def received(self, frames: list[bytes]) -> None:
        """A message came."""
        self._host.received(self._number, frames)

    def linked(self, link: Link) -> None:
        """Something became of the connection."""
        self._host.linked(self._number, link)


class _Sub(_Socket):
    """One SUB."""

    __slots__ = ("wire",)

    def __init__(self, host: ClientHost, network: Network, number: int, address: str) -> None:
        super().__init__(host, number)
        self.wire = network.subscriber(host.node, address, self)


class _Dealer(_Socket):
    """One DEALER, and what does not fit into it for now."""

    __slots__ = ("_unsent", "wire")

    def __init__(self, host: ClientHost, network: Network, number: int, address: str) -> None:
        super().__init__(host, number)
        self._unsent: deque[Sequence[Body]] = deque()
        self.wire = network.connect(host.node, address, self)

    def send(self, frames: Sequence[Body]) -> None:
        """Send, or keep it until there is room; the machines hear of it and make no more."""
        if self._unsent or not self.wire.send(frames):
            self._unsent.append(frames)
            if len(self._unsent) == 1:
                self._host.core.network.note_congestion(self._number, is_congested=True)
                self._again()

    def _again(self) -> None:
        node = self._host.node
        node.call_at(node.monotonic_ns() + SEND_AGAIN, self._send_unsent)

    def _send_unsent(self) -> None:
        if self._host._sockets.get(self._number) is not self:  # noqa: SLF001 - one thing
            return
        while self._unsent and self.wire.send(self._unsent[0]):
            self._unsent.popleft()
        if self._unsent:
            self._again()
        else:
            self._host.core.network.note_congestion(self._number, is_congested=False)
        self._host.pump_soon()


class SimProducer:
    """What client/sending.py does, without threads: records in, an outcome for each."""

    __slots__ = ("_host", "accumulator", "machine")

    def __init__(self, host: ClientHost, options: ProducerOptions, topic: str) -> None:
        self._host = host
        self.accumulator = Accumulator(options, host.chance.randrange(1 << 16))
        self.accumulator.default_topic = topic
        self.machine: Producer = host.core.add_producer(
            options, self.accumulator, nullcontext(), self
        )
        self.accumulator.topic(topic)

    def send(
        self,
        topic: str,
        value: bytes,
        key: bytes | None,
        then: Then,
        partition: int | None = None,
    ) -> bool:
        """Put a record in; `then` gets (partition, offset) or the error. False: there is no room.

        Raises what the accumulator refuses at once.
        """
        node = self._host.node
        place = self.accumulator.append(
            node.monotonic_ns(),
            node.wall_ms(),
            self.accumulator.topic(topic),
            partition,
            value,
            key,
        )
        if self.accumulator.has_news:
            self._host.pump_soon()
        if place is None:
            return False
        batch, index = place
        batch.watchers.append(partial(_tell, then, batch, index))
        return True

    def close(self) -> None:
        """End it; what has no outcome gets one."""
        self._host.core.remove_producer(self.machine)
        self._host.pump()

    def notify(self) -> None:
        """There may be room: whoever found none asks again."""


def _tell(then: Then, batch: Batch, index: int) -> None:
    outcome = batch.outcome
    assert outcome is not None
    if isinstance(outcome, Placed):
        offset = outcome.base_offset
        then((batch.queue.partition, offset if offset < 0 else offset + index))
    else:
        then(outcome)
