"""Whether the replicas of a partition hold the same: compares what was read from each, as it comes.

Replicas of a log that is not compacted are the same byte for byte, batch by batch (F2, L3). Each
broker compacts by itself, so there only records can be compared: the same offset holds the same
record everywhere, and who lacks one has something newer of its key (or a tombstone was there,
which goes after its time).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import ClassVar, Final, NamedTuple

from zmqmq.batch.decode import RecordBatch, check_batch, decode_batches
from zmqmq.batch.layout import unpack_header
from zmqmq.client.machines.effects import Body
from zmqmq.model.message import Record

KEYS_MAX: Final = 100_000
"""Keys of compacted records that wait to be found again further on."""


class Difference(NamedTuple):
    """The first place where replicas are not the same."""

    offset: int
    groups: tuple[tuple[int, ...], ...]
    """Brokers that have the same there, the leader's first."""
    what: str


class PartitionCheck(NamedTuple):
    """What came of comparing the replicas of one partition."""

    topic: str
    partition: int
    brokers: tuple[int, ...]
    """Whose copies were read, the leader first."""
    start: int
    end: int
    """Offsets that all of them have, and that were compared up to `compared_end`."""
    compared_end: int
    batches: int
    records: int
    bytes: int
    """Of one copy."""
    by: str
    """`bytes`, or `records` where the topic is compacted, or was once."""
    difference: Difference | None
    unread: tuple[str, ...]
    """What could not be read, and why."""
    notes: tuple[str, ...]
    """What was not compared for a good reason, and what differs for one."""
    is_compacted: bool = False
    """Whether records were compacted away, on a broker at least. Only `by` records tells."""

    @property
    def is_equal(self) -> bool:
        """Whether everything was read, and is the same."""
        return self.difference is None and not self.unread


class TooManyKeysError(Exception):
    """More compacted records than are remembered."""


class Comparison:
    """One partition; both kinds have these."""

    by: ClassVar[str]
    """What is compared."""

    def __init__(
        self, topic: str, partition: int, seed: int, brokers: Sequence[int], start: int, end: int
    ) -> None:
        self._name = (topic, partition)
        self._seed = seed
        self.brokers = tuple(brokers)
        self.end = end
        self.position = dict.fromkeys(brokers, start)
        """Where to read on, by broker."""
        self.compared_end = start
        self.batches = self.records = self.bytes = 0
        self.difference: Difference | None = None
        self.is_compacted = False
        """Whether a batch that was compared by records has fewer of them than offsets."""

    def wanting(self) -> int | None:
        """Whom to read from next, at its `position`; None: it is over."""
        behind = [b for b in self.brokers if self.position[b] < self.end]
        if self.difference is not None or not behind:
            return None
        return min(behind, key=lambda b: self.position[b])

    def take(self, broker: int, data: Body) -> None:
        """What a broker has sent for its position. Raises CorruptDataError."""
        raise NotImplementedError

    def finish(self) -> None:
        """All is read."""


class ByBytes(Comparison):
    """Of logs that are not compacted."""

    by = "bytes"

    def __init__(
        self, topic: str, partition: int, seed: int, brokers: Sequence[int], start: int, end: int
    ) -> None:
        super().__init__(topic, partition, seed, brokers, start, end)
        self._waiting: dict[int, deque[memoryview]] = {b: deque() for b in brokers}

    def take(self, broker: int, data: Body) -> None:
        """Compare as far as all have something."""
        view = memoryview(data)
        while len(view):
            header = check_batch(view, 0, self._seed)
            self.position[broker] = max(self.position[broker], header.next_offset)
            self._waiting[broker].append(view[: header.size])
            view = view[header.size :]
        while self.difference is None and all(self._waiting.values()):
            self._compare({b: waiting.popleft() for b, waiting in self._waiting.items()})

    def _compare(self, heads: dict[int, memoryview]) -> None:
        first = heads[self.brokers[0]]
        header = unpack_header(first)
        others = [b for b in self.brokers if heads[b] != first]
        if not others:
            self.batches += 1
            self.records += header.record_count
            self.bytes += header.size
            self.compared_end = header.next_offset
            return
        offset, what = self._first_difference(first, heads[others[0]])
        groups: list[list[int]] = []
        for broker in self.brokers:
            same = next((g for g in groups if heads[g[0]] == heads[broker]), None)
            if same is None:
                groups.append([broker])
            else:
                same.append(broker)
        self.difference = Difference(offset, tuple(map(tuple, groups)), what)

    def _first_difference(self, one: memoryview, other: memoryview) -> tuple[int, str]:
        """The first record that differs; if all are the same, how the batch does."""
        a, b = self._records(one), self._records(other)
        for left, right in zip(a, b, strict=False):
            if left.offset != right.offset:
                return min(left.offset, right.offset), "other offsets"
            if left != right:
                return left.offset, _what(left, right)
        if len(a) != len(b):
            longer = a if len(a) > len(b) else b
            return longer[min(len(a), len(b))].offset, "a record more"
        heads = unpack_header(one), unpack_header(other)
        names = [
            name.replace("_", " ")
            for name, x, y in zip(heads[0]._fields, *heads, strict=True)
            if x != y and not name.endswith("crc")
        ]
        base = heads[0].base_offset
        return base, f"the same records in another batch: {', '.join(names) or 'other bytes'}"

    def _records(self, data: memoryview) -> list[Record]:
        (batch,) = decode_batches(data, self._seed, *self._name)
        return batch.records()


class ByRecords(Comparison):
    """Of logs that each broker compacts by itself."""

    by = "records"

    def __init__(
        self, topic: str, partition: int, seed: int, brokers: Sequence[int], start: int, end: int
    ) -> None:
        super().__init__(topic, partition, seed, brokers, start, end)
        self._waiting: dict[int, deque[Record]] = {b: deque() for b in brokers}
        self._lacking: dict[tuple[int, bytes], tuple[int, int]] = {}
        """A broker lacks a record with this key: its offset, and who has it."""

    def take(self, broker: int, data: Body) -> None:
        """Compare up to where all have been read. Raises TooManyKeysError too."""
        for batch in decode_batches(data, self._seed, *self._name):
            self._take_batch(broker, batch)
        reached = min(min(self.position.values()), self.end)
        while self.difference is None:
            offset = min(
                (w[0].offset for w in self._waiting.values() if w and w[0].offset < reached),
                default=None,
            )
            if offset is None:
                self.compared_end = reached
                return
            self._compare(offset)

    def finish(self) -> None:
        """Whatever is lacking now has nothing newer in its place."""
        if self.difference is None and self._lacking:
            (broker, _), (offset, holder) = min(self._lacking.items(), key=lambda e: (e[1], e[0]))
            what = f"broker {broker} has neither this record nor a newer one of its key"
            self.difference = Difference(offset, ((holder,), (broker,)), what)

    def _take_batch(self, broker: int, batch: RecordBatch) -> None:
        self.batches += broker == self.brokers[0]
        self.bytes += batch.header.size if broker == self.brokers[0] else 0
        self.is_compacted |= batch.header.record_count <= batch.header.last_offset_delta
        # A compaction may have put a batch in the place of two, one of which was read.
        known = self.position[broker]
        self._waiting[broker].extend(r for r in batch.records() if r.offset >= known)
        self.position[broker] = max(known, batch.next_offset)

    def _compare(self, offset: int) -> None:
        """One offset: whoever has a record there has the same one."""
        found = {
            broker: waiting.popleft()
            for broker, waiting in self._waiting.items()
            if waiting and waiting[0].offset == offset
        }
        holders = list(found)
        record = found[holders[0]]
        other = next((b for b in holders if found[b] != record), None)
        if other is not None:
            same = tuple(b for b in holders if found[b] == record)
            rest = tuple(b for b in holders if found[b] != record)
            self.difference = Difference(offset, (same, rest), _what(record, found[other]))
            return
        self.records += 1
        self._note(record, holders)

    def _note(self, record: Record, holders: Sequence[int]) -> None:
        key, is_tombstone = record.key, record.value is None
        lacking = [b for b in self.brokers if b not in holders]
        if key is None:
            if lacking:
                what = f"broker {lacking[0]} has no record there, and one without a key stays"
                groups = tuple(holders), tuple(lacking)
                self.difference = Difference(record.offset, groups, what)
            return
        for broker in self.brokers if is_tombstone else holders:
            self._lacking.pop((broker, key), None)
        if not is_tombstone:
            for broker in lacking:
                self._lacking[broker, key] = (record.offset, holders[0])
        if len(self._lacking) > KEYS_MAX:
            raise TooManyKeysError


def comparison_of(
    topic: str,
    partition: int,
    seed: int,
    brokers: Sequence[int],
    start: int,
    end: int,
    *,
    by_records: bool,
) -> Comparison:
    """How a partition is compared."""
    kind = ByRecords if by_records else ByBytes
    return kind(topic, partition, seed, brokers, start, end)


def _what(one: Record, other: Record) -> str:
    names = [n for n, a, b in zip(one._fields, one, other, strict=True) if a != b]
    return f"other {', '.join(names)}"
