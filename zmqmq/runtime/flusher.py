"""Makes files durable without holding up the event loop.

One thread waits for jobs. It flushes a few files itself, shares many with up to three more
threads, or flushes the whole file system with one `syncfs`, whichever has been cheaper for about
so many files. `syncfs` also writes what others left dirty, so its price is theirs to change:
both are measured all the time, the dearer one by a job now and then that takes no more than
PROBE_SHARE of the time.

`syncfs` tells of write-back errors since Linux 5.8, once for each descriptor, and not in which
file. Hence three rules:

1. All of ours go through one descriptor, opened before any job. When one fails, every file of
   the job has failed.
2. Except the very first: it may report what went wrong before we came, such as the fault that
   made the operator restart us. Its job is done again file by file, where errors are exact.
3. After any error only single files are flushed: a later `syncfs` would report the same error
   again, and fail logs that have nothing wrong with them.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from time import perf_counter_ns
from typing import Final

from zmqmq.errors import StorageError
from zmqmq.runtime.kernel_flush import KernelFlush
from zmqmq.runtime.os_disk import OSDisk, OSFile, storage_error

Failures = Mapping[OSFile, StorageError]
"""The files that are not durable. Empty: all are."""
Done = Callable[[Failures], object]
CallSoon = Callable[[Callable[[], object]], object]
"""Runs something on the event loop; may be called from any thread."""

THREADS_MAX: Final = 4
KERNEL_MAX: Final = 4
"""Up to so many files go to the kernel's own worker."""
ALONE_MAX: Final = 2
"""Up to so many files it costs more to wake another thread than to flush them in turn."""
PROBE_SHARE: Final = 50
"""One part in so many of the time goes into trying the method that was slower."""


@dataclass(slots=True)
class FlushCounts:
    """What one method did since the start."""

    flushes: int = 0
    files: int = 0
    nanoseconds: int = 0

    def add(self, files: int, nanoseconds: int) -> None:
        """Take in one flush."""
        self.flushes += 1
        self.files += files
        self.nanoseconds += nanoseconds


class Flusher:
    """Flushes one group of files at a time, in threads of its own.

    Lives from before the logs are opened until after they are closed. Whoever calls `submit`
    has one job in flight at most, and keeps its files open until `done`.
    """

    def __init__(
        self, disk: OSDisk, call_soon: CallSoon, kernel: KernelFlush | None = None
    ) -> None:
        self._kernel = kernel
        """Takes small groups without waking a thread of ours, where there is such a thing."""
        self.by_file = FlushCounts()
        self.by_file_system = FlushCounts()
        self._call_soon = call_soon
        self._file_system = _FileSystem(disk) if has_exact_syncfs() else None
        self._border = _Border()
        self._jobs: SimpleQueue[tuple[Sequence[OSFile], Done] | None] = SimpleQueue()
        self._is_busy = False
        self._helpers: list[_Helper] = []
        self._thread = threading.Thread(target=self._run, name="zmqmq-flush", daemon=True)
        self._thread.start()

    def submit(self, files: Sequence[OSFile], done: Done) -> None:
        """Make these files and folders durable; then call `done` on the event loop."""
        assert not self._is_busy, "one flush at a time: the next collects while it runs"
        self._is_busy = True
        if self._kernel is None or len(files) > KERNEL_MAX or not self._by_kernel(files, done):
            self._jobs.put((files, done))

    def _by_kernel(self, files: Sequence[OSFile], done: Done) -> bool:
        assert self._kernel is not None
        start = perf_counter_ns()

        def finished(failures: Failures) -> None:
            self.by_file.add(len(files), perf_counter_ns() - start)
            self._is_busy = False
            if failures:
                self._stop_syncfs()  # rule 3
            done(failures)

        return self._kernel.submit(files, finished)

    def close(self) -> None:
        """Wait for the job in flight and end the threads. Its `done` is still called.

        The kernel flush belongs to whoever made it.
        """
        self._jobs.put(None)
        self._thread.join()
        for helper in self._helpers:
            helper.close()
        if self._file_system is not None:
            self._file_system.close()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            files, done = job
            try:
                failures = self._flush(files)
            except BaseException as bug:
                # Else nobody would hear of it, and the job would seem to run for ever.
                self._call_soon(partial(_raise, bug))
                raise
            self._is_busy = False  # before `done` can run: it may submit the next job
            self._call_soon(partial(done, failures))

    def _flush(self, files: Sequence[OSFile]) -> Failures:
        """Flush by the method that should be cheaper, and learn from how long it took."""
        count = len(files)
        whole = self._file_system
        if count <= ALONE_MAX or whole is None or not whole.covers(files):
            start = perf_counter_ns()
            failures = self._flush_each(files)
            self.by_file.add(count, perf_counter_ns() - start)
            return failures

        price = self._border.of(count)
        start = perf_counter_ns()
        if price.is_system_cheaper(count):
            error = whole.flush()
            took = perf_counter_ns() - start
            self.by_file_system.add(count, took)
            price.note_system(took)
            if error is None:
                return {}
            self._stop_syncfs()
            return dict.fromkeys(files, error) if whole.was_clean else self._flush_each(files)
        failures = self._flush_each(files)
        took = perf_counter_ns() - start
        self.by_file.add(count, took)
        price.note_files(count, took)
        return failures

    def _flush_each(self, files: Sequence[OSFile]) -> Failures:
        """Flush file by file; each thread takes the next one that nobody has taken."""
        failures: dict[OSFile, StorageError] = {}
        todo = iter(tuple(files))
        helpers = self._helpers_for(len(files))
        for helper in helpers:
            helper.work.put(partial(_flush_next, todo, failures))
        _flush_next(todo, failures)
        for helper in helpers:
            if (bug := helper.ready.get()) is not None:
                raise bug
        if failures:
            self._stop_syncfs()
        return failures

    def _helpers_for(self, count: int) -> Sequence[_Helper]:
        """Threads besides this one; made when first needed, so that a small broker has none."""
        wanted = min(count, THREADS_MAX) - 1 if count > ALONE_MAX else 0
        while len(self._helpers) < wanted:
            self._helpers.append(_Helper(len(self._helpers) + 1))
        return self._helpers[:wanted]

    def _stop_syncfs(self) -> None:
        if self._file_system is not None:
            self._file_system.close()
            self._file_system = None


def has_exact_syncfs() -> bool:
    """Whether `syncfs` is there and tells of write-back errors: Linux from 5.8 on."""
    system = os.uname()
    if system.sysname != "Linux":
        return False
    major, minor, *_ = (*system.release.split("."), "0")
    minor = "".join(letter for letter in minor if letter.isdecimal())
    return major.isdecimal() and (int(major), int(minor or 0)) >= (5, 8)


def _flush_next(todo: Iterator[OSFile], failures: dict[OSFile, StorageError]) -> None:
    """Flush until none is left. `next` on a tuple's iterator is atomic, and so is a dict's set."""
    for file in todo:
        try:
            file.sync()
        except StorageError as error:
            failures[file] = error


def _raise(bug: BaseException) -> None:
    raise bug


class _Helper:
    """A thread that lends a hand."""

    def __init__(self, number: int) -> None:
        self.work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.ready: SimpleQueue[BaseException | None] = SimpleQueue()
        name = f"zmqmq-flush-{number}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (work := self.work.get()) is not None:
            try:
                work()
            except BaseException as bug:
                self.ready.put(bug)
                raise
            self.ready.put(None)

    def close(self) -> None:
        self.work.put(None)
        self._thread.join()


class _FileSystem:
    """The file system of a disk, to be flushed as a whole."""

    def __init__(self, disk: OSDisk) -> None:
        self._root = disk.open_directory("")
        self._syncfs = ctypes.CDLL(None, use_errno=True).syncfs
        self.was_clean = False
        """A flush has succeeded, so what a later one reports has happened since."""

    def covers(self, files: Sequence[OSFile]) -> bool:
        """Whether all of these are on it: an operator may have mounted a disk below the root."""
        own = self._root.file_system_id
        return all(file.file_system_id == own for file in files)

    def flush(self) -> StorageError | None:
        if self._syncfs(self._root.fileno()) == 0:
            self.was_clean = True
            return None
        number = ctypes.get_errno()
        return storage_error("syncfs", self._root.path, OSError(number, os.strerror(number)))

    def close(self) -> None:
        self._root.close()


@dataclass(slots=True)
class _Cost:
    """A running mean that one outlier moves by no more than three quarters."""

    nanoseconds: float = 0.0
    samples: int = 0

    def note(self, nanoseconds: float) -> None:
        self.samples += 1
        if self.samples == 1:
            self.nanoseconds = nanoseconds
        elif self.samples == 2:
            # The first had to write what others left behind, or to start threads.
            self.nanoseconds = min(self.nanoseconds, nanoseconds)
        else:
            bounded = min(nanoseconds, 4 * self.nanoseconds)
            self.nanoseconds += (bounded - self.nanoseconds) / 4


@dataclass(slots=True)
class _Price:
    """What both methods cost for jobs of about one size."""

    file: _Cost = field(default_factory=_Cost)
    """Of one file, with all the threads at work."""
    system: _Cost = field(default_factory=_Cost)
    since_probe: float = 0.0
    """Nanoseconds spent with the cheaper method since the dearer one was tried."""

    def is_system_cheaper(self, files: int) -> bool:
        """Which method to take now. Not always the cheaper: the other one gets its turn."""
        if self.file.samples < 2 or self.system.samples < 2:
            return self.system.samples < self.file.samples
        by_file, by_system = self.file.nanoseconds * files, self.system.nanoseconds
        if self.since_probe > PROBE_SHARE * max(by_file, by_system):
            self.since_probe = 0.0
            return by_system >= by_file
        return by_system < by_file

    def note_files(self, files: int, nanoseconds: int) -> None:
        self.file.note(nanoseconds / files)
        self.since_probe += nanoseconds

    def note_system(self, nanoseconds: int) -> None:
        self.system.note(nanoseconds)
        self.since_probe += nanoseconds


class _Border:
    """From how many files on `syncfs` pays: prices for each power of two.

    Not one price for all, for neither method is linear: the more files, the more of them share
    one commit of the file system's journal.
    """

    def __init__(self) -> None:
        self._prices: dict[int, _Price] = {}

    def of(self, files: int) -> _Price:
        return self._prices.setdefault(files.bit_length(), _Price())
