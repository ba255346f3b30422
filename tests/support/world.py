"""A world in memory for one real Broker: carries out its effects when the test says so.

The disk is a SimDisk, the metadata store a MemoryStore, time stands still until `advance`. What
the world owes the machine is what runtime/server.py gives it, and no more: bursts are whole,
effects are carried out in any order the test likes, each one that has an event gets it.

By default everything that is asked for is done at once. `hold` keeps back one kind of effect
until the test ends it: `end_flush`, `end_cold_read`, `answer_commit`, `end_opening`.

    world = World()
    topic = world.topic("t")
    world.hold(FlushFiles)
    sent = world.client().produce(topic, b"a")
    assert sent.outcome is None
    world.end_flush()
    assert sent.outcome == [0]
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.memory_store import MemoryStore
from zmqmq.batch.decode import decode_batches
from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import log_seed
from zmqmq.core.broker.broker import Broker
from zmqmq.core.broker.events import (
    AdmitSubject,
    BurstEnded,
    ColdRead,
    CommitMetadata,
    DeleteLog,
    Effect,
    Event,
    FlushEnded,
    FlushFiles,
    FormatWritten,
    LogDeleted,
    LogOpened,
    MetadataChanged,
    MetadataCommitted,
    OpenLog,
    Publish,
    ReadCold,
    Received,
    Register,
    Registered,
    RouteLost,
    Send,
    SubjectWanted,
    Ticked,
    Unregister,
    WriteFormat,
)
from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.options import ServingOptions
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import (
    OWN_LEASE,
    AmbiguousError,
    Commit,
    Delete,
    Op,
    Put,
    StoreError,
    UnavailableError,
)
from zmqmq.core.replication.partition import Partition
from zmqmq.core.storage.data_directory import (
    Format,
    quarantine,
    read_checkpoints,
    read_format,
    write_checkpoints,
    write_format,
)
from zmqmq.core.storage.log import LOGS_FOLDER, Log
from zmqmq.core.storage.options import StorageOptions
from zmqmq.core.storage.recovery import open_log
from zmqmq.errors import StorageError
from zmqmq.model.limits import MIB
from zmqmq.model.names import OFFSETS_TOPIC
from zmqmq.model.now import Now
from zmqmq.model.topics import TopicConfig
from zmqmq.sim.disk import SimDisk
from zmqmq.wire.apis import ACKS_ALL, Api
from zmqmq.wire.frame import Fields, decode_reply_header, encode_header

CLUSTER = bytes(range(16))
KEYS = KeySpace.of_cluster("test")
STORAGE = StorageOptions(index_interval_bytes=512, allocate_bytes=4096, free_bytes_min=0)
SERVING = ServingOptions(offsets_partitions=2)
WALL_MS = 1_700_000_000_000
BROKEN = StorageError("EIO, by order of the test")
Held = FlushFiles | ReadCold | OpenLog | CommitMetadata


@dataclass(frozen=True, slots=True)
class Place:
    """A topic as clients know it; `place[1]` is its second partition."""

    id: bytes
    number: int = 0

    def __getitem__(self, number: int) -> Place:
        return Place(self.id, number)

    @property
    def seed(self) -> int:
        return log_seed(self.id, self.number)


@dataclass(slots=True)
class Answer:
    """What became of a request."""

    api: Api
    asked: list[Place] = field(default_factory=list)
    frames: list[list[bytes]] = field(default_factory=list)

    @property
    def fields(self) -> Fields | None:
        """The fields of the one reply, or None while there is none."""
        assert len(self.frames) <= 1, "answered twice"
        return decode_reply_header(self.frames[0][0])[3] if self.frames else None

    @property
    def error(self) -> str | None:
        """The name of the error that stands for the whole answer."""
        fields = self.fields
        return fields["error"]["name"] if fields and "error" in fields else None

    @property
    def detail(self) -> str:
        """What the error says."""
        assert self.fields is not None
        return str(self.fields["error"]["detail"])

    @property
    def outcome(self) -> Any:
        """In short: None while unanswered, an error's name, or what the API gives.

        PRODUCE: an offset or the name of an error for each batch. FETCH: the records' values, or
        the name of an error, for each partition. Others: all fields.
        """
        fields = self.fields
        if fields is None or self.error:
            return self.error
        match self.api:
            case Api.PRODUCE:
                return [_name(r) if type(r) is dict else r[0] for r in fields["results"]]
            case Api.FETCH:
                found = [_name(r) if type(r) is dict else None for r in fields["partitions"]]
                values = [[value for _, value in records] for records in self.records]
                return [name or some for name, some in zip(found, values, strict=True)]
            case Api.LIST_OFFSETS:
                return [_name(r) if type(r) is dict else r[0] for r in fields["offsets"]]
            case Api.OFFSET_COMMIT:
                return [_name(r) if type(r) is dict else r for r in fields["results"]]
            case Api.OFFSET_FETCH:
                return [(row[1], row[2]) for row in fields["offsets"]]
            case _:
                return fields

    @property
    def records(self) -> list[list[tuple[int, bytes | None]]]:
        """Of a FETCH: offset and value of each record, for each partition asked."""
        fields = self.fields
        assert fields is not None
        bodies = iter(self.frames[0][1:])
        found: list[list[tuple[int, bytes | None]]] = []
        for place, row in zip(self.asked, fields["partitions"], strict=True):
            some: list[tuple[int, bytes | None]] = []
            if type(row) is list and row[0]:
                body = next(bodies)
                assert len(body) == row[0]
                for batch in decode_batches(body, place.seed, "", place.number):
                    some += zip(batch.offsets, batch.values, strict=True)
            found.append(some)
        assert next(bodies, None) is None, "a body that nobody announced"
        return found

    @property
    def body_bytes(self) -> int:
        """Of all body frames."""
        return sum(map(len, self.frames[0][1:])) if self.frames else 0


class Client:
    """Speaks the protocol by hand. Each request is a burst of its own, but within `burst`."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.session = name.encode().ljust(16, b".")
        self.connections = 0
        self.connect()

    def connect(self) -> None:
        """A new connection, on which nothing was said yet."""
        self.connections += 1
        self.route = f"{self.name}#{self.connections}".encode()

    def hello(self, **fields: Any) -> Answer:
        given = {"client": self.name, "min": 1, "max": 1, "session": self.session, **fields}
        return self.ask(Api.HELLO, given)

    def ask(
        self, api: Api, fields: Fields, bodies: Sequence[bytes] = (), asked: Sequence[Place] = ()
    ) -> Answer:
        """Send one request."""
        answer = Answer(api, list(asked))
        correlation = self.world.expect(answer)
        frames = [encode_header(api, correlation, fields), *bodies]
        self.world.receive(self.route, frames)
        return answer

    def ping(self, **fields: Any) -> Answer:
        return self.ask(Api.PING, fields)

    def produce(
        self,
        place: Place,
        *values: bytes | None,
        acks: int = ACKS_ALL,
        batch: bytes | None = None,
        batches: Sequence[tuple[Place, bytes]] = (),
        timeout_ms: int = 30_000,
        common: Fields | None = None,
        **coding: Any,
    ) -> Answer:
        """A batch of these values, or the ones given; `coding` is for encode_batch."""
        sent = list(batches)
        if values or batch is not None or not sent:
            sent.insert(0, (place, batch or batch_of(place, *values, **coding)))
        fields = {
            "acks": acks,
            "timeout_ms": timeout_ms,
            "batches": [[p.id, p.number] for p, _ in sent],
            **(common or {}),
        }
        return self.ask(Api.PRODUCE, fields, [data for _, data in sent])

    def fetch(
        self,
        *places: Place | tuple[Place, int] | tuple[Place, int, int],
        wait_ms: int = 0,
        min_bytes: int = 1,
        max_bytes: int = MIB,
        **common: Any,
    ) -> Answer:
        """From offset 0 unless said otherwise: (place, offset, max bytes)."""
        wanted = [(*((p,) if isinstance(p, Place) else p), 0, MIB)[:3] for p in places]
        for at, entry in enumerate(places):
            if not isinstance(entry, Place) and len(entry) == 2:
                wanted[at] = (*entry, MIB)
        fields = {
            "max_wait_ms": wait_ms,
            "min_bytes": min_bytes,
            "max_bytes": max_bytes,
            "partitions": [[p.id, p.number, offset, most] for p, offset, most in wanted],
            **common,
        }
        return self.ask(Api.FETCH, fields, asked=[p for p, _, _ in wanted])

    def list_offsets(self, *asked: tuple[Place, str | int]) -> Answer:
        rows = [[place.id, place.number, at] for place, at in asked]
        return self.ask(Api.LIST_OFFSETS, {"partitions": rows})

    def init_producer(self) -> Answer:
        return self.ask(Api.INIT_PRODUCER, {})

    def commit(self, group: str, *offsets: tuple[Place, int], note: str = "") -> Answer:
        rows = [[place.id, place.number, offset, 1, note] for place, offset in offsets]
        return self.ask(Api.OFFSET_COMMIT, {"group": group, "offsets": rows})

    def committed(self, group: str, *places: Place) -> Answer:
        rows = [[place.id, place.number] for place in places] or None
        return self.ask(Api.OFFSET_FETCH, {"group": group, "partitions": rows})

    def create(self, name: str, partitions: int = 1, **config: Any) -> Answer:
        fields = {"topic": name, "partitions": partitions, "config": config}
        return self.ask(Api.CREATE_TOPIC, fields)

    def alter(self, name: str, partitions: int | None = None, **config: Any) -> Answer:
        fields = {"topic": name, "partitions": partitions, "config": config}
        return self.ask(Api.ALTER_TOPIC, fields)

    def delete(self, name: str) -> Answer:
        return self.ask(Api.DELETE_TOPIC, {"topic": name})

    def metadata(self, *names: str) -> dict[str, Any]:
        """Leaders of the partitions by topic, or the name of an error."""
        fields = self.ask(Api.METADATA, {"topics": list(names) or None}).fields
        assert fields is not None
        return {
            t["name"]: _name(t["error"]) if "error" in t else t["partitions"]
            for t in fields["topics"]
        }

    def subscribe(self, *places: Place, leave: bool = False) -> list[Any]:
        """Subjects, or the names of errors."""
        rows = [[place.id, place.number] for place in places]
        fields = self.ask(Api.SUBSCRIBE, {"partitions": rows, "leave": leave}).fields
        assert fields is not None
        assert fields["endpoint"] == "127.0.0.1:5756"
        return [_name(s) if type(s) is dict else s for s in fields["subjects"]]

    def describe(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        found = self.ask(Api.DESCRIBE, {"kind": kind, **fields}).fields
        assert found is not None
        assert "error" not in found, found
        return list(found["items"])


def batch_of(place: Place, *values: bytes | None, **coding: Any) -> bytes:
    """A batch for one partition; `producer=7` is short for its producer_id."""
    coding = {"producer_id": coding.pop("producer", 0), "timestamp_ms": WALL_MS, **coding}
    if "sequence" in coding:
        coding["base_sequence"] = coding.pop("sequence")
    if "epoch" in coding:
        coding["producer_epoch"] = coding.pop("epoch")
    return encode_batch(place.seed, list(values) or [b"v"], **coding)


class World:
    """One broker and all around it."""

    def __init__(
        self,
        *,
        disk: SimDisk | None = None,
        serving: ServingOptions = SERVING,
        storage: StorageOptions = STORAGE,
        defaults: TopicConfig | None = None,
        start: bool = True,
    ) -> None:
        self.disk = disk or SimDisk()
        self.store = MemoryStore()
        self.serving = serving
        self.storage = storage
        self.defaults = defaults or TopicConfig()
        self.ns = 10**9
        self.ms = WALL_MS
        self.epoch = 0
        self.held: dict[type, deque[Any]] = {}
        """Effects that the test will end, by their kind."""
        self.answer_first = False
        """Whether a commit is answered before the change that it made is told."""
        self.deleted: list[str] = []
        """Folders of logs that were removed."""
        self.sent: list[Send] = []
        """Everything that was sent, strays included."""
        self.published: list[list[bytes]] = []
        self.admitted: list[bytes] = []
        self._ids = itertools.count(1)
        self._correlations = itertools.count(1)
        self._expected: dict[int, Answer] = {}
        self._clients: dict[str, Client] = {}
        if start:
            self.start()

    # A life

    def start(self) -> None:
        """Begin with what the disk and the store hold."""
        self.epoch += 1
        self.checkpoints = read_checkpoints(self.disk)
        self._events: deque[Event] = deque()
        self._is_in_burst = False
        self.flushes = 0
        identity = Identity(
            broker_id=1,
            cluster=CLUSTER,
            server="zmqmq test",
            instance=bytes(16),
            is_alone=True,
            endpoints={"clients": "127.0.0.1:5755", "push": "127.0.0.1:5756"},
        )
        form = read_format(self.disk) or Format(CLUSTER.hex(), 1, 0)
        write_format(self.disk, form)
        self.broker = Broker(identity, KEYS, self.serving, self.defaults, form, self._draw_id)
        self.disk.make_directory(LOGS_FOLDER)
        self.disk.sync_directory("")
        snapshot = self.store.snapshot(KEYS.prefix)
        self._told = snapshot.revision
        self._carry_out(self.broker.start(self._now, snapshot.items, snapshot.revision))
        self._run()

    def crash(self, disk: SimDisk | None = None) -> None:
        """SIGKILL, or the power cut that left `disk`; then another start. Clients stay, and know
        nothing yet."""
        self.disk = disk or self.disk.kill_state()
        self.held = {}
        self._expected.clear()
        self.start()

    def stop(self) -> None:
        """A clean stop, as runtime/server.py makes it."""
        self.broker.drain()
        assert self.broker.is_idle
        for log in self.broker.replicas.logs:
            if not (log.failed or log.damage):
                log.close()
                self._sync(flush := log.begin_flush())
                log.end_flush(flush)
        self.checkpoint(clean=True)
        self._carry_out(self.broker.finish())
        self._run()

    def checkpoint(self, *, clean: bool = False) -> None:
        """Write the recovery points of all logs."""
        for replica in self.broker.replicas:
            row = replica.checkpoint(clean=clean)
            if row is not None:
                self.checkpoints[replica.key.folder] = row
        write_checkpoints(self.disk, self.checkpoints)
        for log in self.broker.replicas.logs:
            row = self.checkpoints[log.key.folder]
            log.note_checkpoint(row.recovery_point, row.high_watermark)

    # What clients do

    def client(self, name: str = "client") -> Client:
        """One that has said HELLO."""
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = Client(self, name)
        assert client.hello().error is None
        return client

    def topic(self, name: str, partitions: int = 1, **config: Any) -> Place:
        """Create a topic."""
        created = self.client("admin").create(name, partitions, **config)
        assert created.fields is not None, "not answered"
        assert created.error is None, created.detail
        return Place(created.fields["id"])

    def expect(self, answer: Answer) -> int:
        """A correlation for a request whose answer goes there."""
        correlation = next(self._correlations)
        self._expected[correlation] = answer
        return correlation

    def receive(self, route: bytes, frames: Sequence[bytes]) -> None:
        """A message comes in."""
        self._feed(Received(route, list(frames)))
        if not self._is_in_burst:
            self._feed(BurstEnded())
            self._run()

    @contextmanager
    def burst(self) -> Iterator[None]:
        """What is sent within arrives together."""
        self._is_in_burst = True
        yield
        self._is_in_burst = False
        self._feed(BurstEnded())
        self._run()

    def subscribe(self, subject: bytes) -> bool:
        """A SUB socket wants a subject; whether it is let."""
        self.admitted.clear()
        self._events.append(SubjectWanted(subject))
        self._run()
        return self.admitted == [subject]

    def take_published(self) -> list[tuple[Api, Fields, bytes]]:
        """What was published since the last time: API, fields and body."""
        found = []
        for _, header, *body in self.published:
            api, _, correlation, fields = decode_reply_header(header)
            assert correlation == 0
            found.append((Api(api), fields, b"".join(body)))
        self.published.clear()
        return found

    def lose(self, client: Client) -> None:
        """A reply could not be sent to it."""
        self._events.append(RouteLost(client.route))
        self._run()

    # What the world does

    def advance(self, ms: int) -> None:
        """Let time go by on both clocks."""
        self.ns += ms * 1_000_000
        self.ms += ms
        self._events.append(Ticked())
        self._run()

    def hold(self, *kinds: type) -> None:
        """From now on the test says when these effects are done."""
        for kind in kinds:
            self.held.setdefault(kind, deque())

    def release(self, kind: type) -> None:
        """Do all that was held of this kind, and no longer hold it."""
        waiting = self.held.pop(kind)
        while waiting:
            self._do(waiting.popleft())
        self._run()

    def end_flush(self, failing: Sequence[str] = ()) -> None:
        """The flush under way ends; for partitions named `topic/0` it fails."""
        self._do_flush(self.held[FlushFiles].popleft(), failing)
        self._run()

    def end_cold_read(self, error: StorageError | None = None) -> None:
        """The oldest cold read comes back."""
        effect = self.held[ReadCold].popleft()
        if error is None:
            self._do(effect)
        else:
            self._events.append(ColdRead(effect.token, error))
        self._run()

    def answer_commit(self, error: StoreError | None = None, *, applied: bool = True) -> None:
        """The oldest held commit is carried out and answered, or fails."""
        effect = self.held[CommitMetadata].popleft()
        if error is None:
            self._do(effect)
        else:
            if applied and isinstance(error, AmbiguousError):
                self.store.commit(effect.ops, effect.ifs)
                self._tell()
            self._events.append(MetadataCommitted(effect.token, error))
        self._run()

    def refuse_commit(self) -> None:
        """The oldest held commit fails, and nothing was applied."""
        self.answer_commit(UnavailableError("the store is away"))

    def change_store(self, *ops: Op) -> None:
        """Somebody else changes the metadata; the broker hears of it."""
        self.store.commit(ops)
        self._tell()
        self._run()

    def end_opening(self, error: StorageError | None = None) -> None:
        """The log that was asked for first is open, or cannot be opened."""
        effect = self.held[OpenLog].popleft()
        if error is None:
            self._do(effect)
        else:
            self._events.append(LogOpened(effect.key, error))
        self._run()

    def waiting(self, kind: type) -> int:
        """How many effects of this kind are held."""
        return len(self.held[kind])

    # What is there

    def partition(self, place: Place) -> Partition:
        return self.broker.catalog.partitions[place.id, place.number]

    def log(self, place: Place) -> Log:
        return self.partition(place).log

    def offsets_place(self, number: int) -> Place:
        """A partition of `__offsets`."""
        return Place(self.broker.catalog.by_name[OFFSETS_TOPIC].id, number)

    def flip(self, place: Place, offset: int) -> None:
        """Damage the batch that holds an offset."""
        segment = self.log(place).segment_of(offset)
        file = segment.file
        position = 0
        while True:
            head = file.read(position, 12)
            base, size = int.from_bytes(head[:8], "big"), int.from_bytes(head[8:], "big")
            following = file.read(position + size, 8)
            end = int.from_bytes(following, "big") if len(following) == 8 else 0
            if base <= offset and (offset < end or position + size >= segment.size):
                self.disk.flip(segment.path, position + size - 1)
                return
            position += size

    # How it goes on

    def _draw_id(self) -> bytes:
        return b"topic-%010d" % next(self._ids)

    @property
    def _now(self) -> Now:
        return Now(self.ns, self.ms)

    def _feed(self, event: Event) -> None:
        self._carry_out(self.broker.handle(self._now, event))

    def _run(self) -> None:
        """Feed what has happened until nothing does."""
        while self._events:
            self._feed(self._events.popleft())

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, FlushFiles):
                self.flushes += 1
            if type(effect) in self.held:
                self.held[type(effect)].append(effect)
            else:
                self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._deliver(effect)
            case Publish(frames):
                self.published.append([bytes(frame) for frame in frames])
            case AdmitSubject(subject):
                self.admitted.append(subject)
            case FlushFiles():
                self._do_flush(effect, ())
            case ReadCold(token, place):
                try:
                    data: bytes | StorageError = place.file.read(place.position, place.size)
                except StorageError as error:
                    data = error
                self._events.append(ColdRead(token, data))
            case OpenLog(key, name, config, is_damaged):
                if is_damaged:
                    quarantine(self.disk, key)
                    self.checkpoints.pop(key.folder, None)
                checkpoint = self.checkpoints.get(key.folder)
                log: Log | StorageError
                try:
                    log = open_log(self.disk, key, config, self.storage, checkpoint)
                    log.name = name
                except StorageError as error:
                    log = error
                self._events.append(LogOpened(key, log))
            case DeleteLog(key):
                self._delete(key.folder)
                self._events.append(LogDeleted(key))
            case WriteFormat(form):
                write_format(self.disk, form)
                self._events.append(FormatWritten(None))
            case Register(document):
                key = KEYS.live(1)
                self.store.commit([Delete(key), Delete(KEYS.controller)])
                done = self.store.commit([Put(key, document.encode())])
                self._tell()
                self.epoch = done.revision
                self._events.append(Registered(done.revision))
            case Unregister():
                pass
            case CommitMetadata(token, ops, ifs):
                ops = [
                    Put(op.key, op.value) if isinstance(op, Put) and op.lease == OWN_LEASE else op
                    for op in ops
                ]
                outcome: Commit = self.store.commit(ops, ifs)
                if self.answer_first:
                    self._events.append(MetadataCommitted(token, outcome))
                    self._tell()
                else:
                    self._tell()
                    self._events.append(MetadataCommitted(token, outcome))

    def _deliver(self, send: Send) -> None:
        frames = [bytes(frame) for frame in send.frames]
        self.sent.append(Send(send.route, frames))
        header = frames[1] if frames[0] == b"" else frames[0]
        correlation = decode_reply_header(header)[2]
        answer = self._expected.get(correlation)
        if answer is not None:
            answer.frames.append(frames)

    def _do_flush(self, effect: FlushFiles, failing: Sequence[str]) -> None:
        done = []
        for log, flush in effect.flushes:
            error: StorageError | None = BROKEN if log.name in failing else None
            if error is None:
                try:
                    self._sync(flush)
                except StorageError as found:
                    error = found
            done.append((log, flush, error))
        self._events.append(FlushEnded(done))

    def _sync(self, flush: Any) -> None:
        for file in dict.fromkeys(flush.files):
            file.sync()
        for folder in flush.folders:
            self.disk.sync_directory(folder)

    def _delete(self, folder: str) -> None:
        self.deleted.append(folder)
        self.checkpoints.pop(folder, None)
        for name in self.disk.list(folder):
            self.disk.remove(f"{folder}/{name}")
        self.disk.remove(folder)

    def _tell(self) -> None:
        for batch in self.store.events(KEYS.prefix, self._told + 1):
            self._told = batch.revision
            self._events.append(MetadataChanged(batch))


def _name(error: Any) -> str:
    return str(error["name"])
