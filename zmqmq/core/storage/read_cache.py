"""What was read last, so that readers near the same position share one read (DESIGN 7).

The page cache has the bytes too. What is saved is asking for them and checking them once more:
with a hundred consumers at the end of a partition, ninety-nine times.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from zmqmq.core.storage.log import Log, LogKey
from zmqmq.core.storage.reading import Taken

ENTRY_BYTES: Final = 512
"""What an entry takes besides its data."""

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

    def find(self, log: Log, offset: int, max_bytes: int, end: int) -> Taken | None:
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
        if not len(taken.data) or _size(taken) > self._bytes_max:
            return
        key = log, log.rewinds, offset
        self._remove(key)
        self._chunks[key] = taken
        self.bytes += _size(taken)
        while self.bytes > self._bytes_max:
            self._remove(next(iter(self._chunks)))

    def forget(self, key: LogKey) -> None:
        """The log under this key was deleted or cut, or is another one."""
        for known in [known for known in self._chunks if known[0].key == key]:
            self._remove(known)

    def _remove(self, key: Key) -> None:
        gone = self._chunks.pop(key, None)
        if gone is not None:
            self.bytes -= _size(gone)


def _size(taken: Taken) -> int:
    return len(taken.data) + ENTRY_BYTES
