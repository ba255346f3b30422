"""The invariants of replication, held against the brokers after every event (replication.md 10).

This looks behind the brokers' backs: at their logs as they stand in the files, at what they believe
of their roles, and at the documents in the store, which is never wrong. What a leader commits is
remembered here, and must be in the log of every later one, and of everybody who may be elected:

    I1  whoever leads has everything that is committed         observed.py: I2, I11, I30
    I3  who commits waits for all who may be elected           documents.py: I7, I8, I9, I29
    I4  who may be elected has everything, on disk if fsync    committed.py: I13
    I5, I6, I7  watermarks stay within the log, and within what is committed

An event that changed nothing costs a few comparisons for each copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, NoReturn

from zmqmq.batch.layout import verify
from zmqmq.core.broker.broker import Broker
from zmqmq.core.broker.replica import Phase, Replica
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.core.replication.partition import Partition
from zmqmq.core.replication.vouching import Place, Registration, vouches
from zmqmq.core.storage.log import LogKey
from zmqmq.sim.broker_host import KEYS, BrokerHost
from zmqmq.sim.cluster import Cluster
from zmqmq.sim.committed import Committed, Loss
from zmqmq.sim.copies import Copy, Life
from zmqmq.sim.documents import Documents
from zmqmq.sim.observed import Fail, Lineage, stored
from zmqmq.sim.violation import InvariantError

YET_TO_COME: Final = 1 << 62
"""Stands for the broker epoch that a process has not got yet."""
PRODUCERS_EVERY: Final = 32
"""So seldom, in changes of the high watermark, are tables of producers compared."""
VERSIONS_TOLD: Final = 4
LINES_TOLD: Final = 20


class Reach(NamedTuple):
    """How far a copy goes."""

    written: int
    flushed: int


class Invariants:
    """Of one run. Make it before the cluster starts."""

    def __init__(self, cluster: Cluster) -> None:
        self.losses: list[Loss] = []
        """What flagged elections have lost, and so is no violation."""
        self.disks_rot = False
        """Whether bits were flipped: then a wrong checksum on a disk is no violation."""
        self._cluster = cluster
        self._documents = Documents(cluster.store.keys, KEYS, self._fail)
        self._documents.on_change = self._document_changed
        self._documents.on_delete = self._forget
        self._lives: dict[int, Life] = {}
        self._ended: dict[tuple[Member, Place], Reach] = {}
        """How far the copies of earlier processes went when those ended."""
        self._committed: dict[Place, Committed] = {}
        self._lineages: dict[Place, Lineage] = {}
        self._last_losses: dict[Place, Loss] = {}
        self._moves = 0
        for host in cluster.hosts:
            host.on_event = self.look

    def committed_end(self, place: Place) -> int:
        """The true high watermark of a partition."""
        return self._committed_of(place).end

    def look(self, host: BrokerHost) -> None:
        """A broker has taken an event. Raises InvariantError."""
        broker = host.broker
        if broker is None:
            return
        life = self._lives.get(host.broker_id)
        if life is None or life.broker is not broker:
            life = self._begin_life(host, broker)
        if broker.identity.epoch != life.epoch:
            life.epoch = broker.identity.epoch
            life.epochs.append(life.epoch)
        copies, count = life.copies, 0
        for replica in broker.replicas:
            count += 1
            copy = copies.get(replica)
            if copy is None:
                copy = life.begin_copy(replica)
            if copy.is_changed():
                self._changed(life, copy)
        if count != len(copies):
            life.forget_copies(broker.replicas)

    # What a broker has done

    def _begin_life(self, host: BrokerHost, broker: Broker) -> Life:
        old = self._lives.get(host.broker_id)
        if old is not None:
            for copy in old.copies.values():
                for epoch in old.epochs:
                    key = (Member(host.broker_id, epoch), copy.place)
                    self._ended[key] = Reach(copy.written, copy.flushed)
        life = self._lives[host.broker_id] = Life(host, broker)
        return life

    def _changed(self, life: Life, copy: Copy) -> None:
        place, replica = copy.place, copy.replica
        committed = self._committed_of(place)

        def fail(rule: str, why: str) -> None:
            self._fail(rule, place, f"{life.name}: {why}")

        log = replica.log
        if log is not None and log.config.cleanup == "compact" and not committed.is_compacted:
            committed.compact()
        if not copy.update_log(
            life, committed, self._lineage_of(place), fail, may_rot=self.disks_rot
        ):
            return
        was_cut, copy.was_cut = copy.was_cut, False
        role = replica.role
        is_new = role is not copy.role
        before, copy.high_watermark = copy.high_watermark, replica.high_watermark
        copy.role = role
        if role is None:
            if was_cut:
                self._check_vouching(place)
            return
        self._check_bounds(copy, committed, fail)
        if isinstance(role, Partition):
            copy.document, copy.pending = role.isr.document, role.isr.pending
            if is_new:
                self._check_elected(copy, role, fail)
            elif copy.high_watermark < before:
                fail("I7", f"its high watermark fell from {before} to {copy.high_watermark}")
            self._check_maximal(place, copy, role)
            if copy.high_watermark > committed.end:
                self._commit(life, copy, role, committed)
        if replica.rec == self._rec(place):
            self._check_exposed(copy, committed, fail)
        if was_cut:
            self._check_leader(place)
            self._check_vouching(place)

    def _check_bounds(self, copy: Copy, committed: Committed, fail: Fail) -> None:
        """I5."""
        log, at = copy.replica.log, copy.high_watermark
        assert log is not None
        if not log.start_offset <= at <= log.end_offset:
            fail("I5", f"high watermark {at} of a log from {log.start_offset} to {log.end_offset}")
        if log.start_offset > committed.end and copy.replica.rec == self._rec(copy.place):
            fail("I5", f"its log starts at {log.start_offset}; {committed.end} is committed")

    def _check_elected(self, copy: Copy, role: Partition, fail: Fail) -> None:
        """I9: it leads in an epoch for which the store names it, and no older one than before."""
        elected = self._documents.elected.get(copy.place, {}).get(role.epoch)
        if elected != role.isr.me:
            fail("I9", f"it leads as {role.isr.me} in epoch {role.epoch}, elected is {elected}")
        if role.epoch <= copy.led:
            fail("I9", f"it leads again in epoch {role.epoch}, after {copy.led} (L1)")
        copy.led = role.epoch
        self._check_leader(copy.place)

    def _check_exposed(self, copy: Copy, committed: Committed, fail: Fail) -> None:
        """I6: what a copy takes for committed is."""
        at = copy.high_watermark
        if at > committed.end:
            fail("I6", f"it exposes up to {at}, and {committed.end} is committed")
        wrong = committed.differs(copy.shadow, at)
        if wrong:
            fail("I6", f"it exposes what is not committed: {wrong}")

    def _commit(self, life: Life, copy: Copy, role: Partition, committed: Committed) -> None:
        """A leader has moved the true high watermark."""
        place, end = copy.place, copy.high_watermark

        def fail(rule: str, why: str) -> None:
            self._fail(rule, place, f"{life.name} commits up to {end}: {why}")

        if role.epoch < self._rec(place):
            loss = self._last_losses[place]  # what an old leader still says is covered by it
            loss.end = max(loss.end, end)
            return
        document = self._documents.now.get(place)
        if self._leads(role, document):
            assert document is not None
            known = role.isr.document
            if len(known.isr) < known.effective_min_isr:
                fail("I3", f"only {len(known.isr)} are in sync (L5)")
            for member in role.isr.maximal():
                reach = self._reach(member, place)
                has = reach.flushed if document.flush == "fsync" else reach.written
                if has < end:
                    fail("I3", f"{member} has {has} of it ({document.flush}; {reach})")
        batches = [] if committed.is_compacted else copy.shadow.between(committed.end, end)
        committed.grow(batches, end, fail)
        self._check_leader(place)
        self._check_vouching(place)
        self._moves += 1
        if self._moves % PRODUCERS_EVERY == 0:
            self._check_producers(place)

    # What the store says

    def _document_changed(
        self, place: Place, before: PartitionDocument, after: PartitionDocument
    ) -> None:
        if after.rec > before.rec:
            self._lose(place, before, after)
        leading = self._leading(place)
        if leading is not None:
            self._check_maximal(place, *leading)
        self._check_leader(place)
        self._check_vouching(place)

    def _forget(self, place: Place) -> None:
        self._committed.pop(place, None)
        self._lineages.pop(place, None)

    def _lose(self, place: Place, before: PartitionDocument, after: PartitionDocument) -> None:
        """D8, C7: what the new leader has is what is left."""
        committed = self._committed_of(place)
        kept: dict[int, int] = {}
        for broker_id, life in self._lives.items():
            copy = life.copy_of(place)
            if copy is not None and copy.is_known:
                end = min(copy.shadow.end, committed.end)
                is_whole = committed.is_compacted or not committed.end
                kept[broker_id] = end if is_whole else committed.shadow.common_end(copy.shadow)
        if not after.recovering:
            self._documents.check_recovery(place, before, after, kept)
        assert after.leader is not None
        to, end = kept.get(after.leader.broker_id, 0), committed.end
        topic = self._documents.topics.get(place[0])
        name = topic.name if topic else place[0].hex()
        loss = Loss(name, place[1], after.rec, to, end, self._cluster.loop.now)
        self.losses.append(loss)
        self._last_losses[place] = loss
        committed.cut(to)

    def _check_maximal(self, place: Place, copy: Copy, role: Partition) -> None:
        """I3: a leader that may commit waits for everybody who may be elected (L6)."""
        document = self._documents.now.get(place)
        if not self._leads(role, document) or not role.isr.is_enough():
            return
        assert document is not None
        waits = role.isr.maximal()
        missing = [m for m in (*document.isr, *document.elr) if m not in waits]
        if missing:
            self._fail("I3", place, f"b{copy.broker_id} commits without {missing}, with {waits}")

    def _check_leader(self, place: Place) -> None:
        """I1."""
        leading = self._leading(place)
        if leading is None:
            return
        copy, _ = leading
        lacks = self._committed_of(place).lacks(copy.shadow)
        if lacks:
            self._fail("I1", place, f"the leader b{copy.broker_id}: {lacks}")

    def _check_vouching(self, place: Place) -> None:
        """I4: whoever may be elected has everything, on its disk if the mode says so."""
        document = self._documents.now.get(place)
        committed = self._committed_of(place)
        if document is None or not committed.end:
            return
        for entry in (*document.isr, *document.elr):
            life = self._lives.get(entry.broker_id)
            copy = None if life is None or not life.is_running else life.copy_of(place)
            if life is None or copy is None or not copy.is_known:
                continue
            if not vouches(entry, life.registration(place), place, document.flush):
                continue
            lacks = committed.lacks(copy.shadow)
            is_flushing = copy.replica.phase in (Phase.OPENING, Phase.FLUSHING)
            if not lacks and document.flush == "fsync" and not is_flushing:
                if copy.flushed < committed.end:
                    lacks = f"{copy.flushed} is flushed, and {committed.end} committed"
            if lacks:
                self._fail("I4", place, f"{entry} vouches: {lacks}")

    def _check_producers(self, place: Place) -> None:
        """I14: copies that end alike know the same of producers."""
        first: Copy | None = None
        for life in self._lives.values():
            copy = life.copy_of(place) if life.is_running else None
            log = None if copy is None else copy.replica.log
            if copy is None or log is None or not copy.is_known or log.end_offset != copy.written:
                continue
            if first is None:
                first = copy
                continue
            other = first.replica.log
            assert other is not None
            if copy.shadow.last != first.shadow.last or log.end_offset != other.end_offset:
                continue
            mine, its = log.producers.snapshot(), other.producers.snapshot()
            if mine != its:
                who = f"b{copy.broker_id} and b{first.broker_id} end alike"
                self._fail("I14", place, f"{who}, and know of producers {mine} and {its}")

    # At the end

    def finish(self) -> None:
        """When all is healed and quiet: copies are equal byte for byte (I2, I14)."""
        for place, document in self._documents.now.items():
            self._check_leader(place)
            self._check_vouching(place)
            self._check_producers(place)
            committed = self._committed_of(place)
            if committed.is_compacted:
                continue
            contents: dict[int, tuple[int, bytes]] = {}
            for broker_id in document.replicas:
                life = self._lives.get(broker_id)
                copy = None if life is None or not life.is_running else life.copy_of(place)
                if life is not None and copy is not None and copy.is_known:
                    self._compare(life, copy, committed, contents)

    def _compare(
        self,
        life: Life,
        copy: Copy,
        committed: Committed,
        contents: dict[int, tuple[int, bytes]],
    ) -> None:
        log = copy.replica.log
        assert log is not None
        for batch, data in stored(life.host.disk, log, copy.shadow.start, copy.shadow.end):
            if batch.next > committed.end:
                return
            if verify(data, 0, log.seed)[0] != batch.base:
                if not self.disks_rot:
                    self._fail("I2", copy.place, f"{life.name}: batch {batch} is damaged")
                continue
            broker_id, other = contents.setdefault(batch.base, (copy.broker_id, bytes(data)))
            if other != data:
                why = f"{life.name} and b{broker_id} differ in batch {batch}"
                self._fail("I2", copy.place, why)

    # What is known

    def _committed_of(self, place: Place) -> Committed:
        found = self._committed.get(place)
        if found is None:
            found = self._committed[place] = Committed()
        return found

    def _lineage_of(self, place: Place) -> Lineage:
        found = self._lineages.get(place)
        if found is None:
            found = self._lineages[place] = Lineage()
        return found
