"""The asyncio consumer: `Reader`, and awaiting records."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from zmqmq.batch.decode import RecordBatch
from zmqmq.client.aio_loop import AioLoop
from zmqmq.client.machines.commits import Offsets
from zmqmq.client.machines.effects import MS, Promise
from zmqmq.client.machines.lookup import Question
from zmqmq.client.operations import Operations
from zmqmq.client.options import ConsumerOptions
from zmqmq.client.reading import Reader
from zmqmq.client.waiting import Deadline
from zmqmq.errors import (
    ClosedError,
    DisconnectedError,
    TimedOutError,
    UsageError,
    ZmqmqError,
)
from zmqmq.model.message import Record

logger = logging.getLogger("zmqmq.client")


class Consumer(Reader):
    """Reads records. Made by `Client.consumer`; belongs to one task at a time.

    Example:
        >>> async with mq.consumer("orders", stop_at_end=True) as consumer:  # doctest: +SKIP
        ...     async for record in consumer:
        ...         print(record.partition, record.offset, record.value)
    """

    def __init__(
        self,
        aio: AioLoop,
        operations: Operations,
        options: ConsumerOptions,
        topics: Sequence[str],
        interceptors: tuple[object, ...],
    ) -> None:
        super().__init__(aio.driver, options, topics, interceptors)
        self._aio = aio
        self._operations = operations
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[Record]:
        """Records one after the other; waits for them. Ends only with `stop_at_end=True`.

        Raises:
            OffsetOutOfRangeError: the position lies behind the end of a partition.
            CorruptDataError: a batch does not have its checksum. Nothing of that partition is
                handed out any more until `seek`.
        """
        while True:
            self._news.clear()
            iterator = self.give_iterator()
            if iterator is not None:
                for record in iterator:
                    yield record
            elif self.is_finished:
                return
            else:
                self.check()
                await self._news.wait()

    async def fetch(self, max_records: int = 500, max_wait_ms: int | None = None) -> list[Record]:
        """The records that are there, up to so many, as soon as there are any.

        Args:
            max_records: at most so many, at least 1.
            max_wait_ms: how long to wait for the first; None: what the consumer was made with,
                and with `stop_at_end` until there is something or the end has been reached.

        Returns:
            Records, or `[]` when the wait is over or `stop_at_end` has been reached.

        Raises:
            As iterating.
        """
        if max_records < 1:
            raise UsageError(f"max_records is {max_records}; the least is 1")
        deadline = self._wait_deadline(max_wait_ms)
        while True:
            self._news.clear()
            records = self.give_records(max_records)
            if records or await self._is_over(deadline):
                return records

    async def fetch_batches(self, max_wait_ms: int | None = None) -> list[RecordBatch]:
        """The batches that are there, as they are stored, as soon as there are any.

        The fastest way to read: `batch.values`, `.keys` and `.offsets` are lists, unpacked when
        they are asked for.

        Args:
            max_wait_ms: how long to wait for the first; None: what the consumer was made with,
                and with `stop_at_end` until there is something or the end has been reached.

        Raises:
            As iterating.
        """
        deadline = self._wait_deadline(max_wait_ms)
        while True:
            self._news.clear()
            batches = self.give_batches()
            if batches or await self._is_over(deadline):
                return batches

    async def assign(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Read these partitions and no others. Those that are new begin where `start` says."""
        self.check()
        self.forget_unassigned(partitions)
        await self._aio.call(self._assigned, list(partitions))
        await self.wait_until_placed()

    @property
    def assignment(self) -> list[tuple[str, int]]:
        """Topic and partition of everything that is read, in order."""
        return self.assigned()

    async def commit(self, offsets: Offsets | None = None) -> None:
        """Commit offsets, of the group or into the file of a broadcast consumer, and wait until
        that is durable.

        Args:
            offsets: {(topic, partition): offset to go on at}; None commits everything that was
                handed out, the record in your hands included.

        Raises:
            UsageError: the consumer has no group, and is no broadcast consumer.
            StorageError: the file could not be written; what it had is still there.
            ZmqmqError: what the broker answered.
        """
        self.check()
        self.check_keeps_offsets()
        chosen = dict(self.handed_out() if offsets is None else offsets)
        if chosen:
            await self._commit(chosen)

    async def committed(self, topic: str, partition: int) -> int | None:
        """What has been committed for a partition; None: nothing yet."""
        self.check_keeps_offsets()
        operations = self._operations
        if self._local is not None:
            return await self._aio.run(self._local.committed(operations, topic, partition))
        assert self._options.group is not None
        return await self._aio.run(operations.committed(self._options.group, topic, partition))

    async def lag(self) -> dict[tuple[str, int], int]:
        """How many offsets each partition has that were not handed out yet."""
        questions = [Question(topic, p, "end") for topic, p in self.assignment]
        if not questions:
            return {}
        ends = await self._aio.run(self._operations.look_up(questions))
        return {
            (q.topic, q.partition): max(end - self.position(q.topic, q.partition), 0)
            for q, end in ends.items()
        }

    async def close(self) -> None:
        """Commit what has been consumed (with `auto_commit`), and stop reading."""
        if self._is_closed:
            return
        due = self.due_at_close()
        self._is_closed = True
        try:
            if due:
                await self._commit(due)
        except ZmqmqError as error:
            logger.warning("the last offsets were not committed: %s", error)
        finally:
            try:
                with suppress(ClosedError, DisconnectedError):
                    await self._aio.call(self._stopped)
            finally:
                if self._local is not None:
                    await asyncio.to_thread(self._local.close)

    def notify(self) -> None:
        """Something new is there (driver.Listener)."""
        self._news.set()

    async def wait_until_placed(self) -> None:
        """Wait until the position of every partition is known. Raises why it is not."""
        deadline = Deadline(self._aio.request_seconds)
        while not self.machine.is_placed and not self.machine.start_errors and not deadline.is_over:
            self.check()
            self._news.clear()
            await self._wait(deadline)
        if self.machine.start_errors:
            raise self.machine.start_errors.popleft()
        if not self.machine.is_placed:
            raise TimedOutError(
                f"where to begin in {', '.join(self._topics) or 'no topic'} was not found out "
                f"within {self._aio.request_seconds} s"
            )

    def _wait_deadline(self, max_wait_ms: int | None) -> Deadline:
        self.check()
        if max_wait_ms is None and self._options.stop_at_end:
            return Deadline(None)
        wait = self._options.max_wait_ms if max_wait_ms is None else max_wait_ms
        return Deadline(wait / 1000)

    async def _is_over(self, deadline: Deadline) -> bool:
        """Wait for news; whether there will be none in time."""
        self.check()
        return self.is_finished or not await self._wait(deadline)

    async def _wait(self, deadline: Deadline) -> bool:
        try:
            async with asyncio.timeout(deadline.left()):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def _assigned(self, now: int, promise: Promise, partitions: Sequence[tuple[str, int]]) -> None:
        self.assign_now(now, partitions)
        self._aio.resolve(promise)

    async def _commit(self, offsets: Offsets) -> None:
        self.note_committed(offsets)
        if self._local is None:
            await self._aio.call(self._commit_now, offsets)
        else:
            notes = await self._aio.run(self._local.commit(self._operations, offsets))
            await asyncio.to_thread(self._local.write, notes)

    def _commit_now(self, now: int, promise: Promise, offsets: Offsets) -> None:
        commits = self.machine.commits
        assert commits is not None
        timeout = int(self._aio.request_seconds * 1000) * MS
        commits.commit(now, offsets, now + timeout, promise)

    def _stopped(self, now: int, promise: Promise) -> None:
        self.stop(now)
        self._aio.resolve(promise)
