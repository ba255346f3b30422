"""One fetch, and what it wants of each partition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from zmqmq.core.broker.copies import Copy
from zmqmq.core.broker.sessions import Session
from zmqmq.core.replication.partition import Partition
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.reading import Place
from zmqmq.errors import WireError


class Elsewhere(NamedTuple):
    """Not read here: another broker has the same, and is nearer (F11)."""

    partition: Partition
    broker_id: int


class Asked(NamedTuple):
    """What a fetch wants of one partition."""

    source: Partition | Copy
    offset: int
    max_bytes: int


Entry = Asked | Elsewhere | WireError
"""One partition of a fetch: what is read there, or what is answered without reading."""


class Cold(NamedTuple):
    """What was asked of the disk."""

    where: Place
    asked: Asked
    rewinds: int
    """How often the log had been cut then."""


class FetchRequest:
    """One fetch, from its arrival to its answer."""

    __slots__ = (
        "_expired",
        "answers",
        "asked",
        "bodies",
        "cold",
        "correlation",
        "done",
        "end_ns",
        "is_due",
        "max_bytes",
        "min_bytes",
        "parked",
        "session",
        "taken_bytes",
    )

    def __init__(
        self,
        expired: Callable[[FetchRequest], None],
        session: Session,
        correlation: int,
        asked: list[Entry],
        min_bytes: int,
        max_bytes: int,
        end_ns: int,
    ) -> None:
        self._expired = expired
        self.session = session
        self.correlation = correlation
        self.asked = asked
        self.min_bytes = min_bytes
        self.max_bytes = max_bytes
        self.end_ns = end_ns
        """When it is to be answered with what there is."""
        self.answers: list[Any] = []
        self.bodies: list[Buffer] = []
        self.taken_bytes = 0
        self.is_due = not all(isinstance(entry, Asked) for entry in asked)
        """Whether something is to be told at once."""
        self.parked = False
        """Whether it is in the waiting lists of its partitions."""
        self.cold: Cold | None = None
        """What it waits for."""
        self.done = False

    def expire(self) -> None:
        """Time is over: answer with what there is."""
        self._expired(self)
