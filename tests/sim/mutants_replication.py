"""Leaders and followers without one of their rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.sim.mutants import Patch, always, mutant
from zmqmq.core.broker.replicas import Replicas
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.store import AmbiguousError, If
from zmqmq.core.replication import follower as follower_module
from zmqmq.core.replication import partition as partition_module
from zmqmq.core.replication.fetcher import Fetcher
from zmqmq.core.replication.follower import Cut, Follower
from zmqmq.core.replication.follower_session import FollowerSession, FollowerSessions
from zmqmq.core.replication.isr import UNKNOWN, Isr
from zmqmq.core.replication.partition import Partition
from zmqmq.core.replication.progress import Progress
from zmqmq.core.replication.proposals import Proposals

# What is committed


@mutant("D2", schedules=["schedule_27_nats_7564_all_lose"], seeds=[42])
def own_unflushed(patch: Patch) -> None:
    """The leader acknowledges before its own fsync."""

    def advance(self: Partition) -> bool:
        end = self.isr.committed_end(self.log.written_end, flushes=self.flushes)
        is_higher = end > self.high_watermark
        if is_higher:
            self.high_watermark = end
        return is_higher

    patch.setattr(Partition, "advance", advance)


@mutant("D2", schedules=["schedule_27_nats_7564_what_a_follower"], seeds=[35])
def advertise_written(patch: Patch) -> None:
    """A follower tells of what it has written as if it had flushed it."""
    patch.setattr(Follower, "flushed_end", lambda self: self.log.end_offset)
    patch.setattr(
        Follower, "is_settled", property(lambda self: self.log.written_end >= self.log.end_offset)
    )


@mutant("L5", schedules=["schedule_11"], seeds=[35])
def no_min_isr_freeze(patch: Patch) -> None:
    """Below min_isr records are committed all the same."""
    patch.setattr(Isr, "is_enough", always(True))


@mutant("L6", schedules=["schedule_25", "directed_round_committed_isr"], seeds=[35])
def no_maximal(patch: Patch) -> None:
    """A change of the ISR that is under way does not count."""
    patch.setattr(Isr, "maximal", lambda self: self.document.isr)


@mutant("L6", schedules=["schedule_35_an_ambiguous_leaving"], seeds=[102])
def eager_shrink(patch: Patch) -> None:
    """Who is to leave does not count from the proposal on."""

    def maximal(self: Isr) -> tuple[Member, ...]:
        pending = self.pending
        if pending is None or len(pending.document.isr) > len(self.document.isr):
            return tuple(dict.fromkeys((*self.document.isr, *_pending_isr(self))))
        return pending.document.isr

    patch.setattr(Isr, "maximal", maximal)


def _pending_isr(isr: Isr) -> tuple[Member, ...]:
    return () if isr.pending is None else isr.pending.document.isr


@mutant("L5", schedules=["schedule_26"], seeds=[35])
def unknown_skipped(patch: Patch) -> None:
    """The high watermark is computed over those who have fetched."""

    def committed_end(self: Isr, own_end: int, *, flushes: bool) -> int:
        if not self.is_enough():
            return UNKNOWN
        known = [p for m in self.maximal() if (p := self.progress_of(m)) is not None]
        return min([own_end, *(p.reach(flushes=flushes) for p in known)])

    patch.setattr(Isr, "committed_end", committed_end)


@mutant("L5", schedules=["what_another_run_of_a_member"], seeds=[106])
def any_incarnation(patch: Patch) -> None:
    """What any run of a broker says counts for the one that the ISR names."""
    patch.setattr(Isr, "progress_of", lambda self, member: self.followers.get(member.broker_id))


@mutant("L1", schedules=["what_a_follower_said"])
def stale_progress(patch: Patch) -> None:
    """What followers said in an earlier leader epoch counts in this one."""
    kept: dict[Any, dict[int, Progress]] = {}
    begin = Partition.__init__

    def init(self: Partition, *arguments: Any) -> None:
        begin(self, *arguments)
        self.isr.followers = kept.setdefault((self.place, self.isr.me), self.isr.followers)

    patch.setattr(Partition, "__init__", init)


@mutant("F4", schedules=["schedule_05"])
def diverging_counts(patch: Patch) -> None:
    """A fetch of a log that has parted is progress."""
    patch.setattr(Partition, "counts", always(True))


@mutant("F3", schedules=["schedule_03"])
def no_epoch_fence(patch: Patch) -> None:
    """A fetch of any leader epoch is answered, and counts."""
    patch.setattr(Partition, "fence", always(None))


# Logs that part


@mutant("F4", schedules=["schedule_02"], seeds=[106])
def no_divergence(patch: Patch) -> None:
    """A leader does not look whether a follower's log is a prefix of its own."""
    patch.setattr(partition_module, "divergence", lambda *_: None)


@mutant("F5", schedules=["schedule_02"])
def cut_at_leaders_end(patch: Patch) -> None:
    """A follower cuts where the leader's epoch ends, without a look at its own."""
    patch.setattr(follower_module, "cut_for", lambda log, _, end: min(end, log.end_offset))


@mutant("F1", schedules=["schedule_01"], seeds=[102])
def truncate_to_high_watermark(patch: Patch) -> None:
    """A follower begins with a cut to its high watermark (KIP-101)."""
    follow = Replicas._follow

    def cutting(self: Replicas, now: Any, replica: Any, document: Any, leader: Any) -> None:
        follow(self, now, replica, document, leader)
        role = replica.role
        if role.log.end_offset > role.high_watermark:
            role.cut = Cut(role.high_watermark)
            self.cut(replica, role.high_watermark, None)

    patch.setattr(Replicas, "_follow", cutting)


@mutant("F2", schedules=["schedule_20"])
def no_correlation(patch: Patch) -> None:
    """A follower takes every reply, also a late one."""
    patch.setattr(Fetcher, "is_answer", always(True))


@mutant("F9", schedules=["schedule_07"])
def reset_keeps_high_watermark(patch: Patch) -> None:
    """A follower that begins anew keeps its high watermark."""

    def was_cut(self: Follower, log: Any) -> None:
        self.cut, self.log = None, log

    patch.setattr(Follower, "was_cut", was_cut)


@mutant("D14", schedules=["directed_stale_epoch_entry"], seeds=[35])
def epoch_without_record(patch: Patch) -> None:
    """An epoch stands in the index from its beginning, whether it writes anything or not."""
    begin = Partition.__init__

    def init(self: Partition, *arguments: Any) -> None:
        begin(self, *arguments)
        epochs = self.log.epochs
        epochs._epochs.append(self.epoch)
        epochs._starts.append(self.log.end_offset)

    def note(self: Any, epoch: int, offset: int) -> None:
        if not self._epochs or self._epochs[-1] < epoch:
            self._epochs.append(epoch)
            self._starts.append(offset)

    patch.setattr(Partition, "__init__", init)
    patch.setattr("zmqmq.core.storage.epochs.EpochIndex.note", note)


# Changes of the ISR


@mutant("L7", schedules=["schedule_04"], seeds=[1])
def no_leso(patch: Patch) -> None:
    """Who has reached the high watermark joins."""
    patch.setattr(Proposals, "has_reached_leso", always(True))


@mutant("L7", schedules=["schedule_10"], seeds=[114])
def join_whoever_is_registered(patch: Patch) -> None:
    """The run that joins is the one that is registered, and not the one that fetched
    (KAFKA-15221)."""
    find = Proposals.next

    def next_(self: Proposals, now_ns: int, brokers: Any, *rest: Any, **named: Any) -> Any:
        for progress in self._isr.followers.values():
            registration = brokers.registrations.get(progress.member.broker_id)
            if registration is not None:
                progress.member = Member(progress.member.broker_id, registration.epoch)
        return find(self, now_ns, brokers, *rest, **named)

    patch.setattr(Proposals, "next", next_)


@mutant("L7", schedules=["schedule_09"], seeds=[17])
def no_live_guard(patch: Patch) -> None:
    """The commit that takes somebody in does not look whether that run is registered."""

    def is_live(_self: Proposals, keys: Any, _member: Member) -> If:
        return If(keys.controller, "mod", "!=", -1)

    patch.setattr(Proposals, "_is_live", is_live)


@mutant("L7", schedules=["schedule_08"])
def wait_for_who_stops(patch: Patch) -> None:
    """Brokers that stop are waited for, and taken in."""
    wait = Proposals._wait_for_joining

    def waiting(self: Proposals, now_ns: int, brokers: Any, *, flushes: bool) -> None:
        wait(self, now_ns, brokers._replace(shutting_down=()), flushes=flushes)

    patch.setattr(Proposals, "_wait_for_joining", waiting)


@mutant("L9", schedules=["schedule_35_an_ambiguous_joining"])
def unknown_is_no(patch: Patch) -> None:
    """A commit of which nothing is heard is taken for one that was refused."""
    end = Proposals.ended

    def ended(self: Proposals, now_ns: int, outcome: Any) -> None:
        end(self, now_ns, outcome)
        if isinstance(outcome, AmbiguousError):
            self._isr.pending = None

    patch.setattr(Proposals, "ended", ended)


@mutant("L9", schedules=["schedule_16"])
def refused_stays_pending(patch: Patch) -> None:
    """A change that was refused counts for ever."""
    patch.setattr(Proposals, "_clear_unless_ambiguous", always(None))


@mutant("L9", schedules=["schedule_17"])
def waits_for_the_watch(patch: Patch) -> None:
    """What a refused commit shows is not taken over."""
    patch.setattr(Proposals, "_adopt", always(None))


@mutant("D13", schedules=["an_outcome_that_nobody_tells"])
def never_forces(patch: Patch) -> None:
    """A leader waits until somebody tells what became of its commit."""
    patch.setattr(Proposals, "_force", always(None))


@mutant("L2", schedules=["schedule_15"], seeds=[102])
def every_document_begins_anew(patch: Patch) -> None:
    """A document of the same epoch resets what is known of followers."""
    change = Isr.changed

    def changed(self: Isr, document: Any, revision: int) -> None:
        if revision > self.revision:
            self.followers = {}
        change(self, document, revision)

    patch.setattr(Isr, "changed", changed)


# The flush mode


@mutant("D12", schedules=["directed_mode_keeps_elr"])
def mode_ignores_elr(patch: Patch) -> None:
    """The mode becomes `fsync` while somebody is in the ELR."""
    patch.setattr(Proposals, "has_empty_elr", always(True))


@mutant("D12", schedules=["the_mode_changes_when"])
def mode_asks_nobody(patch: Patch) -> None:
    """The mode becomes `fsync` when the leader has flushed."""
    patch.setattr(Proposals, "all_flushed", lambda self, end: self._log.flushed_end >= end)


@mutant("D12", schedules=["directed_mode_hw_only"])
def mode_by_high_watermark(patch: Patch) -> None:
    """The mode becomes `fsync` when all up to the high watermark is flushed."""
    patch.setattr(Proposals, "flushed_at_least", lambda _, high_watermark: high_watermark)


@mutant("D12", schedules=["what_is_committed_while"])
def mode_counts_late(patch: Patch) -> None:
    """Progress is measured in flushed offsets only when the mode is `fsync`."""
    patch.setattr(Partition, "must_flush", lambda self: self.isr.document.flush == "fsync")


# Answers that are the latest


@mutant("D10", schedules=["schedule_34"], seeds=[7])
def no_round(patch: Patch) -> None:
    """Whoever takes itself for the leader answers."""
    patch.setattr(Partition, "round_is_over", always(True))


@mutant("D10", schedules=["directed_alone_below_min"])
def alone_below_min(patch: Patch) -> None:
    """A leader that is alone answers, also below min_isr."""

    def round_is_over(self: Isr, stamp: int) -> bool:
        return all(self._echo_of(m) > stamp for m in self.maximal() if m != self.me)

    patch.setattr(Isr, "round_is_over", round_is_over)


@mutant("D10", schedules=["directed_round_committed_isr"])
def round_of_committed_isr(patch: Patch) -> None:
    """A joiner whose joining is not known need not answer."""

    def round_is_over(self: Isr, stamp: int) -> bool:
        others = [m for m in self.document.isr if m != self.me]
        return self.is_enough() and all(self._echo_of(m) > stamp for m in others)

    patch.setattr(Isr, "round_is_over", round_is_over)


@mutant("D10", schedules=["directed_round_any_fetch"])
def round_of_any_fetch(patch: Patch) -> None:
    """Every fetch that arrives after the question counts, whenever it was sent."""
    take = FollowerSessions.receive

    def receive(self: FollowerSessions, now_ns: int, request: Any) -> FollowerSession:
        session = take(self, now_ns, request)
        session.echo = self.stamp + 1
        return session

    patch.setattr(FollowerSessions, "receive", receive)


# Leader epochs


@mutant("L1", schedules=["schedule_12"], seeds=[35])
def same_epoch_restart(patch: Patch) -> None:
    """A broker that comes back goes on leading in the epoch in which it led."""
    assign = Replicas.assign

    def assigned(self: Replicas, now: Any, replica: Any) -> None:
        known = self._image.partitions.get(replica.place)
        me = Member(self._identity.broker_id, self._identity.epoch)
        leader = None if known is None else known.document.leader
        is_ours = leader is not None and leader.broker_id == me.broker_id and me.broker_epoch
        if not is_ours or leader == me or replica.role is not None:
            assign(self, now, replica)
        elif replica.is_usable:
            assert known is not None
            document = replace(
                known.document,
                leader=me,
                isr=tuple(me if m == leader else m for m in known.document.isr),
            )
            self._lead(now, replica, document, known.revision, me)

    patch.setattr(Replicas, "assign", assigned)
