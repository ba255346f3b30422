"""What can happen to a broker, and what it can ask of the world.

Events are past, effects are orders. Effects of one answer are independent of one another: what
must come after a durable write is emitted when the event that says so has arrived. Every effect
that can fail has an event for failure too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zmqmq.core.meta.store import Batch, Commit, If, Op, StoreError
from zmqmq.core.meta.values import LiveDocument
from zmqmq.core.storage.data_directory import Format
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import Flush, Log, LogKey
from zmqmq.core.storage.reading import Place
from zmqmq.errors import StorageError
from zmqmq.model.topics import TopicConfig

# Events


class Received(NamedTuple):
    """A message came in."""

    route: bytes
    """The ROUTER's name for the connection; another one after each reconnect."""
    frames: list[Buffer]


class BurstEnded(NamedTuple):
    """All messages that had arrived have been handled: write out and flush what they brought."""


class RouteLost(NamedTuple):
    """A reply could not be sent, because the connection is gone or does not read."""

    route: bytes


class SubjectWanted(NamedTuple):
    """A SUB socket has subscribed; what it wants it gets once AdmitSubject is carried out."""

    subject: bytes


class Ticked(NamedTuple):
    """Time went by."""


class Measured(NamedTuple):
    """What the world counted, for whoever asks the broker how it is (docs/metrics.md)."""

    values: Mapping[str, float]
    cpu_ns: int
    """CPU time of the process since its start."""


class FlushEnded(NamedTuple):
    """A FlushFiles is done. Where there is an error nothing of that log counts as flushed."""

    flushes: Sequence[tuple[Log, Flush, StorageError | None]]


class ColdRead(NamedTuple):
    """A ReadCold is done."""

    token: int
    data: Buffer | StorageError


class LogOpened(NamedTuple):
    """An OpenLog is done."""

    key: LogKey
    log: Log | StorageError


class LogTruncated(NamedTuple):
    """A TruncateLog is done."""

    key: LogKey
    log: Log | StorageError


class LogDeleted(NamedTuple):
    """A DeleteLog is done."""

    key: LogKey


class FormatWritten(NamedTuple):
    """A WriteFormat is durable, or has failed."""

    error: StorageError | None


class Registered(NamedTuple):
    """A Register is done: this broker has a live key."""

    epoch: int
    """Its create_revision: the broker epoch."""


class RegistrationLost(NamedTuple):
    """The live key is gone, or the lease under it can no longer be trusted."""

    reason: str


class PeerRefused(NamedTuple):
    """Nobody listens where that broker did: an attempt to connect to it has failed."""

    broker_id: int


class PeerLinked(NamedTuple):
    """The connection to another broker came up or went away."""

    broker_id: int
    is_up: bool


class PeerAsked(NamedTuple):
    """Another broker asks something."""

    route: bytes
    frames: list[Buffer]


class PeerAnswered(NamedTuple):
    """Another broker answers what this one asked."""

    broker_id: int
    frames: list[Buffer]


class MetadataCommitted(NamedTuple):
    """A CommitMetadata is done."""

    token: int
    outcome: Commit | StoreError


class MetadataChanged(NamedTuple):
    """The store has moved on by one revision."""

    batch: Batch


Event = (
    Received
    | BurstEnded
    | RouteLost
    | SubjectWanted
    | Ticked
    | Measured
    | FlushEnded
    | ColdRead
    | LogOpened
    | LogTruncated
    | LogDeleted
    | FormatWritten
    | Registered
    | RegistrationLost
    | PeerLinked
    | PeerRefused
    | PeerAsked
    | PeerAnswered
    | MetadataCommitted
    | MetadataChanged
)


# Effects


class Send(NamedTuple):
    """Send a reply; never waits."""

    route: bytes
    frames: Sequence[Buffer]


class AdmitSubject(NamedTuple):
    """Let the SUB socket of the SubjectWanted that is being handled have it."""

    subject: bytes


class Publish(NamedTuple):
    """Send to every SUB socket that has the subject, which is the first frame; never waits."""

    frames: Sequence[Buffer]


class FlushFiles(NamedTuple):
    """Make these durable; answered by FlushEnded. At most one is under way."""

    flushes: Sequence[tuple[Log, Flush]]


class ReadCold(NamedTuple):
    """Read what is not in memory; answered by ColdRead."""

    token: int
    place: Place


@dataclass(frozen=True, slots=True)
class OpenLog:
    """Open or make a log; answered by LogOpened."""

    key: LogKey
    name: str
    """For messages to people."""
    config: TopicConfig
    quarantine: bool = False
    """Put aside what is there, and begin an empty one (D5)."""


class DeleteLog(NamedTuple):
    """Remove a log and its files for good, open or not; answered by LogDeleted."""

    key: LogKey


@dataclass(frozen=True, slots=True)
class TruncateLog:
    """Cut a log at `to`, which nobody uses meanwhile; answered by LogTruncated (F7).

    The checkpoint with the lower recovery point and high watermark is durable first. With `state`
    everything is removed, and the log begins at `to` with what that says of producers (F9).
    """

    log: Log
    to: int
    state: bytes | None = None


class WriteFormat(NamedTuple):
    """Replace what the data directory says of itself, durably; answered by FormatWritten."""

    format: Format


class Register(NamedTuple):
    """Take a lease and put this under the broker's live key; answered by Registered.

    Tried again until it succeeds, at most one at a time.
    """

    document: LiveDocument


class Unregister(NamedTuple):
    """Give the lease up, and with it the live key; not answered."""


class Halt(NamedTuple):
    """End the process: its disk has failed, or it must not go on. A supervisor starts another."""

    reason: str


class LinkPeer(NamedTuple):
    """Connect to another broker's peer listener, or with None let go of it.

    The connection is made again by itself when it breaks; PeerLinked tells.
    """

    broker_id: int
    address: str | None


class AskPeer(NamedTuple):
    """Send a request to another broker; lost if there is no connection."""

    broker_id: int
    frames: Sequence[Buffer]


class AnswerPeer(NamedTuple):
    """Answer another broker's request; never waits."""

    route: bytes
    frames: Sequence[Buffer]


class CommitMetadata(NamedTuple):
    """Change the metadata store; answered by MetadataCommitted."""

    token: int
    ops: Sequence[Op]
    ifs: Sequence[If]


Effect = (
    Send
    | AdmitSubject
    | Publish
    | FlushFiles
    | ReadCold
    | OpenLog
    | DeleteLog
    | TruncateLog
    | WriteFormat
    | Register
    | Unregister
    | Halt
    | LinkPeer
    | AskPeer
    | AnswerPeer
    | CommitMetadata
)
