"""When a consumer subscribes, what ends that, and when it comes back."""

from __future__ import annotations

import pytest

from tests.unit.client.scripted import World, answer_fetch, id_of
from tests.unit.client.test_push import MS, SUBJECT, Pushed, batch, fetched_from, joined, pushed
from zmqmq.client.machines.push import IDLE_MAX, SILENCE_MAX
from zmqmq.client.machines.pushed import JOIN_AGAIN, MISSED_MAX, UNPUSHED_MAX
from zmqmq.client.machines.stream import Place, PlaceKind
from zmqmq.errors import Code, error_to_wire, refusal
from zmqmq.wire.apis import Api, push_subject


def test_it_is_subscribed_to_once_everything_was_fetched() -> None:
    consumer = pushed()
    world = consumer.world
    answer_fetch(world, world.take(Api.FETCH), {0: batch(0)}, end=4)
    assert world.take_all(Api.SUBSCRIBE) == []
    answer_fetch(world, world.take(Api.FETCH), {0: batch(2)}, end=4)
    asked = world.tell_subjects()
    assert asked.fields == {"partitions": [[id_of("t"), 0]]}
    assert list(world.subscribers.values()) == [[SUBJECT]]


def test_a_pull_consumer_asks_for_no_subject() -> None:
    consumer = pushed("pull")
    world = consumer.world
    answer_fetch(world, world.take(Api.FETCH), {}, end=0)
    world.advance(5_000)
    assert world.take_all(Api.SUBSCRIBE) == []


def test_a_consumer_that_stops_at_the_end_asks_for_no_subject() -> None:
    world = World()
    consumer = Pushed(world, mode="push", stop_at_end=True)
    world.greet()
    world.tell_metadata()
    asked = world.take(Api.LIST_OFFSETS)
    world.answer(asked, {"offsets": [[2, None]]})
    answer_fetch(world, world.take(Api.FETCH), {0: batch(0)}, end=2)
    assert consumer.machine.is_finished
    assert world.take_all(Api.SUBSCRIBE) == []


def test_news_of_another_leader_ends_the_subscription() -> None:
    world, consumer = joined()
    world.epoch, world.leader = 2, 2
    world.advance(1_000)
    world.publish(end=4, epoch=1)
    world.core.routing.refresh(world.now)
    world.advance(100)
    world.tell_metadata()
    assert list(world.subscribers.values()) == [[]]
    assert world.take(Api.SUBSCRIBE).fields["leave"] is True
    world.greet_all()
    sent = world.take(Api.FETCH)
    assert world.broker_of(sent) == 2
    assert sent.fields["partitions"][0][2:] == [4, sent.fields["max_bytes"], 2, 1]
    answer_fetch(world, sent, {}, end=4)
    world.tell_subjects()
    assert list(world.subscribers.values()) == [[SUBJECT]]
    assert consumer.position == 4


def test_a_subscription_is_asked_for_in_the_epoch_that_was_fetched_in() -> None:
    consumer = pushed()
    world = consumer.world
    sent = world.take(Api.FETCH)
    world.epoch = 2
    world.core.routing.refresh(world.now)
    world.advance(100)
    world.tell_metadata()
    answer_fetch(world, sent, {}, end=0)
    assert world.take_all(Api.SUBSCRIBE) == []
    answer_fetch(world, world.take(Api.FETCH), {}, end=0)
    assert len(world.take_all(Api.SUBSCRIBE)) == 1


def test_silence_ends_it_and_the_socket_is_made_anew() -> None:
    world, consumer = joined()
    (socket,) = world.subscribers
    world.advance(SILENCE_MAX / MS + 2_000)
    assert world.subscribers == {}
    assert world.take(Api.SUBSCRIBE).fields["leave"] is True
    answer_fetch(world, world.take(Api.FETCH), {0: batch(4)}, end=6)
    assert consumer.got() == [(4, 6)]
    world.tell_subjects()
    assert list(world.subscribers.values()) == [[SUBJECT]]
    assert socket not in world.subscribers


def test_one_that_was_never_heard_is_not_asked_for_again_at_once() -> None:
    consumer = pushed()
    world = consumer.world
    answer_fetch(world, world.take(Api.FETCH), {}, end=0)
    world.tell_subjects()
    for _ in range(20):
        world.advance(200)
        answer_fetch(world, world.take(Api.FETCH), {}, end=0)
    assert world.subscribers == {}
    assert [s.fields.get("leave") for s in world.take_all(Api.SUBSCRIBE)] == [True]
    world.advance(JOIN_AGAIN / MS)
    answer_fetch(world, world.take(Api.FETCH), {}, end=0)
    assert len(world.take_all(Api.SUBSCRIBE)) == 1
    assert consumer.got() == []


@pytest.mark.parametrize("answer", ["refused", "nonsense", "no endpoint"])
def test_a_refusal_leaves_it_pulling(answer: str) -> None:
    consumer = pushed()
    world = consumer.world
    answer_fetch(world, world.take(Api.FETCH), {}, end=0)
    sent = world.take(Api.SUBSCRIBE)
    if answer == "refused":
        error = error_to_wire(refusal(Code.THROTTLED, "too many"))
        world.answer(sent, {"subjects": [error], "endpoint": "a:2"})
    elif answer == "nonsense":
        world.answer(sent, {"subjects": 7, "endpoint": b""})
    else:
        world.answer(sent, {"subjects": [SUBJECT], "endpoint": ""})
    assert world.subscribers == {}
    answer_fetch(world, world.take(Api.FETCH), {0: batch(0)}, end=2)
    assert consumer.got() == [(0, 2)]
    assert world.take_all(Api.SUBSCRIBE) == []


def test_a_full_buffer_leaves_pulls_and_comes_back() -> None:
    world, consumer = joined(prefetch_bytes=2_000, fetch_bytes=1_000)
    at = 4
    while SUBJECT in next(iter(world.subscribers.values())):
        world.publish(batch(at, size=300), prev=at)
        at += 2
    assert consumer.machine.buffered_bytes <= 2_000
    assert world.take(Api.SUBSCRIBE).fields["leave"] is True
    assert world.take_all(Api.FETCH) == [], "there is no room"
    got = consumer.got()
    assert got[-1][1] == consumer.position < at
    world.step()
    answer_fetch(world, world.take(Api.FETCH), {0: batch(at - 2)}, end=at)
    assert consumer.got() == [(at - 2, at)]
    world.tell_subjects()
    assert list(world.subscribers.values()) == [[SUBJECT]]


def test_whoever_is_far_behind_leaves() -> None:
    world, consumer = joined()
    for number in range(MISSED_MAX):
        assert world.publish(batch(100 + 2 * number), prev=100)
    assert list(world.subscribers.values()) == [[]]
    assert fetched_from(world) == 4
    assert consumer.got() == []


@pytest.mark.parametrize("mode", ["push", "auto"])
def test_what_is_too_large_to_be_pushed_is_pulled(mode: str) -> None:
    world, consumer = joined(mode)
    for number in range(UNPUSHED_MAX):
        at = 4 + 2 * number
        world.publish(end=at + 2)
        assert consumer.position == at
        if number + 1 < UNPUSHED_MAX:
            answer_fetch(world, world.take(Api.FETCH), {0: batch(at)}, end=at + 2)
    assert list(world.subscribers.values()) == [[]]


def rejoins_after(mode: str, count: int, size: int, ms: int) -> float | None:
    """How many seconds it pulls after so many pushes, one each `ms`; None: it goes on."""
    world, consumer = joined(mode)
    at = 4
    for _ in range(count):
        if not world.publish(batch(at, size=size), prev=at):
            break
        at += 2
        consumer.got()
        world.advance(ms)
    if SUBJECT in next(iter(world.subscribers.values())):
        return None
    world.take_all(Api.SUBSCRIBE)
    for tenth in range(700):
        for sent in world.take_all(Api.FETCH):
            answer_fetch(world, sent, {}, end=at)
        for ping in world.take_all(Api.PING):
            world.answer(ping, {"time_ms": 0})
        if any(sent.api is Api.METADATA for sent in world.sent):
            world.tell_metadata()
        if world.take_all(Api.SUBSCRIBE):
            return tenth / 10
        world.advance(100)
        world.publish(end=at)
    raise AssertionError("it never comes back")


def test_much_at_a_time_is_pulled_for_a_while() -> None:
    assert rejoins_after("push", 200, 30_000, 1) == pytest.approx(2, abs=0.3)
    assert rejoins_after("auto", 200, 30_000, 1) == pytest.approx(60, abs=0.3)
    assert rejoins_after("push", 200, 30_000, 10) is None
    assert rejoins_after("push", 2_000, 3_000, 1) is None


@pytest.mark.parametrize("how", ["seek", "pause", "assign", "close"])
def test_who_goes_elsewhere_leaves(how: str) -> None:
    world, consumer = joined()
    machine = consumer.machine
    if how == "seek":
        machine.seek(world.now, "t", 0, 1, Place(PlaceKind.OFFSET, 2))
    elif how == "pause":
        machine.pause(world.now, "t", 0, 1)
    elif how == "assign":
        machine.assign(world.now, [])
    else:
        world.core.remove_consumer(world.now, machine)
    world.step()
    assert world.take(Api.SUBSCRIBE).fields["leave"] is True
    assert list(world.subscribers.values()) == [[]]
    fetches = world.take_all(Api.FETCH)
    assert [f.fields["partitions"][0][2] for f in fetches] == ([2] if how == "seek" else [])
    world.advance(IDLE_MAX / MS + 1_000)
    if how != "seek":
        assert world.subscribers == {}


def test_two_consumers_share_one_subject() -> None:
    world, first = joined()
    second = Pushed(world, mode="push", start=Place(PlaceKind.OFFSET, 4))
    answer_fetch(world, world.take(Api.FETCH), {}, end=4)
    world.tell_subjects()
    assert list(world.subscribers.values()) == [[SUBJECT]]
    world.publish(batch(4), prev=4)
    assert first.got() == second.got() == [(4, 6)]
    world.core.remove_consumer(world.now, first.machine)
    world.step()
    assert all(s.fields.get("leave") is None for s in world.take_all(Api.SUBSCRIBE))
    world.publish(batch(6), prev=6)
    assert second.got() == [(6, 8)]


def test_a_lost_connection_ends_it_at_once() -> None:
    world, consumer = joined()
    world.lose()
    world.publish(batch(4), prev=4)
    assert consumer.got() == []
    world.reconnect()
    assert fetched_from(world) == 4


def test_whoever_leaves_before_the_answer_is_published_nothing() -> None:
    consumer = pushed()
    world = consumer.world
    answer_fetch(world, world.take(Api.FETCH), {}, end=0)
    consumer.machine.pause(world.now, "t", 0, 1)
    world.tell_subjects()
    assert world.subscribers == {}
    assert world.take(Api.SUBSCRIBE).fields["leave"] is True


def test_silence_is_noticed_however_late_the_broker_answered() -> None:
    consumer = pushed()
    world = consumer.world
    answer_fetch(world, world.take(Api.FETCH), {0: batch(0, 4)}, end=4)
    world.advance(1_500)
    world.tell_subjects()
    assert world.publish(end=4)
    answer_fetch(world, world.take(Api.FETCH), {}, end=4)
    for _ in range(6):
        assert world.take_all(Api.FETCH) == []
        world.advance(1_000)
        for ping in world.take_all(Api.PING):
            world.answer(ping, {"time_ms": 0})
        if world.subscribers == {}:
            break
    assert fetched_from(world) == 4


def test_who_leaves_does_not_end_what_another_consumer_has_just_asked_for() -> None:
    world, first = joined()
    second = Pushed(world, mode="push", start=Place(PlaceKind.OFFSET, 4))
    answer_fetch(world, world.take(Api.FETCH), {}, end=4)
    asked = world.take(Api.SUBSCRIBE)
    world.core.remove_consumer(world.now, first.machine)
    world.step()
    assert world.take_all(Api.SUBSCRIBE) == []
    world.sent.append(asked)
    world.tell_subjects()
    world.publish(batch(4), prev=4)
    assert second.got() == [(4, 6)]
    world.core.remove_consumer(world.now, second.machine)
    world.step()
    assert world.take(Api.SUBSCRIBE).fields["leave"] is True


@pytest.mark.parametrize("subject", [b"\xff\xfe", b"", push_subject(id_of("t"), 1), "p."])
def test_a_subject_that_is_another_one_is_as_good_as_refused(subject: object) -> None:
    consumer = pushed()
    world = consumer.world
    answer_fetch(world, world.take(Api.FETCH), {}, end=0)
    world.answer(world.take(Api.SUBSCRIBE), {"subjects": [subject], "endpoint": "a:2"})
    assert world.subscribers == {}
    answer_fetch(world, world.take(Api.FETCH), {0: batch(0)}, end=2)
    assert consumer.got() == [(0, 2)]
