"""The broker as one machine: events in, effects out.

It owns its parts and passes events between them; they do not call each other except as their
constructors say. `runtime/server.py` feeds it the real world. A request goes

    frames -> header -> session -> the part that answers its API

and every refusal on the way becomes an answer, so nothing that a client sends can make `handle`
raise. What it raises nevertheless is a broken invariant, and the process must stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, assert_never

from zmqmq.core.broker.catalog import Catalog
from zmqmq.core.broker.describe import Describing
from zmqmq.core.broker.events import (
    BurstEnded,
    ColdRead,
    Effect,
    Event,
    FlushEnded,
    LogOpened,
    Measured,
    MetadataChanged,
    MetadataCommitted,
    Now,
    Received,
    RouteLost,
    Send,
    Ticked,
)
from zmqmq.core.broker.fetch import Fetching
from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.metadata import Commits
from zmqmq.core.broker.offsets import Offsets
from zmqmq.core.broker.options import ServingOptions
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.ownership import Ownership
from zmqmq.core.broker.produce import Producing
from zmqmq.core.broker.sessions import REQUESTS_MAX, Session, Sessions
from zmqmq.core.broker.timers import Timers
from zmqmq.core.broker.topics import Topics
from zmqmq.core.meta.keys import KeySpace, PartitionKey, TopicKey
from zmqmq.core.meta.store import KV, Batch
from zmqmq.core.meta.store import Event as MetadataEvent
from zmqmq.core.replication.partition import Partition
from zmqmq.core.security.authorize import ANONYMOUS
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import Flush, Log, LogKey
from zmqmq.errors import (
    Code,
    ProtocolError,
    StorageError,
    WireError,
    error_to_wire,
    refusal,
)
from zmqmq.model.limits import (
    BATCH_BYTES_MAX,
    BATCHES_IN_FLIGHT_MAX,
    FRAMES_MAX,
    INTEGER_MAX,
    REPLY_BYTES_MAX,
    REQUEST_BYTES_MAX,
)
from zmqmq.model.names import OFFSETS_TOPIC
from zmqmq.model.topics import TopicConfig
from zmqmq.wire.apis import COMMON, ERROR, REQUESTS, Api
from zmqmq.wire.frame import VERSION, Fields, decode_header, encode_header
from zmqmq.wire.schema import reader

_read_hello = reader(REQUESTS[Api.HELLO])
_read_ping = reader(REQUESTS[Api.PING])
_read_common = reader(COMMON)
_APIS: Final = {int(api): api for api in REQUESTS}
_WITHOUT_BODY: Final = frozenset(_APIS.values()) - {Api.PRODUCE}


class Broker:
    """Lives as long as its process."""

    def __init__(
        self,
        identity: Identity,
        keys: KeySpace,
        options: ServingOptions,
        topic_defaults: TopicConfig,
        draw_id: Callable[[], bytes],
    ) -> None:
        self.identity = identity
        self.keys = keys
        self.options = options
        self.catalog = Catalog()
        self.sessions = Sessions(options)
        self.outbox = Outbox(self.sessions)
        self.timers = Timers()
        self.producing = Producing(self.catalog, self.outbox, self.timers, options)
        self.fetching = Fetching(self.catalog, self.outbox, self.timers, self.sessions, options)
        self.offsets = Offsets(self.catalog, self.outbox, self.timers, self.producing)
        self.commits = Commits(self.outbox)
        self.ownership = Ownership(
            self.catalog,
            self.outbox,
            self.commits,
            identity,
            keys,
            topic_defaults,
            self._failed,
        )
        self.topics = Topics(
            self.catalog,
            self.outbox,
            self.timers,
            self.commits,
            identity,
            keys,
            options,
            topic_defaults,
            draw_id,
        )
        self.describing = Describing(
            self.catalog,
            self.outbox,
            self.sessions,
            self.producing,
            self.fetching,
            self.offsets,
            identity,
        )
        self.is_draining = False
        self.requests = 0

    def handle(self, now: Now, event: Event) -> Sequence[Effect]:
        """Take one event in; say what should be done about it."""
        match event:
            case Received(route, frames):
                self._receive(now, route, frames)
            case BurstEnded():
                self._end_burst()
            case FlushEnded(flushes):
                self._flush_ended(flushes)
            case ColdRead(token, data):
                failed = self.fetching.end_cold(token, data)
                if failed is not None:
                    self._failed(failed, str(failed.log.failed))
            case RouteLost(route):
                session = self.sessions.get(route)
                if session is not None:
                    self._close(session)
            case LogOpened(key, log):
                self._log_opened(key, log)
            case MetadataChanged(batch):
                self._metadata_changed(now, batch)
            case MetadataCommitted(token, outcome):
                self.commits.end(now, token, outcome)
            case Ticked():
                self._tick(now)
            case Measured(values):
                self.describing.measures = values
            case _:
                assert_never(event)
        return self.outbox.take()

    def start(self, items: Sequence[KV], revision: int) -> Sequence[Effect]:
        """Take over the metadata as it stands, in the order of the keys, and lead what is ours.

        Done when `is_started`; until then there are no listeners.
        """
        topics = [kv for kv in items if isinstance(self.keys.parse(kv.key), TopicKey)]
        partitions = [kv for kv in items if isinstance(self.keys.parse(kv.key), PartitionKey)]
        events = tuple(MetadataEvent("put", kv, None) for kv in (*topics, *partitions))
        self.ownership.changed(Batch(revision, events))
        self.ownership.claim(partitions)
        self.topics.begin()
        return self.outbox.take()

    @property
    def is_started(self) -> bool:
        """Whether everything that is led here is served, the broker's own topics included."""
        own = self.catalog.by_name.get(OFFSETS_TOPIC)
        return self.ownership.is_settled and own is not None and own.state == "ready"

    def drain(self) -> None:
        """Take no new work; what was begun is finished."""
        self.is_draining = True

    @property
    def is_idle(self) -> bool:
        """Whether everything that was taken is on disk and answered."""
        return self.producing.is_idle

    def _receive(self, now: Now, route: bytes, frames: list[Buffer]) -> None:
        self.requests += 1
        api_number, correlation = 0, 0
        try:
            self._check_frames(frames)
            try:
                api_number, version, correlation, fields = decode_header(bytes(frames[0]))
            except ProtocolError as error:
                raise refusal(Code.MALFORMED, str(error)) from None
            if version != VERSION:
                raise refusal(
                    Code.UNSUPPORTED_VERSION,
                    f"protocol version {version} is not spoken here; {VERSION} is",
                    {"min": VERSION, "max": VERSION},
                )
            api = _APIS.get(api_number)
            if api is None:
                raise refusal(Code.UNKNOWN_API, f"there is no API {api_number}")
            if len(frames) > 1 and api in _WITHOUT_BODY:
                raise refusal(Code.MALFORMED, f"{api.name} has no body frames")
            if api is Api.HELLO:
                self._hello(now, route, correlation, fields)
                return
            session = self.sessions.of(route, now.ns)
            self._common(now, session, fields)
            self._dispatch(now, session, api, correlation, fields, frames[1:])
        except WireError as error:
            if api_number == Api.PRODUCE and self._wants_no_answer(frames):
                return
            self.outbox.count(error)
            header = encode_header(api_number, correlation, {ERROR: error_to_wire(error)})
            is_req = len(frames) > 0 and not len(frames[0])
            # A REQ socket shows its owner only what has an empty frame in front.
            self.outbox.emit(Send(route, [b"", header] if is_req else [header]))

    def _check_frames(self, frames: list[Buffer]) -> None:
        if frames and not len(frames[0]):
            raise refusal(
                Code.MALFORMED, "the first frame is empty: use a DEALER socket, not a REQ"
            )
        size = sum(map(len, frames))
        if not frames or len(frames) > FRAMES_MAX or size > REQUEST_BYTES_MAX:
            raise refusal(
                Code.TOO_LARGE,
                f"message has {len(frames)} frames and {size} bytes; the limits are "
                f"{FRAMES_MAX} and {REQUEST_BYTES_MAX}",
            )

    def _wants_no_answer(self, frames: list[Buffer]) -> bool:
        try:
            return decode_header(bytes(frames[0]))[3].get("acks") == 0
        except ProtocolError:
            return False

    def _common(self, now: Now, session: Session, fields: Fields) -> None:
        """What any request may carry (wire.apis.COMMON)."""
        if fields.keys().isdisjoint(COMMON):
            return
        read_bytes, expires_ms, _ = _read_common(fields)
        if read_bytes is not None and self.sessions.note_read(session, read_bytes):
            self.fetching.credit_came(session)
        if expires_ms is not None and expires_ms < now.ms:
            raise refusal(
                Code.DEADLINE_PASSED,
                f"the request was to be carried out before {expires_ms}; it is {now.ms} here",
            )

    def _dispatch(
        self,
        now: Now,
        session: Session,
        api: Api,
        correlation: int,
        fields: Fields,
        bodies: list[Buffer],
    ) -> None:
        if session.waiting >= REQUESTS_MAX:
            raise refusal(
                Code.THROTTLED,
                f"{session.waiting} requests of this session wait; the limit is {REQUESTS_MAX}",
                {"retry_after_ms": 100},
            )
        if self.is_draining and api not in (Api.FETCH, Api.PING, Api.METADATA):
            raise refusal(Code.SHUTTING_DOWN, "the broker is stopping", {"retry_after_ms": 500})
        match api:
            case Api.PRODUCE:
                self.producing.handle(now, session, correlation, fields, bodies)
            case Api.FETCH:
                self.fetching.handle(now, session, correlation, fields)
            case Api.PING:
                (is_last,) = _read_ping(fields)
                self.outbox.reply(session, api, correlation, {"time_ms": now.ms})
                if is_last:
                    self._close(session)
            case Api.OFFSET_COMMIT:
                self.offsets.handle_commit(now, session, correlation, fields)
            case Api.OFFSET_FETCH:
                self.offsets.handle_fetch(session, correlation, fields)
            case Api.LIST_OFFSETS:
                self.offsets.handle_list(session, correlation, fields)
            case Api.DESCRIBE:
                self.describing.handle(now.ms, session, correlation, fields)
            case Api.SUBSCRIBE:
                raise refusal(Code.UNKNOWN_API, "this release does not push yet: use FETCH")
            case _:
                self.topics.handle(now, session, api, correlation, fields)

    def _hello(self, now: Now, route: bytes, correlation: int, fields: Fields) -> None:
        client, oldest, newest, session_id, cluster = _read_hello(fields)
        if not oldest <= VERSION <= newest:
            raise refusal(
                Code.UNSUPPORTED_VERSION,
                f"the client speaks versions {oldest} to {newest}; this broker speaks {VERSION}",
                {"min": VERSION, "max": VERSION},
            )
        if cluster is not None and cluster != self.identity.cluster:
            raise refusal(
                Code.WRONG_CLUSTER,
                f"this broker is of cluster {self.identity.cluster.hex()}, not of {cluster.hex()}",
            )
        new = Session(route, session_id, client, ANONYMOUS, now.ms, now.ns)
        for old in self.sessions.open(new):
            self.fetching.forget(old)
            self.fetching.credit_came(old)
        options = self.options
        self.outbox.reply(
            new,
            Api.HELLO,
            correlation,
            {
                "version": VERSION,
                "server": self.identity.server,
                "cluster": self.identity.cluster,
                "broker": self.identity.broker_id,
                "broker_epoch": self.identity.epoch,
                "principal": new.principal.name,
                "lease_ms": options.session_lease_ms,
                "time_ms": now.ms,
                "endpoints": dict(self.identity.endpoints),
                "limits": {
                    "request_bytes": REQUEST_BYTES_MAX,
                    "reply_bytes": REPLY_BYTES_MAX,
                    "frames": FRAMES_MAX,
                    "batch_bytes": BATCH_BYTES_MAX,
                    "credit_bytes": options.credit_bytes,
                    "in_flight": BATCHES_IN_FLIGHT_MAX,
                    "fetches": options.fetches_max,
                    "integer": INTEGER_MAX,
                },
            },
        )

    def _end_burst(self) -> None:
        moved, failed = self.producing.end_burst()
        for partition, why in failed:
            self._failed(partition, why)
        self._moved(moved)

    def _moved(self, partitions: Sequence[Partition]) -> None:
        """High watermarks have moved: answer who waited for that."""
        for partition in partitions:
            self.producing.commit(partition)
            if partition.topic == OFFSETS_TOPIC:
                self.offsets.commit(partition)
            self.fetching.wake(partition)

    def _flush_ended(self, flushes: Sequence[tuple[Partition, Flush, StorageError | None]]) -> None:
        moved = self.producing.end_flush(flushes)
        for partition, _, error in flushes:
            if error is not None:
                self._failed(partition, str(error))
                self.ownership.failed(partition, str(error))
                self.topics.partition_served(partition.log.key.topic_id)
            elif self.ownership.flushed(partition):
                if partition.topic == OFFSETS_TOPIC:
                    self.offsets.load(partition)
                self.topics.partition_served(partition.log.key.topic_id)
        self._moved(moved)

    def _log_opened(self, key: LogKey, log: Log | StorageError) -> None:
        partition = self.ownership.opened(key, log)
        if partition is None:
            self.topics.partition_served(key.topic_id)
            return
        self.producing.mark_dirty(partition)
        self.producing.flush()

    def _metadata_changed(self, now: Now, batch: Batch) -> None:
        self.ownership.changed(batch)
        deleted, self.ownership.deleted = self.ownership.deleted, []
        for topic in deleted:
            self.offsets.forget_topic(now, topic)
            self.topics.gone(topic)
        for event in batch.events:
            key = self.keys.parse(event.kv.key)
            if isinstance(key, TopicKey):
                self.topics.partition_served(key.topic_id)
        self._end_burst()

    def _failed(self, partition: Partition, why: str) -> None:
        self.producing.drop(partition, why)
        self.offsets.fail(partition, why)
        self.fetching.wake(partition)

    def _close(self, session: Session) -> None:
        self.sessions.close(session)
        self.fetching.forget(session)
        self.fetching.credit_came(session)

    def _tick(self, now: Now) -> None:
        for waiter in self.timers.due(now.ns):
            waiter.expire()
        for session in self.sessions.idle(now.ns):
            self._close(session)
