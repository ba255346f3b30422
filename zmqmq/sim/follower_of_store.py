"""A broker's copy of the metadata, kept up to date: what runtime/mirror.py is in a process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from zmqmq.core.broker.events import Event, MetadataChanged
from zmqmq.core.meta.store import KV, Batch, Snapshot, StoreError, deleted
from zmqmq.core.meta.store import Event as Change
from zmqmq.sim.node import MS
from zmqmq.sim.store_client import StoreClient

AGAIN_NS: Final = 200 * MS


class StoreFollower:
    """Lists, then watches; lists again when the history was compacted away."""

    def __init__(
        self,
        client: StoreClient,
        prefix: bytes,
        begun: Callable[[Sequence[KV], int], object],
        feed: Callable[[Event], object],
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._begun = begun
        self._feed = feed
        self._items: dict[bytes, KV] = {}
        self._revision = 0
        self._list()

    def _list(self) -> None:
        self._client.list(self._prefix, self._listed)

    def _listed(self, outcome: Snapshot | StoreError) -> None:
        if isinstance(outcome, StoreError):
            node = self._client.node
            node.call_at(node.monotonic_ns() + AGAIN_NS, self._list)
            return
        items = {kv.key: kv for kv in outcome.items}
        if self._revision == 0:
            self._items, self._revision = items, outcome.revision
            self._begun(outcome.items, outcome.revision)
        else:
            self._apply(Batch(outcome.revision, tuple(self._difference(items, outcome.revision))))
        self._client.watch(self._prefix, self._revision + 1, self._apply, self._ended)

    def _ended(self, error: StoreError) -> None:
        del error
        self._list()

    def _difference(self, items: dict[bytes, KV], revision: int) -> list[Change]:
        changes = []
        for key in sorted(self._items.keys() | items.keys()):
            old, new = self._items.get(key), items.get(key)
            if new is None:
                changes.append(Change("delete", deleted(key, revision), old))
            elif old is None or old.mod_revision != new.mod_revision:
                changes.append(Change("put", new, old))
        return changes

    def _apply(self, batch: Batch) -> None:
        if batch.revision <= self._revision:
            return
        for event in batch.events:
            if event.type == "put":
                self._items[event.kv.key] = event.kv
            else:
                self._items.pop(event.kv.key, None)
        self._revision = batch.revision
        self._feed(MetadataChanged(batch))
