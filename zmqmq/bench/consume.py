"""Consuming: whole batches and single records from the start of a topic, and from send to sight."""

from __future__ import annotations

import struct
import threading
from time import perf_counter_ns
from typing import Final

import zmqmq
from zmqmq.bench.histogram import Histogram
from zmqmq.bench.measure import Measurement, Meter
from zmqmq.bench.pace import Pace
from zmqmq.bench.target import BATCH_BYTES, BenchError, Target, fresh_topic, random_values

_STAMP: Final = struct.Struct("<Q")
_BATCH_RECORDS: Final = 1000
IDLE_SECONDS: Final = 30
"""With nothing for this long the rest is taken for lost."""


def consume_batches(target: Target, *, size: int, count: int, partitions: int = 1) -> Measurement:
    """`fetch_batches`, with the values of each batch as a list."""
    with target.connect() as client, fresh_topic(client, partitions) as topic:
        total = fill(client, topic, size, count, partitions)
        seen = held = 0
        consumer = client.consumer(topic)
        meter = Meter(target.pid)
        idle_since = perf_counter_ns()
        while seen < total:
            batches = consumer.fetch_batches()
            for batch in batches:
                values = batch.values
                seen += len(values)
                held += len(values[0] or b"")
            idle_since = _still_coming(bool(batches), idle_since, seen, total)
        done = meter.stop("consume batches", seen, size, partitions=partitions)
        consumer.close()
    _check(seen, total, bool(held) or not size)
    return done


def consume_records(target: Target, *, size: int, count: int, partitions: int = 1) -> Measurement:
    """`for record in consumer`, with the value of each."""
    with target.connect() as client, fresh_topic(client, partitions) as topic:
        total = fill(client, topic, size, count, partitions)
        seen = held = 0
        consumer = client.consumer(topic, stop_at_end=True)
        meter = Meter(target.pid)
        for record in consumer:
            seen += 1
            held += len(record.value or b"")
        done = meter.stop("consume records", seen, size, partitions=partitions)
        consumer.close()
    _check(seen, total, held == total * size)
    return done


def end_to_end(
    target: Target, *, size: int, rate: int, seconds: float, linger_ms: int = 0
) -> Measurement:
    """From the moment a record was due to be sent until a consumer that waits has its value.

    Open loop: a sender that falls behind counts as delay. Producer and consumer are threads of
    this process, each with a connection of its own.
    """
    filler = random_values(max(size - _STAMP.size, 0), 1)[0]
    latency = Histogram()
    pace = Pace(rate, seconds)
    failure: list[BaseException] = []
    with target.connect() as client, target.connect() as reading, fresh_topic(client) as topic:
        consumer = reading.consumer(topic, max_wait_ms=500)
        consumer.fetch_batches(max_wait_ms=0)
        thread = threading.Thread(
            target=_watch, args=(consumer, pace.records, latency, failure), daemon=True
        )
        with client.producer(topic, linger_ms=linger_ms, batch_bytes=BATCH_BYTES // 4) as producer:
            meter = Meter(target.pid)
            thread.start()
            for due_ns, records in pace:
                value = _STAMP.pack(due_ns) + filler
                for _ in range(records):
                    producer.send(value)
            producer.flush()
            thread.join()
        done = meter.stop(
            f"end to end at {rate}/s", latency.count, size, latency, late_bursts=pace.late
        )
        consumer.close()
    if failure:
        raise failure[0]
    return done


def fill(client: zmqmq.Client, topic: str, size: int, count: int, partitions: int) -> int:
    """Put at least so many records into a topic, the same number into each partition."""
    rounds = max(-(-count // (_BATCH_RECORDS * partitions)), 1)
    values = random_values(size, _BATCH_RECORDS)
    producer = client.producer(topic, batch_records=_BATCH_RECORDS, batch_bytes=BATCH_BYTES)
    with producer:
        for _ in range(rounds):
            for partition in range(partitions):
                producer.send_many(values, partition=partition)
        producer.flush()
    return rounds * partitions * _BATCH_RECORDS


def _watch(
    consumer: zmqmq.Consumer, count: int, latency: Histogram, failure: list[BaseException]
) -> None:
    """Take in so many records; how old each one is when it is seen."""
    try:
        idle_since = perf_counter_ns()
        while latency.count < count:
            batches = consumer.fetch_batches()
            now = perf_counter_ns()
            for batch in batches:
                for value in batch.values:
                    latency.record(now - _STAMP.unpack_from(value or b"")[0])
            idle_since = _still_coming(bool(batches), idle_since, latency.count, count)
    except BaseException as error:  # noqa: BLE001  the thread that measures raises it
        failure.append(error)


def _still_coming(came: bool, idle_since: int, seen: int, total: int) -> int:  # noqa: FBT001
    """When records came last. Raises BenchError when that is long ago."""
    now = perf_counter_ns()
    if came:
        return now
    if now - idle_since > IDLE_SECONDS * 1_000_000_000:
        raise BenchError(f"{seen} of {total} records came, then none for {IDLE_SECONDS} s")
    return idle_since


def _check(seen: int, total: int, is_whole: bool) -> None:  # noqa: FBT001
    if seen != total or not is_whole:
        raise BenchError(f"{total} records were sent, {seen} came, or their values were not whole")
