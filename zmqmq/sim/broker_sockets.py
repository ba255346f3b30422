"""The sockets of a simulated broker: its three listeners, and its connections to other brokers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from zmqmq.client.machines.effects import Link
from zmqmq.core.broker.events import (
    Event,
    PeerAnswered,
    PeerAsked,
    PeerLinked,
    PeerRefused,
    Received,
    SubjectWanted,
)
from zmqmq.core.storage.disk import Buffer
from zmqmq.sim.network import Listener, Network, Wire
from zmqmq.sim.node import Node
from zmqmq.sim.pubsub import Publisher


class Host(Protocol):
    """Whose sockets they are (broker_host.py)."""

    node: Node

    def arrived(self, event: Received | PeerAsked | PeerAnswered) -> None:
        """A message came."""

    def feed(self, event: Event) -> None:
        """Something else happened."""


def clients_address(node: Node) -> str:
    """Of the listener for clients."""
    return f"{node.name}:clients"


def push_address(node: Node) -> str:
    """Of what is published."""
    return f"{node.name}:push"


def peers_address(node: Node) -> str:
    """Of the listener for other brokers."""
    return f"{node.name}:peers"


class BrokerSockets:
    """Of one process. What is done to a listener is done once it listens."""

    clients: Listener
    peers: Listener
    published: Publisher

    def __init__(self, host: Host, network: Network) -> None:
        self.is_listening = False
        self._host = host
        self._network = network
        self._links: dict[int, Wire] = {}

    def listen(self) -> None:
        """Open all three."""
        self.is_listening = True
        network, node = self._network, self._host.node
        self.clients = network.listen(node, clients_address(node), _Door(self._host, Received))
        self.peers = network.listen(node, peers_address(node), _Door(self._host, PeerAsked))
        self.published = network.publish(node, push_address(node), _Gallery(self._host))

    def link(self, broker_id: int, address: str | None) -> None:
        """Connect to another broker, or let go of it."""
        old = self._links.pop(broker_id, None)
        if old is not None:
            old.close()
        if address is not None:
            end = _Link(self._host, broker_id)
            self._links[broker_id] = self._network.connect(self._host.node, address, end)

    def ask(self, broker_id: int, frames: Sequence[Buffer]) -> None:
        """Ask another broker, if there is a connection."""
        wire = self._links.get(broker_id)
        if wire is not None and wire.is_connected:
            wire.send(frames)


class _Door:
    """A listener's receiver."""

    __slots__ = ("_event", "_host")

    def __init__(self, host: Host, event: type[Received | PeerAsked]) -> None:
        self._host = host
        self._event = event

    def received(self, route: bytes, frames: list[bytes]) -> None:
        """A message came."""
        self._host.arrived(self._event(route, list(frames)))


class _Gallery:
    """The receiver of subscriptions."""

    __slots__ = ("_host",)

    def __init__(self, host: Host) -> None:
        self._host = host

    def wanted(self, subject: bytes) -> None:
        """A SUB has subscribed."""
        self._host.feed(SubjectWanted(subject))


class _Link:
    """The receiver of the connection to one other broker."""

    __slots__ = ("_broker_id", "_host")

    def __init__(self, host: Host, broker_id: int) -> None:
        self._host = host
        self._broker_id = broker_id

    def linked(self, link: Link) -> None:
        """The connection came up or went away."""
        if link is Link.REFUSED:
            self._host.feed(PeerRefused(self._broker_id))
        else:
            self._host.feed(PeerLinked(self._broker_id, link is Link.CONNECTED))

    def received(self, frames: list[bytes]) -> None:
        """An answer came."""
        self._host.arrived(PeerAnswered(self._broker_id, list(frames)))
