"""What kind of world a seed makes: swarm testing (Groce et al. 2012).

Every seed leaves most things out: what is rare together with everything is common together with
little. Whoever adds something to draw adds it at the end of its function, or all seeds change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from zmqmq.client.machines.stream import PlaceKind
from zmqmq.client.options import Acks
from zmqmq.core.broker.options import ServingOptions
from zmqmq.core.storage.options import StorageOptions
from zmqmq.model.topics import TopicConfig
from zmqmq.sim.chance import Chance, Stream, happens
from zmqmq.sim.cluster import ClusterOptions
from zmqmq.sim.faults import ALL, KINDS, Fault
from zmqmq.sim.host_options import HostOptions
from zmqmq.sim.links import Weather
from zmqmq.sim.node import MS, SECOND
from zmqmq.sim.pubsub import QUEUE_MAX, Odds
from zmqmq.sim.store import NAME as STORE
from zmqmq.sim.workloads.administer import AdministeringClient
from zmqmq.sim.workloads.base import SimClient, Stage
from zmqmq.sim.workloads.consume import ConsumingClient
from zmqmq.sim.workloads.produce import ProducingClient

SECONDS_LEAST: Final = 10
PERIODS: Final = (400 * MS, 1_500 * MS, 5 * SECOND)
"""How far apart faults of one kind are, on average."""
DURATIONS: Final = (20 * MS, 300 * MS, 1_200 * MS, 3 * SECOND, 6 * SECOND)
WEATHERS: Final = (
    Weather(50_000, 300_000),
    Weather(100_000, 2 * MS),
    Weather(100_000, 2 * MS, 2_000),
    Weather(200_000, 20 * MS),
    Weather(500_000, 60 * MS, 10_000),
)
MODES: Final = (("pull",), ("pull", "push", "auto"), ("push",), ("push", "auto"))
"""How the consumers of a seed read."""
ODDS: Final = (
    Odds(),
    Odds(),
    Odds(lost=20_000),
    Odds(lost=250_000),
    Odds(twice=50_000, late=50_000),
    Odds(lost=50_000, twice=50_000, late=50_000),
)
"""Of what is published, all the time."""


class TopicPlan(NamedTuple):
    """A topic that is there from the beginning."""

    partitions: int
    replicas: int
    config: Mapping[str, object]

    @property
    def is_compacted(self) -> bool:
        """Whether only the newest record of each key must stay."""
        return self.config.get("cleanup") == "compact"

    @property
    def is_trimmed(self) -> bool:
        """Whether retention takes from it."""
        return "retention_bytes" in self.config


class ClientPlan(NamedTuple):
    """A client of the run."""

    name: str
    kind: str
    """produce, consume or administer."""
    think_ms: int
    acks: Acks | None = None
    idempotent: bool | None = None
    start: PlaceKind = PlaceKind.START
    group: str | None = None
    growable: bool = False
    moves: bool = False
    """Whether it moves partitions of the shared topics, and changes their settings."""
    rack: str | None = None
    mode: str = "pull"


@dataclass(frozen=True, slots=True)
class World:
    """Everything about a run that is drawn before it begins."""

    cluster: ClusterOptions
    topics: Mapping[str, TopicPlan]
    clients: Sequence[ClientPlan]
    seconds: int
    """How long faults go on."""
    schedule: Sequence[Fault]


def draw_world(seed: int, seconds: int | None = None) -> World:
    """What this seed makes."""
    chance = Chance(seed)
    stream = chance.stream("swarm")
    brokers = stream.choice((3, 3, 3, 3, 3, 3, 3, 2, 1))
    topics = _draw_topics(stream, brokers)
    topics = _draw_compaction(chance.stream("swarm/compaction"), topics)
    is_unclean = any("unclean_election" in plan.config for plan in topics.values())
    unclean = chance.stream("swarm/unclean").choice((500, 2_000)) if is_unclean else 10_000
    places = chance.stream("places")
    racks = places.choice((0, 0, 2, 3))
    pushes = chance.stream("swarm/push")
    weather = stream.choice(WEATHERS)
    hosts = _draw_hosts(stream, brokers, unclean)
    serving = replace(hosts.serving, read_cache_bytes=pushes.choice((0, 2_048, 33_554_432)))
    cluster = ClusterOptions(
        brokers=brokers,
        topics={name: plan.partitions for name, plan in topics.items()},
        weather=weather,
        hosts=replace(hosts, racks=racks, serving=serving),
        odds=pushes.choice(ODDS),
        push_queue=pushes.choice((QUEUE_MAX, QUEUE_MAX, 16, 4)),
    )
    modes = pushes.choice(MODES)
    clients = [
        plan._replace(
            rack=cluster.hosts.rack_of(places.randrange(3)),
            mode=pushes.choice(modes) if plan.kind == "consume" else "pull",
        )
        for plan in _draw_clients(stream)
    ]
    drawn_seconds = stream.randrange(SECONDS_LEAST, 2 * SECONDS_LEAST)
    seconds = drawn_seconds if seconds is None else seconds
    names = [f"b{number}" for number in range(1, brokers + 1)]
    schedule = draw_schedule(chance, names, [plan.name for plan in clients], seconds)
    return World(cluster, topics, clients, seconds, schedule)


def make_clients(
    stage: Stage, plans: Sequence[ClientPlan], drawn: Mapping[str, TopicPlan], brokers: int
) -> dict[str, SimClient]:
    """The clients, not started, by the names of their nodes."""
    topics = {name: plan.partitions for name, plan in drawn.items()}
    compacted = [name for name, plan in drawn.items() if plan.is_compacted]
    made: dict[str, SimClient] = {}
    for plan in plans:
        name, think = plan.name, plan.think_ms
        client: SimClient
        match plan.kind:
            case "produce":
                client = ProducingClient(
                    stage,
                    name,
                    topics,
                    think,
                    acks=plan.acks,
                    idempotent=plan.idempotent,
                    compacted=compacted,
                )
            case "consume":
                client = ConsumingClient(
                    stage,
                    name,
                    topics,
                    think,
                    start=plan.start,
                    group=plan.group,
                    rack=plan.rack,
                    mode=plan.mode,
                )
            case _:
                client = AdministeringClient(
                    stage,
                    name,
                    think,
                    growable=topics if plan.growable else None,
                    replicas=(1, brokers),
                    movable=topics if plan.moves else None,
                    brokers=range(1, brokers + 1) if plan.moves else (),
                )
        made[name] = client
    return made


def _draw_topics(stream: Stream, brokers: int) -> dict[str, TopicPlan]:
    topics = {}
    for name in ("t", "u")[: stream.choice((1, 1, 2))]:
        replicas = stream.choice((brokers, brokers, brokers, brokers, min(2, brokers), 1))
        config: dict[str, object] = {
            "segment_bytes": stream.choice((4_096, 4_096, 16_384, 1 << 20)),
            "min_isr": stream.randrange(replicas) if stream.randrange(2) else 0,
            "flush": stream.choice(("fsync", "fsync", "fsync", "replicated")),
        }
        if stream.randrange(4) == 0:
            config["retention_bytes"] = stream.choice((8_192, 32_768))
        if stream.randrange(4) == 0:
            config["segment_ms"] = 1_000
        if stream.randrange(5) == 0:
            config["unclean_election"] = "on"
        topics[name] = TopicPlan(stream.choice((1, 1, 2, 3)), replicas, config)
    return topics


def _draw_compaction(stream: Stream, topics: Mapping[str, TopicPlan]) -> dict[str, TopicPlan]:
    drawn = {}
    for name, plan in topics.items():
        if stream.randrange(4) == 0:
            config = {key: plan.config[key] for key in plan.config if key != "retention_bytes"}
            config["cleanup"] = "compact"
            config["segment_bytes"] = stream.choice((4_096, 4_096, 16_384))
            config["compact_lag_ms"] = stream.choice((0, 0, 2_000))
            drawn[name] = plan._replace(config=config)
        else:
            drawn[name] = plan
    return drawn


def _draw_hosts(stream: Stream, brokers: int, unclean_wait_ms: int) -> HostOptions:
    choice = stream.choice
    return HostOptions(
        lease_ns=choice((1_500, 2_000, 3_000, 5_000)) * MS,
        checkpoint_ns=choice((300, 1_000, 4_000)) * MS,
        retention_ns=choice((500, 2_000, 5_000)) * MS,
        flush_ns=choice(((50_000, 200_000), (100_000, 1 * MS), (1 * MS, 20 * MS))),
        restart_ns=choice((100, 500, 2_000)) * MS,
        serving=ServingOptions(
            offsets_partitions=choice((1, 2)),
            offsets_replicas=brokers,
            session_lease_ms=choice((2_000, 10_000, 60_000)),
            fetches_max=choice((8, 64)),
            unclean_wait_ms=unclean_wait_ms,
        ),
        storage=StorageOptions(
            index_interval_bytes=choice((512, 512, 16_384)),
            allocate_bytes=choice((4_096, 65_536)),
            free_bytes_min=0,
        ),
        topics=TopicConfig(segment_bytes=choice((4_096, 65_536))),
    )


def _draw_clients(stream: Stream) -> list[ClientPlan]:
    choice = stream.choice
    plans = [
        ClientPlan(f"p{number}", "produce", choice((20, 60, 120, 300)))
        for number in range(1, choice((2, 3, 3)) + 1)
    ]
    starts = ((PlaceKind.START, None), (PlaceKind.END, None), (PlaceKind.STORED, "g"))
    for number in range(1, choice((2, 3, 3)) + 1):
        start, group = choice(starts)
        think = choice((80, 250, 250, 600))
        plans.append(ClientPlan(f"c{number}", "consume", think, start=start, group=group))
    if happens(stream, 300_000):
        growable = stream.randrange(2) == 0
        think, moves = choice((200, 600)), stream.randrange(2) == 0
        plans.append(ClientPlan("a1", "administer", think, growable=growable, moves=moves))
    return plans


# Faults


def draw_schedule(
    chance: Chance, brokers: Sequence[str], clients: Sequence[str], seconds: int
) -> list[Fault]:
    """Faults of some kinds, each kind at its own pace."""
    stream = chance.stream("nemesis")
    share = stream.choice((0, 100_000, 200_000, 400_000, 400_000, 800_000))
    schedule: list[Fault] = []
    for kind in KINDS:
        own = chance.stream(f"nemesis/{kind}")  # what is added later changes nothing here
        period, duration = own.choice(PERIODS), own.choice(DURATIONS)
        if not happens(stream, share):
            continue
        at = own.randrange(2 * period)
        while at < seconds * SECOND:
            lasts = duration if own.randrange(2) else own.choice(DURATIONS)
            lasts = lasts * own.randrange(500, 1_500) // 1_000
            target, parameter = _draw_target(kind, own, brokers, clients)
            if target:
                schedule.append(Fault(at, kind, target, lasts, parameter))
            at += 1 + own.randrange(2 * period)
    return sorted(schedule)


def _draw_target(
    kind: str, stream: Stream, brokers: Sequence[str], clients: Sequence[str]
) -> tuple[str, int]:
    """Whom it hits, and the parameter; an empty target: nobody."""
    broker = stream.choice(brokers)
    one_or_all = ALL if stream.randrange(5) == 0 else broker
    parameter = stream.choice(PARAMETERS.get(kind, (0,)))
    match kind:
        case "kill" | "power_cut" | "pause" | "expire" | "fence" | "watches" | "slow_disk":
            target = one_or_all
        case "cut" | "clog" | "reset":
            others = [*brokers, *brokers, *clients, STORE, STORE]
            other = stream.choice([name for name in others if name != broker])
            pair = (broker, other) if stream.randrange(2) else (other, broker)
            target = stream.choice(("-", "-", ">")).join(pair)
        case "isolate":
            target = f"{broker}-{stream.choice(('brokers', 'brokers', 'clients', ALL))}"
        case "client_kill" | "client_pause":
            target = stream.choice(clients)
        case "push_lost" | "push_twice" | "push_late" | "push_stalled":
            readers = [name for name in clients if name.startswith("c")]
            target = stream.choice((*readers, *readers, ALL))
        case "push_unheard":
            target = one_or_all
        case "storm" | "outage" | "ambiguous":
            target = ALL
        case _:
            target = broker
    return target, parameter


PARAMETERS: Final[Mapping[str, Sequence[int]]] = {
    "isolate": (0, 0, 1, 2),
    "storm": (0, 10_000, 50_000),
    "watches": (0, 0, 1),
    "ambiguous": (100_000, 500_000, 1_000_000),
    "disk_fails": (0, 0, 1),
    "slow_disk": (10, 50, 400),
    "full_disk": (0, 1_000, 20_000),
    "wipe": (0, 1),
    "rot": (0, 1),
    "clock_step": (-3_600_000, -1_000, -50, 50, 1_000, 3_600_000),
    "clock_drift": (-50_000, -1_000, 1_000, 50_000),
    "push_lost": (50_000, 300_000, 1_000_000, 1_000_000),
    "push_twice": (50_000, 500_000),
    "push_late": (50_000, 500_000),
    "push_unheard": (0, 1),
}
"""What may be drawn for each kind that has one: see faults.py."""
