"""The metadata store in a real etcd: the rules of all stores, and the mirror over it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.conformance.metadata_store")

from tests.conformance.metadata_store import RULES, Rule  # noqa: E402
from tests.support.etcd_process import EtcdCluster, etcd_cluster  # noqa: E402
from zmqmq.core.meta.store import MetadataStore  # noqa: E402
from zmqmq.runtime.etcd.store import EtcdStore  # noqa: E402


class EtcdBench:
    """Stores of one etcd, which outlives the test."""

    ttl_s = 6.0
    """Etcd grants 2 at least. Whoever stands still for two thirds of it has lost his session."""

    def __init__(self, etcd: EtcdCluster, prefix: bytes, namespace: str) -> None:
        self.prefix = prefix
        self._etcd = etcd
        self._namespace = namespace
        self._stores: list[EtcdStore] = []

    async def store(self) -> EtcdStore:
        store = EtcdStore(f"etcd3://{self._etcd.endpoints}/{self._namespace}")
        self._stores.append(store)
        info = await store.open()
        assert info.backend == "etcd3"
        return store

    async def restarted(self, store: MetadataStore) -> EtcdStore:
        await store.close()
        (member,) = self._etcd.members
        member.kill()  # at once, as leases run on until it has stopped
        self._etcd.start()
        return await self.store()

    async def close(self) -> None:
        for store in self._stores:
            # A lease that runs out later would make a revision in the middle of another rule.
            for session in store._sessions:
                await session.close()
            await store.close()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with etcd_cluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rules_of_all_stores(rule: Rule, etcd: EtcdCluster) -> None:
    async def whole() -> None:
        # Every other rule behind a prefix, to which all of them must be blind.
        namespace = "some/where" if RULES.index(rule) % 2 else ""
        bench = EtcdBench(etcd, f"zmqmq/{rule.__name__}/".encode(), namespace)
        try:
            await rule(bench)
        finally:
            await bench.close()

    asyncio.run(whole())
