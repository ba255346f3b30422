"""What brokers say to one another: messages in the envelope of frame.py, numbered apart.

A broker asks on its DEALER to another one's peer ROUTER. Every request begins with SENDER, every
reply with RECEIVER, so that a message of another cluster or another run is known as such. Places
are `[topic id, partition]`. What the rules (F2, D10, …) mean is said in research/replication.md
and in core/replication.
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import Final, NamedTuple

from zmqmq.model.limits import PARTITIONS_MAX, REPLY_BYTES_MAX
from zmqmq.wire.schema import Field, Schema, malformed, row

LISTED_MAX: Final = 700
"""Partitions that one request may list: they fit in a header frame. More follow in the next."""
ANSWERS_MAX: Final = 4_096
"""Partitions that one reply may be about."""
BODIES_MAX: Final = 1_023
"""Body frames of one reply."""
WAIT_MS_MAX: Final = 10_000


class PeerApi(enum.IntEnum):
    """The first element of a header between brokers. Numbers are never given a new meaning."""

    REPLICATE = 40
    REPORT = 41
    STATE = 42
    PING = 43
    HURRY = 44
    """Answer the sender's REPLICATE at once, for it has something new to list. Only a refusal
    is a reply of its own."""


class PeerCode(enum.IntEnum):
    """What became of a request, or of one partition in it. Numbers keep their meaning."""

    NONE = 0
    FENCED_LEADER_EPOCH = 1
    """The leader epoch is over: learn the new one (F3)."""
    UNKNOWN_LEADER_EPOCH = 2
    """Not known here, or not yet: ask again (F3)."""
    DIVERGING = 3
    """The logs have parted: truncate (F4)."""
    OUT_OF_RANGE = 4
    """The leader has nothing at this offset (F9)."""
    UNKNOWN_SESSION = 5
    """Begin a full session."""
    STALE_BROKER_EPOCH = 6
    """A later run of the sender has been here."""
    WRONG_CLUSTER = 7
    OFFLINE = 8
    """The log cannot be read here."""


SENDER: Final[Schema] = MappingProxyType(
    {
        "cluster": Field("bin", "cluster id", minimum=16, maximum=16),
        "broker": Field("int", "id of the broker that asks"),
        "epoch": Field("int", "its broker epoch"),
    }
)
"""In every request."""

RECEIVER: Final[Schema] = MappingProxyType(
    {
        "to": Field("int", "`epoch` of the request"),
        "error": Field("int", "0, or why there is nothing else (PeerCode)", default=0),
    }
)
"""In every reply."""

PEER_REQUESTS: Final[dict[PeerApi, Schema]] = {
    PeerApi.REPLICATE: {
        **SENDER,
        "session": Field("int", "number of the session; 0 begins one"),
        "run": Field("int", "of the leader, as the first reply of the session told", default=0),
        "sequence": Field("int", "counts the requests of a session, from 0"),
        "echo": Field("int", "stamp of the last reply used in this session", default=0),
        "max_wait_ms": Field(
            "int", "how long to wait for something to tell", maximum=WAIT_MS_MAX, unit="ms"
        ),
        "max_bytes": Field("int", "of all body frames", maximum=REPLY_BYTES_MAX, unit="bytes"),
        "partitions": Field(
            "list",
            "that are new or have changed: [topic id bin 16, partition, leader epoch, written "
            "end, last epoch + 1 (0: the log is empty), flushed end, log start]",
            maximum=LISTED_MAX,
        ),
        "forget": Field(
            "list", "that go: [topic id bin 16, partition]", default=(), maximum=LISTED_MAX
        ),
    },
    PeerApi.REPORT: {
        **SENDER,
        "partitions": Field(
            "list",
            "[topic id bin 16, partition, leader epoch to adopt first]",
            minimum=1,
            maximum=LISTED_MAX,
        ),
    },
    PeerApi.STATE: {
        **SENDER,
        "topic": Field("bin", "topic id", minimum=16, maximum=16),
        "partition": Field("int", "its number", maximum=PARTITIONS_MAX - 1),
        "leader_epoch": Field("int", "in which the receiver leads"),
    },
    PeerApi.PING: {**SENDER},
    PeerApi.HURRY: {**SENDER},
}

PEER_REPLIES: Final[dict[PeerApi, Schema]] = {
    PeerApi.REPLICATE: {
        **RECEIVER,
        "session": Field("int", "number of the session", default=0),
        "run": Field("int", "of the leader: tells its processes apart", default=0),
        "stamp": Field("int", "grows with each reply of this run", default=0),
        "partitions": Field(
            "list",
            "with news: [topic id bin 16, partition, leader epoch, offset asked for, PeerCode, x, "
            "y, bytes]; x and y are by code 0: high watermark and log start, 3: epoch and where "
            "it ends, 4: log start and end; where bytes > 0 the next body frame is the data",
            default=(),
            maximum=ANSWERS_MAX,
        ),
    },
    PeerApi.REPORT: {
        **RECEIVER,
        "epoch": Field("int", "broker epoch of who answers", default=0),
        "partitions": Field(
            "list",
            "[topic id bin 16, partition, adopted leader epoch, last epoch + 1, end offset], those "
            "that are open here and not damaged",
            default=(),
            maximum=LISTED_MAX,
        ),
    },
    PeerApi.STATE: {
        **RECEIVER,
        "offset": Field("int", "the log start; the body frames together are its state", default=0),
    },
    PeerApi.PING: {
        **RECEIVER,
        "epoch": Field("int", "broker epoch of who answers", default=0),
        "suspects": Field(
            "list",
            "whom it does not hear itself: [broker, broker epoch]",
            default=(),
            maximum=ANSWERS_MAX,
        ),
    },
    PeerApi.HURRY: {**RECEIVER},
}


class Listed(NamedTuple):
    """What a follower says of a partition (F2, D2)."""

    topic_id: bytes
    partition: int
    leader_epoch: int
    written: int
    """The end of its log: what it wants to read from."""
    last_epoch: int
    """Of its last batch; -1 for an empty log."""
    flushed: int
    log_start: int

    def encode(self) -> tuple[object, ...]:
        return (*self[:4], self.last_epoch + 1, *self[5:])

    @classmethod
    def decode(cls, entry: object) -> Listed:
        """Raises refusal(MALFORMED)."""
        values = row("partitions", entry, bytes, int, int, int, int, int, int)
        topic_id, partition, epoch, written, last, flushed, start = values[:7]
        listed = cls(topic_id, partition, epoch, written, last - 1, flushed, start)
        if not listed.log_start <= listed.written or not listed.flushed <= listed.written:
            raise malformed(f"an entry of 'partitions' has offsets out of order: {listed}")
        return listed


class Answer(NamedTuple):
    """What a leader says of a partition."""

    topic_id: bytes
    partition: int
    leader_epoch: int
    offset: int
    """As it was listed."""
    code: int
    x: int = 0
    y: int = 0
    size: int = 0

    @classmethod
    def decode(cls, entry: object) -> Answer:
        """Raises refusal(MALFORMED)."""
        values = row("partitions", entry, bytes, int, int, int, int, int, int, int)
        return cls(*values[:8])


class Reported(NamedTuple):
    """How far a broker's copy of a partition reaches (D8)."""

    topic_id: bytes
    partition: int
    leader_epoch: int
    """Adopted before this was said."""
    last_epoch: int
    end: int

    def encode(self) -> tuple[object, ...]:
        return (*self[:3], self.last_epoch + 1, self.end)

    @classmethod
    def decode(cls, entry: object) -> Reported:
        """Raises refusal(MALFORMED)."""
        values = row("partitions", entry, bytes, int, int, int, int)
        topic_id, partition, epoch, last, end = values[:5]
        return cls(topic_id, partition, epoch, last - 1, end)
