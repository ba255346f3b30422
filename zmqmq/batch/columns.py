"""The columns of a batch: a directory, then one msgpack array a column (docs/storage.md).

The directory is a msgpack array of [column, stored size, inflated size] in ascending order of the
column numbers, and the columns' bytes follow in that order, values last. A column that would hold
nothing but nils or zeros is left out. Numbers that this version does not know are skipped.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import msgpack

from zmqmq.batch.compression import Codec, compress, decompress
from zmqmq.errors import CorruptDataError
from zmqmq.model.limits import BATCH_INFLATED_BYTES_MAX

Buffer = bytes | memoryview
DIRECTORY_BYTES_MAX = 512
"""The directory is read from this many bytes at most: fifteen columns fit."""


class Column(enum.IntEnum):
    """The number of a column in the directory. 6 to 14 are kept for later ones."""

    OFFSET_DELTAS = 1
    TAGS = 2
    KEYS = 3
    TIMESTAMP_DELTAS = 4
    HEADERS = 5
    VALUES = 15


def pack_columns(columns: Sequence[tuple[Column, list[Any]]], codec: Codec) -> tuple[bytes, int]:
    """Directory and columns as bytes, and how many bytes the columns inflate to."""
    directory, stored, inflated_size = [], [b""], 0
    for number, entries in columns:
        plain = msgpack.packb(entries)
        packed = compress(codec, plain)
        directory.append((int(number), len(packed), len(plain)))
        stored.append(packed)
        inflated_size += len(plain)
    stored[0] = msgpack.packb(directory)
    return b"".join(stored), inflated_size


class ColumnReader:
    """Finds the columns of one batch and unpacks each when it is asked for.

    A filter that reads only tags never inflates the values. Raises CorruptDataError for any
    directory that does not describe exactly the bytes at hand.
    """

    __slots__ = ("_codec", "_count", "_places", "_view")

    def __init__(self, view: memoryview, codec: Codec, count: int, inflated_size: int) -> None:
        self._view = view
        self._codec = codec
        self._count = count
        self._places: dict[int, tuple[int, int, int]] = {}
        position, directory = _read_directory(view)
        total = 0
        for number, stored_size, column_size in directory:
            if number in self._places:
                raise CorruptDataError(f"column directory names column {number} twice")
            self._places[number] = (position, stored_size, column_size)
            position += stored_size
            total += column_size
        if position != len(view):
            raise CorruptDataError(
                f"column directory describes {position} bytes, the batch has {len(view)}"
            )
        if total != inflated_size or total > BATCH_INFLATED_BYTES_MAX:
            raise CorruptDataError(
                f"columns inflate to {total} bytes, the header says {inflated_size} "
                f"and the limit is {BATCH_INFLATED_BYTES_MAX}"
            )

    def has(self, column: Column) -> bool:
        """Whether the column is stored at all."""
        return column in self._places

    def read(self, column: Column) -> list[Any] | None:
        """The entries of a column, one a record; None when it is absent."""
        place = self._places.get(column)
        if place is None:
            return None
        position, stored_size, column_size = place
        stored = self._view[position : position + stored_size]
        plain = decompress(self._codec, stored, column_size)
        found = _array_length(plain, 0, len(plain))
        if found != self._count:
            raise CorruptDataError(
                f"column {column.name} has {found} entries (-1: is no array), not {self._count}"
            )
        # Eight MiB of nested empty arrays would become half a gigabyte of Python lists.
        arrays = _Arrays(column, self._count + 1 if column is Column.HEADERS else 1)
        try:
            entries: list[Any] = msgpack.unpackb(plain, list_hook=arrays.note, max_map_len=0)
        except (ValueError, msgpack.UnpackException) as error:
            raise CorruptDataError(f"column {column.name} is not msgpack: {error!r}") from None
        return entries

    def check_counts(self) -> None:
        """Raise CorruptDataError if a column can be seen to have another number of entries.

        Or if there are no values, which no reader could show. Looks at the array header of columns
        that are stored uncompressed, and at nothing else: what a broker can afford for each batch.
        Readers check the rest.
        """
        if Column.VALUES not in self._places:
            raise CorruptDataError("column directory has no values (column 15)")
        for number, (position, stored_size, column_size) in self._places.items():
            if stored_size != column_size:
                continue
            entries = _array_length(self._view, position, stored_size)
            if entries != self._count and number <= Column.VALUES:
                raise CorruptDataError(
                    f"column {number} has {entries} entries, the header says {self._count}"
                )


def _read_directory(view: memoryview) -> tuple[int, list[tuple[int, int, int]]]:
    """Where the columns begin, and the directory: [column, stored size, inflated size] of each.

    Read by hand: every batch that a broker takes comes through here, and a msgpack Unpacker, the
    only reader that tells where it stopped, costs three times as much.
    """
    data = view[:DIRECTORY_BYTES_MAX].tobytes()
    try:
        count = data[0] - 0x90
        if not 0 <= count <= 15:
            raise CorruptDataError("column directory is not an array of at most 15 columns")
        position = 1
        directory = []
        for _ in range(count):
            if data[position] != 0x93:
                raise CorruptDataError(
                    "column directory is not an array of [column, stored, inflated]"
                )
            number, position = _read_unsigned(data, position + 1)
            stored_size, position = _read_unsigned(data, position)
            inflated_size, position = _read_unsigned(data, position)
            directory.append((number, stored_size, inflated_size))
    except IndexError:
        raise CorruptDataError("column directory is cut short") from None
    return position, directory


def _read_unsigned(data: bytes, position: int) -> tuple[int, int]:
    """The msgpack integer at `position`, and the position behind it."""
    first = data[position]
    if first < 0x80:
        return first, position + 1
    if not 0xCC <= first <= 0xCF:
        raise CorruptDataError(f"column directory holds something else than an integer: {first:#x}")
    end = position + 1 + (1 << (first - 0xCC))
    if end > len(data):
        raise IndexError
    return int.from_bytes(data[position + 1 : end], "big"), end


class _Arrays:
    """Counts the arrays of a column while it is unpacked; the column itself is one."""

    __slots__ = ("_column", "_left", "_most")

    def __init__(self, column: Column, most: int) -> None:
        self._column = column
        self._most = self._left = most

    def note(self, array: list[Any]) -> list[Any]:
        """One more; raises CorruptDataError when there are too many."""
        self._left -= 1
        if self._left < 0:
            raise CorruptDataError(
                f"column {self._column.name} has nested arrays; at most {self._most} belong there"
            )
        return array


def _array_length(view: Buffer, position: int, size: int) -> int:
    first = view[position] if size else 0
    if first & 0xF0 == 0x90:
        return first & 0x0F
    if first == 0xDC and size >= 3:
        return int.from_bytes(view[position + 1 : position + 3], "big")
    if first == 0xDD and size >= 5:
        return int.from_bytes(view[position + 1 : position + 5], "big")
    return -1
