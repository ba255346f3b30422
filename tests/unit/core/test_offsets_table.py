"""The table of committed offsets is what its batches say, whoever reads them."""

from __future__ import annotations

import msgpack

from zmqmq.batch.decode import RecordBatch
from zmqmq.batch.encode import encode_batch
from zmqmq.core.groups.offsets_table import (
    Committed,
    OffsetsTable,
    commit_batch,
    forget_batch,
)
from zmqmq.model.groups import offsets_partition

T, U = (bytes(16), 0), (bytes(16), 1)
FIVE, SIX = Committed(5, 1, "note", 10), Committed(6, 1, "", 20)


def table_of(*batches: bytes) -> OffsetsTable:
    table = OffsetsTable()
    for data in batches:
        table.apply(RecordBatch.of_producer(data, "__offsets", 0))
    return table


def commit(group: str, *commits: tuple[tuple[bytes, int], Committed]) -> bytes:
    return commit_batch(0, group, commits, 1)


def test_what_was_committed_last_counts() -> None:
    table = table_of(commit("g", (T, FIVE), (U, SIX)), commit("g", (T, SIX)))

    assert table.of("g") == {T: SIX, U: SIX}


def test_groups_do_not_see_each_other() -> None:
    table = table_of(commit("g", (T, FIVE)), commit("h", (T, SIX)))

    assert (table.of("g"), table.of("h"), table.of("i")) == ({T: FIVE}, {T: SIX}, {})
    assert list(table) == ["g", "h"]


def test_a_group_of_which_all_is_forgotten_is_gone() -> None:
    table = table_of(commit("g", (T, FIVE), (U, SIX)), forget_batch(0, "g", [T], 1))
    assert table.of("g") == {U: SIX}

    gone = table_of(commit("g", (T, FIVE)), forget_batch(0, "g", [T, U], 1))
    assert "g" not in gone
    assert forget_batch(0, "nobody", [T], 1)


def test_forgetting_what_was_never_there_is_no_error() -> None:
    assert list(table_of(forget_batch(0, "g", [T], 1))) == []


def test_what_a_newer_release_wrote_is_skipped() -> None:
    def pair(key: list[object], value: list[object]) -> bytes:
        return encode_batch(0, [msgpack.packb(value)], keys=[msgpack.packb(key)], timestamp_ms=1)

    table = table_of(
        pair([2, "g", *T], [1, *FIVE]),
        pair([1, "g", *U], [2, *FIVE]),
        pair([1, "h", *T, "more"], [1, *FIVE, "more"]),
        encode_batch(0, [b"no key"], timestamp_ms=1),
    )

    assert list(table) == ["h"]
    assert table.of("h") == {T: FIVE}


def test_where_a_group_lives_never_changes() -> None:
    """It is a place on disk: another hash would lose all offsets."""
    groups = ("g", "billing", "a.b-c")

    assert [offsets_partition(group, 1_000) for group in groups] == [
        664,
        856,
        592,
    ]
