"""The ways between machines, and what runs along one of them in order: half a TCP connection."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from zmqmq.sim.chance import Stream, happens
from zmqmq.sim.loop import Action, Loop, Owner
from zmqmq.sim.trace import Trace

MS: Final = 1_000_000
RETRANSMIT_NS: Final = 200 * MS
"""At most so long after a way has opened again TCP has noticed it."""
Frames = list[bytes]


class Weather(NamedTuple):
    """How long messages take: `base`, and up to `spread` more, mostly little of it."""

    base: int = 100_000
    spread: int = 2 * MS
    spike_parts: int = 0
    """How many in a million take `spike` longer, as after a lost packet."""
    spike: int = RETRANSMIT_NS


class Path:
    """One way from one machine to another. All that goes there shares its weather and faults."""

    __slots__ = (
        "_clogged_until",
        "_cuts",
        "_loop",
        "_stream",
        "_waiting",
        "is_blocked",
        "outage",
        "weather",
    )

    def __init__(self, loop: Loop, stream: Stream, weather: Weather) -> None:
        self.weather = weather
        self.is_blocked = False
        self.outage = 0
        """Which outage this is, or the last was."""
        self._loop = loop
        self._stream = stream
        self._cuts = 0
        self._clogged_until = 0
        self._waiting: list[tuple[Owner | None, Action, tuple[object, ...]]] = []

    def delay(self) -> int:
        """How long the next message takes."""
        base, spread, spike_parts, spike = self.weather
        chance = self._stream.random()
        chance *= chance
        delay = base + int(spread * chance * chance)
        if spike_parts and happens(self._stream, spike_parts):
            delay += spike
        return delay

    def cut(self) -> None:
        """Let nothing through any more. Cuts count: each has to be healed."""
        self._cuts += 1
        self._look()

    def heal(self) -> None:
        """Take one cut back."""
        self._cuts = max(self._cuts - 1, 0)
        self._look()

    def heal_all(self) -> None:
        """Let everything through."""
        self._cuts = self._clogged_until = 0
        self._look()

    def clog(self, until: int) -> None:
        """Hold back everything until then; connections survive that."""
        self._clogged_until = max(self._clogged_until, until)
        self._loop.post(until, None, self._look)
        self._look()

    def when_open(self, node: Owner | None, action: Action, *arguments: object) -> None:
        """Do this a little after the way opens again."""
        self._waiting.append((node, action, arguments))

    def _look(self) -> None:
        was_blocked = self.is_blocked
        self.is_blocked = self._cuts > 0 or self._loop.now < self._clogged_until
        if self.is_blocked and not was_blocked:
            self.outage += 1
        if self.is_blocked or not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for node, action, arguments in waiting:
            when = self._loop.now + self._stream.randrange(RETRANSMIT_NS)
            self._loop.post(when, node, action, *arguments)


class Fate(enum.Enum):
    """What becomes of the messages that are on their way."""

    DELIVERED = "delivered"
    LOST = "lost"
    LATE = "delivered at some later time, however things stand then"


class Line:
    """One direction of a connection: messages arrive in order, if they arrive.

    Behind the last message comes its end, which arrives also where messages are lost: it is how
    the other side learns that nobody is there any more.
    """

    __slots__ = (
        "_ended",
        "_last",
        "_late_at",
        "_loop",
        "_name",
        "_node",
        "_number",
        "_sink",
        "_stalled",
        "_trace",
        "fate",
        "in_flight",
        "path",
    )

    def __init__(
        self,
        loop: Loop,
        trace: Trace,
        number: int,
        name: str,
        path: Path,
        node: Owner,
        sink: Callable[[Frames], object],
        ended: Callable[[], object],
    ) -> None:
        self.path = path
        self.fate = Fate.DELIVERED
        self.in_flight = 0
        """Messages that were sent and have not arrived."""
        self._loop = loop
        self._trace = trace
        self._number = number
        self._name = name
        self._node = node
        self._sink = sink
        self._ended = ended
        self._last = 0
        self._late_at = 0
        self._stalled: deque[Frames | None] = deque()

    def send(self, frames: Frames | None) -> None:
        """Send a message, or with None the end."""
        loop = self._loop
        at = loop.now + self.path.delay()
        if at <= self._last:
            at = self._last + 1
        self._last = at
        self.in_flight += 1
        loop.post(at, self._node, self._arrive, frames)

    def stray(self, frames: Frames, after: int) -> None:
        """A message of its own that keeps to no order: it arrives however things stand then."""
        self._loop.post(self._loop.now + after, self._node, self._hand_over, frames)

    def settle(self, fate: Fate, late_at: int = 0) -> None:
        """Say what becomes of all that has not arrived; the first word holds."""
        if self.fate is not Fate.DELIVERED:
            return
        self.fate, self._late_at = fate, late_at
        stalled, self._stalled = self._stalled, deque()
        for frames in stalled:
            if frames is None:
                self._stall(None)
            else:
                self._deliver(frames)

    def _arrive(self, frames: Frames | None) -> None:
        if self._stalled or self.path.is_blocked:
            self._stall(frames)
        else:
            self._deliver(frames)

    def _stall(self, frames: Frames | None) -> None:
        if not self._stalled:
            self.path.when_open(self._node, self._drain)
        self._stalled.append(frames)

    def _drain(self) -> None:
        while self._stalled:
            if self.path.is_blocked:
                self.path.when_open(self._node, self._drain)
                return
            self._deliver(self._stalled.popleft())

    def _deliver(self, frames: Frames | None) -> None:
        self.in_flight -= 1
        if frames is None:
            self._ended()
        elif self.fate is Fate.DELIVERED:
            self._hand_over(frames)
        elif self.fate is Fate.LATE:
            self._loop.post(self._late_at, self._node, self._hand_over, frames)

    def _hand_over(self, frames: Frames) -> None:
        trace, now = self._trace, self._loop.now
        trace.message(now, self._number, frames)
        if trace.wants_lines:
            late = "" if self.fate is Fate.DELIVERED else "late: "
            trace.line(now, self._name, late + trace.describe(frames))
        self._sink(frames)
