"""One TCP connection, and how it ends: seldom for both sides at once.

A side learns of the end from the other's kernel, from its own after nothing came through for
long, or, if the other machine lost its power, when that is back and answers with a reset. What was
under way is lost, arrives, or (rarely) arrives when a new connection is up already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from zmqmq.sim.chance import Stream, happens
from zmqmq.sim.links import Fate, Frames, Line
from zmqmq.sim.loop import Loop
from zmqmq.sim.node import MS, SECOND, Node

KEEPALIVE_NS: Final = (30 * SECOND, 60 * SECOND)
"""So long after the other machine went dark its silence is noticed (driver.py: 30 + 3 * 10 s)."""
REBOOTED_NS: Final = (200 * MS, 5 * SECOND)
"""So long after it is back TCP has sent again what is under way, and is refused."""
PATIENCE_NS: Final = (500 * MS, 30 * SECOND)
"""So long a side bears it that nothing comes through. TCP itself has more patience, but what
stands between the machines often has not."""
LATE_NS: Final = (50 * MS, 3 * SECOND)
LATE_PARTS: Final = 125_000
"""How often what a reset caught on its way arrives all the same."""
SURVIVES_PARTS: Final = 500_000
"""How often what was sent before a death arrives."""


class End:
    """One side of a connection."""

    __slots__ = ("_learned", "_loop", "_stream", "is_open", "leaving", "node", "other")

    def __init__(
        self, loop: Loop, stream: Stream, node: Node, learned: Callable[[], object]
    ) -> None:
        self.node = node
        self.is_open = True
        """Whether it holds the connection to be up."""
        self.other: End
        self.leaving: Line
        """What it sends."""
        self._loop = loop
        self._stream = stream
        self._learned = learned

    def send(self, frames: Frames) -> None:
        """Send a message, which vanishes if nobody is there."""
        if self.other.is_open:
            self.leaving.send(frames)
            return
        self.leaving.in_flight += 1
        if self.other.node.is_powered:
            round_trip = self.leaving.path.delay() + self.other.leaving.path.delay()
            self._over_at(self._loop.now + round_trip)

    def over(self) -> None:
        """This side learns that it is over, if it does not know."""
        if self.is_open:
            self.is_open = False
            self.other.leaving.settle(Fate.LOST)
            self._learned()

    def close(self) -> None:
        """This side wants no more. What it sent still arrives."""
        self.is_open = False
        self.other.leaving.settle(Fate.LOST)
        self.leaving.send(None)

    def die(self) -> None:
        """The process of this side is gone, or the power of its machine."""
        self.is_open = False
        self.other.leaving.settle(Fate.LOST)
        survives = happens(self._stream, SURVIVES_PARTS)
        if self.node.is_powered:
            if not survives:
                self.leaving.settle(Fate.LOST)
            self.leaving.send(None)
        else:
            # What waits for the way to open would have to be sent again, and nobody will.
            if self.leaving.path.is_blocked or not survives:
                self.leaving.settle(Fate.LOST)
            self.other.over_within(KEEPALIVE_NS)

    def rebooted(self) -> None:
        """The machine of this side is back and knows nothing of the connection."""
        if not self.is_open and self.other.is_open and self.other.leaving.in_flight:
            self.other.over_within(REBOOTED_NS)

    def over_within(self, times: tuple[int, int]) -> None:
        """Learn of the end after a time between these."""
        self._over_at(self._loop.now + self._stream.randrange(*times))

    def blocked(self) -> None:
        """Nothing comes through from now on, one way or both: give up if that lasts."""
        when = self._loop.now + self._stream.randrange(*PATIENCE_NS)
        paths = self.leaving.path, self.other.leaving.path
        outages = [path.outage for path in paths if path.is_blocked]
        self._loop.post(when, self.node, self._give_up, outages)

    def _give_up(self, outages: list[int]) -> None:
        paths = self.leaving.path, self.other.leaving.path
        still = [path.outage for path in paths if path.is_blocked]
        if self.is_open and any(outage in outages for outage in still):
            self.leaving.settle(Fate.LOST)
            self.leaving.send(None)
            self.over()

    def _over_at(self, when: int) -> None:
        self._loop.post(when, self.node, self.over)


def reset(ends: tuple[End, End], loop: Loop, stream: Stream) -> None:
    """Break a connection for both sides. What is under way is lost or late, each way by itself."""
    for end in ends:
        is_late = happens(stream, LATE_PARTS)
        late_at = loop.now + stream.randrange(*LATE_NS)
        end.leaving.settle(Fate.LATE if is_late else Fate.LOST, late_at)
    for end in ends:
        loop.post(loop.now, end.node, end.over)
