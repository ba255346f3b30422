"""`stop_at_end`: a consumer is finished when everything has been handed out, and not before."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

import zmqmq
from zmqmq.testing import Broker

BATCHES = 40
FETCH_BYTES = 1_024


@pytest.fixture(scope="module")
def client() -> Iterator[zmqmq.Client]:
    with Broker() as broker, broker.connect() as client:
        yield client


def until_fetched(consumer: zmqmq.Consumer) -> None:
    """All of it lies ready, and nothing more will come."""
    end = time.monotonic() + 20
    while not consumer.machine.is_finished:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("size", range(150, 450, 25))
def test_while_a_fetch_is_only_partly_handed_out_it_is_not(client: zmqmq.Client, size: int) -> None:
    topic = f"t{size}"
    client.topics.create(topic)
    with client.producer(topic, batch_records=1, linger_ms=0) as producer:
        for _ in range(BATCHES):
            producer.send(bytes(size)).result(20)
    read = 0
    with client.consumer(topic, stop_at_end=True, fetch_bytes=FETCH_BYTES) as consumer:
        until_fetched(consumer)
        while not consumer.is_finished:
            read += sum(map(len, consumer.fetch_batches()))
    assert read == BATCHES


def test_while_a_batch_is_only_partly_handed_out_it_is_not(client: zmqmq.Client) -> None:
    client.topics.create("records")
    with client.producer("records") as producer:
        producer.send_many([b"%d" % number for number in range(10)])
    read = []
    with client.consumer("records", stop_at_end=True) as consumer:
        until_fetched(consumer)
        while not consumer.is_finished:
            read += consumer.fetch(max_records=3)
    assert [record.value for record in read] == [b"%d" % number for number in range(10)]
