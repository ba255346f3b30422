"""The broker as one machine: events in, effects out.

It owns its parts and passes events between them; they do not call each other except as their
constructors say. `runtime/server.py` feeds it the real world, `sim/broker_host.py` a simulated
one. What `handle` raises is a broken invariant, and the process must stop: whatever clients, peers
and the store say is answered, or ignored.

A start goes: the metadata image, every log opened, the registration (which says for which of them
this broker vouches), the roles that the controller gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, assert_never

from zmqmq.core.broker.catalog import Catalog
from zmqmq.core.broker.cold_reads import ColdReads
from zmqmq.core.broker.describe import Describing
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
    Received,
    Registered,
    RegistrationLost,
    RouteLost,
    Ticked,
)
from zmqmq.core.broker.fetch import Fetching
from zmqmq.core.broker.flushing import Flushing
from zmqmq.core.broker.following import Following
from zmqmq.core.broker.front import Front
from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.latest import Latest
from zmqmq.core.broker.leading import Leading
from zmqmq.core.broker.metadata import Commits
from zmqmq.core.broker.moves import Moves
from zmqmq.core.broker.offsets import Offsets
from zmqmq.core.broker.options import ServingOptions
from zmqmq.core.broker.orders import Orders
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.peer_front import PeerFront
from zmqmq.core.broker.peers import Peers
from zmqmq.core.broker.produce import Producing
from zmqmq.core.broker.replica import Replica
from zmqmq.core.broker.replicas import Replicas
from zmqmq.core.broker.reporting import Reporting
from zmqmq.core.broker.sessions import Sessions
from zmqmq.core.broker.timers import Timers
from zmqmq.core.broker.topics import Topics
from zmqmq.core.control.controller import Controller
from zmqmq.core.control.image import (
    BrokerChange,
    Image,
    PartitionChange,
    TopicChange,
)
from zmqmq.core.control.membership import Membership, Process
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import KV, Batch
from zmqmq.core.replication.follower import Follower
from zmqmq.core.replication.follower_session import FollowerSession
from zmqmq.core.replication.partition import Partition
from zmqmq.core.replication.vouching import Place
from zmqmq.core.storage.data_directory import Format
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import Flush, Log
from zmqmq.errors import StorageError
from zmqmq.model.names import OFFSETS_TOPIC
from zmqmq.model.now import Now
from zmqmq.model.topics import TopicConfig


LOOK_NS: Final = 10**9
"""How often to look for damage that nobody has told of."""


class Broker:
    """Lives as long as its process."""

    def __init__(
        self,
        identity: Identity,
        keys: KeySpace,
        options: ServingOptions,
        topic_defaults: TopicConfig,
        form: Format,
        draw_id: Callable[[], bytes],
    ) -> None:
        self.identity = identity
        self.options = options
        self.catalog = Catalog()
        self.image = Image(keys, topic_defaults)
        self.sessions = Sessions(options)
        self.outbox = Outbox(self.sessions)
        self.timers = Timers()
        self.commits = Commits(self.outbox)
        self.reads = ColdReads(self.outbox)
        self.flushing = Flushing(self.outbox)
        self.producing = Producing(self.catalog, self.outbox, self.timers, self.flushing, options)
        self.fetching = Fetching(
            self.catalog,
            self.outbox,
            self.timers,
            self.sessions,
            self.reads,
            options,
            self._damaged,
        )
        self.replicas = Replicas(
            self.catalog,
            self.image,
            self.outbox,
            self.flushing,
            identity,
            [folder for folder, since in form.unvouched.items() if since is None],
            self._led,
            self._left,
            self._followed,
            self._unfollowed,
        )
        self.peers = Peers(self.image, self.outbox, identity)
        self.leading = Leading(
            self.catalog,
            self.image,
            self.outbox,
            self.timers,
            self.commits,
            self.reads,
            keys,
            identity,
            self._moved,
            self._damaged,
            self._echoed,
        )
        self.following = Following(identity, self.peers, self.flushing, self.replicas, self._failed)
        self.latest = Latest(self.outbox, self.timers, self.leading.stamp, self.leading.hurry)
        self.reporting = Reporting(identity, self.peers, self.replicas)
        self.membership = Membership(
            Process(
                identity.broker_id,
                identity.instance,
                identity.endpoints,
                identity.rack,
                identity.server,
            ),
            form,
            keys,
            self.image,
            Orders(self.outbox),
            self.commits.begin,
            self._up,
            self._down,
        )
        self._is_judging = False
        """Whether damaged logs are being put aside."""
        self._look_ns = 0
        self.controller = Controller(
            identity.broker_id, keys, self.image, self.commits.begin, self.reporting.ask
        )
        self.topics = Topics(
            self.catalog,
            self.image,
            self.outbox,
            self.timers,
            self.commits,
            identity,
            keys,
            options,
            topic_defaults,
            draw_id,
        )
        self.offsets = Offsets(
            self.catalog,
            self.outbox,
            self.timers,
            self.producing,
            self.latest,
            self.topics.make_own,
        )
        self.describing = Describing(
            self.catalog,
            self.image,
            self.outbox,
            self.sessions,
            self.producing,
            self.fetching,
            self.flushing,
            self.reads,
            self.offsets,
            identity,
        )
        self.front = Front(
            identity,
            options,
            self.sessions,
            self.outbox,
            self.producing,
            self.fetching,
            self.offsets,
            self.topics,
            self.describing,
            Moves(self.catalog, self.image, self.outbox, self.timers, self.controller),
        )
        self.peer_front = PeerFront(
            identity,
            self.catalog,
            self.outbox,
            self.peers,
            self.replicas,
            self.leading,
            self.following,
        )

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
            case Measured(values):
                self.describing.measures = values
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
        | PeerLinked,
    ) -> None:
        match event:
            case LogOpened(key, log):
                self.replicas.opened(key, log)
                place = (key.topic_id, key.partition)
                if isinstance(log, StorageError) and self.replicas.is_shared(place):
                    self.outbox.emit(Halt(f"{key.folder} cannot be opened: {log}"))
                self.topics.partition_served(key.topic_id)
                if self.membership.has_begun or not self.replicas.is_opening:
                    self.flushing.begin()  # at a start all of them together
                self._register_if_ready(now)
            case LogTruncated(key, log):
                self.replicas.truncated(now, key, log)
                self.flushing.begin()
                if isinstance(log, StorageError):
                    self.outbox.emit(Halt(f"{key.folder} could not be truncated: {log}"))
                else:
                    self.following.touch(log)
                    self.following.pump(now)
            case LogDeleted(key):
                self.replicas.deleted(now, key)
            case FormatWritten(error):
                self.membership.format_written(now, error)
            case Registered(epoch):
                self.membership.registered(now, epoch)
            case RegistrationLost(reason):
                self.membership.lost(now, reason)
            case PeerLinked(broker_id, is_up):
                self.peers.linked(broker_id, is_up=is_up)
                self.following.linked(broker_id, is_up=is_up)
                self.following.pump(now)
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
        self._register_if_ready(now)
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
        return self.flushing.is_idle

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
            self.fetching.wake(partition)
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
        """Bytes of a log are not what was written: where there are other copies, the next start
        puts this one aside (L17, decision 10)."""
        replica = self.replicas.by_log.get(log)
        if replica is None or not self._is_doubtful(replica) or self._is_judging:
            return
        self._is_judging = True
        self.replicas.give_up(replica)
        halt = Halt(f"{log.name} is damaged at {log.damage}")
        self.membership.unvouch([log.key.folder], lambda _: self.outbox.emit(halt))

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

    def _abandon(self, partition: Partition, why: str) -> None:
        self.producing.drop(partition, why)
        if partition.topic == OFFSETS_TOPIC:
            self.offsets.drop(partition, why)
        self.fetching.wake(partition)

    def _followed(self, now: Now, follower: Follower) -> None:
        self.following.follow(follower)
        self.following.pump(now)

    def _unfollowed(self, follower: Follower) -> None:
        self.following.drop(follower.place)

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
        self.topics.finish_removal(topic_id)

    # Membership

    def _register_if_ready(self, now: Now) -> None:
        """Once every log is open it is known for which of them this broker vouches (D5)."""
        if self.membership.has_begun or self._is_judging or self.replicas.is_opening:
            return
        damaged = [r for r in self.replicas if self._is_doubtful(r)]
        if not damaged:
            self.membership.begin(now)
            return
        self._is_judging = True

        def put_aside(_: Now) -> None:
            self._is_judging = False
            for replica in damaged:
                self.replicas.open_anew(replica)

        self.membership.unvouch([replica.key.folder for replica in damaged], put_aside)

    def _look_for_damage(self, now: Now) -> None:
        """Also where it was found by a look-up or a compaction."""
        if now.ns < self._look_ns or self.membership.me is None:
            return
        self._look_ns = now.ns + LOOK_NS
        for replica in self.replicas:
            if replica.log is not None and replica.log.damage is not None:
                self._damaged(replica.log)

    def _is_doubtful(self, replica: Replica) -> bool:
        """Whether a copy is damaged, and there are others to fill it from."""
        log = replica.log
        return log is not None and log.damage is not None and self.replicas.is_shared(replica.place)

    def _up(self, now: Now, me: Member) -> None:
        """This broker is registered, in a new epoch: nothing that it did in an older one goes on
        (L1)."""
        self.replicas.end_roles()
        self.following.begin_anew()
        self.identity.epoch = me.broker_epoch
        self.replicas.assign_all(now)
        self.controller.registered(now, me)
        if self.identity.is_alone:
            self.topics.make_own()

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

    def finish(self, now: Now) -> Sequence[Effect]:
        """All logs are closed and flushed: say so on the disk, and give up the registration."""
        self.membership.finish(now)
        return self.outbox.take()

    def _tick(self, now: Now) -> None:
        for waiter in self.timers.due(now.ns):
            waiter.expire()
        self.front.tick(now)
        self.leading.tick(now)
        self.following.tick(now)
        self.membership.tick(now)
        self.controller.tick(now)
        self.topics.tick(now)
        self._look_for_damage(now)
        self.reporting.run(now, self.controller.handle_report)
