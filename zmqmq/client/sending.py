"""What both producers share: records in, on the caller's thread, as cheaply as Python can.

`send` is the hot path of the whole client. A record that has a value and perhaps a key goes
straight into the list of an open batch, inline, under a guard of two bytecodes; no lock object,
no clock, no call but `len` and the handle's. Everything else takes `_send_slowly`, and so does the
first record of a batch, which is when clock and buffer are looked at.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from time import monotonic_ns, time_ns
from typing import Any, Generic, Self, TypeVar

from crc32c import crc32c

from zmqmq.client.arguments import (
    Bytes,
    HeadersLike,
    as_bytes,
    check_timestamp,
    flat_headers,
    hooks,
    plain_column,
)
from zmqmq.client.delivery import ManyDelivery, Part, RecordDelivery
from zmqmq.client.driver import Driver
from zmqmq.client.machines.accumulator import Accumulator
from zmqmq.client.machines.batch import Batch, TopicQueue
from zmqmq.client.machines.fitting import length_or_0
from zmqmq.client.machines.producer import Producer as ProducerMachine
from zmqmq.client.options import ProducerOptions
from zmqmq.client.waiting import Guard
from zmqmq.errors import BufferFullError, ClosedError, UsageError
from zmqmq.model.names import check_topic_name

BEHIND = 4
"""So many full batches of a partition waiting mean that the I/O thread does not keep up, most often
because it waits for the GIL: a thread in a loop over `send` lets go of it only every 5 ms."""

RecordT = TypeVar("RecordT", bound=RecordDelivery)
ManyT = TypeVar("ManyT", bound=ManyDelivery)


class Sender(Generic[RecordT, ManyT]):
    """The part of a producer that does not wait. The sync and the aio Producer add the waiting.

    Attributes of this class are not part of the public interface.
    """

    def __init__(
        self,
        driver: Driver,
        options: ProducerOptions,
        topic: str | None,
        interceptors: Sequence[object],
        record_type: type[RecordT],
        many_type: type[ManyT],
    ) -> None:
        self._driver = driver
        self._options = options
        self._topic = topic
        self._interceptors = tuple(interceptors)
        self._record_type = record_type
        self._many_type = many_type
        self._guard = Guard()
        self._free = self._guard.free
        self._on_send = hooks(interceptors, "on_send")
        self._on_delivery = hooks(interceptors, "on_delivery")
        self._accumulator = Accumulator(options, random.randrange(1 << 16))  # noqa: S311
        self._records_max = self._accumulator.batch_records
        if topic is not None and not self._on_send and not self._on_delivery:
            self._accumulator.default_topic = topic
        self._machine: ProducerMachine | None = None
        self._oneway: Self | None = None
        self._is_closed = False
        self._is_woken = False
        self._error: BaseException | None = None

    # The public calls

    def send(
        self,
        value: Bytes | None,
        key: Bytes | None = None,
        *,
        headers: HeadersLike | None = None,
        tag: str | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        topic: str | None = None,
    ) -> RecordT:
        """Put a record into the open batch of its partition.

        Args:
            value: the record's content; None is a tombstone, which deletes the key on a
                compacted topic.
            key: records with the same key go to the same partition.
            headers: (name, value) pairs, as a mapping or in an order of your own.
            tag: a short word that consumers can filter by.
            partition: where to put it, instead of what the partitioner says.
            timestamp_ms: when it happened, ms since 1970; None: now.
            topic: where to put it, instead of the producer's topic.

        Returns:
            A handle that tells what became of it.

        Raises:
            ClosedError: the producer is closed.
            BufferFullError: `buffer_bytes` are waiting already (at once with `on_full="refuse"`
                and in asyncio, else after `block_ms`).
            RefusedError: the record can never be stored: it is too large, or its partition does
                not exist.

        Example:
            >>> producer.send(b"hello", key=b"k1").result().offset      # doctest: +SKIP
            0
        """
        if (
            headers is None
            and tag is None
            and partition is None
            and timestamp_ms is None
            and topic is None
            and type(value) is bytes
        ):
            handle = self._record_type()
            free = self._free
            if key is None:
                try:
                    del free[0]
                except IndexError:
                    return self._send_slowly(value, None)
                try:
                    batch = handle.batch = self._accumulator.plain
                    room = batch.room - len(value) - 5
                    values = batch.values
                    index = len(values)
                    if room >= 0 and index < self._records_max:
                        batch.room = room
                        handle.index = index
                        values.append(value)
                        return handle
                finally:
                    free.append(None)
            elif type(key) is bytes:
                try:
                    del free[0]
                except IndexError:
                    return self._send_slowly(value, key)
                try:
                    keyed = self._accumulator.keyed
                    batch = handle.batch = keyed[crc32c(key) % len(keyed)]
                    room = batch.room - len(value) - len(key) - 10
                    values = batch.values
                    index = len(values)
                    if room >= 0 and index < self._records_max:
                        assert batch.keys is not None
                        batch.room = room
                        handle.index = index
                        batch.keys.append(key)
                        values.append(value)
                        return handle
                finally:
                    free.append(None)
        return self._send_slowly(
            value,
            key,
            headers=headers,
            tag=tag,
            partition=partition,
            timestamp_ms=timestamp_ms,
            topic=topic,
        )

    def send_many(
        self,
        values: Sequence[Bytes | None],
        keys: Sequence[Bytes | None] | None = None,
        *,
        partition: int | None = None,
        tag: str | None = None,
        timestamp_ms: int | None = None,
        topic: str | None = None,
    ) -> ManyT:
        """Send many records under one handle; without keys they become whole batches.

        Args:
            values: the records' contents.
            keys: one for each value, or None.
            partition: where to put all of them.
            tag: of all of them.
            timestamp_ms: of all of them; None: now.
            topic: where to put them, instead of the producer's topic.

        Returns:
            A handle; its result is a list of (partition, first offset, count).

        Raises:
            As `send`. With `on_full="refuse"` and in asyncio nothing was taken then; with
            `on_full="block"` the error says how many were.

        Example:
            >>> producer.send_many([b"a", b"b", b"c"]).result()      # doctest: +SKIP
            [(0, 0, 3)]
        """
        name = self._topic_name(topic)
        if keys is not None and len(keys) != len(values):
            raise UsageError(f"{len(values)} values have {len(keys)} keys; give one for each")
        if timestamp_ms is not None:
            check_timestamp(timestamp_ms)
        if not values:
            self._check_open()
            return self._many_type(())
        plain, has_none = plain_column("values", values)
        plain_keys, has_none_key = (None, False) if keys is None else plain_column("keys", keys)
        length: Callable[[Any], int] = length_or_0 if has_none or has_none_key else len
        if self._on_send or self._on_delivery or not self._accumulator.topic(name).partitions:
            return self._send_one_by_one(plain, plain_keys, partition, tag, timestamp_ms, name)
        self._check_room_for(plain, plain_keys, length)
        parts: list[Part] = []
        for target, some, some_keys in self._by_partition(name, partition, plain, plain_keys):
            at = 0
            while at < len(some):
                taken = self._take_values(
                    name, target, some, some_keys, at, length, tag, timestamp_ms, sum_of(parts)
                )
                parts.append(taken)
                at += taken.records
        return self._many_type(parts)

    @property
    def pending_bytes(self) -> int:
        """Bytes of records that have no outcome yet."""
        with self._guard:
            accumulator = self._accumulator
            return sum(batch.used for batch in accumulator.unsettled)

    @property
    def pending_records(self) -> int:
        """Records that have no outcome yet."""
        with self._guard:
            return sum(len(batch) for batch in self._accumulator.unsettled)

    # What the driver calls (driver.Listener)

    def notify(self) -> None:
        """Some batches have got their outcome, so there may be room."""
        raise NotImplementedError

    def commit_due(self, now: int) -> None:
        """Producers commit nothing."""

    def crash(self, error: BaseException) -> None:
        """The client has a bug or was forked: every record and every call fails with it."""
        self._guard.free[:] = [None]  # whoever held it may not exist in this process
        self._error = error
        self._is_closed = True
        accumulator = self._accumulator
        with self._guard:
            left = list(accumulator.unsettled)
            accumulator.stop()
        for batch in left:
            batch.outcome = ClosedError(f"the client stopped: {error!r}")
            for watch in batch.watchers:
                watch()
        self.notify()

    # Inside

    def start(self, _now: int) -> None:
        """On the I/O thread: let the machines know this producer."""
        if self._machine is None:
            core = self._driver.core
            self._machine = core.add_producer(self._options, self._accumulator, self._guard, self)
            self._driver.listeners.add(self)
            if self._topic is not None:
                with self._guard:
                    self._accumulator.topic(self._topic)

    def woken(self) -> ProducerMachine | None:
        """On the I/O thread: the machine is about to look (driver.Pumped)."""
        self._is_woken = False
        return self._machine

    def stop(self, _now: int) -> None:
        """On the I/O thread: end it; what has no outcome gets one."""
        if self._machine is not None:
            self._driver.core.remove_producer(self._machine)
            self._driver.listeners.discard(self)

    def oneway(self) -> Self:
        """The producer with acks=0 that `send_oneway` goes through."""
        if self._options.wire_acks == 0:
            return self
        if self._oneway is None:
            self._oneway = self._like(replace(self._options, acks=0, idempotent=False))
            self._driver.post(self._oneway.start)
        return self._oneway

    def _like(self, options: ProducerOptions) -> Self:
        """Another producer for the same topic."""
        raise NotImplementedError

    def _yield(self) -> None:
        """Full batches pile up: let the I/O thread run, where there is one."""

    def _wait_for_room(self, size: int, waited: float) -> float:
        """Wait until something was freed; seconds waited in all. Raises BufferFullError."""
        raise NotImplementedError

    def _send_slowly(
        self,
        value: Bytes | None,
        key: Bytes | None,
        headers: HeadersLike | None = None,
        tag: str | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        topic: str | None = None,
    ) -> RecordT:
        """Any record, whatever it has."""
        name = self._topic_name(topic)
        for on_send in self._on_send:
            changed = on_send(name, key, value, headers)
            if changed is not None:
                key, value, headers = changed
        plain = as_bytes("value", value)
        plain_key = as_bytes("key", key)
        flat = flat_headers(headers)
        if tag is not None and type(tag) is not str:
            raise UsageError(f"tag is {type(tag).__name__}; it must be str")
        if timestamp_ms is not None:
            check_timestamp(timestamp_ms)
        waited = 0.0
        while True:
            with self._guard:
                self._check_open()
                accumulator = self._accumulator
                place = accumulator.append(
                    monotonic_ns(),
                    time_ns() // 1_000_000,
                    accumulator.topic(name),
                    partition,
                    plain,
                    plain_key,
                    flat,
                    tag,
                    timestamp_ms,
                )
            self._wake()
            if place is not None:
                if len(place[0].queue.ready) >= BEHIND:
                    self._yield()
                break
            waited = self._wait_for_room(length_or_0(plain) + length_or_0(plain_key), waited)
        handle = self._record_type()
        handle.batch, handle.index = place
        for on_delivery in self._on_delivery:
            handle.add_done_callback(on_delivery)
        return handle

    def _send_one_by_one(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None,
        partition: int | None,
        tag: str | None,
        timestamp_ms: int | None,
        name: str,
    ) -> ManyT:
        """With interceptors, or while the partitions are not known yet."""
        parts = []
        for index, value in enumerate(values):
            key = None if keys is None else keys[index]
            handle = self._send_slowly(value, key, None, tag, partition, timestamp_ms, name)
            parts.append(Part(handle.batch, handle.index, 1))
        return self._many_type(parts)

    def _take_values(
        self,
        name: str,
        partition: int | None,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None,
        at: int,
        length: Callable[[Any], int],
        tag: str | None,
        timestamp_ms: int | None,
        before: int,
    ) -> Part:
        """Put one batch full of `values[at:]` in, waiting for room if need be."""
        waited = 0.0
        while True:
            with self._guard:
                self._check_open()
                accumulator = self._accumulator
                taken = accumulator.append_values(
                    monotonic_ns(),
                    time_ns() // 1_000_000,
                    accumulator.topic(name),
                    partition,
                    values,
                    keys,
                    at,
                    length,
                    tag,
                    timestamp_ms,
                )
            self._wake()
            if taken is not None:
                return Part(*taken)
            try:
                waited = self._wait_for_room(length(values[at]), waited)
            except BufferFullError as error:
                raise BufferFullError(f"{before} records were taken; {error}") from None

    def _by_partition(
        self,
        name: str,
        partition: int | None,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None,
    ) -> Iterable[tuple[int | None, Sequence[bytes | None], Sequence[bytes | None] | None]]:
        """The values in groups that go to one partition each."""
        topic: TopicQueue = self._accumulator.topic(name)
        partitioning = self._accumulator.partitioning
        if partition is not None:
            return ((partitioning.choose(topic, partition, None, None), values, keys),)
        if partitioning.is_sticky and keys is None:
            return ((None, values, None),)
        if len(topic.partitions) == 1:
            return ((0, values, keys),)
        groups: dict[int, tuple[list[bytes | None], list[bytes | None]]] = {}
        for value, key in zip(values, keys or [None] * len(values), strict=True):
            target = partitioning.choose(topic, None, key, value)
            group = groups.get(target)
            if group is None:
                group = groups[target] = ([], [])
            group[0].append(value)
            group[1].append(key)
        return [(p, v, k if keys is not None else None) for p, (v, k) in groups.items()]

    def _check_room_for(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None,
        length: Callable[[Any], int],
    ) -> None:
        """With `on_full="refuse"`: all or nothing."""
        if self._options.on_full != "refuse":
            return
        size = sum(map(length, values)) + (0 if keys is None else sum(map(length, keys)))
        if size > self._accumulator.free:
            raise self._buffer_full(size)

    def _buffer_full(self, size: int, waited: float = 0.0) -> BufferFullError:
        options = self._options
        after = f" after {waited:.1f} s" if waited else ""
        return BufferFullError(
            f"no room for {size} bytes{after}: {self.pending_bytes} of "
            f"buffer_bytes={options.buffer_bytes} wait for their acknowledgement; "
            "wait for some of them (flush), send less, or make the buffer larger"
        )

    def _wake(self) -> None:
        """Let the I/O thread look, unless it has been told already."""
        if self._accumulator.has_news and not self._is_woken:
            self._is_woken = True
            self._driver.post_producer(self)

    def _topic_name(self, topic: str | None) -> str:
        if topic is None:
            if self._topic is None:
                raise UsageError("this producer has no topic of its own; name one with topic=…")
            return self._topic
        return topic if topic in self._accumulator.topics else check_topic_name(topic)

    def _check_open(self) -> None:
        if self._is_closed:
            self._driver.check_usable()
            raise ClosedError("the producer is closed")

    def _seal_all(self) -> list[Batch]:
        """Make everything due; the batches to wait for."""
        with self._guard:
            left = self._accumulator.seal_all()
        if self._oneway is not None:
            left += self._oneway._seal_all()  # noqa: SLF001 - the same class
        if left:
            self._driver.post_producer(self)
        return left


def sum_of(parts: Sequence[Part]) -> int:
    """How many records these are."""
    return sum(part.records for part in parts)
