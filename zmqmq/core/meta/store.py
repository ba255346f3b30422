"""The store on which the brokers of a cluster agree, as far as anybody but a driver knows it.

A driver (runtime/sqlite_store.py, runtime/etcd/) is asynchronous and does I/O; this module has only
its shape, the errors, and the rules that are the same for all drivers. The semantics are etcd's,
restricted to what SQLite can do identically. tests/conformance/metadata_store.py tests them.

Driver and caller owe each other:

1. Revisions. The store has one, at least 1; each commit that changes something adds one, and
   everything in it happens at that revision. A failed commit and a delete of nothing add none.
2. Reads (`get`, `list`) are linearizable: they see every commit that was answered before.
3. No or perhaps. Every error but AmbiguousError means that nothing was applied. A commit that is
   cancelled while it is under way counts as ambiguous: read again to learn what happened.
4. Every call ends: `timeout_s` has a finite default, and what is not done by then is an error.
5. `get` and `commit` never act on a lease's clock. A lease decides who is alive; what must be safe
   is guarded by an `If` in the commit that acts (replication.md, etcd.md R15).

Durations are seconds as floats, as asyncio has them. Deadlines are on a clock that goes on while
the machine is suspended (CLOCK_BOOTTIME).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeVar

from zmqmq.errors import ZmqmqError

OPERATIONS_MAX: Final = 128
"""Operations, and likewise conditions, of one commit. etcd takes no more."""
KEY_BYTES_MAX: Final = 1024
"""One key, or a prefix."""
VALUE_BYTES_MAX: Final = 64 * 1024
"""One value. A larger one belongs elsewhere: every broker keeps all of them in memory."""
COMMIT_BYTES_MAX: Final = 1024 * 1024
"""Keys and values of one commit together, conditions included; etcd's limit is 1.5 MiB."""
TIMEOUT_S: Final = 5.0
"""What `timeout_s=None` means, unless a driver was told otherwise. Longer than an election of
etcd (etcd.md R4)."""
OWN_LEASE: Final = -1
"""As `Put.lease`: the lease of this broker's session, which whoever runs the core puts in its
place. Without a session the commit fails with LeaseGoneError."""

Target = Literal["create", "mod", "version", "lease", "value"]
Operator = Literal["==", "!=", "<", ">"]
Ordered = TypeVar("Ordered", int, bytes)


class StoreError(ZmqmqError):
    """The metadata store did not do what it was asked."""


class UnavailableError(StoreError):
    """It cannot answer now. Nothing was applied; the same call may succeed later."""


class AmbiguousError(StoreError):
    """The commit was applied, or will be, or never. Read again to learn which."""


class CompactedError(StoreError):
    """The history that was asked for is gone; everything before `revision` is."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"the history before revision {revision} was compacted; list again")
        self.revision = revision


class LeaseGoneError(StoreError):
    """No such lease: it ran out or was revoked. Nothing was applied."""

    def __init__(self, lease: int) -> None:
        super().__init__(f"lease {lease} ran out or was revoked")
        self.lease = lease


class TooLargeError(StoreError):
    """A key, a value or a commit has too many bytes. Nothing was sent."""


class UnauthorizedError(StoreError):
    """The store knows us and refuses, or refuses to know us, also after logging in again."""


class StoreClosedError(StoreError):
    """Used after close(), before open(), or after the store stopped for good."""


@dataclass(frozen=True, slots=True)
class KV:
    """A key as it stands after some revision."""

    key: bytes
    value: bytes
    create_revision: int
    """When it came into being. A key that is deleted and put again has a new one, so this number
    is an epoch: strictly increasing, unique."""
    mod_revision: int
    """When it was last put; in the event of a delete, when it was deleted."""
    version: int
    """How often it was put since it was created; 1 at first, 0 once deleted."""
    lease: int
    """The lease that will take it along, or 0."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What stood under a prefix at one revision."""

    revision: int
    """The items are as of here; to follow on, watch from `revision + 1`."""
    items: tuple[KV, ...]
    """Sorted by key."""


@dataclass(frozen=True, slots=True)
class Event:
    """One key was put or deleted."""

    type: Literal["put", "delete"]
    kv: KV
    """As it stands now; of a delete see `deleted`."""
    prev: KV | None
    """As it stood before, or None if it did not exist."""


@dataclass(frozen=True, slots=True)
class Batch:
    """All events of one revision under the watched prefix, in the order of the operations.

    Without events it is a mark of progress: everything up to `revision` has been delivered.
    """

    revision: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class If:
    """A condition of a commit. Of an absent key every number is 0, and no value compares."""

    key: bytes
    target: Target
    op: Operator
    value: int | bytes
    """Bytes for the target `value`, a number for all others."""


@dataclass(frozen=True, slots=True)
class Put:
    """Set a key. Its lease is replaced too: 0 detaches it from the one it had."""

    key: bytes
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key; nothing happens if it does not exist."""

    key: bytes


Op = Put | Delete


@dataclass(frozen=True, slots=True)
class Commit:
    """What became of a commit."""

    ok: bool
    """Whether all conditions held, and so all operations were applied."""
    revision: int
    """Where it was applied; if nothing changed, where the conditions were tested."""
    current: Mapping[bytes, KV | None]
    """If not ok: each key that a condition names, as it was when it was tested. Else empty."""


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """Which store answered."""

    backend: str
    version: str
    cluster_id: str
    """Another one under the same address means another history: revisions do not compare."""


class Session(Protocol):
    """One lease, renewed in the background until it is closed or lost.

    A broker has one. A lost one does not come back: begin again with a new session.
    """

    @property
    def id(self) -> int:
        """The lease, for `Put.lease`."""
        ...

    @property
    def ttl_s(self) -> float:
        """As granted, which may be more than was asked."""
        ...

    @property
    def deadline_s(self) -> float:
        """When the last acknowledged renewal was *sent*, plus the TTL (CLOCK_BOOTTIME)."""
        ...

    @property
    def alive(self) -> bool:
        """Whether it is not lost, and the deadline less `margin_s` has not passed."""
        ...

    @property
    def reason(self) -> str | None:
        """Why it was lost; None while it is not. Set once, at the latest at the deadline."""
        ...

    async def wait_lost(self) -> str:
        """Wait until it is lost or closed; return the reason."""
        ...

    async def close(self, *, revoke: bool = True) -> None:
        """Stop renewing. With `revoke` its keys are deleted now, otherwise when it runs out."""
        ...


class MetadataStore(Protocol):
    """A small, ordered, watchable map with leases. See the module for what holds of every call.

    `timeout_s` of None is the driver's default, usually TIMEOUT_S. Every method raises
    UnavailableError, UnauthorizedError and StoreClosedError besides what it names.
    """

    async def open(self) -> StoreInfo:
        """Connect. Once, before anything else."""
        ...

    async def get(self, key: bytes, *, timeout_s: float | None = None) -> KV | None:
        """The key as it is now, or None."""
        ...

    async def list(
        self,
        prefix: bytes,
        *,
        limit: int = 0,
        after: bytes | None = None,
        revision: int = 0,
        timeout_s: float | None = None,
    ) -> Snapshot:
        """What stands under a prefix, in the order of the keys; the empty prefix is everything.

        At most `limit` items (0: all) with keys beyond `after`. For the later pages name the
        revision of the first one; 0 is now. Raises CompactedError when that revision is gone,
        ValueError when it is yet to come.
        """
        ...

    async def commit(
        self, ops: Sequence[Op], ifs: Sequence[If] = (), *, timeout_s: float | None = None
    ) -> Commit:
        """Apply all operations at one revision if all conditions hold, else none.

        Raises ValueError and TooLargeError as `check_commit` does, LeaseGoneError when the
        conditions hold and a put names a lease that is gone, and AmbiguousError.
        """
        ...

    def watch(self, prefix: bytes, from_revision: int) -> AsyncIterator[Batch]:
        """Every event under the prefix from this revision on: in order, once, forever.

        A batch per revision; besides, marks of progress when revisions passed without such
        events (how soon is the driver's affair). Connection losses are mended unseen. A slow
        reader is waited for; nothing is dropped. Ends only by CompactedError (`from_revision`, or
        the place a slow reader has come to, lies before the compacted revision), by
        UnauthorizedError, by StoreClosedError, or when it is cancelled.
        """
        ...

    async def session(self, ttl_s: float, *, timeout_s: float | None = None) -> Session:
        """Grant a lease and keep it. When it is over, its keys go at one revision, in order.

        A lease survives a restart of the store, and then has its full TTL again.
        """
        ...

    async def compact(self, revision: int, *, timeout_s: float | None = None) -> None:
        """Forget the history before this revision; what stands is untouched.

        Raises CompactedError when that has been done already, ValueError for the future.
        """
        ...

    async def close(self) -> None:
        """End sessions (their leases run out), watches and calls. Again: nothing happens."""
        ...


def check_key(key: bytes) -> None:
    """Raise ValueError for an empty key, TooLargeError for one over KEY_BYTES_MAX."""
    if not key:
        raise ValueError("a key is empty")
    check_prefix(key)


def check_prefix(prefix: bytes) -> None:
    """Raise TooLargeError for a prefix over KEY_BYTES_MAX."""
    if len(prefix) > KEY_BYTES_MAX:
        raise TooLargeError(f"key has {len(prefix)} bytes; the most is {KEY_BYTES_MAX}")


def check_commit(ops: Sequence[Op], ifs: Sequence[If]) -> None:
    """Refuse, before any I/O, what no store takes.

    Raises ValueError for a key twice among the operations, too many operations or conditions,
    an empty key, a lease beyond 63 bits, and a condition that compares a number with bytes.
    Raises TooLargeError for a key, a value or a sum of bytes over its bound.
    """
    for count, things in ((len(ops), "operations"), (len(ifs), "conditions")):
        if count > OPERATIONS_MAX:
            raise ValueError(f"a commit has {count} {things}; the most is {OPERATIONS_MAX}")
    keys = set()
    total_bytes = 0
    for op in ops:
        check_key(op.key)
        if op.key in keys:
            raise ValueError(f"key {op.key!r} is twice in one commit")
        keys.add(op.key)
        total_bytes += len(op.key)
        if isinstance(op, Put):
            if not 0 <= op.lease < 2**63:
                raise ValueError(f"key {op.key!r} has lease {op.lease}")
            _check_value(op.key, op.value)
            total_bytes += len(op.value)
    for condition in ifs:
        check_key(condition.key)
        total_bytes += len(condition.key)
        if isinstance(condition.value, bytes) != (condition.target == "value"):
            raise ValueError(
                f"condition on {condition.key!r} compares {condition.target} "
                f"with {type(condition.value).__name__}"
            )
        if isinstance(condition.value, bytes):
            _check_value(condition.key, condition.value)
            total_bytes += len(condition.value)
    if total_bytes > COMMIT_BYTES_MAX:
        raise TooLargeError(f"commit has {total_bytes} bytes; the most is {COMMIT_BYTES_MAX}")


def _check_value(key: bytes, value: bytes) -> None:
    if len(value) > VALUE_BYTES_MAX:
        raise TooLargeError(
            f"value of {key!r} has {len(value)} bytes; the most is {VALUE_BYTES_MAX}"
        )


def holds(condition: If, current: KV | None) -> bool:
    """Whether a condition is true of a key as it stands.

    A value of an absent key compares false with everything, also with `!=` (etcd.md R5).
    """
    if isinstance(condition.value, bytes):
        return current is not None and _compare(current.value, condition.op, condition.value)
    assert condition.target != "value", "check_commit lets no number be compared with a value"
    number = 0 if current is None else _number(current, condition.target)
    return _compare(number, condition.op, condition.value)


def _number(current: KV, target: Literal["create", "mod", "version", "lease"]) -> int:
    match target:
        case "create":
            return current.create_revision
        case "mod":
            return current.mod_revision
        case "version":
            return current.version
        case "lease":
            return current.lease


def _compare(left: Ordered, op: Operator, right: Ordered) -> bool:
    match op:
        case "==":
            return left == right
        case "!=":
            return left != right
        case "<":
            return left < right
        case ">":
            return left > right


def deleted(key: bytes, revision: int) -> KV:
    """A key in the event of its delete: no value, all zero but the revision."""
    return KV(key, b"", 0, revision, 0, 0)


def prefix_end(prefix: bytes) -> bytes | None:
    """The least key behind all that begin with the prefix; None if there is none.

    It is the prefix with its last byte one higher. `prefix + b"\\xff"` would leave out keys.
    """
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None


def margin_s(ttl_s: float) -> float:
    """How long before its deadline a session no longer calls itself alive (etcd.md R10)."""
    return max(0.1 * ttl_s, min(0.5, 0.25 * ttl_s))
