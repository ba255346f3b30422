"""Committed offsets of groups, as the internal topic `__offsets` says.

A table: `commit_batch` and `forget_batch` turn a request into a batch for the log and change
nothing; `apply` takes in what was committed there, reads no clock and cannot refuse. So the table
is a function of the log, and a restart replays it.

The log is compacted. Key and value of a record are msgpack arrays:

    key    [version, group, topic id, partition]
    value  [version, next offset, leader epoch, note, commit time ms], or nothing: forgotten
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgpack

from zmqmq.batch.decode import RecordBatch
from zmqmq.batch.encode import encode_batch

_VERSION: Final = 1
Place = tuple[bytes, int]
"""Topic id and partition."""


class Committed(NamedTuple):
    """Where a group stands in one partition."""

    offset: int
    """The next one to read."""
    leader_epoch: int
    note: str
    commit_ms: int


class OffsetsTable:
    """All groups whose offsets are kept on this broker."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[Place, Committed]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._groups))

    def __contains__(self, group: str) -> bool:
        return group in self._groups

    def of(self, group: str) -> dict[Place, Committed]:
        """Everything that a group has committed."""
        return self._groups.get(group, {})

    def apply(self, batch: RecordBatch) -> None:
        """Take in a committed batch of `__offsets`. What a newer release wrote is skipped."""
        for key, value in zip(batch.keys, batch.values, strict=True):
            if key is None:
                continue
            version, group, topic_id, partition = msgpack.unpackb(key)[:4]
            if version != _VERSION:
                continue
            place = (topic_id, partition)
            if value is None:
                self._forget(group, place)
                continue
            fields = msgpack.unpackb(value)
            if fields[0] == _VERSION:
                self._groups.setdefault(group, {})[place] = Committed(*fields[1:5])

    def _forget(self, group: str, place: Place) -> None:
        places = self._groups.get(group)
        if places is not None:
            places.pop(place, None)
            if not places:
                del self._groups[group]


def commit_batch(
    seed: int, group: str, commits: Iterable[tuple[Place, Committed]], now_ms: int
) -> bytes:
    """The batch that commits these offsets."""
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    for (topic_id, partition), committed in commits:
        keys.append(_key(group, topic_id, partition))
        values.append(msgpack.packb([_VERSION, *committed]))
    return encode_batch(seed, values, keys=keys, timestamp_ms=now_ms)


def forget_batch(seed: int, group: str, places: Sequence[Place], now_ms: int) -> bytes:
    """The batch of tombstones that forgets these offsets."""
    keys: list[bytes | None] = [_key(group, *place) for place in places]
    values: list[bytes | None] = [None] * len(keys)
    return encode_batch(seed, values, keys=keys, timestamp_ms=now_ms)


def _key(group: str, topic_id: bytes, partition: int) -> bytes:
    packed: bytes = msgpack.packb([_VERSION, group, topic_id, partition])
    return packed
