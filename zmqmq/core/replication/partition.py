"""One partition that this broker leads: appends, commits, acknowledges.

A record is committed once every in-sync replica has it, flushed or in memory as the document's
flush mode says (L4, L5, D2). Alone in its ISR the leader decides by its own log: the high watermark
is how far that is flushed (`fsync`) or written (`replicated`).

    log start <= high watermark <= log end

isr.py knows who is in sync, proposals.py changes it, divergence.py compares logs.
"""

from __future__ import annotations

from typing import NamedTuple

from zmqmq.batch.columns import Column, ColumnReader
from zmqmq.batch.layout import (
    BODY_AT,
    BODY_CRC_AT,
    CONTROL,
    HEADER_SIZE,
    TRANSACTIONAL,
    BatchHeader,
    body_is_valid,
    check_fields,
    stamp,
    unpack_header,
)
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import Commit, StoreError
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.core.replication.divergence import divergence
from zmqmq.core.replication.follower_session import FollowerSession
from zmqmq.core.replication.isr import Isr
from zmqmq.core.replication.proposals import Brokers, Proposal, Proposals
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import Log
from zmqmq.errors import (
    Code,
    CorruptDataError,
    DiskFullError,
    StorageError,
    WireError,
    refusal,
)
from zmqmq.model.topics import TopicConfig
from zmqmq.wire.apis import ACKS_ALL
from zmqmq.wire.peers import Listed, PeerCode


class Appended(NamedTuple):
    """Where a batch went, now or the first time it was sent."""

    base_offset: int
    next_offset: int
    append_ms: int


class Refused(NamedTuple):
    """Why a follower gets no data, and what it needs to know (F3, F4, F9)."""

    code: PeerCode
    x: int = 0
    y: int = 0


class Partition:
    """Lives for one leader epoch."""

    __slots__ = (
        "_is_alone",
        "_lacks_replicas",
        "_proposals",
        "_rest",
        "counted_before",
        "epoch",
        "flushes",
        "high_watermark",
        "is_closed",
        "isr",
        "log",
        "place",
        "since_ns",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        log: Log,
        document: PartitionDocument,
        revision: int,
        me: Member,
        high_watermark: int,
        now_ns: int,
    ) -> None:
        """`high_watermark` is what this copy knew of it before; nothing but that survives (L1)."""
        self.topic = topic
        self.log = log
        self.epoch = document.leader_epoch
        self.place = (log.key.topic_id, log.key.partition)
        self.isr = Isr(self.place, document, revision, me, log.end_offset, now_ns)
        self._proposals = Proposals(self.isr, log)
        self.high_watermark = max(min(high_watermark, log.end_offset), log.start_offset)
        self.since_ns = now_ns
        self.counted_before = log.counters.read()
        self.is_closed = False
        """Whether its topic was deleted, or this leader epoch is over."""
        self.flushes = False
        """Whether the high watermark waits for the disk."""
        self._is_alone = False
        """Whether this log alone decides what is committed."""
        self._lacks_replicas = True
        """Whether so few are in sync that nothing can be committed."""
        self._rest: tuple[int, int, str] | None = None
        """What stays as it is while there is nothing to propose."""
        self._recount()

    @property
    def name(self) -> str:
        """For messages to people."""
        return f"{self.topic}/{self.log.key.partition}"

    @property
    def shown_end(self) -> int:
        """Behind this offset nothing is shown to consumers."""
        return self.high_watermark

    @property
    def is_shared(self) -> bool:
        """Whether there are other replicas."""
        return len(self.isr.document.replicas) > 1

    @property
    def is_caught_up(self) -> bool:
        """L14: whether all that earlier leaders committed is known here to be committed."""
        return self.high_watermark >= self.isr.leso

    @property
    def is_deposed(self) -> bool:
        """L10: whether a commit of ours found that this epoch is over."""
        return self.isr.is_deposed

    def append(self, now_ms: int, batch: Buffer, acks: int = ACKS_ALL) -> Appended:
        """Check a producer's batch and append it; nothing is written out yet.

        Raises refusals, with nothing changed.
        """
        if self._lacks_replicas and acks == ACKS_ALL:
            self._refuse_all()
        header = self._checked(batch)
        log = self.log
        if header.producer_id:
            again = log.producers.check(
                header.producer_id,
                header.producer_epoch,
                header.base_sequence,
                header.last_sequence,
            )
            if again is not None:
                return Appended(again.base_offset, again.next_offset, again.append_ms)
        self._make_room(len(batch), header.record_count)
        append_ms = max(now_ms, log.last_append_ms)
        view = memoryview(batch)
        base_offset, size = log.end_offset, len(view)
        # With flush=replicated the high watermark is ahead of the disk. What a power cut takes
        # from there must not look like damage to recovery.
        committed = min(self.high_watermark, log.flushed_end)
        head = stamp(
            base_offset,
            size,
            self.epoch,
            append_ms,
            committed,
            view[BODY_CRC_AT:BODY_AT].tobytes(),
        )
        stamped = BatchHeader(base_offset, size, self.epoch, append_ms, committed, 0, *header[6:])
        try:
            log.append(stamped, (head, view[BODY_CRC_AT:]))
        except StorageError as error:
            raise self._refusal(error) from None
        return Appended(base_offset, log.end_offset, append_ms)

    def _refuse_all(self) -> None:
        """L3: what could not be committed is not written when that was asked for."""
        document = self.isr.document
        raise refusal(
            Code.NOT_ENOUGH_REPLICAS,
            f"{self.name} has {len(document.isr)} of {len(document.replicas)} replicas in sync, "
            f"and min_isr is {document.effective_min_isr}: wait until more are back, or lower it",
        )

    def _refusal(self, error: StorageError) -> WireError:
        code = Code.DISK_FULL if isinstance(error, DiskFullError) else Code.STORAGE_OFFLINE
        return refusal(code, f"{self.name}: {error}")

    def advance(self) -> bool:
        """L5: move the high watermark to where the in-sync replicas allow it; whether it moved.

        It never falls within an epoch.
        """
        end = self.log.flushed_end if self.flushes else self.log.written_end
        if end <= self.high_watermark or self.log.failed:
            return False
        if not self._is_alone:
            end = self.isr.committed_end(end, flushes=self.flushes)
            if end <= self.high_watermark:
                return False
        self.high_watermark = end
        return True

    # The ISR

    def changed(self, document: PartitionDocument, revision: int) -> None:
        """L2: the document has changed. Call `advance` afterwards."""
        self.isr.changed(document, revision)
        self._recount()

    def next_proposal(self, now_ns: int, brokers: Brokers, keys: KeySpace) -> Proposal | None:
        """What to change in the document now. Call this every half second unless it is at rest, and
        when a follower has fetched or the brokers have changed; `advance` afterwards."""
        self._recount()
        proposal = self._proposals.next(
            now_ns, brokers, keys, self.high_watermark, flushes=self.flushes
        )
        self._recount()
        return proposal

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing has happened since `settle` found that all have everything.

        Of thousands of partitions most are: each is looked at in a hundredth of the time.
        """
        return self._rest == (self.log.end_offset, self.isr.revision, self.log.config.flush)

    def settle(self) -> None:
        """After a look at it: is there any reason to look again before something happens?"""
        isr, end, flush = self.isr, self.log.end_offset, self.log.config.flush
        is_settled = (
            self.high_watermark == end
            and isr.pending is None
            and not isr.document.recovering
            and isr.document.flush == flush
            and isr.have_all(end, flushes=self.flushes)
        )
        self._rest = (end, isr.revision, flush) if is_settled else None

    def proposal_ended(self, now_ns: int, outcome: Commit | StoreError) -> None:
        """L9: what became of it. Call `advance` afterwards."""
        self._proposals.ended(now_ns, outcome)
        self._recount()

    def must_flush(self) -> bool:
        """D2, D12 (1): whether progress is measured in flushed offsets: as soon as the topic wants
        it so, and until a change of the mode is known not to have happened."""
        document, pending = self.isr.document, self.isr.pending
        return (
            document.flush == "fsync"
            or self.log.config.flush == "fsync"
            or (pending is not None and pending.document.flush == "fsync")
        )

    def _recount(self) -> None:
        self.flushes = self.must_flush()
        self._is_alone = self.isr.is_alone()
        self._lacks_replicas = not self.isr.is_enough()

    # Followers

    def fetched(self, now_ns: int, session: FollowerSession) -> Refused | None:
        """A follower asks for what is behind its end; why it gets nothing, if it does not.

        What it says of itself is in its session. Call this for every partition that a request
        lists, and for those that are marked due; `advance` afterwards.
        """
        listed = session.entries[self.place]
        refused = self.fence(session.member, listed) or self.compare(listed)
        if self.counts(refused):
            self.isr.fetched(now_ns, session, listed, self.log.end_offset, flushes=self.flushes)
        return refused

    def counts(self, refused: Refused | None) -> bool:
        """F4: what a follower has of a log that is not ours is no progress (KAFKA-13141)."""
        return refused is None

    def fence(self, member: Member, listed: Listed) -> Refused | None:
        """F3: only replicas that are in this leader epoch, and of each its latest run."""
        if listed.leader_epoch < self.epoch:
            return Refused(PeerCode.FENCED_LEADER_EPOCH)
        if listed.leader_epoch > self.epoch:
            return Refused(PeerCode.UNKNOWN_LEADER_EPOCH)
        if member.broker_id not in self.isr.document.replicas:
            return Refused(PeerCode.UNKNOWN_LEADER_EPOCH)
        if self.isr.is_stale(member):
            return Refused(PeerCode.STALE_BROKER_EPOCH)
        return None

    def compare(self, listed: Listed) -> Refused | None:
        """F4: whether the follower's log is a prefix of ours, and we have what comes next."""
        log = self.log
        if listed.written < log.start_offset:
            # Also of a log that has parted from ours: it needs another beginning (KAFKA-12996).
            return Refused(PeerCode.OUT_OF_RANGE, log.start_offset, log.end_offset)
        parted = divergence(log, listed.written, listed.last_epoch)
        if parted is not None:
            return Refused(PeerCode.DIVERGING, *parted)
        if listed.written > log.end_offset:
            return Refused(PeerCode.OUT_OF_RANGE, log.start_offset, log.end_offset)
        return None

    def round_is_over(self, stamp: int) -> bool:
        """D10, L14: whether what is committed here is the latest, as of when the stamp of the last
        reply to a follower was `stamp`."""
        return self.is_caught_up and self.isr.round_is_over(stamp)

    # Batches

    def _checked(self, batch: Buffer) -> BatchHeader:
        """The header of a batch that may be stored as it is."""
        size, config = len(batch), self.log.config
        if size <= HEADER_SIZE or size > config.batch_bytes_max:
            limit = config.batch_bytes_max
            code = Code.TOO_LARGE if size > limit else Code.CORRUPT_BATCH
            raise refusal(code, f"batch for {self.name} has {size} bytes; the limit is {limit}")
        header = unpack_header(batch)
        try:
            self._verify(header, batch)
        except CorruptDataError as error:
            raise refusal(Code.CORRUPT_BATCH, f"batch for {self.name}: {error}") from None
        return header

    def _verify(self, header: BatchHeader, batch: Buffer) -> None:
        """Raise CorruptDataError unless the batch is whole, of this partition and a producer's."""
        check_fields(header)
        if header.attributes & (CONTROL | TRANSACTIONAL):
            raise CorruptDataError("control and transactional batches are the broker's own")
        if header.last_offset_delta + 1 != header.record_count:
            raise CorruptDataError(
                f"last offset delta {header.last_offset_delta} does not fit "
                f"{header.record_count} records"
            )
        if not body_is_valid(batch, 0, len(batch), header.body_crc, self.log.seed):
            raise CorruptDataError("body checksum is wrong for this topic id and partition")
        view = memoryview(batch)[HEADER_SIZE:]
        columns = ColumnReader(view, header.codec, header.record_count, header.inflated_size)
        columns.check_counts()
        if columns.has(Column.OFFSET_DELTAS):
            raise CorruptDataError("offset deltas (column 1) are for compaction alone")

    def _make_room(self, size: int, records: int) -> None:
        """Keep within the topic's capacity (DESIGN 5): refuse, or drop the oldest segments.

        Drops nothing unless that makes room enough.
        """
        log, config = self.log, self.log.config
        if not config.capacity_bytes and not config.capacity_records:
            return
        log.check_usable()
        held_bytes, held_records = log.size_bytes, log.record_count
        over = _over(config, held_bytes, held_records, size, records)
        if over is None:
            return
        if config.full == "refuse" or _over(config, 0, 0, size, records):
            raise refusal(
                Code.TOPIC_FULL,
                f"{self.name} is full: {over}; wait for retention or raise the limit",
            )
        for at, segment in enumerate(log.segments):
            held_bytes -= segment.size
            held_records -= segment.record_count
            if _over(config, held_bytes, held_records, size, records) is None:
                self._drop_through(at)
                return

    def _drop_through(self, at: int) -> None:
        """Drop the segments up to this one, or say why that has to wait."""
        log = self.log
        if at + 1 == len(log.segments):
            # All there is, the segment that is being written included: it must be ended first.
            try:
                log.roll()
            except StorageError as error:
                if not isinstance(error, DiskFullError):
                    log.fail(error)
                raise self._refusal(error) from None
        target = log.segments[at + 1].base_offset
        if target > min(self.high_watermark, log.flushed_base):
            raise refusal(Code.TOPIC_FULL, f"{self.name} is full of uncommitted records")
        log.drop_before(target)


def _over(
    config: TopicConfig, held_bytes: int, held_records: int, size: int, records: int
) -> str | None:
    """What is beyond the capacity once this much more is there."""
    if config.capacity_bytes and held_bytes + size > config.capacity_bytes:
        return f"{held_bytes} bytes, {size} more, and capacity_bytes is {config.capacity_bytes}"
    if config.capacity_records and held_records + records > config.capacity_records:
        return (
            f"{held_records} records, {records} more, and capacity_records is "
            f"{config.capacity_records}"
        )
    return None
