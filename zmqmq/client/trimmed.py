"""A stored batch of which only some records are meant: a read that begins or ends in its middle."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from zmqmq.batch.decode import RecordBatch
from zmqmq.model.message import Headers, Record


class TrimmedBatch(RecordBatch):
    """The records `first` to `last` (exclusive) of another batch, counted by their places in it."""

    __slots__ = ("_batch", "_first", "_last")

    def __init__(self, batch: RecordBatch, first: int, last: int) -> None:
        # Every property is overridden, so the base class needs none of its own fields but these.
        self.topic = batch.topic
        self.partition = batch.partition
        self.header = batch.header
        self._batch = batch
        self._first = first
        self._last = last

    def __len__(self) -> int:
        return self._last - self._first

    @property
    def base_offset(self) -> int:
        """The offset of the first record that is meant."""
        return self.offsets[0]

    @property
    def next_offset(self) -> int:
        """The offset behind the last record that is meant."""
        if self._last == len(self._batch):
            return self._batch.next_offset
        return self.offsets[-1] + 1

    @property
    def values(self) -> list[bytes | None]:
        """The value of each record."""
        return self._batch.values[self._first : self._last]

    @property
    def keys(self) -> list[bytes | None]:
        """The key of each record."""
        return self._batch.keys[self._first : self._last]

    @property
    def tags(self) -> list[str | None]:
        """The tag of each record."""
        return self._batch.tags[self._first : self._last]

    @property
    def offsets(self) -> list[int]:
        """The offset of each record."""
        return self._batch.offsets[self._first : self._last]

    @property
    def timestamps_ms(self) -> list[int]:
        """The producer's time of each record."""
        return self._batch.timestamps_ms[self._first : self._last]

    @property
    def headers(self) -> list[Headers]:
        """The headers of each record."""
        return self._batch.headers[self._first : self._last]

    @property
    def raw_headers(self) -> list[Any] | None:
        """The headers column as stored."""
        raw = self._batch.raw_headers
        return None if raw is None else raw[self._first : self._last]

    def has(self, column: Any) -> bool:  # noqa: ANN401 - as the base class
        """Whether the column is stored at all."""
        return self._batch.has(column)

    def records(self) -> list[Record]:
        """The records that are meant."""
        return self._batch.records()[self._first : self._last]


def trimmed(batch: RecordBatch, position: int, stop_at: int | None) -> RecordBatch | None:
    """The batch without what lies before `position` or from `stop_at` on; None: nothing is left."""
    is_whole_front = batch.base_offset >= position
    is_whole_back = stop_at is None or batch.next_offset <= stop_at
    if is_whole_front and is_whole_back:
        return batch
    offsets = batch.offsets
    first = 0 if is_whole_front else bisect_left(offsets, position)
    last = len(offsets) if stop_at is None else bisect_left(offsets, stop_at)
    if first >= last:
        return None
    return TrimmedBatch(batch, first, last)
