"""A node's end of the metadata store: calls with time-outs, a session, watches.

It owes the node what a driver of core/meta/store.py owes, with callbacks in the place of
coroutines: none is called from within a call, none after the node has died.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from zmqmq.core.meta.store import (
    OWN_LEASE,
    AmbiguousError,
    Batch,
    Commit,
    CompactedError,
    Event,
    If,
    LeaseGoneError,
    Op,
    Put,
    Snapshot,
    StoreError,
    UnavailableError,
    check_commit,
    check_prefix,
)
from zmqmq.sim.chance import Stream, happens
from zmqmq.sim.links import Path
from zmqmq.sim.loop import Loop, Timer
from zmqmq.sim.node import MS, SECOND, Node

TIMEOUT_NS: Final = 5 * SECOND
KNOWN_BROKEN_PARTS: Final = 500_000
"""How often a call finds the connection known to be broken if it is: a definite *no*."""
PURSUED_PARTS: Final = 500_000
"""How often what is asked goes on its way although nobody waits for the answer any more."""
AGAIN_NS: Final = (10 * MS, SECOND)
"""Until a broken watch connects again."""
PROGRESS_PARTS: Final = 250_000
"""How often a watch is told of a revision at which nothing happened under its prefix."""
Then = Callable[[Any], object]


class Server(Protocol):
    """The store, as its clients' ends know it."""

    def serve(self, call: Call) -> None:
        """Something was asked. `call.answer` when it is done, if ever."""

    def commit(self, ops: Sequence[Op], ifs: Sequence[If]) -> Commit:
        """Carry out a commit."""

    def list(self, prefix: bytes) -> Snapshot:
        """Read."""

    def compact(self, revision: int) -> None:
        """Forget history."""

    def grant(self, owner: str, ttl_ns: int) -> int:
        """Make a lease."""

    def renew(self, lease: int) -> None:
        """Give a lease its whole time again."""

    def revoke(self, lease: int) -> None:
        """End a lease."""

    def attach(self, watch: Watch) -> Sequence[Batch]:
        """Push to this watch from now on; what it has missed."""

    def detach(self, watch: Watch) -> None:
        """Push no more."""


class Call:
    """Something that was asked of the store."""

    __slots__ = ("_client", "_life", "_then", "_timer", "is_commit", "is_over", "stream", "work")

    def __init__(
        self, client: StoreClient, work: Callable[[], object], then: Then, *, is_commit: bool
    ) -> None:
        self.work = work
        """What the store is to do; returns or raises the answer."""
        self.is_commit = is_commit
        self.is_over = False
        self.stream = client.stream
        self._client = client
        self._life = client.node.life
        self._then = then
        self._timer: Timer | None = None

    def start(self, timeout: int) -> None:
        """Send it off."""
        client, loop = self._client, self._client.loop
        if client.there.is_blocked and happens(self.stream, KNOWN_BROKEN_PARTS):
            error = UnavailableError("no connection to the metadata store")
            when = loop.now + self.stream.randrange(timeout)
            loop.post(when, client.node, self._finish, error)
            return
        self._timer = loop.call_at(loop.now + timeout, client.node, self._time_out, timeout)
        loop.post(loop.now + client.there.delay(), None, self._arrive)

    def answer(self, result: object) -> None:
        """The store's answer sets out."""
        client = self._client
        when = client.loop.now + client.back.delay()
        client.loop.post(when, None, self._come_back, result)

    def _arrive(self) -> None:
        client = self._client
        if client.there.is_blocked:
            client.there.when_open(None, self._arrive)
            return
        is_awaited = not self.is_over and self._life == client.node.life
        if is_awaited or happens(self.stream, PURSUED_PARTS):
            client.server.serve(self)

    def _come_back(self, result: object) -> None:
        client = self._client
        if client.back.is_blocked:
            client.back.when_open(None, self._come_back, result)
        elif self._life == client.node.life:
            client.node.call_soon(self._finish, result)

    def _time_out(self, timeout: int) -> None:
        what = f"the metadata store did not answer within {timeout // MS} ms"
        self._finish(AmbiguousError(what) if self.is_commit else UnavailableError(what))

    def _finish(self, result: object) -> None:
        if not self.is_over:
            self.is_over = True
            if self._timer is not None:
                self._timer.cancel()
            self._then(result)


class Watch:
    """A stream of what happens under a prefix; breaks and mends unseen."""

    __slots__ = (
        "_client",
        "_connection",
        "_is_over",
        "_last",
        "_life",
        "_next",
        "_on_batch",
        "_on_end",
        "prefix",
    )

    def __init__(
        self,
        client: StoreClient,
        prefix: bytes,
        from_revision: int,
        on_batch: Callable[[Batch], object],
        on_end: Callable[[StoreError], object],
    ) -> None:
        self.prefix = prefix
        self._client = client
        self._life = client.node.life
        self._next = from_revision
        self._on_batch = on_batch
        self._on_end = on_end
        self._connection = 0
        """Counts them: what an earlier one brought is not for us."""
        self._last = 0
        self._is_over = False
        self._connect(0)

    @property
    def owner(self) -> str:
        """Whose it is."""
        return self._client.node.name

    @property
    def next_revision(self) -> int:
        """Up to here everything was delivered."""
        return self._next

    def cancel(self) -> None:
        """No more calls."""
        self._is_over = True
        self._client.server.detach(self)

    def push(self, revision: int, events: Sequence[Event]) -> None:
        """From the store: this happened."""
        client = self._client
        here = tuple(event for event in events if event.kv.key.startswith(self.prefix))
        if revision < self._next or not (here or happens(client.stream, PROGRESS_PARTS)):
            return
        when = max(self._last + 1, client.loop.now + client.back.delay(), client.lags_until)
        self._last = when
        batch = Batch(revision, here)
        client.loop.post(when, client.node, self._arrive, self._connection, batch)

    def break_off(self) -> None:
        """What is under way is lost; connect again after a while."""
        client = self._client
        client.server.detach(self)
        if not self._is_over:
            self._connect(client.stream.randrange(*AGAIN_NS))

    def _connect(self, wait: int) -> None:
        client = self._client
        self._connection += 1
        when = client.loop.now + wait + client.there.delay()
        client.loop.post(when, client.node, self._open, self._connection)

    def _open(self, connection: int) -> None:
        client = self._client
        if not self._is_current(connection):
            return
        if client.there.is_blocked or client.back.is_blocked:
            self.break_off()
            return
        try:
            missed = client.server.attach(self)
        except UnavailableError:
            self.break_off()
        except CompactedError as error:
            when = client.loop.now + client.back.delay()
            client.loop.post(when, client.node, self._end, connection, error)
        else:
            for batch in missed:
                self.push(batch.revision, batch.events)

    def _arrive(self, connection: int, batch: Batch) -> None:
        if not self._is_current(connection):
            return
        if self._client.back.is_blocked:
            self.break_off()
            return
        self._next = batch.revision + 1
        self._on_batch(batch)

    def _end(self, connection: int, error: StoreError) -> None:
        if self._is_current(connection):
            self._is_over = True
            self._on_end(error)

    def _is_current(self, connection: int) -> bool:
        is_alive = self._life == self._client.node.life
        return is_alive and not self._is_over and connection == self._connection


class Session:
    """A lease, renewed every third of its TTL until it is lost or revoked."""

    __slots__ = ("_client", "_is_over", "_on_lost", "_ttl", "deadline_ns", "lease")

    def __init__(
        self,
        client: StoreClient,
        ttl_ns: int,
        on_started: Callable[[int], object],
        on_lost: Callable[[str], object],
    ) -> None:
        self.lease = 0
        """0 until it is granted."""
        self.deadline_ns = 0
        """On the node's monotonic clock: the TTL after the last renewal that was acknowledged
        was *sent* (R10)."""
        self._client = client
        self._ttl = ttl_ns
        self._on_lost = on_lost
        self._is_over = False
        sent = client.node.monotonic_ns()

        def granted(result: int | StoreError) -> None:
            if isinstance(result, StoreError):
                self._lose(f"no lease was granted: {result}")
            elif not self._is_over:
                self.lease = result
                self.deadline_ns = sent + ttl_ns
                on_started(result)
                self._watch_deadline()
                self._renew_in(ttl_ns // 3)

        client.call(lambda: client.server.grant(client.node.name, ttl_ns), granted)

    @property
    def is_alive(self) -> bool:
        """Whether it was granted and neither lost nor given back."""
        return self.lease != 0 and not self._is_over

    def revoke(self) -> None:
        """Give it back: its keys go, soon or when it has run out. `on_lost` is not called."""
        if self.is_alive:
            self._client.call(lambda: self._client.server.revoke(self.lease), lambda _: None)
        self._is_over = True

    def _renew_in(self, wait: int) -> None:
        node = self._client.node
        node.call_at(node.monotonic_ns() + wait, self._renew)

    def _renew(self) -> None:
        if self._is_over:
            return
        client = self._client
        sent = client.node.monotonic_ns()

        def renewed(result: StoreError | None) -> None:
            if isinstance(result, LeaseGoneError):
                self._lose(str(result))
            elif result is None:
                self.deadline_ns = max(self.deadline_ns, sent + self._ttl)
                self._renew_in(self._ttl // 3)
            else:
                self._renew_in(self._ttl // 12)

        client.call(lambda: client.server.renew(self.lease), renewed, self._ttl // 6)

    def _watch_deadline(self) -> None:
        node = self._client.node
        if self._is_over:
            return
        if node.monotonic_ns() >= self.deadline_ns:
            self._lose(f"not renewed within {self._ttl // MS} ms")
        else:
            node.call_at(self.deadline_ns, self._watch_deadline)

    def _lose(self, reason: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._on_lost(reason)


class StoreClient:
    """What one life of a node has of the store."""

    __slots__ = ("back", "lags_until", "loop", "node", "own", "server", "stream", "there")

    def __init__(self, server: Server, node: Node, there: Path, back: Path, stream: Stream) -> None:
        self.server = server
        self.node = node
        self.loop: Loop = node.loop
        self.there = there
        self.back = back
        self.stream = stream
        self.own: Session | None = None
        """The session whose lease OWN_LEASE stands for."""
        self.lags_until = 0
        """Watches bring nothing before then."""

    def commit(
        self,
        ops: Sequence[Op],
        ifs: Sequence[If],
        then: Callable[[Commit | StoreError], object],
        timeout: int = TIMEOUT_NS,
    ) -> None:
        """Apply all operations if all conditions hold. A lease of OWN_LEASE is the session's."""
        own = self.own.lease if self.own is not None and self.own.is_alive else 0
        sent: list[Op] = []
        for op in ops:
            if isinstance(op, Put) and op.lease == OWN_LEASE:
                if not own:
                    self.node.call_soon(then, LeaseGoneError(OWN_LEASE))
                    return
                sent.append(Put(op.key, op.value, own))
            else:
                sent.append(op)
        check_commit(sent, ifs)
        self.call(lambda: self.server.commit(sent, ifs), then, timeout, is_commit=True)

    def list(self, prefix: bytes, then: Callable[[Snapshot | StoreError], object]) -> None:
        """What stands under a prefix, as it is at some time between this call and the answer."""
        check_prefix(prefix)
        self.call(lambda: self.server.list(prefix), then)

    def compact(self, revision: int, then: Callable[[StoreError | None], object]) -> None:
        """Forget the history before this revision."""
        self.call(lambda: self.server.compact(revision), then)

    def watch(
        self,
        prefix: bytes,
        from_revision: int,
        on_batch: Callable[[Batch], object],
        on_end: Callable[[StoreError], object],
    ) -> Watch:
        """Follow what happens from this revision on. Only CompactedError ends it."""
        check_prefix(prefix)
        return Watch(self, prefix, from_revision, on_batch, on_end)

    def session(
        self, ttl_ns: int, on_started: Callable[[int], object], on_lost: Callable[[str], object]
    ) -> Session:
        """Get a lease and keep it. `on_lost` is called once, also when none is granted."""
        assert self.own is None or not self.own.is_alive, "a node has one session"
        self.own = Session(self, ttl_ns, on_started, on_lost)
        return self.own

    def call(
        self,
        work: Callable[[], object],
        then: Then,
        timeout: int = TIMEOUT_NS,
        *,
        is_commit: bool = False,
    ) -> None:
        """Ask the store for anything."""
        Call(self, work, then, is_commit=is_commit).start(timeout)
