"""REASSIGN and ELECT at one broker, which is its own controller; more of them in tests/unit/sim."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.world import KEYS, Answer, Place, World
from zmqmq.core.broker.events import CommitMetadata
from zmqmq.core.meta.store import Put
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.model.now import Now
from zmqmq.wire.apis import Api


def reassign(world: World, *partitions: Any, topic: str = "t") -> Answer:
    fields = {"topic": topic, "partitions": list(partitions)}
    return world.client().ask(Api.REASSIGN, fields)


def elect(world: World, kind: str, *, topic: str = "t", partitions: Any = None) -> Answer:
    fields = {"topic": topic, "kind": kind, "partitions": partitions}
    return world.client().ask(Api.ELECT, fields)


def results(answer: Answer) -> list[str | None]:
    assert answer.fields is not None, "not answered"
    assert answer.error is None, answer.detail
    return [None if result is None else result["name"] for result in answer.fields["results"]]


def document(world: World, place: Place) -> PartitionDocument:
    return world.broker.image.partitions[place.id, place.number].document


def change(world: World, place: Place, **fields: Any) -> None:
    """The document is changed in the store, by nobody that is here."""
    changed = replace(document(world, place), **fields)
    world.change_store(Put(KEYS.partition(place.id, place.number), changed.encode()))


def controlling() -> tuple[World, Place]:
    world = World()
    t = world.topic("t", 2)
    assert world.broker.controller.is_active
    return world, t


def test_each_partition_is_answered_for_itself() -> None:
    world, _ = controlling()
    answer = reassign(world, [0, [1]], [1, [1, 9]], [2, [1]], [1, [1, 1]], [0, []])
    unknown, twice = "UNKNOWN_PARTITION", "INVALID_CONFIG"

    assert results(answer) == [None, "INVALID_CONFIG", unknown, twice, twice]


def test_what_is_not_under_way_cannot_be_given_up() -> None:
    world, _ = controlling()

    assert results(reassign(world, [0, None])) == ["CONFLICT"]


def test_it_is_answered_once_the_store_has_it() -> None:
    world, t = controlling()
    change(world, t, replicas=(1, 2))
    world.hold(CommitMetadata)
    answer = reassign(world, [0, [1]])
    assert answer.outcome is None
    world.answer_commit()

    assert results(answer) == [None]
    assert document(world, t).replicas == (1,)


def test_an_answer_that_never_comes_is_a_perhaps() -> None:
    world, t = controlling()
    change(world, t, replicas=(1, 2))
    world.hold(CommitMetadata)
    answer = reassign(world, [0, [1]])
    world.advance(60_000)

    assert answer.error == "TIMED_OUT"


@pytest.mark.parametrize(
    "entry", [[], [0], ["0", [1]], [0, 1], [0, ["1"]], [0, [-1]], [0, [100_000]], 7]
)
def test_a_target_is_a_list_of_brokers_or_nil(entry: Any) -> None:
    world, _ = controlling()

    assert reassign(world, entry).error == "MALFORMED"


def test_the_first_replica_is_asked_for_by_number_or_for_all() -> None:
    world, _ = controlling()

    assert results(elect(world, "preferred")) == [None, None]
    assert results(elect(world, "preferred", partitions=[1, 5])) == [None, "UNKNOWN_PARTITION"]


def test_a_first_replica_that_is_not_in_sync_is_not_elected() -> None:
    world, t = controlling()
    change(world, t, replicas=(2, 1))

    assert results(elect(world, "preferred")) == ["CONFLICT", None]
    assert document(world, t).leader == document(world, t[1]).leader


def test_an_unclean_election_of_what_is_led_changes_nothing() -> None:
    world, t = controlling()
    before = document(world, t)

    assert results(elect(world, "unclean", partitions=[0, 3])) == [None, "UNKNOWN_PARTITION"]
    world.advance(30_000)
    assert document(world, t) == before


@pytest.mark.parametrize("fields", [{"kind": "fair"}, {"partitions": [-1]}, {"partitions": ["0"]}])
def test_kind_and_numbers_are_checked(fields: dict[str, Any]) -> None:
    world, _ = controlling()
    given = {"topic": "t", "kind": "preferred", **fields}

    assert world.client().ask(Api.ELECT, given).error == "MALFORMED"


def test_a_topic_that_is_not_there() -> None:
    world, _ = controlling()

    assert reassign(world, [0, [1]], topic="u").error == "UNKNOWN_TOPIC"
    assert elect(world, "unclean", topic="u").error == "UNKNOWN_TOPIC"


def test_whoever_is_not_the_controller_says_who_is() -> None:
    world, _ = controlling()
    world.broker.controller.unregistered(Now(world.ns, world.ms))
    answer = reassign(world, [0, [1]])
    assert answer.fields is not None

    assert answer.error == "NOT_LEADER"
    assert answer.fields["error"]["leader"] == 1
    assert elect(world, "preferred").error == "NOT_LEADER"
