"""Handles: waiting, calling back, and what they tell."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from zmqmq.client.delivery import (
    AsyncManyDelivery,
    AsyncRecordDelivery,
    Delivery,
    ManyDelivery,
    Part,
    RecordDelivery,
    RecordMetadata,
)
from zmqmq.client.driver import _call_watchers
from zmqmq.client.machines.batch import Batch, PartitionQueue, Stored, TopicQueue
from zmqmq.errors import NotCommittedError, TimedOutError


def batch_of(partition: int = 0) -> Batch:
    return Batch(PartitionQueue(TopicQueue("t"), partition), 100, 1)


def handle_of(batch: Batch, index: int = 0, kind: Any = RecordDelivery) -> Any:
    handle = kind()
    handle.batch, handle.index = batch, index
    return handle


def settle(batch: Batch, outcome: Any) -> None:
    """As the machines and the driver do it: first the outcome, then those who wait."""
    batch.outcome = outcome
    _call_watchers(batch.watchers)


def test_a_record_knows_its_offset_from_its_place() -> None:
    batch = batch_of(3)
    handle = handle_of(batch, 5)
    assert not handle.done()
    settle(batch, Stored(100, 77))

    assert handle.done()
    assert handle.result() == RecordMetadata("t", 3, 105, 77)
    assert handle.exception() is None


def test_without_an_offset_from_the_broker_there_is_none() -> None:
    batch = batch_of()
    settle(batch, Stored(-1, -1))

    assert handle_of(batch, 5).result().offset == -1


def test_an_error_is_raised_by_result_and_returned_by_exception() -> None:
    batch = batch_of()
    error = NotCommittedError("perhaps")
    settle(batch, error)
    handle = handle_of(batch)

    assert handle.exception() is error
    for _ in range(2):
        with pytest.raises(NotCommittedError):
            handle.result()


def test_waiting_ends_with_its_time() -> None:
    handle = handle_of(batch_of())
    with pytest.raises(TimedOutError, match="no outcome yet"):
        handle.result(timeout=0)
    with pytest.raises(TimedOutError):
        handle.exception(timeout=0)


def test_several_threads_wait_for_one_batch() -> None:
    batch = batch_of()
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(handle_of(batch, n).result(5).offset))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    settle(batch, Stored(0, 0))
    for thread in threads:
        thread.join(5)

    assert sorted(found) == list(range(8))


def test_callbacks_are_called_once_before_or_after() -> None:
    batch = batch_of()
    handle = handle_of(batch)
    called: list[Delivery] = []
    handle.add_done_callback(called.append)
    assert called == []
    settle(batch, Stored(0, 0))
    handle.add_done_callback(called.append)

    assert called == [handle, handle]


def test_a_callback_that_raises_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    batch = batch_of()
    called: list[Delivery] = []

    def broken(_: Delivery) -> None:
        raise ValueError("oops")

    handle_of(batch).add_done_callback(broken)
    handle_of(batch).add_done_callback(called.append)
    settle(batch, Stored(0, 0))

    assert len(called) == 1
    assert "a delivery callback raised" in caplog.text


def test_many_are_done_when_the_last_is() -> None:
    batches = [batch_of(n) for n in range(3)]
    many = ManyDelivery([Part(b, n, 10) for n, b in enumerate(batches)])
    called: list[Delivery] = []
    many.add_done_callback(called.append)
    settle(batches[2], Stored(0, 0))
    settle(batches[0], Stored(0, 0))
    assert not many.done()
    assert called == []
    settle(batches[1], Stored(50, 0))

    assert called == [many]
    assert many.result() == [(0, 0, 10), (1, 51, 10), (2, 2, 10)]


def test_many_fail_with_the_first_error_once_all_are_known() -> None:
    batches = [batch_of(n) for n in range(2)]
    many = ManyDelivery([Part(b, 0, 1) for b in batches])
    settle(batches[0], NotCommittedError("perhaps"))
    with pytest.raises(TimedOutError):
        many.result(0)
    settle(batches[1], Stored(0, 0))

    with pytest.raises(NotCommittedError):
        many.result(0)


def test_handles_can_be_awaited_before_and_after() -> None:
    async def main() -> None:
        batch = batch_of()
        handle = handle_of(batch, 1, AsyncRecordDelivery)
        many = AsyncManyDelivery([Part(batch, 0, 2)])
        asyncio.get_running_loop().call_later(0.001, settle, batch, Stored(7, 0))
        assert (await handle).offset == 8
        assert await many == [(0, 7, 2)]
        assert (await handle).offset == 8

    asyncio.run(main())


def test_a_cancelled_await_leaves_the_batch_alone() -> None:
    async def main() -> None:
        batch = batch_of()
        handle = handle_of(batch, 0, AsyncRecordDelivery)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await handle
        settle(batch, Stored(7, 0))
        assert (await handle).offset == 7

    asyncio.run(main())
