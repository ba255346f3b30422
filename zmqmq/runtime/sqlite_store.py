"""The embedded metadata store: one SQLite file, for a broker that is alone.

Keeps the contract of core/meta/store.py, and so behaves like etcd, with these differences:

- One process has the file; a second one gets DirectoryError.
- AmbiguousError comes only from a disk that failed or was silent in the middle of a commit. The
  first is the end of the store: every later call is a StoreClosedError that says so.
- A lease is renewed by a timer in the loop, without I/O: the store cannot be away from its own
  process. It runs out only if the loop stands still for longer than the TTL. A TTL of math.inf is
  taken too, and never runs out.

Idle it does nothing at all: the thread sleeps in its queue, watches sleep until something is
committed, and there is a timer for each lease and none without leases.

sqlite_worker.py has the thread and sqlite_tables.py the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from zmqmq.core.meta.store import (
    KV,
    TIMEOUT_S,
    Batch,
    Commit,
    If,
    LeaseGoneError,
    Op,
    Snapshot,
    StoreClosedError,
    StoreInfo,
    UnavailableError,
    check_commit,
    check_key,
    check_prefix,
)
from zmqmq.runtime.sqlite_session import TTL_MIN_S, LeaseEnds, SqliteSession
from zmqmq.runtime.sqlite_tables import EventPage, SqliteTables
from zmqmq.runtime.sqlite_worker import SqliteWorker

RETRY_S: Final = 0.1
"""How long a watch or an expiry waits before it tries again what was unavailable."""


class SqliteStore:
    """A MetadataStore in one file. Opened once, in one event loop; after `close` make another."""

    def __init__(self, path: str | os.PathLike[str], *, timeout_s: float = TIMEOUT_S) -> None:
        """`timeout_s` is for calls that name none."""
        self.path = Path(path)
        self._timeout_s = timeout_s
        self._opened: SqliteWorker | None = None
        self._changed = asyncio.Event()
        """Set, and replaced, with each change; watches sleep on it."""
        self._sessions: dict[int, SqliteSession] = {}
        """By lease, until the lease is deleted."""
        self._ends = LeaseEnds(self._revoke, self._spawn_expiry)
        self._expiries: set[asyncio.Task[None]] = set()

    async def open(self) -> StoreInfo:
        """Open the file, or create it in a directory that exists.

        Raises DirectoryError if it is in use, is something else, or is of a newer version;
        CorruptDataError; UnavailableError. Leases that it holds begin anew with their full TTL.
        """
        assert self._opened is None, "a store is opened once"
        worker = SqliteWorker(self.path, on_change=self._note_change)
        self._opened = worker
        await worker.start(timeout_s=self._timeout_s)
        try:
            leases, cluster_id = await worker.run(
                lambda tables: (tables.leases(), tables.cluster_id),
                is_write=False,
                timeout_s=self._timeout_s,
            )
        except BaseException:
            worker.stop("it was not opened to the end")
            raise
        for lease_id, ttl_s in leases.items():
            session = SqliteSession(lease_id, ttl_s, self._ends, is_renewed=False)
            self._sessions[lease_id] = session
        return StoreInfo("sqlite", sqlite3.sqlite_version, cluster_id)

    async def get(self, key: bytes, *, timeout_s: float | None = None) -> KV | None:
        check_key(key)
        return await self._worker.run(
            lambda tables: tables.get(key), is_write=False, timeout_s=self._within(timeout_s)
        )

    async def list(
        self,
        prefix: bytes,
        *,
        limit: int = 0,
        after: bytes | None = None,
        revision: int = 0,
        timeout_s: float | None = None,
    ) -> Snapshot:
        check_prefix(prefix)
        if limit < 0 or revision < 0:
            raise ValueError(f"limit {limit} and revision {revision} cannot be negative")
        return await self._worker.run(
            lambda tables: tables.list(prefix, limit, after, revision),
            is_write=False,
            timeout_s=self._within(timeout_s),
        )

    async def commit(
        self, ops: Sequence[Op], ifs: Sequence[If] = (), *, timeout_s: float | None = None
    ) -> Commit:
        # Copies, for the thread may look at them after a caller was cancelled and went on.
        ops, ifs = tuple(ops), tuple(ifs)
        check_commit(ops, ifs)
        return await self._worker.run(
            lambda tables: tables.commit(ops, ifs),
            is_write=True,
            timeout_s=self._within(timeout_s),
        )

    def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[Batch]:
        check_prefix(prefix)
        if from_revision < 1:
            raise ValueError(f"revision {from_revision}: the first one is 1")
        return self._watch(prefix, from_revision)

    async def _watch(self, prefix: bytes, next_revision: int) -> AsyncIterator[Batch]:
        # Events are read from the log when the reader comes for them. So a slow one costs no
        # memory here, and there is nothing to overflow.
        def read(tables: SqliteTables) -> EventPage:
            return tables.events(prefix, next_revision)

        while True:
            # Taken before reading, so that a commit in between wakes us.
            changed = self._changed
            try:
                page = await self._worker.run(read, is_write=False, timeout_s=self._timeout_s)
            except UnavailableError:
                await asyncio.sleep(RETRY_S)
                continue
            for batch in page.batches:
                yield batch
            seen = page.batches[-1].revision if page.batches else next_revision - 1
            if page.next_revision - 1 > seen:
                yield Batch(page.next_revision - 1, ())
            next_revision = page.next_revision
            if page.is_last:
                await changed.wait()

    async def session(self, ttl_s: float, *, timeout_s: float | None = None) -> SqliteSession:
        """See MetadataStore. Raises ValueError for less than TTL_MIN_S."""
        if not ttl_s >= TTL_MIN_S:
            raise ValueError(f"a session of {ttl_s} s; the least is {TTL_MIN_S}")
        # Never 0, which means no lease, and never one that was there before.
        lease_id = secrets.randbits(62) | 1 << 62
        # Its time begins before the grant is sent, so that it is over here no later than there.
        session = SqliteSession(lease_id, ttl_s, self._ends, is_renewed=True)
        self._sessions[lease_id] = session
        try:
            await self._worker.run(
                lambda tables: tables.grant(lease_id, ttl_s),
                is_write=True,
                timeout_s=self._within(timeout_s),
            )
        except BaseException:
            # Perhaps it was granted all the same; then nobody else would ever end it.
            session.retire("the lease was not granted")
            self._sessions.pop(lease_id, None)
            self._spawn_expiry(lease_id)
            raise
        return session

    async def compact(self, revision: int, *, timeout_s: float | None = None) -> None:
        await self._worker.run(
            lambda tables: tables.compact(revision),
            is_write=True,
            timeout_s=self._within(timeout_s),
        )

    async def close(self) -> None:
        """See MetadataStore. Calls under way are finished first.

        Raises UnavailableError when the disk does not let go of the file.
        """
        for task in self._expiries:
            task.cancel()
        if self._opened is not None:
            self._opened.stop("close() was called")
            await self._opened.wait_stopped()

    @property
    def _worker(self) -> SqliteWorker:
        if self._opened is None:
            raise StoreClosedError(f"the metadata store {self.path} was not opened")
        return self._opened

    def _within(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s

    def _note_change(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        assert self._opened is not None
        if self._opened.closed_reason is not None:
            self._retire_all(f"the metadata store is closed: {self._opened.closed_reason}")

    def _retire_all(self, reason: str) -> None:
        """The leases stay in the file, for the next one who opens it."""
        while self._sessions:
            self._sessions.popitem()[1].retire(reason)

    def _spawn_expiry(self, lease_id: int) -> None:
        task = asyncio.get_running_loop().create_task(self._expire(lease_id))
        self._expiries.add(task)
        task.add_done_callback(self._expiries.discard)

    async def _expire(self, lease_id: int) -> None:
        """Delete the lease and its keys, however often it has to be tried."""
        with contextlib.suppress(StoreClosedError):
            while True:
                try:
                    await self._revoke(lease_id)
                except UnavailableError:
                    await asyncio.sleep(RETRY_S)
                else:
                    return

    async def _revoke(self, lease_id: int) -> None:
        with contextlib.suppress(LeaseGoneError):
            await self._worker.run(
                lambda tables: tables.revoke(lease_id), is_write=True, timeout_s=self._timeout_s
            )
        session = self._sessions.pop(lease_id, None)
        if session is not None:
            session.retire("the lease was revoked")
