"""What the machines of control ask of the world, as effects."""

from __future__ import annotations

from zmqmq.core.broker.events import Halt, Register, Unregister, WriteFormat
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.meta.values import LiveDocument
from zmqmq.core.storage.data_directory import Format


class Orders:
    """Of control/membership.py."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def register(self, document: LiveDocument) -> None:
        """Put this under the live key, on a lease."""
        self._outbox.emit(Register(document))

    def unregister(self) -> None:
        """Give the lease up."""
        self._outbox.emit(Unregister())

    def write_format(self, values: Format) -> None:
        """Replace the file, durably."""
        self._outbox.emit(WriteFormat(values))

    def halt(self, reason: str) -> None:
        """End the process."""
        self._outbox.emit(Halt(reason))
