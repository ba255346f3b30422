"""Brokers that serve clients without one of their rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.sim.mutants import Patch, mutant
from zmqmq.core.broker.broker import Broker
from zmqmq.core.broker.copies import Copy
from zmqmq.core.broker.fetch import Asked, Fetching
from zmqmq.core.broker.latest import Latest
from zmqmq.core.broker.offsets import Offsets
from zmqmq.core.replication.partition import Partition


@mutant("L15", schedules=["schedule_21"], seeds=[106])
def consumers_read_to_the_end(patch: Patch) -> None:
    """A consumer is given what the leader has, committed or not."""
    for name in ("_is_ready", "_go_on"):
        patch.setattr(Fetching, name, _shown_to_the_end(getattr(Fetching, name)))


def _shown_to_the_end(method: Callable[[Fetching, Any], Any]) -> Callable[[Fetching, Any], Any]:
    def shown(self: Fetching, request: Any) -> Any:
        sources = [entry.source for entry in request.asked if isinstance(entry, Asked)]
        partitions = [source for source in sources if isinstance(source, Partition)]
        marks = [p.high_watermark for p in partitions]
        for partition in partitions:
            partition.high_watermark = partition.log.written_end
        try:
            return method(self, request)
        finally:
            for partition, mark in zip(partitions, marks, strict=True):
                partition.high_watermark = mark

    return shown


@mutant("F11", schedules=["f11_a_copy_shows_only"], seeds=[7])
def copies_show_their_end(patch: Patch) -> None:
    """A consumer is given what a follower has, known to be committed or not."""
    patch.setattr(Copy, "shown_end", property(lambda copy: copy.log.written_end))


@mutant("L14", schedules=["an_offset_that_was_committed"], seeds=[107])
def coordinator_loads_early(patch: Patch) -> None:
    """A coordinator loads what it knows to be committed when it begins."""
    load = Offsets.load

    def early(self: Offsets, partition: Partition) -> None:
        leso, partition.isr.leso = partition.isr.leso, 0
        load(self, partition)
        partition.isr.leso = leso

    patch.setattr(Offsets, "load", early)


@mutant("D10", schedules=["what_is_told_to_be_committed"], seeds=[7])
def answers_without_round(patch: Patch) -> None:
    """Ends of logs and committed offsets are answered at once."""

    def ask(_self: Latest, *arguments: Any) -> None:
        arguments[-1]()

    patch.setattr(Latest, "ask", ask)


@mutant("C12", schedules=["schedule_30"])
def missing_document_deletes(patch: Patch) -> None:
    """What no document names is taken for orphaned, and deleted."""
    changed = Broker._metadata_changed

    def deleting(self: Broker, now: Any, batch: Any) -> None:
        known = dict(self.image.partitions)
        changed(self, now, batch)
        for place in known:
            replica = self.replicas.all.get(place)
            if place not in self.image.partitions and replica is not None:
                self.replicas._remove(replica, "nobody knows it")

    patch.setattr(Broker, "_metadata_changed", deleting)
