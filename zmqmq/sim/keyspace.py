"""What a metadata store holds, with its history: keys, revisions and leases. No time in it.

The rules are those of core/meta/store.py; tests/unit/sim/test_store.py compares it with the
oracle that the SQLite store is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zmqmq.core.meta.store import (
    KV,
    Batch,
    Commit,
    CompactedError,
    Delete,
    Event,
    If,
    LeaseGoneError,
    Op,
    Put,
    Snapshot,
    deleted,
    holds,
)

_FIRST_CHANGE = 2
"""A store begins with revision 1, at which nothing happened."""


class Keyspace:
    """Keys with all their revisions since the compacted one."""

    __slots__ = ("_current", "_first", "_history", "_leases", "compacted", "on_change", "revision")

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = 0
        """What happened before this revision is forgotten."""
        self.on_change: list[Callable[[Sequence[Event]], object]] = []
        """Called with what happened at each new revision."""
        self._current: dict[bytes, KV] = {}
        self._history: list[tuple[Event, ...]] = []
        """Of each revision from `_first` on."""
        self._first = _FIRST_CHANGE
        self._leases: dict[int, dict[bytes, None]] = {}
        """Which keys each one has."""

    def commit(self, ops: Sequence[Op], ifs: Sequence[If]) -> Commit:
        """See MetadataStore.commit; what `check_commit` refuses must not get here."""
        if not all(holds(condition, self._current.get(condition.key)) for condition in ifs):
            found = {condition.key: self._current.get(condition.key) for condition in ifs}
            return Commit(ok=False, revision=self.revision, current=found)
        for op in ops:
            if isinstance(op, Put) and op.lease and op.lease not in self._leases:
                raise LeaseGoneError(op.lease)
        self._change(ops)
        return Commit(ok=True, revision=self.revision, current={})

    def get(self, key: bytes) -> KV | None:
        """The key as it is now."""
        return self._current.get(key)

    def list(self, prefix: bytes, revision: int = 0) -> Snapshot:
        """What stood under a prefix at a revision, or stands now. Raises CompactedError."""
        items = {k: kv for k, kv in self._current.items() if k.startswith(prefix)}
        if revision:
            self._check_history(revision)
            for events in reversed(self._history[max(revision + 1 - self._first, 0) :]):
                for event in events:
                    if event.prev is not None and event.kv.key.startswith(prefix):
                        items[event.kv.key] = event.prev
                    else:
                        items.pop(event.kv.key, None)
        return Snapshot(revision or self.revision, tuple(kv for _, kv in sorted(items.items())))

    def batches(self, prefix: bytes, from_revision: int) -> Sequence[Batch]:
        """What happened under a prefix since then. Raises CompactedError."""
        self._check_history(from_revision)
        start = max(from_revision - self._first, 0)
        found = []
        for revision, events in enumerate(self._history[start:], start=self._first + start):
            here = tuple(event for event in events if event.kv.key.startswith(prefix))
            if here:
                found.append(Batch(revision, here))
        return found

    def events(self, revision: int) -> tuple[Event, ...]:
        """What happened at a revision that is not compacted."""
        return self._history[revision - self._first]

    def compact(self, revision: int) -> None:
        """Forget what happened before. Raises CompactedError if that has been done."""
        if revision <= self.compacted:
            raise CompactedError(self.compacted)
        if revision > self.revision:
            raise ValueError(f"revision {revision} is yet to come; the last is {self.revision}")
        self.compacted = revision
        drop = max(revision - self._first, 0)
        del self._history[:drop]
        self._first += drop

    def grant(self, lease: int) -> None:
        """A new lease."""
        assert lease > 0
        assert lease not in self._leases
        self._leases[lease] = {}

    def has_lease(self, lease: int) -> bool:
        """Whether it has been granted and has not ended."""
        return lease in self._leases

    def end(self, lease: int) -> None:
        """A lease is over, and its keys with it: all at one revision, in their order."""
        self._change([Delete(key) for key in sorted(self._leases[lease])])
        del self._leases[lease]

    def _change(self, ops: Sequence[Op]) -> None:
        revision = self.revision + 1
        events: list[Event] = []
        for op in ops:
            old = self._current.pop(op.key, None)
            if old is not None and old.lease:
                del self._leases[old.lease][op.key]
            if isinstance(op, Put):
                created, version = (old.create_revision, old.version + 1) if old else (revision, 1)
                new = KV(op.key, op.value, created, revision, version, op.lease)
                self._current[op.key] = new
                if op.lease:
                    self._leases[op.lease][op.key] = None
                events.append(Event("put", new, old))
            elif old is not None:
                events.append(Event("delete", deleted(op.key, revision), old))
        if events:
            self.revision = revision
            self._history.append(tuple(events))
            for listener in self.on_change:
                listener(events)

    def _check_history(self, revision: int) -> None:
        if revision < self.compacted:
            raise CompactedError(self.compacted)
