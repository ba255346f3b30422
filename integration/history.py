"""The simulator's history, written by many threads at once."""

from __future__ import annotations

import threading
import time

from zmqmq.sim.history import OK, History


class _Monotonic:
    @property
    def now(self) -> int:
        return time.monotonic_ns()


class SharedHistory(History):
    """Its order is that in which the clients came to know things: an operation is noted before it
    begins and after it has ended, so what follows in it also followed in time."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        super().__init__(_Monotonic())
        self._lock = threading.Lock()

    def invoke(self, client: str, f: str, value: object) -> int:
        """Somebody asks; the number of the entry is for `end`."""
        with self._lock:
            return super().invoke(client, f, value)

    def end(self, asked: int, type_: str, value: object) -> None:
        """What became of it."""
        with self._lock:
            super().end(asked, type_, value)

    def note(self, client: str, f: str, value: object, type_: str = OK) -> None:
        """Something that came unasked, or whose asking does not matter."""
        with self._lock:
            super().note(client, f, value, type_)
