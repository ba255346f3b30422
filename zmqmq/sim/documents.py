"""The history of the partition documents in the store: who was elected when, and whether each
version may follow the one before (I7, I8, I9, I29).

The store is never wrong, so every version is seen here the moment it is written, and what the
brokers believe can be held against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NoReturn

from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import KeySpace, PartitionKey, TopicKey
from zmqmq.core.meta.store import Event
from zmqmq.core.meta.values import LiveDocument, PartitionDocument, TopicDocument
from zmqmq.core.replication.vouching import Place, Registration, vouches
from zmqmq.sim.keyspace import Keyspace
from zmqmq.sim.observed import Fail

Changed = Callable[[Place, PartitionDocument, PartitionDocument], object]
"""A document has become another one."""
PlaceFail = Callable[[str, Place, str], NoReturn]
LEADERS_PARTS: Final = 4
"""So many parts has the write_id of a leader."""


class Documents:
    """Of one cluster, from its beginning."""

    def __init__(self, keys: Keyspace, space: KeySpace, fail: PlaceFail) -> None:
        self.topics: dict[bytes, TopicDocument] = {}
        self.now: dict[Place, PartitionDocument] = {}
        """Those that stand in the store."""
        self.elected: dict[Place, dict[int, Member | None]] = {}
        """Who leads in each leader epoch; None: nobody."""
        self.versions: dict[Place, list[str]] = {}
        """All of them, for people."""
        self.on_change: Changed = lambda *_: None
        self.on_delete: Callable[[Place], object] = lambda _: None
        self._keys = keys
        self._space = space
        self._fail = fail
        keys.on_change.append(self._changed)

    def name(self, place: Place) -> str:
        """The partition, for people."""
        return f"{self.topic_name(place)}/{place[1]}"

    def topic_name(self, place: Place) -> str:
        """The name of its topic."""
        topic = self.topics.get(place[0])
        return topic.name if topic else place[0].hex()

    def _changed(self, events: Sequence[Event]) -> None:
        for event in events:
            match self._space.parse(event.kv.key):
                case TopicKey(topic_id):
                    if event.type == "put":
                        self.topics[topic_id] = TopicDocument.decode(event.kv.value)
                case PartitionKey(topic_id, partition):
                    place = (topic_id, partition)
                    if event.type == "put":
                        document = PartitionDocument.decode(event.kv.value)
                        self._put(place, document, event.kv.mod_revision)
                    else:
                        self._delete(place)
                case _:
                    pass

    def _put(self, place: Place, after: PartitionDocument, revision: int) -> None:
        before = self.now.get(place)
        self.now[place] = after
        self.versions.setdefault(place, []).append(f"revision {revision}: {describe(after)}")
        if len(after.isr) >= after.effective_min_isr and after.elr:
            self._fail("I8", place, "the ISR is large enough, and there is an ELR")
        if before is None:
            self.elected[place] = {after.leader_epoch: after.leader}
            return
        self._check_step(place, before, after)
        elected = self.elected[place]
        if elected.setdefault(after.leader_epoch, after.leader) != after.leader:
            self._fail("I9", place, f"leader epoch {after.leader_epoch} was elected twice")
        self.on_change(place, before, after)

    def _delete(self, place: Place) -> None:
        topic = self.topics.get(place[0])
        if topic is not None and topic.state == "ready":
            self._fail("I29", place, "the document was deleted, and its topic was not (C12)")
        del self.now[place]
        self.on_delete(place)

    def _check_step(
        self, place: Place, before: PartitionDocument, after: PartitionDocument
    ) -> None:
        def fail(rule: str, why: str) -> NoReturn:
            self._fail(rule, place, why)

        check_step(before, after, fail)
        joined = _minus(after.isr, before.isr)
        if len(after.write_id.split(".")) == LEADERS_PARTS:
            check_leaders_step(before, after, fail)
            for member in joined:
                if self._registered(member.broker_id) != member.broker_epoch:
                    fail("I29", f"{_member(member)} joins, and is not registered (L7)")
        elif after.rec == before.rec:
            self._check_controllers_step(place, before, after, fail)
        leader = after.leader
        if leader is not None and leader != before.leader:
            if self._registered(leader.broker_id) == leader.broker_epoch:
                return
            fail("I9", f"{_member(leader)} is elected, and is not registered (C4)")

    def _check_controllers_step(
        self, place: Place, before: PartitionDocument, after: PartitionDocument, fail: Fail
    ) -> None:
        """C4: it adds nobody to the ISR but a leader from the ELR that vouches for its entry."""
        if after.flush != before.flush and after.flush == "fsync":
            fail("I29", "the controller made the mode fsync (D12)")
        joined = _minus(after.isr, before.isr)
        if not joined:
            return
        if tuple(joined) != after.isr or after.leader not in joined:
            fail("I29", "the controller added to the ISR, and not a new leader alone (C4)")
        (leader,) = joined
        entries = [m for m in (*before.isr, *before.elr) if m.broker_id == leader.broker_id]
        registration = self._registration(leader.broker_id, place)
        if not any(vouches(entry, registration, place, before.flush) for entry in entries):
            fail("I29", f"{_member(leader)} is elected, and vouches for no entry (C4, D4)")

    def _registered(self, broker_id: int) -> int | None:
        kv = self._keys.get(self._space.live(broker_id))
        return None if kv is None else kv.create_revision

    def _registration(self, broker_id: int, place: Place) -> Registration | None:
        kv = self._keys.get(self._space.live(broker_id))
        if kv is None:
            return None
        live = LiveDocument.decode(kv.value)
        name = f"{place[0].hex()}.{place[1]}"
        unvouched = {place: live.unvouched[name]} if name in live.unvouched else {}
        return Registration(kv.create_revision, live.since_fsync, live.since_clean, unvouched)

    def check_recovery(
        self,
        place: Place,
        before: PartitionDocument,
        after: PartitionDocument,
        kept: Mapping[int, int],
    ) -> None:
        """D8: a recovery election loses no more than it must. `kept` is how much of what was
        committed each broker has."""
        members = (*before.isr, *before.elr)
        assert after.leader is not None
        for entry in members:
            registration = self._registration(entry.broker_id, place)
            if registration is None:
                self._fail("D8", place, f"an election that loses, and {_member(entry)} is away")
            if vouches(entry, registration, place, before.flush):
                self._fail("D8", place, f"an election that loses, and {_member(entry)} vouches")
        if kept.get(after.leader.broker_id, 0) < max(kept.get(m.broker_id, 0) for m in members):
            self._fail("D8", place, f"an election loses more than it must; they keep {kept}")


def check_step(before: PartitionDocument, after: PartitionDocument, fail: Fail) -> None:
    """What holds whoever writes it."""
    removed = [r for r in before.replicas if r not in after.replicas]
    if after.leader_epoch not in (before.leader_epoch, before.leader_epoch + 1):
        fail("I7", f"the leader epoch went from {before.leader_epoch} to {after.leader_epoch}")
    if (after.leader_epoch > before.leader_epoch) != bool(removed or after.leader != before.leader):
        fail("I29", "the leader epoch rises with the leader or fewer replicas, and then alone (C6)")
    if _minus(after.elr, (*before.isr, *before.elr)):
        fail("I29", "somebody came to the ELR who was in neither ISR nor ELR (L8)")
    if after.rec != before.rec:
        alone = (after.leader,) == after.isr and not after.elr and before.leader is None
        if after.rec != after.leader_epoch or not alone:
            fail("D8", "rec rises with the election of one leader where there was none")
        return
    if after.recovering and not before.recovering:
        fail("I29", "recovering came about without a loss (C7)")
    few = min(before.effective_min_isr, after.effective_min_isr)
    lowered = after.effective_min_isr < before.effective_min_isr and after.isr
    if len(after.isr) < few and not lowered:
        known = {m.broker_id for m in (*after.isr, *after.elr)} | set(removed)
        gone = [m for m in (*before.isr, *before.elr) if m.broker_id not in known]
        if gone:
            fail("I29", f"{_members(gone)} left both ISR and ELR, and too few remain (L8, D6)")


def check_leaders_step(before: PartitionDocument, after: PartitionDocument, fail: Fail) -> None:
    """L7, L8, D12: what a leader may change."""
    leader = before.leader
    owner = tuple(int(part) for part in after.write_id.split(".")[:3])
    if leader is None or owner != (*leader, before.leader_epoch):
        fail("I9", f"{after.write_id} is written by who does not lead (L9)")
    its = replace(
        before,
        isr=after.isr,
        elr=after.elr,
        write_id=after.write_id,
        flush=after.flush,
        recovering=after.recovering,
    )
    if its != after:
        fail("I29", "a leader changed more than ISR and flush mode (L8)")
    joined, left = _minus(after.isr, before.isr), _minus(before.isr, after.isr)
    if len(joined) + bool(left) + (after.flush != before.flush) > 1:
        fail("I29", "a leader made more than one change at once (L8)")
    if joined and before.recovering:
        fail("I29", "the ISR grows while the partition recovers (C7)")
    if after.flush != before.flush and after.flush == "fsync" and before.elr:
        fail("I29", "the mode became fsync while there is an ELR (D12)")


def describe(document: PartitionDocument) -> str:
    """A document on one line."""
    leader = "nobody" if document.leader is None else _member(document.leader)
    rest = f" recovering={document.recovering}" if document.recovering else ""
    moving = (
        f" adding {document.adding} removing {document.removing}"
        if document.adding or document.removing
        else ""
    )
    return (
        f"epoch {document.leader_epoch} led by {leader}, isr {_members(document.isr)} elr "
        f"{_members(document.elr)} min {document.min_isr} of {document.replicas}{moving} "
        f"{document.flush} rec {document.rec}{rest}, written by {document.write_id}"
    )


def _minus(members: Sequence[Member], others: Sequence[Member]) -> list[Member]:
    return [m for m in members if m not in others]


def _member(member: Member) -> str:
    return f"b{member.broker_id}@{member.broker_epoch}"


def _members(members: Sequence[Member]) -> str:
    return ",".join(_member(m) for m in members) or "-"
