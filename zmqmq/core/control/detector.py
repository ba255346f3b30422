"""Which brokers have failed, as far as one that asks them all can tell (DESIGN 6, decision 13).

Every broker asks every other one PING twice a second. Two kinds of evidence count, both only about
the very run that has answered here before:

- its connection has broken, and a new one was refused, or for GONE_NS nobody has answered on it:
  its process is gone;
- it has not answered for SILENT_NS although the connection stands: it is frozen, or cut off.

Where there are three brokers or more a second one has to find the same: one that is cut off itself
would accuse everybody. All of it may be wrong. That costs the broker a new registration and no
record, so nothing that must be safe asks a detector.

Only time counts in which this process ran, and in which it heard somebody if there are several: one
that was stopped, or cut off from all, for a minute knows nothing of that minute.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from zmqmq.core.meta.fields import Member

PING_NS: Final = 500 * 10**6
"""Between two questions to a broker."""
GONE_NS: Final = 500 * 10**6
SILENT_NS: Final = 3 * 10**9
DEAF_NS: Final = 2 * PING_NS
"""If all others are silent for so long, it may be us."""
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

    @property
    def is_silent(self) -> bool:
        return self.silent_ns >= SILENT_NS

    @property
    def is_heard(self) -> bool:
        """Whether what it said is still worth something."""
        return self.broken_ns is None and self.silent_ns < DEAF_NS


class Detector:
    """Lives as long as its broker."""

    def __init__(self) -> None:
        self._watched: dict[int, _Watched] = {}
        self._looked_ns: int | None = None

    def answered(self, member: Member, suspects: Collection[Member]) -> None:
        """This run has answered, and said whom it does not hear."""
        self._watched[member.broker_id] = _Watched(member.broker_epoch, suspects)

    def heard(self, broker_id: int) -> None:
        """It has sent something else, behind which its answer may have to wait."""
        watched = self._watched.get(broker_id)
        if watched is not None:
            watched.silent_ns = 0

    def broke(self, broker_id: int) -> None:
        """The connection to it is lost."""
        watched = self._watched.get(broker_id)
        if watched is not None and watched.broken_ns is None:
            watched.broken_ns = 0

    def refused(self, broker_id: int) -> None:
        """Nobody listens where it did, so there is nothing to wait for if it had been connected."""
        watched = self._watched.get(broker_id)
        if watched is not None and watched.broken_ns is not None:
            watched.broken_ns = max(watched.broken_ns, GONE_NS)

    def look(self, now_ns: int, others: Collection[int]) -> None:
        """Time went by. Call it more often than each LOOK_NS; the others are those registered."""
        then, self._looked_ns = self._looked_ns, now_ns
        passed = 0 if then is None else min(now_ns - then, LOOK_NS)
        known = [watched for b in others if (watched := self._watched.get(b)) is not None]
        is_deaf = len(others) > 1 and all(watched.silent_ns >= DEAF_NS for watched in known)
        for watched in self._watched.values():
            if not is_deaf:
                watched.silent_ns += passed
            if watched.broken_ns is not None:
                watched.broken_ns += passed

    def is_silent(self, broker_id: int) -> bool:
        """Whether it has answered before, and not for so long that it may have failed."""
        watched = self._watched.get(broker_id)
        return watched is not None and watched.is_silent

    def is_pressing(self) -> bool:
        """Whether somebody seems to be gone since a moment ago, so that others should be asked."""
        return any(
            watched.broken_ns is not None and GONE_NS <= watched.broken_ns < SILENT_NS
            for watched in self._watched.values()
        )

    def suspects(self) -> list[Member]:
        """Whom this broker does not hear: what it tells others that ask.

        A PING_NS early, since others did not begin to count when we did.
        """
        return [
            Member(broker_id, watched.epoch)
            for broker_id, watched in self._watched.items()
            if watched.is_gone or watched.silent_ns >= SILENT_NS - PING_NS
        ]

    def failed(self, me: Member, others: Mapping[int, int]) -> list[Member]:
        """Whom to fence, of the brokers that are registered besides this one, with their epochs."""
        members = [Member(*pair) for pair in others.items()]
        return [member for member in members if self._has_failed(member, me, others)]

    def _has_failed(self, member: Member, me: Member, others: Mapping[int, int]) -> bool:
        watched = self._watched.get(member.broker_id)
        if watched is None or watched.epoch != member.broker_epoch:
            return False
        if not (watched.is_gone or watched.is_silent):
            return False
        witnesses = [b for b in others if b != member.broker_id]
        return not witnesses or any(self._confirms(b, member, me) for b in witnesses)

    def _confirms(self, witness: int, member: Member, me: Member) -> bool:
        """Whether another one finds the same. One that does not hear us may be the sick one."""
        watched = self._watched.get(witness)
        if watched is None or not watched.is_heard:
            return False
        return member in watched.suspects and me not in watched.suspects
