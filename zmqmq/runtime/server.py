"""Owns one Broker: feeds it events, carries out its effects. Decides nothing.

Everything runs on one event loop except flushes, cold reads and the opening and deleting of
logs, which come back to it as events, and the metadata store's own thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from math import inf
from typing import Any, Final

import zmq

from zmqmq.core.broker.broker import Broker
from zmqmq.core.broker.events import (
    AdmitSubject,
    AnswerPeer,
    AskPeer,
    BurstEnded,
    CommitMetadata,
    Effect,
    Event,
    Halt,
    LinkPeer,
    Measured,
    MetadataChanged,
    MetadataCommitted,
    PeerAnswered,
    PeerAsked,
    PeerLinked,
    PeerRefused,
    Publish,
    Received,
    Register,
    RouteLost,
    Send,
    SubjectWanted,
    Ticked,
    Unregister,
    WriteFormat,
)
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import (
    Batch,
    Commit,
    MetadataStore,
    StoreError,
)
from zmqmq.core.storage.data_directory import orphans
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import LOGS_FOLDER
from zmqmq.core.storage.options import StorageOptions
from zmqmq.core.storage.recovery import Checkpoint
from zmqmq.errors import DirectoryError, HaltedError
from zmqmq.model.now import Now
from zmqmq.runtime.disk_work import DiskEffect, DiskWork
from zmqmq.runtime.housekeeping import Housekeeping
from zmqmq.runtime.mirror import Mirror
from zmqmq.runtime.os_disk import OSDisk
from zmqmq.runtime.peer_links import PeerLinks
from zmqmq.runtime.publisher import Publisher
from zmqmq.runtime.registrars import Registrar
from zmqmq.runtime.transport import Listener

logger = logging.getLogger("zmqmq.server")

TICK_NS: Final = 50_000_000
"""How often the broker looks at its clocks at least. Requests that wait are ended on time: a burst
puts the next look forward."""
TICK_ALONE_NS: Final = 100_000_000
"""The same where there are neither others whose silence must be noticed nor subscribers who are
owed the end of a burst (decision 14): at rest it is all the CPU."""
MEASURE_NS: Final = 1_000_000_000
HISTORY_KEPT: Final = 1_000
"""Revisions of the metadata store whose history is kept at least."""
DRAIN_S: Final = 10.0
"""How long a stop waits for the disk."""
ORPHANS_SHOWN: Final = 20
_LAST: Final = DiskEffect | Unregister | Halt
"""What is still carried out when the sockets are closed."""


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
        registrar: Registrar,
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
        self._housekeeping = Housekeeping(
            disk,
            broker,
            options,
            checkpoints,
            lambda: self._feed(BurstEnded()),
            self._task_done,
        )
        self._disk_work = DiskWork(
            broker, disk, options, self._housekeeping, self._feed, self._spawn
        )
        self._registrar = registrar
        registrar.begin(self._feed, self._spawn)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.listener = Listener(
            self._context, self._loop, self._received, self._burst_ended, self._route_lost
        )
        self.publisher = Publisher(
            self._context, self._loop, lambda subject: self._feed(SubjectWanted(subject))
        )
        self.peer_listener = Listener(
            self._context, self._loop, self._peer_asked, self._burst_ended, lambda _: None
        )
        self._links = PeerLinks(
            self._context,
            self._loop,
            lambda broker_id: self._feed(PeerLinked(broker_id, is_up=True)),
            lambda broker_id: self._feed(PeerLinked(broker_id, is_up=False)),
            lambda broker_id: self._feed(PeerRefused(broker_id)),
            self._peer_answered,
            self._burst_ended,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake: asyncio.TimerHandle | None = None
        self._now = self._read_clocks()
        self._is_between_bursts = True
        self._is_connected = True
        """Until the sockets are closed: then nobody is told anything any more."""
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
        """Hand over what others can lead, finish what was taken, flush, leave a clean directory.

        Raises what broke meanwhile. Then it ends as an abort does: a machine that has been wrong
        once must not vouch for what it leaves.
        """
        try:
            await self._finish()
        except BaseException:
            self.abort()
            raise

    async def _finish(self) -> None:
        broker = self._broker
        if not broker.identity.is_alone:
            self._carry_out(broker.shut_down(self._read_clocks()))
            await self._wait_until(lambda: broker.may_stop(self._read_clocks()))
        broker.drain()
        await self._housekeeping.stop()
        await self._mirror.close()
        await self._wait_until(self._is_idle, DRAIN_S)
        # Nothing may come between the last look and this: it would begin what nobody waits for.
        self._disconnect()
        await self._disk_work.close()
        self._check_sound()
        if self._is_idle():
            await asyncio.to_thread(self._disk_work.close_logs)
            await self._housekeeping.write(clean=True)
            await self._say_clean()
            self._check_sound()
        else:
            logger.error("the disk did not finish within %s s: the next start scans", DRAIN_S)
        await self._registrar.close()
        self._context.destroy(linger=200)

    async def _wait_until(self, is_so: Callable[[], bool], seconds: float = inf) -> None:
        """Look again and again, for so long; raises what has broken."""
        end = self._loop.time() + seconds
        while not is_so() and self._loop.time() < end:
            self._check_sound()
            await asyncio.sleep(0.005)
        self._check_sound()

    def _check_sound(self) -> None:
        if self._failed.done():
            self._failed.result()

    def _is_idle(self) -> bool:
        return self._broker.is_idle and not self._broker.replicas.is_cutting

    async def _say_clean(self) -> None:
        """All logs are closed and on disk: `format` says so last, outside of the pool, which is
        shut by now."""
        for effect in self._broker.finish():
            assert isinstance(effect, WriteFormat), effect
            self._feed(await asyncio.to_thread(self._disk_work.write_format, effect))

    def _disconnect(self) -> None:
        """Hear and do nothing more of one's own accord."""
        self._is_connected = False
        self.listener.close()
        self.publisher.close()
        self.peer_listener.close()
        self._links.close()
        for task in self._tasks:
            task.cancel()
        if self._wake is not None:
            self._wake.cancel()

    def abort(self) -> None:
        """Let go of everything at once, as a crash would."""
        self._housekeeping.abort()
        if self._is_connected:
            self._disconnect()
        self._disk_work.abort()
        self._context.destroy(linger=0)

    # Events

    def _received(self, route: bytes, frames: list[Buffer]) -> None:
        self._arrived(Received(route, frames))

    def _arrived(self, event: Received | PeerAsked | PeerAnswered) -> None:
        # The clocks are read once a burst: to the broker all of it arrived at once.
        if self._is_between_bursts:
            self._is_between_bursts = False
            self._now = self._read_clocks()
        self._handle(event)

    def _burst_ended(self) -> None:
        self._is_between_bursts = True
        self._feed(BurstEnded())
        due = self._broker.timers.next_ns
        if due is not None and due < self._tick_due_ns and self._is_connected:
            self._wake_at(due)

    def _route_lost(self, route: bytes) -> None:
        self._feed(RouteLost(route))

    def _peer_asked(self, route: bytes, frames: list[Buffer]) -> None:
        self._arrived(PeerAsked(route, frames))

    def _peer_answered(self, broker_id: int, frames: list[Buffer]) -> None:
        self._arrived(PeerAnswered(broker_id, frames))

    def _feed(self, event: Event) -> None:
        self._now = self._read_clocks()
        self._handle(event)
        self._check_started()

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
        broker = self._broker
        is_quiet = broker.identity.is_alone and len(broker.pushing) == 0
        latest = now_ns + (TICK_ALONE_NS if is_quiet else TICK_NS)
        due = broker.timers.next_ns
        self._wake_at(latest if due is None else min(due, latest))

    def _wake_at(self, due_ns: int) -> None:
        """Tick then, and not when it was due before."""
        if self._wake is not None:
            self._wake.cancel()
        # As it was asked for, even if that is over: bursts put a tick forward and never off.
        self._tick_due_ns = due_ns
        wait_ns = max(due_ns - time.monotonic_ns(), 1_000_000)
        self._wake = self._loop.call_later(wait_ns / 1e9, self._tick)

    def _measure(self) -> None:
        flusher = self._disk_work.flusher
        files, whole = flusher.by_file, flusher.by_file_system
        cpu_ns = time.process_time_ns()
        room = self._disk.room()
        self._housekeeping.look_at_room(room.get("disk_free_bytes"))
        self._feed(
            Measured(
                {
                    "flush_seconds": (files.nanoseconds + whole.nanoseconds) / 1e9,
                    "flushed_files": files.files + whole.files,
                    "flushes_of_file_system": whole.flushes,
                    "replies_dropped": self.listener.dropped,
                    "loop_lag_ms_max": round(self._lag_ns / 1e6, 3),
                    "cpu_seconds": cpu_ns / 1e9,
                    **room,
                },
                cpu_ns,
            )
        )
        self._lag_ns = 0

    # Effects

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        if not self._is_connected:
            effects = [each for each in effects if isinstance(each, _LAST)]
        for effect in effects:
            match effect:
                case Send(route, frames):
                    self.listener.send(route, frames)
                case Publish(frames):
                    self.publisher.publish(frames)
                case AdmitSubject(subject):
                    self.publisher.admit(subject)
                case AnswerPeer(route, frames):
                    self.peer_listener.send(route, frames)
                case AskPeer(broker_id, frames):
                    self._links.send(broker_id, frames)
                case LinkPeer(broker_id, address):
                    self._links.link(broker_id, address)
                case CommitMetadata():
                    self._spawn(self._commit(effect))
                case Register(document):
                    self._registrar.register(document)
                case Unregister():
                    self._registrar.unregister()
                case Halt(reason):
                    self._fail(HaltedError(reason))
                case _:
                    self._disk_work.do(effect)

    def _fail(self, error: BaseException) -> None:
        """The first is raised where the server is waited for."""
        if not self._failed.done():
            self._failed.set_exception(error)

    async def _commit(self, effect: CommitMetadata) -> None:
        outcome: Commit | StoreError
        try:
            ops = [self._registrar.leased(op) for op in effect.ops]
            outcome = await self._store.commit(ops, effect.ifs)
        except StoreError as error:
            outcome = error
            logger.error("metadata commit failed: %s", error)
        self._feed(MetadataCommitted(effect.token, outcome))

    def _metadata_moved(self, batch: Batch) -> None:
        """The mirror's first batch is the store as it stands, the others what has changed."""
        if self._compacted == 0:
            self._compacted = batch.revision
            self._begin(batch)
        else:
            self._feed(MetadataChanged(batch))
        is_ours = self._broker.identity.is_alone or self._broker.controller.is_active
        if is_ours and batch.revision >= self._compacted + HISTORY_KEPT:
            self._compacted = batch.revision
            self._spawn(self._mirror.forget_history())

    def _begin(self, batch: Batch) -> None:
        reached = self._broker.membership.format.epoch
        if batch.revision < reached:
            error = DirectoryError(
                f"the metadata store has gone back: it is at revision {batch.revision}, and broker "
                f"epoch {reached} was reached already; it is an old copy (metadata.db, or an etcd "
                "restored from a backup), or has lost its end"
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

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._fail(error)
