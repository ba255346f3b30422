"""The metadata store of a cluster, in etcd. Keeps the contract of core/meta/store.py.

Differences that a caller may see:

- A commit whose answer is lost is an AmbiguousError (etcd.md R2), and so is a compaction. It, or
  one that was cancelled, may be applied later than one that was sent after it.
- TTLs are whole seconds, and etcd grants no less than one and a half of its election timeouts.
- CompactedError of `list` and `compact` names the revision that was asked for: etcd does not say
  how far it has compacted. That of a watch is exact.

Keys stand in etcd as they are, behind the prefix that the address names. connection.py has what
is done when a member or all of them are away.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from zmqmq.core.meta.store import (
    KV,
    TIMEOUT_S,
    Batch,
    Commit,
    If,
    LeaseGoneError,
    Op,
    Put,
    Snapshot,
    StoreInfo,
    check_commit,
    check_key,
    check_prefix,
    prefix_end,
)
from zmqmq.runtime.boottime import now_s
from zmqmq.runtime.etcd.address import parse
from zmqmq.runtime.etcd.connection import EtcdConnection
from zmqmq.runtime.etcd.messages import (
    COMPACT,
    LEASE_GRANT,
    LEASE_REVOKE,
    RANGE,
    TXN,
    Compare,
    DeleteRangeRequest,
    Message,
    Method,
    PutRequest,
    RequestOp,
)
from zmqmq.runtime.etcd.outcomes import RefusalError, translated
from zmqmq.runtime.etcd.session import EtcdSession
from zmqmq.runtime.etcd.watch import kv_of, watch

TTL_MIN_S: Final = 1.0
_RESULTS: Final = {"==": 0, ">": 1, "<": 2, "!=": 3}
_TARGETS: Final = {
    "version": (0, "version"),
    "create": (1, "create_revision"),
    "mod": (2, "mod_revision"),
    "value": (3, "value"),
    "lease": (4, "lease"),
}
"""The number of what is compared, and the field that it is compared with."""


class EtcdStore:
    """A MetadataStore in etcd. Opened once, in one event loop; after `close` make another."""

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """`timeout_s` is for calls that name none. Raises ConfigError."""
        address = parse(url)
        self._namespace = address.prefix
        self._timeout_s = timeout_s
        self._connection = EtcdConnection(address)
        self._sessions: set[EtcdSession] = set()

    async def open(self) -> StoreInfo:
        """Connect to one member; the others when they are needed."""
        try:
            version, cluster_id = await self._connection.open(timeout_s=self._timeout_s)
        except RefusalError as refusal:
            raise translated(refusal) from None
        return StoreInfo("etcd3", str(version), f"{cluster_id:016x}")

    async def get(self, key: bytes, *, timeout_s: float | None = None) -> KV | None:
        check_key(key)
        reply = await self._call(RANGE, RANGE(key=self._namespace + key), timeout_s)
        return self._kv(reply.kvs)

    async def list(
        self,
        prefix: bytes,
        *,
        limit: int = 0,
        after: bytes | None = None,
        revision: int = 0,
        timeout_s: float | None = None,
    ) -> Snapshot:
        check_prefix(prefix)
        if limit < 0 or revision < 0:
            raise ValueError(f"limit {limit} and revision {revision} cannot be negative")
        first = prefix if after is None else max(prefix, after + b"\0")
        request = RANGE(
            key=self._namespace + first or b"\0",
            range_end=prefix_end(self._namespace + prefix) or b"\0",
            limit=limit,
            revision=revision,
        )
        reply = await self._call(RANGE, request, timeout_s, revision=revision)
        items = tuple(kv_of(kv, self._namespace) for kv in reply.kvs)
        return Snapshot(revision or reply.header.revision, items)

    async def commit(
        self, ops: Sequence[Op], ifs: Sequence[If] = (), *, timeout_s: float | None = None
    ) -> Commit:
        check_commit(ops, ifs)
        keys = list(dict.fromkeys(condition.key for condition in ifs))
        request = TXN(
            compare=[self._compare(condition) for condition in ifs],
            success=[self._op(op) for op in ops],
            # In the same breath, so that whoever lost learns against what (R5).
            failure=[RequestOp(request_range=RANGE(key=self._namespace + key)) for key in keys],
        )
        # Of several leases etcd does not say which is gone; a broker has one.
        lease = next((op.lease for op in ops if isinstance(op, Put) and op.lease), 0)
        reply = await self._call(TXN, request, timeout_s, is_write=bool(ops), lease=lease)
        current = {}
        if not reply.succeeded:
            found = [self._kv(response.response_range.kvs) for response in reply.responses]
            current = dict(zip(keys, found, strict=True))
        return Commit(reply.succeeded, reply.header.revision, current)

    def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[Batch]:
        check_prefix(prefix)
        if from_revision < 1:
            raise ValueError(f"revision {from_revision}: the first one is 1")
        return watch(self._connection, self._namespace, prefix, from_revision)

    async def session(self, ttl_s: float, *, timeout_s: float | None = None) -> EtcdSession:
        """See MetadataStore. Raises ValueError for less than TTL_MIN_S, and for infinity."""
        if not TTL_MIN_S <= ttl_s < math.inf:
            raise ValueError(f"a session of {ttl_s} s; the least is {TTL_MIN_S}, and it has an end")
        # Its time begins before the grant is sent, so that it is over here no later than there.
        # A grant whose answer is lost leaves a lease without keys, which runs out.
        began_s = now_s()
        reply = await self._call(LEASE_GRANT, LEASE_GRANT(TTL=math.ceil(ttl_s)), timeout_s)
        session = EtcdSession(
            reply.ID, float(reply.TTL), began_s + reply.TTL, self._connection, self._revoke
        )
        self._sessions = {kept for kept in self._sessions if kept.reason is None} | {session}
        return session

    async def compact(self, revision: int, *, timeout_s: float | None = None) -> None:
        request = COMPACT(revision=revision)
        await self._call(COMPACT, request, timeout_s, is_write=True, revision=revision)

    async def close(self) -> None:
        """See MetadataStore. A commit under way becomes ambiguous."""
        reason = "close() was called"
        for session in tuple(self._sessions):
            await session.retire(f"the metadata store is closed: {reason}")
        self._sessions.clear()
        await self._connection.close(reason)

    async def _revoke(self, lease_id: int) -> None:
        try:
            await self._call(LEASE_REVOKE, LEASE_REVOKE(ID=lease_id), None, lease=lease_id)
        except LeaseGoneError:
            return

    async def _call(
        self,
        method: Method,
        request: Message,
        timeout_s: float | None,
        *,
        is_write: bool = False,
        lease: int = 0,
        revision: int = 0,
    ) -> Message:
        within_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            return await self._connection.call(
                method, request, timeout_s=within_s, is_write=is_write
            )
        except RefusalError as refusal:
            raise translated(refusal, lease=lease, revision=revision) from None

    def _kv(self, kvs: Sequence[Message]) -> KV | None:
        return kv_of(kvs[0], self._namespace) if kvs else None

    def _compare(self, condition: If) -> Message:
        number, field = _TARGETS[condition.target]
        fields: dict[str, Any] = {field: condition.value}
        key = self._namespace + condition.key
        return Compare(result=_RESULTS[condition.op], target=number, key=key, **fields)

    def _op(self, op: Op) -> Message:
        key = self._namespace + op.key
        if isinstance(op, Put):
            return RequestOp(request_put=PutRequest(key=key, value=op.value, lease=op.lease))
        return RequestOp(request_delete_range=DeleteRangeRequest(key=key))
