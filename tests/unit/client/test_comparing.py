"""Replicas are compared as they are read: what is the same, and where they part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import BODY_AT, BODY_CRC_AT, HEAD_SIZE, log_seed, stamp
from zmqmq.client.machines import comparing
from zmqmq.client.machines.comparing import (
    Comparison,
    Difference,
    TooManyKeysError,
    comparison_of,
)
from zmqmq.errors import CorruptDataError

SEED = log_seed(b"i" * 16, 0)
Row = tuple[int, bytes | None, bytes | None]
"""Offset, key, value."""


def batch(rows: Sequence[Row], *, epoch: int = 1, last: int | None = None) -> bytes:
    """A stored batch with these records; it covers offsets up to `last`."""
    base = rows[0][0]
    end = rows[-1][0] if last is None else last
    body = encode_batch(
        SEED,
        [value for _, _, value in rows],
        keys=[key for _, key, _ in rows],
        timestamp_ms=1,
        offset_deltas=[offset - base for offset, _, _ in rows],
        last_offset_delta=end - base,
    )
    return stamp(base, len(body), epoch, 2, base, body[BODY_CRC_AT:BODY_AT]) + body[HEAD_SIZE:]


def plain(*values: bytes, base: int = 0) -> bytes:
    return batch([(base + n, None, value) for n, value in enumerate(values)])


def compare(
    copies: dict[int, list[bytes]],
    *,
    start: int = 0,
    end: int,
    by_records: bool = False,
) -> Comparison:
    """Give each copy's frames one by one, as they are asked for."""
    comparison = comparison_of("t", 0, SEED, tuple(copies), start, end, by_records=by_records)
    frames: dict[int, Iterator[bytes]] = {b: iter(f) for b, f in copies.items()}
    while (broker := comparison.wanting()) is not None:
        comparison.take(broker, next(frames[broker]))
    comparison.finish()
    return comparison


def difference(copies: dict[int, list[bytes]], **options: Any) -> Difference:
    found = compare(copies, **options).difference
    assert found is not None
    return found


def test_equal_logs_are_equal_however_they_are_cut_into_frames() -> None:
    a, b, c = plain(b"a", b"b"), plain(b"c", base=2), plain(b"d", b"e", base=3)
    found = compare({1: [a, b + c], 2: [a + b, c], 3: [a + b + c]}, end=5)

    assert found.difference is None
    assert (found.compared_end, found.batches, found.records) == (5, 3, 5)
    assert found.bytes == len(a + b + c)


def test_a_log_that_begins_later_is_compared_from_there() -> None:
    a, b = plain(b"a", b"b"), plain(b"c", base=2)

    assert compare({1: [b], 2: [b]}, start=2, end=3).records == 1
    # Both send the batch that the offset is in.
    assert compare({1: [a + b], 2: [a + b]}, start=1, end=3).difference is None


def test_the_first_record_that_differs_is_named_and_who_is_alone() -> None:
    a, b = plain(b"a", b"b", b"c"), plain(b"a", b"X", b"Y")

    assert difference({1: [a], 2: [b], 3: [a]}, end=3) == Difference(
        1, ((1, 3), (2,)), "other value"
    )
    assert difference({1: [a], 2: [b]}, end=3).groups == ((1,), (2,))
    c = plain(b"a", b"Z", b"c")
    assert difference({1: [a], 2: [b], 3: [c]}, end=3).groups == ((1,), (2,), (3,))


def test_a_record_more_or_another_batch_differs() -> None:
    two, three = plain(b"a", b"b"), plain(b"a", b"b", b"c")
    assert difference({1: [two, plain(b"c", base=2)], 2: [three]}, end=3) == Difference(
        2, ((1,), (2,)), "a record more"
    )
    later = batch([(0, None, b"a"), (1, None, b"b")], epoch=2)
    keyless = batch([(0, None, b"a"), (1, None, b"b")])
    assert difference({1: [keyless], 2: [later]}, end=2) == Difference(
        0, ((1,), (2,)), "the same records in another batch: leader epoch"
    )


def test_a_frame_with_a_wrong_checksum_is_no_difference() -> None:
    good = plain(b"a")
    bad = good[:-1] + bytes([good[-1] ^ 1])

    with pytest.raises(CorruptDataError):
        compare({1: [good], 2: [bad]}, end=1)


# Compacted

FULL = [(0, b"k", b"1"), (1, b"l", b"2"), (2, b"k", b"3"), (3, b"m", b"4")]


def test_who_has_compacted_lacks_only_what_is_superseded() -> None:
    copies = {1: [batch(FULL)], 2: [batch(FULL[1:])]}

    assert compare(copies, end=4, by_records=True).difference is None
    assert compare({2: copies[2], 1: copies[1]}, end=4, by_records=True).difference is None


def test_a_newest_record_that_one_lacks_is_found() -> None:
    copies = {1: [batch(FULL)], 2: [batch([FULL[0], FULL[2], FULL[3]])]}
    found = difference(copies, end=4, by_records=True)

    assert (found.offset, found.groups) == (1, ((1,), (2,)))
    assert found.what == "broker 2 has neither this record nor a newer one of its key"
    assert difference({2: copies[2], 1: copies[1]}, end=4, by_records=True).offset == 1


def test_another_record_at_an_offset_is_found() -> None:
    other = [FULL[0], (1, b"l", b"X"), *FULL[2:]]
    found = difference({1: [batch(FULL)], 2: [batch(other)]}, end=4, by_records=True)

    assert found == Difference(1, ((1,), (2,)), "other value")


def test_a_tombstone_may_be_gone_with_what_it_deleted() -> None:
    rows: list[Row] = [(0, b"k", b"1"), (1, b"k", None), (2, b"l", b"2")]

    assert (
        compare({1: [batch(rows)], 2: [batch(rows[2:])]}, end=3, by_records=True).difference is None
    )


def test_a_record_without_a_key_is_never_compacted() -> None:
    rows: list[Row] = [(0, None, b"1"), (1, b"l", b"2")]
    found = difference({1: [batch(rows)], 2: [batch(rows[1:])]}, end=2, by_records=True)

    assert "one without a key stays" in found.what


def test_a_merged_batch_that_begins_before_is_not_counted_twice() -> None:
    first, rest = batch(FULL[:2]), batch(FULL[2:])
    merged = batch(FULL)  # compacted between the first frame and the second

    assert compare({1: [first, rest], 2: [first, merged]}, end=4, by_records=True).records == 4


def test_too_many_keys_are_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "KEYS_MAX", 2)
    rows: list[Row] = [(n, b"%d" % n, b"x") for n in range(5)]

    with pytest.raises(TooManyKeysError):
        compare({1: [batch(rows)], 2: [batch(rows[4:])]}, end=5, by_records=True)


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.sampled_from([b"1", b"2", None]))),
    st.data(),
)
def test_whatever_compaction_leaves_is_equal(
    rows: list[tuple[bytes, bytes | None]], data: st.DataObject
) -> None:
    """Each copy leaves out any records that have a newer one of their key."""
    full = [(n, key, value) for n, (key, value) in enumerate(rows)] + [(len(rows), b"z", b"end")]
    newest = {key: n for n, key, _ in full}
    copies = {}
    for broker in (1, 2, 3):
        kept = [r for r in full if newest[r[1]] == r[0] or data.draw(st.booleans())]
        copies[broker] = [batch(kept)]

    assert compare(copies, end=len(full), by_records=True).difference is None


@given(
    st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1),
    st.sampled_from([1, 2]),
    st.data(),
)
def test_a_newest_record_that_is_gone_is_found(
    keys: list[bytes], loser: int, data: st.DataObject
) -> None:
    full: list[Row] = [(n, key, b"x") for n, key in enumerate(keys)]
    newest = {key: n for n, key, _ in full}
    full.append((len(keys), b"z", b"end"))
    gone = data.draw(st.sampled_from(sorted(newest.values())))
    copies = {1: full, 2: full}
    copies[loser] = [r for r in full if r[0] != gone]

    found = difference(
        {b: [batch(rows)] for b, rows in copies.items()}, end=len(full), by_records=True
    )

    assert found.groups == ((3 - loser,), (loser,))
