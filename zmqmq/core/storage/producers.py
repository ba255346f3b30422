"""What a partition remembers of its idempotent producers (replication.md P1-P5).

The table is a function of the log: the same batches in the same order give the same table, on
every replica and after every restart. So it is snapshotted and replayed, never repaired.

A batch that comes again (its reply was lost) is recognised among the last 64 of its producer and
answered with the offset that it got the first time (P2; DESIGN 8).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from zmqmq.batch.layout import BatchHeader
from zmqmq.errors import Code, refusal
from zmqmq.model.limits import BATCHES_REMEMBERED, INTEGER_MAX, SEQUENCE_MAX


class Written(NamedTuple):
    """One remembered batch."""

    first_sequence: int
    last_sequence: int
    base_offset: int
    next_offset: int
    append_ms: int

    @classmethod
    def of(cls, header: BatchHeader) -> Written:
        """What is remembered of a stamped batch."""
        return cls(
            header.base_sequence,
            header.last_sequence,
            header.base_offset,
            header.next_offset,
            header.append_time_ms,
        )


@dataclass(slots=True)
class _Producer:
    epoch: int
    batches: deque[Written] = field(default_factory=lambda: deque(maxlen=BATCHES_REMEMBERED))


Snapshot = list[list[object]]


class ProducerTable:
    """The producers of one partition, longest idle first."""

    __slots__ = ("_expiry_ms", "_most", "_producers")

    def __init__(self, most: int, expiry_ms: int) -> None:
        self._most = most
        self._expiry_ms = expiry_ms
        self._producers: dict[int, _Producer] = {}

    def __len__(self) -> int:
        return len(self._producers)

    def check(
        self, producer_id: int, epoch: int, first_sequence: int, last_sequence: int
    ) -> Written | None:
        """Whether this batch comes next (None) or again (where it went).

        Raises the refusal of a batch that does neither. Nothing has changed then.
        """
        producer = self._producers.get(producer_id)
        if producer is None or epoch > producer.epoch:
            if first_sequence == 0:
                return None
            # Kafka takes any sequence of a producer that it does not know, and with it the
            # duplicates of one that it forgot (P3).
            raise refusal(
                Code.UNKNOWN_PRODUCER,
                f"producer {producer_id} epoch {epoch} is not known here, and sequence "
                f"{first_sequence} is not 0: begin again with a higher epoch",
            )
        if epoch < producer.epoch:
            raise refusal(
                Code.PRODUCER_FENCED,
                f"producer {producer_id} has epoch {producer.epoch} by now; {epoch} is older",
            )
        last = producer.batches[-1]
        if first_sequence == (last.last_sequence + 1) & SEQUENCE_MAX:
            return None
        for written in producer.batches:
            if written.first_sequence == first_sequence and written.last_sequence == last_sequence:
                return written
        ahead = (first_sequence - last.last_sequence - 1) & SEQUENCE_MAX
        if ahead <= SEQUENCE_MAX // 2:
            raise refusal(
                Code.OUT_OF_ORDER_SEQUENCE,
                f"producer {producer_id}: sequence {first_sequence} leaves a gap behind "
                f"{last.last_sequence}",
            )
        raise refusal(
            Code.DUPLICATE_SEQUENCE,
            f"producer {producer_id}: sequence {first_sequence} was written long ago, before the "
            f"last {BATCHES_REMEMBERED} batches",
        )

    def note(self, producer_id: int, epoch: int, written: Written) -> None:
        """Remember a batch that was appended."""
        producer = self._producers.pop(producer_id, None)
        if producer is None:
            if len(self._producers) >= self._most:
                del self._producers[next(iter(self._producers))]
            producer = _Producer(epoch)
        elif epoch != producer.epoch:
            producer.epoch = epoch
            producer.batches.clear()
        self._producers[producer_id] = producer  # behind all others: the one idle for least
        producer.batches.append(written)

    def expire(self, now_ms: int) -> None:
        """Forget who appended nothing for the configured time."""
        limit = now_ms - self._expiry_ms
        gone = [i for i, p in self._producers.items() if p.batches[-1].append_ms < limit]
        for producer_id in gone:
            del self._producers[producer_id]

    def base_offsets(self) -> frozenset[int]:
        """Of all remembered batches."""
        return frozenset(b.base_offset for p in self._producers.values() for b in p.batches)

    def snapshot(self, end: int = INTEGER_MAX) -> Snapshot:
        """The table in msgpack's types, or what it says of batches that begin below `end`."""
        rows = (
            [i, p.epoch, [list(b) for b in p.batches if b.base_offset < end]]
            for i, p in self._producers.items()
        )
        return [row for row in rows if row[2]]

    def restore(self, snapshot: Snapshot) -> None:
        """Become what `snapshot` was taken of."""
        self._producers.clear()
        for producer_id, epoch, batches in snapshot:
            assert isinstance(producer_id, int)
            assert isinstance(epoch, int)
            assert isinstance(batches, list)
            producer = _Producer(epoch)
            producer.batches.extend(Written(*batch) for batch in batches)
            self._producers[producer_id] = producer
