"""Consumers and groups against a real broker process: what docs/client.md promises of them."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from itertools import islice

import pytest

import zmqmq
from tests.e2e.client_broker import SECONDS, WAIT, eventually
from zmqmq.errors import (
    ClosedError,
    OffsetOutOfRangeError,
    UsageError,
)


class TestConsuming:
    @pytest.fixture
    def filled(self, mq: zmqmq.Client, topic: str) -> str:
        """Ten records in partition 0, their values their offsets, in two batches."""
        with mq.producer(topic) as producer:
            for half in (range(5), range(5, 10)):
                producer.send_many([b"%d" % n for n in half], partition=0).result(SECONDS)
        return topic

    @pytest.mark.parametrize(
        ("start", "first"), [("start", 0), (3, 3), (-2, 8), ("@0", 0), (10, None), ("end", None)]
    )
    def test_starts(
        self, mq: zmqmq.Client, filled: str, start: str | int, first: int | None
    ) -> None:
        with mq.consumer(filled, start=start, stop_at_end=True) as consumer:
            offsets = [record.offset for record in consumer]

        assert offsets == ([] if first is None else list(range(first, 10)))

    def test_a_start_by_time(self, mq: zmqmq.Client, filled: str) -> None:
        time.sleep(0.01)
        moment = datetime.now(tz=UTC)
        time.sleep(0.01)
        with mq.producer(filled) as producer:
            producer.send(b"late", partition=0).result(SECONDS)
        with mq.consumer(filled, start=moment, stop_at_end=True) as consumer:
            assert [record.value for record in consumer] == [b"late"]

    def test_waiting_for_what_comes_later(self, mq: zmqmq.Client, filled: str) -> None:
        with mq.consumer(filled, start="end") as consumer, mq.producer(filled) as producer:
            assert consumer.fetch(max_wait_ms=10) == []
            timer = threading.Timer(0.05, lambda: producer.send(b"news"))
            timer.start()
            (record,) = consumer.fetch(max_wait_ms=WAIT)

        assert record.value == b"news"

    def test_batches_come_whole(self, mq: zmqmq.Client, filled: str) -> None:
        with mq.consumer(filled, stop_at_end=True) as consumer:
            batches = []
            while not consumer.is_finished:
                batches += consumer.fetch_batches()

        assert [b.values for b in batches] == [
            [b"0", b"1", b"2", b"3", b"4"],
            [b"5", b"6", b"7", b"8", b"9"],
        ]

    def test_seeking_about(self, mq: zmqmq.Client, filled: str) -> None:
        with mq.consumer(filled) as consumer:
            assert consumer.fetch(3, WAIT)[-1].offset == 2
            assert consumer.position(filled, 0) == 3
            consumer.seek(filled, 0, 8)
            assert [r.offset for r in consumer.fetch(10, WAIT)] == [8, 9]
            consumer.seek(filled, 0, "start")
            assert consumer.fetch(1, WAIT)[0].offset == 0
            consumer.seek(filled, 0, -1)
            assert [r.offset for r in consumer.fetch(10, WAIT)] == [9]
            assert consumer.lag() == {(filled, 0): 0, (filled, 1): 0}

    def test_a_seek_within_a_loop(self, mq: zmqmq.Client, filled: str) -> None:
        seen = []
        with mq.consumer(filled, stop_at_end=True) as consumer:
            for record in consumer:
                seen.append(record.offset)
                if len(seen) == 2:
                    consumer.seek(filled, 0, 7)

        assert seen == [0, 1, 7, 8, 9]

    def test_pausing_one_partition(self, mq: zmqmq.Client, filled: str) -> None:
        with mq.producer(filled) as producer:
            producer.send(b"other", partition=1).result(SECONDS)
        with mq.consumer(filled) as consumer:
            consumer.pause(filled, 0)
            assert [r.value for r in consumer.fetch(10, WAIT)] == [b"other"]
            consumer.resume(filled, 0)
            assert [r.offset for r in consumer.fetch(10, WAIT)] == list(range(10))

    def test_partitions_by_option_and_by_assignment(self, mq: zmqmq.Client, filled: str) -> None:
        with mq.consumer(filled, partitions=[1]) as consumer:
            assert consumer.assignment == [(filled, 1)]
            assert consumer.fetch(max_wait_ms=20) == []
            consumer.assign([(filled, 0)])
            assert consumer.assignment == [(filled, 0)]
            assert len(consumer.fetch(100, WAIT)) == 10
            with pytest.raises(UsageError):
                consumer.seek(filled, 1, 0)

    def test_a_position_beyond_the_end_is_told(self, mq: zmqmq.Client, filled: str) -> None:
        consumer = mq.consumer(filled, start=1_000, partitions=[0])
        with consumer, pytest.raises(OffsetOutOfRangeError):
            consumer.fetch(max_wait_ms=WAIT)

    def test_more_than_fits_into_the_prefetch(self, mq: zmqmq.Client, topic: str) -> None:
        with mq.producer(topic) as producer:
            producer.send_many([b"x" * 1_000] * 3_000)
        options = {"prefetch_bytes": 200_000, "fetch_bytes": 100_000}
        with mq.consumer(topic, stop_at_end=True, **options) as consumer:  # type: ignore[arg-type]
            time.sleep(0.1)
            assert consumer.machine.buffered_bytes <= 400_000
            assert sum(1 for _ in consumer) == 3_000

    def test_with_stop_at_end_nothing_means_the_end(self, mq: zmqmq.Client, topic: str) -> None:
        with mq.producer(topic) as producer:
            producer.send_many([b"x"] * 100)
        with mq.consumer(topic, stop_at_end=True, max_wait_ms=0) as consumer:
            seen = 0
            while records := consumer.fetch(7):
                seen += len(records)
            assert seen == 100
            assert consumer.fetch_batches() == []

    def test_a_consumer_that_nobody_holds_ends(self, mq: zmqmq.Client, filled: str) -> None:
        known = mq._core._consumers
        before = len(known)
        for _ in range(5):
            assert sum(1 for _ in mq.consumer(filled, stop_at_end=True)) == 10
        eventually(lambda: len(known) <= before, "they are forgotten")

    def test_offsets_of_a_topic(self, mq: zmqmq.Client, filled: str) -> None:
        assert mq.offsets(filled) == {0: 10, 1: 0}
        assert mq.offsets(filled, "start") == {0: 0, 1: 0}
        assert mq.offsets(filled, 0)[0] == 0

    def test_a_closed_consumer_reads_nothing(self, mq: zmqmq.Client, filled: str) -> None:
        consumer = mq.consumer(filled)
        consumer.close()
        with pytest.raises(ClosedError):
            consumer.fetch()


class TestGroups:
    def test_a_group_goes_on_behind_the_record_that_was_done(
        self, mq: zmqmq.Client, topic: str
    ) -> None:
        with mq.producer(topic) as producer:
            producer.send_many([b"%d" % n for n in range(10)], partition=0)
        with mq.consumer(topic, group="g1") as consumer:
            for record in consumer:
                if record.offset == 4:
                    break
        with mq.consumer(topic, group="g1") as consumer:
            assert consumer.committed(topic, 0) == 4
            assert consumer.fetch(1, WAIT)[0].offset == 4

    def test_an_explicit_commit_counts_the_record_in_hand(
        self, mq: zmqmq.Client, topic: str
    ) -> None:
        with mq.producer(topic) as producer:
            producer.send_many([b"v"] * 10, partition=0)
        with mq.consumer(topic, group="g2", auto_commit=False) as consumer:
            for _ in islice(consumer, 3):
                pass
            consumer.commit()
            assert consumer.committed(topic, 0) == 3
            consumer.commit({(topic, 0): 7})
        with mq.consumer(topic, group="g2") as consumer:
            assert consumer.fetch(1, WAIT)[0].offset == 7
        groups = {group.name: group.offsets for group in mq.groups()}
        assert groups["g2"][topic, 0] == 7

    def test_closing_does_not_go_back_behind_an_explicit_commit(
        self, mq: zmqmq.Client, topic: str
    ) -> None:
        with mq.producer(topic) as producer:
            producer.send_many([b"x"] * 10, partition=0).result(SECONDS)
        group = f"{topic}-closing"
        with mq.consumer(topic, group=group) as consumer:
            assert len(consumer.fetch(5, WAIT)) == 5
            assert len(consumer.fetch(5, WAIT)) == 5
            consumer.commit()
            consumer.commit({(topic, 0): 10})
        with mq.consumer(topic, group=group) as consumer:
            assert consumer.committed(topic, 0) == 10

    def test_automatic_commits_come_while_reading(self, mq: zmqmq.Client, topic: str) -> None:
        with mq.producer(topic) as producer:
            producer.send_many([b"v"] * 10, partition=0)
        with mq.consumer(topic, group="g3", auto_commit_ms=20) as consumer:
            for _ in islice(consumer, 5):
                pass
            eventually(lambda: consumer.committed(topic, 0) == 4, "the commit")
            time.sleep(0.1)
            assert consumer.committed(topic, 0) == 4

    def test_there_is_nothing_to_commit_without_a_group(self, mq: zmqmq.Client, topic: str) -> None:
        with mq.consumer(topic) as consumer, pytest.raises(UsageError, match="group="):
            consumer.commit()
