"""What is published, and who reads it: nothing that a broker promises depends on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zmqmq.sim.faults.scene import ALL, End, Fault, Scene
from zmqmq.sim.pubsub import Mischief, Odds


def lost(scene: Scene, fault: Fault) -> End:
    """The parameter is how many in a million; all of them is a tail that is lost."""
    return _spoil(scene, fault, Odds(lost=fault.parameter))


def twice(scene: Scene, fault: Fault) -> End:
    """The parameter is how many in a million."""
    return _spoil(scene, fault, Odds(twice=fault.parameter))


def late(scene: Scene, fault: Fault) -> End:
    """Out of order; the parameter is how many in a million."""
    return _spoil(scene, fault, Odds(late=fault.parameter))


def stalled(scene: Scene, fault: Fault) -> End:
    """The socket of a subscriber is not read, though its others are."""
    names = [c.node.name for c in scene.clients.values() if fault.target in (ALL, c.node.name)]
    return _each(names, scene.cluster.network.mischief.stall)


def unheard(scene: Scene, fault: Fault) -> End:
    """Subscriptions do not reach a broker; with a parameter, its socket admits none of them."""
    names = [host.node.name for host in scene.hosts(fault.target)]
    mischief = scene.cluster.network.mischief
    return _each(names, mischief.refuse if fault.parameter else mischief.unhear)


def _spoil(scene: Scene, fault: Fault, odds: Odds) -> End:
    mischief: Mischief = scene.cluster.network.mischief
    return mischief.spoil(odds, "" if fault.target == ALL else fault.target)


def _each(names: Sequence[str], begin: Callable[[str], End]) -> End:
    ends = [begin(name) for name in names]

    def end() -> None:
        for one in ends:
            one()

    return end
