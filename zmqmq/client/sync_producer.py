"""The blocking producer: `Sender`, and waiting for room and for outcomes."""

from __future__ import annotations

from contextlib import suppress
from time import monotonic, sleep
from types import TracebackType
from typing import Self

from zmqmq.client.arguments import Bytes, HeadersLike
from zmqmq.client.delivery import ManyDelivery, RecordDelivery, wait_for
from zmqmq.client.io_thread import IOThread
from zmqmq.client.machines.effects import Promise
from zmqmq.client.options import ProducerOptions
from zmqmq.client.sending import Sender
from zmqmq.client.waiting import Deadline, Gate
from zmqmq.errors import ClosedError, TimedOutError

YIELD_SECONDS = 0.00005
"""Long enough that the I/O thread, if it waits for the GIL, wakes up and has it."""


class Producer(Sender[RecordDelivery, ManyDelivery]):
    """Sends records. Made by `Client.producer`; may be shared between threads.

    Example:
        >>> with mq.producer("orders") as producer:      # doctest: +SKIP
        ...     producer.send(b"hello", key=b"k1")
    """

    def __init__(
        self,
        io: IOThread,
        options: ProducerOptions,
        topic: str | None,
        interceptors: tuple[object, ...],
    ) -> None:
        super().__init__(io.driver, options, topic, interceptors, RecordDelivery, ManyDelivery)
        self._io = io
        self._gates: list[Gate] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send_oneway(
        self,
        value: Bytes | None,
        key: Bytes | None = None,
        *,
        headers: HeadersLike | None = None,
        tag: str | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        topic: str | None = None,
    ) -> None:
        """Send a record and never hear of it again: no reply, no retry, no idempotence.

        The arguments are those of `send`. Its order relative to records of `send` is not kept.

        Raises:
            ClosedError: the producer is closed.
            BufferFullError: as `send`.
        """
        self._check_open()
        self.oneway().send(
            value,
            key,
            headers=headers,
            tag=tag,
            partition=partition,
            timestamp_ms=timestamp_ms,
            topic=topic,
        )

    def flush(self, timeout: float | None = None) -> None:
        """Send what is waiting, and wait until everything sent so far has an outcome.

        Whether it was stored is what the handles tell; failures are logged too.

        Args:
            timeout: seconds to wait; None waits at most until `delivery_timeout_ms` is over.

        Raises:
            TimedOutError: something has no outcome yet. It is still being sent.
        """
        self._check_open()
        self._flush(Deadline(timeout))

    def close(self, timeout: float | None = None) -> None:
        """Flush, then end. What has no outcome within `timeout` seconds is given up on.

        Raises:
            TimedOutError: something was given up on; the handles say whether it was ever sent.
        """
        if self._is_closed:
            return
        self._is_closed = True
        with self._guard:
            self._accumulator.stop()
        left = 0
        try:
            self._flush(Deadline(timeout))
        except TimedOutError:
            left = self.pending_records
            raise TimedOutError(
                f"{left} records had no outcome within {timeout} s; their handles say whether "
                "they were sent"
            ) from None
        finally:
            with suppress(ClosedError):
                if self._oneway is not None:
                    self._io.call(self._stopped, self._oneway)
                self._io.call(self._stopped, self)

    def notify(self) -> None:
        """There may be room (driver.Listener)."""
        if self._gates and (self._accumulator.free >= self._resume_at() or self._is_closed):
            for gate in self._gates:
                gate.notify()

    def _stopped(
        self, now: int, promise: Promise, sender: Sender[RecordDelivery, ManyDelivery]
    ) -> None:
        sender.stop(now)
        self._io.resolve(promise)

    def _resume_at(self) -> int:
        """So much must be free before anybody goes on: an eighth of the buffer, so that a full
        buffer does not mean a change of threads for every batch."""
        return max(self._accumulator.wanted, self._options.buffer_bytes // 8)

    def _flush(self, deadline: Deadline) -> None:
        for batch in self._seal_all():
            if batch.outcome is None:
                wait_for(batch, deadline)

    def _yield(self) -> None:
        if not self._io.is_current:
            sleep(YIELD_SECONDS)

    def _like(self, options: ProducerOptions) -> Self:
        return type(self)(self._io, options, self._topic, self._interceptors)

    def _wait_for_room(self, size: int, waited: float) -> float:
        """Wait until something has got its outcome.

        Never on the I/O thread: a delivery callback that sends would wait for itself.
        """
        left = self._options.block_ms / 1000 - waited
        if self._options.on_full == "refuse" or left <= 0 or self._io.is_current:
            raise self._buffer_full(size, waited)
        began = monotonic()
        gate = Gate()
        self._gates.append(gate)
        try:
            # What was freed before the gate was there is seen here, what comes later notifies it.
            if self._accumulator.free < self._resume_at():
                gate.wait(left)
        finally:
            self._gates.remove(gate)
        self._check_open()
        return waited + monotonic() - began
