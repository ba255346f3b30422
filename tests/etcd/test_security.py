"""A real etcd with users, whose tokens run out, and one with certificates."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.conformance.metadata_store")

from tests.conformance.metadata_store import batches, put  # noqa: E402
from tests.support.broker_process import missing  # noqa: E402
from tests.support.etcd_process import EtcdCluster, etcd_cluster, on_uvloop  # noqa: E402
from zmqmq.core.meta.store import (  # noqa: E402
    Put,
    StoreError,
    UnauthorizedError,
    UnavailableError,
)
from zmqmq.runtime.etcd.store import EtcdStore  # noqa: E402
from zmqmq.testing import Broker  # noqa: E402

PATIENCE_S = 30.0
TOKEN_S = 2
"""How long a token lives that is not used."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """Knows `broker`, who may use what is below zmqmq/."""
    folder = tmp_path_factory.mktemp("guarded")
    with etcd_cluster(folder, flags=["--auth-token-ttl", str(TOKEN_S)]) as cluster:
        for command in (
            "user add root:secret",
            "user grant-role root root",
            "user add broker:geheim",
            "role add zmqmq",
            "role grant-permission zmqmq readwrite zmqmq/ --prefix",
            "user grant-role broker zmqmq",
            "auth enable",
        ):
            cluster.ctl(*command.split())
        yield cluster


def address_of(
    etcd: EtcdCluster, folder: Path, password: str = "geheim", prefix: str = "zmqmq"
) -> str:
    file = folder / "password"
    file.write_text(password + "\n")
    return f"etcd3://broker@{etcd.endpoints}/{prefix}?password_file={file}"


def store_of(
    etcd: EtcdCluster, folder: Path, password: str = "geheim", prefix: str = "zmqmq"
) -> EtcdStore:
    return EtcdStore(address_of(etcd, folder, password, prefix), timeout_s=PATIENCE_S)


async def commit(store: EtcdStore) -> bool:
    return (await store.commit([Put(b"idle", b"")])).ok


async def three_keys(store: EtcdStore, start: int) -> list[bytes]:
    keys: list[bytes] = []
    async with asyncio.timeout(PATIENCE_S):
        async for batch in store.watch(b"", start):
            keys += [event.kv.key for event in batch.events]
            if len(keys) >= 3:
                break
    return keys


def test_tokens_that_ran_out_are_replaced_unseen(guarded: EtcdCluster, tmp_path: Path) -> None:
    async def test() -> None:
        store = store_of(guarded, tmp_path)
        await store.open()
        session = await store.session(15)
        start = await put(store, Put(b"live", b"", session.id))
        watching = asyncio.create_task(three_keys(store, start + 1))
        await asyncio.sleep(1.5 * TOKEN_S)
        # All of them find out at the same time.
        found = await asyncio.gather(*(store.get(b"live") for _ in range(20)), commit(store))
        assert all(found)

        # A restart forgets all tokens, and the watch must come back with a new one.
        (member,) = guarded.members
        member.kill()
        member.start()
        await asyncio.to_thread(member.wait_listening)
        await put(store, Put(b"restarted", b""))
        await put(store, Put(b"again", b""))

        assert await watching == [b"idle", b"restarted", b"again"]
        assert (session.alive, session.reason) == (True, None)
        await session.close()
        await store.close()

    on_uvloop(test())


def test_who_may_not_is_told_so(guarded: EtcdCluster, tmp_path: Path) -> None:
    async def test() -> None:
        store = store_of(guarded, tmp_path, prefix="others")
        await store.open()
        for call in (
            store.get(b"x"),
            store.list(b""),
            store.commit([Put(b"x", b"")]),
            batches(store, b"", 1, 1),
        ):
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(UnauthorizedError, match="permission denied"):
                    await call
        await store.close()

    on_uvloop(test())


def test_a_wrong_password_and_none_are_refused_at_once(
    guarded: EtcdCluster, tmp_path: Path
) -> None:
    async def test() -> None:
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(UnauthorizedError, match="invalid user ID or password"):
            await store_of(guarded, tmp_path, password="falsch").open()
        nobody = EtcdStore(f"etcd3://{guarded.endpoints}/zmqmq", timeout_s=PATIENCE_S)
        with pytest.raises(UnauthorizedError, match="user name is empty"):
            await nobody.open()
        took_s = asyncio.get_running_loop().time() - began_s
        assert took_s < PATIENCE_S / 2, "somebody waited for the time"

    on_uvloop(test())


def test_a_broker_that_may_not_compact_serves_on(
    guarded: EtcdCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Compaction is for root alone; somebody else or etcd itself has to do it."""
    monkeypatch.setattr("zmqmq.runtime.server.HISTORY_KEPT", 1)
    settings = {"broker.metadata": address_of(guarded, tmp_path, prefix="zmqmq/alone")}
    with Broker(settings=settings) as broker, broker.connect() as client:
        for name in ("one", "two", "three"):
            client.topics.create(name)
        client.producer("three").send(b"hello").result()
        end = time.monotonic() + PATIENCE_S
        while "was not compacted: etcd refused" not in caplog.text:
            assert time.monotonic() < end, caplog.text
            time.sleep(0.05)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, which signed both.pem, and other.pem, which it did not sign."""
    openssl = shutil.which("openssl")
    if openssl is None:
        missing("no openssl: put it on PATH")
        raise AssertionError
    folder = tmp_path_factory.mktemp("keys")
    (folder / "names").write_text(
        "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"
    )
    new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for command in (
        f"req -x509 {new} -keyout ca.key -out ca.pem -subj /CN=ca -days 2",
        f"req -x509 {new} -keyout other.key -out other.pem -subj /CN=other -days 2",
        f"req {new} -keyout both.key -out both.csr -subj /CN=both",
        "x509 -req -in both.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out both.pem -days 2 "
        "-extfile names",
    ):
        subprocess.run([openssl, *command.split()], cwd=folder, check=True, capture_output=True)
    return folder


def test_certificates(keys: Path, tmp_path: Path) -> None:
    flags = [
        "--client-cert-auth",
        *("--trusted-ca-file", str(keys / "ca.pem")),
        *("--cert-file", str(keys / "both.pem"), "--key-file", str(keys / "both.key")),
    ]

    async def test(etcd: EtcdCluster) -> None:
        url = f"etcd3://{etcd.endpoints}/tls"
        own = f"&cert={keys}/both.pem&key={keys}/both.key"
        store = EtcdStore(f"{url}?ca={keys}/ca.pem{own}")
        await store.open()
        start = await put(store, Put(b"a", b""))
        assert len(await batches(store, b"", start, 1)) == 1
        session = await store.session(6)
        granted_s = session.deadline_s
        async with asyncio.timeout(PATIENCE_S):
            while session.deadline_s == granted_s:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.05)
        assert session.alive
        await session.close()
        await store.close()
        for query in (
            "",
            f"?ca={keys}/ca.pem",
            f"?ca={keys}/other.pem{own}",
            f"?ca={keys}/ca.pem&cert={keys}/other.pem&key={keys}/other.key",
        ):
            wrong = EtcdStore(url + query, timeout_s=0.4)
            with pytest.raises(UnavailableError, match=etcd.endpoints):
                await wrong.open()
            with pytest.raises(StoreError):
                await wrong.get(b"a")

    with etcd_cluster(tmp_path, flags=flags) as etcd:
        on_uvloop(test(etcd))
