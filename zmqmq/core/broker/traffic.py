"""What this broker, and each partition that it leads, has had to do of late.

Logs count what is appended to them and what clients read. Every few seconds the counters of those
that were ever used are put down; a rate is what came since, a minute ago at most. The CPU time of
the process is put down with them: so the two can be set against each other, whatever has moved to
other brokers since.

Work is counted in bytes: those of a batch that comes in, and as many as would take a broker as long
as a batch of any size does; for a leader half as much again for each follower. What clients read
comes on top, counted in the same way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from zmqmq.core.broker.replicas import Replicas
from zmqmq.core.replication.partition import Partition
from zmqmq.core.storage.counts import Counts
from zmqmq.core.storage.log import Log

PERIOD_NS: Final = 5 * 10**9
SAMPLES: Final = 13
"""The oldest is a minute old."""
YOUNG_NS: Final = 10 * 10**9
"""Of a shorter time no rate is told: it would be chance."""
BATCH_COST: Final = 16 * 1024
"""Handling a batch of one record takes about as long as storing so many bytes."""
NONE: Final = Counts()


class Sample(NamedTuple):
    """What was put down at one moment, counted since the start of the process."""

    now_ns: int
    cpu_ns: int
    work: int
    counts: Mapping[Log, Counts]


class Traffic:
    """The last minute."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)

    def measure(self, now_ns: int, cpu_ns: int) -> None:
        """Time went by, and the process has had so much CPU since its start."""
        last = self._samples[-1] if self._samples else Sample(now_ns - PERIOD_NS, 0, 0, {})
        if now_ns < last.now_ns + PERIOD_NS:
            return
        work, counts = last.work, dict[Log, Counts]()
        for log, replica in self._replicas.by_log.items():
            counters = log.counters
            if counters.batches_in or counters.reads_out:
                counts[log] = counters.read()
                role = replica.role
                copies = _copies(role) if isinstance(role, Partition) else 1
                work += _work(counts[log].since(last.counts.get(log, NONE)), copies)
        self._samples.append(Sample(now_ns, cpu_ns, work, counts))

    def of_broker(self) -> dict[str, Any]:
        """For DESCRIBE, kind `broker`; nothing while the process is young."""
        if not self._samples:
            return {}
        first, last = self._samples[0], self._samples[-1]
        elapsed = last.now_ns - first.now_ns
        if elapsed < YOUNG_NS:
            return {}
        return {
            "cpu_millicores": (last.cpu_ns - first.cpu_ns) * 1_000 // elapsed,
            "work_per_s": (last.work - first.work) * 10**9 // elapsed,
        }

    def of_partition(self, now_ns: int, partition: Partition) -> dict[str, Any]:
        """The same of one that is led here; nothing while this leader is young."""
        since_ns, before = partition.since_ns, partition.counted_before
        if self._samples and self._samples[0].now_ns > since_ns:
            since_ns = self._samples[0].now_ns
            before = self._samples[0].counts.get(partition.log, NONE)
        elapsed = now_ns - since_ns
        if elapsed < YOUNG_NS:
            return {}
        found = partition.log.counters.read().since(before)
        return {
            "bytes_in_per_s": found.bytes_in * 10**9 // elapsed,
            "bytes_out_per_s": found.bytes_out * 10**9 // elapsed,
            "work_per_s": _work(found, _copies(partition)) * 10**9 // elapsed,
            "copy_work_per_s": _work(found._replace(reads_out=0, bytes_out=0), 1)
            * 10**9
            // elapsed,
        }


def _copies(partition: Partition) -> int:
    return len(partition.isr.document.replicas)


def _work(counts: Counts, copies: int) -> int:
    taken = counts.bytes_in + BATCH_COST * counts.batches_in
    read = counts.bytes_out + BATCH_COST * counts.reads_out
    return taken + taken * (copies - 1) // 2 + read
