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
from zmqmq.core.replication.partition import Partition
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import Flush, Log, LogKey
from zmqmq.core.storage.reading import Place
from zmqmq.errors import StorageError
from zmqmq.model.topics import TopicConfig


class Now(NamedTuple):
    """Both clocks at one moment."""

    ns: int
    """Monotonic, for deadlines."""
    ms: int
    """Of the wall, since 1970 UTC, for append times."""


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


class Ticked(NamedTuple):
    """Time went by."""


class Measured(NamedTuple):
    """What the world counted, for whoever asks the broker how it is (docs/metrics.md)."""

    values: Mapping[str, float]


class FlushEnded(NamedTuple):
    """A FlushFiles is done. Where there is an error nothing of that log counts as flushed."""

    flushes: Sequence[tuple[Partition, Flush, StorageError | None]]


class ColdRead(NamedTuple):
    """A ReadCold is done."""

    token: int
    data: Buffer | StorageError


class LogOpened(NamedTuple):
    """An OpenLog is done."""

    key: LogKey
    log: Log | StorageError


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
    | Ticked
    | Measured
    | FlushEnded
    | ColdRead
    | LogOpened
    | MetadataCommitted
    | MetadataChanged
)


# Effects


class Send(NamedTuple):
    """Send a reply; never waits."""

    route: bytes
    frames: Sequence[Buffer]


class FlushFiles(NamedTuple):
    """Make these durable; answered by FlushEnded. At most one is under way."""

    flushes: Sequence[tuple[Partition, Flush]]


class ReadCold(NamedTuple):
    """Read what is not in memory; answered by ColdRead."""

    token: int
    place: Place


@dataclass(frozen=True, slots=True)
class OpenLog:
    """Open or make a log; answered by LogOpened."""

    key: LogKey
    config: TopicConfig


class DeleteLog(NamedTuple):
    """Remove a log and its files for good, whether it is open or not."""

    key: LogKey


class CommitMetadata(NamedTuple):
    """Change the metadata store; answered by MetadataCommitted."""

    token: int
    ops: Sequence[Op]
    ifs: Sequence[If]


Effect = Send | FlushFiles | ReadCold | OpenLog | DeleteLog | CommitMetadata
