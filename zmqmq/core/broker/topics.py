"""METADATA, INIT_PRODUCER and topic administration.

Making a topic is answered when its partitions are open, so that whoever made it can produce to it
at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from zmqmq.core.broker.admin_request import AdminRequest
from zmqmq.core.broker.catalog import Catalog, Leadership, Topic
from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.making import LOOK_NS, Making, changed_meanwhile
from zmqmq.core.broker.metadata import Commits, store_refusal
from zmqmq.core.broker.options import ServingOptions
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.producer_ids import ProducerIds
from zmqmq.core.broker.sessions import Session
from zmqmq.core.broker.timers import Timers
from zmqmq.core.control.image import Image
from zmqmq.core.control.placement import candidates, default_replicas
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import Commit, StoreError
from zmqmq.core.meta.values import TopicDocument
from zmqmq.core.replication.vouching import Place
from zmqmq.core.security.authorize import Action, authorize
from zmqmq.errors import Code, WireError, error_to_wire, refusal
from zmqmq.model.names import INTERNAL_PREFIX, OFFSETS_TOPIC, check_topic_name
from zmqmq.model.now import Now
from zmqmq.model.topics import TopicConfig
from zmqmq.wire.apis import REQUESTS, Api
from zmqmq.wire.frame import Fields
from zmqmq.wire.schema import malformed, reader

_read_metadata = reader(REQUESTS[Api.METADATA])
_read_create = reader(REQUESTS[Api.CREATE_TOPIC])
_read_alter = reader(REQUESTS[Api.ALTER_TOPIC])
_read_delete = reader(REQUESTS[Api.DELETE_TOPIC])

TIMEOUT_NS: Final = 60 * 10**9


class Topics:
    """Says what topics there are, has them made, changed and removed; hands out producer ids."""

    def __init__(
        self,
        catalog: Catalog,
        image: Image,
        outbox: Outbox,
        timers: Timers,
        commits: Commits,
        identity: Identity,
        keys: KeySpace,
        options: ServingOptions,
        topic_defaults: TopicConfig,
        making: Making,
    ) -> None:
        self._catalog = catalog
        self._image = image
        self._outbox = outbox
        self._timers = timers
        self._identity = identity
        self._options = options
        self._defaults = topic_defaults
        self._making = making
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
            if not self._identity.epoch:
                # What is begun in the name of nobody would be taken for left behind.
                raise refusal(
                    Code.COORDINATOR_LOADING,
                    "this broker is not registered yet",
                    {"retry_after_ms": 200},
                )
            check(session, request, fields)
        except WireError as error:
            request.refuse(error)
            return
        if not request.done:
            self._timers.add(now.ns + TIMEOUT_NS, request)

    def partition_served(self, topic_id: bytes) -> None:
        """A partition has become available, or is known never to be."""
        waiting = self._awaited.get(topic_id)
        topic = self._catalog.by_id.get(topic_id)
        if not waiting or topic is None or topic.state != "ready":
            return
        # What is served stays so, so each look goes on where the last one stopped.
        for number in range(self._served.get(topic_id, 0), topic.partition_count):
            if not self._is_served((topic_id, number)):
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

    def _await_served(
        self, topic_id: bytes, request: AdminRequest, fields: Fields, revision: int
    ) -> None:
        self._awaited.setdefault(topic_id, []).append((request, fields, revision))
        self.partition_served(topic_id)

    def _is_served(self, place: Place) -> bool:
        """Whether a partition is open, if it is to be led here; others have theirs to open."""
        if place in self._catalog.partitions or place in self._catalog.unopened:
            return True
        known = self._image.partitions.get(place)
        me = Member(self._identity.broker_id, self._identity.epoch)
        return known is not None and known.document.leader != me

    def gone(self, topic: Topic) -> None:
        """A topic was deleted: nobody needs to wait for its partitions."""
        self._served.pop(topic.id, None)
        for request, _, _ in self._awaited.pop(topic.id, ()):
            request.refuse(refusal(Code.UNKNOWN_TOPIC, f"topic {topic.name!r} was deleted"))
        if topic.name == OFFSETS_TOPIC and self._identity.is_alone:
            self._making.make_own()  # a crash had stopped the making

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
                if name == OFFSETS_TOPIC and name not in self._image.names:
                    # Made when somebody first needs it: by then the cluster is complete.
                    self._making.make_own()
                    raise refusal(
                        Code.COORDINATOR_LOADING, "it is being made", {"retry_after_ms": 200}
                    )
                topic = self._catalog.topic(name)
                if not authorize(session.principal, Action.DESCRIBE, "topic", name):
                    raise refusal(Code.DENIED, f"may not describe {name!r}")
            except WireError as error:
                topics.append({"name": name, "error": error_to_wire(error)})
                continue
            leaders = [topic.leaders.get(n, Leadership()) for n in range(topic.partition_count)]
            topics.append({"name": name, "id": topic.id, "partitions": leaders})
        brokers = [
            [broker_id, known.live.endpoints.get("clients"), known.live.rack]
            for broker_id, known in sorted(self._image.brokers.items())
            if known.live is not None
        ]
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
        if existing is not None and self._making.is_given_up(existing.id):
            raise refusal(
                Code.COORDINATOR_LOADING,
                f"topic {name!r} could not be made, and what there is of it is being removed",
                {"retry_after_ms": LOOK_NS // 1_000_000},
            )
        if (
            existing is not None
            and existing.state == "creating"
            and not self._making.is_under_way(existing.id)
        ):
            raise refusal(
                Code.COORDINATOR_LOADING,
                f"topic {name!r} is being made by another broker; it may yet fail",
                {"retry_after_ms": 200},
            )
        if existing is not None:
            raise self._exists(existing)
        brokers = len(candidates(self._image))
        replicas = replicas or default_replicas(brokers)
        if replicas > brokers:
            raise refusal(
                Code.INVALID_CONFIG,
                f"topic {name!r} wants {replicas} replicas, and {brokers} broker(s) can take one",
            )
        config, overrides = self._configured(changes or {})
        _check_min_isr(name, config, replicas)
        if check_only:
            request.finish(_created(b"\0" * 16, partitions, replicas, config))
            return

        def made(topic_id: bytes, outcome: int | WireError) -> None:
            if isinstance(outcome, WireError):
                request.refuse(outcome)
            else:
                fields = _created(topic_id, partitions, replicas, config)
                self._await_served(topic_id, request, fields, outcome)

        self._making.make(name, partitions, replicas, overrides, config, made)

    def _configured(self, settings: Mapping[Any, Any]) -> tuple[TopicConfig, dict[str, int | str]]:
        """What settings come to, and those among them that are not the broker's default."""
        self._defaults.changed(settings)  # names what is wrong, also with those that are nil
        given = {name: value for name, value in settings.items() if value is not None}
        config = self._defaults.changed(given)
        return config, {n: v for n, v in config.as_map().items() if n in given}

    # ALTER_TOPIC, DELETE_TOPIC

    def _alter(self, session: Session, request: AdminRequest, fields: Fields) -> None:
        name, partitions, changes = _read_alter(fields)
        topic = self._catalog.topic(name)
        self._authorize(session, Action.ALTER, name)
        if name.startswith(INTERNAL_PREFIX):
            raise refusal(Code.DENIED, f"topic {name!r} is the broker's own")
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

        def altered(_now: Now, outcome: Commit | StoreError) -> None:
            if isinstance(outcome, StoreError):
                request.refuse(store_refusal(outcome))
            elif not outcome.ok:
                request.refuse(changed_meanwhile(name))
            else:
                answer = {"partitions": count, "config": config.as_map()}
                self._await_served(topic.id, request, answer, outcome.revision)

        self._making.grow(after, topic.revision, new, config, altered)

    def _delete(self, session: Session, request: AdminRequest, fields: Fields) -> None:
        (name,) = _read_delete(fields)
        topic = self._catalog.topic(name)
        self._authorize(session, Action.DELETE, name)
        if name.startswith(INTERNAL_PREFIX):
            raise refusal(Code.DENIED, f"topic {name!r} is the broker's own")

        def removed(_now: Now, outcome: Commit | StoreError) -> None:
            if isinstance(outcome, StoreError):
                request.refuse(store_refusal(outcome))
            elif not outcome.ok:
                request.refuse(changed_meanwhile(name))
            else:
                request.finish({})

        self._making.remove(topic.id, self._image.topics[topic.id], removed)

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
