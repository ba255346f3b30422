"""What a leader changes in its partition document, one change at a time (L7, L8, L9, D12, C7).

Each is a commit guarded by the revision that the leader knows and by its own live key, so a leader
that was replaced changes nothing. Until the outcome is known the change is `Isr.pending`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import KV, AmbiguousError, Commit, If, Op, Put, StoreError
from zmqmq.core.meta.values import FlushMode, PartitionDocument
from zmqmq.core.replication.isr import Isr, Pending
from zmqmq.core.replication.progress import Progress
from zmqmq.core.replication.transitions import with_isr, with_member
from zmqmq.core.replication.vouching import Registration
from zmqmq.core.storage.log import Log
from zmqmq.errors import CorruptDataError

LAG_NS: Final = 3 * 10**9
"""A member that has been behind for longer leaves the ISR (L8)."""
RETRY_NS: Final = 500 * 10**6
"""Between two commits, unless the first one succeeded."""
JOIN_WAIT_NS: Final = 3 * 10**9
"""For so long the high watermark waits for one that is about to join (L5), and then not for the
rest of JOIN_PERIOD_NS: if the store is away it cannot join, however long we wait."""
JOIN_PERIOD_NS: Final = 30 * 10**9


class Brokers(NamedTuple):
    """What the metadata say of the brokers now."""

    registrations: Mapping[int, Registration]
    shutting_down: Collection[int]


class Proposal(NamedTuple):
    """A commit to make. Its outcome goes to `ended`, always."""

    document: PartitionDocument
    ops: tuple[Op, ...]
    ifs: tuple[If, ...]


class Proposals:
    """Lives for one leader epoch."""

    __slots__ = ("_attempts", "_isr", "_key", "_log", "_not_before_ns", "_sent")

    def __init__(self, isr: Isr, log: Log) -> None:
        self._isr = isr
        self._log = log
        self._key = b""
        """Of the document, in the commit that is under way."""
        self._sent: PartitionDocument | None = None
        """Of the commit that is under way."""
        self._not_before_ns = 0
        self._attempts = 0

    def next(
        self,
        now_ns: int,
        brokers: Brokers,
        keys: KeySpace,
        high_watermark: int,
        *,
        flushes: bool,
    ) -> Proposal | None:
        """What to commit now, if anything."""
        isr = self._isr
        self._wait_for_joining(now_ns, brokers, flushes=flushes)
        if self._sent is not None or isr.is_deposed or now_ns < self._not_before_ns:
            return None
        if not self._is_registered(isr.me, brokers):
            return None  # the guard on our own live key cannot hold
        if isr.pending is not None:
            return self._force(keys)
        if isr.document.recovering:
            return self._propose(keys, replace(isr.document, recovering=False))
        staying = [
            member
            for member in isr.document.isr
            if not self.must_leave(now_ns, member, high_watermark, flushes=flushes)
        ]
        if len(staying) < len(isr.document.isr):
            return self._propose(keys, with_isr(isr.document, staying))
        for progress in () if isr.is_full else isr.followers.values():
            if self.may_join(progress, brokers, high_watermark, flushes=flushes):
                member = progress.member
                return self._propose(keys, with_member(isr.document, member), member)
        return self._change_mode(keys, high_watermark)

    def ended(self, now_ns: int, outcome: Commit | StoreError) -> None:
        """L9: what became of the commit."""
        isr, sent = self._isr, self._sent
        assert sent is not None
        self._sent = None
        revision, pending = isr.revision, isr.pending
        if isinstance(outcome, AmbiguousError):
            if pending is not None:
                isr.pending = pending._replace(is_ambiguous=True)
        elif isinstance(outcome, StoreError):
            self._clear_unless_ambiguous()
        elif outcome.ok:
            isr.changed(sent, outcome.revision)
        else:
            # Never wait for the watch to say what stands there: it may have said it already.
            self._adopt(outcome.current.get(self._key))
            if isr.pending is pending:
                # A live key is gone, and nothing else has changed.
                self._clear_unless_ambiguous()
        self._not_before_ns = now_ns if isr.revision > revision else now_ns + RETRY_NS

    def _adopt(self, current: KV | None) -> None:
        if current is not None:
            # What nobody can read is told of by whoever follows the store.
            with contextlib.suppress(CorruptDataError):
                document = PartitionDocument.decode(current.value)
                self._isr.changed(document, current.mod_revision)

    def _clear_unless_ambiguous(self) -> None:
        """Nothing was applied by this attempt (store.py, 3), but an earlier one may land yet."""
        pending = self._isr.pending
        if pending is not None and not pending.is_ambiguous:
            self._isr.pending = None

    def _propose(
        self, keys: KeySpace, document: PartitionDocument, joining: Member | None = None
    ) -> Proposal:
        isr = self._isr
        proposal = self._commit(keys, document, joining)
        isr.pending = Pending(proposal.document, isr.revision)
        # Who joins counts from now on, whether it is near or not (L6).
        isr.waited_for = tuple(p for p in isr.waited_for if p.member != joining)
        return proposal

    def _force(self, keys: KeySpace) -> Proposal:
        """D13: settle a change whose outcome is unknown by another one under the same guard, which
        changes nothing. Exactly one of the two can win."""
        return self._commit(keys, self._isr.document, None)

    def _commit(
        self, keys: KeySpace, document: PartitionDocument, joining: Member | None
    ) -> Proposal:
        isr = self._isr
        self._attempts += 1
        me = isr.me
        write_id = f"{me.broker_id}.{me.broker_epoch}.{document.leader_epoch}.{self._attempts}"
        document = replace(document, write_id=write_id)
        self._key = keys.partition(*isr.place)
        ifs = [If(self._key, "mod", "==", isr.revision), self._is_live(keys, me)]
        if joining is not None:
            ifs.append(self._is_live(keys, joining))
        self._sent = document
        return Proposal(document, (Put(self._key, document.encode()),), tuple(ifs))

    def _is_live(self, keys: KeySpace, member: Member) -> If:
        """L7: this run of the broker is registered."""
        return If(keys.live(member.broker_id), "create", "==", member.broker_epoch)

    # Leaving

    def must_leave(
        self, now_ns: int, member: Member, high_watermark: int, *, flushes: bool
    ) -> bool:
        """L8: whether a member of the ISR holds up the others for too long."""
        isr, end = self._isr, self._log.end_offset
        if member == isr.me:
            return False
        progress = isr.progress_of(member)
        # One that has said nothing is behind as soon as somebody waits for it.
        reach = high_watermark if progress is None else progress.reach(flushes=flushes)
        return reach < end and now_ns - isr.caught_up_ns(member) > LAG_NS

    # Joining

    def may_join(
        self, progress: Progress, brokers: Brokers, high_watermark: int, *, flushes: bool
    ) -> bool:
        """L7: whether a follower has all that may have been committed, here or before."""
        reach = progress.reach(flushes=flushes)
        return self.is_eligible(progress, brokers) and (
            reach >= high_watermark and self.has_reached_leso(reach)
        )

    def is_eligible(self, progress: Progress, brokers: Brokers) -> bool:
        """L7, KIP-841, C7: whether it may be a member at all."""
        isr, member = self._isr, progress.member
        return (
            member.broker_id in isr.document.replicas
            and all(m.broker_id != member.broker_id for m in isr.document.isr)
            and not isr.document.recovering
            and member.broker_id not in brokers.shutting_down
            and self._is_registered(member, brokers)
        )

    def has_reached_leso(self, reach: int) -> bool:
        """L7: what an earlier leader committed lies below LESO, and our high watermark may be
        behind that (KAFKA-7128)."""
        return reach >= self._isr.leso

    def _is_registered(self, member: Member, brokers: Brokers) -> bool:
        registration = brokers.registrations.get(member.broker_id)
        return registration is not None and registration.epoch == member.broker_epoch

    def _wait_for_joining(self, now_ns: int, brokers: Brokers, *, flushes: bool) -> None:
        """L5: for whom the high watermark waits although they are outside the ISR.

        Otherwise, while records keep coming, it would be ahead of them whenever they ask, and they
        would never join. For liveness alone, and so for a bounded time.
        """
        isr, end = self._isr, self._log.end_offset
        if isr.is_full:
            isr.waited_for = ()
            for progress in isr.followers.values():
                progress.looked_at(now_ns, end, flushes=flushes)
                progress.near_since_ns = None
            return
        waited_for = []
        for progress in isr.followers.values():
            progress.looked_at(now_ns, end, flushes=flushes)
            reach = progress.reach(flushes=flushes)
            if (
                now_ns - progress.caught_up_ns > LAG_NS
                or not self.has_reached_leso(reach)
                or not self.is_eligible(progress, brokers)
            ):
                progress.near_since_ns = None
                continue
            if progress.near_since_ns is None:
                progress.near_since_ns = now_ns
            if (now_ns - progress.near_since_ns) % JOIN_PERIOD_NS <= JOIN_WAIT_NS:
                waited_for.append(progress)
        isr.waited_for = tuple(waited_for)

    # Changing the flush mode

    def _change_mode(self, keys: KeySpace, high_watermark: int) -> Proposal | None:
        """D12: what the topic wants, made effective."""
        document = self._isr.document
        wish: FlushMode = "fsync" if self._log.config.flush == "fsync" else "replicated"
        if document.flush == wish:
            return None
        if wish == "replicated" or self.may_flush(high_watermark):
            return self._propose(keys, replace(document, flush=wish))
        return None

    def may_flush(self, high_watermark: int) -> bool:
        """D12: whether everything committed is on the disk of everybody who will vouch for it.

        The high watermark is measured in flushed offsets already (1, Partition.must_flush), and
        this is the one change in flight (4, `next`).
        """
        return self.has_empty_elr() and self.all_flushed(self.flushed_at_least(high_watermark))

    def has_empty_elr(self) -> bool:
        """D12 (2): else the unflushed copy of an ELR member would count from now on."""
        return not self._isr.document.elr

    def flushed_at_least(self, high_watermark: int) -> int:
        """D12 (3): an old leader may have committed up to LESO, and tell so later."""
        return max(high_watermark, self._isr.leso)

    def all_flushed(self, end: int) -> bool:
        """D12 (3): as reported in this leader epoch, by the very runs that are named."""
        isr = self._isr
        others = [isr.progress_of(member) for member in isr.maximal() if member != isr.me]
        return self._log.flushed_end >= end and all(
            progress is not None and progress.flushed >= end for progress in others
        )
