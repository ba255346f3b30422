"""Three real members of etcd of which some are killed, frozen, started again or cut off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

pytest.register_assert_rewrite("tests.conformance.metadata_store", "tests.support.store_work")

from tests.conformance.metadata_store import until_gone  # noqa: E402
from tests.support.etcd_process import EtcdCluster, EtcdMember, etcd_cluster, on_uvloop  # noqa: E402
from tests.support.store_work import PATIENCE_S, Work  # noqa: E402
from zmqmq.core.meta.store import (  # noqa: E402
    AmbiguousError,
    If,
    Put,
    Session,
    UnavailableError,
)
from zmqmq.runtime.boottime import now_s  # noqa: E402
from zmqmq.runtime.etcd.store import EtcdStore  # noqa: E402

CALL_S = 3.0
"""Over two elections of etcd, and what a write to a frozen member costs."""
ELECTION_S = 2.0
"""At most; and it is a random time over 1 s."""
SLACK_S = 4.0
"""What a busy machine may add."""


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with etcd_cluster(tmp_path_factory.mktemp("etcd"), 3) as cluster:
        yield cluster


@pytest.fixture
def etcd(members: EtcdCluster) -> Iterator[EtcdCluster]:
    """All of them well, also after a test that failed in the middle."""
    yield members
    for member in members.members:
        if member.is_running:
            member.thaw()
    members.start()


@contextlib.asynccontextmanager
async def opened(endpoints: str) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(f"etcd3://{endpoints}/test", timeout_s=CALL_S)
    end = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            await store.open()
            break
        except UnavailableError:
            assert asyncio.get_running_loop().time() < end, f"{endpoints} never served"
            store = EtcdStore(f"etcd3://{endpoints}/test", timeout_s=CALL_S)
    try:
        yield store
    finally:
        await store.close()


async def until_serves(*members: EtcdMember) -> None:
    """Wait until each of them answers what only one with a leader can."""
    for member in members:
        await asyncio.to_thread(member.wait_listening)
        async with opened(member.endpoint) as store:
            await store.get(b"any", timeout_s=PATIENCE_S)


async def live_key(store: EtcdStore, key: bytes, ttl_s: float) -> tuple[Session, int]:
    """A session, and the revision at which its key came into being."""
    session = await store.session(ttl_s)
    done = await store.commit([Put(key, b"", session.id)], [If(key, "create", "==", 0)])
    assert done.ok
    return session, done.revision


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_each_member_in_turn(etcd: EtcdCluster, fault: str) -> None:
    """One of them leads, and one is the one that is used."""

    async def test() -> None:
        await until_serves(*etcd.members)
        async with opened(etcd.endpoints) as store:
            session, epoch = await live_key(store, b"live/" + fault.encode(), 20)
            async with Work.on(store, fault.encode() + b"/") as work:
                for member in etcd.members:
                    await work.advance(5)
                    if fault == "kill":
                        member.kill()
                        await work.advance(10)
                        member.start()
                    else:
                        member.freeze()
                        await work.advance(10)
                        member.thaw()
                    await until_serves(member)
                await work.advance(5)
            assert (session.alive, session.reason) == (True, None)
            kv = await store.get(b"live/" + fault.encode())
            assert kv is not None
            assert kv.create_revision == epoch
            await session.close()

    on_uvloop(test())


def test_a_member_that_is_stopped_is_left_before_it_ends(etcd: EtcdCluster) -> None:
    """It takes nothing new and waits seconds for what it has, as in a rolling restart."""

    async def test() -> None:
        await until_serves(*etcd.members)
        async with opened(etcd.endpoints) as store:
            session, _ = await live_key(store, b"live/stop", 20)
            async with Work.on(store, b"stop/") as work:
                await work.advance(5)
                used = store._connection.endpoint.target
                (member,) = (each for each in etcd.members if each.endpoint == used)
                stopping = asyncio.create_task(asyncio.to_thread(member.stop))
                await work.advance(20)
                await stopping
                await work.advance(5)
                member.start()
                await until_serves(member)
            assert (session.alive, session.reason) == (True, None)
            await session.close()

    on_uvloop(test())


def test_all_killed_and_started_again(etcd: EtcdCluster) -> None:
    async def test() -> None:
        await until_serves(*etcd.members)
        async with opened(etcd.endpoints) as store:
            session, epoch = await live_key(store, b"live/all", 30)
            async with Work.on(store, b"all/") as work:
                await work.advance(5)
                for member in etcd.members:
                    member.kill()
                key = b"none"
                with pytest.raises(UnavailableError):
                    await store.commit([Put(key, b"")], timeout_s=1)
                with pytest.raises(UnavailableError):
                    await store.get(key, timeout_s=1)
                for member in etcd.members:
                    member.start()
                await work.advance(5)
                assert await store.get(key, timeout_s=PATIENCE_S) is None
            kv = await store.get(b"live/all")
            assert kv is not None
            assert (kv.create_revision, session.alive) == (epoch, True)
            await session.close()

    on_uvloop(test())


def test_without_a_majority_calls_end_and_sessions_are_lost_in_time(etcd: EtcdCluster) -> None:
    async def test() -> None:
        await until_serves(*etcd.members)
        clock = asyncio.get_running_loop().time
        async with opened(etcd.endpoints) as store:
            session, _ = await live_key(store, b"live/minority", 2)
            async with Work.on(store, b"minority/") as work:
                await work.advance(5)
                for member in etcd.members[:2]:
                    member.freeze()
                frozen_s = now_s()
                began_s = clock()
                with pytest.raises(UnavailableError):
                    await store.get(b"minority/x", timeout_s=1)
                with pytest.raises((AmbiguousError, UnavailableError)) as caught:
                    await store.commit([Put(b"x", b"")], timeout_s=1)
                assert clock() - began_s < 2 + SLACK_S

                async with asyncio.timeout(PATIENCE_S):
                    reason = await session.wait_lost()
                # A leader takes a while to see that it has no majority, and renews until then.
                assert session.deadline_s < frozen_s + session.ttl_s + ELECTION_S + SLACK_S
                assert now_s() < session.deadline_s + SLACK_S
                assert not session.alive
                assert "not renewed within" in reason

                for member in etcd.members[:2]:
                    member.thaw()
                await until_serves(*etcd.members)
                await work.advance(5)
                if isinstance(caught.value, UnavailableError):
                    assert await store.get(b"x") is None, "it said that nothing was applied"

    on_uvloop(test())


def test_a_frozen_leader_that_wakes_up(etcd: EtcdCluster) -> None:
    """It may revoke the leases of the healthy (etcd.md 2). Who loses his session that way hears
    of it soon, and begins again with a higher epoch; nobody goes on with a lease that is gone."""

    async def test() -> None:
        await until_serves(*etcd.members)
        names = [b"wakes/%d" % i for i in range(12)]
        async with opened(etcd.endpoints) as store:
            holders = {name: await live_key(store, name, 3) for name in names}
            async with Work.on(store, b"meanwhile/") as work:
                leader = await asyncio.to_thread(etcd.leader)  # sessions are renewed meanwhile
                leader.freeze()
                await work.advance(5)
                # Longer than the lease, on the clock of a leader that has heard no renewal.
                await asyncio.sleep(4)
                leader.thaw()
                await until_serves(*etcd.members)
                await work.advance(20)
                # A session that was lost is noticed when it would have been renewed.
                await asyncio.sleep(2)

                kept = {kv.key: kv for kv in (await store.list(b"wakes/")).items}
                for name, (session, epoch) in holders.items():
                    if name not in kept:
                        async with asyncio.timeout(PATIENCE_S):  # else it never gets to know
                            await session.wait_lost()
                    elif session.reason is None:
                        assert kept[name].create_revision == epoch
                        await session.close()
                for name, (_, epoch) in holders.items():
                    await until_gone(store, name)
                    again, later = await live_key(store, name, 3)
                    assert later > epoch
                    await again.close()

    on_uvloop(test())


@pytest.mark.slow
def test_a_connection_at_rest_is_not_pinged(
    etcd: EtcdCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    """etcd would end it after the third ping, and gRPC would say so on stderr."""

    async def work() -> None:
        async with opened(etcd.endpoints):
            await asyncio.sleep(50)

    on_uvloop(work())
    assert "too_many_pings" not in capfd.readouterr().err
