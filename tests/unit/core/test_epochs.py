"""Where each leader's part of the log begins and ends."""

from __future__ import annotations

import pytest

from zmqmq.core.storage.epochs import EpochIndex


def index_of(*pairs: tuple[int, int]) -> EpochIndex:
    index = EpochIndex()
    for epoch, offset in pairs:
        index.note(epoch, offset)
    return index


def test_only_the_first_batch_of_an_epoch_is_noted() -> None:
    assert index_of((1, 0), (1, 5), (3, 9), (3, 12)).snapshot() == [[1, 0], [3, 9]]


def test_an_epoch_or_an_offset_that_falls_is_our_own_bug() -> None:
    for pair in ((1, 20), (4, 9), (4, 3)):
        with pytest.raises(AssertionError):
            index_of((2, 0), (3, 9), pair)


@pytest.mark.parametrize(
    ("epoch", "found"),
    [
        (-1, (-1, 2)),
        (0, (0, 2)),
        (1, (1, 9)),
        (2, (1, 9)),
        (3, (3, 12)),
        (4, (4, 20)),
        (5, (4, 20)),
    ],
)
def test_an_epoch_ends_where_the_next_begins_or_the_log_ends(
    epoch: int, found: tuple[int, int]
) -> None:
    """One that wrote nothing ended where the one before it did; of one before all others nothing
    is known."""
    index = index_of((1, 2), (3, 9), (4, 12))

    assert index.end_offset_for(epoch, log_start=2, log_end=20) == found


def test_where_the_first_epoch_began_is_known_when_retention_has_removed_it() -> None:
    """What an older epoch wrote behind that is another log's."""
    index = index_of((3, 2), (5, 12))

    assert index.end_offset_for(1, log_start=9, log_end=20) == (1, 2)


def test_an_empty_log_knows_no_epoch() -> None:
    index = EpochIndex()

    assert index.latest == -1
    assert index.end_offset_for(7, 5, 5) == (7, 5)


def test_truncation_forgets_epochs_of_which_nothing_is_left() -> None:
    index = index_of((1, 0), (3, 9), (4, 12))
    index.truncate(12)
    assert index.latest == 3
    index.truncate(9)
    assert index.snapshot() == [[1, 0]]


def test_a_snapshot_restores_the_index() -> None:
    index = index_of((1, 0), (3, 9))
    other = index_of((7, 7))
    other.restore(index.snapshot())

    assert other.snapshot() == index.snapshot()


def test_a_snapshot_may_end_early() -> None:
    index = index_of((1, 0), (3, 9), (4, 12))

    assert index.snapshot(12) == [[1, 0], [3, 9]]
    assert index.snapshot(13) == index.snapshot()
