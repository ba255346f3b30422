"""The batch that is being handed out record by record, and how far that has got.

Records are made one at a time, in C, when they are asked for: a thousand tuples at once would
keep the garbage collector busier than the making of them. Nothing is counted either. The
iterator over the values knows how many it has left, and that says which record is in the user's
hands, at any moment and from any thread.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import Any

from zmqmq.batch.columns import Column
from zmqmq.batch.decode import RecordBatch
from zmqmq.model.message import Record


class Hand:
    """One batch in the middle of being handed out."""

    __slots__ = ("_values", "batch", "iterator", "key", "offsets")

    def __init__(self, batch: RecordBatch) -> None:
        self.batch = batch
        self.key = (batch.topic, batch.partition)
        self.offsets: Sequence[int] = (
            batch.offsets
            if batch.has(Column.OFFSET_DELTAS)
            or batch.header.last_offset_delta + 1 != batch.header.record_count
            else range(batch.base_offset, batch.base_offset + len(batch))
        )
        self._values: Any = iter(batch.values)
        columns: tuple[Iterable[Any], ...] = (
            repeat(batch.topic),
            repeat(batch.partition),
            self.offsets,
            batch.timestamps_ms
            if batch.has(Column.TIMESTAMP_DELTAS)
            else repeat(batch.header.first_timestamp_ms),
            batch.keys if batch.has(Column.KEYS) else repeat(None),
            self._values,
            batch.headers if batch.has(Column.HEADERS) else repeat(()),
            batch.tags if batch.has(Column.TAGS) else repeat(None),
        )
        self.iterator: Iterator[Record] = map(
            tuple.__new__,  # what Record._make does, without a Python frame a record
            repeat(Record),
            zip(*columns, strict=False),
        )

    @property
    def given(self) -> int:
        """How many the user has been given, the one in their hands included."""
        return len(self.offsets) - int(self._values.__length_hint__())

    @property
    def is_empty(self) -> bool:
        """Whether all have been given."""
        return self.given == len(self.offsets)

    @property
    def in_hand(self) -> int:
        """The offset of the record that was given last."""
        return self.offsets[self.given - 1]

    @property
    def end(self) -> int:
        """The offset to go on at behind what was given."""
        given = self.given
        return self.batch.next_offset if given == len(self.offsets) else self.offsets[given]


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection while a long list of records is made.

    One in the middle visits every record made so far, and the next one again: more than half of
    the time of a large `fetch`. It is only put off, by the milliseconds that the list takes.
    """
    was_enabled = gc.isenabled()
    try:
        gc.disable()
        yield
    finally:
        if was_enabled:
            gc.enable()
