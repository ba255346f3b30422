"""What the nemesis can do to a cluster: kinds of faults by name, each with a beginning and an end.

A fault does nothing where the promise would be void by right (the fault budget of reliability.md
2): what `begin` returns then is None. So every violation is a bug, never an argument about what was
too much.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from zmqmq.core.meta.keys import PartitionKey
from zmqmq.core.meta.store import Delete
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.core.replication.vouching import Place
from zmqmq.sim.broker_host import KEYS, BrokerHost
from zmqmq.sim.chance import Stream
from zmqmq.sim.cluster import Cluster
from zmqmq.sim.disk import SimDisk
from zmqmq.sim.links import Weather
from zmqmq.sim.node import MS
from zmqmq.sim.store import NAME as STORE
from zmqmq.sim.workloads.administer import AdministeringClient
from zmqmq.sim.workloads.base import SimClient

ALL: Final = "all"
LOOK_AGAIN_NS: Final = 100 * MS
TWO: Final = 2
TRIES_MAX: Final = 20
"""To find something in a disk's files that may be damaged."""

End = Callable[[], object]


class Fault(NamedTuple):
    """One thing that will happen."""

    at: int
    """Nanoseconds after the faults begin."""
    kind: str
    target: str
    """A node, `all` brokers, or two nodes as `a-b` or, in one direction, `a>b`."""
    duration: int
    parameter: int = 0
    """What it means depends on the kind."""

    def __str__(self) -> str:
        return f"{self.kind} {self.target} {self.duration / MS:.0f} ms, {self.parameter}"


def dump(schedule: Sequence[Fault]) -> str:
    """As JSON, a fault a line."""
    return "[\n" + ",\n".join(f"  {json.dumps(list(fault))}" for fault in schedule) + "\n]\n"


def load(text: str) -> list[Fault]:
    """The inverse. Raises ValueError."""
    try:
        schedule = [Fault(*entry) for entry in json.loads(text)]
    except TypeError as error:
        raise ValueError(f"a fault is [at, kind, target, duration, parameter]: {error}") from None
    for fault in schedule:
        if fault.kind not in KINDS:
            raise ValueError(f"fault {fault.kind!r} is unknown; there are {', '.join(KINDS)}")
    return schedule


class Scene:
    """What faults can reach."""

    def __init__(self, cluster: Cluster, clients: Mapping[str, SimClient]) -> None:
        self.cluster = cluster
        self.clients = clients

    def hosts(self, target: str) -> list[BrokerHost]:
        """The brokers that are meant."""
        return [h for h in self.cluster.hosts if target in (ALL, h.node.name)]

    def stream(self, fault: Fault) -> Stream:
        """The fault's own chance, which taking others away does not change."""
        return self.cluster.chance.stream(f"fault/{fault.at}/{fault.kind}/{fault.target}")

    def partitions(self) -> Iterator[tuple[Place, PartitionDocument]]:
        """Every partition as the store has it."""
        for kv in self.cluster.store.keys.list(KEYS.prefix + b"part/").items:
            key = KEYS.parse(kv.key)
            assert isinstance(key, PartitionKey)
            yield (key.topic_id, key.partition), PartitionDocument.decode(kv.value)

    def is_spare(self, host: BrokerHost, document: PartitionDocument) -> bool:
        """Whether this copy can be lost: another broker surely has everything that is committed,
        and still counts if its session ends before the controller knows of the loss. With a
        min_isr of 1 it would not: the ISR would shrink to the lost copy, and there is no ELR."""
        in_sync = [member.broker_id for member in document.isr]
        if host.broker_id in in_sync and document.effective_min_isr < TWO:
            return False
        return any(
            member.broker_id != host.broker_id and self._is_well(*member) for member in document.isr
        )

    def _is_well(self, broker_id: int, broker_epoch: int) -> bool:
        kv = self.cluster.store.keys.get(KEYS.live(broker_id))
        host = self.cluster.hosts[broker_id - 1]
        broker = host.broker
        return (
            kv is not None
            and kv.create_revision == broker_epoch
            and broker is not None
            and broker.identity.epoch == broker_epoch
        )


Begin = Callable[[Scene, Fault], End | None]


def _nothing() -> None:
    """What is over by itself."""


# Processes and machines


def _kill(scene: Scene, fault: Fault) -> End | None:
    return _down(scene.hosts(fault.target), power_cut=False)


def _power_cut(scene: Scene, fault: Fault) -> End | None:
    return _down(scene.hosts(fault.target), power_cut=True)


def _down(hosts: Sequence[BrokerHost], *, power_cut: bool) -> End | None:
    hosts = [h for h in hosts if (h.node.is_powered if power_cut else h.node.is_up)]
    for host in hosts:
        host.crash(power_cut=power_cut)
    return (lambda: _up(hosts)) if hosts else None


def _up(hosts: Sequence[BrokerHost]) -> None:
    for host in hosts:
        host.restart()


def _stop(scene: Scene, fault: Fault) -> End | None:
    """A clean stop; where it takes longer than it should, it is waited for."""
    hosts = [h for h in scene.hosts(fault.target) if h.broker is not None and not h.is_stopping]
    for host in hosts:
        host.stop()

    def end() -> None:
        loop = scene.cluster.loop
        for host in hosts:
            if host.node.is_up and host.is_stopping:
                loop.post(loop.now + LOOK_AGAIN_NS, None, end)
                return
        _up(hosts)

    return end if hosts else None


def _pause(scene: Scene, fault: Fault) -> End | None:
    hosts = [h for h in scene.hosts(fault.target) if h.node.is_up]
    for host in hosts:
        host.node.pause(fault.duration)
    return _nothing if hosts else None


def _client_kill(scene: Scene, fault: Fault) -> End | None:
    node = scene.clients[fault.target].node
    if not node.is_up:
        return None
    node.crash()
    return lambda: None if node.is_up else node.restart()


def _client_pause(scene: Scene, fault: Fault) -> End | None:
    node = scene.clients[fault.target].node
    node.pause(fault.duration)
    return _nothing if node.is_still else None


# The network


def _ways(target: str) -> tuple[str, str, bool]:
    """Both ends, and whether both directions are meant."""
    source, one_way, other = target.partition(">")
    if one_way:
        return source, other, False
    source, _, other = target.partition("-")
    return source, other, True


def _cut(scene: Scene, fault: Fault) -> End:
    source, other, both = _ways(fault.target)
    network = scene.cluster.network
    network.cut(source, other, both=both)
    return lambda: network.heal(source, other, both=both)


def _isolate(scene: Scene, fault: Fault) -> End:
    """From all brokers, from the clients, from everybody; the parameter says in which direction."""
    name, _, whom = fault.target.partition("-")
    cluster = scene.cluster
    others: list[str] = []
    if whom in ("brokers", ALL):
        others += [h.node.name for h in cluster.hosts if h.node.name != name]
    if whom in ("clients", ALL):
        others += [client.node.name for client in scene.clients.values()]
    if whom == ALL:
        others.append(STORE)
    ways = [(name, other) for other in others]
    if fault.parameter == 1:
        ways = [(other, name) for other in others]
    both = fault.parameter == 0
    for way in ways:
        cluster.network.cut(*way, both=both)

    def end() -> None:
        for way in ways:
            cluster.network.heal(*way, both=both)

    return end


def _clog(scene: Scene, fault: Fault) -> End:
    source, other, both = _ways(fault.target)
    until = scene.cluster.loop.now + fault.duration
    scene.cluster.network.clog(source, other, until)
    if both:
        scene.cluster.network.clog(other, source, until)
    return _nothing


def _reset(scene: Scene, fault: Fault) -> End:
    source, other, _ = _ways(fault.target)
    scene.cluster.network.reset(source, other)
    return _nothing


def _storm(scene: Scene, fault: Fault) -> End:
    """Bad weather everywhere: the parameter is how many messages in a million are held up."""
    cluster = scene.cluster
    fair = cluster.options.weather
    spread = max(fair.spread, 20 * MS)
    cluster.network.set_weather(Weather(fair.base, spread, fault.parameter))
    return lambda: cluster.network.set_weather(fair)


# The metadata store


def _outage(scene: Scene, fault: Fault) -> End:
    scene.cluster.store.outage(scene.cluster.loop.now + fault.duration)
    return _nothing


def _lag(scene: Scene, fault: Fault) -> End:
    cluster = scene.cluster
    cluster.store.lag(fault.target, cluster.loop.now + fault.duration)

    def end() -> None:
        cluster.store.lag(fault.target, cluster.loop.now)
        cluster.store.break_watches(fault.target)  # what was held back comes anew

    return end


def _watches(scene: Scene, fault: Fault) -> End:
    """They break; the parameter says whether what they missed is compacted away."""
    for host in scene.hosts(fault.target):
        scene.cluster.store.break_watches(host.node.name)
    if fault.parameter:
        scene.cluster.store.compact_now()
    return _nothing


def _ambiguous(scene: Scene, fault: Fault) -> End:
    store = scene.cluster.store
    store.ambiguity = fault.parameter

    def end() -> None:
        store.ambiguity = 0

    return end


def _expire(scene: Scene, fault: Fault) -> End:
    scene.cluster.store.expire(None if fault.target == ALL else fault.target)
    return _nothing


def _fence(scene: Scene, fault: Fault) -> End | None:
    """Somebody deletes the live key of a broker that is well (D11)."""
    keys = [KEYS.live(host.broker_id) for host in scene.hosts(fault.target)]
    store = scene.cluster.store
    keys = [key for key in keys if store.keys.get(key) is not None]
    if keys:
        store.commit([Delete(key) for key in keys], [])
    return _nothing if keys else None


# Disks


def _disk_fails(scene: Scene, fault: Fault) -> End | None:
    """The next sync or write of a log fails, once."""
    (host,) = scene.hosts(fault.target)
    if host.broker is None:
        return None
    host.disk.fail("write" if fault.parameter else "sync", end=".log")
    return _nothing


def _slow_disk(scene: Scene, fault: Fault) -> End | None:
    hosts = [h for h in scene.hosts(fault.target) if h.slowness == 1]
    for host in hosts:
        host.slowness = fault.parameter

    def end() -> None:
        for host in hosts:
            host.slowness = 1

    return end if hosts else None


def _full_disk(scene: Scene, fault: Fault) -> End | None:
    (host,) = scene.hosts(fault.target)
    if host.disk.budget is not None:
        return None
    host.disk.budget = host.disk.used_bytes() + fault.parameter

    def end() -> None:
        host.disk.budget = None

    return end


def _wipe(scene: Scene, fault: Fault) -> End | None:
    """Another, empty disk: only where another broker has everything.

    It takes longer to come about than a lease runs, unless the parameter says otherwise and there
    is no administrator, who might place partitions without other copies on who is still counted.
    """
    (host,) = scene.hosts(fault.target)
    for _, document in scene.partitions():
        if host.broker_id in document.replicas and not scene.is_spare(host, document):
            return None
    host.crash()
    if not fault.parameter or any(
        isinstance(c, AdministeringClient) for c in scene.clients.values()
    ):
        scene.cluster.store.expire(host.node.name)
    host.disk = SimDisk(keeps_history=False)
    return lambda: _up([host])


def _rot(scene: Scene, fault: Fault) -> End | None:
    """One byte of a log on a broker that is down: only where another broker has everything, and
    only below the recovery point (behind it, it could not be told from a torn tail)."""
    (host,) = scene.hosts(fault.target)
    documents = dict(scene.partitions())
    folders = {
        f"logs/{place[0].hex()}.{place[1]}.0": place
        for place, document in documents.items()
        if scene.is_spare(host, document)
    }
    found = [f for f in folders if f in host.checkpoints and host.disk.exists(f)]
    host.crash()
    stream = scene.stream(fault)
    for _ in range(TRIES_MAX if found else 0):
        spot = _spot(host, stream.choice(found), stream)
        if spot is not None:
            host.disk.flip(*spot, 1 << stream.randrange(8))
            break
    return lambda: _up([host])


def _spot(host: BrokerHost, folder: str, stream: Stream) -> tuple[str, int] | None:
    """A byte of a segment all of which is below the recovery point."""
    point = host.checkpoints[folder].recovery_point
    names = sorted(name for name in host.disk.list(folder) if name.endswith(".log"))
    bases = [int(name.partition(".")[0]) for name in names]
    sealed = [name for name, next_base in zip(names, bases[1:], strict=False) if next_base <= point]
    if not sealed:
        return None
    path = f"{folder}/{stream.choice(sealed)}"
    size = host.disk.open(path).size
    return (path, stream.randrange(size)) if size else None


# Clocks


def _clock_step(scene: Scene, fault: Fault) -> End:
    """The wall clock is set; the parameter is in milliseconds."""
    for host in scene.hosts(fault.target):
        host.node.clock.step_wall(fault.parameter)
    return _nothing


def _clock_drift(scene: Scene, fault: Fault) -> End:
    """It runs too fast or too slow; the parameter is in parts of a million."""
    hosts = scene.hosts(fault.target)
    for host in hosts:
        host.node.clock.drift(fault.parameter)

    def end() -> None:
        for host in hosts:
            host.node.clock.drift(0)

    return end


KINDS: Final[Mapping[str, Begin]] = {
    "kill": _kill,
    "power_cut": _power_cut,
    "stop": _stop,
    "pause": _pause,
    "cut": _cut,
    "isolate": _isolate,
    "clog": _clog,
    "reset": _reset,
    "storm": _storm,
    "outage": _outage,
    "lag": _lag,
    "watches": _watches,
    "ambiguous": _ambiguous,
    "expire": _expire,
    "fence": _fence,
    "disk_fails": _disk_fails,
    "slow_disk": _slow_disk,
    "full_disk": _full_disk,
    "wipe": _wipe,
    "rot": _rot,
    "clock_step": _clock_step,
    "clock_drift": _clock_drift,
    "client_kill": _client_kill,
    "client_pause": _client_pause,
}
