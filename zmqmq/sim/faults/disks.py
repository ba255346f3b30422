"""Disks fail, are full or slow, forget and are exchanged."""

from __future__ import annotations

from typing import Final

from zmqmq.sim.broker_host import BrokerHost
from zmqmq.sim.chance import Stream
from zmqmq.sim.disk import SimDisk
from zmqmq.sim.faults.scene import End, Fault, Scene, nothing, up
from zmqmq.sim.workloads.administer import AdministeringClient

TRIES_MAX: Final = 20
"""To find something in a disk's files that may be damaged."""


def disk_fails(scene: Scene, fault: Fault) -> End | None:
    """The next sync or write of a log fails, once."""
    (host,) = scene.hosts(fault.target)
    if host.broker is None:
        return None
    host.disk.fail("write" if fault.parameter else "sync", end=".log")
    return nothing


def slow_disk(scene: Scene, fault: Fault) -> End | None:
    hosts = [h for h in scene.hosts(fault.target) if h.slowness == 1]
    for host in hosts:
        host.slowness = fault.parameter

    def end() -> None:
        for host in hosts:
            host.slowness = 1

    return end if hosts else None


def full_disk(scene: Scene, fault: Fault) -> End | None:
    (host,) = scene.hosts(fault.target)
    if host.disk.budget is not None:
        return None
    host.disk.budget = host.disk.used_bytes() + fault.parameter

    def end() -> None:
        host.disk.budget = None

    return end


def wipe(scene: Scene, fault: Fault) -> End | None:
    """Another, empty disk: only where another broker has everything.

    If the parameter says so it comes about before the session ends. Not where there is an
    administrator: partitions without other copies could be placed on who is still counted.
    """
    (host,) = scene.hosts(fault.target)
    is_quick = bool(fault.parameter) and not _administrators(scene)
    for place, document in scene.partitions():
        is_here = host.broker_id in document.replicas
        if is_here and not scene.is_spare(host, place, document, is_counted=is_quick):
            return None
    scene.lose(host, is_quick=is_quick)
    host.disk = SimDisk(keeps_history=False)
    return lambda: up([host])


def rot(scene: Scene, fault: Fault) -> End | None:
    """One byte of a log on a broker that is down: only where another broker has everything, and
    only below the recovery point (behind it, it could not be told from a torn tail).

    The copy goes on to count until somebody reads it. So there must be no way to commit anything
    to it alone, and no administrator who makes one by lowering min_isr. Not where logs are
    compacted: there the invariants know from the log alone what a copy has.
    """
    (host,) = scene.hosts(fault.target)
    folders = {
        f"logs/{place[0].hex()}.{place[1]}.0": place
        for place, document in scene.partitions()
        if host.broker_id in document.replicas
        and not scene.is_compacted(place)
        and scene.is_spare(host, place, document, is_counted=True)
    }
    found = [f for f in folders if f in host.checkpoints and host.disk.exists(f)]
    if not found or _administrators(scene):
        return None
    scene.lose(host, is_quick=bool(fault.parameter))
    stream = scene.stream(fault)
    for _ in range(TRIES_MAX):
        folder = stream.choice(found)
        spot = _spot(host, folder, stream)
        if spot is not None:
            scene.flip(host, folders[folder], *spot, 1 << stream.randrange(8))
            break
    return lambda: up([host])


def _administrators(scene: Scene) -> bool:
    return any(isinstance(client, AdministeringClient) for client in scene.clients.values())


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
