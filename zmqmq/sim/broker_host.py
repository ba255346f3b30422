"""A broker's machine in the simulated world: its disk, and the process that runs on it.

What runtime/server.py and runtime/main.py do with sockets, threads and files, this does with the
network, the loop and the disk of the simulation. The machine of the broker is the real one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from zmqmq.core.broker.broker import Broker
from zmqmq.core.broker.events import (
    AdmitSubject,
    AnswerPeer,
    AskPeer,
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
    LinkPeer,
    LogDeleted,
    LogOpened,
    LogTruncated,
    MetadataCommitted,
    OpenLog,
    PeerAnswered,
    PeerAsked,
    Publish,
    ReadCold,
    Received,
    Register,
    RouteLost,
    Send,
    Ticked,
    TruncateLog,
    Unregister,
    WriteFormat,
)
from zmqmq.core.broker.identity import Identity
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import KV
from zmqmq.core.storage.data_directory import (
    Format,
    quarantine,
    read_checkpoints,
    read_format,
    write_checkpoints,
    write_format,
)
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import LOGS_FOLDER, Flush, Log
from zmqmq.core.storage.recovery import Checkpoint, open_log
from zmqmq.core.storage.truncation import cut, lowered
from zmqmq.errors import DirectoryError, StorageError
from zmqmq.model.now import Now
from zmqmq.sim.broker_sockets import (
    BrokerSockets,
    clients_address,
    peers_address,
    push_address,
)
from zmqmq.sim.chance import Chance, happens
from zmqmq.sim.disk import SimDisk
from zmqmq.sim.follower_of_store import StoreFollower
from zmqmq.sim.host_options import HostOptions
from zmqmq.sim.housekeeper import Housekeeper
from zmqmq.sim.network import Network
from zmqmq.sim.node import MS, Node
from zmqmq.sim.registrar import Registrar
from zmqmq.sim.store import Store
from zmqmq.sim.trace import Trace

CLUSTER: Final = bytes(range(16))
KEYS: Final = KeySpace.of_cluster("sim")
TICK_NS: Final = 50 * MS
STOP_LOOK_NS: Final = 20 * MS
SYNC_AT_ONCE_PARTS: Final = 500_000
"""How often a flush reaches the disk when it begins, and how often only when it ends."""


class BrokerHost:
    """One machine with a broker. What is not the disk begins anew with every `start`."""

    def __init__(
        self,
        broker_id: int,
        node: Node,
        network: Network,
        store: Store,
        chance: Chance,
        trace: Trace,
        options: HostOptions,
        disk: SimDisk,
    ) -> None:
        self.broker_id = broker_id
        self.node = node
        self.disk = disk
        self.options = options
        self.slowness = 1
        """By how much flushes take longer just now."""
        self.broker: Broker | None = None
        self.halts: list[str] = []
        """Why the broker has stopped itself, each time."""
        self.epochs: set[int] = set()
        """Broker epochs in which it may have served: its directory has heard of them."""
        self.rarely: Counter[str] = Counter()
        """What its disk was asked for and seldom is."""
        self.is_stopping = False
        self.checkpoints: dict[str, Checkpoint] = {}
        self.on_event: Callable[[BrokerHost], object] = lambda _: None
        """Called after every event that the broker has taken."""
        self._network = network
        self._store = store
        self._chance = chance
        self._trace = trace
        self._stream = chance.stream(f"host/{node.name}")
        self._ids = chance.stream(f"ids/{node.name}")
        self._events = 0

    @property
    def clients_address(self) -> str:
        """Of the listener for clients."""
        return clients_address(self.node)

    # A life

    def start(self) -> None:
        """The process begins. Raises DirectoryError if the directory is not usable."""
        try:
            self._start()
        except DirectoryError:
            raise
        except StorageError as error:
            self._halt(f"cannot start: {error}")

    def _start(self) -> None:
        self.is_stopping = False
        disk = self.disk
        form = read_format(disk)
        if form is None:
            form = Format(CLUSTER.hex(), self.broker_id, 0)
            write_format(disk, form)
        self.checkpoints = read_checkpoints(disk)
        write_checkpoints(disk, {f: replace(c, clean=False) for f, c in self.checkpoints.items()})
        disk.make_directory(LOGS_FOLDER)
        disk.sync_directory("")
        identity = Identity(
            broker_id=self.broker_id,
            cluster=CLUSTER,
            server="zmqmq sim",
            instance=self._draw_id(),
            is_alone=False,
            endpoints={
                "clients": clients_address(self.node),
                "push": push_address(self.node),
                "peers": peers_address(self.node),
            },
            rack=self.options.rack_of(self.broker_id),
        )
        options = self.options
        broker = Broker(identity, KEYS, options.serving, options.topics, form, self._draw_id)
        self.broker = broker
        self._is_burst_due = False
        self._sockets = BrokerSockets(self, self._network)
        self._client = self._store.client(self.node)
        self._registrar = Registrar(
            self._client, KEYS.live(self.broker_id), self.options.lease_ns, self._feed
        )
        self._follower = StoreFollower(self._client, KEYS.prefix, self._follow_begun, self._feed)
        self.housekeeper = Housekeeper(self, self.node, options, self._stream)
        self._tick()

    def crash(self, *, power_cut: bool = False) -> None:
        """SIGKILL, or the end of the power. The disk is what that leaves."""
        self.node.crash(power_cut=power_cut)
        self.broker = None
        if power_cut:
            self.disk = self.disk.power_cut(self._stream)

    def restart(self) -> None:
        """Start the machine again, and the process with it; tried again if its disk refuses."""
        if not self.node.is_up:
            self.node.restart()
            try:
                self.start()
            except StorageError as error:
                self._halt(f"does not start: {error}")

    def stop(self) -> None:
        """Begin a clean stop (C10); the node is down when it is done."""
        broker = self.broker
        if broker is None or self.is_stopping:
            return
        self.is_stopping = True
        self._trace.event(self.node.loop.now, self.node.name, "stops")
        self._carry_out(broker.shut_down(self._now()))
        self._look_whether_to_stop()

    def _look_whether_to_stop(self) -> None:
        broker = self.broker
        assert broker is not None
        if not broker.may_stop(self._now()):
            self.node.call_at(self.node.monotonic_ns() + STOP_LOOK_NS, self._look_whether_to_stop)
            return
        broker.drain()
        self._look_whether_idle()

    def _look_whether_idle(self) -> None:
        broker = self.broker
        assert broker is not None
        if not broker.is_idle or broker.replicas.is_cutting:
            self.node.call_at(self.node.monotonic_ns() + STOP_LOOK_NS, self._look_whether_idle)
            return
        self.housekeeper.stop()
        for log in broker.replicas.logs:
            if log.failed or log.damage:
                continue
            try:
                log.close()
                flush = log.begin_flush()
                self._sync(flush)
                log.end_flush(flush)
            except StorageError as error:
                log.fail(error)
        self.housekeeper.write(clean=True)
        self._carry_out(broker.finish())

    # Events

    def feed(self, event: Event) -> None:
        """Hand an event to the broker, and do what it asks."""
        self._feed(event)

    def _feed(self, event: Event) -> None:
        if self._is_burst_due:
            self._end_burst()  # bursts are whole: nothing else happens within one
        broker = self.broker
        if broker is None:
            return
        self._events += 1
        effects = broker.handle(self._now(), event)
        self.on_event(self)  # before it may halt: it has answered by then
        self._carry_out(effects)
        # As runtime/main.py: nobody is answered before the metadata are known.
        if self.broker is not None and not self._sockets.is_listening and broker.is_started:
            self._sockets.listen()

    def arrived(self, event: Received | PeerAsked | PeerAnswered) -> None:
        """A message came; everything that comes at one moment is a burst."""
        if not self._is_burst_due:
            self.node.call_soon(self._end_burst)
        self._is_burst_due = False
        self._feed(event)
        self._is_burst_due = True

    def _end_burst(self) -> None:
        if self._is_burst_due:
            self._is_burst_due = False
            self._feed(BurstEnded())

    def _tick(self) -> None:
        self._feed(Ticked())
        self.node.call_at(self.node.monotonic_ns() + TICK_NS, self._tick)

    def _now(self) -> Now:
        return Now(self.node.monotonic_ns(), self.node.wall_ms())

    def _draw_id(self) -> bytes:
        return self._ids.randrange(1 << 128).to_bytes(16, "big")

    def _follow_begun(self, items: Sequence[KV], revision: int) -> None:
        broker = self.broker
        assert broker is not None
        self._carry_out(broker.start(self._now(), items, revision))

    # Effects

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            self._do(effect)
            if self.broker is None:
                return  # halted

    def _do(self, effect: Effect) -> None:
        match effect:
            case Send(route, frames):
                if not self._sockets.clients.answer(route, frames):
                    self.node.call_soon(self._feed, RouteLost(route))
            case Publish(frames):
                self._sockets.published.publish(frames)
            case AdmitSubject(subject):
                self._sockets.published.admit(subject)
            case AnswerPeer(route, frames):
                self._sockets.peers.answer(route, frames)
            case AskPeer(broker_id, frames):
                self._sockets.ask(broker_id, frames)
            case FlushFiles():
                self._flush(effect)
            case CommitMetadata(token, ops, ifs):
                self._client.commit(
                    ops, ifs, lambda outcome: self._feed(MetadataCommitted(token, outcome))
                )
            case ReadCold():
                self._later(self._read_cold, effect)
            case OpenLog():
                self._later(self._open_log, effect)
            case DeleteLog():
                self._later(self._delete_log, effect)
            case TruncateLog():
                self._later(self._lower, effect)
            case WriteFormat():
                self._later(self._write_format, effect)
            case Register(document):
                self._registrar.register(document)
            case Unregister():
                self._registrar.unregister()
                if self.is_stopping:
                    self._trace.event(self.node.loop.now, self.node.name, "has stopped")
                    self.crash()
            case LinkPeer(broker_id, address):
                self._sockets.link(broker_id, address)
            case Halt(reason):
                self._halt(reason)

    def _later(self, work: Callable[..., object], *arguments: object) -> None:
        """A worker thread does it."""
        wait = self._stream.randrange(100_000, 3 * MS) * self.slowness
        self.node.loop.post(self.node.loop.now + wait, self.node, work, *arguments)

    def _flush(self, effect: FlushFiles) -> None:
        least, most = self.options.flush_ns
        wait = (least + self._stream.randrange(most)) * self.slowness
        when = self.node.loop.now + wait
        if happens(self._stream, SYNC_AT_ONCE_PARTS):
            done = [self._synced(log, flush) for log, flush in effect.flushes]
            self.node.loop.post(when, self.node, self._feed, FlushEnded(done))
        else:
            self.node.loop.post(when, self.node, self._end_flush, effect)

    def _end_flush(self, effect: FlushFiles) -> None:
        self._feed(FlushEnded([self._synced(log, flush) for log, flush in effect.flushes]))

    def _synced(self, log: Log, flush: Flush) -> tuple[Log, Flush, StorageError | None]:
        try:
            self._sync(flush)
        except StorageError as error:
            return log, flush, error
        return log, flush, None

    def _sync(self, flush: Flush) -> None:
        for file in dict.fromkeys(flush.files):
            file.sync()
        for folder in flush.folders:
            self.disk.sync_directory(folder)

    def _read_cold(self, effect: ReadCold) -> None:
        where = effect.place
        data: Buffer | StorageError
        try:
            data = where.file.read(where.position, where.size)
        except StorageError as error:
            data = error
        self._feed(ColdRead(effect.token, data))

    def _open_log(self, effect: OpenLog) -> None:
        log: Log | StorageError
        checkpoint = self.checkpoints.get(effect.key.folder)
        try:
            if effect.quarantine:
                quarantine(self.disk, effect.key)
                self.rarely["quarantine"] += 1
                checkpoint = None
                self.checkpoints.pop(effect.key.folder, None)
                write_checkpoints(self.disk, self.checkpoints)
            log = open_log(self.disk, effect.key, effect.config, self.options.storage, checkpoint)
            log.name = effect.name
        except StorageError as error:
            log = error
        self._feed(LogOpened(effect.key, log))

    def _delete_log(self, effect: DeleteLog) -> None:
        folder = effect.key.folder
        self.housekeeper.forget(folder)
        try:
            for name in self.disk.list(folder):
                self.disk.remove(f"{folder}/{name}")
            self.disk.remove(folder)
        except StorageError as error:
            self._trace.event(self.node.loop.now, self.node.name, f"log stays: {error}")
        self._feed(LogDeleted(effect.key))

    def _lower(self, effect: TruncateLog) -> None:
        """Before a log is cut, the checkpoint promises no more than will be left (D3)."""
        folder = effect.log.key.folder
        row = self.checkpoints.get(folder, Checkpoint())
        self.checkpoints[folder] = lowered(row, effect.log, effect.to, effect.state)
        try:
            write_checkpoints(self.disk, self.checkpoints)
        except StorageError as error:
            self._feed(LogTruncated(effect.log.key, error))
            return
        self._later(self._cut, effect)

    def _cut(self, effect: TruncateLog) -> None:
        log: Log | StorageError = effect.log
        self.rarely["truncation" if effect.state is None else "log begun anew"] += 1
        try:
            cut(effect.log, effect.to, effect.state)
        except StorageError as error:
            log = error
        self._feed(LogTruncated(effect.log.key, log))

    def _write_format(self, effect: WriteFormat) -> None:
        try:
            write_format(self.disk, effect.format)
        except StorageError as error:
            self._feed(FormatWritten(error))
        else:
            self.epochs.add(effect.format.epoch)
            self._feed(FormatWritten(None))

    def _halt(self, reason: str) -> None:
        self.halts.append(reason)
        self._trace.event(self.node.loop.now, self.node.name, f"halts: {reason}")
        self.crash()
        self.node.loop.post(
            self.node.loop.now + self.options.restart_ns, None, self._restart_after_halt
        )

    def _restart_after_halt(self) -> None:
        if not self.node.is_up and self.node.is_powered:
            self.restart()
