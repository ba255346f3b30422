"""What can be done to a cluster under test. `processes.py` does it to processes of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol


class What(StrEnum):
    """With whom a node is no longer connected."""

    ALL = "all"
    ETCD = "etcd"
    PEERS = "peers"
    CLIENTS = "clients"


class Way(StrEnum):
    """In which direction."""

    BOTH = "both"
    IN = "in"
    OUT = "out"


class Weather(NamedTuple):
    """What happens to the packets that a node receives."""

    delay_ms: int = 0
    jitter_ms: int = 0
    """Added at random; more than the time between two packets changes their order."""
    loss: float = 0.0


class World(Protocol):
    """A cluster. Nodes are called b1, b2, b3 (brokers) and e1, e2, e3 (members of etcd)."""

    brokers: Sequence[str]
    members: Sequence[str]

    @property
    def servers(self) -> str:
        """Where clients begin."""

    # Processes, of either kind

    def start(self, node: str) -> None:
        """Start it, unless it runs; does not wait until it serves."""

    def stop(self, node: str) -> None:
        """SIGTERM, and SIGKILL if that does not end it in a while."""

    def kill(self, node: str) -> None:
        """SIGKILL, if it runs."""

    def pause(self, node: str) -> None:
        """SIGSTOP, if it runs."""

    def resume(self, node: str) -> None:
        """SIGCONT, if it runs."""

    # Network

    def cut(self, node: str, what: What, way: Way = Way.BOTH) -> None:
        """From now on packets are lost in silence."""

    def heal(self, node: str, what: What, way: Way = Way.BOTH) -> None:
        """The opposite of the same `cut`."""

    def reset(self, node: str) -> None:
        """Every connection that it has breaks, at both ends."""

    def slow(self, node: str, weather: Weather) -> None:
        """Delay, reorder and lose what it receives."""

    def calm(self, node: str) -> None:
        """The opposite."""

    # Disks and clocks, of brokers

    def cut_power(self, nodes: Sequence[str]) -> None:
        """At one instant: the processes are gone, and whatever was not flushed with them."""

    def kill_disk(self, node: str) -> None:
        """From now on the disk answers EIO, to a broker that goes on."""

    def mend_disk(self, node: str) -> None:
        """What is on it can be read again. The broker must be down."""

    def fail_syncs(self, node: str) -> None:
        """Its fsync and its like answer EIO until it is killed."""

    def fill(self, node: str) -> None:
        """No room is left on its disk."""

    def free(self, node: str) -> None:
        """The opposite."""

    def wipe(self, node: str) -> None:
        """Remove its data. The broker must be down."""

    def skew(self, node: str, seconds: int) -> None:
        """Its wall clock is wrong by so much. The monotonic one is not."""

    # What there is to see

    def folder(self, node: str) -> Path:
        """The data directory of a broker."""

    def is_running(self, node: str) -> bool:
        """Whether there is a process."""

    def complaints(self) -> Sequence[str]:
        """What no process should have done: died by itself, or raised what is a bug."""
