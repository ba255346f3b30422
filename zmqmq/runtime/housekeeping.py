"""What a broker does now and then: recovery points, retention, files that are no longer needed.

Plans are made on the event loop from what the logs know; files are written and removed in a
worker thread. A segment is unlinked only after the checkpoint that no longer counts on it is
durable (L16).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from zmqmq.core.broker.broker import Broker
from zmqmq.core.storage.compaction import Compaction, plan_compaction
from zmqmq.core.storage.data_directory import write_checkpoints
from zmqmq.core.storage.log import Log, unlink
from zmqmq.core.storage.options import StorageOptions
from zmqmq.core.storage.recovery import Checkpoint
from zmqmq.core.storage.retention import retained_start, should_roll
from zmqmq.core.storage.truncation import lowered
from zmqmq.errors import StorageError, ZmqmqError
from zmqmq.runtime.os_disk import OSDisk

logger = logging.getLogger("zmqmq.housekeeping")

Result = TypeVar("Result")


class Housekeeping:
    """Runs while the broker serves."""

    def __init__(
        self,
        disk: OSDisk,
        broker: Broker,
        options: StorageOptions,
        checkpoints: dict[str, Checkpoint],
        moved: Callable[[], None],
        ended: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._disk = disk
        self._broker = broker
        self._options = options
        self.checkpoints = checkpoints
        """Of every log in the directory, those that are not open included."""
        self._moved = moved
        self._ended = ended
        """Told when a task ends, which none does but by a broken invariant."""
        self._tasks: list[asyncio.Task[None]] = []
        self._compacted: dict[str, int] = {}
        self._writing = asyncio.Lock()
        self._compaction: Compaction | None = None
        """The last pass, which may be going on."""
        self._is_full = False

    def start(self) -> None:
        """Begin."""
        work = (
            (self._options.checkpoint_ms, self._checkpoint),
            (self._options.retention_check_ms, self._retain),
            (self._options.retention_check_ms, self._compact_all),
        )
        self._tasks = [asyncio.create_task(self._every(*each)) for each in work]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """End, and wait for what is being written."""
        self.abort()
        if self._compaction is not None:
            self._compaction.is_stopped = True
        if self._tasks:
            await asyncio.wait(self._tasks)  # one that has broken has been told of

    def abort(self) -> None:
        """End at once."""
        for task in self._tasks:
            task.cancel()

    def look_at_room(self, free_bytes: int | None) -> None:
        """Say when the disk has become full, and when it is no more: producers are told, but nobody
        tells of followers that stand still. None: it cannot say."""
        least = self._options.free_bytes_min
        if free_bytes is None:
            return
        if not self._is_full and free_bytes < least:
            self._is_full = True
            logger.error(
                "the disk has %d bytes left and storage.free_bytes_min is %d: what needs more room "
                "is neither appended nor replicated; make some, or lower retention",
                free_bytes,
                least,
            )
        elif self._is_full and free_bytes >= least + self._options.allocate_bytes:
            self._is_full = False  # not a byte above: it would be told again and again
            logger.warning("the disk has room again: %d bytes", free_bytes)

    async def write(self, *, clean: bool = False) -> None:
        """Write the checkpoint of all logs as they are now."""
        for replica in self._broker.replicas:
            if (row := replica.checkpoint(clean=clean)) is not None:
                self.checkpoints[replica.key.folder] = row
        await self._write()

    async def _write(self) -> None:
        async with self._writing:
            rows = dict(self.checkpoints)
            await self._in_thread(write_checkpoints, self._disk, rows)
        for log in self._broker.replicas.logs:
            row = rows.get(log.key.folder)
            if row is not None:
                log.note_checkpoint(row.recovery_point, row.high_watermark)

    async def lower(self, log: Log, to: int, state: bytes | None) -> None:
        """Before a log is cut: a checkpoint that promises no more than will be left, durably."""
        folder = log.key.folder
        row = self.checkpoints.get(folder, Checkpoint())
        self.checkpoints[folder] = lowered(row, log, to, state)
        await self._write()

    async def discard(self, folder: str) -> None:
        """A log was put aside: it has no checkpoint any more, durably."""
        self.forget(folder)
        await self._write()

    def forget(self, folder: str) -> None:
        """A log was deleted."""
        self.checkpoints.pop(folder, None)
        self._compacted.pop(folder, None)

    async def _every(self, period_ms: int, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(period_ms / 1000)
            try:
                await work()
            except ZmqmqError as error:
                logger.error("housekeeping failed, and will try again: %s", error)

    async def _in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Do something that waits for the disk. Who is cancelled meanwhile still sees it end: the
        thread goes on, and nobody else may write what it writes."""
        thread = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            await asyncio.wait((thread,))
            thread.exception()  # looked at, or asyncio complains
            raise

    async def _checkpoint(self) -> None:
        for replica in self._broker.replicas:
            row = replica.checkpoint(clean=False)
            if row is not None and self.checkpoints.get(replica.key.folder) != row:
                await self.write()
                return

    async def _retain(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        rolled = False
        for log, high_watermark in self._usable():
            start = retained_start(log, now_ms, high_watermark)
            if start > log.start_offset:
                log.drop_before(start)
            if should_roll(log, now_ms):
                try:
                    log.roll(reserve=False)
                except StorageError as error:
                    # Others must not go without retention because one has no room to roll.
                    logger.error("%s: cannot begin a new segment: %s", log.name, error)
                self._broker.flushing.mark_dirty(log)
                rolled = True
        if rolled:
            self._moved()
        await self._unlink()

    async def _unlink(self) -> None:
        doomed = [(log, len(log.doomed)) for log in self._broker.replicas.logs if log.doomed]
        if not doomed:
            return
        await self.write()
        for log, count in doomed:
            segments = log.release_doomed(count)
            try:
                await self._in_thread(unlink, self._disk, log.key.folder, segments)
            except StorageError as error:
                # They stand below the log's start: the next start of the broker removes them.
                logger.error("%s: old segments stay for now: %s", log.key.folder, error)

    async def _compact_all(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        for log, high_watermark in list(self._usable()):
            await self._compact(log, now_ms, high_watermark)

    async def _compact(self, log: Log, now_ms: int, high_watermark: int) -> None:
        done = self._compacted.get(log.key.folder, 0)
        plan = plan_compaction(log, now_ms, high_watermark, done)
        if plan is None:
            return
        compaction = self._compaction = Compaction(self._disk, log.key, plan, self._options)
        try:
            results = await self._in_thread(compaction.run, log.segment_bytes)
        except ZmqmqError as error:
            logger.error("compaction of %s gave up: %s", log.name, error)
            return
        if self._is_open(log):
            compaction.install(log, results)
            self._compacted[log.key.folder] = plan.end

    def _is_open(self, log: Log) -> bool:
        return log in self._broker.replicas.by_log and not log.failed

    def _usable(self) -> Iterable[tuple[Log, int]]:
        """The logs that nothing is wrong with, and how far each is committed."""
        for replica in tuple(self._broker.replicas):
            log = replica.log
            if log is not None and replica.is_usable:
                yield log, replica.high_watermark
