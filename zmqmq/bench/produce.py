"""Producing: as fast as it goes, in batches and record by record, and one answer at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from time import perf_counter_ns

import zmqmq
from zmqmq.bench.histogram import Histogram
from zmqmq.bench.measure import Measurement, Meter
from zmqmq.bench.target import BATCH_BYTES, Target, check_stored, fresh_topic, random_values

WARM_UP_BATCHES = 4
WARM_UP_SINGLES = 50


def produce_batches(
    target: Target, *, size: int, count: int, partitions: int = 1, batch_records: int = 1000
) -> Measurement:
    """`send_many`, a batch for each call, to each partition in turn; until all is acknowledged."""
    values = random_values(size, batch_records)
    calls = max(count // batch_records, 1)
    with target.connect() as client, fresh_topic(client, partitions) as topic:
        producer = client.producer(topic, batch_records=batch_records, batch_bytes=BATCH_BYTES)
        with producer:
            for call in range(max(WARM_UP_BATCHES, partitions)):
                producer.send_many(values, partition=call % partitions)
            producer.flush()
            meter = Meter(target.pid)
            for call in range(calls):
                producer.send_many(values, partition=call % partitions)
            producer.flush()
            done = meter.stop(
                "produce batches",
                calls * batch_records,
                size,
                partitions=partitions,
                batch_records=batch_records,
            )
        check_stored(client, topic, (calls + max(WARM_UP_BATCHES, partitions)) * batch_records)
    return done


def produce_records(
    target: Target, *, size: int, count: int, partitions: int = 1, linger_ms: int = 5
) -> Measurement:
    """`send` for every record; the client makes the batches."""
    values = random_values(size)
    with target.connect() as client, fresh_topic(client, partitions) as topic:
        producer = client.producer(topic, batch_bytes=BATCH_BYTES // 4, linger_ms=linger_ms)
        with producer:
            for value in values:
                producer.send(value)
            producer.flush()
            send = producer.send
            meter = Meter(target.pid)
            for value in islice(cycle(values), count):
                send(value)
            producer.flush()
            done = meter.stop("produce records", count, size, partitions=partitions)
        check_stored(client, topic, count + len(values))
    return done


def produce_single(target: Target, *, size: int, count: int, in_flight: int) -> Measurement:
    """Records that are waited for, with so many outstanding; how long each one took.

    With one in flight it is `send(...).result()`. With more the client may send several in one
    request, as it would for as many callers.
    """
    values = random_values(size)
    with target.connect() as client, fresh_topic(client) as topic:
        with client.producer(topic, linger_ms=0) as producer:
            for value in islice(cycle(values), WARM_UP_SINGLES):
                producer.send(value).result()
            latency = Histogram()
            meter = Meter(target.pid)
            if in_flight == 1:
                for value in islice(cycle(values), count):
                    began = perf_counter_ns()
                    producer.send(value).result()
                    latency.record(perf_counter_ns() - began)
            else:
                _keep_in_flight(producer.send, values, count, in_flight, latency)
            done = meter.stop(f"single, {in_flight} in flight", count, size, latency)
        check_stored(client, topic, count + WARM_UP_SINGLES)
    return done


def _keep_in_flight(
    send: Callable[[bytes], zmqmq.Delivery],
    values: Sequence[bytes],
    count: int,
    in_flight: int,
    latency: Histogram,
) -> None:
    """Send the next record whenever the oldest one is acknowledged."""
    outstanding: deque[tuple[int, zmqmq.Delivery]] = deque()
    for value in islice(cycle(values), count):
        if len(outstanding) == in_flight:
            _take_oldest(outstanding, latency)
        outstanding.append((perf_counter_ns(), send(value)))
    while outstanding:
        _take_oldest(outstanding, latency)


def _take_oldest(outstanding: deque[tuple[int, zmqmq.Delivery]], latency: Histogram) -> None:
    began, delivery = outstanding.popleft()
    delivery.result()
    latency.record(perf_counter_ns() - began)
