"""METADATA, INIT_PRODUCER and topic administration.

A topic is made in as many commits as its partitions need: marked `creating` first and `ready`
last, so that a start after a crash finds what was left half done and removes it. It is answered
when its partitions are open, so that whoever made a topic can produce to it at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from zmqmq.core.broker.admin_request import AdminRequest
from zmqmq.core.broker.catalog import Catalog, Topic
from zmqmq.core.broker.events import Now
from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.metadata import Commits, store_refusal
from zmqmq.core.broker.options import ServingOptions
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.producer_ids import ProducerIds
from zmqmq.core.broker.sessions import Session
from zmqmq.core.broker.timers import Timers
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import Commit, Delete, If, Op, Put, StoreError
from zmqmq.core.meta.values import (
    PartitionDocument,
    TopicDocument,
    TopicNameDocument,
    TopicState,
)
from zmqmq.core.security.authorize import Action, authorize
from zmqmq.errors import Code, WireError, error_to_wire, refusal
from zmqmq.model.limits import BATCH_BYTES_MAX
from zmqmq.model.names import INTERNAL_PREFIX, OFFSETS_TOPIC, check_topic_name
from zmqmq.model.topics import TopicConfig
from zmqmq.wire.apis import REQUESTS, Api
from zmqmq.wire.frame import Fields
from zmqmq.wire.schema import malformed, reader

_read_metadata = reader(REQUESTS[Api.METADATA])
_read_create = reader(REQUESTS[Api.CREATE_TOPIC])
_read_alter = reader(REQUESTS[Api.ALTER_TOPIC])
_read_delete = reader(REQUESTS[Api.DELETE_TOPIC])

TIMEOUT_NS: Final = 60 * 10**9
_FIXED: Final = frozenset({"flush"})
"""Settings that a topic keeps for life."""

OFFSETS_CONFIG: Final[Mapping[str, int | str]] = {
    "cleanup": "compact",
    "segment_bytes": 4 * 1024 * 1024,
    "retention_ms": 0,
    "retention_bytes": 0,
    "capacity_bytes": 0,
    "capacity_records": 0,
    "batch_bytes_max": BATCH_BYTES_MAX,
}
"""Whatever the defaults for topics are: no limit of theirs may refuse or drop a position."""


class Topics:
    """Makes, changes and removes topics; hands out producer ids."""

    def __init__(
        self,
        catalog: Catalog,
        outbox: Outbox,
        timers: Timers,
        commits: Commits,
        identity: Identity,
        keys: KeySpace,
        options: ServingOptions,
        topic_defaults: TopicConfig,
        draw_id: Callable[[], bytes],
    ) -> None:
        self._catalog = catalog
        self._outbox = outbox
        self._timers = timers
        self._commits = commits
        self._identity = identity
        self._keys = keys
        self._options = options
        self._defaults = topic_defaults
        self._draw_id = draw_id
        self._making: dict[bytes, None] = {}
        """Topics that are being made just now."""
        self._awaited: dict[bytes, list[tuple[AdminRequest, Fields, int]]] = {}
        """Who waits for all partitions of a topic to be open, as of which revision."""
        self._served: dict[bytes, int] = {}
        """Of a topic in `_awaited`: partitions below this number are open."""
        self._producer_ids = ProducerIds(commits, keys)

    def handle(
        self, now: Now, session: Session, api: Api, correlation: int, fields: Fields
    ) -> None:
        """Answer, or begin to."""
        if api is Api.METADATA:
            self._metadata(session, correlation, fields)
            return
        check = {
            Api.INIT_PRODUCER: self._init_producer,
            Api.CREATE_TOPIC: self._create,
            Api.ALTER_TOPIC: self._alter,
            Api.DELETE_TOPIC: self._delete,
        }[api]
        request = AdminRequest(self._outbox, session, api, correlation)
        try:
            check(session, request, fields)
        except WireError as error:
            request.refuse(error)
            return
        if not request.done:
            self._timers.add(now.ns + TIMEOUT_NS, request)

    def begin(self) -> None:
        """After a start: finish what was begun, and make the broker's own topics."""

        def removed_own(_now: Now, outcome: Commit | StoreError) -> None:
            if isinstance(outcome, StoreError):
                raise outcome
            self._make_own()

        own = self._catalog.by_name.get(OFFSETS_TOPIC)
        for topic in list(self._catalog.by_id.values()):
            if topic.state != "ready":
                self._remove(topic, removed_own if topic is own else lambda _now, _outcome: None)
        if own is None:
            self._make_own()

    def _make_own(self) -> None:
        config = self._defaults.changed(OFFSETS_CONFIG)
        count, overrides = self._options.offsets_partitions, dict(OFFSETS_CONFIG)
        self._make(OFFSETS_TOPIC, count, 1, overrides, config, None)

    def partition_served(self, topic_id: bytes) -> None:
        """A partition has become available, or is known never to be."""
        waiting = self._awaited.get(topic_id)
        topic = self._catalog.by_id.get(topic_id)
        if not waiting or topic is None or topic.state != "ready":
            return
        # What is served stays so, so each look goes on where the last one stopped.
        for number in range(self._served.get(topic_id, 0), topic.partition_count):
            place = (topic_id, number)
            if place not in self._catalog.partitions and place not in self._catalog.unopened:
                self._served[topic_id] = number
                return
        del self._awaited[topic_id]
        self._served.pop(topic_id, None)
        for entry in waiting:
            request, fields, revision = entry
            if revision <= topic.revision:
                request.finish(fields)
            else:
                self._awaited.setdefault(topic_id, []).append(entry)

    def gone(self, topic: Topic) -> None:
        """A topic was deleted: nobody needs to wait for its partitions."""
        self._served.pop(topic.id, None)
        for request, _, _ in self._awaited.pop(topic.id, ()):
            request.refuse(refusal(Code.UNKNOWN_TOPIC, f"topic {topic.name!r} was deleted"))

    # METADATA, INIT_PRODUCER

    def _metadata(self, session: Session, correlation: int, fields: Fields) -> None:
        (names,) = _read_metadata(fields)
        if names is None:
            names = sorted(n for n, t in self._catalog.by_name.items() if t.state == "ready")
        if any(type(name) is not str for name in names):
            raise malformed("field 'topics' holds something that is not str")
        topics: list[Fields] = []
        for name in dict.fromkeys(names):
            try:
                topic = self._catalog.topic(name)
                if not authorize(session.principal, Action.DESCRIBE, "topic", name):
                    raise refusal(Code.DENIED, f"may not describe {name!r}")
            except WireError as error:
                topics.append({"name": name, "error": error_to_wire(error)})
                continue
            leaders = [topic.leaders.get(n, (None, 0)) for n in range(topic.partition_count)]
            topics.append({"name": name, "id": topic.id, "partitions": leaders})
        brokers = [[self._identity.broker_id, self._identity.endpoints["clients"], None]]
        self._outbox.reply(
            session, Api.METADATA, correlation, {"brokers": brokers, "topics": topics}
        )

    def _init_producer(self, session: Session, request: AdminRequest, fields: Fields) -> None:
        del session, fields
        self._producer_ids.want(request)

    # CREATE_TOPIC

    def _create(self, session: Session, request: AdminRequest, fields: Fields) -> None:
        name, partitions, replicas, changes, check_only = _read_create(fields)
        check_topic_name(name)
        self._authorize(session, Action.CREATE, name)
        self._check_room(partitions)
        existing = self._catalog.by_name.get(name)
        is_stuck = (
            existing is not None
            and existing.state == "creating"
            and existing.id not in self._making
        )
        if existing is not None and not is_stuck:
            raise self._exists(existing)
        replicas = replicas or 1
        if replicas > 1:
            raise refusal(
                Code.INVALID_CONFIG,
                f"topic {name!r} wants {replicas} replicas, and there is 1 broker",
            )
        config, overrides = self._configured(changes or {})
        _check_min_isr(name, config, replicas)
        if check_only:
            request.finish(_created(b"\0" * 16, partitions, replicas, config))
            return

        def removed(_now: Now, outcome: Commit | StoreError) -> None:
            if isinstance(outcome, StoreError):
                request.refuse(store_refusal(outcome))
            else:
                self._make(name, partitions, replicas, overrides, config, request)

        if existing is None:
            self._make(name, partitions, replicas, overrides, config, request)
        else:
            # The store failed whoever began to make it: as a start would, remove what there is.
            self._remove(existing, removed)

    def _configured(self, settings: Mapping[Any, Any]) -> tuple[TopicConfig, dict[str, int | str]]:
        """What settings come to, and those among them that are not the broker's default."""
        self._defaults.changed(settings)  # names what is wrong, also with those that are nil
        given = {name: value for name, value in settings.items() if value is not None}
        config = self._defaults.changed(given)
        return config, {n: v for n, v in config.as_map().items() if n in given}

    def _make(
        self,
        name: str,
        partitions: int,
        replicas: int,
        overrides: dict[str, int | str],
        config: TopicConfig,
        request: AdminRequest | None,
    ) -> None:
        topic_id = self._draw_id()
        self._making[topic_id] = None
        ops = self._partition_ops(topic_id, range(partitions), config, replicas)

        def document(state: TopicState) -> Put:
            return Put(
                self._keys.topic(topic_id),
                TopicDocument(
                    name=name,
                    topic_id=topic_id,
                    partitions=partitions,
                    replicas=replicas,
                    config=overrides,
                    state=state,
                ).encode(),
            )

        def made(_now: Now, outcome: Commit | StoreError) -> None:
            del self._making[topic_id]
            if isinstance(outcome, StoreError):
                if request is None:
                    raise outcome
                request.refuse(store_refusal(outcome))
            elif not outcome.ok:
                assert request is not None
                request.refuse(refusal(Code.TOPIC_EXISTS, f"topic {name!r} exists already"))
            elif request is not None:
                fields = _created(topic_id, partitions, replicas, config)
                self._awaited.setdefault(topic_id, []).append((request, fields, outcome.revision))
                self.partition_served(topic_id)

        def named(now: Now, outcome: Commit | StoreError) -> None:
            if isinstance(outcome, Commit) and outcome.ok:
                self._commits.begin_all(ops, [document("ready")], made)
            else:
                made(now, outcome)

        name_key = self._keys.topic_name(name)
        claim = Put(name_key, TopicNameDocument(topic_id=topic_id).encode())
        self._commits.begin([document("creating"), claim], [If(name_key, "create", "==", 0)], named)

    def _partition_ops(
        self, topic_id: bytes, numbers: Iterable[int], config: TopicConfig, replicas: int
    ) -> list[Op]:
        me = Member(self._identity.broker_id, self._identity.epoch)
        document = PartitionDocument(
            replicas=(me.broker_id,),
            adding=(),
            removing=(),
            leader=me,
            leader_epoch=1,
            isr=(me,),
            elr=(),
            last_leader=None,
            min_isr=config.min_isr or max(replicas - 1, 1),
            recovering=False,
            rec=0,
            write_id=f"{me.broker_id}.{me.broker_epoch}",
            flush="fsync" if config.flush == "fsync" else "replicated",
        ).encode()
        return [Put(self._keys.partition(topic_id, number), document) for number in numbers]

    # ALTER_TOPIC, DELETE_TOPIC

    def _alter(self, session: Session, request: AdminRequest, fields: Fields) -> None:
        name, partitions, changes = _read_alter(fields)
        topic = self._catalog.topic(name)
        self._authorize(session, Action.ALTER, name)
        if name.startswith(INTERNAL_PREFIX):
            raise refusal(Code.DENIED, f"topic {name!r} is the broker's own")
        fixed = _FIXED & set(changes or {})
        if fixed:
            raise refusal(
                Code.INVALID_CONFIG,
                f"{', '.join(sorted(fixed))} cannot be changed later; make another topic",
            )
        overrides: dict[str, Any] = {**topic.overrides, **(changes or {})}
        config, kept = self._configured(overrides)
        _check_min_isr(name, config, topic.replicas)
        count = partitions or topic.partition_count
        if count < topic.partition_count:
            raise refusal(
                Code.INVALID_CONFIG,
                f"topic {name!r} has {topic.partition_count} partitions; {count} is fewer, and "
                "partitions cannot be removed",
            )
        self._check_room(count - topic.partition_count)
        # Those that are there already were left by a growth that came to nothing. They keep their
        # documents: an epoch that fell would be below that of the log.
        new = [n for n in range(topic.partition_count, count) if n not in topic.leaders]
        after = TopicDocument(
            name=name,
            topic_id=topic.id,
            partitions=count,
            replicas=topic.replicas,
            config=kept,
            state="ready",
        )
        key, revision = self._keys.topic(topic.id), topic.revision

        def altered(_now: Now, outcome: Commit | StoreError) -> None:
            if isinstance(outcome, StoreError):
                request.refuse(store_refusal(outcome))
            elif not outcome.ok:
                request.refuse(
                    refusal(Code.CONFLICT, f"topic {name!r} was changed meanwhile; try again")
                )
            else:
                answer = {"partitions": count, "config": config.as_map()}
                self._awaited.setdefault(topic.id, []).append((request, answer, outcome.revision))
                self.partition_served(topic.id)

        def prepared(now: Now, outcome: Commit | StoreError) -> None:
            if isinstance(outcome, StoreError):
                altered(now, outcome)
                return
            # Partitions beyond the count that a crash leaves are taken over by the next ALTER.
            condition = If(key, "mod", "==", revision)
            self._commits.begin([Put(key, after.encode())], [condition], altered)

        ops = self._partition_ops(topic.id, new, config, topic.replicas)
        self._commits.begin_all(ops, (), prepared)

    def _delete(self, session: Session, request: AdminRequest, fields: Fields) -> None:
        (name,) = _read_delete(fields)
        topic = self._catalog.topic(name)
        self._authorize(session, Action.DELETE, name)
        if name.startswith(INTERNAL_PREFIX):
            raise refusal(Code.DENIED, f"topic {name!r} is the broker's own")

        def removed(_now: Now, outcome: Commit | StoreError) -> None:
            if isinstance(outcome, StoreError):
                request.refuse(store_refusal(outcome))
            else:
                request.finish({})

        self._remove(topic, removed)

    def _remove(self, topic: Topic, then: Callable[[Now, Commit | StoreError], None]) -> None:
        """Mark it, remove its partitions, then itself: a start goes on where a crash stopped."""
        key = self._keys.topic(topic.id)
        marked = TopicDocument(
            name=topic.name,
            topic_id=topic.id,
            partitions=topic.partition_count,
            replicas=topic.replicas,
            config=topic.overrides,
            state="deleting",
        )
        numbers = sorted({*range(topic.partition_count), *topic.leaders})
        deletes: list[Op] = [Delete(self._keys.partition(topic.id, n)) for n in numbers]

        def go_on(now: Now, outcome: Commit | StoreError) -> None:
            if isinstance(outcome, StoreError):
                then(now, outcome)
            else:
                self._commits.begin_all(deletes, [Delete(key)], then)

        ops: list[Op] = [Put(key, marked.encode())]
        if self._catalog.by_name.get(topic.name) is topic:
            ops.append(Delete(self._keys.topic_name(topic.name)))
        self._commits.begin(ops, (), go_on)

    def _authorize(self, session: Session, action: Action, name: str) -> None:
        if not authorize(session.principal, action, "topic", name):
            raise refusal(Code.DENIED, f"may not {action.value} topic {name!r}")

    def _check_room(self, more: int) -> None:
        count = sum(topic.partition_count for topic in self._catalog.by_id.values())
        if count + more > self._options.partitions_max:
            raise refusal(
                Code.INVALID_CONFIG,
                f"there are {count} partitions and serving.partitions_max is "
                f"{self._options.partitions_max}; {more} more are too many",
            )

    def _exists(self, topic: Topic) -> WireError:
        hints = {"id": topic.id, "partitions": topic.partition_count}
        return refusal(Code.TOPIC_EXISTS, f"topic {topic.name!r} exists already", hints)


def _created(topic_id: bytes, partitions: int, replicas: int, config: TopicConfig) -> Fields:
    return {
        "id": topic_id,
        "partitions": partitions,
        "replicas": replicas,
        "config": config.as_map(),
    }


def _check_min_isr(name: str, config: TopicConfig, replicas: int) -> None:
    if config.min_isr > replicas:
        raise refusal(
            Code.INVALID_CONFIG,
            f"topic {name!r} has {replicas} replica(s); min_isr {config.min_isr} could never be "
            "reached",
        )
