"""Records that wait to be sent: the batch that they are collected in, and the queues of batches.

A `Batch` is touched by two threads. Its open phase belongs to the accumulator, under the guard
that the shell provides; once it is sealed only the producer machine changes it. `outcome` is
written once, last, and read by anybody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from zmqmq.errors import ZmqmqError

RECORD_OVERHEAD = 5
"""What msgpack puts in front of a value or key at most: counted for each, so sizes never lie."""
BATCH_OVERHEAD = 256
"""Header, column directory and array headers of a batch, generously."""


class Stored(NamedTuple):
    """Where the broker put a batch. -1: it did not say, as with acks=0."""

    base_offset: int
    append_time_ms: int


class Batch:
    """Records of one partition that are sent, acknowledged and retried together."""

    __slots__ = (
        "base_sequence",
        "data",
        "deadline",
        "due_at",
        "error",
        "granted",
        "headers",
        "is_void",
        "keys",
        "outcome",
        "queue",
        "request",
        "room",
        "tags",
        "timestamp_ms",
        "timestamps",
        "unknowns",
        "values",
        "watchers",
    )

    def __init__(self, queue: PartitionQueue, granted: int, timestamp_ms: int) -> None:
        self.queue = queue
        self.values: list[bytes | None] = []
        self.keys: list[bytes | None] | None = None
        self.headers: list[list[Any] | None] | None = None
        self.tags: list[str | None] | None = None
        self.timestamps: list[int] | None = None
        """One a record, or None while all have `timestamp_ms`."""
        self.timestamp_ms = timestamp_ms
        self.granted = granted
        """Bytes taken from the producer's buffer."""
        self.room = granted
        """Of these, how many are not used yet. Below 0 nothing may be appended."""
        self.due_at = 0
        self.deadline = 0
        self.data: bytes | None = None
        """The encoded batch. Retries send the same bytes."""
        self.base_sequence = -1
        self.request: object | None = None
        """The request that carries it now."""
        self.unknowns = 0
        """How many attempts ended without an answer: any of them may have been appended, at one
        broker or another. It stays so until the batch is acknowledged: what one broker does not
        have may yet come back with the next leader."""
        self.is_void = False
        """Whether no log can have it, since none has the number before its own."""
        self.error: ZmqmqError | None = None
        """What became of the last attempt."""
        self.outcome: Stored | ZmqmqError | None = None
        self.watchers: list[Callable[[], None]] = []
        """Called by the shell, once, after `outcome` is there."""

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"<Batch {self.queue.topic.name}/{self.queue.partition} of {len(self)}>"

    @property
    def used(self) -> int:
        """Bytes of records, overhead included."""
        return self.granted - self.room

    @property
    def is_uncertain(self) -> bool:
        """Whether it may be stored already: *perhaps* if it is given up on now, else *no*."""
        return self.request is not None or self.unknowns > 0

    @property
    def is_plain(self) -> bool:
        """Whether it has no column besides values and keys."""
        return self.headers is None and self.tags is None and self.timestamps is None


class PartitionQueue:
    """What is to be sent to one partition, in order: in flight, then ready, then open."""

    __slots__ = (
        "carrier",
        "epoch",
        "in_flight",
        "is_bumping",
        "is_due",
        "moved_at",
        "next_sequence",
        "not_before",
        "open",
        "partition",
        "ready",
        "retries",
        "topic",
    )

    def __init__(self, topic: TopicQueue, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.open: Batch | None = None
        """The batch that records are appended to."""
        self.is_due = False
        """Whether the open batch is to be sent as it is: its linger is over, or flush() said so."""
        self.ready: deque[Batch] = deque()
        """Full batches."""
        self.in_flight: deque[Batch] = deque()
        """Batches with a sequence number and no outcome, in the order of these numbers."""
        self.epoch = 0
        """Added to the producer's own epoch; grows when sequence numbers have to begin anew."""
        self.next_sequence = 0
        self.is_bumping = False
        """A sequence number will never arrive: no new ones until all in flight is decided."""
        self.carrier: object | None = None
        """The connection that its batches went to last."""
        self.not_before = 0
        self.retries = 0
        self.moved_at = -1
        """The version of the routing image whose leader was the wrong one."""

    @property
    def has_work(self) -> bool:
        """Whether something could be sent for the first time."""
        return bool(self.ready) or (self.is_due and self.open is not None)

    @property
    def has_unsent(self) -> bool:
        """Whether something that has a number waits to be sent once more."""
        return any(batch.request is None for batch in self.in_flight)


class TopicQueue:
    """The queues of one topic's partitions."""

    __slots__ = ("average", "id", "name", "partitions", "sticky", "unrouted")

    def __init__(self, name: str) -> None:
        self.name = name
        self.id = b""
        """Empty until metadata is there."""
        self.partitions: list[PartitionQueue] = []
        self.sticky = 0
        """Where records without a key go now."""
        self.average = 0
        """Bytes of a value lately, to guess how many fill a batch."""
        self.unrouted: deque[tuple[Batch, int | None]] = deque()
        """Batches of one record that came before metadata did, with the partition asked for."""
