"""Which brokers have failed, as far as one that asks them all can tell (DESIGN 6, decision 13).

Every broker asks every other one PING twice a second. Two kinds of evidence count, both only about
the very run that has answered here before:

- its connection has broken, and for GONE_NS nobody has answered on a new one: its process is gone;
- it has not answered for SILENT_NS although the connection stands, and another broker, where there
  is one that can be heard, has found the same: it is frozen, or cut off from more than from us.

Both may be wrong. It costs the broker a new registration and no record, so nothing that must be
safe asks a detector. Only time in which this process ran is counted: one that was stopped for a
minute knows nothing of that minute.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from zmqmq.core.meta.fields import Member

PING_NS: Final = 500 * 10**6
"""Between two questions to a broker."""
GONE_NS: Final = 500 * 10**6
SILENT_NS: Final = 3 * 10**9
LOOK_NS: Final = 200 * 10**6
"""Brokers look more often. What is longer than this between two looks was no time of ours."""


class _Watched:
    """One broker that has answered."""

    __slots__ = ("broken_ns", "epoch", "silent_ns", "suspects")

    def __init__(self, epoch: int, suspects: Collection[Member]) -> None:
        self.epoch = epoch
        """Of the run that has answered."""
        self.suspects = suspects
        """Whom it did not hear itself when it answered."""
        self.silent_ns = 0
        """Since it answered."""
        self.broken_ns: int | None = None
        """Since the connection broke; None: it did not since it answered."""

    @property
    def is_gone(self) -> bool:
        return self.broken_ns is not None and self.broken_ns >= GONE_NS


class Detector:
    """Lives as long as its broker."""

    def __init__(self) -> None:
        self._watched: dict[int, _Watched] = {}
        self._looked_ns: int | None = None

    def answered(self, member: Member, suspects: Collection[Member]) -> None:
        """This run has answered, and said whom it does not hear."""
        self._watched[member.broker_id] = _Watched(member.broker_epoch, suspects)

    def broke(self, broker_id: int) -> None:
        """The connection to it is lost."""
        watched = self._watched.get(broker_id)
        if watched is not None and watched.broken_ns is None:
            watched.broken_ns = 0

    def look(self, now_ns: int) -> None:
        """Time went by. Call it more often than each LOOK_NS."""
        then, self._looked_ns = self._looked_ns, now_ns
        passed = 0 if then is None else min(now_ns - then, LOOK_NS)
        for watched in self._watched.values():
            watched.silent_ns += passed
            if watched.broken_ns is not None:
                watched.broken_ns += passed

    def is_silent(self, broker_id: int) -> bool:
        """Whether it has answered before, and not for so long that it may have failed."""
        watched = self._watched.get(broker_id)
        return watched is not None and watched.silent_ns >= SILENT_NS

    def suspects(self) -> list[Member]:
        """Whom this broker does not hear: what it tells others that ask.

        A PING_NS early, since others did not begin to count when we did.
        """
        return [
            Member(broker_id, watched.epoch)
            for broker_id, watched in self._watched.items()
            if watched.is_gone or watched.silent_ns >= SILENT_NS - PING_NS
        ]

    def failed(self, others: Mapping[int, int]) -> list[Member]:
        """Whom to fence, of the brokers that are registered besides this one, with their epochs."""
        return [
            member for pair in others.items() if self._has_failed(member := Member(*pair), others)
        ]

    def _has_failed(self, member: Member, others: Mapping[int, int]) -> bool:
        watched = self._watched.get(member.broker_id)
        if watched is None or watched.epoch != member.broker_epoch:
            return False
        if watched.is_gone:
            return True
        return self.is_silent(member.broker_id) and self._is_confirmed(member, others)

    def _is_confirmed(self, member: Member, others: Mapping[int, int]) -> bool:
        """Whether another one finds the same, or there is none. Those that are silent themselves
        are no witnesses: if all are, it may be us who are cut off."""
        witnesses = [broker_id for broker_id in others if broker_id != member.broker_id]
        heard = [w for b in witnesses if (w := self._watched.get(b)) and not self.is_silent(b)]
        return not witnesses or any(member in witness.suspects for witness in heard)
