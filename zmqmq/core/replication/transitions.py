"""How a partition document may change in what concerns its ISR (L8, D6, D7).

Used by the leader and by the controller, so that both write the ELR that goes with an ISR. The
ELR are those who left while too few remained to commit anything: as long as |ISR| < min nothing
is committed (L5), so each of them still holds all that is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.values import PartitionDocument


def with_isr(document: PartitionDocument, isr: Iterable[Member]) -> PartitionDocument:
    """The document with another ISR, and the ELR that goes with it (L8).

    An incarnation that leaves goes to the ELR also if it no longer vouches: there it does not
    count, but who the last members were stays known (D6). It goes when its broker is back in the
    ISR, or when there are enough again.
    """
    members = _ordered(document, isr)
    if len(members) >= document.effective_min_isr:
        return replace(document, isr=members, elr=())
    present = {member.broker_id for member in members}
    eligible = [m for m in (*document.elr, *document.isr) if m.broker_id not in present]
    return replace(document, isr=members, elr=_ordered(document, eligible))


def with_member(document: PartitionDocument, member: Member) -> PartitionDocument:
    """The document after a replica has joined the ISR (L7), in place of any earlier incarnation."""
    others = [m for m in document.isr if m.broker_id != member.broker_id]
    return with_isr(document, [*others, member])


def with_min_isr(document: PartitionDocument, min_isr: int) -> PartitionDocument:
    """The document with another least ISR (D7).

    Lowered, it may let the ISR commit without those in the ELR, so they no longer qualify. Not so
    when the ISR is empty: then nobody commits, and the ELR holds the only candidates.
    """
    return _lowered(document, replace(document, min_isr=min_isr))


def with_replicas(document: PartitionDocument, replicas: tuple[int, ...]) -> PartitionDocument:
    """The document with fewer replicas, or in another order; who goes leaves ISR and ELR (C9).

    The leader is left to the caller, and so is the leader epoch.
    """
    kept = set(replicas)
    fewer = replace(
        document,
        replicas=replicas,
        isr=tuple(m for m in document.isr if m.broker_id in kept),
        elr=tuple(m for m in document.elr if m.broker_id in kept),
    )
    return with_isr(_lowered(document, fewer), fewer.isr)


def _lowered(before: PartitionDocument, after: PartitionDocument) -> PartitionDocument:
    if after.effective_min_isr < before.effective_min_isr and after.isr:
        return replace(after, elr=())
    return after


def _ordered(document: PartitionDocument, members: Iterable[Member]) -> tuple[Member, ...]:
    """In the order of the replicas, so that equal sets make equal documents."""
    return tuple(sorted(members, key=lambda m: document.replicas.index(m.broker_id)))
