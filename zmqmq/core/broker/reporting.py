"""How far the copies of a partition that nobody leads reach: asks their brokers for the controller
(D8, C7), this one included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.peers import Peers
from zmqmq.core.broker.replicas import Replicas
from zmqmq.core.control.elections import Report
from zmqmq.core.replication.vouching import Place
from zmqmq.core.storage.disk import Buffer
from zmqmq.errors import WireError
from zmqmq.model.now import Now
from zmqmq.wire.frame import Fields
from zmqmq.wire.peers import PEER_REPLIES, PeerApi, Reported
from zmqmq.wire.schema import reader

_read = reader(PEER_REPLIES[PeerApi.REPORT])


class Reporting:
    """Questions of the controller, and the answers to it."""

    def __init__(self, identity: Identity, peers: Peers, replicas: Replicas) -> None:
        self._identity = identity
        self._peers = peers
        self._replicas = replicas
        self._own: list[tuple[Place, int]] = []
        self._reports: list[Report] = []

    def ask(self, place: Place, broker_ids: Sequence[int], leader_epoch: int) -> None:
        """Ask these brokers; some may never answer."""
        for broker_id in broker_ids:
            if broker_id == self._identity.broker_id:
                self._own.append((place, leader_epoch))
            else:
                fields = {"partitions": [[*place, leader_epoch]]}
                self._peers.ask(broker_id, PeerApi.REPORT, fields, partial(self._take, broker_id))

    def run(self, now: Now, then: Callable[[Now, Report], None]) -> None:
        """Hand over what has come."""
        own, self._own = self._own, []
        for place, leader_epoch in own:
            replica = self._replicas.adopt(place, leader_epoch)
            if replica is not None and replica.log is not None:
                log = replica.log
                self._note(
                    self._identity.broker_id,
                    self._identity.epoch,
                    Reported(*place, replica.adopted, log.epochs.latest, log.end_offset),
                )
        reports, self._reports = self._reports, []
        for report in reports:
            then(now, report)

    def _take(self, broker_id: int, fields: Fields, _: Sequence[Buffer]) -> None:
        try:
            to, error, epoch, entries = _read(fields)
            reported = [Reported.decode(entry) for entry in entries]
        except WireError:
            return
        if error or to != self._identity.epoch:
            return
        for one in reported:
            self._note(broker_id, epoch, one)

    def _note(self, broker_id: int, epoch: int, reported: Reported) -> None:
        place = (reported.topic_id, reported.partition)
        self._reports.append(
            Report(
                place,
                broker_id,
                epoch,
                reported.leader_epoch,
                reported.last_epoch,
                reported.end,
            )
        )
