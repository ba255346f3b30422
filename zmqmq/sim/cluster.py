"""A whole cluster with its clients in one thread: machines, store, network, from one seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from zmqmq.sim.broker_host import BrokerHost
from zmqmq.sim.chance import Chance
from zmqmq.sim.disk import SimDisk
from zmqmq.sim.history import History
from zmqmq.sim.host_options import HostOptions
from zmqmq.sim.links import Weather
from zmqmq.sim.loop import Loop
from zmqmq.sim.network import Network
from zmqmq.sim.node import Node
from zmqmq.sim.pubsub import QUEUE_MAX, Odds
from zmqmq.sim.store import Store
from zmqmq.sim.trace import Trace
from zmqmq.sim.workloads.base import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """What kind of cluster it is."""

    brokers: int = 3
    replicas: int = 3
    topics: Mapping[str, int] = field(default_factory=lambda: {"t": 1})
    """Name and partitions of those that are there from the beginning."""
    configs: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    weather: Weather = field(default_factory=lambda: Weather(100_000, 2_000_000, 0, 0))
    odds: Odds = field(default_factory=Odds)
    """How what is published fares, but for what the network does to it."""
    push_queue: int = QUEUE_MAX
    """So many messages may be under way to one subscriber."""
    hosts: HostOptions = field(default_factory=HostOptions)


class Cluster:
    """The world of one run."""

    def __init__(self, seed: int, options: ClusterOptions, trace: Trace) -> None:
        self.options = options
        self.trace = trace
        self.loop = Loop()
        self.chance = Chance(seed)
        self.network = Network(self.loop, self.chance, trace, options.weather)
        self.network.mischief.spoil(options.odds)
        self.network.mischief.queue_max = options.push_queue
        self.store = Store(self.loop, self.chance, trace, self.network)
        self.hosts = [self._host(number) for number in range(1, options.brokers + 1)]
        self.history = History(self.loop)
        servers = [host.clients_address for host in self.hosts]
        self.stage = Stage(self.loop, self.network, self.chance, self.history, servers)

    def start(self) -> None:
        """Start every broker."""
        for host in self.hosts:
            host.start()

    def host_of(self, name: str) -> BrokerHost:
        """The broker on the node of this name."""
        return next(host for host in self.hosts if host.node.name == name)

    @property
    def nodes(self) -> Sequence[Node]:
        """Of the brokers."""
        return [host.node for host in self.hosts]

    def _host(self, number: int) -> BrokerHost:
        node = Node(self.loop, f"b{number}", self.chance)
        return BrokerHost(
            number,
            node,
            self.network,
            self.store,
            self.chance,
            self.trace,
            self.options.hosts,
            SimDisk(keeps_history=False),
        )
