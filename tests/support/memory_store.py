"""What a metadata store should do, said in the dumbest way: it keeps every state it was ever in.

An oracle for the random walk in tests/conformance/test_sqlite_model.py. Shares the data classes
with zmqmq/core/meta/store.py and none of its functions. No leases' time: the test says when one
is over.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

from zmqmq.core.meta.store import (
    KV,
    Batch,
    Commit,
    CompactedError,
    Event,
    If,
    LeaseGoneError,
    Op,
    Put,
    Snapshot,
)

State = dict[bytes, KV]
OPERATORS = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt}
ATTRIBUTES = {"create": "create_revision", "mod": "mod_revision"}


class MemoryStore:
    """A list of states, where the place is the revision."""

    def __init__(self) -> None:
        self.states: list[State] = [{}, {}]
        self.order: list[list[bytes]] = [[], []]
        """In which order the keys were changed at each revision."""
        self.compacted = 0
        self.leases: set[int] = set()

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    @property
    def now(self) -> State:
        return self.states[-1]

    def commit(self, ops: Sequence[Op], ifs: Sequence[If] = ()) -> Commit:
        if not all(self._holds(condition) for condition in ifs):
            return Commit(
                ok=False, revision=self.revision, current={c.key: self.now.get(c.key) for c in ifs}
            )
        for op in ops:
            if isinstance(op, Put) and op.lease and op.lease not in self.leases:
                raise LeaseGoneError(op.lease)
        state, order = dict(self.now), []
        for op in ops:
            old = state.pop(op.key, None)
            if isinstance(op, Put):
                created = old.create_revision if old else len(self.states)
                version = old.version + 1 if old else 1
                state[op.key] = KV(op.key, op.value, created, len(self.states), version, op.lease)
            if old or isinstance(op, Put):
                order.append(op.key)
        if order:
            self.states.append(state)
            self.order.append(order)
        return Commit(ok=True, revision=self.revision, current={})

    def _holds(self, condition: If) -> bool:
        kv = self.now.get(condition.key)
        if condition.target == "value":
            return kv is not None and OPERATORS[condition.op](kv.value, condition.value)
        name = ATTRIBUTES.get(condition.target, condition.target)
        return bool(OPERATORS[condition.op](getattr(kv, name) if kv else 0, condition.value))

    def snapshot(
        self, prefix: bytes, limit: int = 0, after: bytes | None = None, revision: int = 0
    ) -> Snapshot:
        revision = revision or self.revision
        if revision < self.compacted:
            raise CompactedError(self.compacted)
        state = self.states[revision]
        found = [kv for key, kv in sorted(state.items()) if key.startswith(prefix)]
        found = [kv for kv in found if after is None or kv.key > after]
        return Snapshot(revision, tuple(found[: limit or None]))

    def events(self, prefix: bytes, from_revision: int) -> list[Batch]:
        if from_revision < self.compacted:
            raise CompactedError(self.compacted)
        batches = []
        for revision in range(max(from_revision, 2), self.revision + 1):
            events = [
                self._event(key, revision) for key in self.order[revision] if key.startswith(prefix)
            ]
            if events:
                batches.append(Batch(revision, tuple(events)))
        return batches

    def _event(self, key: bytes, revision: int) -> Event:
        old, new = self.states[revision - 1].get(key), self.states[revision].get(key)
        if new is None:
            return Event("delete", KV(key, b"", 0, revision, 0, 0), old)
        return Event("put", new, old)

    def end_lease(self, lease: int) -> None:
        self.leases.remove(lease)
        state = {key: kv for key, kv in self.now.items() if kv.lease != lease}
        gone = sorted(self.now.keys() - state.keys())
        if gone:
            self.states.append(state)
            self.order.append(gone)

    def compact(self, revision: int) -> None:
        if revision <= self.compacted:
            raise CompactedError(self.compacted)
        self.compacted = revision
