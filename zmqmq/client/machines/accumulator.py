"""Where records wait until they are a batch: which batch takes a record, when a batch is due, and
how much may wait at all.

Runs on the callers' threads and on the I/O thread, always under the guard that the shell holds
around each call. `send` appends to `plain` or `keyed` without a call in here at all (sending.py);
everything else about a record comes through `append` and `append_values`.

Invariants: what all batches were granted is at most `buffer_bytes`; a batch is never larger than
`batch_bytes` unless its only record is; records of a partition keep the order of their appends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from zmqmq.batch.compression import Codec
from zmqmq.client.machines.batch import (
    BATCH_OVERHEAD,
    Batch,
    PartitionQueue,
    TopicQueue,
)
from zmqmq.client.machines.due_times import DueTimes
from zmqmq.client.machines.effects import MS
from zmqmq.client.machines.fitting import Length, append_columns, fitting, record_bytes
from zmqmq.client.machines.partitioning import Partitioning
from zmqmq.client.options import ProducerOptions
from zmqmq.errors import Code, RefusedError, UsageError, refusal
from zmqmq.model.limits import BATCH_BYTES_MAX, BATCH_INFLATED_BYTES_MAX

FIRST_GRANT: Final = 1_024
"""What a new batch takes from a buffer that is half full; it doubles as the batch grows. Small, so
that thousands of partitions with a record each do not fill the buffer with promises."""
TIMESTAMP_SLACK_MS: Final = 20
"""Records of a batch share a timestamp while they are this close together, or within linger."""

CLOSED: Final = Batch(PartitionQueue(TopicQueue(""), 0), granted=-1, timestamp_ms=0)
"""Stands where no batch takes records without a closer look: it has no room."""


class Accumulator:
    """The open and the full batches of one producer.

    Granted bytes are what `buffer_bytes` counts. A batch is granted more than it uses yet, so that
    appending a record changes one integer and not two.
    """

    def __init__(self, options: ProducerOptions, start: int) -> None:
        self.plain: Batch = CLOSED
        """Takes the next record of the default topic that has a value and nothing else."""
        self.keyed: list[Batch] = [CLOSED]
        """The same for a record with key and value, by partition."""
        self.free = options.buffer_bytes
        self.wanted = 0
        """How many free bytes the last append needed that found the buffer full."""
        self.batch_bytes = min(options.batch_bytes, BATCH_BYTES_MAX - BATCH_OVERHEAD)
        self.batch_records = options.batch_records
        self.topics: dict[str, TopicQueue] = {}
        self.default_topic: str | None = None
        self.unsettled: dict[Batch, None] = {}
        """Every batch without an outcome."""
        self.sendable: dict[PartitionQueue, None] = {}
        """Queues to look at when sending."""
        self.has_news = False
        """Whether the I/O thread has to look: a batch was opened or became full."""
        self._slack_ms = max(options.linger_ms, TIMESTAMP_SLACK_MS)
        self._value_bytes_max = (
            BATCH_BYTES_MAX if options.codec is Codec.NONE else BATCH_INFLATED_BYTES_MAX
        ) - BATCH_OVERHEAD
        self._buffer_bytes = options.buffer_bytes
        self.partitioning = Partitioning(options.partitioner)
        self._is_sticky = self.partitioning.is_sticky
        self._start = start
        self._first_epoch = 0
        """Where new queues begin: numbers that an earlier queue has used must not come again."""
        self._due = DueTimes(options.linger_ms * MS, options.delivery_timeout_ms * MS)

    # Appending

    def append(
        self,
        now: int,
        now_ms: int,
        topic: TopicQueue,
        partition: int | None,
        value: bytes | None,
        key: bytes | None = None,
        headers: list[Any] | None = None,
        tag: str | None = None,
        timestamp_ms: int | None = None,
    ) -> tuple[Batch, int] | None:
        """Put a record in; returns its batch and its place there. None: the buffer is full.

        Raises a refusal when the record can never be sent, and has not taken it then.
        """
        size = record_bytes(value, key, headers, tag)
        self._check_size(size)
        if not topic.partitions:
            return self._append_unrouted(
                now, now_ms, topic, partition, value, key, headers, tag, timestamp_ms, size
            )
        queue = self._queue_for(topic, partition, key, value)
        batch = self._batch_for(now, now_ms, queue, size, rotate=partition is None and key is None)
        if batch is None:
            return None
        index = len(batch.values)
        batch.room -= size
        append_columns(batch, index, key, headers, tag)
        moment = now_ms if timestamp_ms is None else timestamp_ms
        if batch.timestamps is not None:
            batch.timestamps.append(moment)
        elif moment != batch.timestamp_ms and (
            timestamp_ms is not None or moment - batch.timestamp_ms > self._slack_ms
        ):
            if index:
                batch.timestamps = [batch.timestamp_ms] * index
                batch.timestamps.append(moment)
            else:
                batch.timestamp_ms = moment
        batch.values.append(value)
        self._point(batch.queue)
        return batch, index

    def append_values(
        self,
        now: int,
        now_ms: int,
        topic: TopicQueue,
        partition: int | None,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None,
        at: int,
        length: Length,
        tag: str | None = None,
        timestamp_ms: int | None = None,
    ) -> tuple[Batch, int, int] | None:
        """Put as many of `values[at:]` as fit into one batch; its place there and how many.

        All go to one partition: the one given, or the one whose turn it is. `length` is `len`,
        or `length_or_0` where some value or key is None. None: the buffer is full.
        """
        queue = topic.partitions[topic.sticky if partition is None else partition]
        batch = queue.open
        if batch is not None and not self._takes_columns(batch, keys, tag, timestamp_ms):
            self.seal(queue, rotate=partition is None)
            queue = topic.partitions[topic.sticky if partition is None else partition]
            batch = queue.open
            if batch is not None and not self._takes_columns(batch, keys, tag, timestamp_ms):
                self.seal(queue, rotate=False)
                batch = None
        used = 0 if batch is None else batch.used
        count = len(batch.values) if batch is not None else 0
        chunk, size = fitting(
            values,
            keys,
            at,
            most=self.batch_records - count,
            room=self.batch_bytes - used,
            average=topic.average,
            tag=tag,
            length=length,
            is_first=count == 0,
        )
        if not chunk:
            self.seal(queue, rotate=partition is None)
            return self.append_values(
                now, now_ms, topic, partition, values, keys, at, length, tag, timestamp_ms
            )
        topic.average = max(size // len(chunk), 1)
        if len(chunk) == 1:
            self._check_size(size)
        batch = self._batch_for(now, now_ms, queue, size, rotate=False)
        if batch is None:
            return None
        index = len(batch.values)
        batch.room -= size
        if timestamp_ms is not None and not index:
            batch.timestamp_ms = timestamp_ms
        if keys is not None:
            if batch.keys is None:
                batch.keys = [None] * index
            batch.keys.extend(keys[at : at + len(chunk)])
        if tag is not None:
            if batch.tags is None:
                batch.tags = [None] * index
            batch.tags.extend([tag] * len(chunk))
        batch.values.extend(chunk)
        if len(batch.values) >= self.batch_records or self.batch_bytes - batch.used < min(
            topic.average, self.batch_bytes // 8
        ):
            self.seal(queue, rotate=partition is None)
        else:
            self._point(queue)
        return batch, index, len(chunk)

    def seal(self, queue: PartitionQueue, *, rotate: bool) -> None:
        """Close the open batch, if any: it goes out as it is."""
        batch = queue.open
        if batch is not None:
            queue.open = None
            queue.is_due = False
            self._trim(batch)
            queue.ready.append(batch)
            self.sendable[queue] = None
            self.has_news = True
        topic = queue.topic
        if rotate and topic.partitions[topic.sticky] is queue:
            topic.sticky = (topic.sticky + 1) % len(topic.partitions)
            self._point(topic.partitions[topic.sticky])
        self._point(queue)

    def seal_all(self) -> list[Batch]:
        """Make everything due; returns every batch that has no outcome yet."""
        for topic in self.topics.values():
            for queue in topic.partitions:
                if queue.open is not None:
                    self.seal(queue, rotate=False)
        return list(self.unsettled)

    def stop(self) -> None:
        """Take nothing more by the short way: the shell has reasons to look at each record."""
        self.plain = CLOSED
        self.keyed[:] = [CLOSED] * len(self.keyed)
        self.default_topic = None

    # Topics

    def topic(self, name: str) -> TopicQueue:
        """The queues of a topic, without partitions until `route` has told how many there are."""
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = TopicQueue(name)
        return topic

    def route(
        self, name: str, topic_id: bytes, count: int
    ) -> list[tuple[Batch, RefusedError | UsageError]]:
        """Metadata has come: make the queues and hand out what waited for it.

        Returns what cannot be handed out, such as for a partition that does not exist, and why.
        """
        topic = self.topic(name)
        topic.id = topic_id
        while len(topic.partitions) < count:
            queue = PartitionQueue(topic, len(topic.partitions))
            queue.epoch = self._first_epoch
            topic.partitions.append(queue)
        if name == self.default_topic:
            self.keyed += [CLOSED] * (count - len(self.keyed))
        topic.sticky = topic.sticky or self._start % count
        homeless = []
        unrouted, topic.unrouted = topic.unrouted, deque()
        for batch, partition in unrouted:
            key = batch.keys[0] if batch.keys else None
            try:
                queue = self._queue_for(topic, partition, key, batch.values[0])
            except (RefusedError, UsageError) as error:
                homeless.append((batch, error))
                continue
            batch.queue = queue
            queue.ready.append(batch)
            self.sendable[queue] = None
        return homeless

    def forget(self, topic: TopicQueue) -> None:
        """There is no such topic: who sends to it again begins anew."""
        self.topics.pop(topic.name, None)
        epochs = [queue.epoch + 1 for queue in topic.partitions]
        self._first_epoch = max(self._first_epoch, *epochs, 0)
        if topic.name == self.default_topic:
            self.plain = CLOSED
            self.keyed[:] = [CLOSED]

    # For the I/O thread

    def collect(self, now: int) -> None:
        """Mark the open batches whose linger is over as due."""
        for batch in self._due.lingered(now):
            if batch.queue.open is batch:
                batch.queue.is_due = True
                self.sendable[batch.queue] = None
        self.has_news = False

    def take(self, queue: PartitionQueue) -> Batch | None:
        """The next batch of this queue that is full or due."""
        if queue.ready:
            return queue.ready.popleft()
        batch = queue.open
        if batch is None or not queue.is_due:
            return None
        queue.open = None
        queue.is_due = False
        self._trim(batch)
        topic = queue.topic
        if topic.partitions[topic.sticky] is queue:
            topic.sticky = (topic.sticky + 1) % len(topic.partitions)
            self._point(topic.partitions[topic.sticky])
        self._point(queue)
        return batch

    def hold(self, queue: PartitionQueue) -> None:
        """The open batch is due and cannot go yet: records that join it need a time of their own.

        So they must take the long way in, where timestamps are looked at.
        """
        if self.plain is queue.open:
            self.plain = CLOSED
        if queue.partition < len(self.keyed) and self.keyed[queue.partition] is queue.open:
            self.keyed[queue.partition] = CLOSED

    def release(self, batch: Batch) -> None:
        """A batch has got its outcome: its bytes are free again.

        Handles keep the batch alive as long as somebody holds them, but not its records.
        """
        if batch in self.unsettled:
            del self.unsettled[batch]
            self.free += batch.granted
            batch.granted = batch.room = 0
            batch.values = []
            batch.keys = batch.headers = batch.tags = batch.timestamps = batch.data = None

    def overdue(self, now: int) -> list[Batch]:
        """The batches without an outcome whose delivery time-out is over."""
        return self._due.overdue(now, len(self.unsettled))

    def remove(self, batch: Batch) -> None:
        """Take a batch that was given up on out of wherever it waits."""
        queue = batch.queue
        if queue.open is batch:
            queue.open = None
            queue.is_due = False
            self._point(queue)
        for waiting in (queue.ready, queue.in_flight):
            if batch in waiting:
                waiting.remove(batch)
        unrouted = queue.topic.unrouted
        for entry in [e for e in unrouted if e[0] is batch]:
            unrouted.remove(entry)

    def next_wake(self) -> int:
        """When a linger or a delivery time-out ends next."""
        return self._due.next()

    def check(self) -> None:
        """Assert what holds between calls."""
        assert self.free == self._buffer_bytes - sum(batch.granted for batch in self.unsettled)
        for batch in self.unsettled:
            assert batch.room >= 0
            for column in (batch.keys, batch.headers, batch.tags, batch.timestamps):
                assert column is None or len(column) == len(batch.values)

    # Inside

    def _queue_for(
        self, topic: TopicQueue, partition: int | None, key: bytes | None, value: bytes | None
    ) -> PartitionQueue:
        return topic.partitions[self.partitioning.choose(topic, partition, key, value)]

    def _batch_for(
        self, now: int, now_ms: int, queue: PartitionQueue, size: int, *, rotate: bool
    ) -> Batch | None:
        """The open batch with room for `size` bytes, made if need be. None: the buffer is full."""
        batch = queue.open
        if batch is not None and (
            len(batch.values) >= self.batch_records or batch.used + size > self.batch_bytes
        ):
            self.seal(queue, rotate=rotate and self._is_sticky)
            if rotate and self._is_sticky:
                queue = queue.topic.partitions[queue.topic.sticky]
                return self._batch_for(now, now_ms, queue, size, rotate=False)
            batch = None
        if batch is None:
            return self._open(now, now_ms, queue, size)
        if batch.room < size:
            need = size - batch.room
            grant = max(
                need, min(self._first_grant(batch.granted), self.batch_bytes - batch.granted)
            )
            if self.free < grant:
                grant = need
            if self.free < grant and not self._reclaim(grant):
                # Full. What is open goes out, or nothing would ever become free.
                self.wanted = need
                self.seal_all()
                return None
            self.free -= grant
            batch.granted += grant
            batch.room += grant
        return batch

    def _open(self, now: int, now_ms: int, queue: PartitionQueue, size: int) -> Batch | None:
        grant = max(size, self._first_grant(FIRST_GRANT))
        if self.free < grant:
            grant = size
        if self.free < grant and not self._reclaim(grant):
            self.wanted = size
            self.seal_all()
            return None
        self.free -= grant
        batch = Batch(queue, grant, now_ms)
        queue.open = batch
        self.unsettled[batch] = None
        self._due.add(now, batch)
        self.has_news = True
        return batch

    def _first_grant(self, when_scarce: int) -> int:
        """A whole batch while the buffer is half empty: then `send` never asks for more."""
        is_plenty = self.free * 2 > self._buffer_bytes
        return self.batch_bytes if is_plenty else min(when_scarce, self.batch_bytes)

    def _reclaim(self, need: int) -> bool:
        """Take back what open batches were granted and do not use; whether `need` is free then."""
        for batch in self.unsettled:
            if batch.room:
                self._trim(batch)
        return self.free >= need

    def _append_unrouted(
        self,
        now: int,
        now_ms: int,
        topic: TopicQueue,
        partition: int | None,
        value: bytes | None,
        key: bytes | None,
        headers: list[Any] | None,
        tag: str | None,
        timestamp_ms: int | None,
        size: int,
    ) -> tuple[Batch, int] | None:
        if self.free < size and not self._reclaim(size):
            self.wanted = size
            return None
        self.free -= size
        batch = Batch(
            PartitionQueue(topic, -1), size, now_ms if timestamp_ms is None else timestamp_ms
        )
        batch.room = 0
        append_columns(batch, 0, key, headers, tag)
        batch.values.append(value)
        topic.unrouted.append((batch, partition))
        self.unsettled[batch] = None
        self._due.add(now, batch)
        self.has_news = True
        return batch, 0

    def _takes_columns(
        self,
        batch: Batch,
        keys: object,
        tag: str | None,
        timestamp_ms: int | None,
    ) -> bool:
        """Whether values can join as they are, without filling up columns record by record."""
        if batch.headers is not None or batch.timestamps is not None:
            return False
        if timestamp_ms is not None and timestamp_ms != batch.timestamp_ms:
            return False
        return (batch.keys is None) == (keys is None) and (batch.tags is None) == (tag is None)

    def _trim(self, batch: Batch) -> None:
        """Give back what a batch was granted and does not use."""
        self.free += batch.room
        batch.granted -= batch.room
        batch.room = 0

    def _point(self, queue: PartitionQueue) -> None:
        """Let `plain` and `keyed` point at the open batch where records may join unseen."""
        topic = queue.topic
        if not self._is_sticky or topic.name != self.default_topic:
            return
        batch = queue.open
        if batch is None or queue.is_due or not batch.is_plain:
            plain = keyed = CLOSED
        elif batch.keys is None:
            plain, keyed = batch, CLOSED
        else:
            plain, keyed = CLOSED, batch
        self.keyed[queue.partition] = keyed
        if topic.partitions[topic.sticky] is queue:
            self.plain = plain

    def _check_size(self, size: int) -> None:
        if size > self._value_bytes_max:
            raise refusal(
                Code.TOO_LARGE,
                f"the record has {size} bytes; the limit is {self._value_bytes_max}. "
                "Store it elsewhere and send where, or cut it into several records",
            )
        if size > self._buffer_bytes:
            raise refusal(
                Code.TOO_LARGE,
                f"the record has {size} bytes and buffer_bytes is {self._buffer_bytes}; "
                "make the buffer larger",
            )
