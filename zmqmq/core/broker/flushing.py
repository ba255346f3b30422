"""Group commit: all logs of this broker, led or followed, written out and flushed together.

While one flush is under way, the next collects (DESIGN 5).
"""

from __future__ import annotations

from collections.abc import Sequence

from zmqmq.core.broker.events import FlushFiles
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.storage.log import Flush, Log
from zmqmq.errors import StorageError


class Flushing:
    """Which logs have something buffered, and which have something that is not flushed."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._touched: dict[Log, None] = {}
        self._dirty: dict[Log, None] = {}
        self._under_way: dict[Log, None] = {}
        self._under_way_bytes = 0
        self.unflushed_bytes = 0
        """Appended by producers, and not flushed."""
        self.count = 0

    def touch(self, log: Log, size: int = 0) -> None:
        """Something was appended: write it out at the end of the burst.

        A log that has failed before is told of as failed once more, for who waits for it anew.
        """
        self._touched[log] = None
        self.unflushed_bytes += size

    def write_out(self) -> tuple[list[Log], list[tuple[Log, str]]]:
        """Write what came in: the logs that were written, and those that have failed, with why."""
        written, failed = [], []
        for log in self._touched:
            try:
                log.write_out()
            except StorageError as error:
                failed.append((log, str(error)))
                continue
            if log.is_dirty:
                self._dirty[log] = None
            written.append(log)
        self._touched.clear()
        return written, failed

    def mark_dirty(self, log: Log) -> None:
        """Include a log in the next flush."""
        if log.is_dirty and not log.failed:
            self._dirty[log] = None

    def begin(self) -> None:
        """Flush all that is dirty, unless a flush is under way."""
        if self._under_way:
            return
        flushes = [(log, log.begin_flush()) for log in self._dirty if not log.failed]
        self._dirty.clear()
        if not flushes:
            # Nothing waits for the disk; what failed logs had taken never will.
            self.unflushed_bytes = 0
            return
        self._under_way = dict.fromkeys(log for log, _ in flushes)
        self._under_way_bytes = self.unflushed_bytes
        self.count += 1
        self._outbox.emit(FlushFiles(flushes))

    def end(self, flushes: Sequence[tuple[Log, Flush, StorageError | None]]) -> None:
        """A flush is done. The next one begins with `begin`."""
        self._under_way = {}
        self.unflushed_bytes -= self._under_way_bytes
        self._under_way_bytes = 0
        for log, flush, error in flushes:
            if error is not None:
                log.fail(error)
            elif not log.failed:
                log.end_flush(flush)

    def is_flushing(self, log: Log) -> bool:
        """Whether a flush of this log is under way."""
        return log in self._under_way

    def drop(self, log: Log) -> None:
        """The log has failed or is gone."""
        self._touched.pop(log, None)
        self._dirty.pop(log, None)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits for the disk."""
        return not (self._under_way or self._dirty or self._touched)
