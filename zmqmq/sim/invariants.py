"""The invariants of replication, held against the brokers after every event (replication.md 10).

This looks behind the brokers' backs: at their logs as they stand in the files, at what they believe
of their roles, and at the documents in the store, which is never wrong. What a leader commits is
remembered here, and must be in the log of every later one, and of everybody who may be elected:

    I1  whoever leads has everything that is committed         observed.py: I2, copies.py: I11, I30
    I3  who commits waits for all who may be elected           documents.py: I7, I8, I9, I29, D8
    I4  who may be elected has everything, on disk if fsync    committed.py: I13
    I5, I6, I7  watermarks stay within the log, and within what is committed

An event that changed nothing costs a few comparisons for each copy.
"""

from __future__ import annotations

from typing import Final, NoReturn

from zmqmq.core.broker.replica import Phase
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.core.replication.partition import Partition
from zmqmq.core.replication.vouching import Place, vouches
from zmqmq.sim.broker_host import BrokerHost
from zmqmq.sim.cluster import Cluster
from zmqmq.sim.committed import Committed, Loss
from zmqmq.sim.copies import Copy, Life
from zmqmq.sim.equality import check_bytes, check_newest, check_producers
from zmqmq.sim.history import Log
from zmqmq.sim.known import Known, leads
from zmqmq.sim.observed import Fail

PRODUCERS_EVERY: Final = 128
"""So seldom, in changes of the high watermark, are tables of producers compared."""


class Invariants:
    """Of one run. Make it before the cluster starts."""

    def __init__(self, cluster: Cluster) -> None:
        self.losses: list[Loss] = []
        """What flagged elections have lost, and so is no violation."""
        self._known = known = Known(cluster)
        known.documents.on_change = self._document_changed
        self._last_losses: dict[Place, Loss] = {}
        self._moves = 0
        self._starts: dict[Place, int] = {}
        for host in cluster.hosts:
            host.on_event = self.look

    def look(self, host: BrokerHost) -> None:
        """A broker has taken an event. Raises InvariantError."""
        broker = host.broker
        if broker is None:
            return
        life = self._known.lives.get(host.broker_id)
        if life is None or life.broker is not broker:
            life = self._known.begin_life(host, broker)
        if broker.identity.epoch != life.epoch:
            life.epoch = broker.identity.epoch
            life.epochs.append(life.epoch)
        replicas = broker.replicas.all
        if len(replicas) != len(life.copies):
            life.follow(replicas)
        for replica, copy in zip(replicas.values(), life.copies, strict=True):
            if copy.is_changed(replica):
                if copy.replica is not replica:
                    life.follow(replicas)
                    self.look(host)
                    return
                self._changed(life, copy)

    def starts(self) -> dict[Log, int]:
        """The largest offset at which any copy of each partition has begun."""
        name_of = self._known.documents.topic_name
        return {(name_of(place), place[1]): start for place, start in self._starts.items()}

    def finish(self) -> None:
        """When all is healed and quiet: copies are equal. Raises InvariantError."""
        for place in self._known.documents.now:

            def fail(rule: str, why: str, place: Place = place) -> NoReturn:
                self._known.fail(rule, place, why)

            self._check_leader(place)
            self._check_vouching(place)
            copies, committed = self._known.copies(place), self._known.committed_of(place)
            if committed.is_compacted and place in self._last_losses:
                continue  # what was lost may have replaced something before
            check_producers(copies, committed.end, fail)
            compare = check_newest if committed.is_compacted else check_bytes
            compare(copies, committed.end, fail)

    # What a broker has done

    def _changed(self, life: Life, copy: Copy) -> None:
        place, replica = copy.place, copy.replica
        committed = self._known.committed_of(place)

        def fail(rule: str, why: str) -> NoReturn:
            self._known.fail(rule, place, f"{life}: {why}")

        log = replica.log
        if log is not None:
            committed.is_compacted = log.config.cleanup == "compact"
        lineage = None if committed.is_compacted else self._known.lineage_of(place)
        if not copy.read(lineage, fail):
            return
        self._starts[place] = max(self._starts.get(place, 0), copy.start)
        is_new = copy.take_role()
        before, copy.high_watermark = copy.high_watermark, replica.high_watermark
        role = copy.role
        if role is not None:
            self._check_bounds(copy, committed, fail)
        if isinstance(role, Partition):
            if is_new:
                self._check_elected(copy, role, fail)
            elif copy.high_watermark < before:
                fail("I7", f"its high watermark fell from {before} to {copy.high_watermark}")
            self._check_maximal(place, copy, role)
            if min(copy.high_watermark, copy.written) > committed.end:
                self._commit(life, copy, role, committed)
        if role is not None and replica.rec == self._known.rec(place):
            self._check_exposed(copy, committed, fail)
        if copy.was_cut or is_new:
            copy.was_cut = False
            self._check_leader(place)
            self._check_vouching(place)

    def _check_bounds(self, copy: Copy, committed: Committed, fail: Fail) -> None:
        """I5."""
        log, at = copy.replica.log, copy.high_watermark
        assert log is not None
        if not log.start_offset <= at <= log.end_offset:
            fail("I5", f"high watermark {at} of a log from {log.start_offset} to {log.end_offset}")
        is_late = copy.replica.rec != self._known.rec(copy.place)
        if log.start_offset > max(committed.end, at) and not is_late:
            fail("I5", f"its log starts at {log.start_offset}; {committed.end} is committed")

    def _check_elected(self, copy: Copy, role: Partition, fail: Fail) -> None:
        """I9: it leads in an epoch for which the store names it, and no older one than before."""
        elected = self._known.documents.elected.get(copy.place, {}).get(role.epoch)
        if elected != role.isr.me:
            fail("I9", f"it leads as {role.isr.me} in epoch {role.epoch}, elected is {elected}")
        if role.epoch <= copy.led:
            fail("I9", f"it leads again in epoch {role.epoch}, after {copy.led} (L1)")
        copy.led = role.epoch

    def _check_exposed(self, copy: Copy, committed: Committed, fail: Fail) -> None:
        """I6: what a copy takes for committed is."""
        log = copy.replica.log
        assert log is not None
        at = min(copy.high_watermark, copy.written)  # what is not written yet is not shown
        if at <= log.start_offset:
            return  # nothing; a high watermark is never below that
        if at > committed.end:
            fail("I6", f"it exposes up to {at}, and {committed.end} is committed")
        wrong = committed.differs(copy.shadow, at)
        if wrong:
            fail("I6", f"it exposes what is not committed: {wrong}")

    def _commit(self, life: Life, copy: Copy, role: Partition, committed: Committed) -> None:
        """A leader has moved the true high watermark."""
        place, end = copy.place, min(copy.high_watermark, copy.written)

        def fail(rule: str, why: str) -> NoReturn:
            self._known.fail(rule, place, f"{life} commits up to {end}: {why}")

        if role.epoch < self._known.rec(place):
            loss = self._last_losses[place]  # what an old leader still says is covered by it
            loss.end = max(loss.end, end)
            return
        document = self._known.documents.now.get(place)
        if document is not None and leads(role, document):
            known = role.isr.document
            if len(known.isr) < known.effective_min_isr:
                fail("I3", f"only {len(known.isr)} are in sync (L5)")
            for member in role.isr.maximal():
                reach = self._known.reach(member, place)
                has = reach.flushed if document.flush == "fsync" else reach.written
                if has < end:
                    fail("I3", f"{member} has {reach}, and the mode is {document.flush}")
        committed.grow(copy.shadow.between(committed.end, end), end, fail)
        if document is None or not leads(role, document):
            self._check_leader(place)
        self._check_vouching(place)
        self._moves += 1
        is_known = not (committed.is_compacted and place in self._last_losses)
        if self._moves % PRODUCERS_EVERY == 0 and is_known:
            check_producers(self._known.copies(place), committed.end, fail)

    # What the store says

    def _document_changed(
        self, place: Place, before: PartitionDocument, after: PartitionDocument
    ) -> None:
        if after.rec > before.rec:
            self._lose(place, before, after)
        leading = self._known.leading(place)
        if leading is not None:
            self._check_maximal(place, *leading)
        self._check_leader(place)
        self._check_vouching(place)

    def _lose(self, place: Place, before: PartitionDocument, after: PartitionDocument) -> None:
        """D8, C7: what the new leader has is what is left."""
        committed = self._known.committed_of(place)
        kept: dict[int, int] = {}
        for life in self._known.lives.values():
            copy = life.copy_of(place)
            # Whoever has answered the controller may have stopped since; it still has its copy.
            if copy is not None and copy.is_known:
                kept[life.host.broker_id] = committed.kept_by(copy.shadow)
        if not after.recovering:
            self._known.documents.check_recovery(place, before, after, kept)
        assert after.leader is not None
        to, end = kept.get(after.leader.broker_id, 0), committed.end
        name = self._known.documents.topic_name(place)
        loss = Loss(name, place[1], after.rec, to, end, self._known.now)
        self.losses.append(loss)
        self._last_losses[place] = loss
        committed.cut(to)

    # What must hold

    def _check_maximal(self, place: Place, copy: Copy, role: Partition) -> None:
        """I3: a leader that may commit waits for everybody who may be elected (L6)."""
        document = self._known.documents.now.get(place)
        if document is None or not leads(role, document) or not role.isr.is_enough():
            return
        waits = role.isr.maximal()
        missing = [m for m in (*document.isr, *document.elr) if m not in waits]
        if missing:
            self._known.fail("I3", place, f"{copy.life} commits without {missing}, with {waits}")

    def _check_leader(self, place: Place) -> None:
        """I1."""
        leading = self._known.leading(place)
        if leading is not None:
            lacks = self._known.committed_of(place).lacks(leading[0].shadow)
            if lacks:
                self._known.fail("I1", place, f"{leading[0].life} leads: {lacks}")

    def _check_vouching(self, place: Place) -> None:
        """I4: whoever may be elected has everything, on its disk if the mode says so."""
        document = self._known.documents.now.get(place)
        committed = self._known.committed_of(place)
        if document is None or not committed.end:
            return
        for entry in (*document.isr, *document.elr):
            copy = self._known.copy_on(entry.broker_id, place)
            if copy is None:
                continue
            if not vouches(entry, copy.life.registration(place), place, document.flush):
                continue
            lacks = committed.lacks(copy.shadow)
            # What a start has found in the log is on the disk, or the start itself flushes it.
            is_flushed = copy.replica.phase not in (Phase.OPENING, Phase.FLUSHING)
            if document.flush == "fsync" and is_flushed and copy.flushed < committed.end:
                lacks = lacks or f"{copy.flushed} is flushed, and {committed.end} is committed"
            if lacks:
                self._known.fail("I4", place, f"{entry} vouches: {lacks}")
