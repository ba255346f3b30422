"""The image of the cluster: who asks for it when, and when a topic counts as unknown."""

from __future__ import annotations

from tests.unit.client.scripted import Promise, World, id_of
from zmqmq.client.machines.effects import MS
from zmqmq.errors import NotFoundError
from zmqmq.wire.apis import Api


def described(world: World, name: str, timeout_ms: int = 30_000) -> Promise:
    promise = Promise()
    world.core.describe_topic(world.now, name, promise, world.now + timeout_ms * MS)
    world.step()
    return promise


def greeted(**options: object) -> World:
    world = World(**options)  # type: ignore[arg-type]
    world.greet()
    return world


def test_a_topic_is_asked_for_once_and_remembered() -> None:
    world = greeted(topics={"t": 3})
    promise = described(world, "t")
    world.tell_metadata()
    again = described(world, "t")

    assert promise.value.leaders == (1, 1, 1)
    assert promise.value.id == id_of("t")
    assert again.value is promise.value
    assert world.take_all(Api.METADATA) == []


def test_a_topic_is_unknown_only_after_three_answers() -> None:
    """It may have been made a moment ago, at another broker."""
    world = greeted(topics={})
    promise = described(world, "new")
    for _ in range(2):
        world.tell_metadata()
        assert not promise.is_done
        world.advance(200)
    world.tell_metadata()

    assert isinstance(promise.error, NotFoundError)


def test_a_topic_that_was_unknown_is_asked_for_again_by_the_next_who_wants_it() -> None:
    world = greeted(topics={})
    described(world, "new")
    for _ in range(3):
        world.tell_metadata()
        world.advance(200)
    world.topics["new"] = 1
    promise = described(world, "new")
    world.tell_metadata()

    assert promise.value.name == "new"


def test_what_is_wanted_while_a_question_is_out_is_asked_next() -> None:
    world = greeted(topics={"t": 1, "u": 1})
    one, two = described(world, "t"), described(world, "u")
    world.tell_metadata()
    assert one.is_done
    assert not two.is_done

    world.tell_metadata()
    assert two.value.name == "u"


def test_many_who_find_the_image_out_of_date_ask_once() -> None:
    world = greeted()
    described(world, "t")
    world.tell_metadata()
    for _ in range(1_000):
        world.core.routing.refresh(world.now)
    world.advance(200)

    assert len(world.take_all(Api.METADATA)) == 1


def test_the_image_is_renewed_every_minute() -> None:
    world = World()
    world.greet(lease_ms=600_000)
    described(world, "t")
    world.tell_metadata()
    world.advance(59_000)
    assert world.take_all(Api.METADATA) == []

    world.advance(1_000)
    assert len(world.take_all(Api.METADATA)) == 1


def test_a_partition_without_a_leader_is_asked_for_again_soon() -> None:
    world = greeted()
    world.leader = None  # type: ignore[assignment]
    described(world, "t")
    world.tell_metadata()
    world.advance(100)
    world.leader = 1
    world.tell_metadata()

    assert world.core.routing.leader("t", 0) == 1


def test_describing_a_topic_gives_up_when_no_broker_answers() -> None:
    world = World()
    promise = described(world, "t", timeout_ms=500)
    world.advance(500)

    assert "a:1" in str(promise.error)


def test_nonsense_is_asked_for_again() -> None:
    world = greeted()
    promise = described(world, "t")
    world.answer(world.take(Api.METADATA), {"brokers": 3, "topics": "none"})
    world.advance(200)
    world.tell_metadata()

    assert promise.value.name == "t"
