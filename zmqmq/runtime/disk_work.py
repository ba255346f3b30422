"""What the broker asks of its disk: files flushed, read, opened, cut and removed.

Flushes have threads of their own (flusher.py); the others wait in a small pool. What they found
comes back to the broker as an event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from zmqmq.core.broker.broker import Broker
from zmqmq.core.broker.events import (
    ColdRead,
    DeleteLog,
    Event,
    FlushEnded,
    FlushFiles,
    FormatWritten,
    LogDeleted,
    LogOpened,
    LogTruncated,
    OpenLog,
    ReadCold,
    TruncateLog,
    WriteFormat,
)
from zmqmq.core.storage.data_directory import quarantine, write_format
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import Log, LogKey
from zmqmq.core.storage.options import StorageOptions
from zmqmq.core.storage.reading import Place
from zmqmq.core.storage.recovery import open_log
from zmqmq.core.storage.truncation import cut
from zmqmq.errors import StorageError
from zmqmq.runtime.flusher import Failures, Flusher
from zmqmq.runtime.housekeeping import Housekeeping
from zmqmq.runtime.kernel_flush import available
from zmqmq.runtime.os_disk import OSDisk, OSFile

logger = logging.getLogger("zmqmq.server")

POOL_THREADS: Final = 4

DiskEffect = FlushFiles | ReadCold | OpenLog | DeleteLog | TruncateLog | WriteFormat


class DiskWork:
    """Belongs to one server, and is used from its loop."""

    def __init__(
        self,
        broker: Broker,
        disk: OSDisk,
        options: StorageOptions,
        housekeeping: Housekeeping,
        feed: Callable[[Event], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._broker = broker
        self._disk = disk
        self._options = options
        self._housekeeping = housekeeping
        self._feed = feed
        self._spawn = spawn
        self._pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="zmqmq-disk")
        self._kernel_flush = available(self._loop) if options.flusher == "auto" else None
        self._is_closed = False
        self.flusher = Flusher(disk, self._loop.call_soon_threadsafe, self._kernel_flush)

    def do(self, effect: DiskEffect) -> None:
        """Begin it, unless the end has come: then nobody waits for it."""
        if self._is_closed:
            return
        match effect:
            case FlushFiles():
                self._flush(effect)
            case ReadCold(token, place):
                self._in_pool(self._read_cold, token, place)
            case OpenLog():
                self._spawn(self._open_log(effect))
            case DeleteLog(key):
                self._housekeeping.forget(key.folder)
                self._in_pool(self._delete_log, key)
            case TruncateLog():
                self._spawn(self._truncate(effect))
            case WriteFormat():
                self._in_pool(self.write_format, effect)

    async def close(self) -> None:
        """Wait for what was begun, and begin nothing more."""
        self._is_closed = True
        if self._kernel_flush is not None:
            self._kernel_flush.close()  # here, since it is the loop's
        await asyncio.to_thread(self.flusher.close)
        await asyncio.to_thread(self._pool.shutdown)

    def abort(self) -> None:
        """As `close`, at once; what waits in the pool is not begun."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._kernel_flush is not None:
            self._kernel_flush.close()
        self.flusher.close()
        self._pool.shutdown(cancel_futures=True)

    def close_logs(self) -> None:
        """Leave every log as a clean stop does: whole, flushed, with its state."""
        for log in self._broker.replicas.logs:
            if log.failed or log.damage:
                continue
            try:
                log.close()
                flush = log.begin_flush()
                for file in flush.files:
                    file.sync()
                for folder in flush.folders:
                    self._disk.sync_directory(folder)
                log.end_flush(flush)
            except StorageError as error:
                log.fail(error)  # not clean, then: the next start scans this one
                logger.error("log %s could not be closed: %s", log.key.folder, error)

    def write_format(self, effect: WriteFormat) -> Event:
        """Replace the file `format`."""
        try:
            write_format(self._disk, effect.format)
        except StorageError as error:
            return FormatWritten(error)
        return FormatWritten(None)

    def _flush(self, effect: FlushFiles) -> None:
        files: dict[OSFile, None] = {}
        groups: list[list[OSFile] | StorageError] = []
        for _, flush in effect.flushes:
            group: list[OSFile] = [*flush.files]  # type: ignore[list-item]  # ours are OSFiles
            try:
                group.extend(self._disk.open_directory(folder) for folder in flush.folders)
            except StorageError as error:
                groups.append(error)
                continue
            groups.append(group)
            files.update(dict.fromkeys(group))

        def done(failures: Failures) -> None:
            flushes = [
                (
                    log,
                    flush,
                    group
                    if isinstance(group, StorageError)
                    else next((failures[f] for f in group if f in failures), None),
                )
                for (log, flush), group in zip(effect.flushes, groups, strict=True)
            ]
            for log, _, error in flushes:
                if error is not None:
                    logger.error("%s is offline from now on: %s", log.name, error)
            self._feed(FlushEnded(flushes))

        self.flusher.submit(list(files), done)

    def _read_cold(self, token: int, place: Place) -> Event:
        data: Buffer | StorageError
        try:
            data = place.file.read(place.position, place.size)
        except StorageError as error:
            data = error
        return ColdRead(token, data)

    async def _open_log(self, effect: OpenLog) -> None:
        """Open a log; before that its damaged copy is put aside if there is one (D5)."""
        log: Log | StorageError
        key, run = effect.key, self._loop.run_in_executor
        try:
            if effect.quarantine:
                await run(self._pool, quarantine, self._disk, key)
                await self._housekeeping.discard(key.folder)
            checkpoint = self._housekeeping.checkpoints.get(key.folder)
            how = (self._disk, key, effect.config, self._options, checkpoint)
            log = await run(self._pool, open_log, *how)
            log.name = effect.name
        except StorageError as error:
            log = error
            logger.error("log %s cannot be opened: %s", key.folder, error)
        else:
            if log.damage is not None:
                logger.error("log %s is damaged at %s", key.folder, log.damage)
        self._feed(LogOpened(key, log))

    def _delete_log(self, key: LogKey) -> Event:
        folder = key.folder
        try:
            for name in self._disk.list(folder):
                self._disk.remove(f"{folder}/{name}")
            self._disk.remove(folder)
        except StorageError as error:
            logger.error("log %s was not removed whole: %s", folder, error)
        return LogDeleted(key)

    async def _truncate(self, effect: TruncateLog) -> None:
        """Lower the checkpoint durably, then cut (F7, D3)."""
        log: Log | StorageError = effect.log
        try:
            await self._housekeeping.lower(effect.log, effect.to, effect.state)
            await self._loop.run_in_executor(self._pool, cut, effect.log, effect.to, effect.state)
        except StorageError as error:
            log = error
            logger.error("log %s could not be truncated: %s", effect.log.name, error)
        self._feed(LogTruncated(effect.log.key, log))

    def _in_pool(self, work: Callable[..., Event], *arguments: object) -> None:
        self._spawn(self._await_pool(work, arguments))

    async def _await_pool(self, work: Callable[..., Event], arguments: tuple[object, ...]) -> None:
        self._feed(await self._loop.run_in_executor(self._pool, work, *arguments))
