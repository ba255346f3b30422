"""The leader's end of incremental fetch sessions (KIP-227): what each follower has said so far.

A session belongs to one run of a follower and one run of this process. A request lists only what
has changed since the one before, so each must be taken exactly once and in order: `sequence`
counts them, and whatever does not fit ends the session, and the follower begins a full one.

What a request does not list it says again: that follower's log, in that leader epoch, is as it was.
So one echo, that of the last request, holds for all partitions that are listed (D10).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from zmqmq.core.meta.fields import Member
from zmqmq.core.replication.vouching import Place
from zmqmq.errors import ZmqmqError
from zmqmq.wire.peers import Listed, PeerCode

ENTRIES_MAX: Final = 100_000
"""Partitions that one follower may follow here."""
SESSIONS_MAX: Final = 1_000
"""Followers of one leader."""


class SessionRefusedError(ZmqmqError):
    """The request is of no session that goes on here; `code` says what to do."""

    def __init__(self, code: PeerCode) -> None:
        super().__init__(code.name)
        self.code = code


class Request(NamedTuple):
    """A REPLICATE request, its fields checked."""

    sender: Member
    session: int
    run: int
    sequence: int
    echo: int
    listed: Sequence[Listed]
    forgotten: Sequence[Place]


class FollowerSession:
    """One follower, over all partitions that it follows here."""

    __slots__ = (
        "_told",
        "due",
        "echo",
        "entries",
        "is_current",
        "member",
        "news",
        "number",
        "seen_ns",
        "sequence",
    )

    def __init__(self, member: Member, number: int) -> None:
        self.member = member
        self.number = number
        self.sequence = 0
        """Of the last request."""
        self.echo = 0
        """The highest stamp that came back (D10)."""
        self.seen_ns = 0
        self.is_current = True
        """Whether no other session took its place."""
        self.entries: dict[Place, Listed] = {}
        self.due: dict[Place, None] = {}
        """With something to answer at once, in the order in which it came: whoever gets no room in
        one reply is the first in the next."""
        self.news: dict[Place, None] = {}
        """With a high watermark or log start to tell, some time."""
        self._told: dict[Place, tuple[int, int]] = {}

    def echo_of(self, place: Place, leader_epoch: int) -> int:
        """The highest stamp that came back in this leader epoch of a partition; 0 if none (D10).

        The follower lists a partition anew when it adopts another epoch, so what it listed is the
        epoch in which it was when it sent the echo.
        """
        entry = self.entries.get(place)
        if not self.is_current or entry is None or entry.leader_epoch != leader_epoch:
            return 0
        return self.echo

    def is_told(self, place: Place, high_watermark: int, log_start: int) -> bool:
        """Whether the follower knows these."""
        return self._told.get(place) == (high_watermark, log_start)

    def note_told(self, place: Place, high_watermark: int, log_start: int) -> None:
        """They go into the reply that is being written."""
        self._told[place] = (high_watermark, log_start)
        self.due.pop(place, None)
        self.news.pop(place, None)

    def take(self, now_ns: int, request: Request) -> None:
        """What a request of this session says."""
        self.sequence = request.sequence
        self.echo = max(self.echo, request.echo)
        self.seen_ns = now_ns
        for place in request.forgotten:
            self.entries.pop(place, None)
            self.due.pop(place, None)
            self.news.pop(place, None)
            self._told.pop(place, None)
        for listed in request.listed:
            place = (listed.topic_id, listed.partition)
            before = self.entries.get(place)
            self.entries[place] = listed
            # Told with the next reply, unless it is known: perhaps it will never move again.
            self.due[place] = self.news[place] = None
            if before is None or before.leader_epoch != listed.leader_epoch:
                self._told.pop(place, None)


class FollowerSessions:
    """All followers of this process."""

    def __init__(self, run: int) -> None:
        self.run = run
        """Never the same in two processes: its first broker epoch. A request to an earlier process
        must not be taken for one of a session of this one that has the same number."""
        self.stamp = 0
        """Of the last reply (D10)."""
        self._numbers = 0
        self._sessions: dict[int, FollowerSession] = {}

    def __iter__(self) -> Iterator[FollowerSession]:
        return iter(self._sessions.values())

    def of(self, broker_id: int) -> FollowerSession | None:
        """The session of this broker."""
        return self._sessions.get(broker_id)

    def next_stamp(self) -> int:
        """For a reply that is sent now."""
        self.stamp += 1
        return self.stamp

    def mark(self, place: Place) -> list[FollowerSession]:
        """There is something to read, or to check again; the sessions that have to be answered."""
        found = [session for session in self if place in session.entries]
        for session in found:
            session.due[place] = None
        return found

    def mark_news(self, place: Place) -> None:
        """The high watermark or the log start has moved."""
        for session in self:
            if place in session.entries:
                session.news[place] = None

    def receive(self, now_ns: int, request: Request) -> FollowerSession:
        """Take a request; its session, with what it listed due. Raises SessionRefusedError."""
        session = self._sessions.get(request.sender.broker_id)
        if session is not None and request.sender.broker_epoch < session.member.broker_epoch:
            raise SessionRefusedError(PeerCode.STALE_BROKER_EPOCH)
        if request.session == 0:
            session = self._begin(request.sender)
        elif session is None or not self._continues(session, request):
            raise SessionRefusedError(PeerCode.UNKNOWN_SESSION)
        elif request.sequence != session.sequence + 1:
            if request.sequence > session.sequence:
                self._end(session)  # one is missing
            raise SessionRefusedError(PeerCode.UNKNOWN_SESSION)
        session.take(now_ns, request)
        if len(session.entries) > ENTRIES_MAX:
            self._end(session)
            raise SessionRefusedError(PeerCode.UNKNOWN_SESSION)
        return session

    def _continues(self, session: FollowerSession, request: Request) -> bool:
        """Whether the request was made for this very session."""
        return (
            request.sender == session.member
            and request.run == self.run
            and request.session == session.number
            and request.echo <= self.stamp
        )

    def _begin(self, member: Member) -> FollowerSession:
        old = self._sessions.get(member.broker_id)
        if old is not None:
            self._end(old)
        if len(self._sessions) >= SESSIONS_MAX:
            self._end(min(self, key=lambda session: session.seen_ns))
        self._numbers += 1
        session = FollowerSession(member, self._numbers)
        self._sessions[member.broker_id] = session
        return session

    def _end(self, session: FollowerSession) -> None:
        session.is_current = False
        del self._sessions[session.member.broker_id]
