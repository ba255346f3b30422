"""A broker's registration: a lease, and the live key on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from zmqmq.core.broker.events import Event, Registered, RegistrationLost
from zmqmq.core.meta.store import OWN_LEASE, Commit, If, Put, StoreError
from zmqmq.core.meta.values import LiveDocument
from zmqmq.sim.node import MS
from zmqmq.sim.store_client import Session, StoreClient

AGAIN_NS: Final = 200 * MS


class Registrar:
    """Lives as long as its process."""

    def __init__(
        self, client: StoreClient, key: bytes, lease_ns: int, feed: Callable[[Event], object]
    ) -> None:
        self._client = client
        self._key = key
        self._lease_ns = lease_ns
        self._feed = feed
        self._document: LiveDocument | None = None
        """What is to be registered."""
        self._session: Session | None = None

    def register(self, document: LiveDocument) -> None:
        """Get a lease, then put the live key on it; tried again until it is there."""
        self._document = document
        self._try()

    def unregister(self) -> None:
        """Give the lease up."""
        self._document = None
        if self._session is not None:
            self._session.revoke()
            self._session = None

    def _try(self) -> None:
        if self._document is None:
            return
        if self._session is None:
            self._session = self._client.session(self._lease_ns, lambda _: self._try(), self._lost)
        elif self._session.is_alive:
            self._put(self._document)

    def _put(self, document: LiveDocument) -> None:
        key = self._key

        def answered(outcome: Commit | StoreError) -> None:
            if self._document is not document:
                return
            own = self._session
            if isinstance(outcome, Commit) and own is not None and own.is_alive:
                kv = outcome.current.get(key)
                if outcome.ok:
                    self._done(outcome.revision)
                    return
                if kv is not None and kv.lease == own.lease:
                    self._done(kv.create_revision)  # an attempt whose answer was lost
                    return
            self._again()

        put = Put(key, document.encode(), OWN_LEASE)
        self._client.commit([put], [If(key, "create", "==", 0)], answered)

    def _done(self, epoch: int) -> None:
        self._document = None
        self._feed(Registered(epoch))

    def _again(self) -> None:
        node = self._client.node
        node.call_at(node.monotonic_ns() + AGAIN_NS, self._try)

    def _lost(self, reason: str) -> None:
        self._session = None
        if self._document is not None:
            self._again()
        else:
            self._feed(RegistrationLost(reason))
