"""One partition as a consumer reads it, and what was fetched of it."""

from __future__ import annotations

import enum
from struct import Struct
from typing import Final, NamedTuple

from zmqmq.batch.layout import HEADER_SIZE
from zmqmq.client.machines.effects import Body
from zmqmq.client.machines.push import Subscription
from zmqmq.errors import Code, CorruptDataError, NotFoundError, refusal
from zmqmq.model.limits import INTEGER_MAX

_SIZES: Final = Struct(">QII32xI")
"""Base offset, size, leader epoch and last offset delta of a batch header."""

EPOCH_UNKNOWN: Final = 0
"""In the place of the leader epoch of a committed offset."""


class PlaceKind(enum.Enum):
    """How a place in a partition is described."""

    START = "start"
    END = "end"
    STORED = "stored"
    """The committed offset, of the group or of the broadcast consumer; without one, the start."""
    OFFSET = "offset"
    BEFORE_END = "before the end"
    """`number` records before the end, but not before the start."""
    TIME = "time"
    """The first record appended at `number` ms since 1970, or later."""


class Place(NamedTuple):
    """Where to read from."""

    kind: PlaceKind
    number: int = 0


class Nearby(NamedTuple):
    """A broker that follows, and is near."""

    broker: int
    epoch: int
    """The leader epoch in which the leader named it (KAFKA-14379)."""
    until: int


class Stream:
    """One partition of a consumer's assignment. Only the I/O thread changes it."""

    __slots__ = (
        "end",
        "epoch_since",
        "generation",
        "is_paused",
        "is_stopped",
        "last_epoch",
        "moved_at",
        "nearby",
        "no_push_until",
        "no_rack_until",
        "not_before",
        "partition",
        "place",
        "position",
        "request",
        "retries",
        "stop_at",
        "subscription",
        "topic",
        "topic_id",
        "turn",
        "unhelpful",
    )

    def __init__(self, topic: str, partition: int, place: Place) -> None:
        self.topic = topic
        self.topic_id = b""
        """Of the topic that `position` is an offset in; empty until that is known."""
        self.partition = partition
        self.place: Place | None = place
        """Where to begin, while that is not resolved to `position` yet."""
        self.position = -1
        """The next offset to fetch; -1 while unresolved."""
        self.generation = 0
        """Which seek this is. What an earlier one fetched is dropped."""
        self.request: object | None = None
        """Stands for the fetch that carries this partition now."""
        self.is_paused = False
        """Whether the caller wants nothing of it for now."""
        self.is_stopped = False
        """Whether an error was told that only a seek can mend."""
        self.last_epoch: int | None = None
        """The leader epoch of what was fetched last, which ends at `position` (F12)."""
        self.epoch_since = 0
        """Whoever goes on between here and `position` has read its last record in that epoch."""
        self.stop_at: int | None = None
        """With stop_at_end: the end when the consumer began."""
        self.not_before = 0
        self.retries = 0
        self.moved_at = -1
        """The version of the routing image whose leader was the wrong one."""
        self.end = -1
        """The committed end, as the last answer said; -1 before any."""
        self.nearby: Nearby | None = None
        """Where the leader has said to read instead of there (F11)."""
        self.no_rack_until = 0
        """Until then the leader is not asked for such a broker: the last one did not help."""
        self.unhelpful: dict[int, int] = {}
        """Brokers whose copies did not help, and until when they are not asked."""

        self.subscription: Subscription | None = None
        """Through which it is published to us."""
        self.turn = 0
        """Grows when it is asked for and when it has got something: the lowest is asked first."""
        self.no_push_until = 0
        """Until then it is not asked for: it did not help."""

    def __repr__(self) -> str:
        return f"<Stream {self.topic}/{self.partition} at {self.position}>"

    def advance(self, position: int, epoch: int, since: int) -> None:
        """It was fetched up to `position`; `since` is the first batch of the last epoch there."""
        if epoch != self.last_epoch:
            self.last_epoch, self.epoch_since = epoch, since + 1
        self.position = position

    def seek(self, generation: int, place: Place) -> None:
        """Go on there; what is under way is stale."""
        self.request = None
        self.retries = self.not_before = 0
        self.last_epoch = None
        if self.is_stopped:
            self.is_stopped, self.topic_id = False, b""
        if place.kind is PlaceKind.OFFSET:
            self.place, self.position = None, place.number
        else:
            self.place, self.position = place, -1
        self.generation = generation  # last: a reader that sees it sees the rest

    def resume(self, offset: int, epoch: int) -> None:
        """This was committed, and in which leader epoch the record before was read."""
        if epoch > EPOCH_UNKNOWN:
            self.last_epoch, self.epoch_since = epoch, offset

    def epoch_at(self, offset: int) -> int:
        """The leader epoch of the record before an offset, to be committed with it."""
        last = self.last_epoch
        if last is None or not self.epoch_since <= offset <= self.position:
            return EPOCH_UNKNOWN
        return last

    @property
    def is_done(self) -> bool:
        """Whether it has reached where it stops."""
        return self.stop_at is not None and self.place is None and self.position >= self.stop_at

    @property
    def is_pushed(self) -> bool:
        """Whether whatever it has not got yet will come, or be announced."""
        subscription = self.subscription
        return subscription is not None and subscription.is_live and self.position >= self.end

    def can_fetch(self, now: int) -> bool:
        """Whether a fetch should ask for it now."""
        return (
            self.place is None
            and self.request is None
            and not self.is_paused
            and not self.is_stopped
            and self.not_before <= now
            and not self.is_done
            and not self.is_pushed
        )


class Asked(NamedTuple):
    """What a fetch asks of one partition."""

    stream: Stream
    topic_id: bytes
    position: int
    epoch: int
    """The leader epoch that was known."""


class Chunk(NamedTuple):
    """What one fetch brought of one partition: whole batches, not checked yet."""

    stream: Stream
    generation: int
    topic_id: bytes
    position: int
    """What was asked for. The first batch may begin before it."""
    stop_at: int | None
    data: Body
    is_pushed: bool = False
    """Whether it was published, so that a fetch may bring what this one should have."""


class End(NamedTuple):
    """Where whole batches end."""

    next_offset: int
    """Behind the last of them."""
    epoch: int
    """Its leader epoch."""
    since: int
    """The offset of the first of them in that epoch."""


def is_offset(value: object) -> bool:
    """Whether a broker's value can be an offset, or another number that counts from 0."""
    return type(value) is int and 0 <= value <= INTEGER_MAX


def end_of_batches(data: Body) -> End:
    """Where the batches of a body frame end, from the headers alone.

    The reader checks the checksums before it hands anything out; this only has to know where to
    fetch on. Raises CorruptDataError when the headers do not lead from one to the next.
    """
    position = next_offset = since = 0
    last = EPOCH_UNKNOWN
    size = len(data)
    while position < size:
        if size - position < HEADER_SIZE:
            raise CorruptDataError(f"{size - position} bytes are too few for a batch header")
        base, batch_size, epoch, delta = _SIZES.unpack_from(data, position)
        if not HEADER_SIZE < batch_size <= size - position or base + delta < next_offset - 1:
            raise CorruptDataError(
                f"batch at offset {base} says {batch_size} bytes, {size - position} are there"
            )
        if epoch != last:
            last, since = epoch, base
        next_offset = base + delta + 1
        if next_offset > INTEGER_MAX:
            raise CorruptDataError(f"batch at offset {base} says {delta} as its last delta")
        position += batch_size
    return End(next_offset, last, since)


def no_partition(name: str, partition: int, count: int) -> NotFoundError:
    """The error of whoever wants a partition that a topic does not have."""
    detail = f"topic {name!r} has partitions 0 to {count - 1}; {partition} is none"
    error = refusal(Code.UNKNOWN_PARTITION, detail)
    assert isinstance(error, NotFoundError)
    return error


def made_anew(stream: Stream) -> NotFoundError:
    """The error of whoever reads a topic that is another one by now."""
    detail = (
        f"topic {stream.topic!r} was deleted and made again; offset {stream.position} of partition "
        f"{stream.partition} was one of the old topic. Seek, to read the new one"
    )
    error = refusal(Code.UNKNOWN_TOPIC, detail)
    assert isinstance(error, NotFoundError)
    return error
