"""The simulated network behaves as ZeroMQ does, also when it fails."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from zmqmq.client.machines.effects import Link
from zmqmq.sim.chance import Chance
from zmqmq.sim.links import Weather
from zmqmq.sim.loop import Loop
from zmqmq.sim.network import UNCONNECTED_MAX, WIRE_MAX, Listener, Network, Wire
from zmqmq.sim.node import MS, SECOND, Node
from zmqmq.sim.trace import Trace

ADDRESS = "b1:9001"
FLAT = Weather(base=MS, spread=0)


@dataclass
class Router:
    """Answers everything with `re:` and itself, if it is to."""

    answers: bool = True
    got: list[tuple[bytes, list[bytes]]] = field(default_factory=list)
    sent: list[bool] = field(default_factory=list)
    listener: Listener | None = None

    def received(self, route: bytes, frames: list[bytes]) -> None:
        self.got.append((route, frames))
        if self.answers:
            assert self.listener is not None
            self.sent.append(self.listener.answer(route, [b"re:", *frames]))

    @property
    def bodies(self) -> list[bytes]:
        return [frames[0] for _, frames in self.got]


@dataclass
class Dealer:
    loop: Loop
    links: list[Link] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    got: list[list[bytes]] = field(default_factory=list)
    story: list[object] = field(default_factory=list)

    def linked(self, link: Link) -> None:
        self.links.append(link)
        self.times.append(self.loop.now)
        self.story.append(link)

    def received(self, frames: list[bytes]) -> None:
        self.got.append(frames)
        self.story.append(frames[-1])


class World:
    """A broker b1 and a client c1 that is connected to it."""

    def __init__(self, seed: int = 1, weather: Weather = FLAT, *, answers: bool = True) -> None:
        self.loop = Loop()
        self.chance = Chance(seed)
        self.trace = Trace()
        self.network = Network(self.loop, self.chance, self.trace, weather)
        self.b1, self.c1 = self.node("b1"), self.node("c1")
        self.router = Router(answers)
        self.listen()
        self.wire, self.dealer = self.connect()

    def node(self, name: str) -> Node:
        return Node(self.loop, name, self.chance)

    def listen(self) -> None:
        self.router.listener = self.network.listen(self.b1, ADDRESS, self.router)

    def connect(self, address: str = ADDRESS) -> tuple[Wire, Dealer]:
        dealer = Dealer(self.loop)
        return self.network.connect(self.c1, address, dealer), dealer

    def run(self, ns: int) -> None:
        self.loop.run_until(self.loop.now + ns)

    def reborn(self) -> None:
        self.b1.restart()
        self.listen()


@pytest.fixture
def world() -> World:
    world = World()
    world.run(10 * MS)
    assert world.dealer.links == [Link.CONNECTED]
    return world


def test_a_question_and_its_answer(world: World) -> None:
    body = bytearray(b"body")
    assert world.wire.send([b"head", memoryview(body)])
    body[:] = b"gone"
    world.run(MS)
    (route, frames), *_ = world.router.got
    assert frames == [b"head", b"body"]
    assert all(type(frame) is bytes for frame in frames)
    assert (len(route), route[0]) == (5, 0)
    assert world.dealer.got == []
    world.run(MS)

    assert world.dealer.got == [[b"re:", b"head", b"body"]]
    assert world.router.sent == [True]


def test_nothing_is_called_from_within_a_call() -> None:
    world = World()
    assert world.dealer.links == []
    world.wire.send([b"x"])
    assert world.router.got == []
    assert not world.wire.is_connected
    world.run(10 * MS)

    assert world.wire.is_connected
    assert world.dealer.story == [Link.CONNECTED, b"x"], "what waited was sent"


def test_messages_keep_their_order_though_each_takes_its_own_time() -> None:
    world = World(weather=Weather(base=MS, spread=50 * MS, spike_parts=100_000))
    world.run(SECOND)
    for number in range(200):
        assert world.wire.send([b"%d" % number])
        world.run(MS)
    world.run(SECOND)

    assert [int(frames[1]) for frames in world.dealer.got] == list(range(200))


def test_weather_is_mostly_fair() -> None:
    network = World(weather=Weather(base=100, spread=10_000, spike_parts=10_000)).network
    delays = sorted(network.path("a", "b").delay() for _ in range(2_000))

    assert 100 <= delays[0] < delays[1_000] < 1_000
    assert 1_000 < delays[1_900] < 10_100
    assert 5 < sum(delay > 200 * MS for delay in delays) < 50


def test_nobody_there_is_refused_again_and_again_with_more_time_between() -> None:
    world = World()
    wire, dealer = world.connect("nowhere:1")
    for number in range(UNCONNECTED_MAX):
        assert wire.send([b"%d" % number])
    assert not wire.send([b"too many"])
    world.run(60 * SECOND)
    assert set(dealer.links) == {Link.REFUSED}
    gaps = [later - sooner for sooner, later in zip(dealer.times, dealer.times[1:], strict=False)]
    assert 100 * MS < gaps[0] < 510 * MS
    assert gaps == sorted(gaps)
    assert 10 * SECOND < gaps[-1] < 10_010 * MS

    router = Router(answers=False)
    world.network.listen(world.node("b2"), "nowhere:1", router)
    world.run(11 * SECOND)
    assert dealer.links[-1] is Link.CONNECTED
    assert router.bodies == [b"%d" % number for number in range(UNCONNECTED_MAX)]


def test_a_wire_takes_only_so_much(world: World) -> None:
    world.network.cut("c1", "b1")
    taken = 0
    while world.wire.send([b"x"]):
        taken += 1
    assert taken == WIRE_MAX
    world.network.heal("c1", "b1")
    world.run(SECOND)

    assert len(world.router.got) == WIRE_MAX
    assert world.wire.send([b"x"])


def test_a_route_takes_only_so_much(world: World) -> None:
    world.wire.send([b"x"])
    world.run(5 * MS)
    route = world.router.got[0][0]
    world.c1.pause(10 * SECOND)
    assert world.router.listener is not None
    sent = sum(world.router.listener.answer(route, [b"y"]) for _ in range(5_000))
    assert sent == 4_096
    world.run(20 * SECOND)

    assert len(world.dealer.got) == 1 + 4_096
    assert not world.router.listener.answer(b"\0nope", [b"y"])


def test_a_closed_wire_hears_nothing_and_its_route_goes(world: World) -> None:
    world.wire.send([b"last words"])
    world.wire.close()
    world.wire.close()
    world.run(SECOND)

    assert world.router.bodies == [b"last words"]
    assert world.router.sent == [True], "the answer was on its way when the end arrived"
    assert world.dealer.story == [Link.CONNECTED]
    assert world.router.listener is not None
    assert not world.router.listener.answer(world.router.got[0][0], [b"y"])


def test_a_closed_listener_ends_its_connections(world: World) -> None:
    assert world.router.listener is not None
    world.router.listener.close()
    world.run(10 * SECOND)
    assert world.dealer.links[:3] == [Link.CONNECTED, Link.LOST, Link.REFUSED]
    world.listen()
    world.run(11 * SECOND)

    assert world.dealer.links[-1] is Link.CONNECTED


def test_an_address_has_one_listener(world: World) -> None:
    with pytest.raises(AssertionError, match="is taken"):
        world.network.listen(world.b1, ADDRESS, Router())


def test_a_kill_is_heard_at_once_and_refused_until_somebody_listens(world: World) -> None:
    world.b1.crash()
    world.run(5 * MS)
    assert world.dealer.links == [Link.CONNECTED, Link.LOST]
    world.wire.send([b"for the next life"])
    world.run(5 * SECOND)
    assert Link.REFUSED in world.dealer.links
    world.b1.restart()
    world.run(5 * SECOND)
    assert world.dealer.links[-1] is Link.REFUSED, "the process is up and does not listen yet"
    world.listen()
    world.run(11 * SECOND)

    assert world.dealer.links[-1] is Link.CONNECTED
    assert world.dealer.got == [[b"re:", b"for the next life"]]


def test_what_a_killed_process_was_sent_is_lost_and_what_it_sent_may_arrive() -> None:
    arrived = set()
    for seed in range(20):
        world = World(seed)
        world.run(10 * MS)
        world.wire.send([b"answered"])
        world.run(MS)
        world.wire.send([b"lost"])
        world.b1.crash()
        world.reborn()
        world.run(5 * SECOND)
        assert world.router.bodies == [b"answered"]
        assert world.dealer.links == [Link.CONNECTED, Link.LOST, Link.CONNECTED]
        arrived.add(len(world.dealer.got))

    assert arrived == {0, 1}


def test_what_a_killed_client_sent_may_arrive_and_its_route_goes() -> None:
    arrived = set()
    for seed in range(20):
        world = World(seed, answers=False)
        world.run(10 * MS)
        world.wire.send([b"0"])
        world.run(2 * MS)
        world.wire.send([b"1"])
        world.c1.crash()
        world.run(10 * MS)
        arrived.add(len(world.router.got))
        assert world.router.listener is not None
        assert not world.router.listener.answer(world.router.got[0][0], [b"y"])
        assert world.dealer.story == [Link.CONNECTED]

    assert arrived == {1, 2}


def test_a_power_cut_is_noticed_late(world: World) -> None:
    began = world.loop.now
    world.b1.crash(power_cut=True)
    world.wire.send([b"into the void"])
    world.run(29 * SECOND)
    assert world.dealer.links == [Link.CONNECTED]
    world.run(40 * SECOND)

    assert world.dealer.links[:3] == [Link.CONNECTED, Link.LOST, Link.REFUSED]
    assert 30 * SECOND <= world.dealer.times[1] - began <= 60 * SECOND
    assert world.dealer.times[2] - world.dealer.times[1] > 5 * SECOND, "a connect time-out"
    assert world.router.got == []


@pytest.mark.parametrize("sent", ["before", "meanwhile", "after"])
def test_a_machine_that_is_back_refuses_its_old_connections(world: World, sent: str) -> None:
    if sent == "before":
        world.wire.send([b"x"])
    world.b1.crash(power_cut=True)
    world.run(10 * SECOND)
    if sent == "meanwhile":
        world.wire.send([b"x"])
    world.run(5 * SECOND)
    world.reborn()
    if sent == "after":
        world.run(10 * SECOND)
        assert world.dealer.links == [Link.CONNECTED], "nobody has said anything"
        world.wire.send([b"x"])
    world.run(6 * SECOND)

    assert world.dealer.links == [Link.CONNECTED, Link.LOST, Link.CONNECTED]
    assert world.router.got == []


def test_a_router_learns_late_that_a_client_lost_its_power(world: World) -> None:
    world.wire.send([b"x"])
    world.run(10 * MS)
    listener = world.router.listener
    assert listener is not None
    route = world.router.got[0][0]
    world.c1.crash(power_cut=True)
    world.run(20 * SECOND)
    assert listener.answer(route, [b"into the void"])
    world.run(41 * SECOND)
    assert not listener.answer(route, [b"y"])


def test_a_short_cut_only_delays(world: World) -> None:
    world.wire.send([b"under way"])
    world.network.cut("c1", "b1")
    world.wire.send([b"later"])
    world.run(400 * MS)
    assert world.router.got == []
    world.network.heal("b1", "c1")
    world.wire.send([b"after"])
    world.run(SECOND)

    assert world.router.bodies == [b"under way", b"later", b"after"]
    assert len(world.dealer.got) == 3
    assert world.dealer.links == [Link.CONNECTED]


def test_a_cut_of_one_way(world: World) -> None:
    world.network.cut("b1", "c1", both=False)
    world.wire.send([b"x"])
    world.run(400 * MS)
    assert world.router.bodies == [b"x"]
    assert world.dealer.got == []
    world.network.heal("b1", "c1", both=False)
    world.run(SECOND)

    assert len(world.dealer.got) == 1


def test_cuts_add_up(world: World) -> None:
    world.network.cut("b1", "c1")
    world.network.cut("c1", "b1", both=False)
    world.network.heal("b1", "c1")
    world.wire.send([b"x"])
    world.run(400 * MS)
    assert world.router.got == []
    world.network.heal_all()
    world.run(SECOND)
    assert world.router.bodies == [b"x"]


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("ways", [("b1", "c1"), ("c1", "b1")])
def test_a_long_cut_breaks_the_connection_and_what_was_under_way_is_lost(
    world: World, ways: tuple[str, str], both: bool
) -> None:
    world.network.cut(*ways, both=both)
    world.wire.send([b"lost, or its answer is"])
    world.run(45 * SECOND)
    assert world.dealer.links[:3] == [Link.CONNECTED, Link.LOST, Link.REFUSED]
    assert world.dealer.got == []
    world.wire.send([b"waits"])
    world.network.heal(*ways, both=both)
    world.run(20 * SECOND)

    assert world.dealer.links[-1] is Link.CONNECTED
    assert world.dealer.got == [[b"re:", b"waits"]]
    assert len({route for route, _ in world.router.got}) == len(world.router.got)


def test_one_side_may_give_up_before_the_other() -> None:
    first = set()
    for seed in range(20):
        world = World(seed)
        world.wire.send([b"x"])
        world.run(10 * MS)
        assert world.router.listener is not None
        world.network.cut("b1", "c1")
        while world.wire.is_connected and world.router.listener.answer(
            world.router.got[0][0], [b"y"]
        ):
            world.run(100 * MS)
        first.add(world.wire.is_connected)

    assert first == {True, False}


def test_two_short_cuts_are_no_long_one(world: World) -> None:
    for _ in range(150):
        world.network.cut("b1", "c1")
        world.run(300 * MS)
        world.network.heal("b1", "c1")
        world.run(300 * MS)

    assert world.dealer.links == [Link.CONNECTED]


def test_a_clogged_way_only_delays(world: World) -> None:
    world.network.clog("c1", "b1", world.loop.now + 90 * SECOND)
    world.wire.send([b"x"])
    world.run(89 * SECOND)
    assert world.router.got == []
    world.run(2 * SECOND)

    assert world.router.bodies == [b"x"]
    assert world.dealer.links == [Link.CONNECTED]


def test_a_reset_loses_what_is_under_way_or_delivers_it_when_it_is_old_news() -> None:
    late = 0
    for seed in range(60):
        world = World(seed)
        world.run(10 * MS)
        world.wire.send([b"0"])
        world.run(10 * MS)
        old = world.router.got[0][0]
        world.wire.send([b"1"])
        world.network.reset("b1", "c1")
        world.run(5 * SECOND)
        assert world.dealer.links == [Link.CONNECTED, Link.LOST, Link.CONNECTED]
        world.wire.send([b"2"])
        world.run(5 * SECOND)
        if b"1" in world.router.bodies:
            late += 1
            where = world.router.bodies.index(b"1")
            assert world.router.got[where][0] == old
            assert world.router.sent[where] is False
        assert world.dealer.got == [[b"re:", b"0"], [b"re:", b"2"]]

    assert 1 <= late <= 20


def test_an_old_answer_may_come_after_the_new_connection() -> None:
    late = 0
    for seed in range(60):
        world = World(seed)
        world.run(10 * MS)
        world.wire.send([b"0"])
        world.run(MS)
        world.network.reset("b1", "c1")
        world.run(5 * SECOND)
        assert world.dealer.links == [Link.CONNECTED, Link.LOST, Link.CONNECTED]
        late += world.dealer.story[-1] == b"0"

    assert 1 <= late <= 20


def test_a_paused_process_is_connected_to_and_answers_later(world: World) -> None:
    world.b1.pause(10 * SECOND)
    wire, dealer = world.connect()
    wire.send([b"x"])
    world.wire.send([b"y"])
    world.run(9 * SECOND)
    assert dealer.links == [Link.CONNECTED]
    assert world.router.got == []
    world.run(2 * SECOND)

    assert dealer.got == [[b"re:", b"x"]]
    assert world.dealer.got == [[b"re:", b"y"]]


def test_one_reset_does_not_touch_the_others(world: World) -> None:
    c2 = world.node("c2")
    other = Dealer(world.loop)
    world.network.connect(c2, ADDRESS, other)
    world.run(10 * MS)
    world.network.reset("c1", "b1")
    world.run(SECOND)

    assert other.links == [Link.CONNECTED]
    assert world.dealer.links == [Link.CONNECTED, Link.LOST, Link.CONNECTED]


def test_removing_a_fault_leaves_the_delays_elsewhere_as_they_were() -> None:
    """What makes it possible to shrink a schedule."""

    def times(*, with_fault: bool) -> list[int]:
        world = World(weather=Weather())
        c2, b2 = world.node("c2"), world.node("b2")
        dealer = Dealer(world.loop)
        router = Router()
        router.listener = world.network.listen(b2, "b2:1", router)
        wire = world.network.connect(c2, "b2:1", dealer)
        seen: list[int] = []
        dealer.received = lambda _: seen.append(world.loop.now)  # type: ignore[method-assign]
        for number in range(50):
            wire.send([b"x"])
            world.wire.send([b"x"])
            world.run(10 * MS)
            if with_fault and number == 10:
                world.network.reset("b1", "c1")
        return seen

    assert times(with_fault=True) == times(with_fault=False)


def test_lines_say_who_got_what_and_do_not_change_the_run() -> None:
    def run(trace: Trace) -> Trace:
        world = World()
        world.network.trace = world.trace = trace
        trace.describe = lambda frames: b" ".join(frames).decode()
        world.run(10 * MS)
        world.wire.send([b"hello", b"there"])
        world.run(10 * MS)
        world.network.cut("b1", "c1")
        return trace

    with_lines = run(Trace(keep=10))

    assert [line.partition(" ")[2] for line in with_lines.lines] == [
        "c1 connected to b1:9001",
        "b1 < c1 hello there",
        "c1 < b1 re: hello there",
        "network cut b1<>c1",
    ]
    assert with_lines.digest() == run(Trace()).digest()


def test_one_seed_one_history() -> None:
    assert busy_run(1) == busy_run(1)
    assert busy_run(1) != busy_run(2)


def busy_run(seed: int) -> str:
    """Six clients and three brokers talk while everything fails; the digest of it."""
    loop, chance, trace = Loop(), Chance(seed), Trace()
    network = Network(loop, chance, trace, Weather(spike_parts=5_000))
    nodes = {name: Node(loop, name, chance) for name in ("b1", "b2", "b3", "c1", "c2", "c3")}

    def start(name: str) -> None:
        node = nodes[name]
        if name.startswith("b"):
            router = Router()
            router.listener = network.listen(node, f"{name}:1", router)
        else:
            for broker in ("b1", "b2", "b3"):
                speak(node, network.connect(node, f"{broker}:1", Dealer(loop)), 0)

    def speak(node: Node, wire: Wire, number: int) -> None:
        wire.send([b"%d" % number, b"body" * 10])
        node.call_at(node.monotonic_ns() + 7 * MS, speak, node, wire, number + 1)

    for name in nodes:
        start(name)
    fate = chance.stream("faults")
    for _ in range(100):
        loop.run_until(loop.now + fate.randrange(500 * MS))
        one, other = fate.sample(sorted(nodes), 2)
        match fate.randrange(6):
            case 0:
                network.cut(one, other, both=fate.random() < 0.5)
            case 1:
                network.heal_all()
            case 2:
                network.reset(one, other)
            case 3:
                network.clog(one, other, loop.now + fate.randrange(SECOND))
            case 4:
                nodes[one].crash(power_cut=fate.random() < 0.5)
                nodes[one].restart()
                start(one)
            case 5:
                nodes[one].pause(fate.randrange(3 * SECOND))
    return trace.digest()
