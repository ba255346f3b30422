"""What every metadata store must do, as functions over a way to get one.

A driver's test module parametrises one test over `RULES`, and calls `await rule(bench)` with a
`Bench` of its own. A bench may hand out a store with history and other keys in it: the rules
count revisions from where they begin, and use only keys under `bench.prefix`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import pytest

from zmqmq.core.meta.store import (
    KEY_BYTES_MAX,
    OPERATIONS_MAX,
    VALUE_BYTES_MAX,
    Batch,
    CompactedError,
    Delete,
    If,
    LeaseGoneError,
    MetadataStore,
    Op,
    Operator,
    Put,
    StoreClosedError,
    Target,
    TooLargeError,
)

PATIENCE_S = 30.0
"""How long what must happen may take."""


class Bench(Protocol):
    """Where the stores under test come from. The bench closes those that a rule leaves open."""

    prefix: bytes
    """Nobody else writes under it. Ends with `/`."""
    ttl_s: float
    """A short TTL that the store grants."""

    async def store(self) -> MetadataStore:
        """An opened store."""
        ...

    async def restarted(self, store: MetadataStore) -> MetadataStore:
        """Stop this store and what is behind it, start it again; what it held is still there."""
        ...


Rule = Callable[[Bench], Awaitable[None]]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    RULES.append(function)
    return function


async def batches(store: MetadataStore, prefix: bytes, start: int, count: int) -> list[Batch]:
    """The first batches with events that a watch delivers."""
    found: list[Batch] = []
    async with asyncio.timeout(PATIENCE_S):
        async for batch in events_only(store.watch(prefix, start)):
            found.append(batch)
            if len(found) == count:
                break
    return found


async def events_only(watch: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
    async for batch in watch:
        if batch.events:
            yield batch


async def until_gone(store: MetadataStore, key: bytes) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await store.get(key) is not None:  # noqa: ASYNC110 - another clock decides
            await asyncio.sleep(0.02)


async def put(store: MetadataStore, *ops: Op) -> int:
    done = await store.commit(ops)
    assert done.ok
    return done.revision


@rule
async def a_commit_adds_one_revision_and_a_get_sees_it(bench: Bench) -> None:
    store, key = await bench.store(), bench.prefix + b"a"
    first = await put(store, Put(key, b"1"))
    second = await put(store, Put(key, b"2"), Put(bench.prefix + b"b", b""))

    kv = await store.get(key)

    assert second == first + 1
    assert kv is not None
    assert (kv.key, kv.value, kv.version, kv.lease) == (key, b"2", 2, 0)
    assert (kv.create_revision, kv.mod_revision) == (first, second)


@rule
async def a_key_that_is_deleted_and_put_again_has_a_new_epoch(bench: Bench) -> None:
    store, key = await bench.store(), bench.prefix + b"a"
    await put(store, Put(key, b"1"))
    await put(store, Delete(key))
    again = await put(store, Put(key, b"1"))

    kv = await store.get(key)

    assert kv is not None
    assert (kv.create_revision, kv.version) == (again, 1)


@rule
async def what_changes_nothing_takes_no_revision(bench: Bench) -> None:
    store, key = await bench.store(), bench.prefix + b"a"
    before = await put(store, Put(key, b"1"))

    assert await put(store, Delete(bench.prefix + b"none")) == before
    assert await put(store) == before
    refused = await store.commit([Put(key, b"2")], [If(key, "version", "==", 7)])
    assert not refused.ok
    assert refused.revision == before
    assert await put(store, Put(key, b"1")) == before + 1, "an equal value is a change"


@rule
async def a_refused_commit_shows_what_it_lost_against(bench: Bench) -> None:
    store, key, absent = await bench.store(), bench.prefix + b"a", bench.prefix + b"b"
    revision = await put(store, Put(key, b"1"))

    done = await store.commit(
        [Put(absent, b"x")], [If(absent, "create", "==", 0), If(key, "value", "==", b"2")]
    )

    assert not done.ok
    assert done.revision == revision
    assert done.current == {key: await store.get(key), absent: None}


@rule
async def conditions_compare_as_etcd_does(bench: Bench) -> None:
    store, key, absent = await bench.store(), bench.prefix + b"a", bench.prefix + b"b"
    first = await put(store, Put(key, b"x"))
    await put(store, Put(key, b"m"))
    numbers: list[tuple[Target, int]] = [
        ("create", first), ("mod", first + 1), ("version", 2), ("lease", 0),
    ]  # fmt: skip
    cases: list[tuple[If, bool]] = []
    signs: dict[Operator, tuple[bool, bool, bool]] = {
        # With the value one below, equal to and one above the number that stands there.
        "==": (False, True, False), "!=": (True, False, True),
        "<": (False, False, True), ">": (True, False, False),
    }  # fmt: skip
    for op, expected in signs.items():
        for target, number in numbers:
            for value, holds in zip((number - 1, number, number + 1), expected, strict=True):
                if value >= 0:
                    cases.append((If(key, target, op, value), holds))
        for target, _ in numbers:
            cases += [(If(absent, target, op, 0), expected[1])]
            cases += [(If(absent, target, op, 1), expected[2])]
        for text, holds in zip((b"l", b"m", b"n"), expected, strict=True):
            cases.append((If(key, "value", op, text), holds))
        cases.append((If(absent, "value", op, b""), False))

    for condition, holds in cases:
        assert (await store.commit([], [condition])).ok is holds, condition


@rule
async def all_conditions_must_hold(bench: Bench) -> None:
    store, key = await bench.store(), bench.prefix + b"a"
    await put(store, Put(key, b"x"))
    true, false = If(key, "version", "==", 1), If(key, "version", ">", 1)

    assert (await store.commit([], [true, true])).ok
    assert not (await store.commit([], [true, false])).ok
    assert not (await store.commit([], [false, true])).ok


@rule
async def what_no_store_takes_is_refused_and_changes_nothing(bench: Bench) -> None:
    store, key = await bench.store(), bench.prefix + b"a"
    before = await put(store, Put(key, b"1"))
    many = [bench.prefix + b"%d" % i for i in range(OPERATIONS_MAX + 1)]

    malformed: list[list[Op]] = [
        [Put(key, b"2"), Delete(key)],
        [Put(k, b"") for k in many],
        [Put(b"", b"")],
    ]
    for ops in malformed:
        with pytest.raises(ValueError, match=r"key|operations"):
            await store.commit(ops)
    with pytest.raises(ValueError, match="conditions"):
        await store.commit([], [If(k, "mod", "==", 0) for k in many])
    with pytest.raises(ValueError, match="compares"):
        await store.commit([], [If(key, "mod", "==", b"1")])
    large: list[list[Op]] = [
        [Put(b"k" * (KEY_BYTES_MAX + 1), b"")],
        [Put(key, bytes(VALUE_BYTES_MAX + 1))],
        [Put(k, bytes(VALUE_BYTES_MAX)) for k in many[:17]],
    ]
    for ops in large:
        with pytest.raises(TooLargeError):
            await store.commit(ops)

    assert await put(store) == before


@rule
async def the_largest_commit_is_taken(bench: Bench) -> None:
    store = await bench.store()
    keys = [bench.prefix + b"%03d" % i for i in range(OPERATIONS_MAX)]

    await put(store, *(Put(key, bytes(7 * 1024)) for key in keys))
    done = await store.commit(
        [Delete(key) for key in keys], [If(key, "version", "==", 1) for key in keys]
    )

    assert done.ok
    assert (await store.list(bench.prefix)).items == ()


@rule
async def a_list_is_sorted_by_the_bytes_and_ends_with_the_prefix(bench: Bench) -> None:
    store, p = await bench.store(), bench.prefix
    inside = [p + b"d/", p + b"d/\x00", p + b"d/a", p + b"d/a/b", p + b"d/\xff", p + b"d/\xff\xff"]
    outside = [p + b"d", p + b"d.", p + b"d0", p + b"e/"]
    revision = await put(store, *(Put(key, b"") for key in [*outside, *inside]))

    snapshot = await store.list(p + b"d/")

    assert snapshot.revision == revision
    assert [kv.key for kv in snapshot.items] == inside
    assert [kv.key for kv in (await store.list(p + b"d/\xff")).items] == inside[-2:]


@rule
async def pages_show_one_revision_whatever_happens_between_them(bench: Bench) -> None:
    store, p = await bench.store(), bench.prefix
    await put(store, *(Put(p + b"%d" % i, b"old") for i in range(6)))
    await put(store, Put(p + b"3", b"older"))
    whole = await store.list(p)

    page = await store.list(p, limit=2)
    found = list(page.items)
    await put(store, Delete(p + b"2"), Put(p + b"3", b"new"), Put(p + b"33", b"new"))
    await put(store, Put(p + b"2", b"back"), Delete(p + b"5"), Delete(p + b"33"))
    while len(page.items) == 2:
        page = await store.list(p, limit=2, after=found[-1].key, revision=page.revision)
        found += page.items

    assert page.revision == whole.revision
    assert tuple(found) == whole.items
    with pytest.raises(ValueError, match="revision"):
        await store.list(p, revision=whole.revision + 100)


@rule
async def a_watch_delivers_each_revision_whole_and_once(bench: Bench) -> None:
    store, p = await bench.store(), bench.prefix
    start = await put(store, Put(p + b"before", b""))
    await put(store, Put(p + b"b", b"1"), Put(p + b"a", b"1"))
    live = asyncio.create_task(batches(store, p, start + 1, 4))
    await put(store, Delete(p + b"b"), Put(p + b"a", b"2"), Delete(p + b"none"))
    await put(store, Put(p + b"b", b"3"))
    await put(store, Delete(p + b"before"))

    late = await batches(store, p, start + 1, 4)

    assert await live == late
    assert [b.revision - start for b in late] == [1, 2, 3, 4]
    assert [[(e.type, e.kv.key[len(p) :]) for e in b.events] for b in late] == [
        [("put", b"b"), ("put", b"a")],
        [("delete", b"b"), ("put", b"a")],
        [("put", b"b")],
        [("delete", b"before")],
    ]
    deletion = late[1].events[0]
    assert deletion.prev == late[0].events[0].kv
    assert (deletion.kv.value, deletion.kv.create_revision, deletion.kv.version) == (b"", 0, 0)
    assert deletion.kv.mod_revision == start + 2
    assert late[1].events[1].prev == late[0].events[1].kv
    assert late[2].events[0].prev is None


@rule
async def a_watch_sees_only_its_prefix(bench: Bench) -> None:
    store, p = await bench.store(), bench.prefix
    start = await put(store, Put(p + b"w0", b""), Put(p + b"w/1", b""))
    await put(store, Put(p + b"w", b""))
    await put(store, Put(p + b"w/2", b""), Put(p + b"v/2", b""))

    found = await batches(store, p + b"w/", start, 2)

    assert [[e.kv.key for e in b.events] for b in found] == [[p + b"w/1"], [p + b"w/2"]]


@rule
async def a_watch_from_a_revision_to_come_waits_for_it(bench: Bench) -> None:
    store, p = await bench.store(), bench.prefix
    start = await put(store, Put(p + b"0", b""))
    waiting = asyncio.create_task(batches(store, p, start + 3, 1))
    for i in range(3):
        await put(store, Put(p + b"%d" % i, b"x"))

    assert [b.revision for b in await waiting] == [start + 3]


@rule
async def a_slow_watcher_misses_nothing(bench: Bench) -> None:
    store, p = await bench.store(), bench.prefix
    start = await put(store, Put(p + b"0", b""))
    watch = events_only(store.watch(p, start + 1))
    await put(store, Put(p + b"first", b""))
    found = [await anext(watch)]
    await asyncio.gather(*(put(store, Put(p + b"k", bytes(9000))) for _ in range(600)))

    async with asyncio.timeout(PATIENCE_S):
        found += [await anext(watch) for _ in range(600)]

    assert [b.revision for b in found] == list(range(start + 1, start + 602))
    assert [b.events[0].kv.version for b in found[1:]] == list(range(1, 601))


@rule
async def cancelling_a_watch_harms_no_other(bench: Bench) -> None:
    store, p = await bench.store(), bench.prefix
    start = await put(store, Put(p + b"0", b""))
    doomed = asyncio.create_task(batches(store, p, start + 1, 99))
    other = asyncio.create_task(batches(store, p, start + 1, 2))
    await put(store, Put(p + b"1", b""))
    doomed.cancel()
    await put(store, Put(p + b"2", b""))

    assert [b.revision - start for b in await other] == [1, 2]


@rule
async def compaction_ends_watches_from_before_it_and_no_others(bench: Bench) -> None:
    store, p = await bench.store(), bench.prefix
    last = await put(store, Put(p + b"0", b""))
    for i in range(5):
        last = await put(store, Put(p + b"%d" % i, b"x"))
    at = last - 1
    await store.compact(at)

    for start in (at - 2, at - 1):
        with pytest.raises(CompactedError) as caught:
            await batches(store, p, start, 1)
        assert caught.value.revision == at
    with pytest.raises(CompactedError):
        await store.list(p, revision=at - 1)
    assert [b.revision for b in await batches(store, p, at + 1, 1)] == [at + 1]
    assert (await store.list(p, revision=at)).revision == at
    assert len((await store.list(p)).items) == 5


@rule
async def what_is_compacted_cannot_be_compacted_again(bench: Bench) -> None:
    store = await bench.store()
    last = await put(store, Put(bench.prefix + b"0", b""))
    await store.compact(last)

    for revision in (last, last - 1):
        with pytest.raises(CompactedError):
            await store.compact(revision)
    with pytest.raises(ValueError, match="revision"):
        await store.compact(last + 100)


@rule
async def a_revoked_session_takes_its_keys_at_one_revision(bench: Bench) -> None:
    store, p = await bench.store(), bench.prefix
    session = await store.session(30)
    first = await put(store, Put(p + b"b", b"1", session.id), Put(p + b"free", b""))
    await put(store, Put(p + b"c", b"", session.id), Put(p + b"a", b"", session.id))
    assert (session.alive, session.reason) == (True, None)
    await session.close()

    found = await batches(store, p, first, 3)

    assert [(e.type, e.kv.key[-1:]) for e in found[2].events] == [
        ("delete", b"a"),
        ("delete", b"b"),
        ("delete", b"c"),
    ]
    assert [e.kv.lease for e in found[2].events] == [0, 0, 0]
    assert not session.alive
    assert session.reason == await session.wait_lost()
    assert [kv.key for kv in (await store.list(p)).items] == [p + b"free"]


@rule
async def a_put_without_the_lease_detaches_the_key(bench: Bench) -> None:
    store, p = await bench.store(), bench.prefix
    session = await store.session(30)
    await put(store, Put(p + b"a", b"1", session.id), Put(p + b"b", b"1", session.id))
    before = await put(store, Put(p + b"a", b"2"))
    await session.close()

    (kv,) = (await store.list(p)).items
    assert (kv.key, kv.value, kv.lease, kv.mod_revision) == (p + b"a", b"2", 0, before)


@rule
async def a_put_with_a_lease_that_is_gone_changes_nothing(bench: Bench) -> None:
    store, p = await bench.store(), bench.prefix
    before = await put(store, Put(p + b"0", b""))
    session = await store.session(30)
    await session.close()

    for lease in (session.id, 4242):
        with pytest.raises(LeaseGoneError):
            await store.commit([Put(p + b"a", b""), Put(p + b"b", b"", lease)])
        refused = await store.commit([Put(p + b"b", b"", lease)], [If(p + b"0", "mod", "==", 0)])
        assert not refused.ok, "conditions come first"
    assert await put(store) == before


@rule
async def a_session_without_keys_ends_without_a_revision(bench: Bench) -> None:
    store = await bench.store()
    before = await put(store, Put(bench.prefix + b"0", b""))
    await (await store.session(30)).close()

    assert await put(store) == before


@rule
async def a_session_is_renewed_and_one_that_is_left_runs_out(bench: Bench) -> None:
    store, p = await bench.store(), bench.prefix
    kept, left = await store.session(bench.ttl_s), await store.session(bench.ttl_s)
    await put(store, Put(p + b"kept", b"", kept.id), Put(p + b"left", b"", left.id))
    await left.close(revoke=False)
    assert await store.get(p + b"left") is not None, "not before its time"

    await until_gone(store, p + b"left")
    await asyncio.sleep(left.ttl_s / 2)

    assert not left.alive
    assert kept.alive
    assert await store.get(p + b"kept") is not None
    with pytest.raises(LeaseGoneError):
        await put(store, Put(p + b"x", b"", left.id))


@rule
async def everything_is_there_after_a_restart(bench: Bench) -> None:
    store, p = await bench.store(), bench.prefix
    start = await put(store, Put(p + b"a", b"1"), Put(p + b"b", b"1"))
    await store.compact(start)
    await put(store, Delete(p + b"a"), Put(p + b"b", bytes(range(256))))
    before = await store.list(p)
    history = await batches(store, p, start + 1, 1)

    store = await bench.restarted(store)

    assert await store.list(p) == before
    assert await batches(store, p, start + 1, 1) == history
    with pytest.raises(CompactedError):
        await batches(store, p, start - 1, 1)
    assert await put(store, Put(p + b"c", b"")) == before.revision + 1


@rule
async def a_lease_outlives_a_restart_by_its_full_ttl(bench: Bench) -> None:
    store, p = await bench.store(), bench.prefix
    session = await store.session(bench.ttl_s)
    await put(store, Put(p + b"a", b"1", session.id))
    await session.close(revoke=False)
    await asyncio.sleep(session.ttl_s * 0.7)

    store = await bench.restarted(store)
    began = asyncio.get_running_loop().time()
    assert await store.get(p + b"a") is not None
    await until_gone(store, p + b"a")

    assert asyncio.get_running_loop().time() - began > session.ttl_s * 0.9


@rule
async def only_one_of_many_wins_a_compare_and_swap(bench: Bench) -> None:
    store, key = await bench.store(), bench.prefix + b"leader"
    results = await asyncio.gather(
        *(store.commit([Put(key, b"%d" % i)], [If(key, "create", "==", 0)]) for i in range(40))
    )

    (winner,) = (i for i, done in enumerate(results) if done.ok)
    kv = await store.get(key)
    assert kv is not None
    assert (kv.value, kv.create_revision) == (b"%d" % winner, results[winner].revision)
    assert all(done.current == {key: kv} for done in results if not done.ok)


@rule
async def closing_ends_what_waits(bench: Bench) -> None:
    store, p = await bench.store(), bench.prefix
    start = await put(store, Put(p + b"0", b""))
    session = await store.session(30)
    watching = asyncio.create_task(batches(store, p, start + 1, 1))
    lost = asyncio.create_task(session.wait_lost())
    await asyncio.sleep(0)
    await store.close()
    await store.close()

    with pytest.raises(StoreClosedError):
        await watching
    assert await lost == session.reason
    assert not session.alive
    for call in (store.get(p), store.commit([]), store.list(p), store.session(30)):
        with pytest.raises(StoreClosedError):
            await call


@rule
async def a_cancelled_commit_happens_whole_or_not_at_all(bench: Bench) -> None:
    store, p = await bench.store(), bench.prefix
    for turn in range(30):
        keys = [p + b"%d/%d" % (turn, i) for i in range(20)]
        task = asyncio.create_task(store.commit([Put(key, b"") for key in keys]))
        for _ in range(turn % 5):
            await asyncio.sleep(0)
        if turn % 3 == 0:
            await store.get(p)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

        await put(store, Put(p + b"after", b""))
        found = (await store.list(p + b"%d/" % turn)).items
        assert len(found) in {0, 20}
        # Which one is the store's affair: what is ambiguous may also happen later.
        assert len({kv.mod_revision for kv in found}) <= 1
