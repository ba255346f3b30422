"""Reads every replica of a partition from the broker that has it, and compares them (F11).

What is compared is what all of them have: from the latest of their starts up to what was committed
when it began, which followers that are in sync are waited for.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, NamedTuple

from zmqmq.batch.layout import log_seed
from zmqmq.client.cluster_operations import ClusterOperations
from zmqmq.client.describing import PartitionDescription, TopicDescription
from zmqmq.client.machines.comparing import (
    KEYS_MAX,
    Comparison,
    PartitionCheck,
    TooManyKeysError,
    comparison_of,
)
from zmqmq.client.operations import Ask, Operation
from zmqmq.errors import (
    Code,
    CorruptDataError,
    NotFoundError,
    ProtocolError,
    WireError,
    ZmqmqError,
    error_from_wire,
)
from zmqmq.wire.apis import Api

FETCH_BYTES: Final = 1 << 20
"""Of one copy at a time; so much is in memory of each, and a batch more."""
ATTEMPTS: Final = 4
"""A partition may get another leader or a later start while it is read: then it begins again."""
WAIT_MS: Final = 500
WAITS: Final = 20
"""So many times a follower is waited for."""


class Range(NamedTuple):
    """What a replica shows."""

    start: int
    end: int


class _AgainError(Exception):
    """It has changed while it was read."""


class Verifying:
    """`Cluster.verify`."""

    def __init__(self, cluster: ClusterOperations) -> None:
        self._cluster = cluster

    def verify(self, topic: str | TopicDescription, partition: int) -> Operation[PartitionCheck]:
        """Compare the replicas of one partition, up to what was committed when the topic was
        described, or else is now. Raises NotFoundError.

        What a topic was compacted to once differs in its batches on each broker. If they are not
        the same, its records are compared before that is called a difference.
        """
        yield from self._cluster.find_brokers()
        found = yield from self._settled(topic, partition)
        if found.by == "records" or found.difference is None:
            return found
        name = topic if isinstance(topic, str) else topic.name
        again = yield from self._settled(name, partition, by_records=True)
        # Only compaction leaves offsets out: without it, other batches are a fault.
        if again.difference is not None or not again.is_compacted:
            return found
        note = (
            f"batches differ from offset {found.difference.offset} on, records do not: "
            "it was compacted once"
        )
        return again._replace(notes=(*again.notes, note))

    def _settled(
        self, topic: str | TopicDescription, partition: int, *, by_records: bool = False
    ) -> Operation[PartitionCheck]:
        """What is found when nothing has changed meanwhile."""
        found: PartitionCheck | None = None
        why = ""
        known, name = (None, topic) if isinstance(topic, str) else (topic, topic.name)
        for _ in range(ATTEMPTS):
            try:
                now = known or (yield from self._cluster.describe_topic(name))
                found = yield from self._attempt(now, partition, by_records=by_records)
            except _AgainError as error:
                why, known = why or str(error), None
                continue
            is_old, known = known is not None, None
            if is_old and found.unread:
                continue
            # Compaction may have passed on one broker while another was read, or because of what
            # was committed after an old description: then it looks as if something was lacking,
            # and the next time, up to what is committed by then, it does not.
            if found.difference is None or found.by == "bytes":
                break
        if found is None:
            return _unread(name, partition, f"it changes all the time: {why}")
        # A broker that finds damage stops: what it said before tells more than that it is gone.
        is_told = not (found.unread and why)
        return found if is_told else found._replace(unread=(*found.unread, f"before: {why}"))

    def _attempt(
        self, topic: TopicDescription, number: int, *, by_records: bool
    ) -> Operation[PartitionCheck]:
        name = topic.name
        partition = next((p for p in topic.partitions if p.partition == number), None)
        if partition is None:
            raise NotFoundError(
                f"topic {name!r} has {len(topic.partitions)} partitions; there is no {number}",
                code=Code.UNKNOWN_PARTITION,
            )
        if partition.leader is None:
            return _unread(name, number, "nobody leads it")
        if partition.committed_end < 0:
            return _unread(name, number, f"leader {partition.leader}: {partition.error}")
        ranges, unread, notes = yield from self._ranges(topic, partition)
        if partition.leader not in ranges:
            return _unread(name, number, *unread)
        start = max(r.start for r in ranges.values())
        end = min(partition.committed_end, *(r.end for r in ranges.values()))
        if end < partition.committed_end:
            behind = [b for b, r in ranges.items() if r.end == end]
            short = f"broker {behind[0]} has only what lies below offset {end}"
            unread.append(f"{short}; committed is what lies below {partition.committed_end}")
        if any(r.start < start for r in ranges.values()):
            notes.append(f"not all logs begin at the same offset: compared from {start} on")
        if len(ranges) == 1:
            notes.append("there is one copy: it was read, and compared with nothing")
        comparison = comparison_of(
            name,
            number,
            log_seed(topic.id, number),
            tuple(ranges),
            start,
            max(start, end),
            by_records=by_records or topic.config.get("cleanup") == "compact",
        )
        yield from self._compare(topic, number, comparison, unread)
        return _check(name, number, start, comparison, unread, notes)

    def _ranges(
        self, topic: TopicDescription, partition: PartitionDescription
    ) -> Generator[Ask, object, tuple[dict[int, Range], list[str], list[str]]]:
        """What each replica shows, the leader's first; who cannot be read, and why."""
        leader, end = partition.leader, partition.committed_end
        assert leader is not None
        ranges: dict[int, Range] = {}
        unread: list[str] = []
        for broker in (leader, *(b for b in partition.replicas if b != leader)):
            try:
                _, shown = yield from self._fetch(topic, partition.partition, broker, end, 0)
                waits = WAITS if broker in partition.isr else 0
                while shown.end < end and waits and shown.start <= shown.end:
                    waits -= 1
                    _, shown = yield from self._fetch(
                        topic, partition.partition, broker, shown.end, WAIT_MS
                    )
                ranges[broker] = shown
            except ZmqmqError as error:
                if broker not in partition.adding:
                    named = str(error).startswith(f"broker {broker} ")
                    unread.append(str(error) if named else f"broker {broker}: {error}")
        notes = [f"broker {b} is being filled" for b in partition.adding if b not in ranges]
        return ranges, unread, notes

    def _compare(
        self, topic: TopicDescription, number: int, comparison: Comparison, unread: list[str]
    ) -> Operation[None]:
        while (broker := comparison.wanting()) is not None:
            position = comparison.position[broker]
            try:
                data, _ = yield from self._fetch(topic, number, broker, position, 0, FETCH_BYTES)
                comparison.take(broker, data)
            except (CorruptDataError, WireError, ProtocolError) as error:
                if isinstance(error, WireError) and error.code in _CHANGED:
                    raise _AgainError(f"broker {broker}: {error}") from None
                unread.append(f"broker {broker}: from offset {position} on: {error}")
                return
            except TooManyKeysError:
                unread.append(
                    f"from offset {position} on: more than {KEYS_MAX:,} keys were compacted on "
                    "one broker and not on another; compare again when all have compacted"
                )
                return
            if comparison.position[broker] == position:
                raise _AgainError(f"broker {broker} had nothing at offset {position}")
        comparison.finish()

    def _fetch(
        self,
        topic: TopicDescription,
        number: int,
        broker: int,
        offset: int,
        wait_ms: int,
        max_bytes: int = 0,
    ) -> Generator[Ask, object, tuple[bytes | memoryview, Range]]:
        fields = {
            "partitions": [[topic.id, number, offset, max_bytes]],
            "max_bytes": max_bytes,
            "max_wait_ms": wait_ms,
            "copies": True,
        }
        reply = yield from self._cluster.ask_exactly(broker, Api.FETCH, fields)
        answers: Any = reply.fields.get("partitions")
        try:
            (answer,) = answers
            if type(answer) is dict:
                raise error_from_wire(answer)
            size, end, start, *_ = answer
            return (reply.body[0] if size else b""), Range(int(start), int(end))
        except (TypeError, ValueError, IndexError):
            raise ProtocolError(f"FETCH was answered with {answers!r:.100}") from None


_CHANGED: Final = (
    Code.NOT_LEADER,
    Code.OFFSET_OUT_OF_RANGE,
    Code.FENCED_LEADER_EPOCH,
    Code.UNKNOWN_TOPIC,
)


def _unread(topic: str, partition: int, *why: str) -> PartitionCheck:
    return PartitionCheck(topic, partition, (), 0, 0, 0, 0, 0, 0, "bytes", None, why, ())


def _check(
    name: str,
    number: int,
    start: int,
    comparison: Comparison,
    unread: list[str],
    notes: list[str],
) -> PartitionCheck:
    return PartitionCheck(
        name,
        number,
        comparison.brokers,
        start,
        comparison.end,
        comparison.compared_end,
        comparison.batches,
        comparison.records,
        comparison.bytes,
        comparison.by,
        comparison.difference,
        tuple(unread),
        tuple(notes),
        comparison.is_compacted,
    )
