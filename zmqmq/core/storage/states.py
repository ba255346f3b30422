"""The state beside the data: what a replay of the log up to an offset gives.

A start loads the newest one that it can trust and replays what lies behind it. A follower that
begins where the leader's log begins gets it from the leader (F9).
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final, NamedTuple

import msgpack
from crc32c import crc32c

from zmqmq.core.storage.disk import Buffer, Disk, File, is_whole, read_all
from zmqmq.core.storage.producers import Snapshot
from zmqmq.core.storage.segment import STATE_SUFFIX, base_of, file_name
from zmqmq.errors import CorruptDataError, StorageError

STATE_VERSION: Final = 2
STATES_KEPT: Final = 2
_HEAD_MAX: Final = 32
"""Bytes that have the size of the array, its version and its end."""


class State(NamedTuple):
    """What is known of all batches below `end`."""

    end: int
    last_append_ms: int
    """Of the last batch. Append times never fall along a log, also where all of it was dropped."""
    producers: Snapshot
    epochs: list[list[int]]


def pack_state(state: State) -> bytes:
    """As it stands in a file, and as it goes to a follower."""
    body: bytes = msgpack.packb([STATE_VERSION, *state])
    return crc32c(body).to_bytes(4, "big") + body


def unpack_state(content: Buffer) -> State:
    """The inverse of `pack_state`. Raises CorruptDataError."""
    data = bytes(content)
    if not is_whole(data):
        raise CorruptDataError("the checksum of a state is wrong")
    try:
        version, *fields = msgpack.unpackb(data[4:])
        if version == 1:  # without the append time
            fields = [fields[0], 0, *fields[1:]]
        elif version != STATE_VERSION:
            raise CorruptDataError(f"state has version {version}; known are up to {STATE_VERSION}")
        state = State(*fields)
        is_sound = (
            type(state.end) is type(state.last_append_ms) is int
            and all(_is_row(row, 2) and _is_batches(batches) for *row, batches in state.producers)
            and all(_is_row(row, 2) for row in state.epochs)
        )
    except (TypeError, ValueError, msgpack.UnpackException) as error:
        raise CorruptDataError(f"a state cannot be read: {error!r}") from None
    if not is_sound:
        raise CorruptDataError("a state has other types than it should")
    return state


def _is_row(row: object, size: int) -> bool:
    return type(row) is list and len(row) == size and all(type(value) is int for value in row)


def _is_batches(batches: object) -> bool:
    return type(batches) is list and all(_is_row(batch, 5) for batch in batches)


def write_state(disk: Disk, folder: str, state: State) -> File:
    """Write it beside the log; the file that has to be flushed, and its folder."""
    content = pack_state(state)
    file = disk.open(_path(folder, state.end), create=True)
    # Not cut first: if it is there it says the same, and may be needed before the next flush.
    file.write(0, [content])
    file.truncate(len(content))
    return file


def read_state(disk: Disk, folder: str, offset: int) -> State | None:
    """The state at `offset`, if it is there and whole."""
    try:
        content = read_all(disk, _path(folder, offset))
        state = None if content is None else unpack_state(content)
    except (StorageError, CorruptDataError):
        return None
    return state if state is not None and state.end == offset else None


def packed_state(disk: Disk, folder: str, offset: int) -> bytes | None:
    """As `read_state`, as it stands in the file: a large one takes a second to read and to pack."""
    try:
        content = read_all(disk, _path(folder, offset))
    except StorageError:
        return None
    if content is None or not is_whole(bytes(content)):
        return None
    unpacker = msgpack.Unpacker()
    unpacker.feed(bytes(content[4 : 4 + _HEAD_MAX]))
    unpacker.read_array_header()
    head = unpacker.unpack(), unpacker.unpack()
    return bytes(content) if head == (STATE_VERSION, offset) else None


def states_in(disk: Disk, folder: str) -> list[int]:
    """The offsets of all states beside a log, ascending."""
    offsets = (base_of(name, STATE_SUFFIX) for name in disk.list(folder))
    return [offset for offset in offsets if offset is not None]


def remove_old_states(disk: Disk, folder: str, end: int, bases: Container[int]) -> None:
    """Remove those below `end` that nobody will want.

    A start, or a truncation, that takes nothing below `end` wants the newest, or the one before
    that, should it be damaged. Whoever begins where the log does, now or when retention has taken
    some of it, wants that of the `bases` of segments.
    """
    old = [at for at in states_in(disk, folder) if at <= end][:-STATES_KEPT]
    remove_states(disk, folder, [at for at in old if at not in bases])


def remove_states(disk: Disk, folder: str, offsets: list[int]) -> None:
    """Remove these; durable once the folder has been flushed."""
    for offset in offsets:
        disk.remove(_path(folder, offset))


def _path(folder: str, offset: int) -> str:
    return f"{folder}/{file_name(offset, STATE_SUFFIX)}"
