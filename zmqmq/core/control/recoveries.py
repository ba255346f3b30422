"""Partitions that nobody leads: asks the replicas what they have, until one can be elected.

Two elections need reports: that of the longest log when everybody has forgotten (D8), and the
unclean one (C7), which waits besides, so that who is merely late can still come back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from zmqmq.core.control.commits import Moment
from zmqmq.core.control.elections import (
    Brokers,
    Report,
    Wishes,
    recover,
    recovery_members,
    unclean,
)
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.core.replication.vouching import Place

AskReport = Callable[[Place, Sequence[int], int], None]
"""Ask these brokers for a Report of a partition, in this leader epoch; answers may be lost."""
ASK_EVERY_NS: Final = 10**9


class _Open:
    """One such partition."""

    __slots__ = ("asked_ns", "leader_epoch", "reports", "since_ns")

    def __init__(self, leader_epoch: int, since_ns: int) -> None:
        self.leader_epoch = leader_epoch
        self.since_ns = since_ns
        self.reports: dict[int, Report] = {}
        self.asked_ns: dict[int, int] = {}


class Recoveries:
    """Of one controller epoch."""

    def __init__(self, ask_report: AskReport, unclean_wait_ns: int) -> None:
        self._ask_report = ask_report
        self._unclean_wait_ns = unclean_wait_ns
        self._open: dict[Place, _Open] = {}
        self._allowed: dict[Place, None] = {}
        self._waiting: dict[Place, None] = {}
        """Those that are to be looked at again."""
        self.look_ns: int | None = None
        """When that is."""

    def allow(self, place: Place) -> None:
        """An operator wants an unclean election, this once."""
        self._allowed[place] = None

    def forget(self, place: Place) -> None:
        """It is led again, or gone."""
        for places in (self._open, self._allowed, self._waiting):
            places.pop(place, None)

    def take(self, report: Report) -> bool:
        """A replica has answered; whether anybody had asked."""
        found = self._open.get(report.place)
        if found is None or found.leader_epoch != report.leader_epoch:
            return False
        found.reports[report.broker_id] = report
        return True

    def due(self, now: Moment) -> list[Place]:
        """Those to look at again now."""
        if self.look_ns is None or now.ns < self.look_ns:
            return []
        waiting, self._waiting, self.look_ns = list(self._waiting), {}, None
        return waiting

    def next(
        self,
        now: Moment,
        place: Place,
        document: PartitionDocument,
        wishes: Wishes,
        brokers: Brokers,
    ) -> PartitionDocument | None:
        """The document after an election, if there can be one now; else who is needed is asked."""
        found = self._open.get(place)
        if found is None or found.leader_epoch != document.leader_epoch:
            since_ns = now.ns if found is None else found.since_ns
            found = self._open[place] = _Open(document.leader_epoch, since_ns)
        after = recover(document, place, brokers, found.reports)
        if after is not None:
            return after
        wanted = recovery_members(document, place, brokers) or ()
        if wishes.unclean_election or place in self._allowed:
            known = (brokers.get(broker_id) for broker_id in document.replicas)
            wanted = tuple(k.broker_id for k in known if k is not None and k.live is not None)
            waited_ns = now.ns - found.since_ns
            is_complete = all(broker_id in found.reports for broker_id in wanted)
            if waited_ns >= self._unclean_wait_ns * (1 if is_complete else 2):
                after = unclean(document, place, brokers, found.reports)
                if after is not None:
                    return after
        self._ask(now, place, found, wanted, brokers)
        return None

    def _ask(
        self, now: Moment, place: Place, found: _Open, wanted: Sequence[int], brokers: Brokers
    ) -> None:
        if not wanted:
            self._waiting.pop(place, None)
            return
        self._waiting[place] = None
        if self.look_ns is None:
            self.look_ns = now.ns + ASK_EVERY_NS
        missing = []
        for broker_id in wanted:
            report = found.reports.get(broker_id)
            if report is not None and report.broker_epoch == brokers[broker_id].epoch:
                continue
            asked_ns = found.asked_ns.get(broker_id)
            if asked_ns is None or now.ns >= asked_ns + ASK_EVERY_NS:
                found.asked_ns[broker_id] = now.ns
                missing.append(broker_id)
        if missing:
            self._ask_report(place, missing, found.leader_epoch)
