"""Owns one Broker: feeds it events, carries out its effects. Decides nothing.

Everything runs on one event loop except flushes, cold reads and the opening and deleting of
logs, which come back to it as events, and the metadata store's own thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import zmq

from zmqmq.core.broker.broker import Broker
from zmqmq.core.broker.events import (
    BurstEnded,
    ColdRead,
    CommitMetadata,
    DeleteLog,
    Effect,
    Event,
    FlushEnded,
    FlushFiles,
    FormatWritten,
    Halt,
    LogDeleted,
    LogOpened,
    LogTruncated,
    Measured,
    MetadataChanged,
    MetadataCommitted,
    OpenLog,
    ReadCold,
    Received,
    Register,
    Registered,
    RouteLost,
    Send,
    Ticked,
    TruncateLog,
    Unregister,
    WriteFormat,
)
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import (
    OWN_LEASE,
    Batch,
    Commit,
    Delete,
    If,
    MetadataStore,
    Op,
    Put,
    StoreError,
)
from zmqmq.core.storage.data_directory import orphans, quarantine, write_format
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import LOGS_FOLDER, Log, LogKey
from zmqmq.core.storage.options import StorageOptions
from zmqmq.core.storage.reading import Place
from zmqmq.core.storage.recovery import Checkpoint, open_log
from zmqmq.core.storage.truncation import cut
from zmqmq.errors import DirectoryError, HaltedError, StorageError
from zmqmq.model.now import Now
from zmqmq.runtime.flusher import Failures, Flusher
from zmqmq.runtime.housekeeping import Housekeeping
from zmqmq.runtime.kernel_flush import available
from zmqmq.runtime.mirror import Mirror
from zmqmq.runtime.os_disk import OSDisk, OSFile
from zmqmq.runtime.transport import Listener

logger = logging.getLogger("zmqmq.server")

TICK_NS: Final = 50_000_000
"""How often the broker looks at its clocks at least."""
MEASURE_NS: Final = 1_000_000_000
POOL_THREADS: Final = 4
HISTORY_KEPT: Final = 1_000
"""Revisions of the metadata store whose history is kept at least."""
DRAIN_S: Final = 10.0
"""How long a stop waits for the disk."""
ORPHANS_SHOWN: Final = 20


class Server:
    """A broker in the real world."""

    def __init__(
        self,
        broker: Broker,
        disk: OSDisk,
        store: MetadataStore,
        keys: KeySpace,
        options: StorageOptions,
        checkpoints: dict[str, Checkpoint],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._broker = broker
        self._disk = disk
        self._store = store
        self._keys = keys
        self._mirror = Mirror(store, keys.prefix, on_batch=self._metadata_moved)
        self._compacted = 0
        """Below this revision the store needs no history; 0 before the mirror has started."""
        self._options = options
        self._started = asyncio.Event()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="zmqmq-disk")
        self._kernel_flush = available(self._loop) if options.flusher == "auto" else None
        self._flusher = Flusher(disk, self._loop.call_soon_threadsafe, self._kernel_flush)
        self._housekeeping = Housekeeping(
            disk,
            broker,
            options,
            checkpoints,
            lambda: self._feed(BurstEnded()),
            self._task_done,
        )
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.listener = Listener(
            self._context, self._loop, self._received, self._burst_ended, self._route_lost
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake: asyncio.TimerHandle | None = None
        self._now = self._read_clocks()
        self._is_between_bursts = True
        self._lag_ns = 0
        self._tick_due_ns = self._measure_due_ns = time.monotonic_ns()

    async def start(self) -> None:
        """Open what is there; returns when everything can be served. Raises StoreError."""
        self._disk.make_directory(LOGS_FOLDER)
        self._disk.sync_directory("")
        await self._mirror.start()
        self._spawn(self._mirror.wait_ended())
        self._tick()
        self._check_started()
        await self._until(self._started)
        self._housekeeping.start()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set. Raises what broke an invariant."""
        await self._until(stop)

    async def _until(self, event: asyncio.Event) -> None:
        """Wait for the event, or raise what has broken meanwhile."""
        waiting = asyncio.ensure_future(event.wait())
        both: set[asyncio.Future[Any]] = {waiting, self._failed}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._failed.done():
            await self._failed

    async def stop(self) -> None:
        """Finish what was taken, flush, leave a clean directory."""
        self._broker.drain()
        end = self._loop.time() + DRAIN_S
        while not self._broker.is_idle and self._loop.time() < end:  # noqa: ASYNC110 - once
            await asyncio.sleep(0.005)
        await self._housekeeping.stop()
        await self._mirror.close()
        self.listener.close()
        for task in self._tasks:
            task.cancel()
        if self._wake is not None:
            self._wake.cancel()
        if self._kernel_flush is not None:
            self._kernel_flush.close()  # here, since it is the loop's
        await asyncio.to_thread(self._flusher.close)
        await asyncio.to_thread(self._pool.shutdown)
        if self._broker.is_idle:
            await asyncio.to_thread(self._close_logs)
            await self._housekeeping.write(clean=True)
            await self._say_clean()
        else:
            logger.error("the disk did not finish within %s s: the next start scans", DRAIN_S)
        self._context.destroy(linger=200)

    async def _say_clean(self) -> None:
        """All logs are closed and on disk: `format` says so last, outside of the pool, which is
        shut by now."""
        for effect in self._broker.finish(self._read_clocks()):
            assert isinstance(effect, WriteFormat), effect
            self._feed(await asyncio.to_thread(self._write_format, effect))

    def abort(self) -> None:
        """Let go of everything at once, as a crash would; for tests in one process."""
        self._housekeeping.abort()
        self.listener.close()
        for task in self._tasks:
            task.cancel()
        if self._wake is not None:
            self._wake.cancel()
        if self._kernel_flush is not None:
            self._kernel_flush.close()
        self._flusher.close()
        self._pool.shutdown()
        self._context.destroy(linger=0)

    # Events

    def _received(self, route: bytes, frames: list[Buffer]) -> None:
        # The clocks are read once a burst: to the broker all of it arrived at once.
        if self._is_between_bursts:
            self._is_between_bursts = False
            self._now = self._read_clocks()
        self._handle(Received(route, frames))

    def _burst_ended(self) -> None:
        self._is_between_bursts = True
        self._feed(BurstEnded())

    def _route_lost(self, route: bytes) -> None:
        self._feed(RouteLost(route))

    def _feed(self, event: Event) -> None:
        self._now = self._read_clocks()
        self._handle(event)

    def _handle(self, event: Event) -> None:
        try:
            self._carry_out(self._broker.handle(self._now, event))
        except BaseException as error:
            # A machine that has been wrong once must not speak again.
            self._fail(error)
            raise

    def _read_clocks(self) -> Now:
        return Now(time.monotonic_ns(), time.time_ns() // 1_000_000)

    def _tick(self) -> None:
        now_ns = time.monotonic_ns()
        self._lag_ns = max(self._lag_ns, now_ns - self._tick_due_ns)
        self._feed(Ticked())
        if now_ns >= self._measure_due_ns:
            self._measure_due_ns = now_ns + MEASURE_NS
            self._measure()
        due = self._broker.timers.next_ns
        wait_ns = TICK_NS if due is None else min(max(due - now_ns, 1_000_000), TICK_NS)
        self._tick_due_ns = now_ns + wait_ns
        self._wake = self._loop.call_later(wait_ns / 1e9, self._tick)

    def _measure(self) -> None:
        files, whole = self._flusher.by_file, self._flusher.by_file_system
        self._feed(
            Measured(
                {
                    "flush_seconds": (files.nanoseconds + whole.nanoseconds) / 1e9,
                    "flushed_files": files.files + whole.files,
                    "flushes_of_file_system": whole.flushes,
                    "replies_dropped": self.listener.dropped,
                    "loop_lag_ms_max": round(self._lag_ns / 1e6, 3),
                }
            )
        )
        self._lag_ns = 0

    # Effects

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(route, frames):
                    self.listener.send(route, frames)
                case FlushFiles(_):
                    self._flush(effect)
                case ReadCold(token, place):
                    self._in_pool(self._read_cold, token, place)
                case OpenLog():
                    self._spawn(self._open_log(effect))
                case DeleteLog(key):
                    self._housekeeping.forget(key.folder)
                    self._in_pool(self._delete_log, key)
                case CommitMetadata():
                    self._spawn(self._commit(effect))
                case TruncateLog():
                    self._spawn(self._truncate(effect))
                case WriteFormat():
                    self._in_pool(self._write_format, effect)
                case Register():
                    self._spawn(self._register(effect))
                case Halt(reason):
                    self._fail(HaltedError(reason))
                case Unregister():
                    pass  # the embedded store has no leases: the lock of the directory is enough
                case _:
                    # One broker has no peers; several come with a metadata store that they share.
                    raise AssertionError(effect)

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
            self._check_started()

        self._flusher.submit(list(files), done)

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
        self._check_started()

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

    def _write_format(self, effect: WriteFormat) -> Event:
        try:
            write_format(self._disk, effect.format)
        except StorageError as error:
            return FormatWritten(error)
        return FormatWritten(None)

    async def _register(self, effect: Register) -> None:
        """Begin a new broker epoch: the create_revision of a new live key.

        Whoever left the old keys is gone, since we hold the lock of its directory.
        """
        key = self._keys.live(self._broker.identity.broker_id)
        await self._store.commit([Delete(key), Delete(self._keys.controller)])
        put = Put(key, effect.document.encode())
        done = await self._store.commit([put], [If(key, "create", "==", 0)])
        assert done.ok, "somebody else registered this broker"
        self._feed(Registered(done.revision))
        self._check_started()

    def _fail(self, error: BaseException) -> None:
        """The first is raised where the server is waited for."""
        if not self._failed.done():
            self._failed.set_exception(error)

    def _in_pool(self, work: Callable[..., Event | None], *arguments: object) -> None:
        self._spawn(self._await_pool(work, arguments))

    async def _await_pool(
        self, work: Callable[..., Event | None], arguments: tuple[object, ...]
    ) -> None:
        event = await self._loop.run_in_executor(self._pool, work, *arguments)
        if event is not None:
            self._feed(event)
            self._check_started()

    async def _commit(self, effect: CommitMetadata) -> None:
        outcome: Commit | StoreError
        try:
            ops = [_without_lease(op) for op in effect.ops]
            outcome = await self._store.commit(ops, effect.ifs)
        except StoreError as error:
            outcome = error
            logger.error("metadata commit failed: %s", error)
        self._feed(MetadataCommitted(effect.token, outcome))
        self._check_started()

    def _metadata_moved(self, batch: Batch) -> None:
        """The mirror's first batch is the store as it stands, the others what has changed."""
        if self._compacted == 0:
            self._compacted = batch.revision
            self._begin(batch)
        else:
            self._feed(MetadataChanged(batch))
        self._check_started()
        if batch.revision >= self._compacted + HISTORY_KEPT:
            self._compacted = batch.revision
            self._spawn(self._mirror.forget_history())

    def _begin(self, batch: Batch) -> None:
        reached = self._broker.membership.format.epoch
        if batch.revision < reached:
            error = DirectoryError(
                f"the metadata store has gone back: it is at revision {batch.revision}, and broker "
                f"epoch {reached} was reached already; metadata.db is an old copy, or has lost its "
                "end"
            )
            self._fail(error)
            return
        items = [event.kv for event in batch.events]
        self._now = self._read_clocks()
        self._carry_out(self._broker.start(self._now, items, batch.revision))
        self._report_orphans()

    def _report_orphans(self) -> None:
        found = orphans(self._disk, self._broker.image.topics)
        if found:
            logger.warning(
                "of no topic in metadata.db, and left alone (%d; see 'Left over' in "
                "docs/storage.md): %s%s",
                len(found),
                ", ".join(found[:ORPHANS_SHOWN]),
                ", ..." if len(found) > ORPHANS_SHOWN else "",
            )

    def _check_started(self) -> None:
        if not self._started.is_set() and self._broker.is_started:
            self._started.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._fail(error)

    def _close_logs(self) -> None:
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


def _without_lease(op: Op) -> Op:
    """The embedded store outlives nobody: what is bound to this broker's session has no lease."""
    if isinstance(op, Put) and op.lease == OWN_LEASE:
        return Put(op.key, op.value)
    return op
