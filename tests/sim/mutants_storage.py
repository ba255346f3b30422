"""Logs and disks without one of their rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.sim.mutants import Patch, always, mutant
from zmqmq.core.broker.broker import Broker
from zmqmq.core.broker.events import LogOpened
from zmqmq.core.storage import truncation
from zmqmq.core.storage.data_directory import Format
from zmqmq.core.storage.log import Log
from zmqmq.core.storage.producers import ProducerTable
from zmqmq.core.storage.recovery import Checkpoint
from zmqmq.core.storage.retention import retained_start
from zmqmq.sim import broker_host, housekeeper


@mutant("D2", schedules=["directed_trunc_keeps_flushed"])
def trunc_keeps_flushed(patch: Patch) -> None:
    """A cut does not lower what counts as flushed."""
    rewind = Log.rewind

    def rewound(self: Log, segments: Any, end: int) -> None:
        flushed = self.flushed_end
        rewind(self, segments, end)
        self.flushed_end = flushed

    patch.setattr(Log, "rewind", rewound)


@mutant("D3", schedules=["what_is_found_after_a_kill"])
def recovered_is_flushed(patch: Patch) -> None:
    """What is found in a log at the start counts as flushed."""
    handle = Broker._handle_rare

    def handled(self: Broker, now: Any, event: Any) -> None:
        handle(self, now, event)
        log = event.log if isinstance(event, LogOpened) else None
        if isinstance(log, Log):
            log.flushed_end = log.end_offset
            self.replicas.flushed(now, log)

    patch.setattr(Broker, "_handle_rare", handled)


@mutant("L3", schedules=["a_failed_flush"], seeds=[6])
def failed_flush_tried_again(patch: Patch) -> None:
    """After a failed fsync the next one is believed (fsync-gate)."""
    flush_ended = Broker._flush_ended

    def believed(self: Any, now: Any, flushes: Any) -> None:
        for log, flush, error in flushes:
            if error is not None:
                for segment in log.segments:
                    if segment.file in flush.files:
                        log.mark_unsynced(segment)
                self.flushing._dirty[log] = None
        good = [entry for entry in flushes if entry[2] is None]
        flush_ended(self, now, good)

    patch.setattr(Broker, "_flush_ended", believed)


@mutant("D3", schedules=["a_cut_that_was_interrupted"])
def checkpoint_not_lowered(patch: Patch) -> None:
    """A log is cut before its checkpoint says so."""
    patch.setattr(broker_host, "lowered", lambda row, *_: row)


@mutant("P4", schedules=["what_was_cut_of_a_producer"], seeds=[106])
def producers_not_cut(patch: Patch) -> None:
    """After a cut it is still known what producers had sent."""
    cut = truncation.cut

    def forgetful(log: Log, to: int, state: bytes | None = None) -> None:
        before = log.producers.snapshot()
        cut(log, to, state)
        log.producers.restore(before)

    patch.setattr(broker_host, "cut", forgetful)


@mutant("P4", schedules=["schedule_37"], seeds=[35])
def followers_forget_producers(patch: Patch) -> None:
    """A follower keeps the records, and not what is known of their producers."""
    append = Log.append_replicated

    def appended(self: Log, data: Any) -> int:
        before = self.producers.snapshot()
        end = append(self, data)
        self.producers.restore(before)
        return end

    patch.setattr(Log, "append_replicated", appended)


@mutant("P4", schedules=["a_batch_is_known_to_a_replica"], seeds=[233])
def compaction_forgets_producers(patch: Patch) -> None:
    """Compaction takes whole batches that their producers may send again."""
    patch.setattr(ProducerTable, "base_offsets", always(frozenset()))


@mutant("L16", schedules=["schedule_23"])
def retention_beyond_high_watermark(patch: Patch) -> None:
    """Retention drops what is not committed."""

    def start(log: Log, now_ms: int, _: int) -> int:
        return retained_start(log, now_ms, log.end_offset)

    patch.setattr(housekeeper, "retained_start", start)


@mutant("D5", schedules=["what_is_missing"])
def missing_log_begins_anew(patch: Patch) -> None:
    """A log whose files are gone begins anew without a word."""
    open_log = broker_host.open_log

    def opened(disk: Any, key: Any, config: Any, options: Any, checkpoint: Any = None) -> Log:
        if not disk.list(key.folder):
            checkpoint = Checkpoint()
        return open_log(disk, key, config, options, checkpoint)

    patch.setattr(broker_host, "open_log", opened)


@mutant("D5", schedules=["schedule_29_nats_7549_a_damaged"])
def quarantine_without_a_word(patch: Patch) -> None:
    """A damaged copy is put aside, and its voucher stays."""
    patch.setattr(Format, "without", lambda self, _: replace(self))


@mutant("F10", schedules=["schedule_29_nats_7549_damage_of"], seeds=[451])
def damage_is_a_torn_tail(patch: Patch) -> None:
    """Whatever is wrong in a log is cut at the start, with all behind it."""
    open_log = broker_host.open_log

    def opened(disk: Any, key: Any, config: Any, options: Any, checkpoint: Any = None) -> Log:
        del checkpoint
        return open_log(disk, key, config, options, Checkpoint())

    patch.setattr(broker_host, "open_log", opened)
