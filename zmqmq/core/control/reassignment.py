"""Moving a partition to other brokers, in steps that each leave it whole (C9).

`begun` lists the new replicas beside the old ones; the leader takes them into the ISR as they catch
up; `completed` lets go of the old ones once all the new ones are in. `cancelled` goes back to the
old ones as long as one of them is in sync. Whose leader was taken out has none until the election
that follows in the same write.
"""

from __future__ import annotations

from dataclasses import replace

from zmqmq.core.meta.fields import REPLICAS_MAX
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.core.replication.transitions import with_replicas
from zmqmq.errors import Code, refusal


def begun(document: PartitionDocument, target: tuple[int, ...]) -> PartitionDocument:
    """The document with a reassignment to `target`, in the order of preference.

    One that is under way goes on from where it is. Raises refusal(INVALID_CONFIG).
    """
    if not target or len(set(target)) != len(target):
        raise refusal(
            Code.INVALID_CONFIG,
            f"replicas {list(target)}: give at least one broker, and none twice",
        )
    removing = tuple(r for r in document.replicas if r not in target)
    if len(target) + len(removing) > REPLICAS_MAX:
        raise refusal(
            Code.INVALID_CONFIG,
            f"{len(target)} new replicas and {len(removing)} old ones are more than "
            f"{REPLICAS_MAX} at a time; move in two steps",
        )
    original = [r for r in document.replicas if r not in document.adding]
    return replace(
        document,
        replicas=(*target, *removing),
        adding=tuple(r for r in target if r not in original),
        removing=removing,
    )


def completed(document: PartitionDocument) -> PartitionDocument | None:
    """The document without those that go, once all who stay are in sync; else None."""
    if not document.adding and not document.removing:
        return None
    target = tuple(r for r in document.replicas if r not in document.removing)
    # All of them: so there are as many as the least ISR asks of that number.
    if not set(target) <= {m.broker_id for m in document.isr}:
        return None
    return _moved(document, target)


def cancelled(document: PartitionDocument) -> PartitionDocument:
    """The document without those that were to come.

    Raises refusal(CONFLICT) when nothing is under way, or none of the old ones is in sync.
    """
    if not document.adding and not document.removing:
        raise refusal(Code.CONFLICT, "no reassignment is under way")
    original = tuple(r for r in document.replicas if r not in document.adding)
    if not {m.broker_id for m in document.isr} & set(original):
        raise refusal(
            Code.CONFLICT,
            f"none of the old replicas {list(original)} is in sync; wait until one is, or let the "
            "reassignment end",
        )
    return _moved(document, original)


def _moved(document: PartitionDocument, replicas: tuple[int, ...]) -> PartitionDocument:
    moved = with_replicas(replace(document, adding=(), removing=()), replicas)
    return moved if moved.leader in moved.isr else replace(moved, leader=None)
