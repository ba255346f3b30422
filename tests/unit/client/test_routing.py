"""The image of the cluster: who asks for it when, and when a topic counts as unknown."""

from __future__ import annotations

from collections.abc import Container

from tests.unit.client.scripted import Promise, World, id_of
from zmqmq.client.machines.effects import MS, Link
from zmqmq.errors import DisconnectedError, NotFoundError
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
    """It may have been made a moment ago, and there is nobody else to ask."""
    world = greeted(topics={}, brokers={1: "a:1"})
    began = world.now
    promise = described(world, "new")
    for _ in range(2):
        world.tell_metadata()
        assert not promise.is_done
        world.advance(100)
    world.tell_metadata()

    assert isinstance(promise.error, NotFoundError)
    assert world.now - began <= 200 * MS


def play(world: World, knowing: Container[int], ms: int, among: Container[int] = (1, 2, 3)) -> None:
    """For so long brokers answer HELLO and METADATA, or refuse the connection if not `among` those
    that are there; only some know the topics."""
    topics, end = world.topics, world.now + ms * MS
    while world.now < end:
        for sent in [s for s in world.sent if s.api in (Api.HELLO, Api.METADATA)]:
            if sent.socket not in world.open:
                world.sent.remove(sent)
            elif (broker := world.broker_of(sent)) not in among:
                world.sent.remove(sent)
                world.core.handle_link(world.now, sent.socket, Link.REFUSED)
                world.step()
            elif sent.api is Api.HELLO:
                world.greet(broker)
            else:
                world.topics = topics if broker in knowing else {}
                world.tell_metadata()
        world.advance(5)
    world.topics = topics


class TestSeveralBrokers:
    """One that lags knows neither that a topic was made nor that it was deleted."""

    def test_another_is_asked_than_the_one_that_does_not_know(self) -> None:
        world = greeted(topics={"new": 1})
        promise = described(world, "new")
        play(world, knowing=[2], ms=200)

        assert promise.value.name == "new"

    def test_one_alone_does_not_make_it_final_however_often_it_says_so(self) -> None:
        world = greeted(topics={"new": 1})
        promise = described(world, "new")
        play(world, knowing=[], ms=5_000, among=[1])
        assert not promise.is_done

        play(world, knowing=[3], ms=10_000, among=[1, 3])
        assert promise.value.name == "new"

    def test_a_typing_error_is_told_within_a_second(self) -> None:
        world = greeted(topics={})
        promise = described(world, "typo")
        play(world, knowing=[], ms=300)

        assert isinstance(promise.error, NotFoundError)

    def test_a_typing_error_is_told_when_one_of_three_is_down(self) -> None:
        world = greeted(topics={})
        promise = described(world, "typo")
        play(world, knowing=[], ms=1_000, among=[1, 3])

        assert isinstance(promise.error, NotFoundError)

    def test_perhaps_says_who_was_heard_and_who_was_not(self) -> None:
        world = greeted(topics={})
        promise = described(world, "typo", timeout_ms=2_000)
        play(world, knowing=[], ms=2_100, among=[1])

        assert isinstance(promise.error, DisconnectedError)
        assert not isinstance(promise.error, NotFoundError)
        assert "broker 1 has not heard of it" in str(promise.error)
        assert "b:2: refused" in str(promise.error)

    def test_an_answer_that_knows_it_begins_the_count_anew(self) -> None:
        world = greeted()
        described(world, "t")
        world.tell_metadata()
        told: dict[int, None] = {}
        for is_known in (False, True) * 4:
            world.core.routing.refresh(world.now)
            while not any(s.api is Api.METADATA for s in world.sent):
                world.advance(10)
                world.greet_all()
            world.topics = {"t": 1} if is_known else {}
            told[world.broker_of(world.tell_metadata())] = None
            assert "t" in world.core.routing.topics

        assert len(told) > 1

    def test_what_is_final_is_not_looked_into_further(self) -> None:
        world = greeted(topics={}, brokers={1: "a:1"})
        described(world, "typo")
        play(world, knowing=[], ms=1_000)
        world.brokers[2] = "b:2"
        world.core.routing.refresh(world.now)
        play(world, knowing=[], ms=5_000, among=[1])
        world.advance(5_000)

        assert world.take_all(Api.METADATA) == []

    def test_the_id_of_the_past_that_one_alone_tells_is_not_taken(self) -> None:
        world = greeted()
        described(world, "t")
        play(world, knowing=[1], ms=50)
        world.ids["t"] = b"the id before...".ljust(16)
        world.core.routing.refresh(world.now)
        play(world, knowing=[1], ms=5_000, among=[1])
        assert world.core.routing.topics["t"].id == id_of("t")

        play(world, knowing=[1, 2], ms=10_000, among=[1, 2])
        assert world.core.routing.topics["t"].id == world.ids["t"]

    def test_a_bootstrap_server_counts_although_metadata_does_not_name_it(self) -> None:
        """The broker that was asked has not heard of the other either."""
        world = greeted(topics={"new": 1}, servers=("a:1", "b:2"), brokers={1: "a:1"})
        promise = described(world, "new")
        world.topics = {}
        for _ in range(3):
            world.tell_metadata()
            world.advance(100)
        assert not promise.is_done

        world.brokers[2], world.topics = "b:2", {"new": 1}
        play(world, knowing=[2], ms=500)
        assert promise.value.name == "new"

    def test_a_bootstrap_server_that_nobody_reaches_or_knows_does_not_count(self) -> None:
        world = greeted(topics={}, servers=("a:1", "gone:9"), brokers={1: "a:1"})
        promise = described(world, "typo")
        for _ in range(3):
            world.tell_metadata()
            if "gone:9" in world.open.values():
                world.refuse_connection()
            world.advance(100)

        assert isinstance(promise.error, NotFoundError)

    def test_another_name_of_the_same_broker_is_not_another_broker(self) -> None:
        world = greeted(topics={}, servers=("a:1", "alias:1"), brokers={1: "a:1"})
        promise = described(world, "typo")
        for _ in range(3):
            world.tell_metadata()
            if any(s.api is Api.HELLO for s in world.sent):
                world.greet(1)
            world.advance(100)

        assert isinstance(promise.error, NotFoundError)


def test_a_topic_that_was_unknown_is_asked_for_again_by_the_next_who_wants_it() -> None:
    world = greeted(topics={})
    described(world, "new")
    for _ in range(3):
        world.tell_metadata()
        world.greet_all()
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
