"""What is published: XPUB sockets with ZMQ_XPUB_MANUAL, and SUB sockets that connect to them.

Subscriptions travel as messages, so whoever has just subscribed misses what is published meanwhile.
Whoever has 256 messages under way, or fewer if the seed says so, loses the next ones silently. An
unsubscribe takes nothing back.

`Mischief` is what happens besides: messages lost, twice or late, subscribers to whom nothing gets
for a while, subscriptions that nobody hears. One connection of ZeroMQ neither doubles nor reorders;
a SUB that was opened anew, or an old leader beside a new one, look as if it did.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from zmqmq.core.storage.disk import Buffer
from zmqmq.sim.chance import Chance, happens
from zmqmq.sim.connection import End
from zmqmq.sim.links import Frames
from zmqmq.sim.node import MS, SECOND, Node
from zmqmq.sim.sockets import Acceptor, Connected, Connector, Switchboard

QUEUE_MAX: Final = 256
"""Messages under way to one SUB (SNDHWM of the XPUB)."""
LATE_NS: Final = (10 * MS, 200 * MS, 3 * SECOND)
"""One of these is how late a message may be at most."""
ON: Final = b"\1"
OFF: Final = b"\0"

Undo = Callable[[], object]


class Odds(NamedTuple):
    """How many in a million messages are lost, come twice, or late."""

    lost: int = 0
    twice: int = 0
    late: int = 0


class Mischief:
    """What goes wrong with what is published. All of it adds up until it is taken back."""

    def __init__(self, chance: Chance) -> None:
        self.chance = chance
        self.rarely: Counter[str] = Counter()
        """What happened, for the marks."""
        self.queue_max = QUEUE_MAX
        self._odds: dict[int, tuple[str, Odds]] = {}
        self._numbers = 0
        self._stalled: Counter[str] = Counter()
        self._unheard: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._waiting: list[_Outlet] = []

    def spoil(self, odds: Odds, subscriber: str = "") -> Undo:
        """Deal so with what goes to a node, or to everybody."""
        self._numbers = number = self._numbers + 1
        self._odds[number] = (subscriber, odds)
        return lambda: self._odds.pop(number, None)

    def stall(self, subscriber: str) -> Undo:
        """Hold back what goes to a node; what is more than a queue takes is lost."""
        undo = _count(self._stalled, subscriber)

        def end() -> None:
            undo()
            self._let_go()

        return end

    def unhear(self, publisher: str) -> Undo:
        """Lose the subscriptions that a node is sent."""
        return _count(self._unheard, publisher)

    def refuse(self, publisher: str) -> Undo:
        """Have the socket of a node admit nobody, though its owner would."""
        return _count(self._refused, publisher)

    def heal_all(self) -> None:
        """Take everything back."""
        self._odds.clear()
        for counts in (self._stalled, self._unheard, self._refused):
            counts.clear()
        self._let_go()

    # For the sockets

    def odds(self, subscriber: str) -> Odds:
        """How messages fare on their way to a node."""
        lost = twice = late = 0
        for whom, odds in self._odds.values():
            if whom in ("", subscriber):
                lost, twice, late = lost + odds.lost, twice + odds.twice, late + odds.late
        return Odds(lost, twice, late)

    def is_stalled(self, subscriber: str) -> bool:
        """Whether nothing gets to a node for now."""
        return self._stalled[subscriber] > 0

    def is_unheard(self, publisher: str) -> bool:
        """Whether a node hears of no subscription."""
        return self._unheard[publisher] > 0

    def is_refused(self, publisher: str) -> bool:
        """Whether a node admits nobody."""
        return self._refused[publisher] > 0

    def when_released(self, outlet: _Outlet) -> None:
        """Let this go on when nothing stalls it any more."""
        self._waiting.append(outlet)

    def _let_go(self) -> None:
        waiting, self._waiting = self._waiting, []
        for outlet in waiting:
            outlet.go_on()


def _count(counts: Counter[str], name: str) -> Undo:
    counts[name] += 1

    def end() -> None:
        counts[name] = max(counts[name] - 1, 0)

    return end


class _Outlet:
    """What a publisher has for one subscriber."""

    __slots__ = ("_end", "_held", "_mischief", "_name", "_stream", "subjects")

    def __init__(self, end: End, mischief: Mischief) -> None:
        self.subjects: dict[bytes, None] = {}
        """Those that it was admitted to."""
        self._end = end
        self._mischief = mischief
        self._name = end.other.node.name
        self._stream = mischief.chance.stream(f"push/{end.node.name}>{self._name}")
        self._held: deque[Frames] = deque()

    def send(self, frames: Frames) -> None:
        """Send a message, if there is room for it."""
        mischief, stream, line = self._mischief, self._stream, self._end.leaving
        if line.in_flight + len(self._held) >= mischief.queue_max:
            mischief.rarely["push: queue full"] += 1
            return
        odds = mischief.odds(self._name)
        if odds.lost and happens(stream, odds.lost):
            mischief.rarely["push: lost"] += 1
            return
        if odds.twice and happens(stream, odds.twice):
            mischief.rarely["push: twice"] += 1
            line.stray(frames, stream.randrange(stream.choice(LATE_NS)))
        if odds.late and happens(stream, odds.late):
            mischief.rarely["push: late"] += 1
            line.stray(frames, stream.randrange(stream.choice(LATE_NS)))
        elif mischief.is_stalled(self._name):
            if not self._held:
                mischief.when_released(self)
            self._held.append(frames)
        else:
            self._end.send(frames)

    def go_on(self) -> None:
        """Send what was held back, unless it has to wait yet."""
        if self._mischief.is_stalled(self._name):
            self._mischief.when_released(self)
            return
        while self._held:
            self._end.send(self._held.popleft())

    def close(self) -> None:
        """Drop what was held back."""
        self._held.clear()


class Publishing(Protocol):
    """Who has an XPUB."""

    def wanted(self, subject: bytes) -> object:
        """A SUB has subscribed; it gets the subject if it is admitted before this returns."""


class Publisher(Acceptor):
    """An XPUB."""

    __slots__ = ("_asking", "_mischief", "_outlets", "_receiver")

    def __init__(
        self, node: Node, address: str, receiver: Publishing, first_route: int, mischief: Mischief
    ) -> None:
        super().__init__(node, address, first_route)
        self._receiver = receiver
        self._mischief = mischief
        self._outlets: dict[bytes, _Outlet] = {}
        self._asking: tuple[_Outlet, bytes] | None = None

    def publish(self, frames: Sequence[Buffer]) -> None:
        """Send to everybody who was admitted to the subject that is the first frame."""
        message = list(map(bytes, frames))
        for outlet in self._outlets.values():
            if any(message[0].startswith(subject) for subject in outlet.subjects):
                outlet.send(message)

    def admit(self, subject: bytes) -> None:
        """Let the SUB have it whose subscription is being looked at."""
        assert self._asking is not None, "nobody has asked for a subject"
        outlet, asked = self._asking
        assert subject == asked, f"{asked!r} was asked for"
        if not self._mischief.is_refused(self.node.name):
            outlet.subjects[subject] = None

    def close(self) -> None:
        """Take in nothing more; what was sent may arrive."""
        self._forget_all()
        super().close()

    def died(self) -> None:
        """The process is gone."""
        self._forget_all()
        super().died()

    def joined(self, route: bytes, end: End) -> None:
        """A SUB has connected."""
        super().joined(route, end)
        self._outlets[route] = _Outlet(end, self._mischief)

    def left(self, route: bytes) -> None:
        """A connection is over."""
        super().left(route)
        outlet = self._outlets.pop(route, None)
        if outlet is not None:
            outlet.close()

    def take(self, route: bytes, frames: Frames) -> None:
        """A subscription has arrived, or its end."""
        outlet = self._outlets.get(route)
        if outlet is None:
            return
        (message,) = frames
        subject = message[1:]
        if message[:1] == OFF:
            outlet.subjects.pop(subject, None)
        elif self._mischief.is_unheard(self.node.name):
            self._mischief.rarely["push: subscription lost"] += 1
        else:
            self._asking = outlet, subject
            self._receiver.wanted(subject)
            self._asking = None
            if subject not in outlet.subjects:
                self._mischief.rarely["push: subscription refused"] += 1

    def _forget_all(self) -> None:
        for outlet in self._outlets.values():
            outlet.close()
        self._outlets.clear()


class Subscriber(Connector):
    """A SUB."""

    __slots__ = ("_subjects",)

    def __init__(self, network: Switchboard, node: Node, address: str, receiver: Connected) -> None:
        self._subjects: dict[bytes, None] = {}
        super().__init__(network, node, address, receiver)

    def subscribe(self, subject: bytes) -> None:
        """Get what is published on this subject, on every connection from now on."""
        assert subject not in self._subjects, f"{subject!r} is subscribed to already"
        self._subjects[subject] = None
        if self._end is not None:
            self._end.send([ON + subject])

    def unsubscribe(self, subject: bytes) -> None:
        """Get it no more. What is on its way still comes."""
        del self._subjects[subject]
        if self._end is not None:
            self._end.send([OFF + subject])

    def _greet(self, end: End) -> None:
        for subject in self._subjects:
            end.send([ON + subject])
