"""One broker's connection: greeting, who waits for which answer, and starting over.

Answers two questions: which call does this message answer, and is the connection still good? It
leaves to `network.py` which brokers to be connected to and to the callers what to do about a
failed call. Each call gets exactly one answer: the broker's, a time-out, or the connection's end.

A socket is never mended. Whatever is wrong with it (no answer to HELLO or PING, two time-outs in
a row, a refused session, a lost TCP connection), it is closed and another one opened, since the
broker knows a socket by a routing id that no reply reaches any more once TCP has reconnected
(zeromq.md 3.3, pitfalls 7 to 10).

A broker that owes answers and says nothing for a while is sent a PING: one that is paused, or cut
off without a word, is found out in seconds, however long the requests themselves may take. It is
left as soon as METADATA says that others lead what it led (routing.py), else after a while: an
answer may also wait behind a large one on a slow link.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from zmqmq.client.machines.backoff import Backoff
from zmqmq.client.machines.effects import (
    MS,
    NEVER,
    SECOND,
    Body,
    Chance,
    CloseSocket,
    Effect,
    Failure,
    Link,
    News,
    Observed,
    OnAnswer,
    OpenSocket,
    Reply,
    Transmit,
)
from zmqmq.client.machines.limits import Limits, limits_of
from zmqmq.errors import (
    Code,
    DisconnectedError,
    OutcomeUnknownError,
    ProtocolError,
    TimedOutError,
    WireError,
    error_from_wire,
    refusal,
)
from zmqmq.wire.apis import ERROR, REPLIES, Api
from zmqmq.wire.frame import VERSION, Fields, decode_reply_header, encode_header
from zmqmq.wire.schema import reader

CALLS_MAX: Final = 4_096
"""Calls of one connection that may wait for an answer, sent or not."""
REQUESTS_IN_FLIGHT_MAX: Final = 64
"""Requests that were sent and are not answered: as many as the socket's queue takes."""
GREETING_TIMEOUT: Final = 3 * SECOND
GREETING_ALONE: Final = SECOND
"""Without an answer to HELLO for so long another broker is tried too: this one may be frozen. If it
was only slow, both connections stay."""
SILENCE_MAX: Final = SECOND
"""A broker that owes an answer and is not heard for so long is asked whether it is there."""
PROBE_TIMEOUT: Final = 7 * SECOND
"""How long it may take to say so."""
DOUBT: Final = 10 * SECOND
"""How long others are preferred to a broker that did not carry something out."""
SILENT_TIMEOUTS_MAX: Final = 2
"""Time-outs in a row with nothing heard in between, after which a socket counts as dead."""

_read_hello = reader(REPLIES[Api.HELLO])
_CARRIES_RX = frozenset({Api.FETCH, Api.PING})
_SPEAKS_FOR_ITSELF = frozenset({Api.PRODUCE, Api.PING})
"""Whose caller says itself whether there is news in the answer."""
_SESSION_ENDED = frozenset({Code.NEED_HELLO, Code.SESSION_FENCED})


class Phase(enum.Enum):
    """How far a connection has got."""

    IDLE = enum.auto()
    """No socket; another one at `reopen_at` if somebody wants it."""
    GREETING = enum.auto()
    READY = enum.auto()


@dataclass(slots=True)
class Identity:
    """Who this client is, and which cluster it has found. Shared by its connections."""

    client: str
    cluster: bytes | None = None
    """Of the first broker that answered: brokers of another one are not joined to it."""


class Call:
    """One request and who waits for its answer."""

    __slots__ = ("api", "body", "deadline", "fields", "is_sent", "on_answer")

    def __init__(
        self, api: Api, fields: Fields, body: Sequence[Body], deadline: int, on_answer: OnAnswer
    ) -> None:
        self.api = api
        self.fields = fields
        self.body = body
        self.deadline = deadline
        self.on_answer = on_answer
        self.is_sent = False


class Connection:
    """The connection to one address, over any number of sockets one after the other.

    Invariants: a socket is open in every phase but IDLE; each number in `calls` is answered
    once; calls are sent in the order in which they were made.
    """

    def __init__(
        self,
        address: str,
        identity: Identity,
        chance: Chance,
        effects: list[Effect],
        news: News,
    ) -> None:
        self.address = address
        self.phase = Phase.IDLE
        self.limits = Limits()
        self.broker = -1  # until HELLO names it
        self.broker_epoch = 0
        self.last_failure = "not tried yet"
        """What became of the last attempt, in words."""
        self.reopen_at = 0
        """The earliest time for the next socket."""
        self.is_wanted = False
        """Whether to open the next socket by itself once `reopen_at` is reached."""
        self.socket = -1
        self._identity = identity
        self._chance = chance
        self._effects = effects
        self._news = news
        self._backoff = Backoff(chance)
        self._calls: dict[int, Call] = {}
        self._queue: deque[int] = deque()
        self._sent_count = 0
        self._correlation = 0
        self._greeting_deadline = NEVER
        self._next_deadline = NEVER
        self._ping_at = NEVER
        self._ping_every = 20 * SECOND
        self._session = chance.session_id()
        """Kept from socket to socket, so that the broker fences the socket before."""
        self._rx = 0
        self._silent_timeouts = 0
        self._heard_at = 0
        """When a message came last, or when the broker began to owe an answer."""
        self._probed_at = -1
        self._doubted_until = self._others_until = 0
        self._is_leaving = False
        """Whether the broker has said that it shuts down."""
        self._is_congested = False
        self._is_warning = True
        """Whether the end of a connection is worth a warning: not when it is wanted."""
        self._clock_offset = 0

    @property
    def is_ready(self) -> bool:
        """Whether requests go out at once."""
        return self.phase is Phase.READY

    @property
    def failures(self) -> int:
        """How many attempts in a row have come to nothing; 0 once the broker has answered."""
        return self._backoff.failures

    @property
    def is_silent(self) -> bool:
        """Whether the broker owes an answer, was asked whether it is there, and said nothing."""
        return self.phase is Phase.READY and self._probed_at > self._heard_at

    def is_silent_since(self, then: int) -> bool:
        """Whether it is, and was not heard after that moment."""
        return self.is_silent and self._heard_at <= then

    def is_sound(self, now: int) -> bool:
        """Whether it is ready, and nothing speaks for asking another broker instead."""
        return (
            self.phase is Phase.READY
            and not self.is_silent
            and self._doubted_until <= now
            and not self._is_leaving
        )

    def is_fit(self, now: int) -> bool:
        """Whether to ask it what any broker could answer."""
        return self.is_sound(now) and self._others_until <= now

    @property
    def greets_alone_until(self) -> int:
        """Until when nobody else is tried because this one may answer; 0: that is no reason."""
        if self.phase is not Phase.GREETING or self.failures >= 2:
            return 0  # an attempt that has failed twice already is not worth waiting for
        return self._greeting_deadline - GREETING_TIMEOUT + GREETING_ALONE

    def prefer_others(self, now: int) -> None:
        """What it has said is to be heard of another one too; it may well be right."""
        self._others_until = now + DOUBT

    def doubt(self, now: int) -> None:
        """The broker did not carry something out: it may be cut off from the others."""
        self._doubted_until = now + DOUBT

    @property
    def room(self) -> int:
        """How many more requests the broker takes now; 0 unless ready."""
        if self.phase is not Phase.READY or self._is_congested:
            return 0
        return REQUESTS_IN_FLIGHT_MAX - self._sent_count - len(self._queue)

    def broker_time_ms(self, now: int) -> int:
        """The broker's clock at `now`, as far as it has told."""
        return (now + self._clock_offset) // MS

    def next_wake(self) -> int:
        """When `handle_time` has something to do next."""
        if self.phase is Phase.READY:
            return min(self._next_deadline, self._ping_at, self._probe_at())
        reopen_at = self.reopen_at if self.phase is Phase.IDLE and self.is_wanted else NEVER
        return min(self._next_deadline, self._greeting_deadline, reopen_at)

    def open(self, now: int, socket: int) -> None:
        """Open a socket under this number and greet the broker on it."""
        assert self.phase is Phase.IDLE
        self.phase = Phase.GREETING
        self.socket = socket
        self.last_failure = "no answer yet"
        self._rx = 0
        self._silent_timeouts = self._doubted_until = self._others_until = 0
        self._is_congested = self._is_leaving = False
        self._greeting_deadline = now + GREETING_TIMEOUT
        self._effects.append(OpenSocket(socket, self.address))
        hello: Fields = {
            "client": self._identity.client,
            "min": VERSION,
            "max": VERSION,
            "session": self._session,
        }
        if self._identity.cluster is not None:
            hello["cluster"] = self._identity.cluster
        self._correlation += 1
        self._effects.append(
            Transmit(socket, (encode_header(Api.HELLO, self._correlation, hello),))
        )

    def request(
        self,
        now: int,
        api: Api,
        fields: Fields,
        body: Sequence[Body],
        deadline: int,
        on_answer: OnAnswer,
    ) -> None:
        """Send a request, or keep it until the connection is ready; `on_answer` hears of it."""
        if len(self._calls) >= CALLS_MAX:
            detail = f"{CALLS_MAX} requests to {self.address} wait already; wait for some answers"
            on_answer(now, Failure(refusal(Code.THROTTLED, detail), is_sent=False))
            return
        self._correlation += 1
        self._calls[self._correlation] = Call(api, fields, body, deadline, on_answer)
        self._next_deadline = min(self._next_deadline, deadline)
        self._queue.append(self._correlation)
        if not self._sent_count:
            self._heard_at = max(self._heard_at, now)
        self._send_queued()

    def send_unanswered(self, api: Api, fields: Fields, body: Sequence[Body]) -> None:
        """Send a request that the broker does not answer. Only while ready."""
        assert self.phase is Phase.READY
        self._correlation += 1
        header = encode_header(api, self._correlation, fields)
        self._effects.append(Transmit(self.socket, (header, *body)))

    def handle_message(self, now: int, frames: Sequence[Body]) -> None:
        """A message came in on the current socket."""
        try:
            api, _, correlation, fields = decode_reply_header(bytes(frames[0]))
        except ProtocolError as error:
            self.drop(now, str(error))
            return
        self._silent_timeouts = 0
        self._heard_at = now
        if self.phase is Phase.GREETING:
            if api == Api.HELLO:
                self._news.is_fresh = True
                self._take_hello(now, fields)
            return
        body = frames[1:]
        for frame in body:
            self._rx += len(frame)
        call = self._calls.pop(correlation, None)
        if call is None:
            return  # it timed out, and its caller has heard so
        if call.is_sent:
            self._sent_count -= 1
        if call.api not in _SPEAKS_FOR_ITSELF:
            self._news.is_fresh = True
        if ERROR in fields:
            self._refused(now, call, fields[ERROR])
        else:
            call.on_answer(now, Reply(fields, body, self.broker))
        self._send_queued()

    def handle_link(self, now: int, link: Link) -> None:
        """Something happened to the TCP connection of the current socket."""
        if link is Link.CONNECTED:
            self.last_failure = "connected, but HELLO was not answered"
        elif self.phase is not Phase.IDLE:
            self.drop(now, link.value)

    def note_congestion(self, *, is_congested: bool) -> None:
        """The socket's own queue is full, or has room again."""
        self._is_congested = is_congested
        self._send_queued()

    def handle_time(self, now: int) -> None:
        """Fail what is overdue, and ask whether the broker is still there."""
        if self.phase is Phase.GREETING and now >= self._greeting_deadline:
            self.drop(now, self.last_failure)
        if now >= self._next_deadline:
            self._expire(now)
        if self.phase is Phase.READY and now >= self._ping_at:
            self._ping_at = now + self._ping_every
            self.request(now, Api.PING, {}, (), now + self._ping_every, self._take_ping)
        if self.phase is Phase.READY and now >= self._probe_at():
            self._probed_at = now
            self._news.is_fresh = True
            self.request(now, Api.PING, {}, (), now + PROBE_TIMEOUT, self._take_probe)

    def drop(self, now: int, reason: str) -> None:
        """Give the socket up. Calls that were sent fail; the others wait for the next socket, and
        fail if that does not come to be ready either: another broker may do."""
        if self.phase is Phase.IDLE:
            return
        was_ready = self.phase is Phase.READY
        self._news.is_fresh = True
        if was_ready:
            detail = f"{self.address}: {reason}"
            self._effects.append(Observed("disconnected", detail, is_warning=self._is_warning))
        self.phase = Phase.IDLE
        self.last_failure = reason
        self.reopen_at = now + self._backoff.next_delay()
        self._greeting_deadline = self._ping_at = NEVER
        self._effects.append(CloseSocket(self.socket))
        self.socket = -1
        self._sent_count = 0
        lost = [n for n, call in self._calls.items() if call.is_sent or not was_ready]
        for call in [self._calls.pop(number) for number in lost]:
            detail = f"the connection to {self.address} ended before the answer came: {reason}"
            if not call.is_sent:
                detail = f"{call.api.name} was not sent to {self.address}: {reason}"
            call.on_answer(now, Failure(DisconnectedError(detail), call.is_sent))
        self.is_wanted |= bool(self._calls)

    def close(self, now: int, reason: str) -> None:
        """End for good: every call fails, and the broker is told that nobody comes back."""
        self._is_warning = False
        if self.phase is Phase.READY:
            self.send_unanswered(Api.PING, {"close": True}, ())
        self.drop(now, reason)
        self.is_wanted = False
        calls, self._calls = list(self._calls.values()), {}
        self._queue.clear()
        self._next_deadline = NEVER
        for call in calls:
            detail = f"not sent to {self.address}: {reason}"
            call.on_answer(now, Failure(DisconnectedError(detail), is_sent=False))

    def check(self) -> None:
        """Assert what holds between events."""
        assert (self.phase is Phase.IDLE) == (self.socket == -1)
        assert self._sent_count == sum(call.is_sent for call in self._calls.values())
        assert all(call.deadline >= self._next_deadline for call in self._calls.values())

    def _take_hello(self, now: int, fields: Fields) -> None:
        if ERROR in fields:
            error = error_from_wire(fields[ERROR])
            self.drop(now, f"HELLO was refused: {error.code.name} {error.detail}")
            return
        try:
            version, _, cluster, broker, epoch, _, lease_ms, time_ms, _, limits = _read_hello(
                fields
            )
        except WireError as error:
            self.drop(now, f"HELLO was answered with nonsense: {error.detail}")
            return
        if version != VERSION:
            self.drop(now, f"the broker speaks protocol version {version}, this client {VERSION}")
            return
        self._identity.cluster = self._identity.cluster or cluster
        self.broker = broker
        self.broker_epoch = epoch
        self.limits = limits_of(limits)
        self.phase = Phase.READY
        self.last_failure = ""
        self._backoff.reset()
        self._note_clock(now, time_ms)
        self._greeting_deadline = NEVER
        self._ping_every = max(lease_ms * MS // 3, MS)
        self._ping_at = now + self._ping_every
        self._effects.append(Observed("connected", f"{self.address} is broker {broker}"))
        self._send_queued()

    def _take_ping(self, now: int, answer: Reply | Failure) -> None:
        if isinstance(answer, Reply):
            time_ms = answer.fields.get("time_ms")
            if type(time_ms) is int:
                self._note_clock(now, time_ms)
        elif self.phase is Phase.READY:
            self.drop(now, "PING was not answered")

    def _take_probe(self, now: int, answer: Reply | Failure) -> None:
        if isinstance(answer, Reply):
            self._take_ping(now, answer)
        elif self.is_silent:
            self.drop(now, "PING was not answered, nor anything else")

    def _probe_at(self) -> int:
        if not self._sent_count or self._probed_at > self._heard_at:
            return NEVER
        return self._heard_at + SILENCE_MAX

    def _note_clock(self, now: int, time_ms: int) -> None:
        self._clock_offset = time_ms * MS - now

    def _refused(self, now: int, call: Call, error_map: object) -> None:
        error = error_from_wire(error_map if isinstance(error_map, dict) else {})
        self._is_leaving |= error.code is Code.SHUTTING_DOWN
        time_ms = error.hints.get("time_ms")
        if type(time_ms) is int:
            self._note_clock(now, time_ms)
        if error.code in _SESSION_ENDED:
            if error.code is Code.SESSION_FENCED:
                self._session = self._chance.session_id()
            # The broker did nothing, so the same call can go out on the next socket.
            call.is_sent = False
            self._correlation += 1
            self._calls[self._correlation] = call
            self._queue.appendleft(self._correlation)
            self._next_deadline = min(self._next_deadline, call.deadline)
            self.drop(now, f"the session has ended: {error.code.name} {error.detail}")
            return
        call.on_answer(now, Failure(error, is_sent=isinstance(error, OutcomeUnknownError)))

    def _send_queued(self) -> None:
        while (
            self._queue
            and self.phase is Phase.READY
            and not self._is_congested
            and self._sent_count < REQUESTS_IN_FLIGHT_MAX
        ):
            correlation = self._queue.popleft()
            call = self._calls.get(correlation)
            if call is None:
                continue  # it has timed out in the queue
            if call.api in _CARRIES_RX:
                call.fields["rx"] = self._rx
            header = encode_header(call.api, correlation, call.fields)
            call.is_sent = True
            self._sent_count += 1
            self._effects.append(Transmit(self.socket, (header, *call.body)))

    def _expire(self, now: int) -> None:
        overdue = [n for n, call in self._calls.items() if call.deadline <= now]
        late = [self._calls.pop(number) for number in overdue]
        self._next_deadline = min((c.deadline for c in self._calls.values()), default=NEVER)
        for call in late:
            if call.is_sent:
                self._sent_count -= 1
                self._silent_timeouts += 1
        socket = self.socket
        for call in late:
            call.on_answer(now, Failure(self._timeout_of(call), call.is_sent))
        if self._silent_timeouts >= SILENT_TIMEOUTS_MAX and self.socket == socket:
            self.drop(now, f"{self._silent_timeouts} requests in a row were not answered")

    def _timeout_of(self, call: Call) -> WireError:
        if call.is_sent:
            return TimedOutError(f"{call.api.name}: {self.address} did not answer in time")
        return refusal(
            Code.DEADLINE_PASSED,
            f"{call.api.name} was not sent to {self.address} in time: "
            f"{self.last_failure or 'too much is outstanding'}",
        )
