"""What this broker follows: requests to the leaders, and what their replies do here (F1-F9).

One Fetcher for each broker that leads something of ours. A reply's data is appended as it comes,
and written out and flushed with everything else at the end of the burst.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from zmqmq.core.broker.flushing import Flushing
from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.peers import Peers
from zmqmq.core.broker.replica import Phase
from zmqmq.core.broker.replicas import Replicas
from zmqmq.core.meta.fields import Member
from zmqmq.core.replication.fetcher import Fetcher, Reply, Taken
from zmqmq.core.replication.follower import Follower
from zmqmq.core.replication.vouching import Place
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import Log
from zmqmq.core.storage.states import unpack_state
from zmqmq.errors import CorruptDataError, WireError
from zmqmq.model.now import Now
from zmqmq.wire.frame import Fields
from zmqmq.wire.peers import PEER_REPLIES, Answer, PeerApi
from zmqmq.wire.schema import reader

_read_reply = reader(PEER_REPLIES[PeerApi.REPLICATE])
_read_state = reader(PEER_REPLIES[PeerApi.STATE])
STATE_RETRY_NS = 500 * 10**6


class Following:
    """All fetchers of this broker."""

    def __init__(
        self,
        identity: Identity,
        peers: Peers,
        flushing: Flushing,
        replicas: Replicas,
        failed: Callable[[Log, str], None],
        told: Callable[[Follower], None],
    ) -> None:
        self._identity = identity
        self._peers = peers
        self._flushing = flushing
        self._replicas = replicas
        self._failed = failed
        self._told = told
        """Told of a follower whose high watermark may have moved."""
        self._fetchers: dict[int, Fetcher] = {}
        self._leaders: dict[Place, int] = {}
        self._states: dict[Place, int] = {}
        """For which the leader's state of producers was asked, and when (F9)."""
        self._is_stirred = False
        """Whether something has happened since `pump` that may let it ask."""
        self.rejected = 0
        """Replies that were not what they should be."""

    def follow(self, follower: Follower) -> None:
        """A copy begins to follow."""
        leader = follower.document.leader
        assert leader is not None
        self._is_stirred = True
        self._leaders[follower.place] = leader.broker_id
        self._fetcher(leader.broker_id).follow(follower)

    def drop(self, place: Place) -> None:
        """It follows no more."""
        self._is_stirred = True
        leader = self._leaders.pop(place, None)
        self._states.pop(place, None)
        if leader is not None:
            self._fetchers[leader].drop(place)

    def begin_anew(self) -> None:
        """This broker has a new epoch: nothing that was asked in the old one counts."""
        assert not self._leaders
        self._fetchers.clear()

    def linked(self, broker_id: int, *, is_up: bool) -> None:
        """A connection came up or went away."""
        self._is_stirred = True
        fetcher = self._fetchers.get(broker_id)
        if fetcher is not None:
            fetcher.link(is_up=is_up)

    def touch(self, log: Log) -> None:
        """A log that is followed was flushed or cut."""
        place = (log.key.topic_id, log.key.partition)
        leader = self._leaders.get(place)
        if leader is not None:
            self._is_stirred = True
            self._fetchers[leader].touch(place)

    def tick(self, now: Now) -> None:
        """Time went by: what waited for that, or was not answered, is asked again."""
        self._is_stirred = True
        self.pump(now)

    def pump(self, now: Now) -> None:
        """Ask whoever can be asked."""
        if not self._is_stirred:
            return
        self._is_stirred = False
        for broker_id, fetcher in self._fetchers.items():
            correlation = self._peers.next_correlation()
            request = fetcher.next_request(now.ns, correlation)
            if request is None:
                if fetcher.is_in_hurry():
                    self._peers.send(broker_id, PeerApi.HURRY, correlation, {})
                continue
            fields = request._asdict()
            fields["partitions"] = [listed.encode() for listed in request.partitions]
            self._peers.send(broker_id, PeerApi.REPLICATE, correlation, fields)
        for place, asked_ns in tuple(self._states.items()):
            if now.ns - asked_ns > STATE_RETRY_NS:
                self._ask_state(now, place)

    def answered(
        self, now: Now, broker_id: int, correlation: int, fields: Fields, bodies: Sequence[Buffer]
    ) -> None:
        """A reply to REPLICATE. Raises refusal(MALFORMED), with nothing taken."""
        fetcher = self._fetchers.get(broker_id)
        if fetcher is None:
            return
        self._is_stirred = True
        to, error, session, run, stamp, rows = _read_reply(fields)
        reply = Reply(to, error, session, run, stamp, [Answer.decode(row) for row in rows])
        for taken in fetcher.take(now.ns, correlation, reply, bodies):
            self._took(now, taken)

    def _took(self, now: Now, taken: Taken) -> None:
        follower = taken.follower
        if taken.has_data or taken.error is not None:
            self._flushing.touch(follower.log)
        if taken.error is not None:
            self.rejected += 1
            if follower.log.failed:
                self._failed(follower.log, follower.log.failed)
        elif follower.cut is not None:
            if follower.cut.needs_state:
                self._ask_state(now, follower.place)
            else:
                self._replicas.cut(self._replicas.all[follower.place], follower.cut.to, None)
        elif not taken.has_data:  # else when that is written out
            self._told(follower)

    def _ask_state(self, now: Now, place: Place) -> None:
        """F9: what the leader knows of producers at its log start."""
        self._states[place] = now.ns
        replica = self._replicas.all[place]
        role = replica.role
        assert isinstance(role, Follower)
        fields: Fields = {
            "topic": place[0],
            "partition": place[1],
            "leader_epoch": role.epoch,
        }
        then = partial(self._take_state, role)
        self._peers.ask(self._leaders[place], PeerApi.STATE, fields, then)

    def _take_state(self, role: Follower, fields: Fields, bodies: Sequence[Buffer]) -> None:
        replica = self._replicas.all.get(role.place)
        is_ours = replica is not None and replica.role is role and replica.phase is Phase.READY
        if not is_ours or role.cut is None or not role.cut.needs_state:
            return
        try:
            to, error, offset = _read_state(fields)
        except WireError:
            return
        if error or to != self._identity.epoch or not bodies:
            return
        state = b"".join(bodies)
        try:
            unpack_state(state)
        except CorruptDataError:
            self.rejected += 1
            return  # asked for again
        self._states.pop(role.place, None)
        assert replica is not None
        self._replicas.cut(replica, offset, state)

    def _fetcher(self, broker_id: int) -> Fetcher:
        fetcher = self._fetchers.get(broker_id)
        if fetcher is None:
            me = Member(self._identity.broker_id, self._identity.epoch)
            fetcher = self._fetchers[broker_id] = Fetcher(me)
            fetcher.link(is_up=self._peers.is_linked(broker_id))
        return fetcher
