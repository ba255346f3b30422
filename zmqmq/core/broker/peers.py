"""The other brokers: connections to them, and questions that are answered one by one.

Every broker keeps a connection to every other that was ever registered in its time. One whose
lease is gone may still lead (DESIGN 6), so its connection stays until it comes back elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from zmqmq.core.broker.events import AskPeer, LinkPeer
from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.control.image import Image
from zmqmq.core.storage.disk import Buffer
from zmqmq.wire.frame import Fields, encode_header
from zmqmq.wire.peers import PeerApi

LISTENER: Final = "peers"
"""Its name among a broker's endpoints."""
QUESTIONS_MAX: Final = 1_024
"""Unanswered ones; older ones are forgotten."""

Then = Callable[[Fields, Sequence[Buffer]], None]


class Peers:
    """Whom to reach, and who waits for which answer."""

    def __init__(self, image: Image, outbox: Outbox, identity: Identity) -> None:
        self._image = image
        self._outbox = outbox
        self._identity = identity
        self._addresses: dict[int, str] = {}
        self._linked: dict[int, None] = {}
        self._correlations = 0
        self._asked: dict[int, tuple[int, PeerApi, Then]] = {}

    def changed(self, broker_id: int) -> None:
        """A broker was registered, or is no longer."""
        live = self._image.broker(broker_id).live
        if live is None or broker_id == self._identity.broker_id:
            return
        address = live.endpoints.get(LISTENER)
        if address is not None and self._addresses.get(broker_id) != address:
            self._addresses[broker_id] = address
            self._linked.pop(broker_id, None)
            self._outbox.emit(LinkPeer(broker_id, address))

    def linked(self, broker_id: int, *, is_up: bool) -> None:
        """The connection came up or went away; what was asked on it may never be answered."""
        if is_up:
            self._linked[broker_id] = None
        else:
            self._linked.pop(broker_id, None)

    def relink(self, broker_id: int) -> None:
        """Give the connection up, and make another one."""
        address = self._addresses.get(broker_id)
        if address is not None:
            self._linked.pop(broker_id, None)
            self._outbox.emit(LinkPeer(broker_id, address))

    def is_linked(self, broker_id: int) -> bool:
        """Whether there is a connection."""
        return broker_id in self._linked

    def next_correlation(self) -> int:
        """A number for a request, never used before by this process."""
        self._correlations += 1
        return self._correlations

    def send(self, broker_id: int, api: PeerApi, correlation: int, fields: Fields) -> None:
        """Send a request; who is asked, and who asks, is added."""
        me = self._identity
        sender = {"cluster": me.cluster, "broker": me.broker_id, "epoch": me.epoch}
        header = encode_header(api, correlation, {**sender, **fields})
        self._outbox.emit(AskPeer(broker_id, [header]))

    def ask(self, broker_id: int, api: PeerApi, fields: Fields, then: Then) -> None:
        """Ask, and call `then` with the answer; it may never come."""
        correlation = self.next_correlation()
        if len(self._asked) >= QUESTIONS_MAX:
            del self._asked[next(iter(self._asked))]
        self._asked[correlation] = (broker_id, api, then)
        self.send(broker_id, api, correlation, fields)

    def answered(
        self,
        broker_id: int,
        api: int,
        correlation: int,
        fields: Fields,
        bodies: Sequence[Buffer],
    ) -> None:
        """A reply came; one that nobody waits for is ignored."""
        asked = self._asked.get(correlation)
        if asked is None or asked[:2] != (broker_id, api):
            return
        del self._asked[correlation]
        asked[2](fields, bodies)
