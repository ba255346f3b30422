"""How the brokers of a simulation are set up."""

from __future__ import annotations

from dataclasses import dataclass, field

from zmqmq.core.broker.options import ServingOptions
from zmqmq.core.storage.options import StorageOptions
from zmqmq.model.topics import TopicConfig
from zmqmq.sim.node import MS, SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """How the machines of a simulation are set up; drawn from its seed."""

    lease_ns: int = 3 * SECOND
    checkpoint_ns: int = 2 * SECOND
    retention_ns: int = 3 * SECOND
    flush_ns: tuple[int, int] = (100_000, 1 * MS)
    """A flush takes from the first to the sum of both."""
    restart_ns: int = 500 * MS
    """What a supervisor waits before it starts a broker that has stopped."""
    serving: ServingOptions = field(
        default_factory=lambda: ServingOptions(offsets_partitions=2, offsets_replicas=3)
    )
    storage: StorageOptions = field(
        default_factory=lambda: StorageOptions(
            index_interval_bytes=512, allocate_bytes=4096, free_bytes_min=0
        )
    )
    racks: int = 0
    """How many there are, in which the brokers stand in turn; 0: no broker says where it is."""
    topics: TopicConfig = field(default_factory=TopicConfig)

    def rack_of(self, number: int) -> str | None:
        """Where a broker stands."""
        return f"rack {number % self.racks}" if self.racks else None
