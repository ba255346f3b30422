"""Bytes to batches and records; nothing is handed out before its checksums hold."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, repeat
from typing import Any

from zmqmq.batch.columns import Column, ColumnReader
from zmqmq.batch.layout import (
    HEADER_SIZE,
    BatchHeader,
    body_is_valid,
    check_fields,
    head_is_valid,
    unpack_header,
)
from zmqmq.errors import CorruptDataError
from zmqmq.model.limits import INTEGER_MAX
from zmqmq.model.message import Headers, Record

_BYTES_OR_NONE: frozenset[type] = frozenset({bytes, type(None)})
_STR_OR_NONE: frozenset[type] = frozenset({str, type(None)})


class RecordBatch:
    """One stored batch, its columns unpacked when they are asked for.

    `values` as a list costs nothing beyond unpacking it. Every list has one entry a record, in
    the order of their offsets.
    """

    __slots__ = ("_columns", "_values", "header", "partition", "topic")

    def __init__(
        self, topic: str, partition: int, header: BatchHeader, columns: ColumnReader
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.header = header
        self._columns = columns
        self._values: list[bytes | None] | None = None

    @classmethod
    def of_producer(cls, data: bytes, topic: str, partition: int) -> RecordBatch:
        """A batch that we have encoded ourselves: not stamped, and not checked again."""
        header = unpack_header(data)
        view = memoryview(data)[HEADER_SIZE:]
        columns = ColumnReader(view, header.codec, header.record_count, header.inflated_size)
        return cls(topic, partition, header, columns)

    def __len__(self) -> int:
        return self.header.record_count

    def __repr__(self) -> str:
        return (
            f"<RecordBatch {self.topic}/{self.partition} offsets "
            f"{self.header.base_offset} to {self.next_offset - 1}, {len(self)} records>"
        )

    @property
    def base_offset(self) -> int:
        """The offset of the first record, as it was before any compaction."""
        return self.header.base_offset

    @property
    def next_offset(self) -> int:
        """The offset behind the last record."""
        return self.header.next_offset

    @property
    def values(self) -> list[bytes | None]:
        """The value of each record."""
        if self._values is None:
            values = self._columns.read(Column.VALUES)
            if values is None:
                raise CorruptDataError("batch has no values")
            _check_types("values", values, _BYTES_OR_NONE)
            self._values = values
        return self._values

    @property
    def keys(self) -> list[bytes | None]:
        """The key of each record."""
        return self._typed(Column.KEYS, _BYTES_OR_NONE)

    @property
    def tags(self) -> list[str | None]:
        """The tag of each record."""
        return self._typed(Column.TAGS, _STR_OR_NONE)

    @property
    def offsets(self) -> list[int]:
        """The offset of each record."""
        deltas = self._columns.read(Column.OFFSET_DELTAS)
        base = self.header.base_offset
        if deltas is None:
            if self.header.last_offset_delta + 1 != self.header.record_count:
                raise CorruptDataError("batch has fewer records than offsets and no offset deltas")
            return list(range(base, base + self.header.record_count))
        _check_types("offset deltas", deltas, frozenset({int}))
        if any(a >= b for a, b in pairwise(deltas)) or not (
            deltas[0] >= 0 and deltas[-1] <= self.header.last_offset_delta
        ):
            raise CorruptDataError("offset deltas do not ascend within the batch")
        return [base + delta for delta in deltas]

    @property
    def timestamps_ms(self) -> list[int]:
        """The producer's time of each record, ms since 1970 UTC."""
        first = self.header.first_timestamp_ms
        deltas = self._columns.read(Column.TIMESTAMP_DELTAS)
        if deltas is None:
            return [first] * self.header.record_count
        _check_types("timestamp deltas", deltas, frozenset({int}))
        times = [first + delta for delta in deltas]
        if min(times) < 0 or max(times) > INTEGER_MAX:
            raise CorruptDataError(
                f"batch timestamps {min(times)} to {max(times)} are outside 0 to {INTEGER_MAX}"
            )
        return times

    @property
    def headers(self) -> list[Headers]:
        """The headers of each record, as (name, value) pairs."""
        column = self._columns.read(Column.HEADERS)
        if column is None:
            return [()] * self.header.record_count
        return [_headers(entry) for entry in column]

    @property
    def raw_headers(self) -> list[Any] | None:
        """The headers column as stored, for writing it again."""
        return self._columns.read(Column.HEADERS)

    def has(self, column: Column) -> bool:
        """Whether the column is stored at all."""
        return self._columns.has(column)

    def records(self) -> list[Record]:
        """All records of the batch, in order."""
        columns = self._columns
        header = self.header
        offsets = (
            self.offsets
            if columns.has(Column.OFFSET_DELTAS)
            or header.last_offset_delta + 1 != header.record_count
            else range(header.base_offset, header.next_offset)
        )
        return list(
            map(
                tuple.__new__,  # what Record._make does, without a Python frame a record
                repeat(Record),
                zip(
                    repeat(self.topic),
                    repeat(self.partition),
                    offsets,
                    self.timestamps_ms
                    if columns.has(Column.TIMESTAMP_DELTAS)
                    else repeat(header.first_timestamp_ms),
                    self.keys if columns.has(Column.KEYS) else repeat(None),
                    self.values,
                    self.headers if columns.has(Column.HEADERS) else repeat(()),
                    self.tags if columns.has(Column.TAGS) else repeat(None),
                    strict=False,
                ),
            )
        )

    def _typed(self, column: Column, allowed: frozenset[type]) -> list[Any]:
        entries = self._columns.read(column)
        if entries is None:
            return [None] * self.header.record_count
        _check_types(column.name, entries, allowed)
        return entries


def decode_batches(
    data: bytes | memoryview, seed: int, topic: str, partition: int
) -> Iterator[RecordBatch]:
    """The batches of one body frame or one piece of a segment, each checked as it is reached.

    `seed` is `layout.log_seed` of the partition. Raises CorruptDataError at the first batch that
    is truncated, damaged, or of another log; those before it have been handed out by then.
    """
    view = memoryview(data)
    position = 0
    while position < len(view):
        header = check_batch(view, position, seed)
        columns = ColumnReader(
            view[position + HEADER_SIZE : position + header.size],
            header.codec,
            header.record_count,
            header.inflated_size,
        )
        yield RecordBatch(topic, partition, header, columns)
        position += header.size


def check_batch(view: memoryview, position: int, seed: int) -> BatchHeader:
    """The header of the stored batch at `position`, once both checksums and all fields hold."""
    if len(view) - position < HEADER_SIZE:
        raise CorruptDataError(f"{len(view) - position} bytes are too few for a batch header")
    header = unpack_header(view, position)
    if not head_is_valid(view, position, header.head_crc):
        raise CorruptDataError(f"head checksum is wrong at byte {position}")
    if not HEADER_SIZE < header.size <= len(view) - position:
        raise CorruptDataError(
            f"batch at offset {header.base_offset} says {header.size} bytes, "
            f"{len(view) - position} are there"
        )
    if not body_is_valid(view, position, header.size, header.body_crc, seed):
        raise CorruptDataError(f"body checksum is wrong at offset {header.base_offset}")
    check_fields(header)
    return header


def _headers(entry: Any) -> Headers:  # noqa: ANN401 - straight from msgpack
    if entry is None:
        return ()
    if type(entry) is not list or len(entry) % 2:
        raise CorruptDataError("record headers are not a flat array of names and values")
    names, values = entry[::2], entry[1::2]
    _check_types("header names", names, frozenset({str}))
    _check_types("header values", values, frozenset({bytes}))
    return tuple(zip(names, values, strict=True))


def _check_types(what: str, entries: list[Any], allowed: frozenset[type]) -> None:
    found = set(map(type, entries)) - allowed
    if found:
        names = ", ".join(sorted(kind.__name__ for kind in found))
        raise CorruptDataError(f"batch {what} hold {names}")
