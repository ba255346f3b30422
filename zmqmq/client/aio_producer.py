"""The asyncio producer: `Sender`, and awaiting room and outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from zmqmq.client.aio_loop import AioLoop
from zmqmq.client.arguments import Bytes, HeadersLike
from zmqmq.client.delivery import AsyncManyDelivery, AsyncRecordDelivery, when_settled
from zmqmq.client.machines.batch import Batch
from zmqmq.client.machines.effects import Promise
from zmqmq.client.options import ProducerOptions
from zmqmq.client.sending import Sender
from zmqmq.errors import ClosedError, DisconnectedError, TimedOutError


class Producer(Sender[AsyncRecordDelivery, AsyncManyDelivery]):
    """Sends records. Made by `Client.producer`.

    `send` and `send_many` are plain calls that never wait; their handles can be awaited. When
    the buffer is full they raise BufferFullError, whatever `on_full` says: `await drain()` first.

    Example:
        >>> async with mq.producer("orders") as producer:      # doctest: +SKIP
        ...     metadata = await producer.send(b"hello", key=b"k1")
    """

    def __init__(
        self,
        aio: AioLoop,
        options: ProducerOptions,
        topic: str | None,
        interceptors: tuple[object, ...],
    ) -> None:
        super().__init__(
            aio.driver, options, topic, interceptors, AsyncRecordDelivery, AsyncManyDelivery
        )
        self._aio = aio
        self._room = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

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

    async def drain(self) -> None:
        """Wait until at least half of the buffer is free: call it in loops that send."""
        while self._accumulator.free * 2 < self._options.buffer_bytes:
            self._check_open()
            self._room.clear()
            await self._room.wait()

    async def flush(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as the sync one
        """Send what is waiting, and wait until everything sent so far has an outcome.

        Args:
            timeout: seconds to wait; None waits at most until `delivery_timeout_ms` is over.

        Raises:
            TimedOutError: something has no outcome yet. It is still being sent.
        """
        self._check_open()
        await self._flush(timeout)

    async def close(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Flush, then end. What has no outcome within `timeout` seconds is given up on.

        Raises:
            TimedOutError: something was given up on; the handles say whether it was ever sent.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._accumulator.stop()
        try:
            await self._flush(timeout)
        except TimedOutError:
            raise TimedOutError(
                f"{self.pending_records} records had no outcome within {timeout} s; their handles "
                "say whether they were sent"
            ) from None
        finally:
            with suppress(ClosedError, DisconnectedError):
                if self._oneway is not None:
                    await self._aio.call(self._stopped, self._oneway)
                await self._aio.call(self._stopped, self)

    def notify(self) -> None:
        """There may be room (driver.Listener)."""
        self._room.set()

    def _stopped(
        self,
        now: int,
        promise: Promise,
        sender: Sender[AsyncRecordDelivery, AsyncManyDelivery],
    ) -> None:
        sender.stop(now)
        self._aio.resolve(promise)

    async def _flush(self, seconds: float | None) -> None:
        left = self._seal_all()
        try:
            async with asyncio.timeout(seconds):
                await _settled(left)
        except TimeoutError:
            raise TimedOutError(
                f"{self.pending_records} records have no outcome after {seconds} s; they are "
                "still being sent"
            ) from None

    def _like(self, options: ProducerOptions) -> Self:
        return type(self)(self._aio, options, self._topic, self._interceptors)

    def _wait_for_room(self, size: int, waited: float) -> float:
        raise self._buffer_full(size, waited)


async def _settled(batches: Sequence[Batch]) -> None:
    for batch in batches:
        if batch.outcome is None:
            await when_settled((batch,))
