"""The follower's end of incremental fetch sessions (KIP-227): one for each broker it follows.

One request is under way at a time, over all partitions that the other broker leads; it lists those
that are new or have changed since the last one. The next is made when what the last reply brought
is written and, where the mode is fsync, flushed. Whatever goes wrong begins a full session, which
lists everything.

F2: a reply is used if it answers the very request that is under way, and for each partition if
nothing has changed there since.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from zmqmq.core.meta.fields import Member
from zmqmq.core.replication.follower import Follower
from zmqmq.core.replication.vouching import Place
from zmqmq.core.storage.disk import Buffer
from zmqmq.errors import CorruptDataError, StorageError, WireError
from zmqmq.model.limits import REPLY_BYTES_MAX
from zmqmq.wire.peers import LISTED_MAX, Answer, Listed, PeerCode

WAIT_MS: Final = 500
"""How long the leader may wait for something to tell."""
TIMEOUT_NS: Final = 3 * 10**9
"""After so long without a reply the session begins anew."""
RETRY_NS: Final = 200 * 10**6
"""Before a partition, or the session, is tried again that was refused."""


USEFUL: Final = (PeerCode.NONE, PeerCode.DIVERGING, PeerCode.OUT_OF_RANGE)
"""Answers after which there is something else to ask."""


class Request(NamedTuple):
    """The fields of a REPLICATE request, without those of SENDER."""

    session: int
    run: int
    sequence: int
    echo: int
    max_wait_ms: int
    max_bytes: int
    partitions: list[Listed]
    forget: list[Place]


class Reply(NamedTuple):
    """Those of a reply, checked."""

    to: int
    error: int
    session: int
    run: int
    stamp: int
    answers: Sequence[Answer]


class Taken(NamedTuple):
    """What a reply did to one partition."""

    follower: Follower
    has_data: bool
    """Something was appended: write it out and flush it."""
    error: StorageError | CorruptDataError | WireError | None = None
    """Why not all of it was: the log has failed with it, or it is asked for again."""


class Fetcher:
    """Follows one broker."""

    __slots__ = (
        "_asked_ns",
        "_changed",
        "_correlation",
        "_echo",
        "_followers",
        "_forgotten",
        "_has_new",
        "_is_linked",
        "_listed",
        "_me",
        "_not_before_ns",
        "_retry",
        "_run",
        "_sequence",
        "_session",
        "_unsettled",
    )

    def __init__(self, me: Member) -> None:
        self._me = me
        self._followers: dict[Place, Follower] = {}
        self._is_linked = False
        self._correlation: int | None = None
        """Of the request that is under way."""
        self._asked_ns = 0
        self._not_before_ns = 0
        self._session = self._run = self._sequence = self._echo = 0
        self._listed: dict[Place, Listed | None] = {}
        """What the leader was told in this session; None: something, and it is told again."""
        self._changed: dict[Place, None] = {}
        """What may have to be listed."""
        self._has_new = False
        """Whether there is something to list of which the leader was told nothing."""
        self._forgotten: dict[Place, None] = {}
        self._unsettled: dict[Place, None] = {}
        """What the last reply brought data for (D2)."""
        self._retry: dict[Place, int] = {}
        """Partitions that were refused, with when to list them again."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is followed, and the leader knows it."""
        return not self._followers and not self._forgotten

    def follow(self, follower: Follower) -> None:
        """A leader epoch has begun at the other broker."""
        self._followers[follower.place] = follower
        self._forgotten.pop(follower.place, None)
        self._unsettled.pop(follower.place, None)
        self.touch(follower.place)

    def drop(self, place: Place) -> None:
        """It is followed here no more."""
        if self._followers.pop(place, None) is None:
            return
        for places in (self._changed, self._unsettled, self._retry):
            places.pop(place, None)
        if place in self._listed:
            self._forgotten[place] = None

    def touch(self, place: Place) -> None:
        """Its log was cut or flushed: what the leader knows of it may be old."""
        follower = self._followers.get(place)
        if follower is not None:
            self._changed[place] = None
            self._has_new |= follower.is_asking and self._listed.get(place) is None

    def link(self, *, is_up: bool) -> None:
        """The connection came up or went away. Whatever was under way may be lost."""
        self._is_linked = is_up
        self._begin_anew()

    # Asking

    def next_request(self, now_ns: int, correlation: int) -> Request | None:
        """What to ask now, if it is time to; `correlation` was never used before by this process.

        Call this when a reply was taken, when something was written out, flushed or cut, when
        something is newly followed, and every half second.
        """
        if self._correlation is not None and now_ns - self._asked_ns > TIMEOUT_NS:
            self._begin_anew()
        if (
            not self._is_linked
            or self._correlation is not None
            or now_ns < self._not_before_ns
            or not self._is_settled()
        ):
            return None
        for place in [place for place, when in self._retry.items() if when <= now_ns]:
            del self._retry[place]
            self._list_again(place)
        if self.is_idle:
            return None
        self._has_new = False
        partitions, forget = self._news()
        is_complete = not self._changed and not self._forgotten
        self._correlation = correlation
        self._asked_ns = now_ns
        self._sequence += 1
        wait_ms = (RETRY_NS // 1_000_000 if self._retry else WAIT_MS) if is_complete else 0
        return Request(
            self._session,
            self._run,
            self._sequence if self._session else 0,
            self.echo(is_complete=is_complete),
            wait_ms,
            REPLY_BYTES_MAX,
            partitions,
            forget,
        )

    def is_in_hurry(self) -> bool:
        """Whether the leader should answer what is under way at once; said once for each thing.

        It keeps a request for half a second when it has nothing to tell. So long nothing would be
        committed in a leader epoch that has just begun, and a log that was begun anew at the
        leader's start would be behind that again where retention is short (seed 4704).
        """
        is_in_hurry = self._has_new and self._is_linked and self._correlation is not None
        self._has_new &= not is_in_hurry
        return is_in_hurry

    def echo(self, *, is_complete: bool) -> int:
        """D10: the stamp of the last reply, in a request that lists all that has changed: then what
        it does not list is as it was, the leader epoch too."""
        return self._echo if is_complete else 0

    def _is_settled(self) -> bool:
        """Whether all that the last reply brought is as safe as it must be."""
        for place in tuple(self._unsettled):
            follower = self._followers[place]
            if follower.is_asking and not follower.is_settled:
                return False
            del self._unsettled[place]
        return True

    def _news(self) -> tuple[list[Listed], list[Place]]:
        """What has changed since the last request, as much as one may list."""
        partitions: list[Listed] = []
        for place in tuple(self._changed):
            if len(partitions) == LISTED_MAX:
                break
            del self._changed[place]
            follower = self._followers[place]
            if not follower.is_asking:
                # Until it is touched; and nothing of what was said of it holds any more.
                if place in self._listed:
                    self._forgotten[place] = None
                continue
            listed = follower.listed()
            if self._listed.get(place) != listed:
                self._listed[place] = listed
                partitions.append(listed)
        forget = [*self._forgotten][:LISTED_MAX]
        for place in forget:
            del self._forgotten[place]
            self._listed.pop(place, None)
        return partitions, forget

    # Being answered

    def take(
        self, now_ns: int, correlation: int, reply: Reply, bodies: Sequence[Buffer]
    ) -> list[Taken]:
        """A reply came: what it did, partition by partition."""
        if not self.is_answer(correlation, reply):
            return []
        self._correlation = None
        if reply.error:
            self._begin_anew()
            if reply.error != PeerCode.UNKNOWN_SESSION:
                self._not_before_ns = now_ns + RETRY_NS
            return []
        if self._session == 0:
            self._session, self._run, self._sequence = reply.session, reply.run, 0
        self._echo = max(self._echo, reply.stamp)
        taken = []
        at = 0
        for answer in reply.answers:
            body = None
            if answer.size:
                if at >= len(bodies):
                    break  # not what the leader said it sends: ask for the rest again
                body = bodies[at]
                at += 1
            done = self._take_one(now_ns, answer, body)
            if done is not None:
                taken.append(done)
        return taken

    def is_answer(self, correlation: int, reply: Reply) -> bool:
        """F2: whether it answers the request that is under way, and not an earlier one."""
        return correlation == self._correlation and reply.to == self._me.broker_epoch

    def _take_one(self, now_ns: int, answer: Answer, body: Buffer | None) -> Taken | None:
        place = (answer.topic_id, answer.partition)
        follower = self._followers.get(place)
        if follower is None:
            return None
        self._changed[place] = None
        if not follower.matches(answer):
            self._list_again(place)  # for the leader it is answered
            return None
        end = follower.log.end_offset
        problem: StorageError | CorruptDataError | WireError | None = None
        try:
            follower.take(answer, body)
        except (StorageError, CorruptDataError, WireError) as error:
            problem = error
        if problem is not None or answer.code not in USEFUL:
            self._retry[place] = now_ns + RETRY_NS
        has_data = follower.log.end_offset > end
        if has_data:
            self._unsettled[place] = None
        return Taken(follower, has_data, problem)

    def _list_again(self, place: Place) -> None:
        if place in self._listed:
            self._listed[place] = None
        self._changed[place] = None

    def _begin_anew(self) -> None:
        """Forget the session: the next request begins one."""
        self._correlation = None
        self._session = self._run = self._sequence = self._echo = 0
        self._listed.clear()
        self._forgotten.clear()
        self._retry.clear()
        self._changed = dict.fromkeys(self._followers)
        self._has_new = False
