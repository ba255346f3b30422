"""The broker as one machine: events in, effects out.

It owns its parts and passes events between them; they do not call each other except as their
constructors say. `runtime/server.py` feeds it the real world, `sim/broker_host.py` a simulated
one. What `handle` raises is a broken invariant, and the process must stop: whatever clients, peers
and the store say is answered, or ignored.

A start goes: the metadata image, every log opened, the registration (which says for which of them
this broker vouches), the roles that the controller gives it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

from zmqmq.core.broker.events import (
    BurstEnded,
    ColdRead,
    Effect,
    Event,
    FlushEnded,
    FormatWritten,
    Halt,
    LogDeleted,
    LogOpened,
    LogTruncated,
    Measured,
    MetadataChanged,
    MetadataCommitted,
    PeerAnswered,
    PeerAsked,
    PeerLinked,
    PeerRefused,
    Received,
    Registered,
    RegistrationLost,
    RouteLost,
    SubjectWanted,
    Ticked,
)
from zmqmq.core.broker.parts import Parts
from zmqmq.core.broker.replica import Phase
from zmqmq.core.control.image import (
    BrokerChange,
    PartitionChange,
    TopicChange,
)
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.store import KV, Batch
from zmqmq.core.replication.follower import Follower
from zmqmq.core.replication.follower_session import FollowerSession
from zmqmq.core.replication.partition import Partition
from zmqmq.core.replication.vouching import Place
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import Flush, Log
from zmqmq.errors import StorageError
from zmqmq.model.names import OFFSETS_TOPIC
from zmqmq.model.now import Now


class Broker(Parts):
    """Lives as long as its process."""

    def handle(self, now: Now, event: Event) -> Sequence[Effect]:
        """Take one event in; say what should be done about it."""
        match event:
            case Received(route, frames):
                self.front.receive(now, route, frames)
            case BurstEnded():
                self._end_burst(now)
            case FlushEnded(flushes):
                self._flush_ended(now, flushes)
            case PeerAsked(route, frames):
                self.peer_front.asked(now, route, frames)
            case PeerAnswered(broker_id, frames):
                self._peer_answered(now, broker_id, frames)
            case Ticked():
                self._tick(now)
            case MetadataChanged(batch):
                self._metadata_changed(now, batch)
            case MetadataCommitted(token, outcome):
                self.commits.end(now, token, outcome)
            case ColdRead(token, data):
                failed = self.reads.end(token, data)
                if failed is not None:
                    self._failed(failed, str(failed.failed))
            case RouteLost(route):
                session = self.sessions.get(route)
                if session is not None:
                    self.front.close(session)
            case SubjectWanted(subject):
                self.pushing.admit(subject)
            case Measured(values, cpu_ns):
                self.describing.measures = values
                self.traffic.measure(now.ns, cpu_ns)
            case _:
                self._handle_rare(now, event)
        return self.outbox.take()

    def _handle_rare(
        self,
        now: Now,
        event: LogOpened
        | LogTruncated
        | LogDeleted
        | FormatWritten
        | Registered
        | RegistrationLost
        | PeerLinked
        | PeerRefused,
    ) -> None:
        match event:
            case LogOpened(key, log):
                self.cache.forget(key)
                self.replicas.opened(key, log)
                place = (key.topic_id, key.partition)
                if isinstance(log, StorageError) and self.replicas.is_shared(place):
                    self.outbox.emit(Halt(f"{key.folder} cannot be opened: {log}"))
                self.topics.partition_served(key.topic_id)
                if self.membership.has_begun or not self.replicas.is_opening:
                    self.flushing.begin()  # at a start all of them together
                self.damage.register_if_ready(now)
            case LogTruncated(key, log):
                self.cache.forget(key)
                self.replicas.truncated(now, key, log)
                self.flushing.begin()
                if isinstance(log, StorageError):
                    self.outbox.emit(Halt(f"{key.folder} could not be truncated: {log}"))
                else:
                    self.following.touch(log)
                    self.following.pump(now)
            case LogDeleted(key):
                self.cache.forget(key)
                self.replicas.deleted(now, key)
            case FormatWritten(error):
                self.membership.format_written(now, error)
            case Registered(epoch):
                self.membership.registered(now, epoch)
            case RegistrationLost(reason):
                self.membership.lost(now, reason)
            case PeerLinked(broker_id, is_up):
                self.peers.linked(broker_id, is_up=is_up)
                self.health.linked(broker_id, is_up=is_up)
                self.following.linked(broker_id, is_up=is_up)
                self.following.pump(now)
            case PeerRefused(broker_id):
                self.health.refused(now, broker_id)
            case _:
                assert_never(event)

    def start(self, now: Now, items: Sequence[KV], revision: int) -> Sequence[Effect]:
        """Take over the metadata as it stands, and open every log that belongs here.

        Done when `is_started`; until then there are no listeners.
        """
        self.image.load(revision, items)
        for topic_id, known in self.image.topics.items():
            self._topic_changed(now, TopicChange(topic_id, None, known))
        for broker_id in self.image.brokers:
            self.peers.changed(broker_id)
        self.damage.register_if_ready(now)
        return self.outbox.take()

    @property
    def is_started(self) -> bool:
        """Whether what this broker can serve by itself is served, or known to be broken."""
        if self.membership.me is None or not self.replicas.is_settled:
            return False
        if not self.identity.is_alone:
            return True
        served = len(self.catalog.partitions) + len(self.catalog.unopened)
        own = self.catalog.by_name.get(OFFSETS_TOPIC)
        return own is not None and own.state == "ready" and served >= len(self.replicas.all)

    def drain(self) -> None:
        """Take no new work; what was begun is finished."""
        self.front.is_draining = True

    @property
    def is_idle(self) -> bool:
        """Whether everything that was taken is on disk and answered."""
        return self.flushing.is_idle and not self.membership.is_writing

    # Logs

    def _end_burst(self, now: Now) -> None:
        written, failed = self.flushing.write_out()
        moved, shared = [], []
        for log in written:
            replica = self.replicas.by_log.get(log)
            role = None if replica is None else replica.role
            if isinstance(role, Partition):
                if not role.flushes and role.advance():
                    moved.append(role)
                if role.is_shared:
                    shared.append(role)
            elif role is not None:
                self.fetching.wake(role.place)  # what is shown is written out
        self.producing.answer_written(failed)
        self.flushing.begin()
        for log, why in failed:
            self._failed(log, why)
        self._moved(moved)
        if shared:
            self.leading.written(shared)
        self.following.pump(now)

    def _flush_ended(
        self, now: Now, flushes: Sequence[tuple[Log, Flush, StorageError | None]]
    ) -> None:
        self.flushing.end(flushes)
        moved = []
        for log, _, error in flushes:
            if error is not None:
                self._failed(log, str(error))
                self.replicas.failed(log, str(error))
                self.topics.partition_served(log.key.topic_id)
                continue
            replica = self.replicas.by_log.get(log)
            role = None if replica is None else replica.role
            if isinstance(role, Partition):
                if role.advance():
                    moved.append(role)
            elif role is not None:
                self.following.touch(log)
            if replica is None or replica.phase is not Phase.READY:
                self.replicas.flushed(now, log)
        self.flushing.begin()
        self._moved(moved)
        self.following.pump(now)

    def _moved(self, partitions: Iterable[Partition]) -> None:
        """High watermarks have moved: answer who waited for that."""
        for partition in partitions:
            self.producing.commit(partition)
            if partition.topic == OFFSETS_TOPIC:
                self.offsets.load(partition)
                self.offsets.commit(partition)
            self.pushing.moved(partition)
            self.fetching.wake(partition.place)
            self.latest.check(partition)
            self.leading.moved(partition)

    def _failed(self, log: Log, why: str) -> None:
        """The disk has failed a log."""
        self.flushing.drop(log)
        replica = self.replicas.by_log.get(log)
        if replica is None:
            return
        if self.replicas.is_shared(replica.place):
            # Its other copies go on; what is on this disk only a start can tell (decision 10).
            self.replicas.give_up(replica)
            self.outbox.emit(Halt(f"the disk of {log.name} has failed: {why}"))
        elif isinstance(replica.role, Partition):
            self._abandon(replica.role, why)

    def _damaged(self, log: Log) -> None:
        self.damage.found(log)

    def _echoed(self, session: FollowerSession) -> bool:
        """A follower has answered; whether somebody waits for another answer of it (D10)."""
        awaited = [p for p in self.latest.awaited if p.place in session.entries]
        for partition in awaited:
            self.latest.check(partition)
        return any(self.latest.is_owed(partition, session.echo) for partition in awaited)

    # Roles

    def _led(self, partition: Partition) -> None:
        """This broker begins to lead a partition."""
        partition.advance()
        self._moved([partition])
        self.leading.began(partition)
        self.topics.partition_served(partition.place[0])

    def _left(self, partition: Partition, why: str) -> None:
        """It does so no more."""
        self._abandon(partition, why)
        self.latest.drop(partition)
        self.pushing.drop(partition.place)

    def _abandon(self, partition: Partition, why: str) -> None:
        self.producing.drop(partition, why)
        if partition.topic == OFFSETS_TOPIC:
            self.offsets.drop(partition, why)
        self.fetching.wake(partition.place)

    def _followed(self, now: Now, follower: Follower) -> None:
        self.following.follow(follower)
        self.following.pump(now)

    def _unfollowed(self, follower: Follower) -> None:
        self.following.drop(follower.place)
        self.fetching.wake(follower.place)

    def _told(self, follower: Follower) -> None:
        """What its leader said may let it show more."""
        self.fetching.wake(follower.place)

    def _peer_answered(self, now: Now, broker_id: int, frames: list[Buffer]) -> None:
        self.peer_front.answered(now, broker_id, frames)
        self.reporting.run(now, self.controller.handle_report)

    # Metadata

    def _metadata_changed(self, now: Now, batch: Batch) -> None:
        changes = self.image.apply(batch)
        for change in changes:
            match change:
                case TopicChange():
                    self._topic_changed(now, change)
                case PartitionChange(place, _, after):
                    if after is not None:
                        self._partition_changed(now, place)
                case BrokerChange(broker_id):
                    self.peers.changed(broker_id)
                case _:
                    pass
        self.membership.changed(now)
        self.controller.changed(now, changes)
        self.reporting.run(now, self.controller.handle_report)
        self._end_burst(now)

    def _partition_changed(self, now: Now, place: Place) -> None:
        self.replicas.changed(now, place)
        self.topics.partition_served(place[0])
        partition = self.catalog.partitions.get(place)
        if partition is not None:
            self.latest.check(partition)
            if partition.advance():
                self._moved([partition])

    def _topic_changed(self, now: Now, change: TopicChange) -> None:
        topic_id, _, known = change
        if known is None:
            topic = self.catalog.by_id.get(topic_id)
            if topic is not None:
                self.catalog.forget(topic)  # first, so that who waits hears why
                self.replicas.remove_topic(topic)
                self.offsets.forget_topic(now, topic)
                self.topics.gone(topic)
            return
        self.catalog.note(known)
        for number in self.image.numbers.get(topic_id, ()):
            self.replicas.changed(now, (topic_id, number))
        self.topics.partition_served(topic_id)
        self.making.finish_removal(topic_id)

    # Membership

    def _up(self, now: Now, me: Member) -> None:
        """This broker is registered, in a new epoch: nothing that it did in an older one goes on
        (L1)."""
        self.replicas.end_roles()
        self.following.begin_anew()
        self.identity.epoch = me.broker_epoch
        self.replicas.assign_all(now)
        self.controller.registered(now, me)
        if self.identity.is_alone:
            self.making.make_own()

    def _down(self, now: Now, reason: str) -> None:
        """It is registered no more. It goes on leading and following: what it may confirm depends
        on the others, and not on a lease (L11)."""
        del reason
        self.controller.unregistered(now)

    def shut_down(self, now: Now) -> Sequence[Effect]:
        """Let others take over what is led here (C10); `may_stop` says when they have."""
        self.membership.shut_down(now)
        return self.outbox.take()

    def may_stop(self, now: Now) -> bool:
        """Whether nobody needs this broker any more, or it has waited long enough."""
        return self.membership.may_stop(now)

    def finish(self) -> Sequence[Effect]:
        """All logs are closed and flushed, or have failed: say so on the disk, and give up the
        registration."""
        self.membership.finish(is_clean=not any(log.failed for log in self.replicas.logs))
        return self.outbox.take()

    def _tick(self, now: Now) -> None:
        for waiter in self.timers.due(now.ns):
            waiter.expire()
        self.front.tick(now)
        self.pushing.tick(now)
        self.leading.tick(now)
        self.following.tick(now)
        self.membership.tick(now)
        self.health.tick(now)
        self.controller.tick(now)
        self.making.tick(now)
        self.damage.look(now)
        self.reporting.run(now, self.controller.handle_report)
