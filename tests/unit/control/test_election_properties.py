"""Whatever a document and the brokers look like, `settle` keeps the invariants, and it elects whom
the modelled rules elect (research/replication_model.py: `with_isr`, `elect`, `controller`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.documents import PLACE, broker, check_i8, partition
from zmqmq.core.control.elections import Brokers, Report, Wishes, recover, settle, unclean
from zmqmq.core.control.image import KnownBroker
from zmqmq.core.control.reassignment import begun, cancelled
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.core.replication.transitions import with_isr
from zmqmq.core.replication.vouching import vouches
from zmqmq.errors import WireError

EPOCHS = st.integers(1, 12)


@st.composite
def known_brokers(draw: Any, *, stopping: bool = True) -> dict[int, KnownBroker]:
    """Some of five brokers, in runs that vouch for this and that."""
    found = {}
    for broker_id in range(1, 6):
        if draw(st.booleans()):
            epoch = draw(EPOCHS)
            fsync = draw(st.none() | st.integers(1, epoch))
            # What survived a kill survived a clean stop too.
            clean = None if fsync is None else draw(st.none() | st.integers(fsync, epoch))
            stops = stopping and draw(st.booleans())
            found[broker_id] = broker(broker_id, epoch, fsync, clean, stops=stops)
    return found


@st.composite
def documents(draw: Any, *, moving: bool = True) -> PartitionDocument:
    """A document that the rules can have made."""
    replicas = draw(st.permutations(range(1, 6)))[: draw(st.integers(1, 5))]
    places = {b: draw(st.sampled_from(["isr", "isr", "elr", "out"])) for b in replicas}
    epochs = {b: draw(EPOCHS) for b in replicas}
    isr = [(b, epochs[b]) for b in replicas if places[b] == "isr"]
    elr = [(b, epochs[b]) for b in replicas if places[b] == "elr"]
    min_isr = draw(st.integers(1, 4))
    if len(isr) >= min(min_isr, len(replicas)):
        elr = []
    adding = removing = ()
    if moving:
        moves = {b: draw(st.sampled_from(["", "", "add", "remove"])) for b in replicas}
        adding = tuple(b for b in replicas if moves[b] == "add")
        removing = tuple(b for b in replicas if moves[b] == "remove")
        if len(removing) == len(replicas):
            removing = ()
    return partition(
        tuple(replicas),
        leader=draw(st.sampled_from(isr)) if isr else None,
        isr=isr,
        elr=elr,
        min_isr=min_isr,
        adding=adding,
        removing=removing,
        flush=draw(st.sampled_from(["fsync", "replicated"])),
        recovering=draw(st.booleans()),
    )


WISHES = st.builds(Wishes, st.integers(1, 4), st.sampled_from(["fsync", "replicated"]))


def check_leader(before: PartitionDocument, after: PartitionDocument, brokers: Brokers) -> None:
    """A new leader is here, and it or an earlier run that it vouches for was in ISR or ELR."""
    assert after.leader is not None
    known = brokers[after.leader.broker_id]
    assert known.epoch == after.leader.broker_epoch
    entries = [m for m in (*before.isr, *before.elr) if m.broker_id == known.broker_id]
    assert any(vouches(m, known.registration, PLACE, before.flush) for m in entries)


@settings(max_examples=200)
@given(documents(), WISHES, known_brokers())
def test_i8_c4_c6_whatever_is_settled(
    document: PartitionDocument, wishes: Wishes, brokers: Brokers
) -> None:
    after = settle(document, PLACE, wishes, brokers)
    if after is None:
        return
    check_i8(after)
    assert settle(after, PLACE, wishes, brokers) is None, "twice the same changes nothing more"
    removed = set(document.replicas) - set(after.replicas)
    rises = after.leader != document.leader or bool(removed)
    assert after.leader_epoch == document.leader_epoch + rises
    if after.leader is not None and after.leader != document.leader:
        check_leader(document, after, brokers)
    assert after.isr or after.leader is None
    assert after.flush in (document.flush, "replicated")
    assert after.rec == document.rec
    if not removed and not after.isr:
        last = {m.broker_id for m in (*document.isr, *document.elr)}
        assert {m.broker_id for m in after.elr} == last, "D6: the last members stay known"


@settings(max_examples=200)
@given(documents(moving=False), known_brokers(stopping=False))
def test_settle_agrees_with_the_model(document: PartitionDocument, brokers: Brokers) -> None:
    wishes = Wishes(document.min_isr, document.flush)
    after = settle(document, PLACE, wishes, brokers) or document
    assert outcome(after) in modelled(document, brokers)


Outcome = tuple[Member | None, int, frozenset[Member], frozenset[Member]]


def outcome(document: PartitionDocument) -> Outcome:
    return (
        document.leader,
        document.leader_epoch,
        frozenset(document.isr),
        frozenset(document.elr),
    )


def modelled(document: PartitionDocument, brokers: Brokers) -> set[Outcome]:
    """What one step of the model's controller may come to; it draws among the candidates."""
    least = document.effective_min_isr
    isr, elr = frozenset(document.isr), frozenset(document.elr)

    def with_isr(
        old: frozenset[Member], eligible: frozenset[Member], new: frozenset[Member]
    ) -> frozenset[Member]:
        if len(new) >= least:
            return frozenset()
        ids = {m.broker_id for m in new}
        return frozenset(m for m in eligible | (old - new) if m.broker_id not in ids)

    def alive(entry: Member) -> Member | None:
        known = brokers.get(entry.broker_id)
        if known is None or known.registration is None:
            return None
        if not vouches(entry, known.registration, PLACE, document.flush):
            return None
        return Member(entry.broker_id, known.registration.epoch)

    kept = frozenset(m for m in isr if alive(m) == m)
    rest = with_isr(isr, elr, kept)
    if document.leader in kept:
        return {(document.leader, document.leader_epoch, kept, rest if kept != isr else elr)}
    epoch = document.leader_epoch + 1
    found = [(m, alive(m)) for m in (kept or rest)]
    candidates = [(old, new) for old, new in found if new is not None]
    if not candidates:
        return {(None, epoch if document.leader else epoch - 1, kept, rest)}
    return {
        (new, epoch, ids, with_isr(kept | {new}, frozenset(m for m in rest if m[0] != new[0]), ids))
        for old, new in candidates
        if (ids := (kept - {old}) | {new})
    }


@settings(max_examples=200)
@given(documents(), st.sets(st.integers(1, 5)), st.integers(1, 12))
def test_l8_d6_i8_any_other_isr(document: PartitionDocument, ids: set[int], epoch: int) -> None:
    isr = [Member(b, epoch) for b in document.replicas if b in ids]
    after = with_isr(replace(document, leader=None), isr)
    check_i8(after)
    if len(isr) < document.effective_min_isr:
        before = {m.broker_id for m in (*document.isr, *document.elr)}
        assert {m.broker_id for m in (*after.isr, *after.elr)} == before | (
            ids & set(document.replicas)
        )


@settings(max_examples=200)
@given(documents(), WISHES, known_brokers(), st.permutations(range(1, 6)), st.integers(0, 5))
def test_c9_i8_reassignments(
    document: PartitionDocument,
    wishes: Wishes,
    brokers: Brokers,
    order: list[int],
    count: int,
) -> None:
    try:
        changed = begun(document, tuple(order[:count])) if count else cancelled(document)
    except WireError:
        return
    after = settle(document, PLACE, wishes, brokers, changed) or document
    check_i8(after)
    if after.leader is not None and after.leader != document.leader:
        check_leader(document, after, brokers)
    assert set(after.adding) <= set(after.replicas)
    if document.leader is not None and after.leader is None:
        assert all(m.broker_id not in brokers or brokers[m.broker_id].epoch != m.broker_epoch
                   for m in document.isr if m.broker_id in after.replicas)  # fmt: skip


REPORTS = st.builds(
    Report,
    st.just(PLACE),
    st.integers(1, 5),
    EPOCHS,
    st.integers(4, 6),
    st.integers(-1, 5),
    st.integers(0, 9),
)


@settings(max_examples=200)
@given(documents(), known_brokers(), st.lists(REPORTS, max_size=8))
def test_d8_c7_i8_flagged_elections(
    document: PartitionDocument, brokers: Brokers, reports: list[Report]
) -> None:
    by_broker = {report.broker_id: report for report in reports}
    for elect in (recover, unclean):
        after = elect(document, PLACE, brokers, by_broker)
        if after is None:
            continue
        check_i8(after)
        assert document.leader is None
        assert after.leader is not None
        assert after.rec == after.leader_epoch == document.leader_epoch + 1
        best = by_broker[after.leader.broker_id]
        assert best.leader_epoch == document.leader_epoch
        assert brokers[best.broker_id].epoch == best.broker_epoch
        if elect is recover:
            assert document.flush == "replicated"
            last = {m.broker_id for m in (*document.isr, *document.elr)}
            assert best.broker_id in last
            assert all(
                (by_broker[b].last_epoch, by_broker[b].end_offset)
                <= (best.last_epoch, best.end_offset)
                for b in last
            )
