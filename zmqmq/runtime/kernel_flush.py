"""Flushes done by a kernel thread: Linux AIO's FDSYNC, with an eventfd for the end.

A thread of ours must get the interpreter twice for each flush, once to begin and once to report,
and a busy event loop makes it wait. The kernel's worker needs neither: one system call begins, and
the loop finds the eventfd readable. Errors come back for each file, as from `fdatasync`.

There is no library function for these system calls, and their numbers are those of the
architecture; elsewhere, and where the kernel says no, `available` is None and threads do the work.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Callable, Sequence
from typing import ClassVar, Final, Protocol

from zmqmq.errors import StorageError
from zmqmq.runtime.os_disk import OSFile, storage_error

FILES_MAX: Final = 64
_NUMBERS: Final = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}
"""io_setup, io_destroy, io_submit, io_getevents."""
_FSYNC, _FDSYNC, _WITH_EVENTFD = 2, 3, 1

Failures = dict[OSFile, StorageError]


class Loop(Protocol):
    """What is needed of the event loop."""

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> object: ...
    def remove_reader(self, fd: int, /) -> object: ...


class _Request(ctypes.Structure):
    _fields_: ClassVar = [  # type: ignore[mutable-override]  # ctypes wants it so
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("descriptor", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("eventfd", ctypes.c_uint32),
    ]


class _Event(ctypes.Structure):
    _fields_: ClassVar = [  # type: ignore[mutable-override]  # ctypes wants it so
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    ]


class KernelFlush:
    """One group of files at a time, on the loop's thread alone."""

    def __init__(self, loop: Loop, numbers: tuple[int, int, int, int]) -> None:
        self._loop = loop
        _, self._destroy, self._submit, self._get_events = numbers
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._context = ctypes.c_ulong(0)
        if self._call(numbers[0], FILES_MAX, ctypes.byref(self._context)) != 0:
            raise OSError(ctypes.get_errno(), "io_setup")
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._requests = (_Request * FILES_MAX)()
        size = ctypes.sizeof(_Request)
        first = ctypes.addressof(self._requests)
        self._pointers = (ctypes.c_void_p * FILES_MAX)(
            *(first + i * size for i in range(FILES_MAX))
        )
        self._events = (_Event * FILES_MAX)()
        self._files: Sequence[OSFile] = ()
        self._left = 0
        self._failures: Failures = {}
        self._done: Callable[[Failures], object] | None = None
        loop.add_reader(self._eventfd, self._collect)

    def submit(self, files: Sequence[OSFile], done: Callable[[Failures], object]) -> bool:
        """Begin to flush up to FILES_MAX files; False if the kernel does not take it on."""
        assert not self._left
        for number, file in enumerate(files):
            request = self._requests[number]
            request.data = number
            request.opcode = _FSYNC if file.is_folder else _FDSYNC
            request.descriptor = file.fileno()
            request.flags = _WITH_EVENTFD
            request.eventfd = self._eventfd
        taken = self._call(self._submit, self._context, len(files), self._pointers)
        if taken <= 0:
            return False
        # The kernel may take fewer than all; those are done here, which is rare and only slow.
        self._failures = {}
        for file in files[taken:]:
            try:
                file.sync()
            except StorageError as error:
                self._failures[file] = error
        self._files, self._left, self._done = files, taken, done
        return True

    def close(self) -> None:
        """Let go; waits for a group that is under way, whose `done` is not called."""
        self._loop.remove_reader(self._eventfd)
        self._call(self._destroy, self._context)
        os.close(self._eventfd)

    def _collect(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._eventfd)
        count = self._call(
            self._get_events, self._context, 0, FILES_MAX, self._events, ctypes.c_void_p()
        )
        for number in range(count):
            event = self._events[number]
            if event.result < 0:
                file = self._files[event.data]
                error = OSError(-event.result, os.strerror(-event.result))
                self._failures[file] = storage_error("sync", file.path, error)
        self._left -= max(count, 0)
        done = self._done
        if self._left == 0 and done is not None:
            self._files, self._done = (), None
            done(self._failures)


def available(loop: Loop) -> KernelFlush | None:
    """A kernel flush where there is such a thing."""
    numbers = _NUMBERS.get(platform.machine()) if platform.system() == "Linux" else None
    if numbers is None:
        return None
    try:
        return KernelFlush(loop, numbers)
    except OSError:
        return None
