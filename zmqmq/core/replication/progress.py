"""What a leader knows of one follower, in one leader epoch (replication.md 1.4)."""

from __future__ import annotations

from typing import Final

from zmqmq.core.meta.fields import Member
from zmqmq.core.replication.follower_session import FollowerSession
from zmqmq.wire.peers import Listed

LONG_AGO: Final = -(1 << 62)


class Progress:
    """How far one run of a follower has come, as it said itself in this leader epoch."""

    __slots__ = (
        "caught_up_ns",
        "end_then",
        "fetched_ns",
        "flushed",
        "log_start",
        "member",
        "near_since_ns",
        "session",
        "written",
    )

    def __init__(self, member: Member, caught_up_ns: int) -> None:
        self.member = member
        self.session: FollowerSession | None = None
        """Of its last fetch."""
        self.written = self.flushed = self.log_start = 0
        self.fetched_ns = LONG_AGO
        self.end_then = 0
        """The leader's end at its last fetch."""
        self.caught_up_ns = caught_up_ns
        """When it last had all that the leader had, as far as somebody looked: `Isr.caught_up_ns`
        also knows of the rest (L8)."""
        self.near_since_ns: int | None = None
        """Since when it could join the ISR but for the records that keep coming (L5)."""

    def reach(self, *, flushes: bool) -> int:
        """How much it has that counts: on its disk, or at all (D2)."""
        return self.flushed if flushes else self.written

    def fetched(
        self, now_ns: int, session: FollowerSession, listed: Listed, end: int, *, flushes: bool
    ) -> None:
        """It asks for what is behind what it has; `end` is the leader's."""
        self.session = session
        self.written = min(listed.written, end)
        self.flushed = min(listed.flushed, self.written)
        self.log_start = listed.log_start
        reach = self.reach(flushes=flushes)
        if reach >= end:
            self.caught_up_ns = now_ns
        elif reach >= self.end_then:
            # It has all that there was when it last asked (L8).
            self.caught_up_ns = max(self.caught_up_ns, self.fetched_ns)
        self.fetched_ns = now_ns
        self.end_then = end

    def looked_at(self, now_ns: int, end: int, *, flushes: bool) -> None:
        """Time went by. It may have had nothing to say, because it has everything (L8)."""
        if self.reach(flushes=flushes) >= end:
            self.caught_up_ns = now_ns
