"""Messages of other brokers: from frames to the part of the broker that they are for.

What is not of this cluster, or not a message at all, is ignored or refused; nothing that a peer
sends can make it raise.
"""

from __future__ import annotations

from typing import Final

from zmqmq.core.broker.catalog import Catalog
from zmqmq.core.broker.following import Following
from zmqmq.core.broker.health import Health
from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.leading import Leading
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.peers import Peers
from zmqmq.core.broker.replicas import Replicas
from zmqmq.core.meta.fields import Member
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.truncation import state_at_start
from zmqmq.errors import ProtocolError, WireError
from zmqmq.model.limits import REPLY_BYTES_MAX
from zmqmq.model.now import Now
from zmqmq.wire.frame import Fields, decode_header, decode_reply_header
from zmqmq.wire.peers import PEER_REQUESTS, PeerApi, PeerCode, Reported
from zmqmq.wire.schema import reader, row

_read_report = reader(PEER_REQUESTS[PeerApi.REPORT])
_read_state = reader(PEER_REQUESTS[PeerApi.STATE])
STATE_FRAME_BYTES: Final = REPLY_BYTES_MAX
"""Of 10,000 producers a state may have 20 MB, and no frame may (ZMQ_MAXMSGSIZE)."""
_read_ping = reader(PEER_REQUESTS[PeerApi.PING])
_read_hurry = reader(PEER_REQUESTS[PeerApi.HURRY])
_APIS: Final = {int(api): api for api in PeerApi}


class PeerFront:
    """Knows who answers what."""

    def __init__(
        self,
        identity: Identity,
        catalog: Catalog,
        outbox: Outbox,
        peers: Peers,
        replicas: Replicas,
        leading: Leading,
        following: Following,
        health: Health,
    ) -> None:
        self._identity = identity
        self._catalog = catalog
        self._outbox = outbox
        self._peers = peers
        self._replicas = replicas
        self._leading = leading
        self._following = following
        self._health = health
        self.rejected = 0
        """Messages that were not what they should be."""

    def asked(self, now: Now, route: bytes, frames: list[Buffer]) -> None:
        """A request."""
        try:
            number, _, correlation, fields = decode_header(bytes(frames[0]))
            api = _APIS.get(number)
            if api is None or len(frames) > 1:
                self.rejected += 1
                return
            if fields.get("cluster") != self._identity.cluster or not self._identity.epoch:
                error = {"to": fields.get("epoch", 0), "error": int(PeerCode.WRONG_CLUSTER)}
                self._outbox.answer_peer(route, api, correlation, error)
                return
            self._dispatch(now, route, api, correlation, fields)
        except (ProtocolError, WireError):
            self.rejected += 1

    def answered(self, now: Now, broker_id: int, frames: list[Buffer]) -> None:
        """A reply."""
        try:
            number, _, correlation, fields = decode_reply_header(bytes(frames[0]))
            if number == PeerApi.REPLICATE:
                self._health.heard(broker_id)
                self._following.answered(now, broker_id, correlation, fields, frames[1:])
            else:
                self._peers.answered(broker_id, number, correlation, fields, frames[1:])
        except (ProtocolError, WireError):
            self.rejected += 1

    def _dispatch(
        self, now: Now, route: bytes, api: PeerApi, correlation: int, fields: Fields
    ) -> None:
        match api:
            case PeerApi.REPLICATE:
                self._leading.replicate(now, route, correlation, fields)
            case PeerApi.REPORT:
                self._report(route, correlation, fields)
            case PeerApi.STATE:
                self._state(route, correlation, fields)
            case PeerApi.PING:
                _, _, epoch = _read_ping(fields)
                answer = {"to": epoch, **self._health.reply()}
                self._outbox.answer_peer(route, api, correlation, answer)
            case PeerApi.HURRY:
                _, broker, epoch = _read_hurry(fields)
                self._leading.hurried(Member(broker, epoch))

    def _report(self, route: bytes, correlation: int, fields: Fields) -> None:
        """D8: how far the copies here reach, which take part in nothing older from now on."""
        _, _, epoch, entries = _read_report(fields)
        reports = []
        for entry in entries:
            topic_id, number, leader_epoch, *_ = row("partitions", entry, bytes, int, int)
            replica = self._replicas.adopt((topic_id, number), leader_epoch)
            if replica is not None and replica.log is not None:
                log = replica.log
                reported = Reported(
                    topic_id, number, replica.adopted, log.epochs.latest, log.end_offset
                )
                reports.append(reported.encode())
        answer = {"to": epoch, "epoch": self._identity.epoch, "partitions": reports}
        self._outbox.answer_peer(route, PeerApi.REPORT, correlation, answer)

    def _state(self, route: bytes, correlation: int, fields: Fields) -> None:
        """F9: what the log here, which a follower begins to copy at its start, says of
        producers."""
        _, _, epoch, topic_id, number, leader_epoch = _read_state(fields)
        partition = self._catalog.partitions.get((topic_id, number))
        state = None
        if partition is not None and partition.epoch == leader_epoch:
            state = state_at_start(partition.log)
        if partition is None or state is None:
            error = {"to": epoch, "error": int(PeerCode.UNKNOWN_LEADER_EPOCH)}
            self._outbox.answer_peer(route, PeerApi.STATE, correlation, error)
            return
        answer = {"to": epoch, "offset": partition.log.start_offset}
        bodies = [
            state[at : at + STATE_FRAME_BYTES] for at in range(0, len(state), STATE_FRAME_BYTES)
        ]
        self._outbox.answer_peer(route, PeerApi.STATE, correlation, answer, bodies)
