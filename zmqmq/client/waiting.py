"""What threads wait with: the guard of a producer's records, a gate, and the answer to a command.

All three are written for the moment when Ctrl-C arrives. The main thread handles a signal between
two bytecodes, most often right behind a call, so whatever is taken by a call can be taken and
then lost. That shapes `Guard`, and is why nothing here uses `threading.Condition`.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from time import monotonic, sleep
from types import TracebackType
from typing import Final

from zmqmq.errors import TimedOutError, UsageError, ZmqmqError

CONTENDED_PAUSE: Final = 0.00002
"""Seconds between two attempts to take a guard. Whoever holds it runs a few bytecodes."""


io_threads: Final[set[int]] = set()
"""The I/O threads of this process: they must not wait for what only they can bring about."""


class Guard:
    """A lock that costs a third of `threading.Lock`, for sections of a few bytecodes.

    Holding it means having removed the one entry of `free`, which is a single step under the GIL
    and, unlike `lock.acquire()`, no call: no signal can be handled between taking it and the
    `try` that gives it back. `Producer.send` does the same inline:

        try:
            del free[0]
        except IndexError:
            ...                # somebody else has it: take the long way, which waits
        try:
            ...
        finally:
            free.append(None)

    Not re-entrant. Waiting is a short sleep, because the holder never waits for anything.
    """

    __slots__ = ("free",)

    def __init__(self) -> None:
        self.free: list[None] = [None]

    def __enter__(self) -> None:
        try:
            del self.free[0]
        except IndexError:
            self._wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.free.append(None)

    def _wait(self) -> None:
        while True:
            sleep(CONTENDED_PAUSE)
            try:
                del self.free[0]
            except IndexError:
                continue
            return


class Gate:
    """Wakes one waiting thread. A notification before the wait is not lost; two count as one."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def notify(self) -> None:
        """Let the thread that waits go on, or the next one that will."""
        with suppress(RuntimeError):  # notified already
            self._lock.release()

    def wait(self, seconds: float | None) -> bool:
        """Wait for a notification; False when the time is over. Ctrl-C interrupts it.

        Raises UsageError on an I/O thread, which would wait for itself.
        """
        if threading.get_ident() in io_threads and (seconds is None or seconds > 0):
            raise UsageError("a delivery callback must not wait: it runs on the I/O thread")
        if seconds is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=min(max(seconds, 0.0), threading.TIMEOUT_MAX))


class Answer:
    """The result of one command, for the thread that gave it."""

    __slots__ = ("_error", "_gate", "_value")

    def __init__(self) -> None:
        self._gate = Gate()
        self._value: object = None
        self._error: BaseException | None = None

    def resolve(self, value: object) -> None:
        """Called on the I/O thread."""
        self._value = value
        self._gate.notify()

    def reject(self, error: BaseException) -> None:
        """Called on the I/O thread."""
        self._error = error
        self._gate.notify()

    def wait(self, seconds: float | None = None) -> object:
        """The value; raises what the command was rejected with, TimedOutError after `seconds`."""
        if not self._gate.wait(seconds):
            raise TimedOutError(f"no answer within {seconds} s; it may yet come")
        self._gate.notify()  # for whoever asks again
        if self._error is not None:
            if isinstance(self._error, ZmqmqError):
                raise self._error.with_traceback(None)
            raise self._error
        return self._value


class Deadline:
    """When a wait ends."""

    __slots__ = ("_at",)

    def __init__(self, seconds: float | None) -> None:
        self._at = None if seconds is None else monotonic() + seconds

    def left(self) -> float | None:
        """Seconds left, at least 0; None: no end."""
        return None if self._at is None else max(self._at - monotonic(), 0.0)

    @property
    def is_over(self) -> bool:
        """Whether the time has come."""
        return self._at is not None and monotonic() >= self._at
