"""The blocking consumer: `Reader`, and waiting for records."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Self

from zmqmq.batch.decode import RecordBatch
from zmqmq.client.io_thread import IOThread
from zmqmq.client.machines.commits import Offsets
from zmqmq.client.machines.effects import MS, Promise
from zmqmq.client.machines.lookup import Question
from zmqmq.client.operations import Operations
from zmqmq.client.options import ConsumerOptions
from zmqmq.client.reading import Reader
from zmqmq.client.waiting import Deadline, Gate
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
    """Reads records. Made by `Client.consumer`; belongs to one thread at a time.

    Example:
        >>> for record in mq.consumer("orders", stop_at_end=True):      # doctest: +SKIP
        ...     print(record.partition, record.offset, record.value)
    """

    def __init__(
        self,
        io: IOThread,
        operations: Operations,
        options: ConsumerOptions,
        topics: Sequence[str],
        interceptors: tuple[object, ...],
    ) -> None:
        super().__init__(io.driver, options, topics, interceptors)
        self._io = io
        self._operations = operations
        self._gate = Gate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Record]:
        """Records one after the other; waits for them. Ends only with `stop_at_end=True`.

        Raises:
            OffsetOutOfRangeError: the position lies behind the end of a partition.
            CorruptDataError: a batch does not have its checksum. Nothing of that partition is
                handed out any more until `seek`.
        """
        while True:
            iterator = self.give_iterator()
            if iterator is not None:
                yield from iterator
            elif self.is_finished:
                return
            else:
                self.check()
                self._gate.wait(None)

    def fetch(self, max_records: int = 500, max_wait_ms: int | None = None) -> list[Record]:
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
            records = self.give_records(max_records)
            if records or self._is_over(deadline):
                return records

    def fetch_batches(self, max_wait_ms: int | None = None) -> list[RecordBatch]:
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
            batches = self.give_batches()
            if batches or self._is_over(deadline):
                return batches

    def seek(self, topic: str, partition: int, where: int | str | datetime) -> None:
        """Go on elsewhere in a partition; what was fetched of it is dropped.

        Args:
            topic: the topic's name.
            partition: its number.
            where: an offset, "start", "end", a negative number (that many before the end), or
                the time of an append.

        Raises:
            UsageError: this consumer does not read that partition.
        """
        super().seek(topic, partition, where)

    def assign(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Read these partitions and no others. Those that are new begin where `start` says."""
        self.check()
        self.forget_unassigned(partitions)
        self._io.call(self._assigned, list(partitions))
        self.wait_until_placed()

    @property
    def assignment(self) -> list[tuple[str, int]]:
        """Topic and partition of everything that is read, in order."""
        return self.assigned()

    def commit(self, offsets: Offsets | None = None) -> None:
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
            self._commit(chosen)

    def committed(self, topic: str, partition: int) -> int | None:
        """What has been committed for a partition; None: nothing yet."""
        self.check_keeps_offsets()
        operations = self._operations
        if self._local is not None:
            return self._io.run(self._local.committed(operations, topic, partition))
        assert self._options.group is not None
        return self._io.run(operations.committed(self._options.group, topic, partition))

    def lag(self) -> dict[tuple[str, int], int]:
        """How many offsets each partition has that were not handed out yet."""
        questions = [Question(topic, p, "end") for topic, p in self.assignment]
        if not questions:
            return {}
        ends = self._io.run(self._operations.look_up(questions))
        return {
            (q.topic, q.partition): max(end - self.position(q.topic, q.partition), 0)
            for q, end in ends.items()
        }

    def close(self) -> None:
        """Commit what has been consumed (with `auto_commit`), and stop reading."""
        if self._is_closed:
            return
        due = self.due_at_close()
        self._is_closed = True
        try:
            if due:
                self._commit(due)
        except ZmqmqError as error:
            logger.warning("the last offsets were not committed: %s", error)
        finally:
            try:
                with suppress(ClosedError, DisconnectedError):
                    self._io.call(self._stopped)
            finally:
                if self._local is not None:
                    self._local.close()

    def notify(self) -> None:
        """Something new is there (driver.Listener)."""
        self._gate.notify()

    def wait_until_placed(self) -> None:
        """Wait until the position of every partition is known. Raises why it is not."""
        deadline = Deadline(self._io.request_seconds)
        while not self.machine.is_placed:
            self.check()
            if self.machine.start_errors or not self._gate.wait(deadline.left()):
                break
        if self.machine.start_errors:
            raise self.machine.start_errors.popleft()
        if not self.machine.is_placed:
            raise TimedOutError(
                f"where to begin in {', '.join(self._topics) or 'no topic'} was not found out "
                f"within {self._io.request_seconds} s"
            )

    def _wait_deadline(self, max_wait_ms: int | None) -> Deadline:
        self.check()
        if max_wait_ms is None and self._options.stop_at_end:
            return Deadline(None)
        wait = self._options.max_wait_ms if max_wait_ms is None else max_wait_ms
        return Deadline(wait / 1000)

    def _is_over(self, deadline: Deadline) -> bool:
        """Wait for news; whether there will be none in time."""
        self.check()
        return self.is_finished or not self._gate.wait(deadline.left())

    def _assigned(self, now: int, promise: Promise, partitions: Sequence[tuple[str, int]]) -> None:
        self.assign_now(now, partitions)
        self._io.resolve(promise)

    def _commit(self, offsets: Offsets) -> None:
        self.note_committed(offsets)
        if self._local is None:
            self._io.call(self._commit_now, offsets)
        else:
            notes = self._io.run(self._local.commit(self._operations, offsets))
            self._local.write(notes)

    def _commit_now(self, now: int, promise: Promise, offsets: Offsets) -> None:
        commits = self.machine.commits
        assert commits is not None
        timeout = int(self._io.request_seconds * 1000) * MS
        commits.commit(now, offsets, now + timeout, promise)

    def _stopped(self, now: int, promise: Promise) -> None:
        self.stop(now)
        self._io.resolve(promise)
