"""Topics, offsets and groups: what is asked, asked again, and answered."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tests.unit.client.scripted import Promise, World, id_of
from zmqmq.client.operations import Operation, Operations
from zmqmq.errors import (
    Code,
    ConflictError,
    DisconnectedError,
    NotFoundError,
    ProtocolError,
    RefusedError,
    TimedOutError,
    ZmqmqError,
)
from zmqmq.wire.apis import Api


class Running:
    """An operation that is carried out as far as the answers reach."""

    def __init__(self, world: World, operation: Operation[Any]) -> None:
        self.world = world
        self.result: Any = None
        self.error: Exception | None = None
        self.is_done = False
        self._operation = operation
        self._promise: Promise | None = None
        self._go(operation.send, None)

    def look(self) -> None:
        """Go on if the answer is there."""
        promise = self._promise
        while promise is not None and promise.is_done:
            if promise.error is not None:
                self._go(self._operation.throw, promise.error)
            else:
                self._go(self._operation.send, promise.value)
            promise = self._promise

    def _go(self, step: Any, value: Any) -> None:
        self._promise = None
        try:
            ask = step(value)
        except StopIteration as done:
            self.result, self.is_done = done.value, True
        except ZmqmqError as error:
            self.error, self.is_done = error, True
        else:
            self._promise = Promise()
            ask.action(self.world.now, self._promise, *ask.arguments)
            self.world.step()


def running(choose: Any, world: World | None = None) -> Running:
    if world is None:
        world = World()
        world.greet()
    return Running(world, choose(Operations(world.core)))


TOPIC = {"id": id_of("t"), "partitions": 2, "replicas": 1, "config": {"retention_ms": 5}}
ITEM = {
    **TOPIC,
    "name": "t",
    "partitions": [
        {
            "partition": n,
            "leader": 1,
            "leader_epoch": 3,
            "start": 0,
            "committed_end": 10 + n,
            "bytes": 100,
            "replicas": [1],
            "isr": [1],
        }
        for n in range(2)
    ],
}


def test_creating_a_topic() -> None:
    run = running(lambda o: o.create_topic("t", 2, 0, {"retention_ms": 5}, if_not_exists=False))
    sent = run.world.take(Api.CREATE_TOPIC)
    assert sent.fields == {
        "topic": "t",
        "partitions": 2,
        "replicas": 0,
        "config": {"retention_ms": 5},
    }
    run.world.answer(sent, TOPIC)
    run.look()

    assert run.result == ("t", id_of("t"), 2, 1, {"retention_ms": 5})


def test_a_topic_that_exists_is_as_good_if_that_is_asked_for() -> None:
    run = running(lambda o: o.create_topic("t", 9, 0, None, if_not_exists=True))
    run.world.refuse(run.world.take(Api.CREATE_TOPIC), Code.TOPIC_EXISTS)
    run.look()
    run.world.answer(run.world.take(Api.DESCRIBE), {"items": [ITEM], "more": False})
    run.look()

    assert run.result.partitions == 2


def test_a_topic_that_exists_is_a_conflict_otherwise() -> None:
    run = running(lambda o: o.create_topic("t", 2, 0, None, if_not_exists=False))
    run.world.refuse(run.world.take(Api.CREATE_TOPIC), Code.TOPIC_EXISTS)
    run.look()

    assert isinstance(run.error, ConflictError)


def test_ensuring_tells_what_differs() -> None:
    run = running(lambda o: o.ensure_topic("t", 4, 0, {"retention_ms": 6}))
    run.world.refuse(run.world.take(Api.CREATE_TOPIC), Code.TOPIC_EXISTS)
    run.look()
    run.world.answer(run.world.take(Api.DESCRIBE), {"items": [ITEM], "more": False})
    run.look()

    assert isinstance(run.error, ConflictError)
    assert "2 partitions, not 4" in str(run.error)
    assert "retention_ms is 5, not 6" in str(run.error)


def test_describing_a_topic() -> None:
    run = running(lambda o: o.describe_topic("t"))
    run.world.answer(run.world.take(Api.DESCRIBE), {"items": [ITEM], "more": False})
    run.look()

    assert [p.committed_end for p in run.result.partitions] == [10, 11]
    assert run.result.partitions[0].isr == (1,)


def test_every_page_is_asked_for() -> None:
    run = running(lambda o: o.list_topics(internal=False))
    run.world.answer(run.world.take(Api.DESCRIBE), {"items": [ITEM], "more": True})
    run.look()
    second = run.world.take(Api.DESCRIBE)
    assert second.fields["after"] == "t"
    run.world.answer(second, {"items": [{**ITEM, "name": "u"}], "more": False})
    run.look()

    assert [info.name for info in run.result] == ["t", "u"]


def test_offsets_of_each_partition() -> None:
    world = World(topics={"t": 3})
    world.greet()
    run = running(lambda o: o.offsets("t", "end"), world)
    world.tell_metadata()
    run.look()
    sent = world.take(Api.LIST_OFFSETS)
    assert sent.fields["partitions"] == [[id_of("t"), n, "end"] for n in range(3)]
    world.answer(sent, {"offsets": [[10, None], [20, None], [30, None]]})
    run.look()

    assert run.result == {0: 10, 1: 20, 2: 30}


def test_a_partition_whose_leader_moves_is_looked_up_at_the_next_one() -> None:
    world = World(topics={"t": 2})
    world.greet()
    run = running(lambda o: o.offsets("t", "start"), world)
    world.tell_metadata()
    run.look()
    refused = {"code": int(Code.NOT_LEADER), "name": "NOT_LEADER", "retriable": True}
    world.answer(world.take(Api.LIST_OFFSETS), {"offsets": [[10, None], refused]})
    assert not run.is_done
    world.advance(200)
    world.take_all(Api.METADATA)
    sent = world.take(Api.LIST_OFFSETS)
    assert [n for _, n, _ in sent.fields["partitions"]] == [1]
    world.answer(sent, {"offsets": [[20, None]]})
    run.look()

    assert run.result == {0: 10, 1: 20}


def test_committed_offsets_of_a_group() -> None:
    world = World()
    world.greet()
    run = running(lambda o: o.committed("g", "t", 0), world)
    world.tell_metadata()
    run.look()
    world.tell_metadata()  # of `__offsets`: who is the coordinator?
    world.answer(world.take(Api.OFFSET_FETCH), {"offsets": [[id_of("t"), 0, 42, 1, "", 5]]})
    run.look()

    assert run.result == 42


def test_a_question_is_asked_again_when_its_answer_is_lost() -> None:
    run = running(lambda o: o.list_topics(internal=False))
    run.world.take(Api.DESCRIBE)
    run.world.lose()
    run.world.reconnect()
    run.world.advance(200)
    run.world.answer(run.world.take(Api.DESCRIBE), {"items": [], "more": False})
    run.look()

    assert run.result == []


def test_a_change_whose_answer_is_lost_is_perhaps() -> None:
    run = running(lambda o: o.delete_topic("t"))
    run.world.take(Api.DELETE_TOPIC)
    run.world.lose()
    run.look()

    assert isinstance(run.error, DisconnectedError)


def test_a_change_that_was_refused_for_now_is_tried_again() -> None:
    run = running(lambda o: o.delete_topic("t"))
    run.world.refuse(run.world.take(Api.DELETE_TOPIC), Code.COORDINATOR_LOADING)
    run.world.advance(200)
    run.world.answer(run.world.take(Api.DELETE_TOPIC), {})
    run.look()

    assert run.is_done
    assert run.error is None


def test_retrying_ends_with_the_request_time_out() -> None:
    run = running(lambda o: o.delete_topic("t"))
    for _ in range(200):
        for sent in run.world.take_all(Api.DELETE_TOPIC):
            run.world.refuse(sent, Code.COORDINATOR_LOADING)
        run.world.advance(200)
        for sent in run.world.take_all(Api.PING):
            run.world.answer(sent, {"time_ms": 1})
        run.look()
        if run.is_done:
            break

    assert isinstance(run.error, RefusedError)
    assert cast("RefusedError", run.error).code is Code.COORDINATOR_LOADING


def test_no_answer_at_all_is_perhaps() -> None:
    run = running(lambda o: o.create_topic("t", 1, 0, None, if_not_exists=True))
    run.world.advance(30_000)
    run.look()

    assert isinstance(run.error, (TimedOutError, DisconnectedError))


def test_an_unknown_topic_is_told() -> None:
    world = World(topics={})
    world.greet()
    run = running(lambda o: o.offsets("typo", "end"), world)
    for _ in range(3):
        world.tell_metadata()
        world.greet_all()
        world.advance(200)
    run.look()

    assert isinstance(run.error, NotFoundError)


def test_groups() -> None:
    run = running(lambda o: o.groups())
    item = {"name": "g", "offsets": [{"topic": "t", "partition": 0, "offset": 5}]}
    run.world.answer(run.world.take(Api.DESCRIBE), {"items": [item], "more": False})
    run.look()

    assert run.result == [("g", {("t", 0): 5})]


@pytest.mark.parametrize("answer", [{}, {"items": 5}, {"items": [5]}])
def test_nonsense_is_told(answer: dict[str, Any]) -> None:
    run = running(lambda o: o.groups())
    run.world.answer(run.world.take(Api.DESCRIBE), answer)
    run.look()

    assert isinstance(run.error, ProtocolError)
