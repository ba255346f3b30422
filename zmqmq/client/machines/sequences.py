"""The sequence numbers of an idempotent producer on one partition after another.

The broker appends a batch only when its number follows that of the batch before, and recognises
the last 64 when they come again. So what was sent and not answered can be sent again, as long as
it keeps its bytes. A number that will never arrive (its batch was given up on) would stop the
partition for good: then the numbers begin anew at 0 under the next epoch (replication.md P5).

Such a bump waits until every batch in flight is decided. One that may have been appended under
the old epoch and was sent again under the new one would be stored twice. Whether it was appended
only an acknowledgement tells: a broker that misses it may lead for a moment, and be followed by
one that has it. But a log that lacks a number lacks all that follow.
"""

from __future__ import annotations

from itertools import dropwhile, islice

from zmqmq.batch.compression import Codec
from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import log_seed
from zmqmq.client.machines.batch import Batch, PartitionQueue
from zmqmq.model.limits import SEQUENCE_MAX


class Sequences:
    """Numbers and encodes batches. Without idempotence every number is 0, as the format says."""

    def __init__(self, *, is_idempotent: bool, codec: Codec) -> None:
        self.is_idempotent = is_idempotent
        self.producer_id = 0
        self._epoch = 0
        self._codec = codec

    @property
    def needs_id(self) -> bool:
        """Whether INIT_PRODUCER has to be asked first."""
        return self.is_idempotent and self.producer_id == 0

    def note_id(self, producer_id: int, epoch: int) -> None:
        """INIT_PRODUCER has answered."""
        self.producer_id = producer_id
        self._epoch = epoch

    def encode(self, batch: Batch) -> bytes:
        """Give the batch the next number of its queue and make its bytes, once and for all."""
        queue = batch.queue
        assert not queue.is_bumping
        assert batch.data is None
        sequence = queue.next_sequence if self.is_idempotent else 0
        data = encode_batch(
            log_seed(queue.topic.id, queue.partition),
            batch.values,
            timestamp_ms=batch.timestamp_ms,
            keys=batch.keys,
            headers=batch.headers,
            tags=batch.tags,
            timestamps_ms=batch.timestamps,
            codec=self._codec,
            producer_id=self.producer_id,
            producer_epoch=self._epoch + queue.epoch if self.is_idempotent else 0,
            base_sequence=sequence,
        )
        batch.data = data
        batch.base_sequence = sequence
        if self.is_idempotent:
            queue.next_sequence = (sequence + len(batch.values)) & SEQUENCE_MAX
        return data

    def take_back(self, batch: Batch) -> None:
        """The batch that was numbered last is not sent after all: the next one gets its number."""
        if self.is_idempotent:
            batch.queue.next_sequence = batch.base_sequence

    def to_send_again(self, queue: PartitionQueue) -> list[Batch]:
        """The numbered batches that no request carries, in order.

        While the numbers are about to begin anew, only those that may have been appended: to
        hear whether they were.
        """
        return [
            batch
            for batch in queue.in_flight
            if batch.request is None and (not queue.is_bumping or batch.unknowns)
        ]

    def note_hole(self, batch: Batch) -> None:
        """The number of a batch in flight will never arrive: the numbers have to begin anew.

        If no log has it, no log has or will take what comes behind it.
        """
        queue = batch.queue
        self.begin_anew(queue)
        if queue.is_bumping and not batch.is_uncertain:
            behind = dropwhile(lambda other: other is not batch, queue.in_flight)
            for other in islice(behind, 1, None):
                other.is_void, other.unknowns = True, 0

    def begin_anew(self, queue: PartitionQueue) -> None:
        """Number this queue anew, once all in flight is decided."""
        queue.is_bumping = self.is_idempotent

    def maybe_bump(self, queue: PartitionQueue) -> bool:
        """Begin anew if it is called for and all is decided; what is left is encoded again."""
        if not queue.is_bumping:
            return False
        first = next((batch for batch in queue.in_flight if not batch.is_uncertain), None)
        if first is not None:
            self.note_hole(first)  # nor will it be sent under this number
        if any(batch.is_uncertain for batch in queue.in_flight):
            return False
        while queue.in_flight:
            batch = queue.in_flight.pop()
            batch.data = None
            batch.base_sequence = -1
            batch.is_void = False
            queue.ready.appendleft(batch)
        queue.epoch += 1
        queue.next_sequence = 0
        queue.is_bumping = False
        return True
