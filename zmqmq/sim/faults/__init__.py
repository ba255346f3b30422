"""What the nemesis can do to a cluster: kinds of faults by name, each with a beginning and an end.

A fault does nothing where the promise would be void by right (the fault budget of reliability.md
2). So every violation is a bug, never an argument about what was too much.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from zmqmq.sim.faults import disks, machines, pushes, ways
from zmqmq.sim.faults.scene import ALL, Begin, End, Fault, Scene

__all__ = ["ALL", "KINDS", "Begin", "End", "Fault", "Scene", "dump", "load"]

KINDS: Final[Mapping[str, Begin]] = {
    "kill": machines.kill,
    "power_cut": machines.power_cut,
    "stop": machines.stop,
    "pause": machines.pause,
    "cut": ways.cut,
    "isolate": ways.isolate,
    "clog": ways.clog,
    "reset": ways.reset,
    "storm": ways.storm,
    "outage": ways.outage,
    "lag": ways.lag,
    "watches": ways.watches,
    "ambiguous": ways.ambiguous,
    "expire": ways.expire,
    "fence": ways.fence,
    "disk_fails": disks.disk_fails,
    "slow_disk": disks.slow_disk,
    "full_disk": disks.full_disk,
    "wipe": disks.wipe,
    "rot": disks.rot,
    "clock_step": machines.clock_step,
    "clock_drift": machines.clock_drift,
    "client_kill": machines.client_kill,
    "client_pause": machines.client_pause,
    "push_lost": pushes.lost,
    "push_twice": pushes.twice,
    "push_late": pushes.late,
    "push_stalled": pushes.stalled,
    "push_unheard": pushes.unheard,
}


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
