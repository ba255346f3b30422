"""Asks the other brokers whether they are there, and has those fenced that are not (DESIGN 6).

The controller fences; whoever finds that the controller itself has failed takes its office and its
registration away, so that another one stands for it (core/control/campaign.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.peers import Peers
from zmqmq.core.control.controller import Controller
from zmqmq.core.control.detector import PING_NS, SILENT_NS, Detector
from zmqmq.core.control.image import Image
from zmqmq.core.meta.fields import Member
from zmqmq.core.storage.disk import Buffer
from zmqmq.model.now import Now
from zmqmq.wire.frame import Fields
from zmqmq.wire.peers import PEER_REPLIES, PeerApi
from zmqmq.wire.schema import reader, row

_read_reply = reader(PEER_REPLIES[PeerApi.PING])


class Health:
    """What this broker knows of the others' health."""

    def __init__(
        self, image: Image, identity: Identity, peers: Peers, controller: Controller
    ) -> None:
        self._image = image
        self._identity = identity
        self._peers = peers
        self._controller = controller
        self._detector = Detector()
        self._ping_ns = 0
        self._relink_ns = 0

    def tick(self, now: Now) -> None:
        """Time went by."""
        others = self._others()
        self._detector.look(now.ns, others)
        if not self._identity.epoch:
            return
        if now.ns >= self._ping_ns or self._detector.is_pressing():
            self._ping_ns = now.ns + PING_NS
            self._ping_all(others)
        if now.ns >= self._relink_ns:
            self._relink_ns = now.ns + SILENT_NS
            for broker_id in filter(self._detector.is_silent, others):
                # Where packets vanish, no kernel says that a connection is of no use any more.
                self._peers.relink(broker_id)
        self._judge(now, others)

    def linked(self, broker_id: int, *, is_up: bool) -> None:
        """A connection came up or went away."""
        if is_up:
            self._ping(broker_id)
        else:
            self._detector.broke(broker_id)

    def refused(self, now: Now, broker_id: int) -> None:
        """Nobody listens where it did."""
        self._detector.refused(broker_id)
        others = self._others()
        self._judge(now, others)
        if self._detector.is_pressing():
            self._ping_all(others)

    def heard(self, broker_id: int) -> None:
        """It has answered something else than PING."""
        self._detector.heard(broker_id)

    def reply(self) -> Fields:
        """What a PING is answered with."""
        return {"epoch": self._identity.epoch, "suspects": self._detector.suspects()}

    def _others(self) -> dict[int, int]:
        """Who else is registered, with the epochs."""
        return {
            broker_id: known.epoch
            for broker_id, known in self._image.brokers.items()
            if known.epoch is not None and broker_id != self._identity.broker_id
        }

    def _judge(self, now: Now, others: Mapping[int, int]) -> None:
        me = Member(self._identity.broker_id, self._identity.epoch)
        for member in self._detector.failed(me, others):
            self._controller.convict(now, member)

    def _ping_all(self, broker_ids: Iterable[int]) -> None:
        for broker_id in broker_ids:
            self._ping(broker_id)

    def _ping(self, broker_id: int) -> None:
        if self._identity.epoch and self._peers.is_linked(broker_id):
            self._peers.ask(broker_id, PeerApi.PING, {}, partial(self._answered, broker_id))

    def _answered(self, broker_id: int, fields: Fields, bodies: Sequence[Buffer]) -> None:
        """Raises refusal(MALFORMED)."""
        del bodies
        to, error, epoch, entries = _read_reply(fields)
        if error or to != self._identity.epoch:
            return
        suspects = [Member(*row("suspects", entry, int, int)[:2]) for entry in entries]
        self._detector.answered(Member(broker_id, epoch), suspects)
