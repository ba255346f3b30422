"""A consumer to whom records are published: what it takes, what it fetches, when it leaves."""

from __future__ import annotations

from typing import Any

from tests.unit.client.scripted import Fetching, World, answer_fetch, id_of, stored_batch
from tests.unit.client.test_reading import WorldReader
from zmqmq.client.machines.stream import end_of_batches
from zmqmq.errors import Code
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


def test_nonsense_that_is_published_is_as_good_as_lost() -> None:
    world, consumer = joined()
    (socket,) = world.subscribers
    for frames in ([SUBJECT], [SUBJECT, b""], [SUBJECT, b"\xc1"], [b"x", b"y"]):
        world.core.handle_message(world.now, socket, frames)
        world.take_effects()
    assert consumer.got() == []
    world.publish(batch(4), prev=4)
    assert consumer.got() == [(4, 6)]


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
