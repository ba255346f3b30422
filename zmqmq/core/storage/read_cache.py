"""What was read last, so that readers near the same position share one read (DESIGN 7).

The page cache has the bytes too. What is saved is asking for them and checking them once more:
with a hundred consumers at the end of a partition, ninety-nine times.
"""

from __future__ import annotations

from collections import OrderedDict

from zmqmq.core.storage.log import Log
from zmqmq.core.storage.reading import Taken

Key = tuple[Log, int, int]
"""A log, how often it was cut, and an offset in it."""


class ReadCache:
    """Bounded in bytes; what was not asked for the longest goes first."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._chunks: OrderedDict[Key, Taken] = OrderedDict()
        self.bytes = 0
        self.hits = 0
        """Reads that found here what they wanted."""

    def find(self, log: Log, offset: int, end: int, max_bytes: int) -> Taken | None:
        """What an earlier read from this offset got, if it is no less than a new one would.

        `offset` must be one that can be read (reading.check_offset).
        """
        key = log, log.rewinds, offset
        taken = self._chunks.get(key)
        if taken is None or taken.next_offset > end or len(taken.data) > max_bytes:
            return None
        if taken.next_offset < end and len(taken.data) * 2 < max_bytes:
            return None  # there is more by now: who is behind shall not follow in small steps
        self._chunks.move_to_end(key)
        self.hits += 1
        return taken

    def add(self, log: Log, offset: int, taken: Taken) -> None:
        """Keep what a read from this offset got."""
        size = len(taken.data)
        if not 0 < size <= self._bytes_max:
            return
        key = log, log.rewinds, offset
        older = self._chunks.pop(key, None)
        if older is not None:
            self.bytes -= len(older.data)
        self._chunks[key] = taken
        self.bytes += size
        while self.bytes > self._bytes_max:
            _, gone = self._chunks.popitem(last=False)
            self.bytes -= len(gone.data)
