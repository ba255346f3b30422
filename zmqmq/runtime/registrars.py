"""A broker's registration: the live key whose create_revision is its broker epoch.

In a store that several brokers share it stands on a lease, and goes when that runs out. In the
embedded store there is nobody else, and the lock of the data directory is enough.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Final

from zmqmq.core.broker.events import Event, Registered, RegistrationLost
from zmqmq.core.meta.store import (
    OWN_LEASE,
    AmbiguousError,
    Delete,
    If,
    LeaseGoneError,
    MetadataStore,
    Op,
    Put,
    Session,
    StoreClosedError,
    StoreError,
)
from zmqmq.core.meta.values import LiveDocument

logger = logging.getLogger("zmqmq.server")

Task = asyncio.Task[None]
Spawn = Callable[[Coroutine[Any, Any, None]], Task]
"""Begins a task whose failure is the broker's."""
AGAIN_FIRST_S: Final = 0.1
AGAIN_LAST_S: Final = 2.0
"""Between attempts to register; the pause doubles from the first to the last."""


class Registrar(ABC):
    """Belongs to one server, and is used from its loop."""

    def __init__(self, store: MetadataStore, live: bytes) -> None:
        self._store = store
        self._live = live
        self._task: Task | None = None
        """What it does now."""
        self._feed: Callable[[Event], None]
        self._spawn: Spawn

    def begin(self, feed: Callable[[Event], None], spawn: Spawn) -> None:
        """Whom to tell of `Registered` and `RegistrationLost`; comes before all else."""
        self._feed, self._spawn = feed, spawn

    @abstractmethod
    def register(self, document: LiveDocument) -> None:
        """Put the live key, however long that takes."""

    @abstractmethod
    def unregister(self) -> None:
        """Take it away, or let it go."""

    @abstractmethod
    def leased(self, op: Op) -> Op:
        """The operation with the lease that it is to have. Raises LeaseGoneError."""

    async def close(self) -> None:
        """Wait until what was registered is given up, if it was to be."""
        await _ended(self._task)


class EmbeddedRegistrar(Registrar):
    """In a store of this broker's own."""

    def __init__(self, store: MetadataStore, live: bytes, controller: bytes) -> None:
        super().__init__(store, live)
        self._controller = controller

    def register(self, document: LiveDocument) -> None:
        self._task = self._spawn(self._register(document))

    def unregister(self) -> None:
        """The next start does."""

    def leased(self, op: Op) -> Op:
        if isinstance(op, Put) and op.lease == OWN_LEASE:
            return Put(op.key, op.value)
        return op

    async def _register(self, document: LiveDocument) -> None:
        """Whoever left the old keys is gone, since we hold the lock of its directory."""
        await self._store.commit([Delete(self._live), Delete(self._controller)])
        done = await self._store.commit(
            [Put(self._live, document.encode())], [If(self._live, "create", "==", 0)]
        )
        assert done.ok, "somebody else registered this broker"
        self._feed(Registered(done.revision))


class LeaseRegistrar(Registrar):
    """In a store that brokers share.

    An old live key is waited for and never deleted: another process may have put it there. Whose
    it is when an answer was lost, the lease under it tells.
    """

    def __init__(self, store: MetadataStore, live: bytes, ttl_s: float) -> None:
        super().__init__(store, live)
        self._ttl_s = ttl_s
        self._has_told = False
        self._session: Session | None = None

    def register(self, document: LiveDocument) -> None:
        before = self._task
        self._task = self._spawn(self._keep(document, before))

    def unregister(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = self._spawn(self._give_up(self._task))

    def leased(self, op: Op) -> Op:
        if not (isinstance(op, Put) and op.lease == OWN_LEASE):
            return op
        session = self._session
        if session is None or not session.alive:
            raise LeaseGoneError(0 if session is None else session.id)
        return Put(op.key, op.value, session.id)

    async def _keep(self, document: LiveDocument, before: Task | None) -> None:
        """Register, then wait until the session is lost."""
        await _ended(before)
        pause_s = AGAIN_FIRST_S
        epoch = await self._try(document)
        while epoch is None:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, AGAIN_LAST_S)
            epoch = await self._try(document)
        session = self._session
        assert session is not None
        self._has_told = False
        self._feed(Registered(epoch))
        reason = await session.wait_lost()
        if self._session is session:
            self._session = None
            self._feed(RegistrationLost(reason))

    async def _try(self, document: LiveDocument) -> int | None:
        """The revision at which the live key was put on our lease; None: not now."""
        key = self._live
        try:
            session = self._session
            if session is None or not session.alive:
                session = self._session = await self._store.session(self._ttl_s)
            put = Put(key, document.encode(), session.id)
            try:
                done = await self._store.commit([put], [If(key, "create", "==", 0)])
            except AmbiguousError:
                found = await self._store.get(key)
            else:
                if done.ok:
                    return done.revision
                found = done.current.get(key)
        except StoreClosedError:
            raise
        except StoreError as error:
            logger.warning("not registered yet: %s", error)
            return None
        if found is not None and found.lease == session.id:
            return found.create_revision
        if found is not None and not self._has_told:
            self._has_told = True
            logger.warning(
                "waiting: somebody is registered as this broker. If that was its last run, it is "
                "over in %s s at most; if it goes on, another one has this number (--node-id)",
                self._ttl_s,
            )
        return None

    async def _give_up(self, before: Task | None) -> None:
        await _ended(before)
        session, self._session = self._session, None
        if session is not None:
            try:
                await session.close()
            except StoreError as error:
                logger.warning("the registration was not taken back, and runs out: %s", error)


async def _ended(task: Task | None) -> None:
    if task is not None:
        await asyncio.wait((task,))
