"""Whether the copies of a partition are equal where they must be (I2, I14)."""

from __future__ import annotations

from collections.abc import Sequence

from zmqmq.batch.decode import decode_batches
from zmqmq.batch.layout import verify
from zmqmq.errors import CorruptDataError
from zmqmq.sim.copies import Copy
from zmqmq.sim.observed import Fail, Unreadable, stored


def check_producers(copies: Sequence[Copy], end: int, fail: Fail) -> None:
    """I14: copies that end alike know the same of producers.

    Those that have not all of what is committed, up to `end`, are not looked at: what compaction
    has left says what is known behind it, and not in its midst.
    """
    first: Copy | None = None
    for copy in copies:
        log = copy.replica.log
        assert log is not None
        if log.end_offset != copy.written or copy.written < end:
            continue
        if first is None:
            first = copy
            continue
        other = first.replica.log
        assert other is not None
        if log.epochs.latest != other.epochs.latest or copy.written != first.written:
            continue
        mine, its = log.producers.snapshot(), other.producers.snapshot()
        if mine != its:
            fail("I14", f"{copy.life} and {first.life} end alike, and know {mine} and {its}")


def check_bytes(copies: Sequence[Copy], end: int, fail: Fail) -> None:
    """I2: what is committed is the same everywhere, byte for byte."""
    contents: dict[int, tuple[Copy, bytes]] = {}
    for copy in copies:
        try:
            _compare(copy, end, contents, fail)
        except Unreadable as error:
            if not copy.life.disk.is_rotten:
                fail("I2", f"{copy.life}: {error}")


def check_newest(copies: Sequence[Copy], end: int, fail: Fail) -> None:
    """I2 where logs are compacted: what must stay of what is committed is the same everywhere."""
    first: tuple[Copy, dict[bytes, bytes], dict[int, bytes]] | None = None
    for copy in copies:
        if copy.written < end:
            continue  # what it lacks may replace what it has
        try:
            newest, unkeyed = _newest(copy, end)
        except (Unreadable, CorruptDataError) as error:
            if not copy.life.disk.is_rotten:
                fail("I2", f"{copy.life}: {error}")
            continue
        if first is None:
            first = copy, newest, unkeyed
        elif (newest, unkeyed) != first[1:]:
            fail("I2", f"{copy.life} and {first[0].life} differ in what compaction must leave")


def _newest(copy: Copy, end: int) -> tuple[dict[bytes, bytes], dict[int, bytes]]:
    """The last value of each key that is not deleted, and by offset what has no key."""
    log = copy.replica.log
    assert log is not None
    newest: dict[bytes, bytes] = {}
    unkeyed: dict[int, bytes] = {}
    for _, data in stored(copy.life.disk, log, copy.start, min(copy.written, end)):
        for batch in decode_batches(bytes(data), log.seed, "", log.key.partition):
            for offset, key, value in zip(batch.offsets, batch.keys, batch.values, strict=True):
                if key is None:
                    unkeyed[offset] = value or b""
                elif value is None:
                    newest.pop(key, None)
                else:
                    newest[key] = value
    return newest, unkeyed


def _compare(copy: Copy, end: int, contents: dict[int, tuple[Copy, bytes]], fail: Fail) -> None:
    log = copy.replica.log
    assert log is not None
    for batch, data in stored(copy.life.disk, log, copy.start, min(copy.written, end)):
        if verify(data, 0, log.seed)[0] != batch.base:
            raise Unreadable(f"batch {batch} is damaged")
        other, content = contents.setdefault(batch.base, (copy, bytes(data)))
        if content != data:
            fail("I2", f"{copy.life} and {other.life} differ in batch {batch}")
