"""One partition that this broker follows: what it asks its leader for, and what it makes of it.

It keeps its log when a leader epoch begins and asks for what comes next; only what the leader says
to have parted is cut (F1, F5). It never cuts to its high watermark: that may be behind.
"""

from __future__ import annotations

from typing import NamedTuple

from zmqmq.batch.decode import check_batch
from zmqmq.batch.layout import HEADER_SIZE, unpack_header
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.core.replication.divergence import cut_for
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import Log
from zmqmq.wire.peers import Answer, Listed, PeerCode


class Cut(NamedTuple):
    """What must happen to the log before anything more is asked for."""

    to: int
    """The end that it gets."""
    needs_state: bool = False
    """It is to be emptied and to begin at the leader's log start, with the leader's state of
    producers there, or their duplicates would be taken (F9). The reply says where that is."""


class Follower:
    """Lives for one leader epoch."""

    __slots__ = ("cut", "document", "epoch", "high_watermark", "leader", "log", "place")

    def __init__(
        self, log: Log, document: PartitionDocument, leader: Member, high_watermark: int
    ) -> None:
        """`high_watermark` is what this copy knew before: 0 if records may have been lost since it
        last heard of a leader, so that it shows nothing until one has said that our log is a
        prefix of its own (D9)."""
        self.log = log
        self.place = (log.key.topic_id, log.key.partition)
        self.epoch = document.leader_epoch
        self.leader = leader
        self.document = document
        self.cut: Cut | None = None
        self.high_watermark = self._bounded(high_watermark)

    def changed(self, document: PartitionDocument) -> None:
        """L2: the document has changed within the leader epoch; the flush mode may have."""
        assert document.leader_epoch == self.epoch
        self.document = document

    # Asking

    @property
    def is_asking(self) -> bool:
        """Whether there is a log to ask for."""
        return self.cut is None and not self.log.failed

    @property
    def is_settled(self) -> bool:
        """Whether what came is as safe as it must be before it is told of, so that one request says
        how much is written and how much flushed (D2)."""
        log = self.log
        if self.document.flush == "fsync":
            return log.flushed_end >= log.end_offset
        return log.written_end >= log.end_offset

    def listed(self) -> Listed:
        """F2, D2: what to say of this partition. The end is what is written, and never more."""
        log = self.log
        return Listed(
            *self.place,
            self.epoch,
            log.end_offset,
            log.epochs.latest,
            self.flushed_end(),
            log.start_offset,
        )

    def flushed_end(self) -> int:
        """D2: how much of the log is on the disk for certain."""
        return min(self.log.flushed_end, self.log.end_offset)

    def matches(self, answer: Answer) -> bool:
        """F2: whether an answer is to what would be asked now."""
        return (
            self.is_asking
            and answer.leader_epoch == self.epoch
            and answer.offset == self.log.end_offset
        )

    # Being answered

    def take(self, answer: Answer, body: Buffer | None) -> None:
        """What the leader says. Afterwards `cut` may ask for a truncation.

        Raises CorruptDataError for batches that are not what they should be, StorageError when the
        disk fails, DiskFullError with nothing changed.
        """
        match answer.code:
            case PeerCode.NONE:
                if body is not None and not self._fits(body):
                    return
                if body is not None:
                    self.log.append_replicated(body)
                self._note_leader(answer.x, answer.y)
            case PeerCode.DIVERGING:
                # What else the leader knows is about another log than ours, as yet (F6).
                self._cut_to(cut_for(self.log, answer.x, answer.y))
            case PeerCode.OUT_OF_RANGE:
                self._move_into(answer.x, answer.y)
            case _:
                pass  # the leader is not there yet, or no more: the next document tells

    def _fits(self, body: Buffer) -> bool:
        """Whether the first batch begins where our log ends.

        Where the leader has compacted what we are behind with, one batch may stand there for
        several of before, and our log may end among them. It goes back to the beginning of that
        batch then. So far back that is committed: no member of an ISR or ELR ends there.
        """
        if len(body) < HEADER_SIZE:
            return True  # and so it is refused
        header = unpack_header(body)
        end = self.log.end_offset
        if not header.base_offset < end < header.next_offset:
            return True
        check_batch(memoryview(body), 0, self.log.seed)
        self._cut_to(header.base_offset)
        return False

    def was_cut(self, log: Log) -> None:
        """The log has been truncated or reset; this is how it is now (F7)."""
        assert self.cut is not None
        self.cut = None
        self.log = log
        self.high_watermark = self._bounded(self.high_watermark)

    def _note_leader(self, high_watermark: int, log_start: int) -> None:
        """F8: the leader's high watermark, as far as we have what lies below. It may be lower than
        the one known from an earlier leader."""
        self.high_watermark = self._bounded(high_watermark)
        log = self.log
        target = min(log_start, self.high_watermark, log.flushed_base)
        if len(log.segments) > 1 and log.segments[1].base_offset <= target:
            log.drop_before(log.segment_of(target).base_offset)

    def _move_into(self, leader_start: int, leader_end: int) -> None:
        """F9: the leader has nothing at our end."""
        end = self.log.end_offset
        if leader_start > end:
            self._begin_anew(leader_start)
        elif leader_end < end:
            self._cut_to(leader_end)

    def _cut_to(self, to: int) -> None:
        """F5, F7. Nothing behind `to` may be shown or checkpointed from now on (D3)."""
        if to < self.log.start_offset:
            self._begin_anew(to)
            return
        self.cut = Cut(to)
        self.high_watermark = min(self.high_watermark, to)

    def _begin_anew(self, at: int) -> None:
        """F9: of what we have nothing goes on."""
        self.cut = Cut(at, needs_state=True)
        self.high_watermark = min(self.high_watermark, self.log.start_offset)

    def _bounded(self, high_watermark: int) -> int:
        return max(min(high_watermark, self.log.end_offset), self.log.start_offset)
