"""Copies of one partition on several brokers: real logs on simulated disks, a real metadata store's
semantics, and messages that the test delivers, holds back, repeats or loses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from tests.support.memory_store import MemoryStore
from zmqmq.batch.decode import check_batch
from zmqmq.batch.encode import encode_batch
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import Commit, Delete, Put, StoreError
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.core.replication import follower_session
from zmqmq.core.replication.fetcher import Fetcher, Reply, Taken
from zmqmq.core.replication.follower import Follower
from zmqmq.core.replication.follower_session import FollowerSession, FollowerSessions
from zmqmq.core.replication.partition import Partition
from zmqmq.core.replication.proposals import Brokers, Proposal
from zmqmq.core.replication.vouching import Registration
from zmqmq.core.storage.log import LOGS_FOLDER, Log, LogKey
from zmqmq.core.storage.options import StorageOptions
from zmqmq.core.storage.reading import read
from zmqmq.core.storage.recovery import open_log
from zmqmq.core.storage.truncation import cut
from zmqmq.model.limits import MIB
from zmqmq.model.topics import TopicConfig
from zmqmq.sim.disk import SimDisk
from zmqmq.wire.peers import Answer, PeerCode

KEY = LogKey(bytes(range(16)), 3)
PLACE = (KEY.topic_id, KEY.partition)
KEYS = KeySpace.of_cluster("c")
OPTIONS = StorageOptions(index_interval_bytes=512, allocate_bytes=4096, free_bytes_min=0)
MS = 10**6
S = 10**9
SENDER = ("cluster", "broker", "epoch")


def lone_document(me: Member, epoch: int = 1, **changes: Any) -> PartitionDocument:
    """Of a partition with one replica."""
    fields: dict[str, Any] = {
        "replicas": (me.broker_id,),
        "adding": (),
        "removing": (),
        "leader": me,
        "leader_epoch": epoch,
        "isr": (me,),
        "elr": (),
        "last_leader": None,
        "min_isr": 1,
        "recovering": False,
        "rec": 0,
        "write_id": "",
        "flush": "fsync",
    }
    return PartitionDocument(**{**fields, **changes})


def lone_partition(log: Log, epoch: int = 1, topic: str = "t") -> Partition:
    """The leader of a partition with one replica, at the beginning of a leader epoch."""
    me = Member(1, 1)
    document = lone_document(me, epoch, flush=log.config.flush)
    return Partition(topic, log, document, 1, me, log.flushed_end, 0)


@dataclass(frozen=True)
class Asked:
    """A request on its way."""

    sender: int
    correlation: int
    request: follower_session.Request


class Broker:
    """One copy, its role, and the two ends of its sessions."""

    def __init__(self, broker_id: int, epoch: int, config: TopicConfig) -> None:
        self.id = broker_id
        self.epoch = epoch
        self.disk = SimDisk()
        self.disk.make_directory(LOGS_FOLDER)
        self.log = open_log(self.disk, KEY, config, OPTIONS)
        self.sessions = FollowerSessions(epoch)
        self.fetchers: dict[int, Fetcher] = {}
        self.role: Partition | Follower | None = None
        self.high_watermark = 0
        self.flush()

    @property
    def me(self) -> Member:
        return Member(self.id, self.epoch)

    @property
    def fetcher(self) -> Fetcher:
        """Of the broker that leads, as far as this one knows."""
        leader = self.following.leader.broker_id
        fetcher = self.fetchers.get(leader)
        if fetcher is None:
            fetcher = self.fetchers[leader] = Fetcher(self.me)
            fetcher.link(is_up=True)
        return fetcher

    @property
    def leading(self) -> Partition:
        assert isinstance(self.role, Partition)
        return self.role

    @property
    def following(self) -> Follower:
        assert isinstance(self.role, Follower)
        return self.role

    @property
    def values(self) -> list[tuple[int, int]]:
        """(leader epoch, base offset) of each batch."""
        log, found = self.log, []
        offset = log.start_offset
        while offset < log.written_end:
            data = memoryview(read(log, offset, MIB, log.written_end))
            at = 0
            while at < len(data):
                header = check_batch(data, at, log.seed)
                found.append((header.leader_epoch, header.base_offset))
                at += header.size
                offset = header.next_offset
        return found

    def flush(self) -> None:
        self.log.write_out()
        self.log.end_flush(self.log.begin_flush())
        self.touched()

    def write_out(self) -> None:
        self.log.write_out()
        self.touched()

    def touched(self) -> None:
        if isinstance(self.role, Partition):
            self.role.advance()
        elif self.role is not None:
            self.fetcher.touch(PLACE)

    def send(self, *values: bytes, acks: int = -1) -> None:
        """As the leader, append a batch and write it out; flush if that is the mode."""
        batch = encode_batch(KEY.seed, list(values) or [b"v"], timestamp_ms=1)
        self.leading.append(1_000, batch, acks)
        self.write_out()
        self.sessions.mark(PLACE)

    def cut(self) -> None:
        """Do what the follower wants done to its log."""
        follower = self.following
        assert follower.cut is not None
        assert not follower.cut.needs_state
        cut(self.log, follower.cut.to)
        follower.was_cut(self.log)
        self.fetcher.touch(PLACE)


class Cluster:
    """Three brokers, unless said otherwise; the first one leads. All have nothing."""

    def __init__(self, count: int = 3, *, isr: Iterable[int] | None = None, **changes: Any) -> None:
        flush = changes.setdefault("flush", "fsync")
        self.store = MemoryStore()
        self.now_ns = 10 * S
        self.brokers: dict[int, Broker] = {}
        self.shutting_down: dict[int, None] = {}
        for broker_id in range(1, count + 1):
            self.register(broker_id)
            config = TopicConfig(flush=flush)
            self.brokers[broker_id] = Broker(broker_id, self.live_epoch(broker_id), config)
        me = self.brokers[1].me
        document = lone_document(
            me,
            **{
                "replicas": tuple(self.brokers),
                "isr": tuple(self.brokers[i].me for i in isr or self.brokers),
                "min_isr": max(count - 1, 1),
                **changes,
            },
        )
        self.write(document)

    # The store

    def register(self, broker_id: int) -> None:
        key = KEYS.live(broker_id)
        if self.store.now.get(key):
            self.store.commit([Delete(key)])
        self.store.commit([Put(key, b"")])

    def live_epoch(self, broker_id: int) -> int:
        kv = self.store.now.get(KEYS.live(broker_id))
        return kv.create_revision if kv else 0

    @property
    def known(self) -> tuple[PartitionDocument, int]:
        kv = self.store.now[KEYS.partition(*PLACE)]
        return PartitionDocument.decode(kv.value), kv.mod_revision

    @property
    def document(self) -> PartitionDocument:
        return self.known[0]

    @property
    def isr(self) -> list[int]:
        return [member.broker_id for member in self.document.isr]

    def write(self, document: PartitionDocument, *see: int) -> None:
        """Put a document, and let these brokers see it; all, if none is named."""
        self.store.commit([Put(KEYS.partition(*PLACE), document.encode())])
        for broker_id in see or self.brokers:
            self.see(broker_id)

    def change(self, *see: int, **changes: Any) -> None:
        self.write(replace(self.document, **changes), *see)

    def elect(self, broker_id: int, *see: int, **changes: Any) -> None:
        leader = self.brokers[broker_id].me
        epoch = self.document.leader_epoch + 1
        self.change(*see, leader=leader, leader_epoch=epoch, **changes)

    def see(self, broker_id: int) -> None:
        """Give a broker the role that the document says."""
        broker = self.brokers[broker_id]
        document, revision = self.known
        role = broker.role
        if role is not None and role.epoch == document.leader_epoch:
            if isinstance(role, Partition):
                role.changed(document, revision)
                role.advance()
            else:
                role.changed(document)
            return
        if role is not None:
            broker.high_watermark = role.high_watermark
        for fetcher in broker.fetchers.values():
            fetcher.drop(PLACE)
        broker.role = None
        if document.leader == broker.me:
            high_watermark = broker.high_watermark
            broker.role = Partition(
                "t", broker.log, document, revision, broker.me, high_watermark, self.now_ns
            )
            broker.role.advance()
            for session in broker.sessions.mark(PLACE):
                broker.role.fetched(self.now_ns, session)
        elif document.leader is not None:
            broker.role = Follower(broker.log, document, document.leader, broker.high_watermark)
            broker.fetcher.follow(broker.role)

    # ISR changes

    def brokers_known(self) -> Brokers:
        epochs = {i: self.live_epoch(i) for i in self.brokers}
        return Brokers(
            {i: Registration(e, 0, 0, {}) for i, e in epochs.items() if e}, self.shutting_down
        )

    def propose(self, leader: int) -> Proposal | None:
        partition = self.brokers[leader].leading
        proposal = partition.next_proposal(self.now_ns, self.brokers_known(), KEYS)
        partition.advance()
        return proposal

    def commit(self, proposal: Proposal) -> Commit:
        return self.store.commit(proposal.ops, proposal.ifs)

    def ended(self, leader: int, outcome: Commit | StoreError) -> None:
        partition = self.brokers[leader].leading
        partition.proposal_ended(self.now_ns, outcome)
        partition.advance()

    def settle_isr(self, leader: int) -> None:
        """Let the leader change what it wants, until it wants nothing more."""
        for _ in range(10):
            proposal = self.propose(leader)
            if proposal is None:
                return
            self.ended(leader, self.commit(proposal))
        raise AssertionError("the leader never stops to change the document")

    # Fetches

    _correlations = count(1)

    def ask(self, follower: int, leader: int = 0) -> Asked:
        """A request of a follower to its leader, or to who led before, on its way."""
        broker = self.brokers[follower]
        fetcher = broker.fetchers[leader] if leader else broker.fetcher
        correlation = next(self._correlations)
        made = fetcher.next_request(self.now_ns, correlation)
        assert made is not None, "the follower has nothing to ask now"
        request = follower_session.Request(
            broker.me,
            made.session,
            made.run,
            made.sequence,
            made.echo,
            made.partitions,
            made.forget,
        )
        return Asked(follower, correlation, request)

    def answer(self, leader: int, asked: Asked, max_bytes: int = MIB) -> tuple[Reply, list[Any]]:
        """What the leader replies, at once."""
        broker = self.brokers[leader]
        sessions = broker.sessions
        sender = asked.request.sender
        try:
            session = sessions.receive(self.now_ns, asked.request)
        except follower_session.SessionRefusedError as error:
            return Reply(sender.broker_epoch, error.code, 0, 0, 0, []), []
        answers: list[Answer] = []
        bodies: list[Any] = []
        has_news = PLACE in session.due or PLACE in session.news
        if has_news and isinstance(broker.role, Partition):
            self._answer_one(broker.role, session, answers, bodies, max_bytes)
        reply = Reply(
            sender.broker_epoch, 0, session.number, sessions.run, sessions.next_stamp(), answers
        )
        return reply, bodies

    def _answer_one(
        self,
        partition: Partition,
        session: FollowerSession,
        answers: list[Answer],
        bodies: list[Any],
        max_bytes: int,
    ) -> None:
        listed, log = session.entries[PLACE], partition.log
        refused = partition.fetched(self.now_ns, session)
        before = partition.high_watermark
        if partition.advance() and before != partition.high_watermark:
            for broker in self.brokers.values():
                broker.sessions.mark_news(PLACE)
        head = (*PLACE, listed.leader_epoch, listed.written)
        if refused is not None:
            answers.append(Answer(*head, refused.code, refused.x, refused.y))
            session.due.pop(PLACE, None)
            return
        size = 0
        if listed.written < log.written_end:
            body = read(log, listed.written, max_bytes, log.written_end)
            size = len(body)
            bodies.append(bytes(body))
        told = (partition.high_watermark, log.start_offset)
        session.note_told(PLACE, *told)
        answers.append(Answer(*head, PeerCode.NONE, *told, size))

    def deliver(self, asked: Asked, reply: Reply, bodies: list[Any]) -> list[Taken]:
        broker = self.brokers[asked.sender]
        return broker.fetcher.take(self.now_ns, asked.correlation, reply, bodies)

    def fetch(
        self, follower: int, times: int = 1, *, flush: bool = True, max_bytes: int = MIB
    ) -> None:
        """Ask, be answered, write and flush what came, and cut what has parted."""
        broker = self.brokers[follower]
        for _ in range(times):
            self.now_ns += MS
            leader = broker.following.leader.broker_id
            asked = self.ask(follower)
            for taken in self.deliver(asked, *self.answer(leader, asked, max_bytes)):
                assert taken.error is None, taken.error
            broker.write_out()
            if flush:
                broker.flush()
            if broker.following.cut is not None:
                broker.cut()
