"""The copies of partitions on this broker: opened, led, followed, cut, closed, deleted.

Follows the metadata image. Which role a copy has is decided by its partition document alone: it
leads if the document names this broker in its present epoch, and in a leader epoch that it has
not seen before (L1); otherwise it follows whom the document names. A copy has no role before its
log has been opened and what was found in it has been flushed (D3), nor while it is being cut.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from zmqmq.core.broker.catalog import Catalog, Leadership, Topic
from zmqmq.core.broker.events import DeleteLog, OpenLog, TruncateLog
from zmqmq.core.broker.flushing import Flushing
from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.replica import Phase, Replica
from zmqmq.core.control.image import Image
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.core.replication.follower import Follower
from zmqmq.core.replication.partition import Partition
from zmqmq.core.replication.vouching import Place
from zmqmq.core.storage.log import Log, LogKey
from zmqmq.errors import StorageError
from zmqmq.model.now import Now

Led = Callable[[Partition], None]
Left = Callable[[Partition, str], None]
Followed = Callable[[Now, Follower], None]
Unfollowed = Callable[[Follower], None]


class Replicas:
    """Keeps the copies here in step with the image."""

    def __init__(
        self,
        catalog: Catalog,
        image: Image,
        outbox: Outbox,
        flushing: Flushing,
        identity: Identity,
        doubted: Collection[str],
        led: Led,
        left: Left,
        followed: Followed,
        unfollowed: Unfollowed,
    ) -> None:
        self._catalog = catalog
        self._image = image
        self._outbox = outbox
        self._flushing = flushing
        self._identity = identity
        self._doubted = doubted
        """Folders of logs that were found to be damaged in an earlier run (L17)."""
        self._led = led
        self._left = left
        self._followed = followed
        self._unfollowed = unfollowed
        self.all: dict[Place, Replica] = {}
        self.by_log: dict[Log, Replica] = {}
        self._unsettled: dict[Replica, None] = {}
        self._opening: dict[Replica, None] = {}
        self._going: dict[LogKey, None] = {}
        """Logs that are being deleted, or will be when the world has done with them."""

    def __iter__(self) -> Iterator[Replica]:
        return iter(self.all.values())

    @property
    def logs(self) -> list[Log]:
        """Every open log."""
        return list(self.by_log)

    @property
    def is_settled(self) -> bool:
        """Whether every copy is usable, or known not to be."""
        return not self._unsettled

    @property
    def is_cutting(self) -> bool:
        """Whether a log is being truncated."""
        return any(replica.phase is Phase.CUTTING for replica in self._unsettled)

    @property
    def is_opening(self) -> bool:
        """Whether a log is being opened."""
        return bool(self._opening)

    def _set(self, replica: Replica, phase: Phase) -> None:
        self._opening.pop(replica, None)
        replica.phase = phase
        if phase in (Phase.READY, Phase.BROKEN):
            self._unsettled.pop(replica, None)
        else:
            self._unsettled[replica] = None

    def is_shared(self, place: Place) -> bool:
        """Whether other brokers have a copy too."""
        known = self._image.partitions.get(place)
        return known is not None and len(known[0].replicas) > 1

    def changed(self, now: Now, place: Place) -> None:
        """The document of a partition has changed, or its topic has become ready."""
        topic = self._catalog.by_id.get(place[0])
        known = self._image.partitions.get(place)
        if topic is None or known is None:
            return
        document, _ = known
        leader = document.leader
        topic.leaders[place[1]] = Leadership(
            leader.broker_id if leader else None,
            document.leader_epoch,
            tuple(dict.fromkeys((*(m.broker_id for m in document.isr), *document.replicas))),
        )
        replica = self.all.get(place)
        if replica is not None and replica.log is not None:
            replica.log.config = topic.config
        if self._identity.broker_id not in document.replicas:
            if replica is not None:
                self._remove(replica, "this broker is no longer one of its replicas")
            return
        if replica is None:
            if topic.state == "ready" and place[1] < topic.partition_count:
                self.open(topic, place, quarantine=LogKey(*place).folder in self._doubted)
            return
        self.assign(now, replica)

    def open(self, topic: Topic, place: Place, *, quarantine: bool = False) -> None:
        """Ask the world for the log of a copy."""
        key = LogKey(*place)
        if key in self._going:
            return  # asked for again when the old one is gone
        replica = self.all[place] = Replica(key)
        self._unsettled[replica] = self._opening[replica] = None
        self._catalog.unopened.pop(place, None)
        self._outbox.emit(OpenLog(key, f"{topic.name}/{place[1]}", topic.config, quarantine))

    def open_anew(self, replica: Replica) -> None:
        """Put a damaged copy aside, and begin an empty one (D5). It has no role yet."""
        assert replica.role is None
        if self.all.get(replica.place) is not replica:
            return
        self._unsettled.pop(replica, None)
        if replica.log is not None:
            del self.by_log[replica.log]
            self._flushing.drop(replica.log)
        self.open(self._catalog.by_id[replica.key.topic_id], replica.place, quarantine=True)

    def opened(self, key: LogKey, log: Log | StorageError) -> Replica | None:
        """A log was opened; the copy, unless nobody wants it any more."""
        place = (key.topic_id, key.partition)
        replica, topic = self.all.get(place), self._catalog.by_id.get(key.topic_id)
        if replica is None or topic is None or key in self._going:
            self._outbox.emit(DeleteLog(key))
            return None
        if isinstance(log, StorageError):
            self._break(replica, str(log))
            return replica
        log.config = topic.config
        replica.log = log
        replica.saved_high_watermark = log.checkpointed_high_watermark
        self._set(replica, Phase.FLUSHING)
        self.by_log[log] = replica
        self._flushing.mark_dirty(log)
        return replica

    def flushed(self, now: Now, log: Log) -> None:
        """A flush of this log has ended well."""
        replica = self.by_log.get(log)
        if replica is None:
            self._delete_if_going(log.key)
            return
        if replica.phase is Phase.FLUSHING:
            self._set(replica, Phase.READY)
            self.assign(now, replica)
        elif replica.phase is Phase.CUTTING:
            self._begin_cut(replica)

    def failed(self, log: Log, why: str) -> None:
        """The disk has failed this log."""
        replica = self.by_log.get(log)
        if replica is not None and replica.phase in (Phase.FLUSHING, Phase.CUTTING):
            self._break(replica, why)

    def cut(self, replica: Replica, to: int, state: bytes | None) -> None:
        """Truncate the log of a follower, or begin it anew with a leader's state (F7, F9)."""
        assert replica.phase is Phase.READY
        self._set(replica, Phase.CUTTING)
        replica.cut_to, replica.cut_with = to, state
        self._begin_cut(replica)

    def truncated(self, now: Now, key: LogKey, log: Log | StorageError) -> None:
        """The log was cut."""
        replica = self.all.get((key.topic_id, key.partition))
        if replica is None or replica.log is None or key in self._going:
            self._delete_if_going(key)
            return
        if isinstance(log, StorageError):
            replica.log.fail(log)
            self._break(replica, str(log))
            return
        self._set(replica, Phase.READY)
        replica.saved_high_watermark = min(replica.saved_high_watermark, log.end_offset)
        self._flushing.mark_dirty(log)
        role = replica.role
        if isinstance(role, Follower):
            role.was_cut(log)
        self.assign(now, replica)

    def deleted(self, now: Now, key: LogKey) -> None:
        """A DeleteLog is done; the copy may be wanted here again."""
        self._going.pop(key, None)
        self.changed(now, (key.topic_id, key.partition))

    def assign(self, now: Now, replica: Replica) -> None:
        """Give a copy the role that its document says."""
        known = self._image.partitions.get(replica.place)
        if known is None:
            return
        document, revision = known
        me = Member(self._identity.broker_id, self._identity.epoch)
        role = replica.role
        if role is not None:
            if role.epoch == document.leader_epoch and self._fits(role, document, me):
                if isinstance(role, Partition):
                    role.changed(document, revision)
                else:
                    role.changed(document)
                return
            self._end_role(replica, document)
        if replica.phase is not Phase.READY or document.leader_epoch < replica.adopted:
            return
        if document.leader is not None and document.leader.broker_id == me.broker_id:
            if document.leader != me:
                return  # it leads in a registration that is over, or not known here yet
        elif is_suspect(document, replica):
            # Also while nobody leads: by the next document it would look as if nothing had been.
            replica.saved_high_watermark = 0
        replica.rec = max(replica.rec, document.rec)
        if document.leader == me:
            if document.leader_epoch > replica.adopted:
                self._lead(now, replica, document, revision, me)
        elif document.leader is not None and me.broker_epoch:
            self._follow(now, replica, document, document.leader)
        replica.adopted = document.leader_epoch

    def adopt(self, place: Place, leader_epoch: int) -> Replica | None:
        """Take part in nothing older than this epoch any more, before it is said how far the copy
        reaches (D8). The copy, if there is one and it can be counted on."""
        replica = self.all.get(place)
        if replica is None or not replica.is_usable:
            return None
        if leader_epoch > replica.adopted:
            known = self._image.partitions.get(place)
            if replica.role is not None:
                self._end_role(replica, known.document if known else None)
            replica.adopted = leader_epoch
        return replica

    def _fits(self, role: Partition | Follower, document: PartitionDocument, me: Member) -> bool:
        """Whether the role is still the one that the document of its epoch gives this broker."""
        if isinstance(role, Partition):
            return document.leader == me
        return document.leader is not None and document.leader == role.document.leader

    def remove_topic(self, topic: Topic) -> None:
        """A topic was deleted: its copies here go, files and all.

        Also those that this run has never opened, because a crash had stopped the deletion. Nobody
        knows by now which they are: where there is none, there is nothing to remove.
        """
        for number in range(topic.partition_count):
            replica, key = self.all.get((topic.id, number)), LogKey(topic.id, number)
            if replica is not None:
                self._remove(replica, f"topic {topic.name!r} was deleted")
            elif key not in self._going:
                self._going[key] = None
                self._outbox.emit(DeleteLog(key))

    def give_up(self, replica: Replica) -> None:
        """End the role of a copy that can do no more."""
        if replica.role is not None:
            self._end_role(replica, None)

    def end_roles(self) -> None:
        """This broker has a new epoch: whatever it did in the old one is over (L1)."""
        for replica in self.all.values():
            self.give_up(replica)

    def assign_all(self, now: Now) -> None:
        """Give every copy its role."""
        for replica in tuple(self.all.values()):
            self.assign(now, replica)

    def _lead(
        self,
        now: Now,
        replica: Replica,
        document: PartitionDocument,
        revision: int,
        me: Member,
    ) -> None:
        log = replica.log
        assert log is not None
        partition = Partition(
            self._catalog.by_id[replica.key.topic_id].name,
            log,
            document,
            revision,
            me,
            replica.saved_high_watermark,
            now.ns,
        )
        replica.role = partition
        self._catalog.partitions[replica.place] = partition
        self._led(partition)

    def _follow(
        self, now: Now, replica: Replica, document: PartitionDocument, leader: Member
    ) -> None:
        log = replica.log
        assert log is not None
        follower = Follower(log, document, leader, replica.saved_high_watermark)
        replica.role = follower
        self._followed(now, follower)

    def _end_role(self, replica: Replica, document: PartitionDocument | None) -> None:
        role = replica.drop_role()
        if isinstance(role, Partition):
            self._catalog.partitions.pop(replica.place, None)
            role.is_closed = True
            leader = document.leader if document else None
            who = "nobody" if leader is None else f"broker {leader.broker_id}"
            self._left(role, f"{who} leads it now")
        elif role is not None:
            self._unfollowed(role)

    def _break(self, replica: Replica, why: str) -> None:
        self._set(replica, Phase.BROKEN)
        replica.why = why
        self._catalog.unopened[replica.place] = why

    def _begin_cut(self, replica: Replica) -> None:
        """A flush under way would count what is cut as flushed: it ends first (D2)."""
        log = replica.log
        assert log is not None
        assert replica.cut_to is not None
        if self._flushing.is_flushing(log):
            return
        self._flushing.drop(log)
        self._outbox.emit(TruncateLog(log, replica.cut_to, replica.cut_with))
        replica.cut_to = replica.cut_with = None

    def _remove(self, replica: Replica, why: str) -> None:
        role = replica.drop_role()
        if isinstance(role, Partition):
            self._catalog.partitions.pop(replica.place, None)
            role.is_closed = True
            self._left(role, why)
        elif role is not None:
            self._unfollowed(role)
        place = replica.place
        del self.all[place]
        self._unsettled.pop(replica, None)
        self._opening.pop(replica, None)
        self._catalog.unopened.pop(place, None)
        log = replica.log
        is_busy = replica.phase is Phase.OPENING or (
            replica.phase is Phase.CUTTING and replica.cut_to is None
        )
        if log is not None:
            del self.by_log[log]
            is_busy |= self._flushing.is_flushing(log)
            self._flushing.drop(log)
        self._going[replica.key] = None
        if not is_busy:
            self._outbox.emit(DeleteLog(replica.key))

    def _delete_if_going(self, key: LogKey) -> None:
        """What the world did with it is over."""
        if key in self._going:
            self._outbox.emit(DeleteLog(key))


def is_suspect(document: PartitionDocument, replica: Replica) -> bool:
    """D9: whether records may have been lost since this copy last heard of a leader: then what it
    knew to be committed may be what was lost, and it shows nothing before a leader has said that
    its log is a prefix of the leader's own."""
    return document.rec > replica.rec
