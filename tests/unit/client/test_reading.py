"""What a reader hands out, and what counts as consumed: never past the record in hand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.client.scripted import (
    START_MS,
    World,
    WorldDriver,
    answer_fetch,
    stored_batch,
)
from zmqmq.client.options import ConsumerOptions
from zmqmq.client.reading import Reader
from zmqmq.errors import CorruptDataError, UsageError
from zmqmq.wire.apis import Api

T0 = ("t", 0)


class WorldReader(Reader):
    """A reader whose waiting is done by the test."""

    def __init__(self, world: World, **options: Any) -> None:
        self.driver = WorldDriver(world)
        super().__init__(self.driver, ConsumerOptions(**options), ["t"], ())  # type: ignore[arg-type]
        self.world = world
        self.driver.post(self.start)

    def notify(self) -> None:
        """The test looks by itself."""


def reader_of(partitions: int = 1, **options: Any) -> WorldReader:
    world = World(topics={"t": partitions})
    reader = WorldReader(world, start=0, **options)
    world.greet()
    world.tell_metadata()
    return reader


def bring(reader: WorldReader, *bases: int, count: int = 3, partition: int = 0) -> None:
    """Let fetches bring batches of `count` records, one batch each."""
    for base in bases:
        values = [b"%d" % n for n in range(base, base + count)]
        data = stored_batch(base, values, partition=partition)
        answer_fetch(reader.world, reader.world.take(Api.FETCH), {partition: data})


def offsets(records: Any) -> list[int]:
    return [record.offset for record in records]


class TestIterating:
    def test_records_come_in_order_over_batches(self) -> None:
        reader = reader_of()
        bring(reader, 0, 3)
        first, second = reader.give_iterator(), None
        assert first is not None
        seen = offsets(first)
        second = reader.give_iterator()
        assert second is not None
        seen += offsets(second)

        assert seen == [0, 1, 2, 3, 4, 5]
        assert reader.give_iterator() is None

    def test_the_record_in_hand_is_not_consumed(self) -> None:
        reader = reader_of()
        bring(reader, 0)
        iterator = reader.give_iterator()
        assert iterator is not None
        assert reader.consumed() == {}
        next(iterator)
        assert reader.consumed() == {T0: 0}
        next(iterator)
        assert reader.consumed() == {T0: 1}
        next(iterator)
        assert reader.consumed() == {T0: 2}
        assert next(iterator, None) is None
        assert reader.consumed() == {T0: 2}

        assert reader.give_iterator() is None
        assert reader.consumed() == {T0: 3}

    def test_an_explicit_commit_counts_the_record_in_hand(self) -> None:
        reader = reader_of()
        bring(reader, 0)
        iterator = reader.give_iterator()
        assert iterator is not None
        next(iterator)

        assert reader.handed_out() == {T0: 1}

    def test_a_new_loop_goes_on_where_the_last_one_was_left(self) -> None:
        reader = reader_of()
        bring(reader, 0)
        first = reader.give_iterator()
        assert first is not None
        next(first)
        again = reader.give_iterator()
        assert again is not None

        assert offsets(again) == [1, 2]

    def test_a_seek_in_the_middle_of_a_loop_ends_the_list(self) -> None:
        reader = reader_of()
        bring(reader, 0)
        iterator = reader.give_iterator()
        assert iterator is not None
        next(iterator)
        reader.seek("t", 0, 1)

        assert list(iterator) == []
        values = [b"%d" % n for n in range(1, 4)]
        answer_fetch(
            reader.world, reader.world.take_all(Api.FETCH)[-1], {0: stored_batch(1, values)}
        )
        fresh = reader.give_iterator()
        assert fresh is not None
        assert offsets(fresh) == [1, 2, 3]


class TestFetching:
    def test_a_list_is_in_hand_as_a_whole_until_the_next_is_asked_for(self) -> None:
        reader = reader_of()
        bring(reader, 0, 3)
        assert offsets(reader.give_records(4)) == [0, 1, 2, 3]
        assert reader.consumed() == {}
        assert reader.handed_out() == {T0: 4}

        assert offsets(reader.give_records(100)) == [4, 5]
        assert reader.consumed() == {T0: 4}
        assert reader.give_records(1) == []
        assert reader.consumed() == {T0: 6}

    def test_batches_are_handed_out_whole(self) -> None:
        reader = reader_of()
        bring(reader, 0, 3)
        batches = reader.give_batches()

        assert [b.values for b in batches] == [[b"0", b"1", b"2"], [b"3", b"4", b"5"]]
        assert reader.consumed() == {}
        assert reader.give_batches() == []
        assert reader.consumed() == {T0: 6}

    def test_what_is_left_of_a_list_comes_as_part_of_a_batch(self) -> None:
        reader = reader_of()
        bring(reader, 0)
        reader.give_records(1)
        (rest,) = reader.give_batches()

        assert rest.offsets == [1, 2]
        assert rest.values == [b"1", b"2"]
        assert (rest.base_offset, rest.next_offset, len(rest)) == (1, 3, 2)
        assert reader.consumed() == {T0: 1}

    def test_a_batch_that_begins_before_the_position_is_trimmed(self) -> None:
        world = World()
        reader = WorldReader(world, start=2)
        world.greet()
        world.tell_metadata()
        bring(reader, 0, count=5)

        assert offsets(reader.give_records(10)) == [2, 3, 4]

    def test_a_batch_that_ends_behind_the_stop_is_trimmed(self) -> None:
        world = World()
        reader = WorldReader(world, start="start", stop_at_end=True)
        world.greet()
        world.tell_metadata()
        world.answer(world.take(Api.LIST_OFFSETS), {"offsets": [[0, None], [2, None]]})
        bring(reader, 0, count=5)

        assert offsets(reader.give_records(10)) == [0, 1]
        assert reader.is_finished

    def test_it_is_not_finished_while_something_lies_ready(self) -> None:
        world = World()
        reader = WorldReader(world, start="start", stop_at_end=True)
        world.greet()
        world.tell_metadata()
        world.answer(world.take(Api.LIST_OFFSETS), {"offsets": [[0, None], [6, None]]})
        bring(reader, 0, 3)
        assert not reader.is_finished
        reader.give_records(4)
        assert reader.machine.is_finished
        assert offsets(reader.give_records(10)) == [4, 5]
        assert reader.is_finished

    def test_reading_makes_room_for_the_next_fetch(self) -> None:
        size = len(stored_batch(0, [b"0", b"1", b"2"]))
        reader = reader_of(prefetch_bytes=2 * size, fetch_bytes=size)
        bring(reader, 0, 3)
        assert reader.world.take_all(Api.FETCH) == []
        reader.give_records(6)

        assert len(reader.world.take_all(Api.FETCH)) == 1

    def test_damage_is_told_after_what_came_before_it_and_nothing_behind_it(self) -> None:
        reader = reader_of()
        good, bad = stored_batch(0, [b"0"]), bytearray(stored_batch(1, [b"1"]))
        bad[-1] ^= 1
        answer_fetch(reader.world, reader.world.take(Api.FETCH), {0: good + bytes(bad)})
        bring(reader, 2)

        assert offsets(reader.give_records(10)) == [0]
        with pytest.raises(CorruptDataError):
            reader.give_records(10)
        assert reader.give_records(10) == []
        assert reader.consumed() == {T0: 1}

    def test_a_batch_of_another_partition_is_damage(self) -> None:
        reader = reader_of()
        data = stored_batch(0, [b"0"], partition=1)
        answer_fetch(reader.world, reader.world.take(Api.FETCH), {0: data})

        with pytest.raises(CorruptDataError):
            reader.give_records(10)


class TestMoving:
    def test_the_position_is_that_of_the_next_record(self) -> None:
        reader = reader_of()
        assert reader.position("t", 0) == 0
        bring(reader, 0, 3)
        assert reader.position("t", 0) == 0
        reader.give_records(2)
        assert reader.position("t", 0) == 2
        reader.give_records(1)
        assert reader.position("t", 0) == 3

    def test_a_seek_drops_what_lies_ready(self) -> None:
        reader = reader_of()
        bring(reader, 0, 3)
        reader.seek("t", 0, 100)

        assert reader.give_records(10) == []
        assert reader.position("t", 0) == 100
        bring_after_seek = reader.world.take_all(Api.FETCH)[-1]
        answer_fetch(reader.world, bring_after_seek, {0: stored_batch(100, [b"x"])})
        assert offsets(reader.give_records(10)) == [100]

    def test_what_was_consumed_before_a_seek_is_not_committed_behind_it(self) -> None:
        reader = reader_of()
        bring(reader, 0)
        reader.give_records(3)
        reader.give_records(1)
        reader.seek("t", 0, 0)

        assert reader.consumed() == {}

    def test_pause_hands_out_nothing_and_resume_loses_nothing(self) -> None:
        reader = reader_of()
        bring(reader, 0)
        reader.give_records(1)
        reader.pause("t", 0)
        assert reader.give_records(10) == []
        assert reader.consumed() == {T0: 1}

        reader.resume("t", 0)
        sent = reader.world.take_all(Api.FETCH)[-1]
        values = [b"0", b"1", b"2"]
        answer_fetch(reader.world, sent, {0: stored_batch(0, values)})
        assert offsets(reader.give_records(10)) == [1, 2]

    def test_a_partition_that_is_not_read_cannot_be_moved(self) -> None:
        with pytest.raises(UsageError, match="t/7 is not read"):
            reader_of().seek("t", 7, 0)

    def test_one_partition_can_be_moved_while_others_go_on(self) -> None:
        reader = reader_of(2)
        bring(reader, 0, partition=1)
        reader.seek("t", 0, 9)

        assert offsets(reader.give_records(10)) == [0, 1, 2]


def test_automatic_commits_are_those_of_the_reader() -> None:
    reader = reader_of(group="g", auto_commit_ms=100)
    bring(reader, 0)
    iterator = reader.give_iterator()
    assert iterator is not None
    next(iterator)
    next(iterator)
    reader.world.advance(100)
    sent = reader.world.take(Api.OFFSET_COMMIT)

    assert [entry[2] for entry in sent.fields["offsets"]] == [1]


def test_interceptors_see_each_batch_once() -> None:
    seen: list[int] = []

    class Hook:
        def on_receive(self, batch: Any) -> None:
            seen.append(batch.base_offset)

    world = World()
    reader = WorldReader(world, start=0)
    reader._on_receive = [Hook().on_receive]
    world.greet()
    world.tell_metadata()
    bring(reader, 0, 3)
    reader.give_records(2)
    reader.give_records(10)

    assert seen == [0, 3]


def test_trimmed_batches_have_all_columns() -> None:
    world = World()
    reader = WorldReader(world, start=1)
    world.greet()
    world.tell_metadata()
    data = stored_batch(0, [b"0", b"1"], keys=[b"a", None])
    answer_fetch(world, world.take(Api.FETCH), {0: data})
    (batch,) = reader.give_batches()

    assert batch.keys == [None]
    assert batch.tags == [None]
    assert batch.headers == [()]
    assert batch.raw_headers is None
    assert batch.timestamps_ms == [START_MS]
    assert offsets(batch.records()) == [1]


class TestCommitsByHand:
    def test_automatic_ones_do_not_go_back_behind_them(self) -> None:
        reader = reader_of(group="g")
        bring(reader, 0, count=10)
        assert len(reader.give_records(5)) == 5
        reader.note_committed({T0: 8})
        assert reader.consumed() == {T0: 8}
        reader.give_records(1)
        assert reader.consumed() == {T0: 8}
        reader.give_records(4)
        assert reader.give_records(1) == []
        assert reader.consumed() == {T0: 10}

    def test_what_is_not_read_is_not_committed_automatically(self) -> None:
        reader = reader_of(group="g")
        reader.note_committed({("nosuch", 0): 5, ("t", 7): 5})
        assert reader.consumed() == {}

    @pytest.mark.parametrize("offset", [-1, "5", None, 1 << 60])
    def test_what_is_no_offset_is_refused(self, offset: Any) -> None:
        reader = reader_of(group="g")
        with pytest.raises(UsageError, match=r"t/0: .* is no offset"):
            reader.note_committed({T0: offset})
        assert reader.consumed() == {}

    def test_a_seek_begins_anew(self) -> None:
        reader = reader_of(group="g")
        bring(reader, 0, count=10)
        reader.give_records(5)
        reader.note_committed({T0: 8})
        reader.seek("t", 0, 2)
        assert reader.consumed() == {}
