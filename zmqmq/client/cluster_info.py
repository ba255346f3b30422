"""What the client tells about the cluster as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from zmqmq.client.describing import PartitionDescription, TopicDescription
from zmqmq.client.machines.planning import Move, Placed, Seat
from zmqmq.errors import ProtocolError, ZmqmqError
from zmqmq.wire.frame import Fields

Where = tuple[str, int]
"""A topic's name, and the number of a partition."""


class BrokerInfo(NamedTuple):
    """One broker."""

    broker: int
    address: str | None
    """Where clients connect; None while it is down, as what follows."""
    rack: str | None
    version: str | None
    state: str
    """`up`, `stopping` or `down`."""
    is_cordoned: bool
    """Whether it is given no new partitions."""
    is_controller: bool
    replicas: int
    leaders: int
    preferred: int
    """Partitions of which it is the first replica."""
    bytes: int | None = None
    """Of all its replicas; None: it did not answer."""

    @property
    def is_open(self) -> bool:
        """Whether replicas can be given to it."""
        return self.state == "up" and not self.is_cordoned


class ClusterStatus(NamedTuple):
    """The cluster at one glance."""

    cluster: str
    """Its id, in hex."""
    controller: int | None
    brokers: tuple[BrokerInfo, ...]
    partitions: int
    """All, internal topics included."""
    without_leader: tuple[Where, ...]
    below_min_isr: tuple[Where, ...]
    """Led, but with too few in sync: nothing is committed."""
    under_replicated: tuple[Where, ...]
    """Led, and not all of their replicas in sync; those below min_isr too."""
    not_preferred: tuple[Where, ...]
    """Led by another than their first replica."""
    moving: tuple[Where, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether every partition has all its replicas, and every broker is up."""
        return not (self.without_leader or self.under_replicated) and all(
            broker.state == "up" for broker in self.brokers
        )


class Progress(NamedTuple):
    """How far a plan is. `advance` goes on with it, and knows from it what was done and begun."""

    plan: tuple[Move, ...]
    done: tuple[Move, ...] = ()
    """What was done once is not done again, whatever others have made of it since."""
    under_way: tuple[Move, ...] = ()
    lag: Mapping[Where, int | None] = {}
    """Of those that are under way, records that the new replicas lack; None: not known yet."""
    stuck: tuple[Where, ...] = ()
    """What is under way or waits, and nobody leads: nothing is copied until somebody does."""
    waiting: int = 0
    refused: tuple[tuple[Move, ZmqmqError], ...] = ()
    """What the controller will not do. It is not asked again."""
    changed: tuple[Move, ...] = ()
    """What somebody else has moved since the plan was made: it is left to them. Plan anew."""
    begun: Mapping[Move, int] = {}
    """What the controller has agreed to: looks since it was last seen under way."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to wait for: all is done, refused or changed."""
        return not self.under_way and not self.waiting


def broker_info(item: Fields, size: int | None) -> BrokerInfo:
    """From an item of DESCRIBE, kind `brokers`."""
    try:
        return BrokerInfo(
            int(item["broker"]),
            item["address"],
            item["rack"],
            item["server"],
            str(item["state"]),
            item["cordoned"] is True,
            item["controller"] is True,
            int(item["replicas"]),
            int(item["leaders"]),
            int(item["preferred"]),
            size,
        )
    except (KeyError, TypeError, ValueError):
        raise ProtocolError(f"a broker was described with {item!r:.200}") from None


def seats_of(brokers: Sequence[BrokerInfo]) -> list[Seat]:
    """Brokers, as a plan sees them."""
    return [Seat(b.broker, b.rack, is_open=b.is_open) for b in brokers]


def placed_of(topics: Sequence[TopicDescription], *, fix_moving: bool) -> list[Placed]:
    """Partitions, as a plan sees them; what nobody leads cannot be moved."""
    return [
        Placed(
            topic.name,
            p.partition,
            p.target,
            max(p.bytes, 0),
            is_fixed=p.leader is None or (fix_moving and p.is_moving),
        )
        for topic in topics
        for p in topic.partitions
        if p.target
    ]


def status_of(
    cluster: str, brokers: Sequence[BrokerInfo], topics: Sequence[TopicDescription]
) -> ClusterStatus:
    """Count what is wrong."""
    rows = [((t.name, p.partition), p) for t in topics for p in t.partitions]
    led = [(where, p) for where, p in rows if p.leader is not None]
    return ClusterStatus(
        cluster,
        next((b.broker for b in brokers if b.is_controller), None),
        tuple(brokers),
        len(rows),
        tuple(where for where, p in rows if p.leader is None),
        tuple(where for where, p in led if len(p.isr) < p.min_isr),
        tuple(where for where, p in led if _lacks(p)),
        tuple(where for where, p in led if p.replicas and p.leader != p.replicas[0]),
        tuple(where for where, p in rows if p.is_moving),
    )


def _lacks(partition: PartitionDescription) -> bool:
    """Whether one is not in sync that is not just being brought in."""
    return any(b not in partition.isr and b not in partition.adding for b in partition.replicas)
