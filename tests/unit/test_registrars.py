"""Registrations on a lease: put, lost, put again, given up; nobody else's is touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from zmqmq.core.broker.events import Event, Registered, RegistrationLost
from zmqmq.core.meta.store import OWN_LEASE, LeaseGoneError, Put
from zmqmq.core.meta.values import LiveDocument
from zmqmq.runtime.registrars import LeaseRegistrar
from zmqmq.runtime.sqlite_store import SqliteStore

KEY = b"/live/1"
TTL_S = 20.0
DOCUMENT = LiveDocument(
    instance=bytes(16), endpoints={}, rack=None, version="", since_fsync=None, since_clean=None
)


class World:
    """A registrar and what it says."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.tasks: set[asyncio.Task[None]] = set()
        self.registrar = LeaseRegistrar(store, KEY, TTL_S)
        self.registrar.begin(self.events.put_nowait, self.spawn)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        return task

    async def next(self) -> Event:
        return await asyncio.wait_for(self.events.get(), 60)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[World]:
    store = SqliteStore(folder / "metadata.db")
    await store.open()
    world = World(store)
    try:
        yield world
    finally:
        for task in world.tasks:
            task.cancel()
        await store.close()


def test_it_registers_and_gives_up(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(tmp_path) as world:
            world.registrar.register(DOCUMENT)
            event = await world.next()
            found = await world.store.get(KEY)
            assert found is not None
            assert event == Registered(found.create_revision)
            assert found.lease != 0
            own = world.registrar.leased(Put(b"/x", b"", OWN_LEASE))
            assert isinstance(own, Put)
            assert own.lease == found.lease
            assert world.registrar.leased(Put(b"/x", b"")) == Put(b"/x", b"")

            world.registrar.unregister()
            await world.registrar.close()
            assert await world.store.get(KEY) is None
            assert world.events.empty(), "who gives up has lost nothing"
            with pytest.raises(LeaseGoneError):
                world.registrar.leased(Put(b"/x", b"", OWN_LEASE))

    asyncio.run(work())


def test_an_older_registration_is_waited_for(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(tmp_path) as world:
            old = await world.store.session(TTL_S)
            await world.store.commit([Put(KEY, b"old", old.id)])
            world.registrar.register(DOCUMENT)
            await asyncio.sleep(0.5)
            found = await world.store.get(KEY)
            assert found is not None
            assert found.value == b"old"
            assert world.events.empty()

            await old.close(revoke=True)
            assert isinstance(await world.next(), Registered)

    asyncio.run(work())


def test_a_session_that_is_lost_is_told_and_another_one_can_be_had(tmp_path: Path) -> None:
    async def work() -> None:
        async with opened(tmp_path) as world:
            world.registrar.register(DOCUMENT)
            first = await world.next()
            session = world.registrar._session
            assert session is not None
            await session.close(revoke=True)
            assert isinstance(await world.next(), RegistrationLost)

            world.registrar.register(DOCUMENT)
            second = await world.next()
            assert isinstance(first, Registered)
            assert isinstance(second, Registered)
            assert second.epoch > first.epoch

    asyncio.run(work())
