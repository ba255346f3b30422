"""The thread that owns the metadata file, and the way to it from the event loop.

Jobs run in the order in which they were given. Those that wait while a flush is under way form
the next group, and a group has one transaction and so one flush: a lone commit costs one, and
many at once cost little more together. Whoever reads in a group gets the answer after its flush,
so nobody sees what a power cut could still take.

What can happen to a job:

- Not begun in time, or its caller was cancelled before it began: it never runs.
- Begun: it runs to its end, whether anybody waits or not. A caller whose time is over waits on
  for a write, up to STALL_S; a disk that is silent for longer makes the outcome unknown.
- The group's transaction fails before the flush: nothing in the group was applied.
- The flush itself fails: the outcome is unknown, and the store is over (etcd.md 6). What the
  kernel could not write it has forgotten, so a second try that succeeds would prove nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from zmqmq.core.meta.store import AmbiguousError, StoreClosedError, StoreError, UnavailableError
from zmqmq.runtime.sqlite_tables import SqliteTables, translated

JOBS_MAX: Final = 4096
"""Jobs that wait; more are refused with UnavailableError."""
GROUP_JOBS_MAX: Final = 64
"""Jobs under one flush: bounds how long the first of them waits for the others."""
STALL_S: Final = 30.0
"""How long a write that has begun may take before it counts as ambiguous."""

ResultT = TypeVar("ResultT")


@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[[SqliteTables], Any]
    is_write: bool
    answer: asyncio.Future[Any]
    claim: threading.Lock = field(default_factory=threading.Lock)
    """Taken once and never released: by the thread that begins the job, or by the caller that
    gives it up. Whoever gets it decides."""
    result: Any = None
    error: BaseException | None = None
    is_abandoned: bool = False

    def take(self) -> bool:
        return self.claim.acquire(blocking=False)


class SqliteWorker:
    """One thread with one SqliteTables. Made and used in one event loop."""

    def __init__(self, path: Path, *, on_change: Callable[[], None]) -> None:
        """`on_change` is called in the loop after the store changed, failed or stopped."""
        self._path = path
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._waiting = 0
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self.closed_reason: str | None = None
        """Why no more jobs are taken; None while they are."""

    async def start(self, *, timeout_s: float) -> None:
        """Open the tables. Raises what SqliteTables does; then, or cancelled, it is stopped."""
        opened: asyncio.Future[None] = self._loop.create_future()
        # A daemon, for a program that forgets to close the store has to end all the same; what
        # was answered is on the disk.
        threading.Thread(target=self._run, args=(opened,), name="zmqmq-sqlite", daemon=True).start()
        try:
            await asyncio.wait((opened,), timeout=timeout_s)
        except BaseException:
            self.stop("opening the store was cancelled")
            raise
        if not opened.done():
            self.stop("the store could not be opened in time")
            raise UnavailableError(f"{self._path} was not open after {timeout_s} s")
        opened.result()

    async def run(
        self, work: Callable[[SqliteTables], ResultT], *, is_write: bool, timeout_s: float
    ) -> ResultT:
        """Have the thread do this; return or raise what it did.

        `work` must not have changed anything when it raises, SQLite's own errors apart. A write
        that is cancelled may or may not have happened.
        """
        if self.closed_reason is not None:
            raise StoreClosedError(f"the metadata store is closed: {self.closed_reason}")
        if self._waiting >= JOBS_MAX:
            raise UnavailableError(f"{JOBS_MAX} calls are waiting for {self._path}")
        job = _Job(work, is_write, self._loop.create_future())
        self._waiting += 1
        self._jobs.put(job)
        try:
            await asyncio.wait((job.answer,), timeout=timeout_s)
            is_begun = not job.answer.done() and not job.take()
            if is_begun and is_write:
                await asyncio.wait((job.answer,), timeout=STALL_S)
        finally:
            # Cancelled or late: the thread leaves it alone if it has not begun.
            job.take()
            job.is_abandoned = not job.answer.done()
            if not job.is_abandoned:
                job.answer.exception()  # Looked at, or asyncio complains if we were cancelled.
        if job.answer.done():
            result: ResultT = job.answer.result()
            return result
        if is_begun and is_write:
            raise AmbiguousError(f"{self._path}: the disk has been silent for {STALL_S} s")
        raise UnavailableError(f"{self._path}: no answer within {timeout_s} s")

    def stop(self, reason: str) -> None:
        """Take no more jobs, do those that were taken, close the file. At once and again."""
        if self.closed_reason is None:
            self.closed_reason = reason
            self._on_change()
        self._jobs.put(None)

    async def wait_stopped(self) -> None:
        """Wait until the file is closed, at most STALL_S. Raises UnavailableError after that."""
        await asyncio.wait((self._stopped,), timeout=STALL_S)
        if not self._stopped.done():
            raise UnavailableError(f"{self._path}: the disk has been silent for {STALL_S} s")

    def _run(self, opened: asyncio.Future[None]) -> None:
        """The thread."""
        try:
            tables = SqliteTables(self._path)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the opener hears of it
            self._call(self._note_opened, opened, error)
            self._call(self._note_stopped)
            return
        self._call(self._note_opened, opened, None)
        failure: str | None = None
        while (group := self._next_group()) is not None:
            before = (tables.revision, tables.compacted)
            if failure is None:
                failure = _carry_out(tables, group)
            else:
                for job in group:
                    job.error = StoreClosedError(f"the metadata store is closed: {failure}")
            is_changed = (tables.revision, tables.compacted) != before
            self._call(self._note_done, group, is_changed, failure)
        # An error in here costs nothing: what was answered is in SQLite's log file.
        with contextlib.suppress(sqlite3.Error, OSError):
            tables.close()
        self._call(self._note_stopped)

    def _next_group(self) -> list[_Job] | None:
        """Sleep until there is something to do; None when it is to stop."""
        job = self._jobs.get()
        if job is None:
            return None
        group = [job]
        while len(group) < GROUP_JOBS_MAX:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)
                break
            group.append(job)
        return group

    def _call(self, function: Callable[..., None], *values: object) -> None:
        # The loop may be gone without having closed the store. Then nobody waits for anything.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *values)

    def _note_opened(self, opened: asyncio.Future[None], error: BaseException | None) -> None:
        if error is None:
            opened.set_result(None)
            return
        if self.closed_reason is None:
            self.closed_reason = f"it could not be opened: {error}"
            opened.set_exception(error)

    def _note_done(self, group: list[_Job], is_changed: bool, failure: str | None) -> None:  # noqa: FBT001
        self._waiting -= len(group)
        for job in group:
            if job.is_abandoned:
                continue
            if job.error is not None:
                job.answer.set_exception(job.error)
            else:
                job.answer.set_result(job.result)
        if failure is not None and self.closed_reason is None:
            self.closed_reason = failure
            is_changed = True
        if is_changed:
            self._on_change()

    def _note_stopped(self) -> None:
        self._stopped.set_result(None)


def _carry_out(tables: SqliteTables, group: list[_Job]) -> str | None:
    """Do the jobs under one flush. Returns why the store is over, or None."""
    jobs = [job for job in group if job.take()]
    is_write = any(job.is_write for job in jobs)
    try:
        if is_write:
            tables.begin()
        for job in jobs:
            try:
                job.result = job.work(tables)
            except (StoreError, ValueError) as error:
                job.error = error  # A refusal, which is this job's alone.
    except sqlite3.Error as error:
        return _undo(tables, jobs, translated(error, "the metadata store did nothing"))
    except Exception as error:  # noqa: BLE001 - our own bug: its callers raise it, none goes on
        return _undo(tables, jobs, error)
    if not is_write:
        return None
    try:
        tables.end()
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            return _undo(tables, jobs, translated(error, "the metadata store did nothing"))
        reason = f"a flush failed ({error}); restart the broker"
        _undo(tables, jobs, StoreClosedError(f"the metadata store is closed: {reason}"))
        for job in jobs:
            if job.is_write:
                job.error = AmbiguousError(f"the metadata store may have done it: {reason}")
        return reason
    return None


def _undo(tables: SqliteTables, jobs: list[_Job], error: Exception) -> str | None:
    """Take the group back and tell all of it why. Returns why the store is over, or None."""
    for job in jobs:
        job.result, job.error = None, error
    try:
        tables.undo()
    except sqlite3.Error as second:
        return f"a transaction could not be taken back ({second}); restart the broker"
    return None
