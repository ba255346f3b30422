"""The histogram against plain sorting."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqmq.bench.histogram import BUCKETS, SLOTS, VALUE_MAX, Histogram, bucket_of, top_of

values = st.integers(0, VALUE_MAX)
small = st.one_of(st.integers(0, 4 * SLOTS), values)


def filled(numbers: list[int]) -> Histogram:
    histogram = Histogram()
    for number in numbers:
        histogram.record(number)
    return histogram


@given(values)
def test_a_value_lies_in_its_bucket_and_the_bucket_is_narrow(value: int) -> None:
    bucket = bucket_of(value)
    bottom = top_of(bucket - 1) + 1 if bucket else 0

    assert 0 <= bucket < BUCKETS
    assert bottom <= value <= top_of(bucket)
    assert top_of(bucket) - bottom <= value / SLOTS


def test_buckets_follow_each_other_without_a_gap() -> None:
    edges = [top_of(bucket) for bucket in range(BUCKETS)]

    assert edges == sorted(set(edges))
    assert edges[0] == 0
    assert edges[-1] == VALUE_MAX
    assert all(bucket_of(edge) == bucket for bucket, edge in enumerate(edges))
    assert all(bucket_of(edge + 1) == bucket + 1 for bucket, edge in enumerate(edges[:-1]))


@given(st.lists(small, min_size=1, max_size=200), st.floats(0.1, 100))
def test_percentiles_are_right_to_one_part_in_slots(numbers: list[int], percent: float) -> None:
    found = filled(numbers).percentile(percent)
    exact = sorted(numbers)[max(math.ceil(len(numbers) * percent / 100), 1) - 1]

    assert exact <= found <= min(exact + exact / SLOTS, max(numbers))


@given(st.lists(small, max_size=50), st.lists(small, max_size=50))
def test_merged_is_as_if_counted_together(left: list[int], right: list[int]) -> None:
    merged = filled(left)
    merged.merge(filled(right))
    together = filled(left + right)

    assert merged.count == together.count
    assert merged.total == together.total
    assert merged.mean == together.mean
    for percent in (1, 50, 99, 99.9, 100):
        assert merged.percentile(percent) == together.percentile(percent)
    assert (merged.minimum, merged.maximum) == (together.minimum, together.maximum)


@given(small, st.integers(1, 1000))
def test_counting_many_at_once_is_counting_each(value: int, count: int) -> None:
    at_once = Histogram()
    at_once.record(value, count)
    each = filled([value] * count)

    assert (at_once.count, at_once.total) == (each.count, each.total)
    assert at_once.percentile(50) == each.percentile(50) == value


def test_memory_does_not_grow() -> None:
    histogram = Histogram()
    size = histogram._counts.buffer_info()[1]
    for value in range(0, VALUE_MAX, VALUE_MAX // 5000):
        histogram.record(value)

    assert histogram._counts.buffer_info()[1] == size == BUCKETS


@pytest.mark.parametrize(("value", "counted"), [(-5, 0), (VALUE_MAX + 1, VALUE_MAX)])
def test_what_is_out_of_range_counts_at_the_end(value: int, counted: int) -> None:
    histogram = filled([value])

    assert histogram.percentile(50) == histogram.maximum == counted


def test_nothing_counted_is_zero() -> None:
    histogram = Histogram()

    assert (histogram.count, histogram.mean, histogram.percentile(99)) == (0, 0.0, 0)
