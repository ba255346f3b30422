"""Whether the copies of a partition are equal where they must be (I2, I14)."""

from __future__ import annotations

from collections.abc import Sequence

from zmqmq.batch.layout import verify
from zmqmq.sim.copies import Copy
from zmqmq.sim.observed import Fail, Unreadable, stored


def check_producers(copies: Sequence[Copy], fail: Fail) -> None:
    """I14: copies that end alike know the same of producers."""
    first: Copy | None = None
    for copy in copies:
        log = copy.replica.log
        assert log is not None
        if log.end_offset != copy.written:
            continue
        if first is None:
            first = copy
            continue
        other = first.replica.log
        assert other is not None
        if copy.shadow.last != first.shadow.last or copy.written != first.written:
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


def _compare(copy: Copy, end: int, contents: dict[int, tuple[Copy, bytes]], fail: Fail) -> None:
    log = copy.replica.log
    assert log is not None
    for batch, data in stored(copy.life.disk, log, copy.start, min(copy.written, end)):
        if verify(data, 0, log.seed)[0] != batch.base:
            raise Unreadable(f"batch {batch} is damaged")
        other, content = contents.setdefault(batch.base, (copy, bytes(data)))
        if content != data:
            fail("I2", f"{copy.life} and {other.life} differ in batch {batch}")
