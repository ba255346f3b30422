"""What a client can ask of the cluster, each operation written once for threads and for asyncio.

An operation is a generator: it yields what to ask the machines, is sent the answer, and returns
the result. `sync.py` and `zmqmq.aio` run them, one waiting, the other awaiting.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar, cast

from zmqmq.client.arguments import place_of
from zmqmq.client.describing import (
    GroupInfo,
    TopicDescription,
    TopicInfo,
    check_like,
    group_info,
    items_of,
    leaders_to_ask,
    take_partitions,
    topic_description,
    topic_info,
)
from zmqmq.client.machines.core import Core
from zmqmq.client.machines.effects import Resolved
from zmqmq.client.machines.lookup import Question
from zmqmq.client.machines.routing import Topic
from zmqmq.client.machines.stream import PlaceKind
from zmqmq.errors import Code, ConflictError, UsageError, ZmqmqError
from zmqmq.model.names import check_group_name
from zmqmq.wire.apis import Api
from zmqmq.wire.frame import Fields

ResultT = TypeVar("ResultT")
PAGES_MAX = 10_000


class Ask(NamedTuple):
    """Run `action(now, promise, *arguments)` on the loop, and send back what it resolves to."""

    action: Callable[..., None]
    arguments: tuple[object, ...] = ()


Operation = Generator[Ask, object, ResultT]


class Operations:
    """The operations of one client."""

    def __init__(self, core: Core) -> None:
        self._core = core

    # Topics

    def create_topic(
        self,
        name: str,
        partitions: int,
        replicas: int,
        config: Mapping[str, object] | None,
        *,
        if_not_exists: bool,
    ) -> Operation[TopicInfo]:
        """Make a topic; with `if_not_exists` an existing one is as good, whatever it is like."""
        fields: Fields = {
            "topic": name,
            "partitions": partitions,
            "replicas": replicas,
            "config": dict(config or {}),
        }
        try:
            reply = yield from self.ask(Api.CREATE_TOPIC, fields)
        except ConflictError as error:
            if error.code is not Code.TOPIC_EXISTS or not if_not_exists:
                raise
            item = yield from self._describe_one(name)
            return topic_info(name, item)
        yield Ask(self._forget, (name,))
        return topic_info(name, reply)

    def ensure_topic(
        self, name: str, partitions: int, replicas: int, config: Mapping[str, object] | None
    ) -> Operation[TopicInfo]:
        """Make a topic, or check that the existing one is as asked for."""
        info = yield from self.create_topic(name, partitions, replicas, config, if_not_exists=True)
        check_like(info, partitions, config)
        return info

    def list_topics(self, *, internal: bool) -> Operation[list[TopicInfo]]:
        """All topics, by name."""
        items = yield from self.describe("topics", None, internal=internal)
        return [topic_info(str(item.get("name")), item) for item in items]

    def describe_all(self, *, internal: bool) -> Operation[list[TopicDescription]]:
        """All topics with their partitions, by name."""
        items = yield from self.describe("topics", None, internal=internal)
        return [topic_description(item) for item in items]

    def describe_topic(self, name: str) -> Operation[TopicDescription]:
        """One topic with its partitions."""
        item = yield from self._describe_one(name)
        return topic_description(item)

    def alter_topic(
        self, name: str, partitions: int | None, config: Mapping[str, object] | None
    ) -> Operation[TopicInfo]:
        """Add partitions, or change settings; None among the settings resets one."""
        fields: Fields = {"topic": name, "config": dict(config or {})}
        if partitions is not None:
            fields["partitions"] = partitions
        yield from self.ask(Api.ALTER_TOPIC, fields)
        yield Ask(self._refresh)
        item = yield from self._describe_one(name)
        return topic_info(name, item)

    def delete_topic(self, name: str) -> Operation[None]:
        """Delete a topic with everything in it."""
        yield from self.ask(Api.DELETE_TOPIC, {"topic": name})
        yield Ask(self._forget, (name,))

    # Offsets and groups

    def topic(self, name: str) -> Operation[Topic]:
        """A topic's metadata. Raises NotFoundError."""
        topic = yield Ask(self._topic, (name,))
        return cast("Topic", topic)

    def offsets(self, topic: str, at: str | int | datetime) -> Operation[dict[int, int]]:
        """The offset of a place in each partition."""
        place = place_of(f"@{at}" if type(at) is int else at)
        if place.kind is PlaceKind.STORED:
            raise UsageError("offsets at 'stored' are a group's; ask consumer.committed()")
        where = place.number if place.kind is PlaceKind.TIME else place.kind.value
        found = yield from self.topic(topic)
        questions = [Question(topic, p, where) for p in range(len(found.leaders))]
        answers = yield from self.look_up(questions)
        return {question.partition: answers[question] for question in questions}

    def look_up(self, questions: Sequence[Question]) -> Operation[dict[Question, int]]:
        """The offset of each question."""
        answers = yield Ask(self._look_up, (questions,))
        return cast("dict[Question, int]", answers)

    def committed(self, group: str, topic: str, partition: int) -> Operation[int | None]:
        """What a group has committed for one partition."""
        found = yield from self.topic(topic)
        fields = {"group": group, "partitions": [(found.id, partition)]}
        reply = yield from self.ask(Api.OFFSET_FETCH, fields)
        for entry in reply.get("offsets") or ():
            if bytes(entry[0]) == found.id and entry[1] == partition:
                return int(entry[2])
        return None

    def groups(self) -> Operation[list[GroupInfo]]:
        """All groups with their committed offsets."""
        items = yield from self.describe("groups", None, internal=False)
        return [group_info(item) for item in items]

    def describe(
        self, kind: str, names: Sequence[str] | None, *, internal: bool
    ) -> Operation[list[dict[str, Any]]]:
        """Every page of DESCRIBE; of topics also what only the leaders of partitions know."""
        if kind == "groups":
            for name in names or ():
                check_group_name(name)
        fields: Fields = {"kind": kind, "internal": internal}
        if names is not None:
            fields["names"] = list(names)
        found = yield from self._pages(fields, None)
        if kind == "topics":
            for leader in leaders_to_ask(found):
                # One that cannot be reached leaves its partitions as they are.
                with contextlib.suppress(ZmqmqError):
                    yield from self.topic(str(found[0].get("name")))  # METADATA: where it is
                    told = yield from self._pages(fields, leader)
                    take_partitions(found, told)
        return found

    def ping(self) -> Operation[None]:
        """One round trip."""
        yield from self.ask(Api.PING, {})

    # Inside

    def ask(self, api: Api, fields: Fields) -> Operation[Fields]:
        """Any broker, a coordinator or the controller, as the API has it."""
        reply = yield Ask(self._call, (api, fields))
        return cast("Fields", reply)

    def _describe_one(self, name: str) -> Operation[Fields]:
        found = yield from self.describe("topics", [name], internal=True)
        return found[0]

    def _pages(self, fields: Fields, broker: int | None) -> Operation[list[dict[str, Any]]]:
        found: list[dict[str, Any]] = []
        for _ in range(PAGES_MAX):
            after = {"after": str(found[-1].get("name", ""))} if found else {}
            reply = yield Ask(self._call, (Api.DESCRIBE, {**fields, **after}, broker))
            items, has_more = items_of(cast("Fields", reply))
            found += items
            if not has_more or not items:
                break
        return found

    def _call(
        self, now: int, promise: object, api: Api, fields: Fields, broker: int | None = None
    ) -> None:
        core = self._core
        core.admin.call(now, api, fields, now + core.request_timeout, promise, broker)

    def _topic(self, now: int, promise: object, name: str) -> None:
        core = self._core
        core.describe_topic(now, name, promise, now + core.request_timeout)

    def _look_up(self, now: int, promise: object, questions: Sequence[Question]) -> None:
        core = self._core
        core.list_offsets(now, questions, promise, now + core.request_timeout)

    def _forget(self, _now: int, promise: object, name: str) -> None:
        self._core.routing.forget(name)
        self._core.effects.append(Resolved(promise, None))

    def _refresh(self, now: int, promise: object) -> None:
        self._core.routing.refresh(now)
        self._core.effects.append(Resolved(promise, None))
