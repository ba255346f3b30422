"""The SQLite store against a dumb one, over random histories; one seed, one history."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import pytest

from tests.support.memory_store import MemoryStore
from zmqmq.core.meta.store import (
    Batch,
    CompactedError,
    Delete,
    If,
    LeaseGoneError,
    Op,
    Operator,
    Put,
    Session,
    StoreError,
    Target,
)
from zmqmq.runtime.sqlite_store import SqliteStore

SEEDS = range(12 * int(os.environ.get("ZMQMQ_TEST_SCALE", "1")))
STEPS = 150
KEYS = [b"a/%d" % i for i in range(4)] + [b"b/%d" % i for i in range(3)]
PREFIXES = [b"", b"a/", b"b/", b"b/1", b"c"]
OPERATORS: list[Operator] = ["==", "==", "!=", "<", ">"]
TARGETS: list[Target] = ["create", "mod", "version", "lease", "value"]


async def outcome(call: Awaitable[object]) -> object:
    """What a call returned, or the error as text: that has the revision or the lease in it."""
    try:
        return await call
    except (CompactedError, LeaseGoneError) as error:
        return f"{type(error).__name__}: {error}"


async def immediate(function: Callable[..., object], *arguments: object) -> object:
    return function(*arguments)


class Walk:
    """One history, done to both stores step by step."""

    def __init__(self, seed: int, path: Path) -> None:
        self.random = Random(seed)
        self.path = path
        self.store = SqliteStore(path)
        self.model = MemoryStore()
        self.sessions: dict[int, Session] = {}
        self.watched: list[tuple[int, list[Batch]]] = []
        """Revisions from which a watch was begun early, and what it has delivered."""
        self.watches: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        steps = [self.commit] * 12 + [self.list] * 3 + [self.events] * 2 + [self.watch]
        steps += [self.grant, self.revoke, self.compact, self.reopen]
        await self.store.open()
        for _ in range(STEPS):
            await self.random.choice(steps)()
        await self.expire()
        await self.settle_watches()
        assert await self.store.list(b"") == self.model.snapshot(b"")
        await self.store.close()

    async def commit(self) -> None:
        ops = [self.op(key) for key in self.random.sample(KEYS, self.random.randint(0, 4))]
        ifs = [self.condition() for _ in range(self.random.choice([0, 0, 1, 2, 3]))]
        assert await outcome(self.store.commit(ops, ifs)) == await outcome(
            immediate(self.model.commit, ops, ifs)
        )

    def op(self, key: bytes) -> Op:
        if self.random.random() < 0.3:
            return Delete(key)
        leases = [0, 0, 0, *self.model.leases]
        if self.random.random() < 0.02:
            leases = [99]
        return Put(key, self.random.choice([b"", b"x", b"y"]), self.random.choice(leases))

    def condition(self) -> If:
        key, target = self.random.choice(KEYS), self.random.choice(TARGETS)
        kv = self.model.now.get(key)
        op = self.random.choice(OPERATORS)
        if target == "value":
            return If(key, target, op, self.random.choice([b"", b"x", b"y"]))
        name = {"create": "create_revision", "mod": "mod_revision"}.get(target, target)
        number = getattr(kv, name) if kv else 0
        return If(key, target, op, max(0, number + self.random.choice([0, 0, 0, 1, -1])))

    async def list(self) -> None:
        prefix, limit = self.random.choice(PREFIXES), self.random.choice([0, 1, 2, 99])
        after = self.random.choice([None, None, *KEYS])
        revision = self.random.randint(max(0, self.model.revision - 40), self.model.revision)
        assert await outcome(
            self.store.list(prefix, limit=limit, after=after, revision=revision)
        ) == await outcome(immediate(self.model.snapshot, prefix, limit, after, revision))

    async def events(self) -> None:
        prefix = self.random.choice(PREFIXES)
        start = self.random.randint(1, self.model.revision)
        found: list[Batch] = []
        try:
            async for batch in self.store.watch(prefix, start):
                found += [batch] if batch.events else []
                if batch.revision == self.model.revision:
                    break
        except CompactedError:
            with pytest.raises(CompactedError):
                self.model.events(prefix, start)
        else:
            assert found == self.model.events(prefix, start)

    async def watch(self) -> None:
        start, found = self.model.revision + 1, list[Batch]()

        async def follow() -> None:
            async for batch in self.store.watch(b"", start):
                found.append(batch)

        self.watches.append(asyncio.create_task(follow()))
        self.watched.append((start, found))
        await asyncio.sleep(0)

    async def settle_watches(self) -> None:
        """Compare what they delivered, which may end early where history was compacted."""
        for watch, (start, found) in zip(self.watches, self.watched, strict=True):
            async with asyncio.timeout(30):
                expected = self.model.revision + 1 - start
                while not watch.done() and len(found) < expected:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError, StoreError):
                await watch
            complete = MemoryStore.events(self._uncompacted(), b"", start)
            assert found == complete[: len(found)]
        self.watches, self.watched = [], []

    def _uncompacted(self) -> MemoryStore:
        model = MemoryStore()
        model.states, model.order = self.model.states, self.model.order
        return model

    async def grant(self) -> None:
        session = await self.store.session(1000)
        self.sessions[session.id] = session
        self.model.leases.add(session.id)

    async def revoke(self) -> None:
        if self.sessions:
            lease = self.random.choice(list(self.sessions))
            await self.sessions.pop(lease).close()
            self.model.end_lease(lease)

    async def expire(self) -> None:
        """One lease really runs out; a longer one if it was over before a key was on it."""
        ttl_s = 0.1
        while True:
            session = await self.store.session(ttl_s)
            puts = [Put(key, b"", session.id) for key in reversed(KEYS[1:4])]
            try:
                await self.store.commit(puts)
                break
            except LeaseGoneError:
                ttl_s *= 2
        self.model.leases.add(session.id)
        self.model.commit(puts)
        await session.close(revoke=False)
        async with asyncio.timeout(30):
            while await self.store.get(KEYS[1]) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        self.model.end_lease(session.id)

    async def compact(self) -> None:
        revision = self.random.randint(max(1, self.model.revision - 30), self.model.revision)
        assert await outcome(self.store.compact(revision)) == await outcome(
            immediate(self.model.compact, revision)
        )

    async def reopen(self) -> None:
        """Leases go on; their sessions were the old store's."""
        await self.settle_watches()
        await self.store.close()
        self.store = SqliteStore(self.path)
        await self.store.open()
        self.sessions = {}


@pytest.mark.parametrize("seed", SEEDS)
def test_sqlite_does_what_the_dumb_store_does(seed: int, tmp_path: Path) -> None:
    asyncio.run(Walk(seed, tmp_path / "x").run())
