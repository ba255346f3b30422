"""Files of the operating system: the port of core/storage/disk.py over the os module.

Paths are looked at as text: an absolute one, or one with an empty, `.` or `..` part, is refused
before the kernel sees it. A symbolic link below the root is followed, for an operator may have
put one partition on another disk.

Errors name the path, the call and the errno. ENOSPC and EDQUOT are DiskFullError, any other is
a plain StorageError. A failed `sync` is not remembered here: whoever owns the log must not call
it again on that file (rule 3 of the port).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Sequence
from typing import Final

from zmqmq.core.storage.disk import Buffer
from zmqmq.errors import DiskFullError, StorageError

IOV_MAX: Final = os.sysconf("SC_IOV_MAX") if "SC_IOV_MAX" in os.sysconf_names else 16
"""How many buffers the kernel takes in one call; 16 is what POSIX grants."""

_CLOSED: Final = (1 << 31) - 1
"""A descriptor that no file has, so the kernel answers EBADF as for any other that is closed."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOT_SUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
_RWF_NOWAIT: Final[int] = getattr(os, "RWF_NOWAIT", 0)
"""Linux alone has it. 0 makes `read_cached` answer None each time."""


_new_bytearray = ctypes.pythonapi.PyByteArray_FromStringAndSize
"""A bytearray whose bytes are not zeroed first: a read of 1 MiB is about to fill them."""
_new_bytearray.restype = ctypes.py_object
_new_bytearray.argtypes = (ctypes.c_char_p, ctypes.c_ssize_t)


def storage_error(operation: str, path: str, error: OSError) -> StorageError:
    """What the core sees of an error of the operating system."""
    number = error.errno or 0
    kind = DiskFullError if number in _FULL else StorageError
    name = errno.errorcode.get(number, str(number))
    return kind(f"{operation} {path!r} failed: {name}, {os.strerror(number)}")


class OSFile:
    """An open file, or an open folder that is there to be flushed.

    Holds one descriptor, which is not handed to child processes. `read`, `read_cached` and
    `sync` carry no state of their own, so they may run in any thread.
    """

    __slots__ = ("_descriptor", "_nowait", "file_system_id", "is_folder", "path")

    def __init__(self, descriptor: int, path: str, *, is_folder: bool = False) -> None:
        self._descriptor = descriptor
        self.is_folder = is_folder
        self._nowait = _RWF_NOWAIT
        self.path = path
        """As messages show it: with the root in front."""
        self.file_system_id = os.fstat(descriptor).st_dev
        """Files with the same number are covered by one `syncfs`."""

    def fileno(self) -> int:
        """The descriptor; one that no file has once this is closed."""
        return self._descriptor

    @property
    def size(self) -> int:
        """Asked of the kernel each time: another handle may have grown the file."""
        try:
            return os.fstat(self._descriptor).st_size
        except OSError as error:
            raise storage_error("stat", self.path, error) from error

    def write(self, position: int, buffers: Sequence[Buffer]) -> None:
        """One `pwritev` as long as the kernel takes all; a signal or a full disk cuts it short."""
        try:
            if len(buffers) <= IOV_MAX:
                written = os.pwritev(self._descriptor, buffers, position)
                if written == sum(map(len, buffers)):
                    return
            else:
                written = 0
            self._write_rest(position, buffers, written)
        except OSError as error:
            raise storage_error("write", self.path, error) from error

    def _write_rest(self, position: int, buffers: Sequence[Buffer], written: int) -> None:
        """Write what lies behind the first `written` bytes, IOV_MAX buffers at a time."""
        rest = [memoryview(buffer) for buffer in buffers]
        first = 0
        position += written
        while True:
            while first < len(rest) and written >= len(rest[first]):
                written -= len(rest[first])
                first += 1
            if first == len(rest):
                return
            rest[first] = rest[first][written:]
            written = os.pwritev(self._descriptor, rest[first : first + IOV_MAX], position)
            if written == 0:
                # Without this a kernel that takes nothing would keep us here for ever.
                raise OSError(errno.EIO, "no progress")
            position += written

    def read(self, position: int, size: int) -> bytes:
        """One `pread`, and more when a signal or a limit of the kernel cut it short."""
        try:
            data = os.pread(self._descriptor, size, position)
            if len(data) == size or not data:
                return data
            parts = [data]
            got = len(data)
            while got < size:
                data = os.pread(self._descriptor, size - got, position + got)
                if not data:
                    break
                parts.append(data)
                got += len(data)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        except OSError as error:
            raise storage_error("read", self.path, error) from error

    def read_cached(self, position: int, size: int) -> Buffer | None:
        """From the page cache alone, by RWF_NOWAIT."""
        if not self._nowait:
            return None
        buffer: bytearray = _new_bytearray(None, size)
        try:
            got = os.preadv(self._descriptor, (buffer,), position, self._nowait)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in _NOT_SUPPORTED:
                self._nowait = 0  # this file system cannot; asking again is a wasted call
                return None
            raise storage_error("read", self.path, error) from error
        if got == size:
            return buffer
        # Short: either the file ends here, or the rest of it is not in memory.
        return memoryview(buffer)[:got] if position + got >= self.size else None

    def allocate(self, size: int) -> None:
        """Reserve blocks; where the file system cannot, the file grows with a hole."""
        current = self.size
        if size <= current:
            return
        try:
            os.posix_fallocate(self._descriptor, current, size - current)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                self._give_back(current)
                raise storage_error("allocate", self.path, error) from error
            self.truncate(size)

    def _give_back(self, size: int) -> None:
        """Free what a failed allocation got: checkpoints need the last room on a full disk."""
        try:
            os.ftruncate(self._descriptor, size)
        except OSError:
            return  # the failed allocation is what gets reported

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            raise storage_error("truncate", self.path, error) from error

    def sync(self) -> None:
        """`fdatasync`, which covers the size; `fsync` for a folder, which has only metadata."""
        try:
            if self.is_folder:
                os.fsync(self._descriptor)
            else:
                os.fdatasync(self._descriptor)
        except OSError as error:
            raise storage_error("sync", self.path, error) from error

    def __del__(self) -> None:
        """Nobody reads it any more (segments are let go, not closed)."""
        with contextlib.suppress(StorageError):
            self.close()

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, _CLOSED
        if descriptor == _CLOSED:
            return
        try:
            os.close(descriptor)
        except OSError as error:
            # The descriptor is gone all the same; closing the number again would hit another file.
            raise storage_error("close", self.path, error) from error


class OSDisk:
    """A folder of the operating system and all below it."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)

    @property
    def file_system_id(self) -> int:
        """Which file system the root is on, as in `OSFile.file_system_id`."""
        try:
            return os.stat(self.root).st_dev
        except OSError as error:
            raise storage_error("stat", self.root, error) from error

    def open(self, path: str, *, create: bool = False) -> OSFile:
        """Open a file for reading and writing."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return self._open(path, flags, is_folder=False)

    def open_directory(self, path: str) -> OSFile:
        """Open a folder so that the flusher can make its names durable."""
        return self._open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY, is_folder=True)

    def _open(self, path: str, flags: int, *, is_folder: bool) -> OSFile:
        full = self._full(path)
        try:
            return OSFile(os.open(full, flags, 0o600), full, is_folder=is_folder)
        except OSError as error:
            raise storage_error("open", full, error) from error

    def exists(self, path: str) -> bool:
        """Whether a file or folder of this name is there."""
        full = self._full(path)
        try:
            os.stat(full)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise storage_error("stat", full, error) from error
        return True

    def list(self, path: str) -> list[str]:
        """Names in a folder, sorted."""
        full = self._full(path)
        try:
            return sorted(os.listdir(full))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise storage_error("list", full, error) from error

    def make_directory(self, path: str) -> None:
        """Make a folder and those above it, readable by this user alone."""
        full = self._full(path)
        try:
            os.makedirs(full, mode=0o700, exist_ok=True)
        except OSError as error:
            raise storage_error("make directory", full, error) from error

    def rename(self, source: str, target: str) -> None:
        """Give a file or folder another name, in place of a file that has it."""
        old, new = self._full(source), self._full(target)
        try:
            os.rename(old, new)
        except OSError as error:
            raise storage_error(f"rename {old!r} to", new, error) from error

    def remove(self, path: str) -> None:
        """Remove a file, or an empty folder."""
        full = self._full(path)
        try:
            try:
                os.unlink(full)
            except (IsADirectoryError, PermissionError):  # Linux says the first of a folder, POSIX
                if not os.path.isdir(full):  # the second, which a file may have earned as well
                    raise
                os.rmdir(full)
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error("remove", full, error) from error

    def sync_directory(self, path: str) -> None:
        """Return once the names in this folder are durable."""
        folder = self.open_directory(path)
        try:
            folder.sync()
        finally:
            folder.close()

    def free_bytes(self) -> int:
        """Room that is left for users who are not root."""
        try:
            status = os.statvfs(self.root)
        except OSError as error:
            raise storage_error("statvfs", self.root, error) from error
        return status.f_bavail * status.f_frsize

    def room(self) -> dict[str, int]:
        """Size and free bytes of the file system, as DESCRIBE tells them; nothing if it cannot
        say."""
        try:
            status = os.statvfs(self.root)
        except OSError:
            return {}
        free = status.f_bavail * status.f_frsize
        # Without what only root may use: a disk is full when nothing is left for us.
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        return {"disk_bytes": used + free, "disk_free_bytes": free}

    def _full(self, path: str) -> str:
        """The path with the root in front; refuses one that could lead out of it."""
        if not path:
            return self.root
        if "\0" in path or any(part in {"", ".", ".."} for part in path.split("/")):
            raise StorageError(f"path {path!r} is not below the data directory")
        return f"{self.root}/{path}"
