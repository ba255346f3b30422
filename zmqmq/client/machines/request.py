"""What goes into one PRODUCE request."""

from __future__ import annotations

from typing import Final

from zmqmq.client.machines.batch import Batch
from zmqmq.client.machines.connection import Connection
from zmqmq.model.limits import KIB

HEADER_ROOM: Final = 8_192
"""Bytes of a request that are kept for its header."""
REQUEST_BYTES_GOAL: Final = 512 * KIB
"""A request that has this much goes out, so that the next one is made while the broker works."""


class Request:
    """A PRODUCE request that is being put together."""

    __slots__ = ("_bytes", "_bytes_max", "_frames_max", "batches", "connection")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.batches: list[Batch] = []
        self._bytes = 0
        self._bytes_max = connection.limits.request_bytes - HEADER_ROOM
        self._frames_max = connection.limits.frames - 1

    @property
    def is_full(self) -> bool:
        """Whether it has enough to go out."""
        return len(self.batches) >= self._frames_max or self._bytes >= REQUEST_BYTES_GOAL

    def add(self, batch: Batch) -> bool:
        """Take the batch in; False if it does not fit any more."""
        assert batch.data is not None
        size = self._bytes + len(batch.data)
        if self.batches and (size > self._bytes_max or len(self.batches) >= self._frames_max):
            return False
        self._bytes = size
        self.batches.append(batch)
        return True
