"""What the client's machines ask of whoever drives them, and what they are lent.

The driver (client/driver.py, or a test) owes the machines what it owes any machine: one event at
a time, a clock in nanoseconds that never runs backwards, and for every OpenSocket the link events
and messages of that socket until CloseSocket. Effects are carried out in the order of the list
for one socket; different sockets are independent.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from zmqmq.errors import ZmqmqError
from zmqmq.wire.frame import Fields

if TYPE_CHECKING:
    from zmqmq.client.machines.batch import Batch

MS = 1_000_000
"""Nanoseconds of a millisecond."""
SECOND = 1_000 * MS
NEVER = 2**63 - 1
"""A wake-up time that is not one."""

Body = bytes | memoryview


class Chance(Protocol):
    """Randomness, lent by the driver: the machines have none of their own."""

    def jitter(self) -> int:
        """A number from 0 to 999: thousandths."""
        ...

    def session_id(self) -> bytes:
        """16 bytes that nobody else has."""
        ...


class Promise(Protocol):
    """Where the result of a command goes. The machines only carry it into an effect."""


class Link(enum.Enum):
    """What became of a socket's TCP connection."""

    CONNECTED = "connected"
    REFUSED = "refused or unreachable"
    UNKNOWN = "its name is not known"
    BAD_HANDSHAKE = "connected, but the peer does not speak ZeroMQ"
    LOST = "connection lost"


class OpenSocket(NamedTuple):
    """Make a DEALER and connect it; `socket` names it from now on."""

    socket: int
    address: str


class OpenSubscriber(NamedTuple):
    """Make a SUB socket and connect it; numbered as DEALERs are. It connects again by itself, and
    has its subjects then as before."""

    socket: int
    address: str


class Subscribe(NamedTuple):
    """Have a SUB socket get what is published on this subject."""

    socket: int
    subject: bytes


class Unsubscribe(NamedTuple):
    """Have it do so no more. What is on its way still comes."""

    socket: int
    subject: bytes


class CloseSocket(NamedTuple):
    """Close it without waiting; what is queued in it is dropped."""

    socket: int


class Transmit(NamedTuple):
    """Send one message."""

    socket: int
    frames: Sequence[Body]


class Resolved(NamedTuple):
    """A command is done."""

    promise: Promise
    value: object


class Rejected(NamedTuple):
    """A command has failed."""

    promise: Promise
    error: ZmqmqError


class Settled(NamedTuple):
    """These batches have got their outcome: wake who waits for them, or for room."""

    batches: Sequence[Batch]
    promise: Promise


class Fetched(NamedTuple):
    """The consumer of this promise has something new to look at: chunks, an error or its end."""

    promise: Promise


class CommitDue(NamedTuple):
    """Ask this consumer's reader what it has consumed, and commit that."""

    promise: Promise


class Observed(NamedTuple):
    """Something a person may want to know; the driver logs it."""

    event: str
    """A short stable name."""
    detail: str
    is_warning: bool = False


class News:
    """Whether something has happened that other machines have to look at.

    Most messages are the answer to a PRODUCE that leaves nothing to be done: then no machine is
    asked whether it has anything to do, which would cost more than the answer did.
    """

    __slots__ = ("is_fresh",)

    def __init__(self) -> None:
        self.is_fresh = True


Effect = (
    OpenSocket
    | OpenSubscriber
    | Subscribe
    | Unsubscribe
    | CloseSocket
    | Transmit
    | Resolved
    | Rejected
    | Settled
    | Fetched
    | CommitDue
    | Observed
)


class Reply(NamedTuple):
    """What a broker answered."""

    fields: Fields
    body: Sequence[Body]
    broker: int
    """Who answered."""


class Failure(NamedTuple):
    """Why there is no answer."""

    error: ZmqmqError
    is_sent: bool
    """Whether the request may have reached the broker: *perhaps* if so, *no* if not."""


OnAnswer = Callable[[int, Reply | Failure], None]
"""Called with the time and the answer, exactly once for each call."""
