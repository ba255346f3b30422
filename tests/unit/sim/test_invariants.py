"""Each invariant of the simulation fires when a running cluster is broken on purpose, and none does
otherwise: a check that cannot fail proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import pytest

from zmqmq.batch.layout import BODY_CRC_AT, stamp, unpack_header
from zmqmq.core.broker.replica import Replica
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.store import Delete, Put
from zmqmq.core.meta.values import PartitionDocument, TopicNameDocument
from zmqmq.core.replication.follower import Follower
from zmqmq.core.replication.isr import Isr
from zmqmq.core.replication.partition import Partition
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import Log
from zmqmq.core.storage.producers import ProducerTable
from zmqmq.core.storage.truncation import cut
from zmqmq.sim.broker_host import KEYS, BrokerHost, HostOptions
from zmqmq.sim.cluster import Cluster, ClusterOptions
from zmqmq.sim.committed import Committed
from zmqmq.sim.disk import SimFile
from zmqmq.sim.documents import Documents
from zmqmq.sim.invariants import Invariants
from zmqmq.sim.links import Weather
from zmqmq.sim.node import MS, SECOND
from zmqmq.sim.observed import Batch, Lineage, Shadow
from zmqmq.sim.trace import Trace
from zmqmq.sim.violation import InvariantError
from zmqmq.sim.workloads.base import SimClient
from zmqmq.sim.workloads.consume import ConsumingClient
from zmqmq.sim.workloads.produce import ProducingClient
from zmqmq.sim.workloads.settle import FoundingClient


class Play:
    """A cluster of three brokers with one partition on all of them, and clients that use it."""

    def __init__(
        self,
        seed: int = 1,
        flush: str = "fsync",
        *,
        checked: bool = True,
        hosts: HostOptions | None = None,
    ) -> None:
        topics = {"t": 1}
        self.trace = Trace(keep=30)
        options = ClusterOptions(topics=topics, hosts=hosts or HostOptions())
        self.cluster = cluster = Cluster(seed, options, self.trace)
        if checked:
            self.invariants = Invariants(cluster)
        cluster.start()
        stage = cluster.stage
        founder = FoundingClient(stage, "founder", topics, 3, {"t": {"flush": flush}})
        founder.start()
        while not founder.is_idle:
            self.run(100)
        self.place = (self.topic_id(), 0)
        self.clients: list[SimClient] = [
            ProducingClient(stage, "p1", topics, idempotent=True),
            ProducingClient(stage, "p2", topics, acks="all"),
            ConsumingClient(stage, "c1", topics),
        ]
        for client in self.clients:
            client.start()
        self.run(2000)
        assert self.partition().high_watermark > 10

    def run(self, ms: int) -> None:
        self.cluster.loop.run_until(self.cluster.loop.now + ms * MS)

    def settle(self) -> None:
        """Nothing is under way any more."""
        for client in self.clients:
            client.stop()
        self.run(10_000)

    def topic_id(self) -> bytes:
        """Of the topic."""
        kv = self.cluster.store.keys.get(KEYS.topic_name("t"))
        assert kv is not None
        return TopicNameDocument.decode(kv.value).topic_id

    @property
    def document(self) -> PartitionDocument:
        """As it stands in the store."""
        kv = self.cluster.store.keys.get(KEYS.partition(*self.place))
        assert kv is not None
        return PartitionDocument.decode(kv.value)

    def write(self, document: PartitionDocument) -> None:
        """Put a document into the store, whatever stands there."""
        document = replace(document, write_id="1.2.3")
        self.cluster.store.commit([Put(KEYS.partition(*self.place), document.encode())], [])

    @property
    def leading(self) -> BrokerHost:
        leader = self.document.leader
        assert leader is not None
        return self.cluster.hosts[leader.broker_id - 1]

    @property
    def followers(self) -> list[BrokerHost]:
        return [host for host in self.cluster.hosts if host is not self.leading]

    def replica(self, host: BrokerHost) -> Replica:
        assert host.broker is not None
        return host.broker.replicas.all[self.place]

    def partition(self) -> Partition:
        """What leads."""
        role = self.replica(self.leading).role
        assert isinstance(role, Partition)
        return role

    def follower(self) -> tuple[BrokerHost, Follower]:
        """What follows, somewhere."""
        host = self.followers[0]
        role = self.replica(host).role
        assert isinstance(role, Follower)
        return host, role

    def isolate(self, host: BrokerHost) -> None:
        """From the other brokers, until it is out of the ISR."""
        for other in self.cluster.hosts:
            if other is not host:
                self.cluster.network.cut(host.node.name, other.node.name)
        self.run(8000)

    def look(self, host: BrokerHost) -> Callable[[], object]:
        return lambda: self.invariants.look(host)

    def fails(self, rule: str, does: Callable[[], object]) -> str:
        """What is told, when something breaks a rule."""
        with pytest.raises(InvariantError) as caught:
            does()
        assert caught.value.rule == rule, str(caught.value)
        assert "t/0 at" in str(caught.value)
        return str(caught.value)


def test_nothing_is_wrong_with_a_cluster_whose_brokers_come_and_go() -> None:
    for seed, flush in ((1, "fsync"), (2, "replicated")):
        play = Play(seed, flush)
        for number, host in enumerate([*play.cluster.hosts, play.leading]):
            host.crash(power_cut=bool(number % 2))
            play.run(3000)
            host.restart()
            play.run(4000)
        play.cluster.network.cut("b1", "b2")
        play.run(5000)
        play.cluster.network.heal_all()
        play.run(10_000)
        play.settle()
        play.invariants.finish()
        assert not play.invariants.losses


def test_looking_changes_nothing() -> None:
    with_it, without = Play(), Play(checked=False)
    for play in (with_it, without):
        play.leading.crash()
        play.run(5000)
    assert with_it.trace.digest() == without.trace.digest()


def test_what_a_recovery_election_loses_is_flagged_and_no_violation() -> None:
    play = Play(flush="replicated")
    for host in play.cluster.hosts:
        host.slowness = 100_000  # nothing more gets to the disks
    play.run(2000)
    for host in play.cluster.hosts:
        host.crash(power_cut=True)
        host.slowness = 1
        host.restart()
    play.run(15_000)
    document = play.document
    assert document.rec > 0
    (loss,) = play.invariants.losses
    assert (loss.topic, loss.partition, loss.rec) == ("t", 0, document.rec)
    assert loss.start < loss.end
    play.settle()
    play.invariants.finish()


# Copies


def elect_one_that_lags(play: Play) -> None:
    host = play.followers[0]
    play.isolate(host)
    assert host.broker is not None
    late = Member(host.broker_id, host.broker.identity.epoch)
    document = play.document
    assert late not in document.isr
    epoch = document.leader_epoch + 1
    play.write(replace(document, leader=late, leader_epoch=epoch, isr=(late,), elr=()))
    play.run(2000)


def test_i1_a_leader_that_lacks_what_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Documents, "_check_step", lambda *_: None)
    monkeypatch.setattr(Invariants, "_check_vouching", lambda *_: None)
    play = Play()
    story = play.fails("I1", lambda: elect_one_that_lags(play))
    assert "it ends at" in story


def test_i4_an_entry_of_one_that_lags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Documents, "_check_step", lambda *_: None)
    play = Play()
    play.fails("I4", lambda: elect_one_that_lags(play))


def test_i29_an_election_of_one_that_lags() -> None:
    play = Play()
    story = play.fails("I29", lambda: elect_one_that_lags(play))
    assert "left both ISR and ELR" in story


def test_i29_an_election_of_one_that_vouches_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqmq.sim.documents.check_step", lambda *_: None)
    play = Play()
    story = play.fails("I29", lambda: elect_one_that_lags(play))
    assert "vouches for no entry" in story


def test_i2_a_copy_with_other_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    append = Log.append_replicated

    def other(log: Log, data: Buffer) -> int:
        data = bytes(data)
        h = unpack_header(data)
        crc = data[BODY_CRC_AT : BODY_CRC_AT + 4]
        head = stamp(h.base_offset, h.size, h.leader_epoch, h.append_time_ms, 0, crc)
        return append(log, head + data[BODY_CRC_AT:])

    play = Play()
    monkeypatch.setattr(Log, "append_replicated", other)
    play.fails("I2", lambda: play.run(2000))


def test_i2_bytes_that_changed_on_the_disk() -> None:
    play = Play()
    play.settle()
    host, role = play.follower()
    host.disk.flip(role.log.segments[0].path, role.log.segments[0].size - 1)
    play.invariants.finish()  # nobody is to blame for that
    host.disk.is_rotten = False
    play.fails("I2", play.invariants.finish)


def test_i3_a_leader_that_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play()
    monkeypatch.setattr(Isr, "committed_end", lambda _, own_end, **__: own_end)
    story = play.fails("I3", lambda: play.run(2000))
    assert "has Reach" in story


def test_i3_a_leader_that_forgets_its_isr(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play()
    monkeypatch.setattr(Isr, "maximal", lambda isr: (isr.me,))
    story = play.fails("I3", lambda: play.run(2000))
    assert "commits without" in story


def test_i3_a_follower_that_says_flushed_and_means_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    play = Play(flush="fsync")
    monkeypatch.setattr(Follower, "flushed_end", lambda follower: follower.log.end_offset)
    monkeypatch.setattr(Follower, "is_settled", True)
    play.fails("I3", lambda: play.run(2000))


def test_i3_a_leader_that_commits_with_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Isr, "is_enough", lambda _: True)
    play = Play()
    for host in play.followers:
        host.crash()
    play.fails("I3", lambda: play.run(8000))


def test_i4_a_disk_that_says_synced_and_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(hosts=HostOptions(checkpoint_ns=1000 * SECOND))
    host, _ = play.follower()
    disk, sync = host.disk, SimFile.sync

    def lie(file: SimFile) -> None:
        if file._disk is not disk or not file.path.endswith(".log"):
            sync(file)

    monkeypatch.setattr(SimFile, "sync", lie)
    play.run(2000)

    def power_cut() -> None:
        host.crash(power_cut=True)
        host.restart()
        play.run(3000)

    play.fails("I4", power_cut)


def test_i4_a_follower_that_cuts_what_is_committed() -> None:
    play = Play()
    host, role = play.follower()
    cut(role.log, 3)
    role.high_watermark = role.log.end_offset
    play.fails("I4", play.look(host))


def test_i5_a_high_watermark_beyond_the_log() -> None:
    play = Play()
    host, role = play.follower()
    role.high_watermark = role.log.end_offset + 1
    play.fails("I5", play.look(host))


def test_i6_a_follower_that_shows_all_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def show(follower: Follower, _: int, __: int) -> None:
        follower.high_watermark = follower.log.end_offset

    play = Play()
    monkeypatch.setattr(Follower, "_note_leader", show)
    play.fails("I6", lambda: play.run(2000))


def test_i7_a_high_watermark_that_falls() -> None:
    play = Play()
    play.partition().high_watermark -= 1
    play.fails("I7", play.look(play.leading))


def test_i9_a_leader_that_nobody_elected() -> None:
    play = Play()
    host, role = play.follower()
    assert host.broker is not None
    me = Member(host.broker_id, host.broker.identity.epoch)
    document = replace(play.document, leader=me)
    play.replica(host).role = Partition("t", role.log, document, 1, me, 0, 0)
    play.fails("I9", play.look(host))


def test_i9_a_leader_that_begins_its_epoch_again() -> None:
    play = Play()
    host, old = play.leading, play.partition()
    me, known = old.isr.me, old.isr.revision
    again = Partition("t", old.log, play.document, known, me, old.high_watermark, 0)
    play.replica(host).role = again
    story = play.fails("I9", play.look(host))
    assert "leads again" in story


def test_i11_a_log_that_says_it_has_more() -> None:
    play = Play()
    host, role = play.follower()
    role.log.end_offset += 1
    play.fails("I11", play.look(host))


def test_i13_a_leader_that_takes_everything_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play()
    monkeypatch.setattr(ProducerTable, "check", lambda *_: None)
    play.cluster.network.set_weather(Weather(30 * MS, 5 * MS, 0, 0))

    def disturb() -> None:
        for _ in range(40):
            play.cluster.network.reset("p1", play.leading.node.name)
            play.run(1000)

    play.fails("I13", disturb)


def test_i14_a_copy_that_forgets_producers() -> None:
    play = Play()
    play.settle()
    _, role = play.follower()
    role.log.producers.restore([])
    play.fails("I14", play.invariants.finish)


def test_i30_an_index_of_epochs_that_is_not_of_the_log() -> None:
    play = Play()
    host, role = play.follower()
    epoch = role.log.epochs.latest
    cut(role.log, 5)
    role.log.epochs.restore([[epoch - 1, 0], [epoch, 2]])
    play.fails("I30", play.look(host))


# Documents


def test_i7_a_leader_epoch_that_falls() -> None:
    play = Play()
    document = replace(play.document, leader_epoch=play.document.leader_epoch - 1)
    play.fails("I7", lambda: play.write(document))


def test_i8_an_elr_beside_a_large_isr() -> None:
    play = Play()
    document = play.document
    assert document.leader is not None
    others = tuple(m for m in document.isr if m != document.leader)
    wrong = replace(document, isr=(document.leader,), elr=others, min_isr=1)
    play.fails("I8", lambda: play.write(wrong))


def test_i9_two_leaders_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqmq.sim.documents.check_step", lambda *_: None)
    play = Play()
    document = play.document
    other = next(m for m in document.isr if m != document.leader)
    play.fails("I9", lambda: play.write(replace(document, leader=other)))


def test_i9_a_leader_whose_registration_is_over() -> None:
    play = Play()
    document = play.document
    host = play.followers[0]
    gone = next(m for m in document.isr if m.broker_id == host.broker_id)
    host.crash()
    play.cluster.store.expire(host.node.name)
    elected = replace(document, leader=gone, leader_epoch=document.leader_epoch + 1)
    play.fails("I9", lambda: play.write(elected))


def test_i29_a_document_that_vanishes() -> None:
    play = Play()
    play.fails("I29", lambda: play.cluster.store.commit([Delete(KEYS.partition(*play.place))], []))


def test_d8_an_election_that_loses_although_somebody_has_everything() -> None:
    play = Play()
    document = play.document
    epoch, leader = document.leader_epoch + 1, document.leader
    assert leader is not None
    nobody = replace(document, leader=None, leader_epoch=epoch, isr=(), elr=document.isr)
    play.write(nobody)
    alone = replace(
        nobody, leader=leader, leader_epoch=epoch + 1, isr=(leader,), elr=(), rec=epoch + 1
    )
    play.fails("D8", lambda: play.write(alone))


# Batches


class Broken(Exception):  # noqa: N818 - what a test waits for
    """With the rule."""


def broken(rule: str, _: str) -> NoReturn:
    raise Broken(rule)


def batch(base: int, epoch: int, producer: tuple[int, int, int] | None = None) -> Batch:
    return Batch(base, base + 1, epoch, 0, 100, producer)


def test_i2_one_batch_behind_two_others() -> None:
    lineage = Lineage()
    lineage.note(batch(1, 2), batch(0, 1), "b1", broken)
    lineage.note(batch(1, 2), None, "b2", broken)  # its log begins here
    with pytest.raises(Broken, match="I2"):
        lineage.note(batch(1, 2), batch(0, 2), "b3", broken)


def test_what_is_committed_stays() -> None:
    committed = Committed()
    committed.grow([batch(0, 1), batch(1, 1, producer=(7, 0, 0))], 2, broken)
    with pytest.raises(Broken, match="I11"):
        committed.grow([batch(3, 1)], 4, broken)
    with pytest.raises(Broken, match="I13"):
        committed.grow([batch(2, 1, producer=(7, 0, 0))], 3, broken)
    copy = Shadow(0)
    copy.add(batch(0, 1))
    assert "ends at 1" in committed.lacks(copy)
    copy.add(batch(1, 2))
    assert "epoch 2" in committed.lacks(copy)
    assert committed.kept_by(copy) == 1
    committed.cut(1)
    assert not committed.lacks(copy)
    assert "midst" in committed.differs(Shadow(0), 1)
