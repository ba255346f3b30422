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

DIRECTORY_BYTES_MAX = 512
"""The directory is read from this many bytes at most: over 30 columns."""


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
        try:
            entries = msgpack.unpackb(plain)
        except (ValueError, msgpack.UnpackException) as error:
            raise CorruptDataError(f"column {column.name} is not msgpack: {error}") from None
        if type(entries) is not list or len(entries) != self._count:
            found = len(entries) if type(entries) is list else type(entries).__name__
            raise CorruptDataError(f"column {column.name} has {found} entries, not {self._count}")
        return entries

    def check_counts(self) -> None:
        """Raise CorruptDataError if a column can be seen to have another number of entries.

        Looks at the array header of columns that are stored uncompressed, and at nothing else:
        what a broker can afford for each batch. Readers check the rest.
        """
        for number, (position, stored_size, column_size) in self._places.items():
            if stored_size != column_size:
                continue
            entries = _array_length(self._view, position, stored_size)
            if entries != self._count and number <= Column.VALUES:
                raise CorruptDataError(
                    f"column {number} has {entries} entries, the header says {self._count}"
                )


def _read_directory(view: memoryview) -> tuple[int, list[tuple[int, int, int]]]:
    unpacker = msgpack.Unpacker(max_buffer_size=DIRECTORY_BYTES_MAX)
    unpacker.feed(view[:DIRECTORY_BYTES_MAX])
    try:
        directory = unpacker.unpack()
    except (ValueError, msgpack.UnpackException) as error:
        raise CorruptDataError(f"column directory is not msgpack: {error!r}") from None
    shape_is_right = type(directory) is list and all(
        type(entry) is list and len(entry) == 3 and all(type(n) is int and n >= 0 for n in entry)
        for entry in directory
    )
    if not shape_is_right:
        raise CorruptDataError("column directory is not an array of [column, stored, inflated]")
    return unpacker.tell(), directory


def _array_length(view: memoryview, position: int, size: int) -> int:
    first = view[position] if size else 0
    if first & 0xF0 == 0x90:
        return first & 0x0F
    if first == 0xDC and size >= 3:
        return int.from_bytes(view[position + 1 : position + 3], "big")
    if first == 0xDD and size >= 5:
        return int.from_bytes(view[position + 1 : position + 5], "big")
    return -1
