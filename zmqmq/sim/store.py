"""A metadata store that nodes reach over the network, and everything it may do to them.

It stands for a cluster of etcd's and is never wrong, but it may be slow, away, or silent about
what it did. What it may do within core/meta/store.py:

1. A commit whose answer is lost was applied, is applied later under the conditions of then, or
   never: the caller gets AmbiguousError either way (R2).
2. A lease lives for its TTL after the last renewal arrived, and often longer: its end comes late,
   there is none during an outage, and after one each lease has its whole time again (R8).
3. Any lease may end early, also all at once (R9, etcd #15247).
4. Watches lag, each by itself. A stream that breaks goes on where it stopped, unless that was
   compacted meanwhile (R25).

Calls of one node may overtake each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from zmqmq.core.meta.store import (
    Batch,
    Commit,
    If,
    LeaseGoneError,
    Op,
    Snapshot,
    StoreError,
    UnavailableError,
)
from zmqmq.sim.chance import Chance, happens
from zmqmq.sim.keyspace import Keyspace
from zmqmq.sim.loop import Loop
from zmqmq.sim.network import Network
from zmqmq.sim.node import MS, SECOND, Node
from zmqmq.sim.store_client import Call, StoreClient, Watch
from zmqmq.sim.trace import Trace

NAME: Final = "store"
"""The store's machine, for faults of the network."""
SERVICE_NS: Final = (300_000, 3 * MS)
ELECTION_NS: Final = (SECOND, 2 * SECOND)
"""What a new leader adds to the time of every lease."""
EXPIRY_NS: Final = 500 * MS
"""At most so late a lease ends."""
APPLIED_LATE_NS: Final = 8 * SECOND
BREAKS_PARTS: Final = 500_000
"""How many watches break with the leader."""


class _Lease:
    __slots__ = ("deadline", "number", "owner", "ttl")

    def __init__(self, number: int, owner: str, ttl: int, deadline: int) -> None:
        self.number = number
        self.owner = owner
        self.ttl = ttl
        self.deadline = deadline


class Store:
    """The store; `client` is how nodes get at it."""

    def __init__(self, loop: Loop, chance: Chance, trace: Trace, network: Network) -> None:
        self.keys = Keyspace()
        """What is in it, for who checks the simulation; nodes ask their client."""
        self.ambiguity = 0
        """Of a million commits so many lose their answer, and perhaps more than that."""
        self.rarely: Counter[str] = Counter()
        """What became of those."""
        self._loop = loop
        self._chance = chance
        self._trace = trace
        self._network = network
        self._stream = chance.stream(NAME)
        self._clients: dict[str, StoreClient] = {}
        self._leases: dict[int, _Lease] = {}
        self._lease_numbers = 0
        self._watches: dict[Watch, None] = {}
        self._down_until = 0

    def client(self, node: Node) -> StoreClient:
        """The end of a node, for one life of it."""
        if node.name not in self._clients:
            node.on_crash.append(self._crashed)
        there = self._network.path(node.name, NAME)
        back = self._network.path(NAME, node.name)
        stream = self._chance.stream(f"{NAME}/{node.name}")
        client = self._clients[node.name] = StoreClient(self, node, there, back, stream)
        return client

    # Faults; those of the network concern the way to NAME

    def outage(self, until: int) -> None:
        """No leader until then: nothing is applied, some things are when it is over."""
        self._note(f"outage until {until}")
        self._down_until = max(self._down_until, until)
        self._loop.post(until, None, self._recover)
        for watch in list(self._watches):
            if happens(self._stream, BREAKS_PARTS):
                watch.break_off()

    def expire(self, owner: str | None = None) -> None:
        """The leases of a node, or all, are over before their time."""
        self._note(f"expires leases of {owner or 'all'}")
        for lease in list(self._leases.values()):
            if owner is None or lease.owner == owner:
                self._end(lease.number)

    def compact_now(self) -> None:
        """Forget all history but the last revision."""
        if self.keys.revision > self.keys.compacted:
            self._note(f"compacts {self.keys.revision}")
            self.keys.compact(self.keys.revision)

    def break_watches(self, owner: str) -> None:
        """The watches of a node lose their connections."""
        self._note(f"breaks watches of {owner}")
        for watch in list(self._watches):
            if watch.owner == owner:
                watch.break_off()

    def lag(self, owner: str, until: int) -> None:
        """The watches of a node bring nothing new until then."""
        self._note(f"lags for {owner} until {until}")
        if owner in self._clients:
            self._clients[owner].lags_until = until

    def has_lease(self, owner: str) -> bool:
        """Whether some lease of a node is there, also one that it has lost."""
        return any(lease.owner == owner for lease in self._leases.values())

    # What clients ask

    def serve(self, call: Call) -> None:
        """See Server."""
        if self._is_down:
            self._serve_without_leader(call)
            return
        delay = call.stream.randrange(*SERVICE_NS)
        is_silent = False
        if call.is_commit and self.ambiguity and happens(call.stream, self.ambiguity):
            match call.stream.randrange(3):
                case 0:
                    self.rarely["commit lost"] += 1
                    return
                case 1:
                    self.rarely["commit applied late"] += 1
                    delay += call.stream.randrange(APPLIED_LATE_NS)
                case _:
                    self.rarely["commit without answer"] += 1
                    is_silent = True
        self._loop.post(self._loop.now + delay, None, self._apply, call, is_silent)

    def commit(self, ops: Sequence[Op], ifs: Sequence[If]) -> Commit:
        """See Server."""
        before = self.keys.revision
        done = self.keys.commit(ops, ifs)
        self._publish(before)
        return done

    def list(self, prefix: bytes) -> Snapshot:
        """See Server."""
        return self.keys.list(prefix)

    def compact(self, revision: int) -> None:
        """See Server."""
        self.keys.compact(revision)

    def grant(self, owner: str, ttl_ns: int) -> int:
        """See Server."""
        number = self._lease_numbers = self._lease_numbers + 1
        lease = _Lease(number, owner, ttl_ns, self._loop.now + ttl_ns)
        self._leases[number] = lease
        self.keys.grant(number)
        self._look_again(lease)
        return number

    def renew(self, lease: int) -> None:
        """See Server."""
        found = self._leases.get(lease)
        if found is None:
            raise LeaseGoneError(lease)
        found.deadline = max(found.deadline, self._loop.now + found.ttl)

    def revoke(self, lease: int) -> None:
        """See Server."""
        if lease not in self._leases:
            raise LeaseGoneError(lease)
        self._end(lease)

    def attach(self, watch: Watch) -> Sequence[Batch]:
        """See Server."""
        if self._is_down:
            raise UnavailableError("no leader")
        missed = self.keys.batches(watch.prefix, watch.next_revision)
        self._watches[watch] = None
        return missed

    def detach(self, watch: Watch) -> None:
        """See Server."""
        self._watches.pop(watch, None)

    # What follows from it

    @property
    def _is_down(self) -> bool:
        return self._loop.now < self._down_until

    def _serve_without_leader(self, call: Call) -> None:
        match call.stream.randrange(3):
            case 0:
                call.answer(UnavailableError("the metadata store has no leader"))
            case 1:
                when = self._down_until + call.stream.randrange(*SERVICE_NS)
                self._loop.post(when, None, self._apply, call, False)  # noqa: FBT003
            case _:
                pass

    def _apply(self, call: Call, is_silent: bool) -> None:  # noqa: FBT001
        if self._is_down:
            self._serve_without_leader(call)
            return
        try:
            result = call.work()
        except StoreError as error:
            result = error
        if not is_silent:
            call.answer(result)

    def _recover(self) -> None:
        if self._is_down:
            return
        for lease in self._leases.values():
            lease.deadline = self._loop.now + lease.ttl + self._stream.randrange(*ELECTION_NS)

    def _look_again(self, lease: _Lease) -> None:
        when = lease.deadline + self._stream.randrange(EXPIRY_NS)
        self._loop.post(when, None, self._check, lease)

    def _check(self, lease: _Lease) -> None:
        if lease.number not in self._leases:
            return
        if self._is_down:
            self._loop.post(self._down_until + 1, None, self._check, lease)
        elif self._loop.now < lease.deadline:
            self._look_again(lease)
        else:
            self._end(lease.number)

    def _end(self, number: int) -> None:
        before = self.keys.revision
        lease = self._leases.pop(number)
        if self._trace.wants_lines:
            self._trace.line(self._loop.now, NAME, f"lease {number} of {lease.owner} is over")
        self.keys.end(number)
        self._publish(before)

    def _publish(self, before: int) -> None:
        """Tell the watches of the revision that came about, if one did."""
        revision = self.keys.revision
        if revision == before:
            return
        events = self.keys.events(revision)
        for event in events:
            self._trace.note(self._loop.now, event.kv.key + event.kv.value)
            if self._trace.wants_lines:
                what = f"{revision} {event.type} {event.kv.key!r} {event.kv.value[:200]!r}"
                self._trace.line(self._loop.now, NAME, what)
        for watch in list(self._watches):
            watch.push(revision, events)

    def _crashed(self, node: Node) -> None:
        for watch in list(self._watches):
            if watch.owner == node.name:
                watch.cancel()

    def _note(self, what: str) -> None:
        self._trace.event(self._loop.now, NAME, what)
