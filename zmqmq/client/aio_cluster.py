"""`client.cluster` of `zmqmq.aio`: brokers, and what is moved between them."""

from __future__ import annotations

from collections.abc import Sequence

from zmqmq.client.aio_loop import AioLoop
from zmqmq.client.cluster_info import BrokerInfo, ClusterStatus, Progress
from zmqmq.client.cluster_operations import ClusterOperations
from zmqmq.client.describing import TopicDescription
from zmqmq.client.machines.comparing import PartitionCheck
from zmqmq.client.machines.planning import Move
from zmqmq.client.verifying import Verifying
from zmqmq.errors import WireError


class Cluster:
    """`client.cluster`; see `zmqmq.Cluster` for arguments and errors."""

    def __init__(self, aio: AioLoop, operations: ClusterOperations) -> None:
        self._aio = aio
        self._operations = operations

    async def status(self) -> ClusterStatus:
        """The cluster at one glance: brokers, and partitions that lack something."""
        return await self._aio.run(self._operations.status())

    async def brokers(self) -> list[BrokerInfo]:
        """Every broker that is up, is cordoned or has replicas."""
        return await self._aio.run(self._operations.brokers())

    async def reassign(self, topic: str, partition: int, brokers: Sequence[int]) -> None:
        """Begin to move a partition to these brokers, the preferred leader first."""
        await self._aio.run(self._operations.reassign(topic, {partition: brokers}))

    async def cancel(self, topic: str, partition: int) -> None:
        """Give up moving a partition. Raises ConflictError if it is not being moved."""
        await self._aio.run(self._operations.reassign(topic, {partition: None}))

    async def elect(
        self, topic: str, partitions: Sequence[int] | None = None, *, unclean: bool = False
    ) -> dict[int, WireError]:
        """Let the first replica of each partition lead; what was refused."""
        return await self._aio.run(self._operations.elect(topic, partitions, unclean=unclean))

    async def drain(self, broker: int) -> list[Move]:
        """Give a broker nothing new from now on; the moves that empty it, for `advance`."""
        return await self._aio.run(self._operations.drain(broker))

    async def undrain(self, broker: int) -> None:
        """Give a broker new partitions again. What it had, `balance` gives back."""
        await self._aio.run(self._operations.cordon(broker, cordoned=False))

    async def balance(self) -> list[Move]:
        """The moves that even out replicas, bytes, leaders, CPU and disks, for `advance`."""
        return await self._aio.run(self._operations.plan_balance())

    async def advance(self, plan: Sequence[Move] | Progress, at_a_time: int = 4) -> Progress:
        """Look how far a plan is, and begin what may be begun; then give it what it has returned,
        until that `is_done`."""
        return await self._aio.run(self._operations.advance(plan, at_a_time))

    async def verify(self, topic: str | TopicDescription, partition: int) -> PartitionCheck:
        """Read a partition from each of its replicas, and compare what is committed."""
        return await self._aio.run(Verifying(self._operations).verify(topic, partition))
