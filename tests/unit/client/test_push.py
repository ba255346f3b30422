"""A consumer to whom records are published: what it takes, what it fetches, when it leaves."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.client.scripted import Fetching, World, answer_fetch, id_of, stored_batch
from tests.unit.client.test_reading import WorldReader
from zmqmq.client.machines.push import IDLE_MAX, SILENCE_MAX
from zmqmq.client.machines.pushed import JOIN_AGAIN, MISSED_MAX, UNPUSHED_MAX
from zmqmq.client.machines.stream import Place, PlaceKind, end_of_batches
from zmqmq.errors import Code, error_to_wire, refusal
from zmqmq.wire.apis import Api, push_subject
from zmqmq.wire.frame import encode_header

MS = 1_000_000
SUBJECT = push_subject(id_of("t"), 0)


def batch(base: int, count: int = 2, *, size: int = 10, epoch: int = 1) -> bytes:
    return stored_batch(base, [b"x" * size] * count, epoch=epoch)


class Pushed(Fetching):
    """A consumer of one partition, and what it got."""

    def got(self) -> list[tuple[int, int]]:
        """From which offset to which, of each piece that lies ready; as the reader takes them."""
        found = []
        while self.machine.chunks:
            chunk = self.machine.chunks.popleft()
            self.machine.taken += len(chunk.data)
            found.append((chunk.position, end_of_batches(chunk.data)[0]))
        return found

    @property
    def position(self) -> int:
        return self.machine.streams["t", 0].position


def pushed(mode: str = "push", **options: Any) -> Pushed:
    """One that has asked for everything there is."""
    world = World()
    consumer = Pushed(world, mode=mode, **options)
    world.greet()
    world.tell_metadata()
    return consumer


def joined(mode: str = "push", end: int = 4, **options: Any) -> tuple[World, Pushed]:
    """One that has fetched everything up to `end`, is subscribed, and fetches nothing."""
    consumer = pushed(mode, **options)
    world = consumer.world
    answer_fetch(world, world.take(Api.FETCH), {0: batch(0, end)}, end=end)
    assert consumer.got() == [(0, end)]
    world.tell_subjects()
    assert world.publish(end=end)
    # The fetch that was under way when the subscription came to be ends by itself.
    answer_fetch(world, world.take(Api.FETCH), {}, end=end)
    assert world.take_all(Api.FETCH) == []
    return world, consumer


def fetched_from(world: World) -> int:
    """From where the one fetch asks that goes out."""
    (sent,) = world.take_all(Api.FETCH)
    ((_, _, offset, *_),) = sent.fields["partitions"]
    return int(offset)


def test_it_is_subscribed_to_once_everything_was_fetched() -> None:
    consumer = pushed()
    world = consumer.world
    answer_fetch(world, world.take(Api.FETCH), {0: batch(0)}, end=4)
    assert world.take_all(Api.SUBSCRIBE) == []
    answer_fetch(world, world.take(Api.FETCH), {0: batch(2)}, end=4)
    asked = world.tell_subjects()
    assert asked.fields == {"partitions": [[id_of("t"), 0]]}
    assert list(world.subscribers.values()) == [[SUBJECT]]


def test_until_something_is_heard_it_fetches() -> None:
    consumer = pushed()
    world = consumer.world
    answer_fetch(world, world.take(Api.FETCH), {}, end=0)
    world.tell_subjects()
    for _ in range(3):
        answer_fetch(world, world.take(Api.FETCH), {}, end=0)
    answer_fetch(world, world.take(Api.FETCH), {0: batch(0)}, end=2)
    assert consumer.got() == [(0, 2)]


def test_what_is_published_is_taken_and_nothing_is_fetched() -> None:
    world, consumer = joined()
    notified = consumer.promise.notified
    world.publish(batch(4), prev=4)
    world.publish(batch(6, 1), prev=6)
    assert consumer.got() == [(4, 6), (6, 7)]
    assert consumer.promise.notified == notified + 2
    world.publish(end=7)
    world.advance(900)
    assert world.take_all(Api.FETCH) == []


def test_the_rest_of_a_burst_is_not_fetched() -> None:
    """Each PUSH of a burst says where all of them end, and the client may look in between."""
    world, consumer = joined()
    world.publish(batch(4), prev=4, end=8)
    world.step()
    assert world.take_all(Api.FETCH) == []
    world.publish(batch(6), prev=6, end=8)
    world.publish(end=8)
    world.step()
    assert world.take_all(Api.FETCH) == []
    assert consumer.got() == [(4, 6), (6, 8)]


def test_the_rest_of_a_burst_that_was_lost_is_fetched() -> None:
    world, _ = joined()
    world.publish(batch(4), prev=4, end=8)
    world.publish(end=8)
    assert fetched_from(world) == 6


def test_what_was_announced_is_fetched_although_a_push_brings_a_part() -> None:
    world, consumer = joined()
    world.publish(end=8)
    assert fetched_from(world) == 4
    world.publish(batch(4), prev=4, end=8)
    world.step()
    assert consumer.got() == [(4, 6)]
    assert fetched_from(world) == 6


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


def test_a_gap_is_fetched() -> None:
    world, consumer = joined()
    world.publish(batch(6), prev=6)
    assert consumer.got() == []
    sent = world.take(Api.FETCH)
    assert sent.fields["partitions"][0][2] == 4
    answer_fetch(world, sent, {0: batch(4, 4)}, end=8)
    assert consumer.got() == [(4, 8)]
    assert world.take_all(Api.FETCH) == []
    world.publish(batch(8), prev=8)
    assert consumer.got() == [(8, 10)]


def test_a_lost_tail_is_fetched_when_head_tells() -> None:
    world, _ = joined()
    world.publish(end=6)
    assert fetched_from(world) == 4


def test_what_was_seen_is_ignored() -> None:
    world, consumer = joined()
    world.publish(batch(4), prev=4)
    world.publish(batch(4), prev=4)
    world.publish(batch(2), prev=2, end=6)
    world.publish(end=4)
    assert consumer.got() == [(4, 6)]
    assert world.take_all(Api.FETCH) == []


def test_a_message_that_begins_before_the_position_is_taken_from_there() -> None:
    """Batches that were pushed one by one the first time, and together the second time."""
    world, consumer = joined()
    world.publish(batch(2) + batch(4), prev=2)
    assert consumer.got() == [(4, 6)]


def test_a_hole_that_nothing_is_in_is_none() -> None:
    world, consumer = joined()
    world.publish(batch(9), prev=3)
    assert consumer.got() == [(4, 11)]


def test_what_a_fetch_would_bring_that_is_under_way_is_not_taken_twice() -> None:
    world, consumer = joined()
    world.publish(batch(6), prev=6)
    sent = world.take(Api.FETCH)
    world.publish(batch(4), prev=4, end=8)
    answer_fetch(world, sent, {0: batch(4, 4)}, end=8)
    assert consumer.got() == [(4, 6)]
    assert fetched_from(world) == 6


def test_old_epochs_are_ignored_and_a_new_one_ends_the_subscription() -> None:
    world, consumer = joined()
    world.publish(batch(4, epoch=0), prev=4, epoch=0)
    assert consumer.got() == []
    world.publish(batch(4, epoch=2), prev=4, epoch=2)
    assert consumer.got() == []
    assert list(world.subscribers.values()) == [[]]
    assert fetched_from(world) == 4


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


def test_nonsense_that_is_published_is_as_good_as_lost() -> None:
    world, consumer = joined()
    (socket,) = world.subscribers
    for frames in ([SUBJECT], [SUBJECT, b""], [SUBJECT, b"\xc1"], [b"x", b"y"]):
        world.core.handle_message(world.now, socket, frames)
        world.take_effects()
    assert consumer.got() == []
    world.publish(batch(4), prev=4)
    assert consumer.got() == [(4, 6)]


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


def test_an_offset_that_nobody_can_have_is_not_taken() -> None:
    world, consumer = joined()
    data = bytearray(batch(4))
    data[:8] = b"\xff" * 8
    (socket,) = world.subscribers
    header = encode_header(Api.PUSH, 0, {"prev": 4, "end": 6, "epoch": 1})
    world.core.handle_message(world.now, socket, [SUBJECT, header, bytes(data)])
    world.step()
    assert consumer.got() == []
    assert fetched_from(world) == 4


def test_nothing_is_handed_out_behind_an_error() -> None:
    consumer = pushed()
    world = consumer.world
    answer_fetch(world, world.take(Api.FETCH), {0: batch(0, 4)}, end=4)
    assert consumer.got() == [(0, 4)]
    world.tell_subjects()
    world.refuse(world.take(Api.FETCH), Code.DENIED)
    assert consumer.machine.errors
    assert list(world.subscribers.values()) == [[]]
    world.publish(batch(4), prev=4)
    assert consumer.got() == []


def test_a_damaged_push_is_as_good_as_lost() -> None:
    world = World()
    reader = WorldReader(world, mode="push", start=0)
    world.greet()
    world.tell_metadata()
    answer_fetch(world, world.take(Api.FETCH), {0: batch(0, 4)}, end=4)
    assert len(reader.give_records(10)) == 4
    world.tell_subjects()
    assert world.publish(end=4)
    answer_fetch(world, world.take(Api.FETCH), {}, end=4)
    bad = bytearray(batch(6))
    bad[-1] ^= 1
    world.publish(batch(4) + bytes(bad), prev=4)
    assert [record.offset for record in reader.give_records(10)] == [4, 5]
    assert fetched_from(world) == 6
