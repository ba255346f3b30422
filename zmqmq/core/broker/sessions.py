"""Connected clients: who they are, when they were last heard, how much they have not read yet.

A session is named by the client and not by the socket: after a reconnect the same session comes
back under another route, the newer route counts, and the older one is told that it was fenced
(zeromq.md 3.3). Whoever has no session is answered NEED_HELLO, which is also how a client learns
that the broker was restarted, and why a request that queued up for a broker of the past is never
carried out by the next one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from zmqmq.core.broker.options import ServingOptions
from zmqmq.core.replication.vouching import Place
from zmqmq.core.security.authorize import Principal
from zmqmq.errors import Code, refusal

REQUESTS_MAX: Final = 4_096
"""Requests of one session that may wait for their answer."""


@dataclass(slots=True, eq=False)
class Session:
    """One client."""

    route: bytes
    id: bytes
    client: str
    principal: Principal
    since_ms: int
    seen_ns: int
    sent_bytes: int = 0
    """Bytes of body frames sent to it."""
    read_bytes: int = 0
    """What it says that it has read of those."""
    reading_bytes: int = 0
    """What the disk has been asked for on its behalf."""
    tells_read: bool = False
    """Whether it has ever said so."""
    waiting: int = 0
    """Requests that wait for the disk or the metadata store."""
    fetches: dict[Any, None] = field(default_factory=dict)
    """Fetches that are not answered."""
    starved: deque[Any] = field(default_factory=deque)
    """Fetches that wait for credit."""
    subjects: dict[Place, None] = field(default_factory=dict)
    """Partitions that it wants published."""

    @property
    def outstanding(self) -> int:
        """Bytes on their way to it, those that the disk is being asked for included."""
        return self.sent_bytes - self.read_bytes + self.reading_bytes


class Sessions:
    """All of them, least recently heard first."""

    def __init__(self, options: ServingOptions) -> None:
        self._options = options
        self._by_route: OrderedDict[bytes, Session] = OrderedDict()
        self._by_id: dict[bytes, Session] = {}
        self._fenced: OrderedDict[bytes, None] = OrderedDict()
        self.outstanding = 0
        """Bytes on their way to all clients together."""

    def __len__(self) -> int:
        return len(self._by_route)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._by_route.values())

    def of(self, route: bytes, now_ns: int) -> Session:
        """The session of a route that has just been heard. Raises NEED_HELLO, SESSION_FENCED."""
        session = self._by_route.get(route)
        if session is None:
            if route in self._fenced:
                raise refusal(
                    Code.SESSION_FENCED, "this session was opened again on another connection"
                )
            raise refusal(Code.NEED_HELLO, "no session on this connection: send HELLO first")
        session.seen_ns = now_ns
        self._by_route.move_to_end(route)
        return session

    def open(self, new: Session) -> list[Session]:
        """Add a session; what it replaces (the same id, or the same route) is returned, closed."""
        replaced = []
        older = self._by_id.get(new.id)
        if older is not None:
            replaced.append(older)
            if older.route != new.route:
                self._fenced[older.route] = None
                if len(self._fenced) > self._options.sessions_max:
                    self._fenced.popitem(last=False)
        same_route = self._by_route.get(new.route)
        if same_route is not None and same_route is not older:
            replaced.append(same_route)
        for session in replaced:
            self.close(session)
        if len(self._by_route) >= self._options.sessions_max:
            raise refusal(
                Code.TOO_MANY_SESSIONS,
                f"{len(self._by_route)} sessions are open and serving.sessions_max is "
                f"{self._options.sessions_max}",
                {"retry_after_ms": 1_000},
            )
        self._by_route[new.route] = new
        self._by_id[new.id] = new
        self._fenced.pop(new.route, None)
        return replaced

    def close(self, session: Session) -> None:
        """Forget a session. What was on its way to it no longer counts."""
        if self._by_route.pop(session.route, None) is None:
            return
        del self._by_id[session.id]
        self.outstanding -= session.outstanding

    def get(self, route: bytes) -> Session | None:
        """The session of a route, if there is one."""
        return self._by_route.get(route)

    def idle(self, now_ns: int) -> list[Session]:
        """Those whose lease has run out."""
        limit = now_ns - self._options.session_lease_ms * 1_000_000
        gone = []
        for session in self._by_route.values():
            if session.seen_ns >= limit:
                break
            gone.append(session)
        return gone

    def is_open(self, session: Session) -> bool:
        """Whether it has been neither closed nor replaced."""
        return self._by_id.get(session.id) is session

    def note_reading(self, session: Session, size: int) -> None:
        """The disk is asked for so many bytes, or (negative) has answered.

        Otherwise all waiting fetches of a client that reads nothing would find the same credit.
        """
        if self.is_open(session):
            session.reading_bytes += size
            self.outstanding += size

    def note_sent(self, session: Session, size: int) -> None:
        """Body frames of `size` bytes are on their way."""
        session.sent_bytes += size
        self.outstanding += size

    def note_read(self, session: Session, read_bytes: int) -> bool:
        """The client says how much it has read; whether that frees anything."""
        session.tells_read = True
        freed = min(read_bytes, session.sent_bytes) - session.read_bytes
        if freed <= 0:
            return False
        session.read_bytes += freed
        self.outstanding -= freed
        return True

    def credit(self, session: Session) -> int:
        """How many bytes may be sent to this client now; 0 or less: none.

        Its share is never more than what is left for all: with n clients that stopped reading,
        each holds at most 1/(n+1) of the memory, and as much stays free for those that read
        (dynamic thresholds, Choudhury and Hahne 1998). An eighth is kept for clients that have
        read everything, since each share can be overshot by a batch.
        """
        free = self._options.memory_bytes - self.outstanding
        if session.outstanding:
            free -= self._options.memory_bytes // 8
        return min(self._options.credit_bytes, free) - session.outstanding
