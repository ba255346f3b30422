"""Which partition a record goes to."""

from __future__ import annotations

from crc32c import crc32c

from zmqmq.client.machines.batch import TopicQueue
from zmqmq.client.options import Partitioner
from zmqmq.errors import Code, UsageError, refusal


class Partitioning:
    """Chooses by key, in turn, or as the caller's function says.

    By key means crc32c(key) mod the number of partitions, the same in every language
    (docs/protocol.md). A record without a key goes to the topic's sticky partition, which the
    accumulator moves on whenever a batch is closed: full batches instead of many small ones.
    """

    __slots__ = ("_function", "_is_round_robin", "is_sticky")

    def __init__(self, partitioner: str | Partitioner) -> None:
        self._function = None if isinstance(partitioner, str) else partitioner
        self._is_round_robin = partitioner == "round-robin"
        self.is_sticky = partitioner == "key"

    def choose(
        self, topic: TopicQueue, partition: int | None, key: bytes | None, value: bytes | None
    ) -> int:
        """A partition that exists. Raises a refusal if the caller named one that does not."""
        count = len(topic.partitions)
        if partition is not None:
            if not 0 <= partition < count:
                raise refusal(
                    Code.UNKNOWN_PARTITION,
                    f"topic {topic.name!r} has partitions 0 to {count - 1}; {partition} is none",
                )
            return partition
        if self._function is not None:
            return self._ask(self._function, topic.name, key, value, count)
        if self._is_round_robin:
            chosen = topic.sticky
            topic.sticky = (chosen + 1) % count
            return chosen
        return topic.sticky if key is None else partition_of_key(key, count)

    def _ask(
        self,
        function: Partitioner,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        count: int,
    ) -> int:
        try:
            chosen = function(key, value, count)
        except Exception as error:
            raise UsageError(f"the partitioner raised {error!r}") from error
        if type(chosen) is not int or not 0 <= chosen < count:
            raise UsageError(
                f"the partitioner returned {chosen!r}; topic {topic!r} has partitions "
                f"0 to {count - 1}"
            )
        return chosen


def partition_of_key(key: bytes, count: int) -> int:
    """Where records with this key go."""
    return int(crc32c(key)) % count
