"""The copy of the metadata that a broker reads from, over the embedded store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random

import pytest

from zmqmq.core.meta.store import (
    KV,
    Batch,
    Delete,
    MetadataStore,
    Put,
    StoreClosedError,
    UnavailableError,
)
from zmqmq.runtime.mirror import Mirror
from zmqmq.runtime.sqlite_store import SqliteStore


def run(directory: Path, test: Callable[[SqliteStore], Awaitable[None]]) -> None:
    async def whole() -> None:
        store = SqliteStore(directory / "x")
        await store.open()
        try:
            await test(store)
        finally:
            await store.close()

    asyncio.run(whole())


async def put(store: MetadataStore, *keys: bytes) -> int:
    return (await store.commit([Put(key, b"v") for key in keys])).revision


async def gap(store: MetadataStore, first: int, *steps: Put | Delete) -> int:
    """Commits, and their compaction, before anybody who watches can have read them."""
    last = first + len(steps)
    await asyncio.gather(*(store.commit([step]) for step in steps), store.compact(last))
    return last


def test_it_has_what_was_there_and_what_comes(tmp_path: Path) -> None:
    async def test(store: SqliteStore) -> None:
        await put(store, b"p/b", b"p/a", b"q/a", b"p/c", b"p/a/b")
        mirror = Mirror(store, b"p/", page_items=2)
        await mirror.start()
        assert [kv.key for kv in mirror.items()] == [b"p/a", b"p/a/b", b"p/b", b"p/c"]
        done = await store.commit([Delete(b"p/b"), Put(b"p/c", b"2"), Put(b"p/d", b"")])
        await mirror.reached(done.revision)

        assert [kv.key for kv in mirror.items(b"p/a")] == [b"p/a", b"p/a/b"]
        assert mirror.items() == list((await store.list(b"p/")).items)
        assert mirror.get(b"p/c") == await store.get(b"p/c")
        assert mirror.get(b"p/b") is None
        assert mirror.revision == done.revision
        await mirror.close()

    run(tmp_path, test)


def test_a_revision_of_another_prefix_is_reached_too(tmp_path: Path) -> None:
    async def test(store: SqliteStore) -> None:
        mirror = Mirror(store, b"p/")
        await mirror.start()
        await mirror.reached(await put(store, b"q"))
        assert mirror.items() == []
        await mirror.close()

    run(tmp_path, test)


def test_the_first_batch_is_the_list(tmp_path: Path) -> None:
    async def test(store: SqliteStore) -> None:
        revision = await put(store, b"b", b"a")
        seen: list[Batch] = []
        mirror = Mirror(store, b"", on_batch=seen.append)
        await mirror.start()
        assert [(e.type, e.kv.key, e.prev) for e in seen[0].events] == [
            ("put", b"a", None),
            ("put", b"b", None),
        ]
        await mirror.reached(await put(store, b"c"))
        assert [batch.revision for batch in seen] == [revision, revision + 1]
        await mirror.close()

    run(tmp_path, test)


def test_a_gap_in_the_history_is_one_batch_of_differences(tmp_path: Path) -> None:
    async def test(store: SqliteStore) -> None:
        first = await put(store, b"a", b"b", b"same")
        seen: list[Batch] = []
        mirror = Mirror(store, b"", on_batch=seen.append)
        await mirror.start()
        steps = (Delete(b"a"), Put(b"b", b"2"), Put(b"c", b""), Delete(b"b"), Put(b"b", b"3"))
        last = await gap(store, first, *steps)
        await mirror.reached(last)

        assert mirror.relists == 1
        (batch,) = seen[1:]
        assert batch.revision == last
        assert [(e.type, e.kv.key, e.kv.value) for e in batch.events] == [
            ("delete", b"a", b""),
            ("put", b"b", b"3"),
            ("put", b"c", b""),
        ]
        assert [e.prev and e.prev.mod_revision for e in batch.events] == [first, first, None]
        assert batch.events[1].kv.create_revision == last, "it is another key than before"
        await mirror.reached(await put(store, b"after"))
        assert len(seen) == 3
        await mirror.close()

    run(tmp_path, test)


class StutteringStore(SqliteStore):
    """Says everything twice, as some servers do after a reconnect (etcd.md R23)."""

    async def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[Batch]:
        async for batch in super().watch(prefix, from_revision):
            yield batch
            yield batch


def test_what_is_said_twice_counts_once(tmp_path: Path) -> None:
    async def test(_: SqliteStore) -> None:
        store, seen = StutteringStore(tmp_path / "y"), list[Batch]()
        await store.open()
        mirror = Mirror(store, b"", on_batch=seen.append)
        await mirror.start()
        first = await put(store, b"a")
        await mirror.reached(await put(store, b"a"))
        assert [batch.revision for batch in seen] == [first - 1, first, first + 1]
        await mirror.close()
        await store.close()

    run(tmp_path, test)


@pytest.mark.parametrize("seed", range(4))
def test_callbacks_tell_the_whole_state(seed: int, tmp_path: Path) -> None:
    async def test(store: SqliteStore) -> None:
        random, told = Random(seed), dict[bytes, KV]()

        def tell(batch: Batch) -> None:
            for event in batch.events:
                assert told.get(event.kv.key) == event.prev
                if event.type == "put":
                    told[event.kv.key] = event.kv
                else:
                    del told[event.kv.key]

        mirror = Mirror(store, b"", on_batch=tell, page_items=3)
        await mirror.start()
        revision = mirror.revision
        for _ in range(60):
            puts = [Put(b"%d" % random.randrange(9), b"") for _ in range(random.randint(1, 4))]
            if random.random() < 0.3:
                revision = await gap(store, revision, *puts)
            else:
                ops: dict[bytes, Put | Delete] = {op.key: op for op in puts}
                for key in random.sample(sorted(ops), len(ops) // 2):
                    ops[key] = Delete(key)
                revision = (await store.commit(list(ops.values()))).revision
            if random.random() < 0.5:
                await mirror.reached(revision)
        await mirror.reached(revision)
        assert told == {kv.key: kv for kv in (await store.list(b"")).items}
        assert [told[key] for key in sorted(told)] == mirror.items()
        await mirror.close()

    run(tmp_path, test)


def test_what_does_not_come_is_not_waited_for_longer_than_asked(tmp_path: Path) -> None:
    async def test(store: SqliteStore) -> None:
        mirror = Mirror(store, b"")
        await mirror.start()
        with pytest.raises(UnavailableError, match="revision 99 was not seen"):
            await mirror.reached(99, timeout_s=0.01)
        await mirror.reached(await put(store, b"a"))
        await mirror.close()

    run(tmp_path, test)


def test_whoever_waits_hears_that_it_was_closed(tmp_path: Path) -> None:
    async def test(store: SqliteStore) -> None:
        mirror = Mirror(store, b"")
        await mirror.start()
        waiting = asyncio.create_task(mirror.reached(99))
        await asyncio.sleep(0)
        await mirror.close()
        with pytest.raises(StoreClosedError, match="mirror"):
            await waiting
        with pytest.raises(StoreClosedError, match="mirror"):
            await mirror.reached(99)
        await mirror.wait_ended()

    run(tmp_path, test)


def test_it_ends_with_its_store(tmp_path: Path) -> None:
    async def test(store: SqliteStore) -> None:
        mirror = Mirror(store, b"")
        await mirror.start()
        waiting = asyncio.create_task(mirror.reached(99))
        await asyncio.sleep(0)
        await store.close()
        for call in (waiting, mirror.reached(99), mirror.wait_ended()):
            with pytest.raises(StoreClosedError, match="metadata store"):
                await call
        await mirror.close()

    run(tmp_path, test)


def test_a_callback_that_fails_ends_it(tmp_path: Path) -> None:
    async def test(store: SqliteStore) -> None:
        def refuse(batch: Batch) -> None:
            assert not batch.events, "our own mistake"

        mirror = Mirror(store, b"", on_batch=refuse)
        await mirror.start()
        await put(store, b"a")
        with pytest.raises(AssertionError, match="our own mistake"):
            await mirror.wait_ended()
        await mirror.close()

    run(tmp_path, test)
