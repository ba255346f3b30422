"""What comes after the faults: all must become well by itself, and everything is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

import zmqmq
from integration.clients import REQUEST_MS, ask_offsets, take, type_of
from integration.history import SharedHistory
from zmqmq.client.options import ACKS
from zmqmq.errors import ZmqmqError
from zmqmq.sim.history import (
    DRAINED,
    END,
    OK,
    SEEK,
    SEND,
    START,
    Drained,
    Position,
    Sending,
    Stored,
    make_value,
)

STEP_S: Final = 0.25


class LateError(Exception):
    """Something did not come about in time."""


def until(what: str, seconds: float, open_matter: Callable[[], str]) -> float:
    """Wait until nothing is open any more; how many seconds it took."""
    began = time.monotonic()
    while True:
        try:
            matter = open_matter()
        except ZmqmqError as error:
            matter = f"{type(error).__name__}: {error}"
        if not matter:
            return time.monotonic() - began
        if time.monotonic() - began > seconds:
            raise LateError(f"{what}: after {seconds:.0f} s {matter}")
        time.sleep(STEP_S)


def out_of_sync(servers: str, topics: Mapping[str, int]) -> str:
    """The first partition that is not led, or not in sync on all its replicas."""
    with zmqmq.connect(servers, request_timeout_ms=REQUEST_MS, connect_timeout_ms=2_000) as client:
        for topic in topics:
            for found in client.topics.describe(topic).partitions:
                if found.leader is None or found.error or set(found.isr) != set(found.replicas):
                    return f"{topic}/{found.partition} is {found}"
    return ""


def unequal(servers: str, topics: Mapping[str, int]) -> str:
    """The first partition whose replicas are not the same, as `zmqmq verify cluster` finds it."""
    with zmqmq.connect(servers, request_timeout_ms=REQUEST_MS) as client:
        for topic, count in topics.items():
            for partition in range(count):
                found = client.cluster.verify(topic, partition)
                if not found.is_equal:
                    return str(found)
    return ""


class Probe:
    """Sends to every partition until each has taken something."""

    def __init__(self, history: SharedHistory, servers: str, topics: Mapping[str, int]) -> None:
        self._history = history
        self._servers = servers
        self._left = [(topic, p) for topic, count in topics.items() for p in range(count)]
        self._number = 0

    def open_matter(self) -> str:
        """Send to those that have taken nothing; what keeps the first of them."""
        with (
            zmqmq.connect(self._servers, request_timeout_ms=REQUEST_MS) as client,
            client.producer(delivery_timeout_ms=5_000) as producer,
        ):
            while self._left:
                topic, partition = self._left[-1]
                self._number += 1
                # A producer of its own for each try, whose name is told by the number.
                name = f"probe.{self._number}"
                value = make_value(name, 1, b"")
                asking = Sending(topic, partition, value, ACKS["all"], is_idempotent=True)
                asked = self._history.invoke(name, SEND, asking)
                try:
                    where = producer.send(value, topic=topic, partition=partition).result()
                except ZmqmqError as error:
                    self._history.end(asked, type_of(error), str(error))
                    return f"{topic}/{partition}: {error}"
                stored = Stored(topic, partition, where.offset)
                self._history.end(asked, OK, stored)
                self._left.pop()
        return ""


def drain(history: SharedHistory, servers: str, topics: Mapping[str, int], number: int) -> str:
    """Read everything from start to end; what could not be read."""
    life = f"drain.{number}"
    with zmqmq.connect(servers, request_timeout_ms=REQUEST_MS) as client:
        ends = {log[0]: ask_offsets(history, life, client, END, log) for log in topics.items()}
        with client.consumer(*topics, start="start", stop_at_end=True) as consumer:
            for log in consumer.assignment:
                history.note(life, SEEK, Position(*log, consumer.position(*log)))
            while not consumer.is_finished:
                if take(history, life, consumer) is None:
                    return "a reader was refused"
        for topic, by_partition in ends.items():
            starts = ask_offsets(history, life, client, START, (topic, len(by_partition)))
            for partition, end in by_partition.items():
                history.note(life, DRAINED, Drained(topic, partition, starts[partition], end))
    return ""
