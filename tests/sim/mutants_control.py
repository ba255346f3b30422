"""Controllers and registrations without one of their rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.sim.mutants import Patch, always, mutant
from zmqmq.core.control import elections, reassignment, recoveries
from zmqmq.core.control.controller import Controller
from zmqmq.core.control.image import KnownBroker
from zmqmq.core.control.membership import Membership
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.core.replication import transitions
from zmqmq.core.replication.vouching import Registration
from zmqmq.core.replication.vouching import vouches as vouches_by_rule

# Who is elected


@mutant("D4", schedules=["schedule_11", "schedule_28"], seeds=[79])
def all_vouch(patch: Patch) -> None:
    """Whoever is registered vouches for everything that it ever had."""
    patch.setattr(elections, "vouches", lambda _, registration, *__: registration is not None)


@mutant("D5", schedules=["schedule_29_nats_7549_a_damaged"])
def damage_ignored(patch: Patch) -> None:
    """Partitions that were damaged are vouched for like all others."""

    def vouches(entry: Member, registration: Registration | None, *rest: Any) -> bool:
        if registration is not None:
            registration = registration._replace(unvouched={})
        return vouches_by_rule(entry, registration, *rest)

    patch.setattr(elections, "vouches", vouches)


@mutant("C4", schedules=["schedule_24"], seeds=[79])
def elect_outsider(patch: Patch) -> None:
    """When nobody of the ISR and ELR is here, any replica leads."""
    find = elections._eligible

    def eligible(document: PartitionDocument, place: Any, brokers: Any) -> Member | None:
        found = find(document, place, brokers)
        if found is not None:
            return found
        here = (elections._current(broker_id, brokers) for broker_id in document.replicas)
        return next((member for member in here if member is not None), None)

    patch.setattr(elections, "_eligible", eligible)


@mutant("L8", schedules=["schedule_13"], seeds=[35])
def no_elr(patch: Patch) -> None:
    """Nobody remembers who left while too few remained."""
    with_isr = transitions.with_isr

    def without_elr(document: PartitionDocument, isr: Any) -> PartitionDocument:
        return replace(with_isr(document, isr), elr=())

    patch.setattr(elections, "with_isr", without_elr)


@mutant("D7", schedules=["lowering_min_isr"])
def lowered_min_keeps_elr(patch: Patch) -> None:
    """A lower min_isr leaves the ELR as it is."""
    patch.setattr(transitions, "_lowered", lambda _, after: after)


@mutant("D7", schedules=["schedule_13"])
def lowered_min_drops_all(patch: Patch) -> None:
    """A lower min_isr empties the ELR, also when the ISR is empty."""

    def lowered(before: PartitionDocument, after: PartitionDocument) -> PartitionDocument:
        if after.effective_min_isr < before.effective_min_isr:
            return replace(after, elr=())
        return after

    patch.setattr(transitions, "_lowered", lowered)


@mutant("C6", schedules=["schedule_14"], seeds=[35])
def election_without_epoch(patch: Patch) -> None:
    """A new leader goes on in the epoch of the one before."""
    patch.setattr(elections, "_with_epoch", lambda _, after: after)


@mutant("C10", schedules=["a_broker_that_stops_hands_over"])
def elect_who_stops(patch: Patch) -> None:
    """Brokers that want to stop keep what they lead."""
    patch.setattr(KnownBroker, "is_shutting_down", property(always(False)))


@mutant("C9", schedules=["schedule_31"], seeds=[173])
def reassigned_at_once(patch: Patch) -> None:
    """A reassignment lets go of the old replicas before the new ones have caught up."""

    def completed(document: PartitionDocument) -> PartitionDocument | None:
        if not document.removing:
            return None
        target = tuple(r for r in document.replicas if r not in document.removing)
        return reassignment._moved(document, target)

    patch.setattr(elections, "completed", completed)


@mutant("D12", schedules=["the_mode_changes_when"])
def mode_at_once(patch: Patch) -> None:
    """The controller makes `fsync` effective as soon as the topic wants it."""
    settle = elections.settle

    def settled(document: Any, place: Any, wishes: Any, *rest: Any) -> PartitionDocument | None:
        after = settle(document, place, wishes, *rest)
        if document.flush == wishes.flush:
            return after
        return replace(after or document, flush=wishes.flush)

    patch.setattr(elections, "settle", settled)
    patch.setattr("zmqmq.core.control.controller.settle", settled)


@mutant("C1", schedules=["schedule_32"])
def writes_without_guard(patch: Patch) -> None:
    """A controller writes without a look whether it is in office, and what stands there."""
    begin = Controller.__init__

    def init(
        self: Controller, broker_id: int, keys: Any, image: Any, then: Any, *others: Any
    ) -> None:
        def unguarded(ops: Any, ifs: Any, answered: Any) -> None:
            then(ops, ifs if ops[0].key == keys.controller else (), answered)

        begin(self, broker_id, keys, image, unguarded, *others)

    patch.setattr(Controller, "__init__", init)


# Recovery elections


@mutant("D8", schedules=["a_recovery_waits"], seeds=[79])
def recover_missing(patch: Patch) -> None:
    """The longest log of those who are here leads, whoever may come back."""

    def members(document: PartitionDocument, _: Any, brokers: Any) -> tuple[int, ...] | None:
        found = [m for m in (*document.isr, *document.elr) if elections._current(m[0], brokers)]
        if document.leader is not None or document.flush != "replicated" or not found:
            return None
        return tuple(member.broker_id for member in found)

    patch.setattr(elections, "recovery_members", members)
    patch.setattr(recoveries, "recovery_members", members)


@mutant("D8", schedules=["a_recovery_takes_the_longest"], seeds=[128])
def recover_any(patch: Patch) -> None:
    """Any of the last members leads."""
    flagged = elections._flagged

    def worst(document: PartitionDocument, reports: Any) -> PartitionDocument:
        least = min(reports, key=lambda r: (r.last_epoch, r.end_offset))
        return flagged(document, [least])

    patch.setattr(elections, "_flagged", worst)


@mutant("D8", schedules=["a_recovery_is_among"])
def recover_outsider(patch: Patch) -> None:
    """The longest log of all replicas leads."""
    wanted = elections.recovery_members

    def members(document: PartitionDocument, place: Any, brokers: Any) -> tuple[int, ...] | None:
        return None if wanted(document, place, brokers) is None else document.replicas

    patch.setattr(elections, "recovery_members", members)
    patch.setattr(recoveries, "recovery_members", members)


@mutant("D9", schedules=["after_a_recovery"])
def recover_keeps_high_watermark(patch: Patch) -> None:
    """A copy that comes back after a recovery election shows what it knew before."""
    patch.setattr("zmqmq.core.broker.replicas.is_suspect", always(False))


# Registrations


@mutant("D5", schedules=["an_empty_directory"], seeds=[54])
def wiped_keeps_since(patch: Patch) -> None:
    """A new data directory vouches for everything that this broker ever had."""
    begin = Membership.__init__

    def init(self: Membership, process: Any, values: Any, *rest: Any) -> None:
        begin(self, process, replace(values, since_fsync=values.since_fsync or 0), *rest)

    patch.setattr(Membership, "__init__", init)


@mutant("D4", schedules=["a_broker_that_stopped_badly_twice"], seeds=[212])
def only_the_last_run_vouches(patch: Patch) -> None:
    """A broker vouches for its last run, and not for those before."""
    register = Membership.registered

    def registered(self: Membership, now: Any, epoch: int) -> None:
        last = self._format.epoch or None
        self._format = replace(self._format, since_fsync=last)
        register(self, now, epoch)

    document = Membership._document

    def last_run(self: Membership) -> Any:
        return replace(document(self), since_fsync=self._format.epoch or None)

    patch.setattr(Membership, "registered", registered)
    patch.setattr(Membership, "_document", last_run)


@mutant("D4", schedules=["a_clean_stop_is_forgotten"])
def serve_before_format(patch: Patch) -> None:
    """A broker serves before its directory knows that it runs."""
    register = Membership.registered

    def registered(self: Membership, now: Any, epoch: int) -> None:
        register(self, now, epoch)
        self._written_epoch = epoch
        self.changed(now)

    patch.setattr(Membership, "registered", registered)
