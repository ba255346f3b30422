"""What all sockets have in common: one side connects, by itself and again and again, the other
accepts.
"""

from __future__ import annotations

from typing import Final, Protocol

from zmqmq.client.machines.effects import Link
from zmqmq.sim.chance import Chance
from zmqmq.sim.connection import End
from zmqmq.sim.links import Frames, Path
from zmqmq.sim.loop import Loop
from zmqmq.sim.node import MS, SECOND, Node

CONNECT_TIMEOUT_NS: Final = 5 * SECOND
SYN_AGAIN_NS: Final = SECOND
RETRY_NS: Final = (100 * MS, 500 * MS)
RETRY_MAX_NS: Final = 10 * SECOND


class Connected(Protocol):
    """Who has a socket that connects."""

    def linked(self, link: Link) -> object:
        """Something became of the connection."""

    def received(self, frames: Frames) -> object:
        """A message came."""


class Switchboard(Protocol):
    """What a socket needs of the network (network.py)."""

    loop: Loop
    chance: Chance

    def listener(self, address: str) -> Acceptor | None:
        """Who listens there, or did last."""

    def ways(self, source: str, address: str) -> tuple[Path, Path]:
        """There and back."""
        ...

    def join(self, wire: Connector, listener: Acceptor) -> End:
        """Connect them; the end of the one that connects."""
        ...

    def forget(self, wire: Connector) -> None:
        """One that connects was closed."""


class Connector:
    """A socket that connects by itself, and again whenever the connection is lost."""

    __slots__ = (
        "_address",
        "_end",
        "_is_closed",
        "_network",
        "_receiver",
        "_retry",
        "_retry_base",
        "_stream",
        "node",
    )

    def __init__(self, network: Switchboard, node: Node, address: str, receiver: Connected) -> None:
        self.node = node
        self._network = network
        self._address = address
        self._receiver = receiver
        self._end: End | None = None
        self._is_closed = False
        self._stream = network.chance.stream(f"net/{node.name}/connect {address}")
        self._retry = self._retry_base = self._stream.randrange(*RETRY_NS)
        self._attempt()

    @property
    def is_connected(self) -> bool:
        """Whether it holds itself to be connected."""
        return self._end is not None

    def close(self) -> None:
        """Close without waiting: what is queued is dropped, what is under way may arrive."""
        if not self._is_closed:
            end = self._stop()
            if end is not None:
                end.close()

    def died(self) -> None:
        """The process is gone."""
        end = self._stop()
        if end is not None:
            end.die()

    def take(self, frames: Frames) -> None:
        """A message has arrived, perhaps of an old connection."""
        if not self._is_closed:
            self._receiver.received(frames)

    def lost(self) -> None:
        """The connection is over."""
        self._end = None
        self._try_again(Link.LOST)

    def _greet(self, end: End) -> None:
        """Send what comes first on a new connection."""
        raise NotImplementedError

    def _stop(self) -> End | None:
        self._is_closed = True
        self._network.forget(self)
        end, self._end = self._end, None
        return end

    def _attempt(self) -> None:
        there, back = self._network.ways(self.node.name, self._address)
        now = self._network.loop.now
        arrival = now + there.delay() + back.delay()
        self._network.loop.post(arrival, self.node, self._arrive, now)

    def _arrive(self, began: int) -> None:
        if self._is_closed:
            return
        loop = self._network.loop
        there, back = self._network.ways(self.node.name, self._address)
        listener = self._network.listener(self._address)
        if there.is_blocked or back.is_blocked or (listener and not listener.node.is_powered):
            if loop.now - began >= CONNECT_TIMEOUT_NS:
                self._try_again(Link.REFUSED)
            else:
                loop.post(loop.now + SYN_AGAIN_NS, self.node, self._arrive, began)
        elif listener is None or not listener.is_open:
            self._try_again(Link.REFUSED)
        else:
            self._retry = self._retry_base
            self._end = end = self._network.join(self, listener)
            self._greet(end)
            self._receiver.linked(Link.CONNECTED)

    def _try_again(self, link: Link) -> None:
        when = self._network.loop.now + self._retry
        self._network.loop.post(when, self.node, self._attempt_again)
        self._retry = min(2 * self._retry, RETRY_MAX_NS)
        self._receiver.linked(link)

    def _attempt_again(self) -> None:
        if not self._is_closed:
            self._attempt()


class Acceptor:
    """A socket that others connect to."""

    __slots__ = ("_next_route", "_routes", "address", "is_open", "node")

    def __init__(self, node: Node, address: str, first_route: int) -> None:
        self.node = node
        self.address = address
        self.is_open = True
        self._routes: dict[bytes, End] = {}
        self._next_route = first_route

    def close(self) -> None:
        """Take in nothing more; what was sent may arrive."""
        self.is_open = False
        routes, self._routes = self._routes, {}
        for end in routes.values():
            end.close()

    def died(self) -> None:
        """The process is gone."""
        self.is_open = False
        routes, self._routes = self._routes, {}
        for end in routes.values():
            end.die()

    def new_route(self) -> bytes:
        """As ZeroMQ makes them: zero and a running number."""
        self._next_route += 1
        return self._next_route.to_bytes(5, "big")

    def joined(self, route: bytes, end: End) -> None:
        """Somebody has connected."""
        self._routes[route] = end

    def left(self, route: bytes) -> None:
        """A connection is over."""
        self._routes.pop(route, None)

    def take(self, route: bytes, frames: Frames) -> None:
        """A message has arrived, perhaps of an old connection."""
        raise NotImplementedError
