"""What a broker consists of, and who knows whom.

A part is handed what it needs, and what to call when something happens that others have to hear of:
the methods at the end of this class, which broker.py fills in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from zmqmq.core.broker.brokers import Brokers
from zmqmq.core.broker.catalog import Catalog
from zmqmq.core.broker.cold_reads import ColdReads
from zmqmq.core.broker.copies import Nearest
from zmqmq.core.broker.damage import Damage
from zmqmq.core.broker.describe import Describing
from zmqmq.core.broker.fetch import Fetching
from zmqmq.core.broker.flushing import Flushing
from zmqmq.core.broker.following import Following
from zmqmq.core.broker.front import Front
from zmqmq.core.broker.health import Health
from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.latest import Latest
from zmqmq.core.broker.leading import Leading
from zmqmq.core.broker.making import Making
from zmqmq.core.broker.metadata import Commits
from zmqmq.core.broker.moves import Moves
from zmqmq.core.broker.offsets import Offsets
from zmqmq.core.broker.options import ServingOptions
from zmqmq.core.broker.orders import Orders
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.peer_front import PeerFront
from zmqmq.core.broker.peers import Peers
from zmqmq.core.broker.produce import Producing
from zmqmq.core.broker.pushing import Pushing
from zmqmq.core.broker.replicas import Replicas
from zmqmq.core.broker.reporting import Reporting
from zmqmq.core.broker.sessions import Sessions
from zmqmq.core.broker.timers import Timers
from zmqmq.core.broker.topics import Topics
from zmqmq.core.broker.traffic import Traffic
from zmqmq.core.control.controller import Controller
from zmqmq.core.control.image import (
    Image,
)
from zmqmq.core.control.membership import Membership, Process
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.replication.follower import Follower
from zmqmq.core.replication.follower_session import FollowerSession
from zmqmq.core.replication.partition import Partition
from zmqmq.core.storage.data_directory import Format
from zmqmq.core.storage.log import Log
from zmqmq.core.storage.read_cache import ReadCache
from zmqmq.model.now import Now
from zmqmq.model.topics import TopicConfig


class Parts(ABC):
    """Everything that a broker is made of."""

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
        self._build_copies(keys, form)
        self._build_control(keys, form)
        self._build_service(keys, topic_defaults, draw_id)

    def _build_copies(self, keys: KeySpace, form: Format) -> None:
        """Logs, led and followed."""
        identity, options = self.identity, self.options
        self.reads = ColdReads(self.outbox)
        self.cache = ReadCache(options.read_cache_bytes)
        self.flushing = Flushing(self.outbox)
        self.producing = Producing(self.catalog, self.outbox, self.timers, self.flushing, options)
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
        self.fetching = Fetching(
            self.catalog,
            self.outbox,
            self.timers,
            self.sessions,
            self.reads,
            options,
            self.cache,
            self._damaged,
            self.replicas.all.get,
            Nearest(self.image, identity, self.leading),
        )
        self.pushing = Pushing(self.catalog, self.outbox, identity, self.cache, self._damaged)
        self.following = Following(
            identity, self.peers, self.flushing, self.replicas, self._failed, self._told
        )
        self.latest = Latest(self.outbox, self.timers, self.leading.stamp, self.leading.hurry)

    def _build_control(self, keys: KeySpace, form: Format) -> None:
        """What this broker is in the cluster, and what it decides for it."""
        identity = self.identity
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
        self.damage = Damage(self.replicas, self.membership, self.outbox)
        self.catalog.is_given_up = self.damage.is_given_up
        self.controller = Controller(
            identity.broker_id,
            keys,
            self.image,
            self.commits.begin,
            self.reporting.ask,
            self.options.unclean_wait_ms * 1_000_000,
        )
        self.health = Health(self.image, identity, self.peers, self.controller)

    def _build_service(
        self, keys: KeySpace, topic_defaults: TopicConfig, draw_id: Callable[[], bytes]
    ) -> None:
        """What answers."""
        identity, options = self.identity, self.options
        self.making = Making(
            self.image, self.commits, identity, keys, options, topic_defaults, draw_id
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
            self.making,
        )
        self.offsets = Offsets(
            self.catalog,
            self.outbox,
            self.timers,
            self.producing,
            self.latest,
            self.making.make_own,
        )
        brokers = Brokers(self.image, self.outbox, self.timers, self.commits, keys)
        self.traffic = Traffic(self.replicas)
        self.describing = Describing(
            self.catalog,
            self.image,
            self.replicas,
            brokers,
            self.traffic,
            self.outbox,
            self.sessions,
            self.producing,
            self.fetching,
            self.pushing,
            self.flushing,
            self.reads,
            self.cache,
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
            self.pushing,
            self.offsets,
            self.topics,
            self.describing,
            Moves(self.catalog, self.image, self.outbox, self.timers, self.controller),
            brokers,
        )
        self.peer_front = PeerFront(
            identity,
            self.catalog,
            self.outbox,
            self.peers,
            self.replicas,
            self.leading,
            self.following,
            self.health,
        )

    # What parts tell

    @abstractmethod
    def _led(self, partition: Partition) -> None:
        """This broker begins to lead a partition."""

    @abstractmethod
    def _left(self, partition: Partition, why: str) -> None:
        """It does so no more."""

    @abstractmethod
    def _followed(self, now: Now, follower: Follower) -> None:
        """A copy begins to follow."""

    @abstractmethod
    def _unfollowed(self, follower: Follower) -> None:
        """It does so no more."""

    @abstractmethod
    def _told(self, follower: Follower) -> None:
        """A leader has told a follower something."""

    @abstractmethod
    def _moved(self, partitions: Iterable[Partition]) -> None:
        """High watermarks have moved."""

    @abstractmethod
    def _failed(self, log: Log, why: str) -> None:
        """The disk has failed a log."""

    @abstractmethod
    def _damaged(self, log: Log) -> None:
        """Bytes of a log are not what was written."""

    @abstractmethod
    def _echoed(self, session: FollowerSession) -> bool:
        """A follower has answered; whether somebody waits for another answer of it (D10)."""

    @abstractmethod
    def _up(self, now: Now, me: Member) -> None:
        """This broker is registered, in a new epoch."""

    @abstractmethod
    def _down(self, now: Now, reason: str) -> None:
        """It is registered no more."""
