"""The in-sync replicas of a partition, as its leader sees them: how far they let it commit.

The ISR stands in the partition document. A change of it that was sent to the store and not yet
seen there may have happened or not, so until that is known the leader waits for the members of
both (the maximal ISR, L6).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.core.replication.follower_session import FollowerSession
from zmqmq.core.replication.progress import LONG_AGO, Progress
from zmqmq.core.replication.vouching import Place
from zmqmq.wire.peers import Listed

UNKNOWN: Final = -1
"""An offset below all others: nothing is known, so nothing is committed."""


class Pending(NamedTuple):
    """A change that was sent to the store, and whose outcome is not known."""

    document: PartitionDocument
    guard: int
    """It happened if a revision above this one says so, and not if one says otherwise (L9)."""
    is_ambiguous: bool = False
    """The store did not say what became of it: it may land late."""


class Isr:
    """Lives for one leader epoch, so that nothing from an earlier one is in it (L1)."""

    __slots__ = (
        "began_ns",
        "document",
        "followers",
        "is_deposed",
        "leso",
        "me",
        "pending",
        "place",
        "rested_ns",
        "revision",
        "waited_for",
    )

    def __init__(
        self,
        place: Place,
        document: PartitionDocument,
        revision: int,
        me: Member,
        leso: int,
        now_ns: int,
    ) -> None:
        assert document.leader == me, "L1: only the run that the document names leads"
        self.place = place
        self.document = document
        self.revision = revision
        self.me = me
        self.leso = leso
        """Where the log ended when this epoch began."""
        self.began_ns = now_ns
        self.pending: Pending | None = None
        self.followers: dict[int, Progress] = {}
        """By broker id; only those that fetched in this epoch (L5, L7)."""
        self.waited_for: tuple[Progress, ...] = ()
        """Outside the ISR and about to join it (L5)."""
        self.is_deposed = False
        """Whether a document was seen that names another leader or epoch (L10)."""
        self.rested_ns = LONG_AGO
        """When it was last seen at rest: all members had everything then (L8)."""

    def changed(self, document: PartitionDocument, revision: int) -> None:
        """L2: take over a document of this epoch; what is older than what is known is ignored.

        One of another epoch ends this one, and is not taken over: whatever is still committed here
        needs the members of this epoch.
        """
        if revision <= self.revision or self.is_deposed:
            return
        if document.leader_epoch != self.document.leader_epoch or document.leader != self.me:
            self.is_deposed = True
            return
        self.document = document
        self.revision = revision
        if self.pending is not None and revision > self.pending.guard:
            self.pending = None

    # Who counts

    def maximal(self) -> tuple[Member, ...]:
        """L6: who must have a record before it is committed."""
        isr = self.document.isr
        if self.pending is None:
            return isr
        return tuple(dict.fromkeys((*isr, *self.pending.document.isr)))

    def is_enough(self) -> bool:
        """L5, strict min ISR: below it nothing is committed. That is what makes the ELR sound."""
        return len(self.document.isr) >= self.document.effective_min_isr

    def is_alone(self) -> bool:
        """Whether this broker's own log decides alone."""
        return self.maximal() == (self.me,) and self.is_enough() and not self.waited_for

    @property
    def is_full(self) -> bool:
        """Whether every replica is in the ISR, so that nobody is left who could join: so it is most
        of the time, for thousands."""
        return len(self.document.isr) == len(self.document.replicas)

    def progress_of(self, member: Member) -> Progress | None:
        """Of the very run that the entry names, in this leader epoch (L5)."""
        progress = self.followers.get(member.broker_id)
        return progress if progress is not None and progress.member == member else None

    def committed_end(self, own_end: int, *, flushes: bool) -> int:
        """L5: how far everybody is who must be. UNKNOWN if too few are there, or one of them has
        not said yet."""
        if not self.is_enough():
            return UNKNOWN
        end = own_end
        for member in self.maximal():
            if member == self.me:
                continue
            progress = self.progress_of(member)
            if progress is None:
                return UNKNOWN
            end = min(end, progress.reach(flushes=flushes))
        for progress in self.waited_for:
            end = min(end, progress.reach(flushes=flushes))
        return end

    def caught_up_ns(self, member: Member) -> int:
        """When a member last had everything (L8); from the beginning on, if it said nothing yet."""
        progress = self.progress_of(member)
        if progress is None:
            return self.began_ns
        return max(progress.caught_up_ns, self.rested_ns)

    def have_all(self, end: int, *, flushes: bool) -> bool:
        """Whether every replica is in the ISR and has everything below `end`."""
        if not self.is_full:
            return False
        for member in self.document.isr:
            if member != self.me:
                progress = self.progress_of(member)
                if progress is None or progress.reach(flushes=flushes) < end:
                    return False
        return True

    # What followers say

    def is_stale(self, member: Member) -> bool:
        """F3: whether a later run of this broker has been here."""
        progress = self.followers.get(member.broker_id)
        return progress is not None and member.broker_epoch < progress.member.broker_epoch

    def fetched(
        self, now_ns: int, session: FollowerSession, listed: Listed, end: int, *, flushes: bool
    ) -> None:
        """A follower said how far it is, and its log is a prefix of ours (F4)."""
        member = session.member
        progress = self.progress_of(member)
        if progress is None:
            caught_up_ns = self.began_ns if member in self.document.isr else LONG_AGO
            progress = self.followers[member.broker_id] = Progress(member, caught_up_ns)
        progress.fetched(now_ns, session, listed, end, flushes=flushes)

    def round_is_over(self, stamp: int) -> bool:
        """D10: whether all others have answered something that was sent after `stamp` was.

        The committed ISR is not enough: one that has just joined may lead already. Nor is an ISR
        below min: then the ELR holds others that may be elected.
        """
        if not self.is_enough():
            return False
        return all(self._echo_of(member) > stamp for member in self.maximal() if member != self.me)

    def _echo_of(self, member: Member) -> int:
        progress = self.progress_of(member)
        if progress is None or progress.session is None:
            return UNKNOWN
        return progress.session.echo_of(self.place, self.document.leader_epoch)
