"""Reads that wait for the disk, and who goes on when they come back."""

from __future__ import annotations

from collections.abc import Callable

from zmqmq.core.broker.events import ReadCold
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import Log
from zmqmq.core.storage.reading import Place
from zmqmq.errors import StorageError

Then = Callable[[Buffer | StorageError], Log | None]
"""Takes what was read; returns the log if that has failed by it."""


class ColdReads:
    """Tokens and continuations."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._under_way: dict[int, Then] = {}
        self.count = 0

    def begin(self, place: Place, then: Then) -> None:
        """Ask the disk."""
        self.count += 1
        self._under_way[self.count] = then
        self._outbox.emit(ReadCold(self.count, place))

    def end(self, token: int, data: Buffer | StorageError) -> Log | None:
        """The disk has answered; the log that has failed by that, if it has."""
        return self._under_way.pop(token)(data)
