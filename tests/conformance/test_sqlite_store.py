"""The embedded metadata store: the rules of all stores, and what is its own."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.conformance.metadata_store")

from tests.conformance.metadata_store import RULES, Rule, batches, put  # noqa: E402
from zmqmq.core.meta.store import (  # noqa: E402
    Delete,
    MetadataStore,
    Put,
    StoreClosedError,
    UnavailableError,
)
from zmqmq.errors import CorruptDataError, DirectoryError  # noqa: E402
from zmqmq.runtime.sqlite_store import SqliteStore  # noqa: E402
from zmqmq.runtime.sqlite_tables import SqliteTables  # noqa: E402


class SqliteBench:
    """Stores in files of one directory."""

    prefix = b"zmqmq/test/"
    ttl_s = 2.5
    """Whoever stands still for so long has lost his session."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stores: list[SqliteStore] = []

    async def store(self) -> SqliteStore:
        return await self._open(self._directory / f"{len(self._stores)}.db")

    async def restarted(self, store: MetadataStore) -> SqliteStore:
        assert isinstance(store, SqliteStore)
        await store.close()
        return await self._open(store.path)

    async def _open(self, path: Path) -> SqliteStore:
        store = SqliteStore(path)
        self._stores.append(store)
        await store.open()
        return store

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


def run(directory: Path, test: Callable[[SqliteBench], Awaitable[None]]) -> None:
    async def whole() -> None:
        bench = SqliteBench(directory)
        try:
            await test(bench)
        finally:
            await bench.close()

    asyncio.run(whole(), debug=False)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rules_of_all_stores(rule: Rule, tmp_path: Path) -> None:
    run(tmp_path, rule)


def test_a_cancelled_commit_happens_before_the_next_or_never(tmp_path: Path) -> None:
    async def test(bench: SqliteBench) -> None:
        store = await bench.store()
        for turn in range(20):
            key = b"%d" % turn
            cancelled = asyncio.create_task(store.commit([Put(key, b"")]))
            for _ in range(turn % 5):
                await asyncio.sleep(0)
            cancelled.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await cancelled

            after = await put(store, Put(b"after", b""))
            kv = await store.get(key)
            assert kv is None or kv.mod_revision == after - 1

    run(tmp_path, test)


def test_a_new_file_is_at_revision_1_and_keeps_its_cluster_id(tmp_path: Path) -> None:
    async def test(_: SqliteBench) -> None:
        first, second = SqliteStore(tmp_path / "x"), SqliteStore(tmp_path / "x")
        info = await first.open()
        assert (await first.list(b"")).revision == 1
        await first.close()
        assert await second.open() == info
        await second.close()

    run(tmp_path, test)


def test_a_second_opener_is_told_which_file_is_in_use(tmp_path: Path) -> None:
    async def test(bench: SqliteBench) -> None:
        store = await bench.store()
        other = SqliteStore(store.path)
        with pytest.raises(DirectoryError, match=str(store.path)):
            await other.open()
        with pytest.raises(StoreClosedError):
            await other.get(b"k")
        await other.close()
        await put(store, Put(b"still", b"works"))

    run(tmp_path, test)


def test_a_store_that_was_not_opened_can_be_closed_and_not_used(tmp_path: Path) -> None:
    async def test(_: SqliteBench) -> None:
        store = SqliteStore(tmp_path / "x")
        with pytest.raises(StoreClosedError):
            await store.get(b"k")
        await store.close()
        assert not store.path.exists()

    run(tmp_path, test)


def _make(path: Path) -> None:
    async def make() -> None:
        store = SqliteStore(path)
        await store.open()
        await store.close()

    asyncio.run(make())


def _newer(path: Path) -> None:
    _make(path)
    _sqlite(path, "PRAGMA user_version = 2")


def _sqlite(path: Path, statement: str) -> None:
    db = sqlite3.connect(path)
    db.execute(statement)
    db.commit()
    db.close()


def _damaged(path: Path) -> None:
    _make(path)
    _sqlite(path, "UPDATE meta SET value = 'x' WHERE name = 'revision'")


@pytest.mark.parametrize(
    ("prepare", "error", "words"),
    [
        (_damaged, CorruptDataError, "does not have its checksum"),
        (_newer, DirectoryError, "has format 2; this zmqmq reads 1"),
        (lambda path: _sqlite(path, "CREATE TABLE t (x)"), DirectoryError, "not a metadata store"),
        (lambda path: path.write_bytes(b"nonsense" * 1000), CorruptDataError, "not a database"),
        (lambda path: path.mkdir(), UnavailableError, "Is a directory"),
    ],
    ids=["damaged", "newer", "foreign", "nonsense", "directory"],
)
def test_what_is_not_a_store_is_refused(
    prepare: Callable[[Path], Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    prepare(path)

    async def test(_: SqliteBench) -> None:
        store = SqliteStore(path)
        with pytest.raises(error, match=words):
            await store.open()
        await store.close()

    run(tmp_path, test)


def test_a_full_disk_refuses_a_commit_and_everything_in_it(tmp_path: Path) -> None:
    async def test(bench: SqliteBench) -> None:
        store = await bench.store()
        before = await put(store, Put(b"a", b"1"))
        await store._worker.run(
            lambda tables: tables._db.execute("PRAGMA max_page_count = 20").fetchall(),
            is_write=False,
            timeout_s=30,
        )
        large = [Put(b"a", b"2"), Put(b"b", bytes(60_000)), Put(b"c", bytes(60_000))]
        async with busy(store):
            calls = (store.commit([Put(b"small", b"")]), store.commit(large))
            group = [asyncio.create_task(call) for call in calls]
            await asyncio.sleep(0)
        for done in await asyncio.gather(*group, return_exceptions=True):
            assert isinstance(done, UnavailableError)
            assert "full" in str(done)

        assert [kv.value for kv in (await store.list(b"")).items] == [b"1"]
        assert await put(store, Delete(b"a")) == before + 1

    run(tmp_path, test)


@contextlib.asynccontextmanager
async def busy(store: SqliteStore) -> AsyncIterator[None]:
    """Have the thread do something meanwhile, so that calls queue up behind it."""
    has_begun, may_end = threading.Event(), threading.Event()

    def work(_: SqliteTables) -> None:
        has_begun.set()
        assert may_end.wait(60)

    task = asyncio.create_task(store._worker.run(work, is_write=False, timeout_s=60))
    assert await asyncio.to_thread(has_begun.wait, 60)
    try:
        yield
    finally:
        may_end.set()
        await task


def test_calls_that_cannot_begin_in_time_did_nothing(tmp_path: Path) -> None:
    async def test(bench: SqliteBench) -> None:
        store = await bench.store()
        calls = (store.commit([Put(b"a", b"")], timeout_s=0.02), store.get(b"a", timeout_s=0))
        async with busy(store):
            for call in calls:
                with pytest.raises(UnavailableError, match="no answer within"):
                    await call

        assert await store.get(b"a") is None
        assert await put(store) == 1

    run(tmp_path, test)


def test_a_commit_that_is_cancelled_before_it_began_does_not_happen(tmp_path: Path) -> None:
    async def test(bench: SqliteBench) -> None:
        store = await bench.store()
        async with busy(store):
            doomed = asyncio.create_task(store.commit([Put(b"a", b"")]))
            await asyncio.sleep(0)
            doomed.cancel()
            await asyncio.wait((doomed,))

        assert doomed.cancelled()
        assert await put(store) == 1

    run(tmp_path, test)


def test_opening_that_is_cancelled_lets_go_of_the_file(tmp_path: Path) -> None:
    async def test(_: SqliteBench) -> None:
        doomed = asyncio.create_task(SqliteStore(tmp_path / "x").open())
        await asyncio.sleep(0)
        doomed.cancel()
        await asyncio.wait((doomed,))
        assert doomed.cancelled()
        async with asyncio.timeout(30):
            while True:
                store = SqliteStore(tmp_path / "x")
                try:
                    await store.open()
                except DirectoryError:
                    await asyncio.sleep(0.01)
                else:
                    break
        await store.close()

    run(tmp_path, test)


def test_a_commit_that_has_begun_is_waited_for(tmp_path: Path) -> None:
    """
    It will happen, so UnavailableError would be a lie; and the contract has AmbiguousError only
    for a failing disk.
    """

    async def test(bench: SqliteBench) -> None:
        store = await bench.store()

        def slow(_: SqliteTables) -> str:
            time.sleep(1.2)
            return "done"

        # The thread has a second to begin.
        assert await store._worker.run(slow, is_write=True, timeout_s=1) == "done"

    run(tmp_path, test)


def test_commits_at_once_share_flushes_and_keep_their_order(tmp_path: Path) -> None:
    async def test(bench: SqliteBench) -> None:
        store = await bench.store()
        calls = [asyncio.create_task(store.commit([Put(b"%d" % i, b"")])) for i in range(200)]
        await asyncio.sleep(0)
        assert await store.get(b"199") is not None, "it sees what was asked before it"
        assert [(await call).revision for call in calls] == list(range(2, 202))

    run(tmp_path, test)


def test_a_session_ends_at_its_deadline_when_the_loop_stood_still(tmp_path: Path) -> None:
    async def test(bench: SqliteBench) -> None:
        store = await bench.store()
        session = await store.session(2)
        await put(store, Put(b"a", b"", session.id))
        time.sleep(2.05)  # noqa: ASYNC251 - the loop is what stands still
        assert not session.alive
        assert "not renewed" in await session.wait_lost()
        assert [e.type for b in await batches(store, b"a", 2, 2) for e in b.events][1] == "delete"

    run(tmp_path, test)


def test_a_session_that_never_ends(tmp_path: Path) -> None:
    async def test(bench: SqliteBench) -> None:
        store = await bench.store()
        session = await store.session(math.inf)
        await put(store, Put(b"a", b"", session.id))
        assert session.alive
        store = await bench.restarted(store)
        kv = await store.get(b"a")
        assert kv is not None
        assert kv.lease == session.id
        for ttl_s in (0.0, -1.0, math.nan):
            with pytest.raises(ValueError, match="session"):
                await store.session(ttl_s)

    run(tmp_path, test)


def test_a_grant_that_was_cancelled_leaves_no_lease(tmp_path: Path) -> None:
    async def test(bench: SqliteBench) -> None:
        store = await bench.store()
        for turn in range(10):
            task = asyncio.create_task(store.session(1000))
            for _ in range(turn):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled():
                await task.result().close()
        await asyncio.gather(*store._expiries)
        leases = await store._worker.run(lambda t: t.leases(), is_write=False, timeout_s=30)
        assert leases == {}

    run(tmp_path, test)


def test_an_idle_store_costs_nothing(tmp_path: Path) -> None:
    async def test(bench: SqliteBench) -> None:
        store = await bench.store()
        watching = asyncio.create_task(batches(store, b"", 2, 1))
        await asyncio.sleep(0.1)
        spent = []
        for _ in range(3):  # others in this process may have something to do in one of them
            began = time.process_time()
            await asyncio.sleep(1)
            spent.append(time.process_time() - began)
            if spent[-1] < 0.01:
                break
        assert min(spent) < 0.01, spent
        await put(store, Put(b"a", b""))
        await watching

    run(tmp_path, test)


FAILING_DISK = """
import asyncio, os, resource, sys
from zmqmq.core.meta.store import AmbiguousError, Put, StoreClosedError
from zmqmq.runtime.sqlite_store import SqliteStore

async def main(path):
    store = SqliteStore(path)
    await store.open()
    await store.commit([Put(b"safe", b"")])
    session = await store.session(30)
    size = os.stat(path + "-wal").st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5000, resource.RLIM_INFINITY))
    try:
        await store.commit([Put(b"perhaps", bytes(60000))])
    except AmbiguousError as error:
        print(error)
    for call in (store.get(b"safe"), store.commit([Put(b"later", b"")])):
        try:
            await call
        except StoreClosedError as error:
            print(error)
    print(await session.wait_lost())
    await store.close()

asyncio.run(main(sys.argv[1]))
"""


def test_after_a_failed_flush_the_store_is_over(tmp_path: Path) -> None:
    path = tmp_path / "x"
    child = [sys.executable, "-c", FAILING_DISK, str(path)]
    done = subprocess.run(child, capture_output=True, text=True, timeout=100, check=False)
    assert done.stderr == ""
    ambiguous, *closed, lost = done.stdout.splitlines()
    assert "may have done it" in ambiguous
    assert len(closed) == 2
    assert all("restart the broker" in line for line in [*closed, lost])

    async def test(_: SqliteBench) -> None:
        store = SqliteStore(path)
        await store.open()
        keys = [kv.key for kv in (await store.list(b"")).items]
        assert keys in ([b"safe"], [b"perhaps", b"safe"])
        await store.close()

    run(tmp_path, test)
