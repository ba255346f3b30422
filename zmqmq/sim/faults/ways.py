"""The network and the metadata store: nothing gets through, or late, or twice."""

from __future__ import annotations

from zmqmq.core.meta.store import Delete
from zmqmq.sim.broker_host import KEYS
from zmqmq.sim.faults.scene import ALL, End, Fault, Scene, nothing
from zmqmq.sim.links import Weather
from zmqmq.sim.node import MS
from zmqmq.sim.store import NAME as STORE


def _ways(target: str) -> tuple[str, str, bool]:
    """Both ends, and whether both directions are meant."""
    source, one_way, other = target.partition(">")
    if one_way:
        return source, other, False
    source, _, other = target.partition("-")
    return source, other, True


def cut(scene: Scene, fault: Fault) -> End:
    source, other, both = _ways(fault.target)
    network = scene.cluster.network
    network.cut(source, other, both=both)
    return lambda: network.heal(source, other, both=both)


def isolate(scene: Scene, fault: Fault) -> End:
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


def clog(scene: Scene, fault: Fault) -> End:
    source, other, both = _ways(fault.target)
    until = scene.cluster.loop.now + fault.duration
    scene.cluster.network.clog(source, other, until)
    if both:
        scene.cluster.network.clog(other, source, until)
    return nothing


def reset(scene: Scene, fault: Fault) -> End:
    source, other, _ = _ways(fault.target)
    scene.cluster.network.reset(source, other)
    return nothing


def storm(scene: Scene, fault: Fault) -> End:
    """Bad weather everywhere: the parameter is how many messages in a million are held up."""
    cluster = scene.cluster
    fair = cluster.options.weather
    spread = max(fair.spread, 20 * MS)
    cluster.network.set_weather(Weather(fair.base, spread, fault.parameter))
    return lambda: cluster.network.set_weather(fair)


def outage(scene: Scene, fault: Fault) -> End:
    scene.cluster.store.outage(scene.cluster.loop.now + fault.duration)
    return nothing


def lag(scene: Scene, fault: Fault) -> End:
    cluster = scene.cluster
    cluster.store.lag(fault.target, cluster.loop.now + fault.duration)

    def end() -> None:
        cluster.store.lag(fault.target, cluster.loop.now)
        cluster.store.break_watches(fault.target)  # what was held back comes anew

    return end


def watches(scene: Scene, fault: Fault) -> End:
    """They break; the parameter says whether what they missed is compacted away."""
    for host in scene.hosts(fault.target):
        scene.cluster.store.break_watches(host.node.name)
    if fault.parameter:
        scene.cluster.store.compact_now()
    return nothing


def ambiguous(scene: Scene, fault: Fault) -> End:
    store = scene.cluster.store
    store.ambiguity = fault.parameter

    def end() -> None:
        store.ambiguity = 0

    return end


def expire(scene: Scene, fault: Fault) -> End:
    scene.cluster.store.expire(None if fault.target == ALL else fault.target)
    return nothing


def fence(scene: Scene, fault: Fault) -> End | None:
    """Somebody deletes the live key of a broker that is well (D11)."""
    keys = [KEYS.live(host.broker_id) for host in scene.hosts(fault.target)]
    store = scene.cluster.store
    keys = [key for key in keys if store.keys.get(key) is not None]
    if keys:
        store.commit([Delete(key) for key in keys], [])
    return nothing if keys else None
