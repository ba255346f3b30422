"""Short forms of what the rules of replication and control speak about.

A member is written `(broker, epoch)`; PLACE is the one partition that most tests need.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zmqmq.core.control.image import KnownBroker, registration_of
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.values import BrokerDocument, LiveDocument, PartitionDocument

TOPIC = bytes(range(16))
PLACE = (TOPIC, 0)


def members(pairs: Iterable[tuple[int, int]]) -> tuple[Member, ...]:
    return tuple(Member(*pair) for pair in pairs)


def partition(
    replicas: tuple[int, ...] = (1, 2, 3),
    leader: tuple[int, int] | None = None,
    isr: Iterable[tuple[int, int]] = (),
    elr: Iterable[tuple[int, int]] = (),
    min_isr: int = 2,
    **others: Any,
) -> PartitionDocument:
    """A document in leader epoch 5, `fsync` unless said otherwise."""
    fields: dict[str, Any] = {
        "adding": (),
        "removing": (),
        "leader_epoch": 5,
        "last_leader": None,
        "recovering": False,
        "rec": 0,
        "write_id": "",
        "flush": "fsync",
    }
    return PartitionDocument(
        replicas=replicas,
        leader=None if leader is None else Member(*leader),
        isr=members(isr),
        elr=members(elr),
        min_isr=min_isr,
        **{**fields, **others},
    )


def live(
    since_fsync: int | None = None,
    since_clean: int | None = None,
    unvouched: Mapping[str, int | None] | None = None,
    rack: str | None = None,
) -> LiveDocument:
    return LiveDocument(
        instance=b"\0" * 16,
        endpoints={},
        rack=rack,
        version="1",
        since_fsync=since_fsync,
        since_clean=since_clean,
        unvouched=unvouched or {},
    )


def broker(
    broker_id: int,
    epoch: int,
    since_fsync: int | None = None,
    since_clean: int | None = None,
    *,
    stops: bool = False,
    cordoned: bool = False,
    rack: str | None = None,
) -> KnownBroker:
    """A registered broker."""
    document = live(since_fsync, since_clean, rack=rack)
    flags = BrokerDocument(broker_epoch=epoch, shutting_down=stops, cordoned=cordoned)
    return KnownBroker(broker_id, document, registration_of(document, epoch), flags, 1)


def up(*brokers: KnownBroker) -> dict[int, KnownBroker]:
    return {known.broker_id: known for known in brokers}


def check_i8(document: PartitionDocument) -> None:
    """I8, and that the document can be read again."""
    isr = {m.broker_id for m in document.isr}
    elr = {m.broker_id for m in document.elr}
    assert document.leader is None or document.leader in document.isr
    assert isr | elr <= set(document.replicas)
    assert not isr & elr
    assert len(isr) == len(document.isr)
    assert len(elr) == len(document.elr)
    assert len(isr) < document.effective_min_isr or not elr
    assert PartitionDocument.decode(document.encode()) == document
