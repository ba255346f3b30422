"""Brokers that have only the machines of control, around a metadata store in memory.

Time stands still until `advance`; a commit is answered when the test says so, and an image moves
when the test says so, one revision at a time. `settle` does all of it until nothing is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tests.support.documents import TOPIC, live
from tests.support.memory_store import MemoryStore
from zmqmq.core.control.commits import Moment, Then
from zmqmq.core.control.controller import Controller
from zmqmq.core.control.elections import Report
from zmqmq.core.control.image import Change, Image
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import (
    OWN_LEASE,
    AmbiguousError,
    Commit,
    If,
    Op,
    Put,
    StoreError,
    UnavailableError,
    check_commit,
)
from zmqmq.core.meta.values import BrokerDocument, PartitionDocument, TopicDocument
from zmqmq.core.replication.vouching import Place
from zmqmq.model.topics import TopicConfig

KEYS = KeySpace.of_cluster("test")
SECOND = 10**9
UNCLEAN_WAIT_NS = 10 * SECOND


class Now(NamedTuple):
    ns: int


@dataclass
class Pending:
    """A commit that is under way."""

    ops: Sequence[Op]
    ifs: Sequence[If]
    then: Then


class Node:
    """One broker."""

    def __init__(self, world: World, broker_id: int) -> None:
        self.world = world
        self.broker_id = broker_id
        self.image = Image(KEYS, TopicConfig())
        self.pending: list[Pending] = []
        self.asked: list[tuple[Place, int, int]] = []
        """Reports that its controller wants: partition, broker, leader epoch."""
        self.lease = 0
        self.me: Member | None = None
        self.seen: list[Change] = []
        self.controller = Controller(
            broker_id, KEYS, self.image, self.begin, self.ask, UNCLEAN_WAIT_NS
        )

    def begin(self, ops: Sequence[Op], ifs: Sequence[If], then: Then) -> None:
        check_commit([replace(op, lease=0) if isinstance(op, Put) else op for op in ops], ifs)
        self.pending.append(Pending(ops, ifs, then))

    def ask(self, place: Place, broker_ids: Sequence[int], leader_epoch: int) -> None:
        self.asked += [(place, broker_id, leader_epoch) for broker_id in broker_ids]

    def register(self, since_fsync: int | None = None, since_clean: int | None = None) -> None:
        """A live key on a new lease; the own machine is told when the image shows it."""
        store = self.world.store
        self.lease += 1
        lease = self.broker_id * 1000 + self.lease
        store.leases.add(lease)
        key = KEYS.live(self.broker_id)
        document = live(since_fsync, since_clean)
        commit = store.commit([Put(key, document.encode(), lease)], [If(key, "create", "==", 0)])
        assert commit.ok
        self.me = Member(self.broker_id, commit.revision)
        self.controller.registered(self.world.now, self.me)

    def lose(self) -> None:
        """The lease is over: its keys go at one revision. Nobody tells this broker yet."""
        self.world.store.end_lease(self.broker_id * 1000 + self.lease)

    def flag(self, *, stops: bool) -> None:
        assert self.me is not None
        document = BrokerDocument(
            broker_epoch=self.me.broker_epoch, shutting_down=stops, cordoned=False
        )
        self.world.store.commit([Put(KEYS.broker(self.broker_id), document.encode())])

    def follow(self, revisions: int = 1_000_000) -> bool:
        """Bring the image forward; whether it has moved."""
        before = self.image.revision
        for batch in self.world.store.events(b"", before + 1)[:revisions]:
            changes = self.image.apply(batch)
            self.seen += changes
            self.controller.changed(self.world.now, changes)
        return self.image.revision > before

    def answer(self, outcome: str = "done", at: int = 0) -> None:
        """End a commit: `done`, `away` (nothing was done), or `lost` and `perhaps`: nobody is
        told whether it was done, and it was, or was not."""
        pending = self.pending.pop(at)
        result: Commit | StoreError = UnavailableError("away")
        if outcome in ("done", "lost"):
            result = self.world.apply(self, pending)
        if outcome in ("lost", "perhaps"):
            result = AmbiguousError("no answer")
        pending.then(self.world.now, result)


class World:
    """Brokers 1 to n, registered in order, each an image as of now."""

    def __init__(self, brokers: int = 3, *, registered: bool = True) -> None:
        self.store = MemoryStore()
        self.now: Moment = Now(0)
        self.nodes = {i: Node(self, i) for i in range(1, brokers + 1)}
        if registered:
            for node in self.nodes.values():
                node.register(since_fsync=0, since_clean=0)

    def __getitem__(self, broker_id: int) -> Node:
        return self.nodes[broker_id]

    def apply(self, node: Node, pending: Pending) -> Commit | StoreError:
        lease = node.broker_id * 1000 + node.lease
        ops = [
            replace(op, lease=lease) if isinstance(op, Put) and op.lease == OWN_LEASE else op
            for op in pending.ops
        ]
        try:
            return self.store.commit(ops, pending.ifs)
        except StoreError as error:
            return error

    def advance(self, ns: int) -> None:
        """Time goes by, for all controllers."""
        self.now = Now(self.now.ns + ns)
        for node in self.nodes.values():
            node.controller.tick(self.now)

    def settle(self) -> None:
        """Everything that is under way ends well, until nothing is left."""
        for _ in range(10_000):
            is_busy = False
            for node in self.nodes.values():
                is_busy |= node.follow()
                while node.pending:
                    is_busy = True
                    node.answer()
            if not is_busy:
                return
        raise AssertionError("this goes on for ever")

    def settle_for(self, seconds: int) -> None:
        for _ in range(seconds * 4):
            self.settle()
            self.advance(SECOND // 4)
        self.settle()

    def topic(self, *partitions: PartitionDocument, **others: Any) -> None:
        """The topic, whole and ready."""
        ops: list[Op] = [topic_put(partitions=len(partitions), **others)]
        for number, document in enumerate(partitions):
            ops.append(Put(KEYS.partition(TOPIC, number), document.encode()))
        for at in range(0, len(ops), 100):
            self.store.commit(ops[at : at + 100])

    def member(self, broker_id: int) -> Member:
        me = self[broker_id].me
        assert me is not None
        return me

    def document(self, number: int = 0) -> PartitionDocument:
        return PartitionDocument.decode(self.store.now[KEYS.partition(TOPIC, number)].value)

    def write(self, number: int = 0, **fields: Any) -> None:
        """A leader's write, or an operator's."""
        document = replace(self.document(number), **fields)
        self.store.commit([Put(KEYS.partition(TOPIC, number), document.encode())])

    def report(self, to: int, report: Report) -> None:
        self[to].controller.handle_report(self.now, report)

    @property
    def active(self) -> list[int]:
        return [i for i, node in self.nodes.items() if node.controller.is_active]


def topic_put(**fields: Any) -> Put:
    document: dict[str, Any] = {
        "name": "t",
        "topic_id": TOPIC,
        "partitions": 1,
        "replicas": 3,
        "config": {},
        "state": "ready",
    }
    topic = TopicDocument(**{**document, **fields})
    return Put(KEYS.topic(topic.topic_id), topic.encode())
