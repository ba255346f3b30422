"""Somebody who writes to a metadata store and remembers what he was told, and somebody who
watches; afterwards both are compared with what the store holds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Self

from zmqmq.core.meta.store import (
    AmbiguousError,
    Batch,
    If,
    MetadataStore,
    Put,
    UnavailableError,
)

PATIENCE_S = 60.0
"""For what must happen: elections on a machine that is busy with other things."""
PAUSE_S = 0.02


class Work:
    """Makes one key after the other; each is put at most once, and never made twice."""

    def __init__(self, store: MetadataStore, prefix: bytes, start: int) -> None:
        self._store = store
        self._prefix = prefix
        self._start = start
        self._batches: list[Batch] = []
        self._moved = asyncio.Condition()
        self.acknowledged: dict[bytes, int] = {}
        self.refused: set[bytes] = set()
        self.ambiguous: set[bytes] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, store: MetadataStore, prefix: bytes) -> AsyncIterator[Self]:
        """Writes and watches during the block; what is wrong is raised behind it."""
        start = (await store.list(prefix, limit=1)).revision
        work = cls(store, prefix, start)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work._write()), group.create_task(work._watch())]
            yield work
            await work._check()
            for task in tasks:
                task.cancel()

    async def advance(self, count: int) -> None:
        """Wait until so many more commits were acknowledged, and the watch has seen them."""
        least = len(self.acknowledged) + count
        async with asyncio.timeout(PATIENCE_S), self._moved:
            await self._moved.wait_for(lambda: len(self.acknowledged) >= least)
            await self._seen(max(self.acknowledged.values()))

    async def _seen(self, revision: int) -> None:
        await self._moved.wait_for(lambda: self._batches and self._batches[-1].revision >= revision)

    async def _write(self) -> None:
        number = 0
        while True:
            number += 1
            key = self._prefix + b"%06d" % number
            try:
                done = await self._store.commit([Put(key, key)], [If(key, "create", "==", 0)])
            except AmbiguousError:
                self.ambiguous.add(key)
            except UnavailableError:
                self.refused.add(key)
            else:
                assert done.ok, f"{key!r} was put before it was put"
                async with self._moved:
                    self.acknowledged[key] = done.revision
                    self._moved.notify_all()
            await asyncio.sleep(PAUSE_S)

    async def _watch(self) -> None:
        async for batch in self._store.watch(self._prefix, self._start + 1):
            async with self._moved:
                self._batches.append(batch)
                self._moved.notify_all()

    async def _check(self) -> None:
        acknowledged, refused = dict(self.acknowledged), set(self.refused)
        snapshot = await self._store.list(self._prefix)
        async with asyncio.timeout(PATIENCE_S), self._moved:
            await self._seen(snapshot.revision)
        held = {kv.key: kv for kv in snapshot.items}

        assert {key: held[key].mod_revision for key in acknowledged} == acknowledged
        assert not refused & held.keys(), "what nothing was applied of is there"
        assert {kv.version for kv in held.values()} == {1}, "something was applied twice"
        seen = [
            (batch.revision, event.kv.key)
            for batch in self._batches
            for event in batch.events
            if batch.revision <= snapshot.revision
        ]
        assert seen == sorted((kv.mod_revision, kv.key) for kv in snapshot.items)
