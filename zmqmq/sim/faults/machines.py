"""Processes die, stand still, are stopped; clocks go wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from zmqmq.sim.broker_host import BrokerHost
from zmqmq.sim.faults.scene import End, Fault, Scene, nothing, up
from zmqmq.sim.node import MS

LOOK_AGAIN_NS: Final = 100 * MS


def kill(scene: Scene, fault: Fault) -> End | None:
    return _down(scene.hosts(fault.target), power_cut=False)


def power_cut(scene: Scene, fault: Fault) -> End | None:
    return _down(scene.hosts(fault.target), power_cut=True)


def _down(hosts: Sequence[BrokerHost], *, power_cut: bool) -> End | None:
    hosts = [h for h in hosts if (h.node.is_powered if power_cut else h.node.is_up)]
    for host in hosts:
        host.crash(power_cut=power_cut)
    return (lambda: up(hosts)) if hosts else None


def stop(scene: Scene, fault: Fault) -> End | None:
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
        up(hosts)

    return end if hosts else None


def pause(scene: Scene, fault: Fault) -> End | None:
    hosts = [h for h in scene.hosts(fault.target) if h.node.is_up]
    for host in hosts:
        host.node.pause(fault.duration)
    return nothing if hosts else None


def client_kill(scene: Scene, fault: Fault) -> End | None:
    node = scene.clients[fault.target].node
    if not node.is_up:
        return None
    node.crash()
    return lambda: None if node.is_up else node.restart()


def client_pause(scene: Scene, fault: Fault) -> End | None:
    node = scene.clients[fault.target].node
    node.pause(fault.duration)
    return nothing if node.is_still else None


def clock_step(scene: Scene, fault: Fault) -> End:
    """The wall clock is set; the parameter is in milliseconds."""
    for host in scene.hosts(fault.target):
        host.node.clock.step_wall(fault.parameter)
    return nothing


def clock_drift(scene: Scene, fault: Fault) -> End:
    """It runs too fast or too slow; the parameter is in parts of a million."""
    hosts = scene.hosts(fault.target)
    for host in hosts:
        host.node.clock.drift(fault.parameter)

    def end() -> None:
        for host in hosts:
            host.node.clock.drift(0)

    return end
