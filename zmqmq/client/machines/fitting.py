"""How many records fit, and what they take: arithmetic over columns, without a loop in Python.

What a record is counted as is never less than what it is encoded to, so that a batch that fits by
this count fits the broker's limit too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from zmqmq.client.machines.batch import RECORD_OVERHEAD, Batch

Length = Callable[[Any], int]


def length_or_0(value: bytes | None) -> int:
    """The length of a value that may be a tombstone."""
    return 0 if value is None else len(value)


def fitting(
    values: Sequence[bytes | None],
    keys: Sequence[bytes | None] | None,
    at: int,
    *,
    most: int,
    room: int,
    average: int,
    tag: str | None,
    length: Length,
    is_first: bool,
) -> tuple[list[bytes | None], int]:
    """The values from `at` on that fit into `room` bytes and `most` records, and their bytes.

    Empty: not even one fits. A value that is larger than a whole batch (`is_first`) goes alone.
    `average` is how large the last ones were, to guess with; the running sum cuts a guess that
    was too high.
    """
    each = RECORD_OVERHEAD
    if tag is not None:
        each += len(tag) * 4 + RECORD_OVERHEAD
    if keys is not None:
        each += RECORD_OVERHEAD
    guess = average or length(values[at]) + each
    count = min(most, max(room, 0) // max(guess, 1) + 1, len(values) - at)
    if count <= 0:
        return [], 0
    chunk = list(values[at : at + count])
    if keys is None:
        size = sum(map(length, chunk)) + each * count
        if size <= room:
            return chunk, size
        lengths = map(length, chunk)
    else:
        lengths = map(int.__add__, map(length, chunk), map(length, keys[at : at + count]))
    running = list(map(int.__add__, accumulate(lengths), range(each, each * count + 1, each)))
    fits = bisect_right(running, room)
    if fits == 0 and is_first:
        fits = 1
    return chunk[:fits], running[fits - 1] if fits else 0


def record_bytes(
    value: bytes | None, key: bytes | None, headers: list[Any] | None, tag: str | None
) -> int:
    """What a record takes of a batch, counted so that it is never too little."""
    size = RECORD_OVERHEAD + (0 if value is None else len(value))
    if key is not None:
        size += RECORD_OVERHEAD + len(key)
    if headers is not None:
        size += RECORD_OVERHEAD + sum(len(h) * 4 + RECORD_OVERHEAD for h in headers[::2])
        size += sum(len(h) + RECORD_OVERHEAD for h in headers[1::2])
    if tag is not None:
        size += len(tag) * 4 + RECORD_OVERHEAD
    return size


def append_columns(
    batch: Batch,
    index: int,
    key: bytes | None,
    headers: list[Any] | None,
    tag: str | None,
) -> None:
    """Append to the columns that the batch has, and begin those that this record is first to."""
    if batch.keys is not None:
        batch.keys.append(key)
    elif key is not None:
        batch.keys = [*[None] * index, key]
    if batch.headers is not None:
        batch.headers.append(headers)
    elif headers is not None:
        batch.headers = [*[None] * index, headers]
    if batch.tags is not None:
        batch.tags.append(tag)
    elif tag is not None:
        batch.tags = [*[None] * index, tag]
