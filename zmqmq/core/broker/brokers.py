"""The brokers of the cluster: DESCRIBE tells who there is, CORDON who gets nothing new.

Any broker answers both: what it knows stands in the metadata, and the flag is written with a
compare-and-swap on the broker's document.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from zmqmq.core.broker.admin_request import AdminRequest
from zmqmq.core.broker.metadata import Commits, store_refusal
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.sessions import Session
from zmqmq.core.broker.timers import Timers
from zmqmq.core.control.image import Image, KnownBroker
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import Commit, If, Put, StoreError
from zmqmq.core.meta.values import BrokerDocument
from zmqmq.core.security.authorize import Action, authorize
from zmqmq.errors import Code, WireError, refusal
from zmqmq.model.now import Now
from zmqmq.wire.apis import REQUESTS, Api
from zmqmq.wire.frame import Fields
from zmqmq.wire.schema import reader

_read_cordon = reader(REQUESTS[Api.CORDON])
TIMEOUT_NS: Final = 60 * 10**9


class Brokers:
    """What the metadata says of brokers."""

    def __init__(
        self, image: Image, outbox: Outbox, timers: Timers, commits: Commits, keys: KeySpace
    ) -> None:
        self._image = image
        self._outbox = outbox
        self._timers = timers
        self._commits = commits
        self._keys = keys

    def items(self) -> list[dict[str, Any]]:
        """DESCRIBE: a map for each broker, by number."""
        image = self._image
        ids = self._ids()
        led, preferred = dict.fromkeys(ids, 0), dict.fromkeys(ids, 0)
        for known in image.partitions.values():
            document = known.document
            preferred[document.replicas[0]] += 1
            if document.leader is not None:
                led[document.leader.broker_id] += 1
        chief = None if image.controller is None else image.controller.document.broker_id
        return [
            {
                **_item(image.broker(broker_id)),
                "controller": broker_id == chief,
                "replicas": len(image.held.get(broker_id, ())),
                "leaders": led[broker_id],
                "preferred": preferred[broker_id],
            }
            for broker_id in ids
        ]

    def cordon(self, now: Now, session: Session, correlation: int, fields: Fields) -> None:
        """CORDON: answered when it stands in the metadata store."""
        request = AdminRequest(self._outbox, session, Api.CORDON, correlation)
        try:
            self._cordon(session, request, fields)
        except WireError as error:
            request.refuse(error)
        if not request.done:
            self._timers.add(now.ns + TIMEOUT_NS, request)

    def _cordon(self, session: Session, request: AdminRequest, fields: Fields) -> None:
        broker_id, cordoned = _read_cordon(fields)
        if not authorize(session.principal, Action.ALTER, "cluster", "brokers"):
            raise refusal(Code.DENIED, "may not cordon brokers")
        ids = self._ids()
        if broker_id not in ids:
            there = ", ".join(map(str, ids))
            raise refusal(
                Code.UNKNOWN_BROKER, f"there is no broker {broker_id}; there are {there or 'none'}"
            )
        known = self._image.broker(broker_id)
        if known.is_cordoned == cordoned:
            request.finish({})
            return
        flags = known.flags or BrokerDocument(
            broker_epoch=known.epoch or 0, shutting_down=False, cordoned=False
        )
        key = self._keys.broker(broker_id)

        def answered(_now: Now, outcome: Commit | StoreError) -> None:
            if isinstance(outcome, StoreError):
                request.refuse(store_refusal(outcome))
            elif not outcome.ok:
                request.refuse(
                    refusal(
                        Code.CONFLICT, f"broker {broker_id} was changed meanwhile; ask once more"
                    )
                )
            else:
                request.finish({})

        self._commits.begin(
            [Put(key, replace(flags, cordoned=cordoned).encode())],
            [If(key, "mod", "==", known.flags_revision)],
            answered,
        )

    def _ids(self) -> list[int]:
        """Brokers that are up, hold something, or are cordoned. What else is known of a broker is
        only that it was here once."""
        image = self._image
        there = [b for b, known in image.brokers.items() if known.live or known.is_cordoned]
        holding = [broker_id for broker_id, places in image.held.items() if places]
        return sorted({*there, *holding})


def _item(known: KnownBroker) -> dict[str, Any]:
    live = known.live
    state = "down" if live is None else "stopping" if known.is_shutting_down else "up"
    return {
        "name": str(known.broker_id),
        "broker": known.broker_id,
        "broker_epoch": known.epoch,
        "address": None if live is None else live.endpoints.get("clients"),
        "rack": None if live is None else live.rack,
        "server": None if live is None else live.version,
        "state": state,
        "cordoned": known.is_cordoned,
    }
