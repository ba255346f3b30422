"""The workloads against one real broker in the simulated world: whatever happens to the network
and to processes, the history is a good one, and the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.sim.one_broker import OneBroker, make_stage
from zmqmq.client.machines.stream import PlaceKind
from zmqmq.sim.checkers import check
from zmqmq.sim.history import (
    CREATE,
    DRAINED,
    END,
    INVOKE,
    OK,
    POLL,
    SEND,
    STORED,
    SURVEY,
)
from zmqmq.sim.node import MS, SECOND
from zmqmq.sim.workloads.administer import AdministeringClient
from zmqmq.sim.workloads.base import SimClient
from zmqmq.sim.workloads.consume import ConsumingClient
from zmqmq.sim.workloads.produce import ProducingClient
from zmqmq.sim.workloads.settle import DrainingClient, FoundingClient

TOPICS = {"t": 2, "u": 1}
Nemesis = Callable[["Play"], None]


class Play:
    """One run: found, play, settle, drain."""

    def __init__(self, seed: int) -> None:
        self.stage = stage = make_stage(seed)
        self.loop = stage.loop
        self.history = stage.history
        self.broker = OneBroker(stage)
        self.founder = FoundingClient(stage, "f", TOPICS)
        self.clients: list[SimClient] = [
            ProducingClient(stage, "p1", TOPICS),
            ProducingClient(stage, "p2", TOPICS),
            ConsumingClient(stage, "c1", TOPICS),
            ConsumingClient(stage, "c2", TOPICS, start=PlaceKind.END),
            ConsumingClient(stage, "c3", TOPICS, start=PlaceKind.STORED, group="g"),
            AdministeringClient(stage, "a1", growable={"t": 2}),
        ]
        self.chance = stage.chance.stream("nemesis")

    def run(self, nemesis: Nemesis, seconds: int = 20) -> None:
        self.founder.start()
        self.until(lambda: self.founder.is_idle, 10)
        for client in self.clients:
            client.start()
        end = self.loop.now + seconds * SECOND
        while self.loop.now < end:
            self.loop.run_until(self.loop.now + self.chance.randrange(200 * MS, 3 * SECOND))
            nemesis(self)
        self.stage.network.heal_all()
        for client in self.clients:
            client.stop()
        self.until(lambda: all(client.is_idle for client in self.clients), 90)
        drainer = DrainingClient(self.stage, "d", TOPICS)
        drainer.start()
        self.until(lambda: drainer.is_done, 30)

    def until(self, is_so: Callable[[], bool], seconds: int) -> None:
        end = self.loop.now + seconds * SECOND
        while not is_so():
            assert self.loop.now < end, "it takes too long"
            self.loop.run_until(self.loop.now + 100 * MS)

    def count(self, f: str, type_: str) -> int:
        return sum(1 for entry in self.history.entries if (entry.f, entry.type) == (f, type_))


def calm(_: Play) -> None:
    """Nothing happens."""


def break_links(play: Play) -> None:
    client = play.chance.choice(play.clients)
    what = play.chance.randrange(3)
    if what == 0:
        play.stage.network.reset(client.node.name, "b1")
    elif what == 1:
        play.stage.network.cut(client.node.name, "b1")
        play.loop.call_at(
            play.loop.now + play.chance.randrange(8 * SECOND),
            None,
            play.stage.network.heal,
            client.node.name,
            "b1",
        )
    else:
        until = play.loop.now + play.chance.randrange(SECOND)
        play.stage.network.clog("b1", client.node.name, until)


def stop_clients(play: Play) -> None:
    node = play.chance.choice(play.clients).node
    if play.chance.randrange(2):
        node.pause(play.chance.randrange(3 * SECOND))
    else:
        node.crash()
        node.restart()


def kill_broker(play: Play) -> None:
    play.broker.node.crash()
    play.loop.run_until(play.loop.now + play.chance.randrange(2 * SECOND))
    play.broker.node.restart()


def everything(play: Play) -> None:
    play.chance.choice((break_links, stop_clients, kill_broker))(play)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("nemesis", [calm, break_links, stop_clients, kill_broker, everything])
def test_the_history_is_good(nemesis: Nemesis, seed: int) -> None:
    play = Play(seed)

    play.run(nemesis)

    assert check(play.history.entries) == []
    assert play.count(SEND, OK) > 100
    assert play.count(POLL, OK) > 100
    assert play.count(END, OK) > 20
    assert play.count(STORED, OK) > 2
    assert play.count(CREATE, OK) > 2
    assert play.count(DRAINED, OK) >= 3
    assert play.count(SURVEY, OK) >= play.count(SURVEY, INVOKE) - 1 > 2


def test_a_seed_gives_one_history() -> None:
    lines = []
    for _ in range(2):
        play = Play(7)
        play.run(everything, seconds=10)
        lines.append(play.history.lines())

    assert lines[0] == lines[1]


def test_what_a_broker_loses_is_missed() -> None:
    """The whole chain is able to see a loss: the broker comes back with an old disk."""
    play = Play(3)
    backups = [play.broker.disk]

    def put_backup_back(play: Play) -> None:
        backups.append(play.broker.disk.kill_state())
        if len(backups) == 5:
            play.broker.node.crash()
            play.broker.disk_to_come = backups[3]
            play.broker.node.restart()

    play.run(put_backup_back)

    found = {violation.kind for violation in check(play.history.entries)}
    assert {"lost", "inconsistent offset", "append into the past"} <= found


def test_the_pace_is_as_agreed() -> None:
    """Six clients ask for 60 to 100 things a second, fetches and their answers not counted."""
    play = Play(5)
    play.run(calm, seconds=30)

    asked = sum(1 for e in play.history.entries if e.type == INVOKE)
    assert 30 * 30 < asked < 30 * 120
