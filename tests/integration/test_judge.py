"""What real clients saw of a real broker is judged good, and not when it is tampered with."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from integration.clients import Consuming, Grouped, Producing
from integration.history import SharedHistory
from integration.settle import Probe, drain
from zmqmq.sim.checkers import check
from zmqmq.sim.history import OK, POLL, SEND, Entry, Polled, Sending, Stored, sender_of
from zmqmq.testing import Broker

TOPICS = {"t": 2, "u": 1}
Entries = list[Entry]


@pytest.fixture(scope="module")
def history() -> Entries:
    history = SharedHistory()
    with Broker() as broker:
        with broker.connect() as client:
            for topic, partitions in TOPICS.items():
                client.topics.create(topic, partitions)
        clients = [
            Producing(history, broker.endpoint, "p1", TOPICS, 1),
            Producing(history, broker.endpoint, "p2", TOPICS, 1, idempotent=False),
            Consuming(history, broker.endpoint, "c1", TOPICS, 1),
            Grouped(history, broker.endpoint, "g1", TOPICS, 1),
        ]
        for each in clients:
            each.start()
        time.sleep(3)
        end = time.monotonic() + 60
        while len(acknowledged(history.entries)) <= 20:
            assert time.monotonic() < end, "hardly anything is acknowledged"
            time.sleep(0.1)
        for each in clients:
            each.stop()
        for each in clients:
            each.join(30)
            assert not each.is_alive()
            assert each.crashes == []
        assert Probe(history, broker.endpoint, TOPICS).open_matter() == ""
        assert drain(history, broker.endpoint, TOPICS, 1) == ""
    return history.entries


def acknowledged(entries: Entries) -> list[tuple[Sending, Stored]]:
    """What idempotent producers were told of partition 0 of `t`, in order."""
    found = [
        (entries[entry.asked].value, entry.value)
        for entry in entries
        if entry.f == SEND and entry.type == OK and entry.value[:2] == ("t", 0)
    ]
    return [pair for pair in found if pair[0].is_idempotent and sender_of(pair[0].value)]


def told(entries: Entries, change: Callable[[str, Polled], Polled]) -> Entries:
    """The history as if consumers had been handed something else."""
    return [
        entry._replace(value=change(entry.client, entry.value))
        if entry.f == POLL and entry.type == OK
        else entry
        for entry in entries
    ]


def test_it_is_good(history: Entries) -> None:
    assert check(history) == []
    assert len(acknowledged(history)) > 20


def test_an_acknowledged_record_that_is_gone_is_missed(history: Entries) -> None:
    sending, _ = acknowledged(history)[10]

    def without(client: str, polled: Polled) -> Polled:
        kept = [record for record in polled.records if record[1] != sending.value]
        return polled._replace(records=kept) if client.startswith("drain") else polled

    assert {"lost", "poll skips"} <= {v.kind for v in check(told(history, without))}


def test_a_record_that_is_there_twice_is_seen(history: Entries) -> None:
    sending, stored = acknowledged(history)[10]

    def twice(client: str, polled: Polled) -> Polled:
        if not client.startswith("drain") or polled[:2] != stored[:2]:
            return polled
        records = [
            (offset, sending.value if offset == stored.offset + 1 else value)
            for offset, value in polled.records
        ]
        return polled._replace(records=records)

    assert "duplicate" in {v.kind for v in check(told(history, twice))}


def test_records_in_another_order_are_seen(history: Entries) -> None:
    """Everybody is told the same wrong order, the producer included."""
    pairs = acknowledged(history)
    (first, at), (second, behind) = pairs[10], pairs[11]
    assert sender_of(first.value) < sender_of(second.value)  # type: ignore[operator]
    swapped = {at.offset: second.value, behind.offset: first.value}
    places = {first.value: behind, second.value: at}

    def other(_: str, polled: Polled) -> Polled:
        if polled[:2] != ("t", 0):
            return polled
        records = [(offset, swapped.get(offset, value)) for offset, value in polled.records]
        return polled._replace(records=records)

    entries = [
        entry._replace(value=places.get(history[entry.asked].value.value, entry.value))
        if entry.f == SEND and entry.type == OK
        else entry
        for entry in told(history, other)
    ]
    assert "reordered" in {v.kind for v in check(entries)}


def test_a_record_that_nobody_sent_is_seen(history: Entries) -> None:
    def forged(_: str, polled: Polled) -> Polled:
        records = [(offset, b"forged") for offset, _ in polled.records[:1]]
        return polled._replace(records=records + polled.records[1:])

    assert "damaged" in {v.kind for v in check(told(history, forged))}
