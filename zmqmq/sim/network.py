"""ZeroMQ between nodes as brokers and clients see it: DEALERs that connect to ROUTERs, and what is
published (pubsub.py).

A DEALER (`Wire`) connects by itself and again whenever the connection is lost, each time under a
new route; what was under way is lost then, and what waits in it goes to the next connection. A
ROUTER (`Listener`) never hears of a connection's end: an answer finds its route gone. Both have
bounded queues (zeromq.md 3).

Faults name nodes by their names, and are undone by `heal_all`. Whatever has a name may be cut off,
also what is no node: the store talks over `path(node, "store")`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from zmqmq.core.storage.disk import Buffer
from zmqmq.sim.chance import Chance
from zmqmq.sim.connection import End, reset
from zmqmq.sim.links import Frames, Line, Path, Weather
from zmqmq.sim.loop import Loop
from zmqmq.sim.node import Node
from zmqmq.sim.pubsub import Mischief, Publisher, Publishing, Subscriber
from zmqmq.sim.sockets import Acceptor, Connected, Connector, Switchboard
from zmqmq.sim.trace import Trace

UNCONNECTED_MAX: Final = 64
"""Messages that wait in a DEALER for a connection (SNDHWM)."""
WIRE_MAX: Final = 256
"""Messages under way from a DEALER: those of its queue and what the kernels hold."""
ROUTE_MAX: Final = 4_096
"""Messages under way to one DEALER (transport.py)."""


class Routed(Protocol):
    """Who has a ROUTER."""

    def received(self, route: bytes, frames: Frames) -> object:
        """A message came in on this route."""


class Wire(Connector):
    """A DEALER. It calls its receiver until it is closed or its node dies, never at once."""

    __slots__ = ("_queue",)

    def __init__(self, network: Switchboard, node: Node, address: str, receiver: Connected) -> None:
        self._queue: deque[Frames] = deque()
        super().__init__(network, node, address, receiver)

    def send(self, frames: Sequence[Buffer]) -> bool:
        """Send or queue a message; False if there is no room, and then nothing happened."""
        assert not self._is_closed
        end = self._end
        if end is None:
            if len(self._queue) >= UNCONNECTED_MAX:
                return False
            self._queue.append(list(map(bytes, frames)))
            return True
        if end.leaving.in_flight >= WIRE_MAX:
            return False
        end.send(list(map(bytes, frames)))
        return True

    def _greet(self, end: End) -> None:
        for frames in self._queue:
            end.send(frames)
        self._queue.clear()


class Listener(Acceptor):
    """A ROUTER."""

    __slots__ = ("_receiver",)

    def __init__(self, node: Node, address: str, receiver: Routed, first_route: int) -> None:
        super().__init__(node, address, first_route)
        self._receiver = receiver

    def answer(self, route: bytes, frames: Sequence[Buffer]) -> bool:
        """Send on a route; False, and nothing sent, if it is gone or takes no more."""
        end = self._routes.get(route)
        if end is None or end.leaving.in_flight >= ROUTE_MAX:
            return False
        end.send(list(map(bytes, frames)))
        return True

    def take(self, route: bytes, frames: Frames) -> None:
        """A message has arrived, perhaps of an old connection."""
        if self.is_open:
            self._receiver.received(route, frames)


class Network:
    """All sockets and all the ways between the nodes."""

    def __init__(
        self, loop: Loop, chance: Chance, trace: Trace, weather: Weather | None = None
    ) -> None:
        self.loop = loop
        self.chance = chance
        self.trace = trace
        self.mischief = Mischief(chance)
        """With what is published."""
        self._weather = weather or Weather()
        self._paths: dict[tuple[str, str], Path] = {}
        self._listeners: dict[str, Acceptor] = {}
        self._wires: dict[str, dict[Connector, None]] = {}
        """Those that connect, of each node that was ever heard of."""
        self._connections: dict[int, tuple[End, End]] = {}
        self._numbers = 0

    # Sockets

    def listen(self, node: Node, address: str, receiver: Routed) -> Listener:
        """Open a ROUTER."""
        listener = Listener(node, address, receiver, self._first_route(node))
        self._open(listener)
        return listener

    def publish(self, node: Node, address: str, receiver: Publishing) -> Publisher:
        """Open an XPUB."""
        first = self._first_route(node)
        publisher = Publisher(node, address, receiver, first, self.mischief)
        self._open(publisher)
        return publisher

    def connect(self, node: Node, address: str, receiver: Connected) -> Wire:
        """Open a DEALER and connect it."""
        self._adopt(node)
        wire = Wire(self, node, address, receiver)
        self._wires[node.name][wire] = None
        return wire

    def subscriber(self, node: Node, address: str, receiver: Connected) -> Subscriber:
        """Open a SUB and connect it."""
        self._adopt(node)
        subscriber = Subscriber(self, node, address, receiver)
        self._wires[node.name][subscriber] = None
        return subscriber

    def _open(self, listener: Acceptor) -> None:
        """An address belongs to one node for ever."""
        node, address = listener.node, listener.address
        old = self._listeners.get(address)
        assert old is None or (old.node is node and not old.is_open), f"{address} is taken"
        self._adopt(node)
        self._listeners[address] = listener

    def _first_route(self, node: Node) -> int:
        return self.chance.stream(f"net/{node.name}/routes").randrange(1 << 32)

    # Faults and weather

    def path(self, source: str, target: str) -> Path:
        """The way from one to the other."""
        path = self._paths.get((source, target))
        if path is None:
            stream = self.chance.stream(f"net/{source}>{target}")
            path = self._paths[source, target] = Path(self.loop, stream, self._weather)
        return path

    def set_weather(self, weather: Weather) -> None:
        """Have the same weather everywhere."""
        self._weather = weather
        for path in self._paths.values():
            path.weather = weather

    def cut(self, source: str, target: str, *, both: bool = True) -> None:
        """Let nothing through from one to the other, or in both directions.

        Short cuts only delay. In a longer one each side gives its connections up, some time.
        Cuts of the same way add up, and each has to be healed.
        """
        self._note("cut", source, target, "<>" if both else ">")
        touched = [self.path(source, target), *([self.path(target, source)] if both else [])]
        fresh = not all(path.is_blocked for path in touched)
        for path in touched:
            path.cut()
        if fresh:
            for ends in self._between(source, target):
                for end in ends:
                    end.blocked()

    def heal(self, source: str, target: str, *, both: bool = True) -> None:
        """Take back one such cut."""
        self._note("heal", source, target, "<>" if both else ">")
        self.path(source, target).heal()
        if both:
            self.path(target, source).heal()

    def clog(self, source: str, target: str, until: int) -> None:
        """Hold back everything from one to the other until then."""
        self._note("clog", source, target, ">")
        self.path(source, target).clog(until)

    def reset(self, one: str, other: str) -> None:
        """Break the connections between two nodes, for both sides at once."""
        self._note("reset", one, other, "<>")
        stream = self.chance.stream(f"net/{one}-{other}/reset")
        for ends in self._between(one, other):
            reset(ends, self.loop, stream)

    def heal_all(self) -> None:
        """No cut and no clog any more, and no mischief."""
        self._note("heal", "all", "all", "<>")
        self.mischief.heal_all()
        for path in self._paths.values():
            path.heal_all()

    # For the sockets

    def listener(self, address: str) -> Acceptor | None:
        """Who listens there, or did last."""
        return self._listeners.get(address)

    def ways(self, source: str, address: str) -> tuple[Path, Path]:
        """There and back. What nobody ever listened on is a place of its own."""
        listener = self._listeners.get(address)
        target = address if listener is None else listener.node.name
        return self.path(source, target), self.path(target, source)

    def join(self, wire: Connector, listener: Acceptor) -> End:
        """Connect them; the end of the one that connects."""
        loop, there, back = self.loop, wire.node, listener.node
        stream = self.chance.stream(f"net/{there.name}-{back.name}/fate")
        route = listener.new_route()
        dealer = End(loop, stream, there, wire.lost)
        router = End(loop, stream, back, lambda: listener.left(route))
        dealer.other, router.other = router, dealer
        number = self._numbers = self._numbers + 2
        dealer.leaving = Line(
            loop,
            self.trace,
            number,
            f"{back.name} < {there.name}",
            self.path(there.name, back.name),
            back,
            lambda frames: listener.take(route, frames),
            router.over,
        )
        router.leaving = Line(
            loop,
            self.trace,
            number + 1,
            f"{there.name} < {back.name}",
            self.path(back.name, there.name),
            there,
            wire.take,
            dealer.over,
        )
        listener.joined(route, router)
        self._sweep()
        self._connections[number] = dealer, router
        if self.trace.wants_lines:
            self.trace.line(loop.now, there.name, f"connected to {listener.address}")
        return dealer

    def forget(self, wire: Connector) -> None:
        """One that connects was closed."""
        self._wires[wire.node.name].pop(wire, None)

    def _adopt(self, node: Node) -> None:
        if node.name not in self._wires:
            self._wires[node.name] = {}
            node.on_crash.append(self._crashed)
            node.on_restart.append(self._restarted)

    def _crashed(self, node: Node) -> None:
        for wire in list(self._wires[node.name]):
            wire.died()
        for listener in self._listeners.values():
            if listener.node is node and listener.is_open:
                listener.died()

    def _restarted(self, node: Node) -> None:
        for ends in self._connections.values():
            for end in ends:
                if end.node is node:
                    end.rebooted()

    def _between(self, one: str, other: str) -> Iterator[tuple[End, End]]:
        self._sweep()
        for ends in self._connections.values():
            if {ends[0].node.name, ends[1].node.name} == {one, other}:
                yield ends

    def _sweep(self) -> None:
        over = [n for n, (a, b) in self._connections.items() if not (a.is_open or b.is_open)]
        for number in over:
            del self._connections[number]

    def _note(self, what: str, one: str, other: str, way: str) -> None:
        self.trace.event(self.loop.now, "network", f"{what} {one}{way}{other}")
