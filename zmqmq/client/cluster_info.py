"""What the client tells about the cluster as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from zmqmq.client.describing import PartitionDescription, TopicDescription
from zmqmq.client.machines.loads import COST_UNIT
from zmqmq.client.machines.planning import Move, Placed, Seat
from zmqmq.client.machines.relieving import FLOOR
from zmqmq.errors import ProtocolError, ZmqmqError
from zmqmq.wire.frame import Fields

COST_MAX: Final = COST_UNIT // (16 * 1024)
"""A millisecond for a batch, several times what it takes: what is beyond that is no work."""
COSTS_DIFFER: Final = 3
"""So many times as slow as the others, or as fast, a broker may be."""
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
    """Of all its replicas; None: it did not answer, and so with what follows."""
    cpu_millicores: int | None = None
    """In the last minute: thousandths of one core. None too in its first ten seconds."""
    work_per_s: int | None = None
    """What it had to do in the same time (docs/protocol.md, DESCRIBE items)."""
    disk_bytes: int | None = None
    """Of the file system of its data directory."""
    disk_free_bytes: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether replicas can be given to it."""
        return self.state == "up" and not self.is_cordoned

    @property
    def disk_used_bytes(self) -> int | None:
        """What is taken of its disk, by whomever."""
        if self.disk_bytes is None or self.disk_free_bytes is None:
            return None
        return self.disk_bytes - self.disk_free_bytes


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


def broker_info(item: Fields, own: Fields) -> BrokerInfo:
    """From an item of DESCRIBE, kind `brokers`, and what the broker tells of itself."""

    def number(name: str) -> int | None:
        value = own.get(name)
        return value if type(value) is int else None

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
            number("replica_bytes"),
            number("cpu_millicores"),
            number("work_per_s"),
            number("disk_bytes"),
            number("disk_free_bytes"),
        )
    except (KeyError, TypeError, ValueError):
        raise ProtocolError(f"a broker was described with {item!r:.200}") from None


def seats_of(brokers: Sequence[BrokerInfo]) -> list[Seat]:
    """Brokers, as a plan sees them.

    What work costs a broker is what its CPU did in the same minute, if that was enough to tell;
    else what it costs the others. What that leaves over of its CPU is for something else.
    """
    busy = [
        (b.broker, b.cpu_millicores, b.work_per_s)
        for b in brokers
        if b.cpu_millicores is not None and b.cpu_millicores >= FLOOR and b.work_per_s
    ]
    total = sum(work for _, _, work in busy)
    usual = sum(cpu for _, cpu, _ in busy) * COST_UNIT // total if total else 0
    costs = dict.fromkeys((b.broker for b in brokers), (usual, 0))
    for number, cpu, work in busy:
        own = cpu * COST_UNIT // work
        cost = min(max(own, usual // COSTS_DIFFER), usual * COSTS_DIFFER, COST_MAX)
        other = cpu - cost * work // COST_UNIT
        costs[number] = cost, other if other >= FLOOR else 0
    return [
        Seat(
            b.broker,
            b.rack,
            b.is_open,
            min(costs[b.broker][0], COST_MAX),
            costs[b.broker][1],
            b.disk_bytes or 0,
            b.disk_used_bytes or 0,
        )
        for b in brokers
    ]


def placed_of(topics: Sequence[TopicDescription], *, fix_moving: bool) -> list[Placed]:
    """Partitions, as a plan sees them; what nobody leads cannot be moved.

    Where the work of some is not known, that of none is counted: a broker would seem idle.
    """
    led = [p for topic in topics for p in topic.partitions if p.leader is not None]
    is_known = all(p.work_per_s >= 0 for p in led if p.error is None)
    return [
        Placed(
            topic.name,
            p.partition,
            p.target,
            max(p.bytes, 0),
            p.leader is None or (fix_moving and p.is_moving),
            max(p.work_per_s, 0) if is_known else 0,
            max(p.copy_work_per_s, 0) if is_known else 0,
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
