"""One segment file: which offsets it holds, where, and since when.

Invariants:

1. Batches stand one behind the other from byte 0 to `size`, their offsets without a gap from
   `base_offset` to `end_offset`. Behind `size` there is nothing, or preallocated zeros.
2. The index has the first batch, and another about every `index_interval_bytes`; its append
   times never fall.

The index lives in memory and can always be built again from the file. It is written beside a
segment when that is closed, so that opening a log need not read its data. The sidecar names the
segment's size and carries a checksum; whatever does not fit is ignored and rebuilt, so it needs
no flush.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import Final

import msgpack
from crc32c import crc32c

from zmqmq.core.storage.disk import Disk, File, is_whole, read_all
from zmqmq.errors import StorageError

LOG_SUFFIX: Final = ".log"
INDEX_SUFFIX: Final = ".index"
STATE_SUFFIX: Final = ".state"
FIRST_ALLOCATION: Final = 64 * 1024
_INDEX_VERSION: Final = 1


def file_name(base_offset: int, suffix: str) -> str:
    """Twenty digits, so that names sort as offsets do."""
    return f"{base_offset:020d}{suffix}"


def base_of(name: str, suffix: str) -> int | None:
    """The offset in a name, or None when it is not such a name."""
    digits = name.removesuffix(suffix)
    if name == digits or len(digits) != 20 or not digits.isascii() or not digits.isdigit():
        return None
    return int(digits)


class Segment:
    """A segment that is open for reading, and the last one of a log for writing."""

    __slots__ = (
        "_disk",
        "_file",
        "_folder",
        "_index_interval",
        "_since_index",
        "allocated",
        "base_offset",
        "end_offset",
        "first_append_ms",
        "last_append_ms",
        "offsets",
        "positions",
        "record_count",
        "size",
        "times",
    )

    def __init__(self, disk: Disk, folder: str, base_offset: int, index_interval: int) -> None:
        self._disk = disk
        self._folder = folder
        self._file: File | None = None
        self._index_interval = index_interval
        self._since_index = 0
        self.base_offset = base_offset
        self.end_offset = base_offset
        self.size = 0
        self.allocated = 0
        self.record_count = 0
        self.first_append_ms = 0
        self.last_append_ms = 0
        self.offsets = array("Q")
        self.positions = array("Q")
        self.times = array("Q")

    def __repr__(self) -> str:
        return f"<Segment {self.base_offset} to {self.end_offset}, {self.size} bytes>"

    @property
    def path(self) -> str:
        """Where the data is."""
        return f"{self._folder}/{file_name(self.base_offset, LOG_SUFFIX)}"

    @property
    def index_path(self) -> str:
        """Where the sidecar is, if there is one."""
        return f"{self._folder}/{file_name(self.base_offset, INDEX_SUFFIX)}"

    @property
    def file(self) -> File:
        """The open file."""
        file = self._file
        if file is None:
            # Kept in a variable: another thread may let go of it before this one returns.
            file = self._file = self._disk.open(self.path)
            self.allocated = file.size
        return file

    @property
    def is_empty(self) -> bool:
        """Whether it has no batch."""
        return self.end_offset == self.base_offset

    def reset(self) -> None:
        """Forget what the sidecar said; the segment is about to be scanned."""
        self.end_offset = self.base_offset
        self.size = self.record_count = self._since_index = 0
        self.first_append_ms = self.last_append_ms = 0
        self.offsets, self.positions, self.times = array("Q"), array("Q"), array("Q")

    def create(self) -> None:
        """Make the file; durable once it and its folder have been flushed."""
        self._file = self._disk.open(self.path, create=True)
        self.allocated = self._file.size

    def adopt(self, file: File) -> None:
        """Use a file that is open under another name, and will get this one."""
        self._file = file

    def let_go(self) -> None:
        """Drop the file. Whoever is reading it in another thread keeps it open until it is done."""
        self._file = None

    def note(
        self, position: int, next_offset: int, size: int, append_ms: int, record_count: int
    ) -> None:
        """Take in a batch that stands at `position` and ends the segment from now on."""
        if not self.offsets or self._since_index >= self._index_interval:
            self.offsets.append(self.end_offset)
            self.positions.append(position)
            self.times.append(append_ms)
            self._since_index = 0
        if not self.record_count:
            self.first_append_ms = append_ms
        self._since_index += size
        self.end_offset = next_offset
        self.size = position + size
        self.last_append_ms = append_ms
        self.record_count += record_count

    def place_before(self, offset: int) -> tuple[int, int]:
        """Where to begin to look for an offset of this segment: a batch's offset and position."""
        found = bisect_right(self.offsets, offset) - 1
        return (self.offsets[found], self.positions[found]) if found >= 0 else (self.base_offset, 0)

    def place_before_time(self, append_ms: int) -> tuple[int, int]:
        """The same for the first batch appended at `append_ms` or later."""
        found = bisect_left(self.times, append_ms) - 1
        return (self.offsets[found], self.positions[found]) if found >= 0 else (self.base_offset, 0)

    def save_index(self) -> None:
        """Write the sidecar. Not flushed: a torn one fails its checksum and is built again."""
        body = msgpack.packb(
            [
                _INDEX_VERSION,
                self.base_offset,
                self.end_offset,
                self.size,
                self.record_count,
                self.first_append_ms,
                self.last_append_ms,
                self.offsets.tobytes(),
                self.positions.tobytes(),
                self.times.tobytes(),
            ]
        )
        file = self._disk.open(self.index_path, create=True)
        file.truncate(0)
        file.write(0, [crc32c(body).to_bytes(4, "big"), body])
        file.close()

    def load_index(self) -> bool:
        """Take over the sidecar if it fits this segment as it is now."""
        try:
            content = read_all(self._disk, self.index_path)
        except StorageError:
            return False
        if content is None or not is_whole(content):
            return False
        # The checksum holds, so this is what save_index wrote; only its age is in doubt.
        version, base, end, size, count, first, last, offsets, positions, times = msgpack.unpackb(
            content[4:]
        )
        if version != _INDEX_VERSION or base != self.base_offset or size != self.file.size:
            return False
        self.end_offset, self.size, self.record_count = end, size, count
        self.first_append_ms, self.last_append_ms = first, last
        for column, stored in (
            (self.offsets, offsets),
            (self.positions, positions),
            (self.times, times),
        ):
            del column[:]
            column.frombytes(stored)
        self._since_index = size - (self.positions[-1] if self.positions else 0)
        return True

    def remove(self) -> None:
        """Unlink the segment and its sidecar."""
        self.let_go()
        self._disk.remove(self.index_path)
        self._disk.remove(self.path)
