"""What a partition remembers of its producers (replication.md P1 to P5)."""

from __future__ import annotations

import pytest

from zmqmq.core.storage.producers import ProducerTable, Written
from zmqmq.errors import Code, WireError
from zmqmq.model.limits import BATCHES_REMEMBERED, SEQUENCE_MAX

ID = 7
EXPIRY_MS = 1_000


def table_with(*batches: tuple[int, int], epoch: int = 0) -> ProducerTable:
    """A table that has seen these (first, last) sequences, at offsets 0, 10, 20 and so on."""
    table = ProducerTable(3, EXPIRY_MS)
    for at, (first, last) in enumerate(batches):
        table.note(ID, epoch, written(first, last, at))
    return table


def written(first: int, last: int, at: int = 0, ms: int | None = None) -> Written:
    return Written(first, last, at * 10, at * 10 + 10, at if ms is None else ms)


def code(table: ProducerTable, epoch: int, first: int, last: int) -> Code:
    with pytest.raises(WireError) as caught:
        table.check(ID, epoch, first, last)
    return caught.value.code


def test_a_new_producer_begins_with_0() -> None:
    assert table_with().check(ID, 0, 0, 3) is None
    assert code(table_with(), 0, 1, 3) is Code.UNKNOWN_PRODUCER


def test_what_follows_the_last_batch_is_taken_and_a_gap_is_not() -> None:
    table = table_with((0, 4))

    assert table.check(ID, 0, 5, 5) is None
    assert code(table, 0, 6, 6) is Code.OUT_OF_ORDER_SEQUENCE


def test_a_batch_that_comes_again_is_told_where_it_went() -> None:
    table = table_with((0, 4), (5, 5), (6, 9))

    assert table.check(ID, 0, 5, 5) == written(5, 5, 1)


def test_the_same_beginning_with_another_end_is_not_the_same_batch() -> None:
    assert code(table_with((0, 4)), 0, 0, 3) is Code.DUPLICATE_SEQUENCE


def test_64_batches_are_remembered_and_no_more() -> None:
    assert BATCHES_REMEMBERED == 64
    table = table_with(*[(n, n) for n in range(65)])

    assert table.check(ID, 0, 1, 1) == written(1, 1, 1)
    assert code(table, 0, 0, 0) is Code.DUPLICATE_SEQUENCE


def test_after_the_last_sequence_number_comes_0() -> None:
    table = table_with((SEQUENCE_MAX - 1, SEQUENCE_MAX))
    assert table.check(ID, 0, 0, 2) is None
    assert code(table, 0, 1, 2) is Code.OUT_OF_ORDER_SEQUENCE
    assert code(table, 0, SEQUENCE_MAX - 9, SEQUENCE_MAX - 9) is Code.DUPLICATE_SEQUENCE

    across = table_with((SEQUENCE_MAX, 1))
    assert across.check(ID, 0, SEQUENCE_MAX, 1) == written(SEQUENCE_MAX, 1)
    assert across.check(ID, 0, 2, 2) is None


def test_a_higher_epoch_begins_with_0_and_fences_the_lower() -> None:
    table = table_with((0, 4))
    assert code(table, 1, 5, 5) is Code.UNKNOWN_PRODUCER
    assert table.check(ID, 1, 0, 0) is None
    table.note(ID, 1, written(0, 0, 1))

    assert code(table, 0, 5, 5) is Code.PRODUCER_FENCED
    assert code(table, 1, 0, 4) is Code.DUPLICATE_SEQUENCE
    assert table.check(ID, 1, 0, 0) == written(0, 0, 1)


def test_a_check_changes_nothing() -> None:
    table = table_with((0, 4))
    before = table.snapshot()
    table.check(ID, 0, 5, 9)
    table.check(ID, 1, 0, 0)
    table.check(8, 0, 0, 0)

    assert table.snapshot() == before


def test_who_appended_nothing_for_long_is_forgotten() -> None:
    table = table_with((0, 4))
    table.expire(EXPIRY_MS)
    assert len(table) == 1
    table.expire(EXPIRY_MS + 1)

    assert len(table) == 0
    assert code(table, 0, 5, 5) is Code.UNKNOWN_PRODUCER


def test_when_there_are_too_many_the_longest_idle_is_forgotten() -> None:
    table = ProducerTable(3, EXPIRY_MS)
    for producer, sequence in ((1, 0), (2, 0), (3, 0), (1, 1), (4, 0)):
        table.note(producer, 0, written(sequence, sequence))
    assert [row[0] for row in table.snapshot()] == [3, 1, 4]

    again = ProducerTable(3, EXPIRY_MS)
    again.restore(table.snapshot())
    again.note(5, 0, written(0, 0))
    assert [row[0] for row in again.snapshot()] == [1, 4, 5]


def test_a_snapshot_restores_the_table() -> None:
    table = table_with(*[(n, n) for n in range(70)], epoch=3)
    other = table_with((0, 9))
    other.restore(table.snapshot())

    assert other.snapshot() == table.snapshot()
    assert other.check(ID, 3, 6, 6) == written(6, 6, 6)
