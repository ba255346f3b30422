"""`client.cluster`: brokers, and what is moved between them."""

from __future__ import annotations

from collections.abc import Sequence

from zmqmq.client.cluster_info import BrokerInfo, ClusterStatus, Progress
from zmqmq.client.cluster_operations import ClusterOperations
from zmqmq.client.describing import TopicDescription
from zmqmq.client.io_thread import IOThread
from zmqmq.client.machines.comparing import PartitionCheck
from zmqmq.client.machines.planning import Move
from zmqmq.client.verifying import Verifying
from zmqmq.errors import WireError


class Cluster:
    """`client.cluster`."""

    def __init__(self, io: IOThread, operations: ClusterOperations) -> None:
        self._io = io
        self._operations = operations

    def status(self) -> ClusterStatus:
        """The cluster at one glance: brokers, and partitions that lack something."""
        return self._io.run(self._operations.status())

    def brokers(self) -> list[BrokerInfo]:
        """Every broker that is up, is cordoned or has replicas."""
        return self._io.run(self._operations.brokers())

    def reassign(self, topic: str, partition: int, brokers: Sequence[int]) -> None:
        """Begin to move a partition to these brokers, the preferred leader first.

        It goes on without you: `describe` shows the partition as `is_moving` until all new replicas
        are in sync and the old ones are gone.

        Raises:
            NotFoundError: there is no such topic or partition.
            ConflictError: it is being changed just now; ask once more.
            RefusedError: a broker stands there twice, or is not up.
        """
        self._io.run(self._operations.reassign(topic, {partition: brokers}))

    def cancel(self, topic: str, partition: int) -> None:
        """Give up moving a partition. Raises ConflictError if it is not being moved."""
        self._io.run(self._operations.reassign(topic, {partition: None}))

    def elect(
        self, topic: str, partitions: Sequence[int] | None = None, *, unclean: bool = False
    ) -> dict[int, WireError]:
        """Let the first replica of each partition lead.

        Args:
            topic: the topic's name.
            partitions: only these; None: all.
            unclean: for partitions that nobody leads: let whoever has most lead, **and lose what
                only the others have** (docs/protocol.md, ELECT).

        Returns:
            What was refused, by partition: a first replica that is not in sync cannot lead.
        """
        return self._io.run(self._operations.elect(topic, partitions, unclean=unclean))

    def drain(self, broker: int) -> list[Move]:
        """Give a broker nothing new from now on; the moves that empty it, for `advance`.

        Where no other broker can take a replica it stays, and only leaderships go.

        Raises:
            NotFoundError: there is no such broker.
            ConflictError: it is the last that is up and not cordoned.
        """
        return self._io.run(self._operations.drain(broker))

    def undrain(self, broker: int) -> None:
        """Give a broker new partitions again. What it had, `balance` gives back."""
        self._io.run(self._operations.cordon(broker, cordoned=False))

    def balance(self) -> list[Move]:
        """The moves that even out replicas, bytes, leaders, CPU and disks; nothing is moved yet:
        `advance` does that."""
        return self._io.run(self._operations.plan_balance())

    def advance(self, plan: Sequence[Move] | Progress, at_a_time: int = 4) -> Progress:
        """Look how far a plan is, and begin what may be begun; call it until it `is_done`.

        Args:
            plan: what `drain` or `balance` returned; to go on, what the last call returned. A move
                is begun once, and only if its partition is as it was when it was planned.
            at_a_time: so many partitions are copied at the same time.

        Example:
            >>> progress = mq.cluster.advance(mq.cluster.balance())  # doctest: +SKIP
            ... while not progress.is_done:
            ...     time.sleep(1)
            ...     progress = mq.cluster.advance(progress)
        """
        return self._io.run(self._operations.advance(plan, at_a_time))

    def verify(self, topic: str | TopicDescription, partition: int) -> PartitionCheck:
        """Read a partition from each of its replicas, and compare what is committed.

        With a description of the topic instead of its name, what was committed then. Raises
        NotFoundError.
        """
        return self._io.run(Verifying(self._operations).verify(topic, partition))
