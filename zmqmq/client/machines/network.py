"""Which brokers to be connected to, and over which connection a request goes.

Somebody always wants at least one broker: while none answers, the bootstrap servers and the
brokers known from metadata are tried one after the other, each with its own back-off. Leaders
are connected to when `to_broker` first asks for them, and stay connected.

What any broker can answer goes to one and the same, the home, as long as that is sound. One that
is silent, shuts down, or may be cut off from the others is left for another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from zmqmq.client.machines.connection import Connection, Identity
from zmqmq.client.machines.effects import (
    NEVER,
    Body,
    Chance,
    Effect,
    Failure,
    Link,
    News,
    OnAnswer,
)
from zmqmq.errors import Code, DisconnectedError, refusal
from zmqmq.wire.apis import Api
from zmqmq.wire.frame import Fields

WAITING_MAX: Final = 4_096
"""Requests that may wait until any broker answers at all."""


class Waiting(NamedTuple):
    """A request that any broker can answer, while none is connected."""

    api: Api
    fields: Fields
    deadline: int
    on_answer: OnAnswer


class Network:
    """All connections of one client.

    Owned by the core (core.py), which forwards socket events by socket number. Numbers of sockets
    are never used again, so what a closed socket still delivers is recognised and ignored.
    """

    def __init__(
        self,
        servers: Sequence[str],
        identity: Identity,
        chance: Chance,
        effects: list[Effect],
        news: News,
    ) -> None:
        assert servers
        self.connections: dict[str, Connection] = {}
        self.addresses: dict[int, str] = {}
        """Where the brokers are, by broker id, as METADATA said last."""
        self.is_closed = False
        self._servers = tuple(servers)
        self._identity = identity
        self._chance = chance
        self._effects = effects
        self._news = news
        self._by_socket: dict[int, Connection] = {}
        self._sockets = 0
        self._home: Connection | None = None
        self._is_seeking = True
        """Whether there was no sound connection when `handle_time` looked last."""
        self._waiting: deque[Waiting] = deque()
        self._next_waiting_deadline = NEVER

    @property
    def cluster(self) -> bytes | None:
        """The id of the cluster; None before any broker has answered."""
        return self._identity.cluster

    def new_socket(self) -> int:
        """A number for a socket, never used again."""
        self._sockets += 1
        return self._sockets

    def any_ready(self, now: int) -> Connection | None:
        """A connection that answers; the same one as long as it is sound, or there is none."""
        home = self._home
        if home is not None and home.is_fit(now):
            return home
        ready = [c for c in self.connections.values() if c.is_ready]
        last = home if home in ready else next(iter(ready), None)
        self._home = next((c for c in ready if c.is_fit(now)), last)
        return self._home

    def to_broker(self, broker: int) -> Connection | None:
        """The connection to this broker if it is ready; else it is being opened, or None."""
        for connection in self.connections.values():
            # A bootstrap address may be another name of the broker that metadata calls otherwise.
            if connection.is_ready and connection.broker == broker:
                connection.is_wanted = True
                return connection
        address = self.addresses.get(broker)
        if address is not None:
            connection = self._connection(address)
            if not connection.is_wanted:
                connection.is_wanted = self._news.is_fresh = True
        return None

    def is_failing(self, broker: int) -> bool:
        """Whether a broker that `to_broker` does not reach was not reached lately either."""
        address = self.addresses.get(broker)
        if address is None:
            return True
        connection = self.connections.get(address)
        # Ready, and yet not this broker: somebody else lives there by now.
        return connection is not None and (connection.failures > 0 or connection.is_ready)

    def has_others(self, brokers: Collection[int]) -> bool:
        """Whether there is a broker besides these, as far as is known; it may be out of reach."""
        for address in self._servers:
            connection = self.connections.get(address)
            # METADATA knows who there is. A bootstrap server that it does not name counts only
            # until it was tried: then it is one of these by another name, or nobody.
            if connection is None or (
                connection.failures == 0 and connection.broker not in brokers
            ):
                return True
        return any(broker not in brokers for broker in self.addresses)

    def ask_others(self, now: int, broker: int) -> None:
        """Somebody wants to hear another broker than this one."""
        for connection in self.connections.values():
            if connection.broker == broker:
                connection.prefer_others(now)

    def has_silent(self) -> bool:
        """Whether a broker owes answers, and does not say either that it is there."""
        return any(connection.is_silent for connection in self.connections.values())

    def leave_silent(self, now: int, replaced: Mapping[int, int]) -> None:
        """Give up connections to brokers that were replaced then, and not heard since: what was
        asked there is to be asked elsewhere."""
        for connection in self.connections.values():
            then = replaced.get(connection.broker)
            if then is not None and connection.is_silent_since(then):
                socket = connection.socket
                connection.drop(now, "PING was not answered, and others lead by now")
                self._forget_closed(socket, connection)

    def encourage(self, now: int, brokers: Sequence[int]) -> None:
        """These were elected: they are there, however long they were away."""
        for broker in brokers:
            connection = self.connections.get(self.addresses.get(broker, ""))
            if connection is not None:
                connection.reopen_at = min(connection.reopen_at, now)

    def request_any(
        self, now: int, api: Api, fields: Fields, deadline: int, on_answer: OnAnswer
    ) -> None:
        """Send a request to some broker, as soon as one answers."""
        connection = self.any_ready(now)
        if connection is not None:
            connection.request(now, api, fields, (), deadline, on_answer)
        elif len(self._waiting) >= WAITING_MAX or self.is_closed:
            detail = f"{len(self._waiting)} requests wait for a broker; {self.failures()}"
            on_answer(now, Failure(refusal(Code.THROTTLED, detail), is_sent=False))
        else:
            self._news.is_fresh = True
            self._waiting.append(Waiting(api, fields, deadline, on_answer))
            self._next_waiting_deadline = min(self._next_waiting_deadline, deadline)

    def failures(self) -> str:
        """What happened at each address last, for an error message."""
        return "; ".join(
            f"{address}: {connection.last_failure if connection else 'not tried yet'}"
            for address in self._candidates()
            for connection in [self.connections.get(address)]
        )

    def failure_of(self, broker: int) -> str:
        """Why one broker is not reached, for an error message."""
        address = self.addresses.get(broker)
        if address is None:
            return f"broker {broker} is not up"
        connection = self.connections.get(address)
        why = connection.last_failure if connection is not None else ""
        return f"broker {broker} is not reached at {address}: {why or 'no answer in time'}"

    def note_brokers(self, addresses: dict[int, str]) -> None:
        """METADATA told which brokers there are."""
        self.addresses = addresses
        for connection in self.connections.values():
            if connection.address not in self._candidates():
                connection.is_wanted = False

    def handle_message(self, now: int, socket: int, frames: Sequence[Body]) -> bool:
        """A message came in on a socket; whether it is one of ours."""
        connection = self._by_socket.get(socket)
        if connection is None:
            return False
        connection.handle_message(now, frames)
        self._forget_closed(socket, connection)
        return True

    def handle_link(self, now: int, socket: int, link: Link) -> None:
        """Something happened to the TCP connection of a socket."""
        connection = self._by_socket.get(socket)
        if connection is not None:
            connection.handle_link(now, link)
            self._forget_closed(socket, connection)

    def note_congestion(self, socket: int, *, is_congested: bool) -> None:
        """A socket takes no more for now, or takes more again."""
        connection = self._by_socket.get(socket)
        if connection is not None:
            connection.note_congestion(is_congested=is_congested)

    def handle_time(self, now: int) -> None:
        """Expire, ping, reopen, and look for a broker while there is none."""
        for connection in tuple(self.connections.values()):
            socket = connection.socket
            if now >= connection.next_wake():
                connection.handle_time(now)
                self._forget_closed(socket, connection)
            if (
                connection.is_wanted
                and connection.socket < 0
                and now >= connection.reopen_at
                and not self.is_closed
            ):
                self._open(now, connection)
        if now >= self._next_waiting_deadline:
            self._expire_waiting(now)
        home = self.any_ready(now)
        self._is_seeking = home is None or not home.is_fit(now)
        if self._is_seeking:
            self._seek_home(now)
        if home is not None and self._waiting:
            self._send_waiting(now, home)

    def next_wake(self) -> int:
        """When `handle_time` has something to do next."""
        wake = self._next_waiting_deadline
        for connection in self.connections.values():
            wake = min(wake, connection.next_wake())
        if self._is_seeking and not self.is_closed:
            wake = min(wake, self._seek_at())
        return wake

    def close(self, now: int) -> None:
        """End every connection; what still waits fails."""
        self.is_closed = True
        for connection in self.connections.values():
            connection.close(now, "the client was closed")
        self._by_socket.clear()
        waiting, self._waiting = list(self._waiting), deque()
        for entry in waiting:
            error = DisconnectedError(f"{entry.api.name} was not sent: the client was closed")
            entry.on_answer(now, Failure(error, is_sent=False))

    def check(self) -> None:
        """Assert what holds between events."""
        for connection in self.connections.values():
            connection.check()
        open_sockets = {c.socket for c in self.connections.values() if c.socket >= 0}
        assert open_sockets == set(self._by_socket)

    def _candidates(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._servers, *self.addresses.values())))

    def _connection(self, address: str) -> Connection:
        connection = self.connections.get(address)
        if connection is None:
            connection = Connection(
                address, self._identity, self._chance, self._effects, self._news
            )
            self.connections[address] = connection
        return connection

    def _open(self, now: int, connection: Connection) -> None:
        socket = self.new_socket()
        self._by_socket[socket] = connection
        connection.open(now, socket)

    def _forget_closed(self, socket: int, connection: Connection) -> None:
        if connection.socket != socket:
            self._by_socket.pop(socket, None)

    def _seek_at(self) -> int:
        """When the next address may be tried."""
        known = self.connections
        closed = self._closed_addresses()
        at = min((known[a].reopen_at if a in known else 0 for a in closed), default=NEVER)
        return max([at, *(c.greets_alone_until for c in known.values())])

    def _seek_home(self, now: int) -> None:
        if self.is_closed or now < self._seek_at():
            return
        connections = [self._connection(address) for address in self._closed_addresses()]
        self._open(now, min(connections, key=lambda c: c.reopen_at))

    def _closed_addresses(self) -> list[str]:
        """Where there may be a broker that this client has no socket to."""
        sockets = [c for c in self.connections.values() if c.socket >= 0]
        taken = {c.address for c in sockets}
        # A bootstrap address may be another name of a broker that is there already.
        taken |= {
            self.addresses[c.broker] for c in sockets if c.is_ready and c.broker in self.addresses
        }
        return [address for address in self._candidates() if address not in taken]

    def _send_waiting(self, now: int, connection: Connection) -> None:
        waiting, self._waiting = self._waiting, deque()
        self._next_waiting_deadline = NEVER
        for api, fields, deadline, on_answer in waiting:
            connection.request(now, api, fields, (), deadline, on_answer)

    def _expire_waiting(self, now: int) -> None:
        late = [entry for entry in self._waiting if entry.deadline <= now]
        self._waiting = deque(entry for entry in self._waiting if entry.deadline > now)
        self._next_waiting_deadline = min((e.deadline for e in self._waiting), default=NEVER)
        for entry in late:
            error = DisconnectedError(f"{entry.api.name} was not sent: {self.failures()}")
            entry.on_answer(now, Failure(error, is_sent=False))
