"""Simulated XPUB and SUB sockets behave as those of ZeroMQ do, and worse when they are told to."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from zmqmq.client.machines.effects import Link
from zmqmq.sim.chance import Chance
from zmqmq.sim.links import Weather
from zmqmq.sim.loop import Loop
from zmqmq.sim.network import Network
from zmqmq.sim.node import MS, SECOND, Node
from zmqmq.sim.pubsub import QUEUE_MAX, Odds, Publisher, Subscriber
from zmqmq.sim.trace import Trace

ADDRESS = "b1:push"
FLAT = Weather(base=MS, spread=0)
ALL = 1_000_000


@dataclass
class Gate:
    """Admits everything, or nothing."""

    admits: bool = True
    asked: list[bytes] = field(default_factory=list)
    publisher: Publisher | None = None

    def wanted(self, subject: bytes) -> None:
        self.asked.append(subject)
        if self.admits:
            assert self.publisher is not None
            self.publisher.admit(subject)


@dataclass
class Ear:
    links: list[Link] = field(default_factory=list)
    got: list[bytes] = field(default_factory=list)

    def linked(self, link: Link) -> None:
        self.links.append(link)

    def received(self, frames: list[bytes]) -> None:
        self.got.append(frames[-1])


class World:
    """A broker b1 that publishes, and a client c1 that has subscribed to `p.`."""

    def __init__(self, seed: int = 1) -> None:
        self.loop = Loop()
        self.chance = Chance(seed)
        self.network = Network(self.loop, self.chance, Trace(), FLAT)
        self.mischief = self.network.mischief
        self.b1, self.c1 = (Node(self.loop, name, self.chance) for name in ("b1", "c1"))
        self.gate = Gate()
        self.listen()
        self.sub, self.ear = self.open()
        self.sub.subscribe(b"p.")

    def listen(self) -> None:
        self.gate.publisher = self.network.publish(self.b1, ADDRESS, self.gate)

    def open(self) -> tuple[Subscriber, Ear]:
        ear = Ear()
        return self.network.subscriber(self.c1, ADDRESS, ear), ear

    def publish(self, *bodies: int, subject: bytes = b"p.") -> None:
        assert self.gate.publisher is not None
        for body in bodies:
            self.gate.publisher.publish([memoryview(subject), b"%d" % body])

    def run(self, ns: int) -> None:
        self.loop.run_until(self.loop.now + ns)

    @property
    def got(self) -> list[int]:
        return list(map(int, self.ear.got))


@pytest.fixture
def world() -> World:
    world = World()
    world.run(10 * MS)
    assert world.ear.links == [Link.CONNECTED]
    return world


def test_who_is_admitted_gets_what_begins_with_the_subject(world: World) -> None:
    other, ear = world.open()
    other.subscribe(b"p.2.")
    world.run(10 * MS)
    assert world.gate.asked == [b"p.", b"p.2."]
    world.publish(1, subject=b"p.1.")
    world.publish(2, subject=b"p.2.")
    world.publish(3, subject=b"q.")
    assert world.ear.got == [], "it takes time"
    world.run(10 * MS)

    assert world.got == [1, 2]
    assert ear.got == [b"2"]


def test_who_joins_misses_what_is_published_before_the_subscription_arrives() -> None:
    world = World()
    world.publish(1)
    while not world.sub.is_connected:
        assert world.loop.step()
    world.publish(2)
    world.run(2 * MS)
    world.publish(3)
    world.run(10 * MS)

    assert world.got == [3]


def test_who_is_not_admitted_gets_nothing(world: World) -> None:
    world.gate.admits = False
    other, ear = world.open()
    other.subscribe(b"p.")
    world.run(10 * MS)
    world.publish(1)
    world.run(10 * MS)

    assert (world.got, ear.got) == ([1], [])
    assert world.mischief.rarely["push: subscription refused"] == 1


def test_only_who_asks_is_admitted(world: World) -> None:
    assert world.gate.publisher is not None
    with pytest.raises(AssertionError, match="nobody has asked"):
        world.gate.publisher.admit(b"p.")


def test_an_unsubscribe_takes_nothing_back(world: World) -> None:
    world.publish(1)
    world.sub.unsubscribe(b"p.")
    world.publish(2)
    world.run(10 * MS)
    world.publish(3)
    world.run(10 * MS)
    assert world.got == [1, 2]
    world.sub.subscribe(b"p.")
    world.run(10 * MS)
    world.publish(4)
    world.run(10 * MS)

    assert world.got == [1, 2, 4]
    assert world.gate.asked == [b"p.", b"p."]


def test_what_does_not_fit_into_the_queue_is_lost_and_nothing_else(world: World) -> None:
    world.publish(*range(QUEUE_MAX + 50))
    world.run(10 * MS)
    world.publish(1_000)
    world.run(10 * MS)

    assert world.got == [*range(QUEUE_MAX), 1_000]
    assert world.mischief.rarely["push: queue full"] == 50


def test_a_reader_that_stands_still_loses_what_is_too_much(world: World) -> None:
    world.c1.pause(10 * SECOND)
    for number in range(300):
        world.publish(number)
        world.run(10 * MS)
    world.run(10 * SECOND)

    assert world.got == list(range(QUEUE_MAX))


def test_a_subscriber_comes_back_with_its_subjects(world: World) -> None:
    world.sub.subscribe(b"q.")
    world.run(10 * MS)
    world.sub.unsubscribe(b"p.")
    world.b1.crash()
    world.run(10 * MS)
    assert world.ear.links == [Link.CONNECTED, Link.LOST]
    world.sub.subscribe(b"r.")
    world.b1.restart()
    world.listen()
    world.gate.asked.clear()
    world.run(SECOND)
    world.publish(1)
    world.publish(2, subject=b"q.")
    world.publish(3, subject=b"r.")
    world.run(10 * MS)

    assert world.gate.asked == [b"q.", b"r."]
    assert world.got == [2, 3]


def test_a_cut_loses_what_is_under_way_when_the_connection_breaks(world: World) -> None:
    world.publish(1)
    world.network.cut("b1", "c1")
    world.run(60 * SECOND)
    world.publish(2)
    world.network.heal_all()
    world.run(20 * SECOND)
    world.publish(3)
    world.run(10 * MS)

    assert world.got == [3]


def test_who_has_closed_hears_nothing(world: World) -> None:
    world.publish(1)
    world.sub.close()
    world.run(10 * MS)
    world.publish(2)
    world.run(10 * MS)

    assert world.got == []


def test_a_publisher_that_is_closed_is_gone(world: World) -> None:
    assert world.gate.publisher is not None
    world.gate.publisher.close()
    world.publish(1)
    world.run(10 * MS)

    assert (world.got, world.ear.links) == ([], [Link.CONNECTED, Link.LOST])


# Mischief


def test_messages_are_lost_for_whom_it_may_concern(world: World) -> None:
    undo = world.mischief.spoil(Odds(lost=ALL), "c1")
    elsewhere = world.mischief.spoil(Odds(lost=ALL), "c2")
    world.publish(1)
    undo()
    world.publish(2)
    elsewhere()
    everywhere = world.mischief.spoil(Odds(lost=ALL))
    world.publish(3)
    everywhere()
    world.run(10 * MS)

    assert world.got == [2]


def test_a_share_is_lost_and_the_rest_keeps_its_order(world: World) -> None:
    world.mischief.spoil(Odds(lost=300_000))
    for number in range(1_000):
        world.publish(number)
        world.run(MS)
    world.run(10 * MS)

    assert world.got == sorted(world.got)
    assert 600 < len(world.got) < 800


def test_messages_come_twice_and_out_of_order(world: World) -> None:
    world.mischief.spoil(Odds(twice=100_000, late=100_000))
    for number in range(200):
        world.publish(number)
        world.run(MS)
    world.run(4 * SECOND)

    assert set(world.got) == set(range(200)), "nothing is lost"
    assert 205 < len(world.got) < 250
    assert world.got != sorted(world.got)


def test_who_is_stalled_gets_everything_later_but_for_what_is_too_much(world: World) -> None:
    undo = world.mischief.stall("c1")
    again = world.mischief.stall("c1")
    world.publish(*range(300))
    world.run(SECOND)
    undo()
    world.run(SECOND)
    assert world.got == []
    again()
    world.publish(1_000)
    world.run(SECOND)

    assert world.got == list(range(QUEUE_MAX)), "the queue was still full"


def test_subscriptions_are_not_heard_for_a_while(world: World) -> None:
    undo = world.mischief.unhear("b1")
    other, ear = world.open()
    other.subscribe(b"p.")
    world.run(10 * MS)
    undo()
    world.publish(1)
    world.run(10 * MS)
    assert (world.got, ear.got) == ([1], [])
    assert world.gate.asked == [b"p."]
    other.unsubscribe(b"p.")
    other.subscribe(b"p.")
    world.run(10 * MS)
    world.publish(2)
    world.run(10 * MS)

    assert ear.got == [b"2"]


def test_subscriptions_are_refused_for_a_while(world: World) -> None:
    undo = world.mischief.refuse("b1")
    other, ear = world.open()
    other.subscribe(b"p.")
    world.run(10 * MS)
    undo()
    world.publish(1)
    world.run(10 * MS)

    assert (world.got, ear.got) == ([1], [])
    assert world.gate.asked == [b"p.", b"p."]
    assert world.mischief.rarely["push: subscription refused"] == 1


def test_all_of_it_is_healed_at_once(world: World) -> None:
    world.mischief.spoil(Odds(ALL, ALL, ALL))
    undo = world.mischief.stall("c1")
    world.mischief.unhear("b1")
    world.mischief.refuse("b1")
    world.network.heal_all()
    undo()
    other, ear = world.open()
    other.subscribe(b"p.")
    world.run(10 * MS)
    world.publish(1)
    world.run(10 * MS)

    assert (world.got, ear.got) == ([1], [b"1"])


def test_chance_is_the_seeds_and_nothing_elses() -> None:
    def play(seed: int) -> list[int]:
        world = World(seed)
        world.run(10 * MS)
        world.mischief.spoil(Odds(lost=200_000, twice=200_000, late=200_000))
        world.publish(*range(100))
        world.run(4 * SECOND)
        return world.got

    assert play(7) == play(7) != play(8)
