"""What the controller should write to a partition's document: who leads, and who is in sync.

Pure functions from a document and the brokers as they are known. Each result keeps I8: the leader
is in the ISR, the ISR among the replicas, ISR and ELR have nobody in common, and an ISR that is
large enough has no ELR. Where several rules apply at once their changes are made one after the
other, as if each had been written by itself, and the leader epoch rises once.

The write is guarded by the version of the document and by the live keys that `guards` names: an
image that lags can cost a retry, never a wrong leader.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from zmqmq.core.control.image import KnownBroker, KnownTopic
from zmqmq.core.control.reassignment import completed
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.values import FlushMode, PartitionDocument
from zmqmq.core.replication.transitions import with_isr, with_min_isr
from zmqmq.core.replication.vouching import Place, vouches
from zmqmq.errors import Code, refusal

Brokers = Mapping[int, KnownBroker]


class Wishes(NamedTuple):
    """What a topic's settings ask of each of its partitions."""

    min_isr: int
    flush: FlushMode
    unclean_election: bool = False
    """Whether a replica that may lack records may lead when no other can (C7)."""


class Report(NamedTuple):
    """What a replica holds of a partition that nobody leads (D8)."""

    place: Place
    broker_id: int
    broker_epoch: int
    leader_epoch: int
    """That of the leaderless document, which the replica had adopted before it looked."""
    last_epoch: int
    """The leader epoch of its last record; -1: it has none."""
    end_offset: int


def wishes_of(topic: KnownTopic) -> Wishes:
    """What a topic asks."""
    config = topic.config
    return Wishes(
        min_isr=config.min_isr or default_min_isr(topic.document.replicas),
        flush="fsync" if config.flush == "fsync" else "replicated",
        unclean_election=config.unclean_election == "on",
    )


def default_min_isr(replicas: int) -> int:
    """One replica may be away."""
    return max(replicas - 1, 1)


def settle(
    document: PartitionDocument,
    place: Place,
    wishes: Wishes,
    brokers: Brokers,
    changed: PartitionDocument | None = None,
) -> PartitionDocument | None:
    """The document as it should be next, or None if it is as it should be.

    `changed` is what somebody else wants it to be, a reassignment begun or given up: the result
    goes on from there. The caller gives the result a write_id.
    """
    after = _led(document if changed is None else changed, place, brokers)
    after = with_min_isr(after, wishes.min_isr)
    if wishes.flush == "replicated":
        after = replace(after, flush="replicated")  # the other way only the leader knows (D12)
    finished = completed(after)
    if finished is not None:
        after = _led(finished, place, brokers)
    after = _with_epoch(document, after)
    return None if after == document else after


def preferred(document: PartitionDocument, brokers: Brokers) -> PartitionDocument | None:
    """The document with its first replica as the leader, if that could lead at once (C8)."""
    leader, first = document.leader, document.replicas[0]
    if leader is None or leader.broker_id == first or document.recovering:
        return None
    for member in document.isr:
        if member.broker_id == first and _is_current(member, brokers):
            if not brokers[first].is_staying:
                return None
            return _with_epoch(document, replace(document, leader=member))
    return None


def preferred_or_refused(document: PartitionDocument, brokers: Brokers) -> PartitionDocument:
    """The document with its first replica as the leader, which it may be already (C8).

    Raises refusal(CONFLICT) when it cannot lead at once.
    """
    leader, first = document.leader, document.replicas[0]
    if leader is not None and leader.broker_id == first:
        return document
    after = preferred(document, brokers)
    if after is None:
        raise refusal(
            Code.CONFLICT,
            f"broker {first} is the preferred leader and cannot lead now: in sync are "
            f"{[m.broker_id for m in document.isr]}, and one that stops is not elected",
        )
    return after


def recovery_members(
    document: PartitionDocument, place: Place, brokers: Brokers
) -> tuple[int, ...] | None:
    """Whose reports a recovery election needs; None if there can be none (D8).

    Only when nobody who is known to have everything can come back: none of the last members
    vouches, and each of them is here. Under `fsync` that means wiped or damaged disks, and is left
    to an operator.
    """
    members = _last_members(document)
    if document.leader is not None or document.flush != "replicated" or not members:
        return None
    for member in members:
        known = brokers.get(member.broker_id)
        if known is None or known.registration is None:
            return None
        if vouches(member, known.registration, place, document.flush):
            return None
    return tuple(member.broker_id for member in members)


def recover(
    document: PartitionDocument, place: Place, brokers: Brokers, reports: Mapping[int, Report]
) -> PartitionDocument | None:
    """The recovery election: the longest log among the last members leads (D8).

    Not among all replicas: one that is no member can have a higher last epoch that was abandoned
    (Raft's figure 8). None as long as a report is missing.
    """
    members = recovery_members(document, place, brokers)
    if members is None:
        return None
    valid = _valid_reports(document, place, brokers, reports)
    found = [report for report in valid if report.broker_id in members]
    if len(found) < len(members):
        return None
    return _flagged(document, found)


def unclean(
    document: PartitionDocument, place: Place, brokers: Brokers, reports: Mapping[int, Report]
) -> PartitionDocument | None:
    """The unclean election: the longest log among all who have reported leads (C7).

    For an operator who wants the partition back more than what only the missing ones have.
    """
    valid = _valid_reports(document, place, brokers, reports)
    if document.leader is not None or not valid:
        return None
    return replace(_flagged(document, valid), recovering=True)


def guards(
    before: PartitionDocument, after: PartitionDocument, brokers: Brokers
) -> tuple[Member, ...]:
    """The registrations that must stand when `after` is written (C4, D8)."""
    if after.leader is None or after.leader == before.leader:
        return ()
    if after.rec == before.rec:
        return (after.leader,)
    ids = dict.fromkeys((after.leader.broker_id, *(m.broker_id for m in _last_members(before))))
    return tuple(m for broker_id in ids if (m := _current(broker_id, brokers)) is not None)


def _led(document: PartitionDocument, place: Place, brokers: Brokers) -> PartitionDocument:
    """Without those that are gone, and led by somebody who can (C3, C4, C10)."""
    current = [m for m in document.isr if _is_current(m, brokers)]
    staying = [m for m in current if brokers[m.broker_id].is_staying]
    # One that stops hands over; when all do, they keep what they have.
    in_sync = staying or current
    if set(in_sync) != set(document.isr):
        document = with_isr(document, in_sync)
    if document.leader is not None and document.leader in document.isr:
        return document
    if not document.isr:
        eligible = _eligible(document, place, brokers)
        if eligible is None:
            was = document.last_leader if document.leader is None else document.leader.broker_id
            return replace(document, leader=None, last_leader=was)
        document = with_isr(document, [eligible])
    leader = min(document.isr, key=lambda m: document.replicas.index(m.broker_id))
    return replace(document, leader=leader, last_leader=None)


def _eligible(document: PartitionDocument, place: Place, brokers: Brokers) -> Member | None:
    """Who of the ELR has everything and is here: first of those who stay, in the assigned order."""
    found: list[tuple[bool, int, Member]] = []
    for entry in document.elr:
        known = brokers.get(entry.broker_id)
        if known is None or known.registration is None:
            continue
        if vouches(entry, known.registration, place, document.flush):
            order = document.replicas.index(entry.broker_id)
            member = Member(entry.broker_id, known.registration.epoch)
            found.append((not known.is_staying, order, member))
    return min(found)[2] if found else None


def _flagged(document: PartitionDocument, reports: Iterable[Report]) -> PartitionDocument:
    """Led by the longest log, with the mark that acknowledged records may be lost (D8, D9)."""
    order = document.replicas.index
    best = max(reports, key=lambda r: (r.last_epoch, r.end_offset, -order(r.broker_id)))
    leader = Member(best.broker_id, best.broker_epoch)
    return replace(
        document,
        leader=leader,
        leader_epoch=document.leader_epoch + 1,
        isr=(leader,),
        elr=(),
        last_leader=None,
        rec=document.leader_epoch + 1,
    )


def _valid_reports(
    document: PartitionDocument, place: Place, brokers: Brokers, reports: Mapping[int, Report]
) -> list[Report]:
    """Those of replicas in the run that is registered, made after adopting this leader epoch."""
    return [
        report
        for broker_id in document.replicas
        if (report := reports.get(broker_id)) is not None
        and report.place == place
        and report.leader_epoch == document.leader_epoch
        and _is_current(Member(broker_id, report.broker_epoch), brokers)
    ]


def _last_members(document: PartitionDocument) -> tuple[Member, ...]:
    """Of a document without a leader: who was last allowed to commit (D6)."""
    return (*document.isr, *document.elr)


def _current(broker_id: int, brokers: Brokers) -> Member | None:
    known = brokers.get(broker_id)
    epoch = None if known is None else known.epoch
    return None if epoch is None else Member(broker_id, epoch)


def _is_current(member: Member, brokers: Brokers) -> bool:
    known = brokers.get(member.broker_id)
    return known is not None and known.epoch == member.broker_epoch


def _with_epoch(before: PartitionDocument, after: PartitionDocument) -> PartitionDocument:
    """The leader epoch rises when the leader changes or a replica was taken out (C6)."""
    removed = set(before.replicas) - set(after.replicas)
    if after.leader == before.leader and not removed:
        return after
    return replace(after, leader_epoch=before.leader_epoch + 1)
