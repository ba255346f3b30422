"""A single real Broker in the simulated world: `World` (tests/support) behind a ROUTER of it."""

from __future__ import annotations

from tests.support.world import World
from zmqmq.core.broker.events import RouteLost, Send
from zmqmq.sim.chance import Chance
from zmqmq.sim.disk import SimDisk
from zmqmq.sim.history import History
from zmqmq.sim.links import Frames, Weather
from zmqmq.sim.loop import Loop
from zmqmq.sim.network import Listener, Network
from zmqmq.sim.node import MS, Node
from zmqmq.sim.trace import Trace
from zmqmq.sim.workloads.base import Stage

ADDRESS = "127.0.0.1:5755"
"""What `World` says in METADATA."""
TICK = 20 * MS


class OneBroker(World):
    """Disk and store answer at once; only time and the network are as in the simulation."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.node = Node(stage.loop, "b1", stage.chance)
        self.node.on_restart.append(lambda _: self._come_back())
        self.listener: Listener
        self.disk_to_come: SimDisk | None = None
        """What it will find when it starts again, instead of what it left."""
        super().__init__()
        self._listen()

    def received(self, route: bytes, frames: Frames) -> None:
        self._look_at_clock()
        self.receive(route, frames)

    def _come_back(self) -> None:
        self.crash(self.disk_to_come)
        self.disk_to_come = None
        self._listen()

    def _listen(self) -> None:
        self.listener = self.stage.network.listen(self.node, ADDRESS, self)
        self._tick()

    def _tick(self) -> None:
        self._look_at_clock()
        self.advance(0)
        self.node.call_at(self.node.monotonic_ns() + TICK, self._tick)

    def _look_at_clock(self) -> None:
        self.ns, self.ms = self.node.monotonic_ns(), self.node.wall_ms()

    def _deliver(self, send: Send) -> None:
        if not self.listener.answer(send.route, send.frames):
            self._events.append(RouteLost(send.route))


def make_stage(seed: int) -> Stage:
    loop, chance = Loop(), Chance(seed)
    network = Network(loop, chance, Trace(), Weather())
    return Stage(loop, network, chance, History(loop), [ADDRESS])
