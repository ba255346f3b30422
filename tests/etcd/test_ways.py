"""One real etcd behind connections that lose replies, break and come back."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest

pytest.register_assert_rewrite("tests.conformance.metadata_store")

from tests.conformance.metadata_store import batches, put  # noqa: E402
from tests.support.etcd_process import EtcdCluster, etcd_cluster, on_uvloop  # noqa: E402
from tests.support.tcp_proxy import TcpProxy  # noqa: E402
from zmqmq.core.meta.store import (  # noqa: E402
    VALUE_BYTES_MAX,
    AmbiguousError,
    Batch,
    CompactedError,
    Put,
    StoreClosedError,
    StoreError,
    UnavailableError,
)
from zmqmq.runtime.boottime import now_s  # noqa: E402
from zmqmq.runtime.etcd.store import EtcdStore  # noqa: E402
from zmqmq.runtime.etcd.watch import SILENCE_S  # noqa: E402
from zmqmq.runtime.mirror import Mirror  # noqa: E402

PATIENCE_S = 60.0
SHORT_S = 1.0
"""For a call of which the answer is lost."""


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with etcd_cluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@contextlib.asynccontextmanager
async def opened(*endpoints: str) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(f"etcd3://{','.join(endpoints)}/ways")
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def both(etcd: EtcdCluster) -> AsyncIterator[tuple[TcpProxy, EtcdStore, EtcdStore]]:
    """A proxy, the store that goes through it, and one that does not."""
    async with (
        TcpProxy(etcd.endpoints) as proxy,
        opened(etcd.endpoints) as direct,
        opened(proxy.endpoint) as store,
    ):
        yield proxy, store, direct


async def until_ended(watch: AsyncIterator[Batch]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        async for _ in watch:
            pass


def test_a_commit_whose_reply_is_lost_may_have_happened(etcd: EtcdCluster) -> None:
    async def test() -> None:
        async with both(etcd) as (proxy, store, direct):
            proxy.loses_replies = True
            with pytest.raises(AmbiguousError):
                await store.commit([Put(b"reply", b"1")], timeout_s=3 * SHORT_S)
            proxy.cut()

            kv = await store.get(b"reply")
            assert kv is not None
            assert kv.version == 1, "it was tried again"

            proxy.loses_requests = True
            with pytest.raises(AmbiguousError):
                await store.commit([Put(b"request", b"1")], timeout_s=SHORT_S)
            proxy.cut()

            assert await direct.get(b"request") is None
            await put(store, Put(b"request", b"2"))
            kv = await direct.get(b"request")
            assert kv is not None
            assert (kv.value, kv.version) == (b"2", 1)

    on_uvloop(test())


def test_a_commit_whose_connection_breaks_is_not_tried_again(etcd: EtcdCluster) -> None:
    async def test() -> None:
        async with both(etcd) as (proxy, store, direct):
            for turn in range(20):
                key = b"breaks/%d" % turn
                await store.get(key)
                proxy.loses_replies = is_lost = turn % 2 == 0
                committing = asyncio.create_task(store.commit([Put(key, b"")]))
                await asyncio.sleep(0.02 if is_lost else 0.0005 * turn)
                proxy.cut()
                try:
                    await committing
                except AmbiguousError:
                    is_there = None
                else:
                    assert not is_lost
                    is_there = True
                kv = await direct.get(key)
                assert kv is not None or not is_there
                assert kv is None or kv.version == 1

    on_uvloop(test())


def test_a_commit_that_cannot_be_sent_has_not_happened(etcd: EtcdCluster) -> None:
    async def test() -> None:
        async with both(etcd) as (proxy, store, direct):
            await proxy.refuse()
            # What is sent before gRPC has noticed may have happened.
            with pytest.raises(UnavailableError, match=proxy.endpoint):
                await store.get(b"never", timeout_s=SHORT_S)
            with pytest.raises(UnavailableError, match=proxy.endpoint):
                await store.commit([Put(b"never", b"")], timeout_s=SHORT_S)
            later = asyncio.create_task(store.commit([Put(b"later", b"")], timeout_s=PATIENCE_S))
            await asyncio.sleep(0.2)
            await proxy.listen()
            assert (await later).ok, "it waits for a connection as long as it has time"

            # The connection breaks while nothing is asked, and no other comes about.
            proxy.cut()
            channel = store._connection.endpoint.channel._channel
            async with asyncio.timeout(PATIENCE_S):
                while channel.get_state() is grpc.ChannelConnectivity.READY:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)  # gRPC hears of it in a thread of its own
            proxy.loses_requests = True
            with pytest.raises(UnavailableError, match=proxy.endpoint):
                await store.commit([Put(b"never", b"")], timeout_s=SHORT_S)
            proxy.cut()

            assert await direct.get(b"never") is None

    on_uvloop(test())


def test_a_read_and_a_grant_are_tried_elsewhere(etcd: EtcdCluster) -> None:
    async def test() -> None:
        async with (
            TcpProxy(etcd.endpoints) as one,
            TcpProxy(etcd.endpoints) as other,
            opened(one.endpoint, other.endpoint) as store,
        ):
            await put(store, Put(b"read", b"1"))
            used = one if one.connections else other
            used.loses_replies = True
            kv = await store.get(b"read", timeout_s=PATIENCE_S)
            assert kv is not None
            assert one.connections
            assert other.connections
            used.cut()

            one.loses_replies = other.loses_replies = True
            granting = asyncio.create_task(store.session(30, timeout_s=PATIENCE_S))
            await asyncio.sleep(0.2)
            one.cut()
            other.cut()
            session = await granting
            assert session.alive
            await put(store, Put(b"leased", b"", session.id))
            await session.close()
            assert await store.get(b"leased") is None

    on_uvloop(test())


@contextlib.asynccontextmanager
async def silenced(etcd: EtcdCluster) -> AsyncIterator[tuple[EtcdStore, Callable[[], None]]]:
    """A store with two ways to etcd, and what makes the one that it uses silent."""
    async with (
        TcpProxy(etcd.endpoints) as one,
        TcpProxy(etcd.endpoints) as other,
        opened(one.endpoint, other.endpoint) as store,
    ):

        def silence() -> None:
            used = store._connection.endpoint.target
            (proxy,) = (each for each in (one, other) if each.endpoint == used)
            proxy.loses_replies = True

        yield store, silence


def test_a_silent_member_is_left_by_a_session_and_by_a_watch_alone(
    etcd: EtcdCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing else asks it for anything. gRPC's own pings would take 13 s. And a watch to which
    nothing happens is not taken for a silent one."""

    async def keep() -> None:
        async with silenced(etcd) as (store, silence):
            session = await store.session(6)
            silence()
            await asyncio.sleep(8)
            assert (session.alive, session.reason) == (True, None)
            await session.close()

    async def watch(start: int) -> None:
        async with silenced(etcd) as (store, silence), opened(etcd.endpoints) as direct:
            following = store.watch(b"silent", start)
            assert (await anext(following)).revision == start
            silence()
            await put(direct, Put(b"silent", b""))
            async with asyncio.timeout(2 * SILENCE_S + 7):
                while not (await anext(following)).events:
                    pass

    async def test() -> None:
        async with opened(etcd.endpoints) as direct:
            start = await put(direct, Put(b"silent", b""))
            # From the first revision that is yet to come when `watch` has made its own.
            idle = asyncio.create_task(until_ended(direct.watch(b"idle", start + 2)))
            await asyncio.gather(keep(), watch(start))
            idle.cancel()
        assert f"failed at {etcd.endpoints}" not in caplog.text

    on_uvloop(test())


def test_closing_tells_perhaps_to_a_commit_and_ends_all_else(etcd: EtcdCluster) -> None:
    async def test() -> None:
        async with both(etcd) as (proxy, store, _):
            start = await put(store, Put(b"close", b""))
            proxy.loses_replies = True
            committing = asyncio.create_task(store.commit([Put(b"close", b"")]))
            getting = asyncio.create_task(store.get(b"close"))
            watching = asyncio.create_task(batches(store, b"close", start + 1, 9))
            granting = asyncio.create_task(store.session(30))
            await asyncio.sleep(0.3)
            began_s = asyncio.get_running_loop().time()
            await store.close()

            with pytest.raises(AmbiguousError):
                await committing
            for task in (getting, watching, granting):
                with pytest.raises(StoreClosedError):
                    await task
            assert asyncio.get_running_loop().time() - began_s < 3, "somebody waited for the time"

    on_uvloop(test())


def test_a_watch_over_a_breaking_connection_has_no_gap_and_nothing_twice(
    etcd: EtcdCluster,
) -> None:
    async def test() -> None:
        chance = random.Random(7)

        async def write(store: EtcdStore) -> None:
            for turn in range(400):
                keys = chance.sample(range(9), 3)
                await put(store, *(Put(b"cut/%d" % k, bytes(turn)) for k in keys))
                await asyncio.sleep(0.002)

        async with both(etcd) as (proxy, store, direct):
            start = await put(direct, Put(b"cut/", b""))
            before = proxy.connections
            writing = asyncio.create_task(write(direct))
            found: list[Batch] = []
            async with asyncio.timeout(PATIENCE_S):
                async for batch in store.watch(b"cut/", start + 1):
                    if batch.events:
                        found.append(batch)
                    if len(found) == 400:
                        break
                    if proxy.cut_after_bytes is None:
                        proxy.cut_after_bytes = chance.randrange(1, 40_000)
            await writing
            assert found == await batches(direct, b"cut/", start + 1, 400)
            assert proxy.connections - before > 5, "it was not cut"

    on_uvloop(test())


def test_a_revision_that_comes_in_fragments_is_one_batch(etcd: EtcdCluster) -> None:
    """With what was there before it is larger than what etcd sends at once. A connection that
    breaks between two fragments takes the first of them along."""

    async def test() -> None:
        async with both(etcd) as (proxy, store, direct):
            keys = [b"large/%02d" % i for i in range(15)]
            first = await put(direct, *(Put(key, b"1" * VALUE_BYTES_MAX) for key in keys))
            await put(direct, *(Put(key, b"2" * VALUE_BYTES_MAX) for key in keys))
            await put(direct, Put(keys[0], b"3"))

            found = await batches(direct, b"large/", first, 3)

            assert [batch.revision for batch in found] == [first, first + 1, first + 2]
            assert [[event.kv.key for event in batch.events] for batch in found[:2]] == [keys] * 2
            assert [event.prev for event in found[1].events] == [e.kv for e in found[0].events]
            for length in range(1_000_000, 2_800_000, 200_000):
                proxy.cut_after_bytes = length
                assert await batches(store, b"large/", first + 1, 2) == found[1:]
                assert proxy.cut_after_bytes is None

    on_uvloop(test())


def test_a_watch_that_was_away_while_its_history_was_compacted_says_so(
    etcd: EtcdCluster,
) -> None:
    async def test() -> None:
        async with both(etcd) as (proxy, store, direct):
            start = await put(direct, Put(b"gap/1", b""))
            mirror = Mirror(store, b"gap/")
            await mirror.start()
            watch = store.watch(b"gap/", start + 1)
            last = await put(direct, Put(b"gap/2", b""))
            assert (await anext(watch)).revision == last
            await mirror.reached(last, timeout_s=PATIENCE_S)

            await proxy.refuse()
            for i in range(5):
                last = await put(direct, Put(b"gap/%d" % (i % 3), b"%d" % i))
            await direct.compact(last)
            await proxy.listen()

            with pytest.raises(CompactedError) as caught:
                await until_ended(watch)
            assert caught.value.revision == last
            await mirror.reached(last, timeout_s=PATIENCE_S)
            assert mirror.items() == list((await direct.list(b"gap/")).items)
            assert mirror.relists == 1
            await mirror.close()

    on_uvloop(test())


def test_a_lease_that_somebody_revokes_ends_its_session(etcd: EtcdCluster) -> None:
    async def test() -> None:
        async with opened(etcd.endpoints) as store:
            session, other = await store.session(6), await store.session(6)
            await put(store, Put(b"revoked", b"", session.id))
            # In a thread, for both are renewed meanwhile.
            await asyncio.to_thread(etcd.ctl, "lease", "revoke", f"{session.id:x}")

            async with asyncio.timeout(PATIENCE_S):
                reason = await session.wait_lost()

            assert reason.startswith("etcd says")
            assert not session.alive
            assert await store.get(b"revoked") is None
            assert other.alive
            await other.close()

    on_uvloop(test())


def test_a_lease_counts_from_when_its_renewal_was_sent(etcd: EtcdCluster) -> None:
    """From when it was answered would be later than etcd counts."""

    async def test() -> None:
        async with both(etcd) as (proxy, store, _):
            session = await store.session(6)
            granted_s = session.deadline_s
            proxy.delay_s = 0.3
            async with asyncio.timeout(PATIENCE_S):
                while session.deadline_s == granted_s:  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0.02)

            assert now_s() - (session.deadline_s - session.ttl_s) >= 0.3
            await session.close()

    on_uvloop(test())


async def until_foreign(call: Callable[[], Awaitable[object]]) -> None:
    """The last of the attempts that a call has made may have been too slow to hear it."""
    said = ""
    for _ in range(5):
        with pytest.raises(UnavailableError) as caught:
            await call()
        said = str(caught.value)
        if "is of cluster" in said:
            return
    raise AssertionError(said)


def test_members_of_another_cluster_are_not_asked(etcd: EtcdCluster, tmp_path: Path) -> None:
    """Of two clusters, or one that was set up anew: revisions would go back."""

    async def test(foreign: EtcdCluster) -> None:
        async with TcpProxy(etcd.endpoints) as proxy:
            async with opened(proxy.endpoint) as store:
                await put(store, Put(b"ours", b""))
                await proxy.refuse()
                proxy.target = foreign.endpoints
                await proxy.listen()
                await until_foreign(partial(store.get, b"ours", timeout_s=SHORT_S))
                await until_foreign(partial(store.session, 3, timeout_s=SHORT_S))
                ours = [Put(b"ours", b"")]
                await until_foreign(partial(store.commit, ours, timeout_s=SHORT_S))
            async with opened(foreign.endpoints) as store:
                assert (await store.list(b"")).items == ()

    with etcd_cluster(tmp_path) as foreign:
        on_uvloop(test(foreign))


def test_an_etcd_that_is_not_there_is_unavailable(etcd: EtcdCluster) -> None:
    async def test() -> None:
        async with TcpProxy(etcd.endpoints) as proxy:
            await proxy.refuse()
            store = EtcdStore(f"etcd3://{proxy.endpoint}", timeout_s=SHORT_S)
            with pytest.raises(UnavailableError, match=proxy.endpoint):
                await store.open()
            with pytest.raises(StoreError, match="could not be opened"):
                await store.get(b"x")
            await proxy.listen()

    on_uvloop(test())
