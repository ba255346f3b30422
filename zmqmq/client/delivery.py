"""Handles of what was sent, for threads and for asyncio.

A handle is two fields that point into a batch, made for every record: so it holds nothing of its
own, and whoever drops it pays nothing more. The outcome is the batch's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from zmqmq.client.machines.batch import Batch, Stored
from zmqmq.client.waiting import Deadline, Gate
from zmqmq.errors import TimedOutError, ZmqmqError

HandleT = TypeVar("HandleT", bound="Delivery")

logger = logging.getLogger("zmqmq.client")


class RecordMetadata(NamedTuple):
    """Where a record was stored."""

    topic: str
    partition: int
    offset: int
    """-1 where the broker did not say: acks=0, or a retry so late that only the fact is known."""
    timestamp_ms: int
    """When the broker appended it, ms since 1970; -1 with acks=0."""


Ranges = list[tuple[int, int, int]]
"""Partition, first offset and count, of each batch."""


class Delivery:
    """What became of one `send` or `send_many`. May be used from any thread."""

    __slots__ = ()

    def done(self) -> bool:
        """Whether there is an outcome: `result` and `exception` return at once."""
        return all(batch.outcome is not None for batch in self.batches())

    def result(self, timeout: float | None = None) -> RecordMetadata | Ranges:
        """Where it was stored.

        Args:
            timeout: seconds to wait; None waits until there is an outcome, which is at the latest
                when `delivery_timeout_ms` is over.

        Raises:
            RefusedError: it was not stored.
            OutcomeUnknownError: it may have been stored, or there is no outcome within `timeout`.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error.with_traceback(None)
        return self.metadata()

    def exception(self, timeout: float | None = None) -> ZmqmqError | None:
        """What `result` would raise because of the broker's answer; None if it was stored.

        Raises:
            TimedOutError: there is no outcome within `timeout` seconds.
        """
        deadline = Deadline(timeout)
        for batch in self.batches():
            if batch.outcome is None:
                wait_for(batch, deadline)
        return self.failure()

    def add_done_callback(self, callback: Callable[[Delivery], object]) -> None:
        """Call `callback(delivery)` once there is an outcome, at once if there is one already.

        Otherwise it is called on the I/O thread (with asyncio: by the loop), where it must not
        wait for anything. What it raises is logged.
        """
        watch_all(self.batches(), partial(_call_back, callback, self))

    def batches(self) -> Sequence[Batch]:
        """The batches that it went into. Internal."""
        raise NotImplementedError

    def metadata(self) -> RecordMetadata | Ranges:
        """The result, once it is stored. Internal."""
        raise NotImplementedError

    def failure(self) -> ZmqmqError | None:
        """The first error among the outcomes. Internal."""
        for batch in self.batches():
            if isinstance(batch.outcome, ZmqmqError):
                return batch.outcome
        return None


class RecordDelivery(Delivery):
    """The handle of one record.

    Example:
        >>> delivery = producer.send(b"hello")      # doctest: +SKIP
        >>> delivery.result(timeout=5).offset       # doctest: +SKIP
        0
    """

    __slots__ = ("batch", "index")

    batch: Batch
    index: int
    """The record's place in the batch."""

    def __repr__(self) -> str:
        return f"<Delivery {_state(self.batches())} {self.batch!r}>"

    def result(self, timeout: float | None = None) -> RecordMetadata:
        """Where the record was stored; see `Delivery.result`."""
        batch = self.batch
        if batch.outcome is None:
            wait_for(batch, Deadline(timeout))
        if isinstance(batch.outcome, ZmqmqError):
            raise batch.outcome.with_traceback(None)
        return self.metadata()

    def batches(self) -> Sequence[Batch]:
        """The batch that the record went into. Internal."""
        return (self.batch,)

    def metadata(self) -> RecordMetadata:
        """The result, once it is stored. Internal."""
        batch, stored = self.batch, self.batch.outcome
        assert isinstance(stored, Stored)
        offset = stored.base_offset
        return RecordMetadata(
            batch.queue.topic.name,
            batch.queue.partition,
            offset if offset < 0 else offset + self.index,
            stored.append_time_ms,
        )


class Part(NamedTuple):
    """What of a `send_many` went into one batch."""

    batch: Batch
    first: int
    """Place of the first record in the batch."""
    records: int


class ManyDelivery(Delivery):
    """The handle of all records of one `send_many`."""

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts

    def __repr__(self) -> str:
        count = sum(part.records for part in self.parts)
        return f"<Delivery {_state(self.batches())} of {count} in {len(self.parts)} batches>"

    def result(self, timeout: float | None = None) -> Ranges:
        """(partition, first offset, count) of each batch; see `Delivery.result`.

        Raises the first error when not all were stored; the others may have been.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error.with_traceback(None)
        return self.metadata()

    def batches(self) -> Sequence[Batch]:
        """The batches that the records went into. Internal."""
        return [part.batch for part in self.parts]

    def metadata(self) -> Ranges:
        """The result, once all is stored. Internal."""
        ranges = []
        for batch, first, records in self.parts:
            stored = batch.outcome
            assert isinstance(stored, Stored)
            offset = stored.base_offset
            place = offset if offset < 0 else offset + first
            ranges.append((batch.queue.partition, place, records))
        return ranges


class AsyncRecordDelivery(RecordDelivery):
    """The handle of one record, to be awaited: `metadata = await producer.send(b"hello")`."""

    __slots__ = ()

    def __await__(self) -> Generator[object, None, RecordMetadata]:
        if not self.done():
            yield from when_settled(self.batches())
        return RecordDelivery.result(self, 0)


class AsyncManyDelivery(ManyDelivery):
    """The handle of a `send_many`, to be awaited."""

    __slots__ = ()

    def __await__(self) -> Generator[object, None, Ranges]:
        if not self.done():
            yield from when_settled(self.batches())
        return ManyDelivery.result(self, 0)


def wait_for(batch: Batch, deadline: Deadline) -> None:
    """Wait until the batch has an outcome. Raises TimedOutError. Ctrl-C interrupts it."""
    gate = Gate()
    batch.watchers.append(gate.notify)
    # The outcome is written before the watchers are called: whoever still sees none is called.
    while batch.outcome is None:
        if not gate.wait(deadline.left()) and batch.outcome is None:
            raise TimedOutError(
                f"{batch!r} has no outcome yet; it is still being sent, and may be stored"
            )


def watch_all(batches: Sequence[Batch], callback: Callable[[], None]) -> None:
    """Call back once, when the last of these has its outcome."""
    left = [batch for batch in batches if batch.outcome is None]
    if not left:
        callback()
        return
    # One after the other: the next is watched when the one before is done, so nothing is counted
    # by two threads at once.
    batch = left[0]
    step = partial(watch_all, left[1:], callback)
    watchers = batch.watchers
    watchers.append(step)
    if batch.outcome is not None:
        # It came meanwhile. Whoever gets the entry out of the list is the one to call it.
        try:
            watchers.remove(step)
        except ValueError:
            return
        step()


def when_settled(batches: Sequence[Batch]) -> asyncio.Future[None]:
    """A future that is done when the last of these has its outcome. On the client's loop only."""
    future = asyncio.get_running_loop().create_future()
    watch_all(batches, partial(_finish, future))
    return future


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _call_back(callback: Callable[[Delivery], object], delivery: Delivery) -> None:
    try:
        callback(delivery)
    except Exception:
        logger.exception("a delivery callback raised")


def _state(batches: Sequence[Batch]) -> str:
    if any(batch.outcome is None for batch in batches):
        return "pending"
    return "failed" if any(isinstance(b.outcome, ZmqmqError) for b in batches) else "stored"
