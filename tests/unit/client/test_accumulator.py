"""Which batch a record joins, when a batch is due, and how much may wait."""

from __future__ import annotations

from typing import Any

import pytest

from zmqmq.client.machines.accumulator import CLOSED, Accumulator
from zmqmq.client.machines.batch import Batch, TopicQueue
from zmqmq.client.machines.effects import MS, NEVER
from zmqmq.client.machines.fitting import length_or_0
from zmqmq.client.options import ProducerOptions
from zmqmq.errors import Code, RefusedError

NOW = 5_000 * MS
NOW_MS = 1_700_000_000_000


def accumulator_of(partitions: int = 1, *, start: int = 0, **options: Any) -> Accumulator:
    accumulator = Accumulator(ProducerOptions(**options), start)
    accumulator.default_topic = "t"
    if partitions:
        accumulator.route("t", b"i" * 16, partitions)
    else:
        accumulator.topic("t")
    return accumulator


def put(
    accumulator: Accumulator,
    value: bytes | None = b"v",
    key: bytes | None = None,
    *,
    now: int = NOW,
    now_ms: int = NOW_MS,
    partition: int | None = None,
    **other: Any,
) -> Batch:
    place = accumulator.append(now, now_ms, accumulator.topic("t"), partition, value, key, **other)
    accumulator.check()
    assert place is not None, "the buffer is full"
    return place[0]


def put_many(
    accumulator: Accumulator,
    values: list[bytes],
    keys: list[bytes] | None = None,
    *,
    partition: int | None = None,
    **other: Any,
) -> list[tuple[Batch, int, int]]:
    parts = []
    at = 0
    while at < len(values):
        topic = accumulator.topic("t")
        part = accumulator.append_values(
            NOW, NOW_MS, topic, partition, values, keys, at, len, **other
        )
        accumulator.check()
        assert part is not None, "the buffer is full"
        parts.append(part)
        at += part[2]
    return parts


def topic_of(accumulator: Accumulator) -> TopicQueue:
    return accumulator.topics["t"]


def taken(accumulator: Accumulator, partition: int = 0) -> list[list[bytes | None]]:
    queue = topic_of(accumulator).partitions[partition]
    batches = []
    while (batch := accumulator.take(queue)) is not None:
        batches.append(batch.values)
    return batches


def test_records_share_a_batch_in_the_order_they_came() -> None:
    accumulator = accumulator_of()
    places = [
        accumulator.append(NOW, NOW_MS, topic_of(accumulator), None, value)
        for value in (b"a", b"b", b"c")
    ]

    (batch,) = {place[0] for place in places if place}
    assert [place[1] for place in places if place] == [0, 1, 2]
    assert batch.values == [b"a", b"b", b"c"]


def test_a_batch_is_due_when_its_linger_is_over_and_not_before() -> None:
    accumulator = accumulator_of(linger_ms=5)
    put(accumulator)
    assert accumulator.next_wake() == NOW + 5 * MS
    accumulator.collect(NOW + 5 * MS - 1)
    assert taken(accumulator) == []

    accumulator.collect(NOW + 5 * MS)
    assert taken(accumulator) == [[b"v"]]


def test_without_linger_a_batch_is_due_at_once() -> None:
    accumulator = accumulator_of(linger_ms=0)
    put(accumulator)
    assert accumulator.has_news
    accumulator.collect(NOW)

    assert taken(accumulator) == [[b"v"]]


def test_a_full_batch_does_not_wait_for_its_linger() -> None:
    accumulator = accumulator_of(batch_bytes=100, linger_ms=1_000)
    for value in (b"a" * 40, b"b" * 40, b"c" * 40):
        put(accumulator, value)

    assert taken(accumulator) == [[b"a" * 40, b"b" * 40]]


def test_a_batch_holds_at_most_batch_records() -> None:
    accumulator = accumulator_of(batch_records=2)
    for value in (b"a", b"b", b"c"):
        put(accumulator, value)

    assert taken(accumulator) == [[b"a", b"b"]]


def test_a_record_larger_than_a_batch_goes_alone() -> None:
    accumulator = accumulator_of(batch_bytes=100)
    for value in (b"a", b"b" * 500, b"c"):
        put(accumulator, value)

    assert taken(accumulator) == [[b"a"], [b"b" * 500]]


def test_a_record_that_no_broker_takes_is_refused_and_leaves_no_trace() -> None:
    accumulator = accumulator_of()
    with pytest.raises(RefusedError, match="limit is 1048320") as caught:
        put(accumulator, b"x" * 1_048_576)

    assert caught.value.code is Code.TOO_LARGE
    assert not accumulator.unsettled
    accumulator.check()


def test_the_next_batch_without_keys_goes_to_the_next_partition() -> None:
    accumulator = accumulator_of(3, start=1, batch_records=1)
    assert [put(accumulator).queue.partition for _ in range(5)] == [1, 2, 0, 1, 2]


def test_a_batch_taken_by_its_linger_moves_the_records_without_keys_on() -> None:
    accumulator = accumulator_of(3, linger_ms=0)
    first = put(accumulator)
    accumulator.collect(NOW)
    accumulator.take(first.queue)

    assert put(accumulator).queue.partition == 1


def test_keys_stay_in_their_partition_whatever_is_full() -> None:
    accumulator = accumulator_of(4, batch_records=1)
    assert len({put(accumulator, key=b"same").queue.partition for _ in range(5)}) == 1


def test_columns_begin_with_the_first_record_that_needs_them() -> None:
    accumulator = accumulator_of()
    batch = put(accumulator, b"a")
    assert (batch.keys, batch.headers, batch.tags) == (None, None, None)
    put(accumulator, b"b", b"k", headers=["h", b"1"], tag="x")
    put(accumulator, b"c")

    assert batch.keys == [None, b"k", None]
    assert batch.headers == [None, ["h", b"1"], None]
    assert batch.tags == [None, "x", None]


def test_records_close_together_share_a_timestamp() -> None:
    accumulator = accumulator_of()
    batch = put(accumulator, now_ms=NOW_MS)
    put(accumulator, now_ms=NOW_MS + 20)
    assert batch.timestamps is None
    put(accumulator, now_ms=NOW_MS + 21)

    assert batch.timestamps == [NOW_MS, NOW_MS, NOW_MS + 21]


def test_a_timestamp_of_the_callers_is_kept_exactly() -> None:
    accumulator = accumulator_of()
    batch = put(accumulator, timestamp_ms=5)
    assert (batch.timestamp_ms, batch.timestamps) == (5, None)
    put(accumulator, timestamp_ms=6)

    assert batch.timestamps == [5, 6]


def test_a_due_batch_that_cannot_go_makes_records_take_the_long_way() -> None:
    """There the clock is looked at: what joins it minutes later has a time of its own."""
    accumulator = accumulator_of(linger_ms=0)
    batch = put(accumulator)
    assert accumulator.plain is batch
    accumulator.collect(NOW)
    accumulator.hold(batch.queue)

    assert accumulator.plain is CLOSED
    put(accumulator, now_ms=NOW_MS + 60_000)
    assert accumulator.plain is CLOSED
    assert batch.timestamps == [NOW_MS, NOW_MS + 60_000]


def test_the_short_way_in_is_open_only_for_records_like_those_in_the_batch() -> None:
    accumulator = accumulator_of()
    batch = put(accumulator)
    assert accumulator.plain is batch
    assert accumulator.keyed == [CLOSED]

    put(accumulator, key=b"k")
    assert accumulator.plain is CLOSED
    assert accumulator.keyed == [batch]

    put(accumulator, key=b"k", tag="x")
    assert accumulator.keyed == [CLOSED]


def test_the_short_way_in_is_closed_with_any_other_partitioner() -> None:
    accumulator = accumulator_of(partitioner="round-robin")
    put(accumulator)

    assert accumulator.plain is CLOSED


def test_the_buffer_bounds_all_that_waits() -> None:
    accumulator = accumulator_of(buffer_bytes=2_048, batch_bytes=1_024)
    topic = topic_of(accumulator)
    count = 0
    while accumulator.append(NOW, NOW_MS, topic, None, b"x" * 95) is not None:
        count += 1
        accumulator.check()

    assert count == 20  # ten records of 100 bytes in each of two batches
    assert accumulator.wanted == 100
    accumulator.collect(NOW)
    for batch in list(accumulator.unsettled):
        accumulator.release(batch)
    assert accumulator.free == 2_048


def test_a_full_buffer_makes_everything_due() -> None:
    """Or nothing would ever become free: the linger may be a minute."""
    accumulator = accumulator_of(4, buffer_bytes=1_024, batch_bytes=512, linger_ms=60_000)
    for partition in range(4):
        put(accumulator, b"x" * 200, partition=partition)
    assert accumulator.append(NOW, NOW_MS, topic_of(accumulator), 0, b"x" * 300) is None

    assert len(accumulator.sendable) == 4


def test_many_partitions_with_a_record_each_fit_into_the_buffer() -> None:
    accumulator = accumulator_of(1_000, buffer_bytes=1 << 20)
    for partition in range(1_000):
        put(accumulator, b"x" * 100, partition=partition)

    assert len(accumulator.unsettled) == 1_000


def test_what_is_sealed_gives_back_what_it_does_not_use() -> None:
    accumulator = accumulator_of(buffer_bytes=100_000)
    batch = put(accumulator, b"x" * 95)
    assert accumulator.free < 99_900
    accumulator.seal(batch.queue, rotate=False)

    assert accumulator.free == 99_900


def test_the_delivery_time_out_finds_every_batch_that_has_no_outcome() -> None:
    accumulator = accumulator_of(delivery_timeout_ms=100, batch_records=1)
    first, second = put(accumulator, now=NOW), put(accumulator, now=NOW + 50 * MS)
    third = put(accumulator, now=NOW + 60 * MS)
    second.outcome = RefusedError("no")
    accumulator.release(second)

    assert accumulator.overdue(NOW + 100 * MS - 1) == []
    assert accumulator.overdue(NOW + 160 * MS) == [first, third]


def test_nothing_to_wait_for_means_never() -> None:
    accumulator = accumulator_of()
    batch = put(accumulator)
    accumulator.seal(batch.queue, rotate=False)
    batch.outcome = RefusedError("no")

    assert accumulator.next_wake() == NEVER


class TestMany:
    def test_values_without_keys_become_whole_batches(self) -> None:
        accumulator = accumulator_of(2, batch_records=3)
        parts = put_many(accumulator, [b"%d" % n for n in range(8)])

        assert [(b.queue.partition, i, n) for b, i, n in parts] == [(0, 0, 3), (1, 0, 3), (0, 0, 2)]
        assert taken(accumulator) == [[b"0", b"1", b"2"]]
        assert taken(accumulator, 1) == [[b"3", b"4", b"5"]]

    def test_a_batch_that_is_exactly_full_is_due(self) -> None:
        accumulator = accumulator_of(batch_records=3, linger_ms=60_000)
        put_many(accumulator, [b"x"] * 3)

        assert taken(accumulator) == [[b"x"] * 3]

    def test_they_are_cut_where_the_bytes_say_so(self) -> None:
        accumulator = accumulator_of(batch_bytes=100)
        values = [b"x" * size for size in (10, 80, 5, 5, 70, 200, 1)]
        put_many(accumulator, values)
        accumulator.seal_all()
        batches = taken(accumulator)

        assert [value for batch in batches for value in batch] == values
        for batch in batches:
            size = sum(len(value or b"") + 5 for value in batch)
            assert size <= 100 or len(batch) == 1

    def test_they_join_the_open_batch_behind_what_is_there(self) -> None:
        accumulator = accumulator_of()
        batch = put(accumulator, b"a")
        ((joined, index, count),) = put_many(accumulator, [b"b", b"c"])

        assert (joined, index, count) == (batch, 1, 2)
        assert batch.values == [b"a", b"b", b"c"]

    def test_they_come_behind_a_batch_that_they_cannot_join(self) -> None:
        accumulator = accumulator_of()
        put(accumulator, b"a", headers=["h", b"1"])
        put_many(accumulator, [b"b"])
        accumulator.seal_all()

        assert taken(accumulator) == [[b"a"], [b"b"]]

    def test_keys_and_tag_are_columns(self) -> None:
        accumulator = accumulator_of()
        ((batch, _, _),) = put_many(accumulator, [b"a", b"b"], [b"k", b"l"], partition=0, tag="x")

        assert batch.keys == [b"k", b"l"]
        assert batch.tags == ["x", "x"]

    def test_tombstones_are_counted_with_no_length(self) -> None:
        accumulator = accumulator_of()
        part = accumulator.append_values(
            NOW, NOW_MS, topic_of(accumulator), 0, [None, b"v"], [b"k", b"l"], 0, length_or_0
        )
        accumulator.check()

        assert part is not None
        assert part[0].used == 4 * 5 + 3

    def test_a_full_buffer_takes_nothing(self) -> None:
        accumulator = accumulator_of(buffer_bytes=1_024, batch_bytes=1_000)
        topic = topic_of(accumulator)
        put(accumulator, b"x" * 900)
        values = [b"x" * 200]

        part = accumulator.append_values(NOW, NOW_MS, topic, None, values, None, 0, len)
        assert part is None
        assert accumulator.wanted == 205

    def test_a_large_batch_costs_no_more_room_than_it_has(self) -> None:
        accumulator = accumulator_of(batch_bytes=1_000_000, buffer_bytes=2_000_000)
        put_many(accumulator, [b"x" * 95] * 10_000)
        accumulator.seal_all()

        assert accumulator.free == 1_000_000


class TestBeforeMetadata:
    def test_records_wait_one_by_one_and_find_their_partitions_later(self) -> None:
        accumulator = accumulator_of(0)
        topic = accumulator.topic("t")
        for key in (b"b", b"c", None):
            assert accumulator.append(NOW, NOW_MS, topic, None, b"v", key) is not None
        assert accumulator.sendable == {}
        assert accumulator.route("t", b"i" * 16, 8) == []

        queues = [q for q in topic.partitions if q.ready]
        assert [len(q.ready) for q in queues] == [1, 1, 1]
        accumulator.check()

    def test_a_partition_that_turns_out_not_to_exist_is_told(self) -> None:
        accumulator = accumulator_of(0)
        topic = accumulator.topic("t")
        place = accumulator.append(NOW, NOW_MS, topic, 5, b"v")
        ((batch, error),) = accumulator.route("t", b"i" * 16, 2)

        assert place is not None
        assert batch is place[0]
        assert isinstance(error, RefusedError)

    def test_they_count_against_the_buffer(self) -> None:
        accumulator = accumulator_of(0, buffer_bytes=1_024, batch_bytes=1_024)
        topic = accumulator.topic("t")
        assert accumulator.append(NOW, NOW_MS, topic, None, b"x" * 900) is not None

        assert accumulator.append(NOW, NOW_MS, topic, None, b"x" * 900) is None
