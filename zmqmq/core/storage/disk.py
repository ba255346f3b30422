"""The disk as the log sees it: the port that runtime/os_disk.py and sim/disk.py fill.

Paths are relative to the data directory, with `/` between parts. What both sides owe each other:

1. A write is visible to reads at once and durable only after `sync` of the file. Until then a
   power cut may keep any part of it, in any order with other unsynced writes.
2. A file that was created, renamed or removed is durable only after `sync_directory` of its
   folder. `rename` replaces its target, and after a power cut the target is the old or the new
   file, never a mixture and never none.
3. Any call may raise StorageError, and one that needs room DiskFullError; then nothing is
   promised about the bytes concerned except that no others changed. After `sync` has failed it
   is never called again on that file: the kernel forgets which pages it could not write, so a
   second success would be a lie.
4. `File.sync` and `File.read` may be called from other threads than the one that writes.
   Everything else belongs to one thread at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from crc32c import crc32c

Buffer = bytes | bytearray | memoryview


class File(Protocol):
    """An open file."""

    @property
    def size(self) -> int:
        """Bytes, preallocated ones included."""
        ...

    def write(self, position: int, buffers: Sequence[Buffer]) -> None:
        """Write all the buffers one behind the other from `position`."""
        ...

    def read(self, position: int, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""
        ...

    def read_cached(self, position: int, size: int) -> Buffer | None:
        """The same if it needs no disk, else None. For a caller that must not wait."""
        ...

    def allocate(self, size: int) -> None:
        """Make the file at least `size` bytes long, with room on the disk for all of them.

        What was not written reads as zeros. Raises DiskFullError when there is no room.
        """
        ...

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""
        ...

    def sync(self) -> None:
        """Return once all that was written, and the size, is durable."""
        ...

    def close(self) -> None:
        """Let go of it; not a flush."""
        ...


class Disk(Protocol):
    """A folder and all below it."""

    def open(self, path: str, *, create: bool = False) -> File:
        """Open a file; with `create`, make it empty if it is missing."""
        ...

    def exists(self, path: str) -> bool:
        """Whether a file or folder of this name is there."""
        ...

    def list(self, path: str) -> list[str]:
        """Names in a folder, sorted; an empty list when there is no such folder."""
        ...

    def make_directory(self, path: str) -> None:
        """Make a folder and those above it; not an error when it exists."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Give a file or folder another name, in place of a file that has it."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file, or an empty folder; not an error when it is missing."""
        ...

    def sync_directory(self, path: str) -> None:
        """Return once the names in this folder are durable."""
        ...

    def free_bytes(self) -> int:
        """Room left on the disk for us."""
        ...


def read_all(disk: Disk, path: str) -> bytes | None:
    """The content of a small file, or None when there is none."""
    if not disk.exists(path):
        return None
    file = disk.open(path)
    try:
        return file.read(0, file.size)
    finally:
        file.close()


def is_whole(content: bytes) -> bool:
    """Whether a small file that begins with the CRC-32C of the rest is what was written.

    An empty one, as a power cut leaves it, would have the right checksum: that of nothing is 0.
    """
    return len(content) > 4 and crc32c(content[4:]) == int.from_bytes(content[:4], "big")


def replace(disk: Disk, path: str, content: Buffer) -> None:
    """Write a small file so that after a crash the old or the new content is there, whole.

    The order matters: content durable, then the name, then the folder. Without the first
    sync a power cut can leave the new name on an empty file (reliability.md 3.1).
    """
    scratch = path + ".tmp"
    file = disk.open(scratch, create=True)
    try:
        file.truncate(0)
        file.write(0, [content])
        file.sync()
    finally:
        file.close()
    disk.rename(scratch, path)
    folder = path.rpartition("/")[0]
    disk.sync_directory(folder)
