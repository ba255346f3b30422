"""A copy in memory of what stands under a prefix, kept up to date from a metadata store.

A broker has one, over all of its cluster's keys, and reads from nothing else; a write is guarded
by the revision it saw here, so a copy that lags costs a retry and no wrong decision.

The copy lists at revision R and watches from R + 1 (etcd.md R22). When the store has forgotten
the history in between it lists again and works out what must have happened (R25): who only
listens to the callbacks misses nothing but the steps in between.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import Final

from zmqmq.core.meta.store import (
    KV,
    TIMEOUT_S,
    Batch,
    CompactedError,
    Event,
    MetadataStore,
    StoreClosedError,
    StoreError,
    UnavailableError,
    deleted,
    prefix_end,
)

logger = logging.getLogger("zmqmq.metadata")

PAGE_ITEMS: Final = 1000
"""Keys of one `list`; with 64 KiB for the largest value far below what a store sends at once in
practice (a partition takes 250 bytes)."""
PINNED_TRIES: Final = 8
"""How often listing begins anew because its revision was compacted between two pages."""
RETRY_FIRST_S: Final = 0.05
RETRY_LAST_S: Final = 2.0
"""The pause before listing again doubles from the first to the last while the store is away."""


class Mirror:
    """Follows a prefix from `start` until `close`, in a task of its own.

    `on_batch` is called in the loop after a batch has been applied here. The first call has the
    whole list as puts. After a gap in the history a batch spans several revisions: its events,
    sorted by key, lead from the old state to the new one, each with the key's own mod_revision. A
    key that was deleted and created again in the gap is one put; its create_revision tells.
    """

    def __init__(
        self,
        store: MetadataStore,
        prefix: bytes,
        *,
        on_batch: Callable[[Batch], None] | None = None,
        page_items: int = PAGE_ITEMS,
    ) -> None:
        assert page_items >= 1
        self._store = store
        self._prefix = prefix
        self._on_batch = on_batch
        self._page_items = page_items
        self._items: dict[bytes, KV] = {}
        self._keys: list[bytes] = []
        """Those of `_items`, sorted."""
        self._revision = 0
        self._relists = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    async def start(self) -> None:
        """List, then follow. Raises what `MetadataStore.list` does."""
        assert self._task is None, "a mirror is started once"
        await self._relist()
        self._task = asyncio.get_running_loop().create_task(self._follow())
        self._task.add_done_callback(self._note_ended)

    @property
    def revision(self) -> int:
        """Everything up to here is in the copy; 0 before `start`."""
        return self._revision

    @property
    def relists(self) -> int:
        """How often the history had a gap."""
        return self._relists

    def get(self, key: bytes) -> KV | None:
        """The key as of `revision`."""
        return self._items.get(key)

    def items(self, prefix: bytes = b"") -> list[KV]:
        """What stands under a prefix as of `revision`, sorted by key."""
        end = prefix_end(prefix)
        first = bisect_left(self._keys, prefix)
        behind = len(self._keys) if end is None else bisect_left(self._keys, end)
        return [self._items[key] for key in self._keys[first:behind]]

    async def reached(self, revision: int, *, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until the copy is at a revision: then one's own commit there is in it.

        Raises UnavailableError when it is not there in time, and what the watch ended with;
        StoreClosedError when the mirror is closed.
        """
        if self._revision >= revision:
            return
        self._check_following()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (revision, waiter)
        self._waiters.append(entry)
        try:
            await asyncio.wait((waiter,), timeout=timeout_s)
        finally:
            if not waiter.done():
                self._waiters.remove(entry)
        if not waiter.done():
            raise UnavailableError(
                f"revision {revision} was not seen within {timeout_s} s; this is {self._revision}"
            )
        if self._revision < revision:
            self._check_following()

    async def wait_ended(self) -> None:
        """Wait until it no longer follows; raise why, or return after `close`.

        A broker has to stop then: nobody tells it any more what has changed.
        """
        assert self._task is not None, "start() comes first"
        await asyncio.wait((self._task,))
        if not self._is_closed:
            self._task.result()

    async def close(self) -> None:
        """Stop following. What was copied stays readable."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def forget_history(self) -> None:
        """Let the store forget what is in the copy. It need not happen now, nor by this broker:
        other brokers do the same, and in an etcd with users nobody but root may."""
        try:
            await self._store.compact(self._revision)
        except CompactedError:
            return
        except StoreError as error:
            logger.warning("the metadata's history was not compacted: %s", error)

    async def _follow(self) -> None:
        pause_s = RETRY_FIRST_S
        while True:
            try:
                async for batch in self._store.watch(self._prefix, self._revision + 1):
                    pause_s = RETRY_FIRST_S
                    self._apply(batch)
            except CompactedError:
                self._relists += 1
            try:
                await self._relist()
            except (UnavailableError, CompactedError):
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_LAST_S)

    async def _relist(self) -> None:
        """Take the state as it is now for the truth, and apply what differs as one batch."""
        for _ in range(PINNED_TRIES - 1):
            try:
                revision, items = await self._list_all()
                break
            except CompactedError:
                continue
        else:
            revision, items = await self._list_all()
        if revision < self._revision:
            raise StoreError(
                f"the metadata store went back from revision {self._revision} to {revision}; "
                "was it restored from a backup?"
            )
        self._apply(Batch(revision, tuple(self._difference(items, revision))))

    async def _list_all(self) -> tuple[int, dict[bytes, KV]]:
        """Every page at the revision of the first. Raises CompactedError if that is forgotten."""
        items: dict[bytes, KV] = {}
        revision, after = 0, None
        while True:
            page = await self._store.list(
                self._prefix, limit=self._page_items, after=after, revision=revision
            )
            items.update((kv.key, kv) for kv in page.items)
            revision = page.revision
            if len(page.items) < self._page_items:
                return revision, items
            after = page.items[-1].key

    def _difference(self, items: dict[bytes, KV], revision: int) -> Iterator[Event]:
        for key in sorted(self._items.keys() | items.keys()):
            old, new = self._items.get(key), items.get(key)
            if new is None:
                yield Event("delete", deleted(key, revision), old)
            elif old is None or old.mod_revision != new.mod_revision:
                yield Event("put", new, old)

    def _apply(self, batch: Batch) -> None:
        # Some servers say things twice after a reconnect (etcd.md R23).
        if batch.revision <= self._revision:
            return
        for event in batch.events:
            self._apply_event(event)
        self._revision = batch.revision
        if self._on_batch is not None:
            self._on_batch(batch)
        reached = [entry for entry in self._waiters if entry[0] <= batch.revision]
        if reached:
            self._waiters = [entry for entry in self._waiters if entry[0] > batch.revision]
            for _, waiter in reached:
                waiter.set_result(None)

    def _apply_event(self, event: Event) -> None:
        key = event.kv.key
        if event.type == "put":
            if key not in self._items:
                insort(self._keys, key)
            self._items[key] = event.kv
        elif self._items.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]

    def _check_following(self) -> None:
        if self._is_closed:
            raise StoreClosedError("the mirror is closed")
        assert self._task is not None, "start() comes first"
        if self._task.done():
            self._task.result()

    def _note_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # Looked at: `wait_ended` and `reached` raise it.
        waiters, self._waiters = self._waiters, []
        for _, waiter in waiters:
            waiter.set_result(None)
