"""What a consumer fetches, from where, how far ahead, and what it does when told no."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.client.scripted import (
    START_MS,
    Fetching,
    Sent,
    World,
    answer_fetch,
    id_of,
    stored_batch,
)
from zmqmq.client.machines.effects import MS
from zmqmq.client.machines.stream import Place, PlaceKind
from zmqmq.errors import (
    Code,
    CorruptDataError,
    DeniedError,
    NotFoundError,
    OffsetOutOfRangeError,
    error_to_wire,
    refusal,
)
from zmqmq.wire.apis import Api

START, END = Place(PlaceKind.START), Place(PlaceKind.END)


def fetching(partitions: int = 1, **options: Any) -> Fetching:
    """A consumer that is connected and knows its topic."""
    world = World(topics={"t": partitions})
    fetching = Fetching(world, **options)
    world.greet()
    world.tell_metadata()
    return fetching


def asked(sent: Sent) -> dict[int, int]:
    """Partition and offset of each entry of a FETCH."""
    return {partition: offset for _, partition, offset, *_ in sent.fields["partitions"]}


def answer_offsets(world: World, offsets: dict[str | int, int]) -> None:
    sent = world.take(Api.LIST_OFFSETS)
    found = [[offsets[at], None] for _, _, at in sent.fields["partitions"]]
    world.answer(sent, {"offsets": found})


def refuse_partition(world: World, sent: Sent, code: Code, **hints: object) -> None:
    error = error_to_wire(refusal(code, "scripted", hints))
    world.answer(sent, {"partitions": [error] * len(sent.fields["partitions"])})


def batch(base: int, count: int = 2, partition: int = 0, size: int = 10) -> bytes:
    return stored_batch(base, [b"x" * size] * count, partition=partition)


def test_a_fetch_asks_for_every_partition_at_once() -> None:
    consumer = fetching(3, max_wait_ms=700, fetch_bytes=5_000)
    sent = consumer.world.take(Api.FETCH)

    assert asked(sent) == {0: 0, 1: 0, 2: 0}
    assert sent.fields["max_wait_ms"] == 700
    assert sent.fields["max_bytes"] == 5_000
    assert sent.fields["rx"] == 0


def test_the_next_fetch_goes_out_with_the_answer_to_the_last() -> None:
    consumer = fetching()
    answer_fetch(consumer.world, consumer.world.take(Api.FETCH), {0: batch(0, 5)})

    assert len(consumer.machine.chunks) == 1
    assert asked(consumer.world.take(Api.FETCH)) == {0: 5}
    assert consumer.promise.notified


def test_an_empty_answer_is_asked_again_from_the_same_offset() -> None:
    consumer = fetching()
    answer_fetch(consumer.world, consumer.world.take(Api.FETCH), {})

    assert asked(consumer.world.take(Api.FETCH)) == {0: 0}
    assert not consumer.machine.chunks


def test_every_fetch_tells_how_much_was_read() -> None:
    """The broker stops answering a session that does not."""
    consumer = fetching()
    data = batch(0)
    answer_fetch(consumer.world, consumer.world.take(Api.FETCH), {0: data})

    assert consumer.world.take(Api.FETCH).fields["rx"] == len(data)


def test_no_more_than_prefetch_bytes_are_fetched_ahead() -> None:
    data = batch(0, 10, size=100)
    consumer = fetching(prefetch_bytes=len(data) * 3, fetch_bytes=len(data))
    base = 0
    while requests := consumer.world.take_all(Api.FETCH):
        for sent in requests:
            answer_fetch(consumer.world, sent, {0: batch(base, 10, size=100)})
            base += 10

    assert consumer.machine.buffered_bytes == len(data) * 3
    assert consumer.machine.is_starved
    consumer.machine.taken += len(consumer.machine.chunks.popleft().data)
    consumer.world.step()
    assert asked(consumer.world.take(Api.FETCH)) == {0: base}


def test_a_batch_larger_than_prefetch_bytes_still_comes() -> None:
    consumer = fetching(prefetch_bytes=100, fetch_bytes=100)
    answer_fetch(consumer.world, consumer.world.take(Api.FETCH), {0: batch(0, 10, size=100)})
    assert consumer.world.take_all(Api.FETCH) == []

    consumer.machine.taken += len(consumer.machine.chunks.popleft().data)
    consumer.world.step()
    assert asked(consumer.world.take(Api.FETCH)) == {0: 10}


def test_the_partition_that_was_served_goes_to_the_end_of_the_next_question() -> None:
    consumer = fetching(3)
    world = consumer.world
    answer_fetch(world, world.take(Api.FETCH), {0: batch(0)}, end=0)

    assert list(asked(world.take(Api.FETCH))) == [1, 2, 0]


def test_partitions_that_have_more_are_fetched_two_at_a_time() -> None:
    """And the idle ones wait apart, so that they do not make the others wait with them."""
    consumer = fetching(5)
    world = consumer.world
    sent = world.take(Api.FETCH)
    world.answer(sent, {"partitions": [[0, int(n < 3), 0] for n in range(5)]})
    parts = [sorted(asked(sent)) for sent in world.take_all(Api.FETCH)]

    assert parts == [[0, 2], [1], [3, 4]]


def test_a_partition_never_waits_for_the_long_poll_of_another() -> None:
    """However often they come and go, each one that is free is in some fetch."""
    consumer = fetching(12)
    world = consumer.world
    out = [world.take(Api.FETCH)]
    for round_ in range(200):
        sent = out.pop(round_ * 7 % len(out))
        entries = [[0, (round_ + p) % 2, 0] for p in asked(sent)]
        world.answer(sent, {"partitions": entries})
        out += world.take_all(Api.FETCH)
        assert sorted(p for sent in out for p in asked(sent)) == list(range(12))


def test_with_room_for_one_fetch_the_idle_partitions_wait_together_with_the_busy_ones() -> None:
    """Or as long as some are busy nobody would ever hear of the others."""
    consumer = fetching(5, prefetch_bytes=10_000, fetch_bytes=10_000)
    world = consumer.world
    sent = world.take(Api.FETCH)
    world.answer(sent, {"partitions": [[0, int(n < 3), 0] for n in range(5)]})

    assert list(asked(world.take(Api.FETCH))) == [0, 1, 2, 3, 4]


def test_a_seek_fetches_at_once_and_drops_what_is_on_its_way() -> None:
    consumer = fetching()
    world = consumer.world
    stale = world.take(Api.FETCH)
    consumer.machine.seek(world.now, "t", 0, 1, Place(PlaceKind.OFFSET, 50))
    world.step()
    fresh = world.take(Api.FETCH)
    assert asked(fresh) == {0: 50}

    answer_fetch(world, stale, {0: batch(0)})
    assert not consumer.machine.chunks
    answer_fetch(world, fresh, {0: batch(50)})
    assert [c.generation for c in consumer.machine.chunks] == [1]
    assert asked(world.take(Api.FETCH)) == {0: 52}


def test_a_paused_partition_is_not_fetched_until_it_is_resumed() -> None:
    consumer = fetching(2)
    world = consumer.world
    consumer.machine.pause(world.now, "t", 0, 1)
    answer_fetch(world, world.take(Api.FETCH), {0: batch(0)})
    assert not consumer.machine.chunks
    assert asked(world.take(Api.FETCH)) == {1: 0}

    consumer.machine.resume("t", 0)
    world.step()
    assert asked(world.take(Api.FETCH)) == {0: 0}


@pytest.mark.parametrize(
    ("place", "questions", "offsets", "position"),
    [
        (START, ["start"], {"start": 3}, 3),
        (END, ["end"], {"end": 90}, 90),
        (Place(PlaceKind.BEFORE_END, 10), ["start", "end"], {"start": 3, "end": 90}, 80),
        (Place(PlaceKind.BEFORE_END, 100), ["start", "end"], {"start": 3, "end": 90}, 3),
        (Place(PlaceKind.TIME, START_MS), [START_MS], {START_MS: 40}, 40),
    ],
)
def test_a_start_is_looked_up(
    place: Place, questions: list[str | int], offsets: dict[str | int, int], position: int
) -> None:
    consumer = fetching(start=place)
    assert not consumer.machine.is_placed
    sent = consumer.world.sent[-1]
    assert [at for _, _, at in sent.fields["partitions"]] == questions
    answer_offsets(consumer.world, offsets)

    assert consumer.machine.is_placed
    assert asked(consumer.world.take(Api.FETCH)) == {0: position}


def test_a_group_goes_on_where_it_committed_and_begins_at_the_start() -> None:
    consumer = fetching(2, start=Place(PlaceKind.STORED), group="g")
    world = consumer.world
    sent = world.take(Api.OFFSET_FETCH)
    assert sent.fields["group"] == "g"
    world.answer(sent, {"offsets": [[id_of("t"), 1, 77, 0, "", START_MS]]})
    world.step()
    answer_offsets(world, {"start": 5})

    assert consumer.machine.is_placed
    positions = {s.partition: s.position for s in consumer.machine.streams.values()}
    assert positions == {0: 5, 1: 77}


def test_a_coordinator_that_is_not_ready_is_asked_again() -> None:
    consumer = fetching(start=Place(PlaceKind.STORED), group="g")
    world = consumer.world
    world.refuse(world.take(Api.OFFSET_FETCH), Code.COORDINATOR_LOADING)
    world.advance(100)
    world.answer(world.take(Api.OFFSET_FETCH), {"offsets": [[id_of("t"), 0, 9, 0, "", 1]]})

    assert asked(world.take(Api.FETCH)) == {0: 9}


def test_stop_at_end_stops_at_what_was_the_end_when_it_began() -> None:
    consumer = fetching(start=START, stop_at_end=True)
    world = consumer.world
    answer_offsets(world, {"start": 0, "end": 3})
    answer_fetch(world, world.take(Api.FETCH), {0: batch(0)}, end=100)
    assert not consumer.machine.is_finished
    answer_fetch(world, world.take(Api.FETCH), {0: batch(2)}, end=100)

    assert consumer.machine.is_finished
    assert world.take_all(Api.FETCH) == []
    assert [c.stop_at for c in consumer.machine.chunks] == [3, 3]


def test_stop_at_end_of_nothing_is_finished_at_once() -> None:
    consumer = fetching(start=START, stop_at_end=True)
    answer_offsets(consumer.world, {"start": 0, "end": 0})

    assert consumer.machine.is_finished
    assert consumer.world.take_all(Api.FETCH) == []


def test_stop_at_end_with_an_offset_asks_for_the_end() -> None:
    consumer = fetching(start=Place(PlaceKind.OFFSET, 5), stop_at_end=True)
    answer_offsets(consumer.world, {"end": 5})

    assert consumer.machine.is_finished


def test_a_position_that_retention_has_passed_goes_on_at_the_start_and_says_so() -> None:
    consumer = fetching()
    world = consumer.world
    sent = world.take(Api.FETCH)
    refuse_partition(world, sent, Code.OFFSET_OUT_OF_RANGE, log_start=40, end=90)

    assert asked(world.take(Api.FETCH)) == {0: 40}
    (observed,) = [o for o in world.observed if o.event == "position-reset"]
    assert "0 to 39" in observed.detail
    assert observed.is_warning
    assert not consumer.machine.errors


def test_a_position_beyond_the_end_is_the_callers_to_decide() -> None:
    consumer = fetching(start=Place(PlaceKind.OFFSET, 500))
    world = consumer.world
    refuse_partition(world, world.take(Api.FETCH), Code.OFFSET_OUT_OF_RANGE, log_start=0, end=90)
    assert not consumer.machine.errors
    answer_offsets(world, {"end": 90})

    assert world.take_all(Api.FETCH) == []
    (error,) = consumer.machine.errors
    assert isinstance(error, OffsetOutOfRangeError)
    consumer.machine.seek(world.now, "t", 0, 1, Place(PlaceKind.OFFSET, 90))
    world.step()
    assert asked(world.take(Api.FETCH)) == {0: 90}


def epochs(sent: Sent) -> tuple[int, int | None]:
    """What a FETCH of one partition says of leader epochs: known, and of what was read last."""
    (entry,) = sent.fields["partitions"]
    return entry[4], entry[5]


def test_f12_a_fetch_says_which_leader_epochs_are_known() -> None:
    consumer = fetching()
    world = consumer.world
    world.leader, world.epoch = 1, 9
    sent = world.take(Api.FETCH)
    assert epochs(sent) == (1, None)
    both = stored_batch(0, [b"x"], epoch=3) + stored_batch(1, [b"x"], epoch=4)
    answer_fetch(world, sent, {0: both})
    sent = world.take(Api.FETCH)
    assert epochs(sent) == (1, 4)
    answer_fetch(world, sent, {})
    assert epochs(world.take(Api.FETCH)) == (1, 4)
    consumer.machine.seek(world.now, "t", 0, 1, Place(PlaceKind.OFFSET, 1))
    world.step()
    assert epochs(world.take(Api.FETCH)) == (1, None)


def test_f12_who_is_behind_takes_the_epoch_from_the_refusal() -> None:
    consumer = fetching()
    world = consumer.world
    hints = {"leader": 1, "leader_epoch": 6}
    refuse_partition(world, world.take(Api.FETCH), Code.FENCED_LEADER_EPOCH, **hints)
    world.advance(60)

    assert epochs(world.take(Api.FETCH)) == (6, None)
    assert not consumer.machine.errors


def test_f12_a_log_that_is_another_one_is_told_at_once() -> None:
    consumer = fetching()
    world = consumer.world
    answer_fetch(world, world.take(Api.FETCH), {0: batch(0, 5)})
    hints = {"log_start": 0, "end": 90, "parted": 3}
    refuse_partition(world, world.take(Api.FETCH), Code.OFFSET_OUT_OF_RANGE, **hints)
    world.advance(5_000)

    (error,) = consumer.machine.errors
    assert isinstance(error, OffsetOutOfRangeError)
    assert error.hints["parted"] == 3
    assert world.take_all(Api.FETCH) == world.take_all(Api.LIST_OFFSETS) == []


def test_f12_what_retention_skips_has_no_epoch() -> None:
    """Between what was read and the start there may have been others."""
    consumer = fetching()
    world = consumer.world
    answer_fetch(world, world.take(Api.FETCH), {0: batch(0, 5)})
    hints = {"log_start": 70, "end": 90}
    refuse_partition(world, world.take(Api.FETCH), Code.OFFSET_OUT_OF_RANGE, **hints)

    sent = world.take(Api.FETCH)
    assert epochs(sent) == (1, None)
    assert asked(sent) == {0: 70}


def test_a_leader_of_the_past_that_has_less_is_no_reason_to_stop() -> None:
    """It was replaced and does not know it yet; the end that LIST_OFFSETS tells is the latest."""
    consumer = fetching(start=Place(PlaceKind.OFFSET, 500))
    world = consumer.world
    refuse_partition(world, world.take(Api.FETCH), Code.OFFSET_OUT_OF_RANGE, log_start=0, end=90)
    refuse_offsets = world.take(Api.LIST_OFFSETS)
    moved = refusal(Code.NOT_LEADER, "moved", {"leader": 2, "leader_epoch": 2})
    world.answer(refuse_offsets, {"offsets": [error_to_wire(moved)]})
    world.advance(200)
    world.greet_all()
    world.advance(50)
    again = world.take(Api.LIST_OFFSETS)
    assert world.broker_of(again) == 2
    world.answer(again, {"offsets": [[501, None]]})
    world.advance(200)

    sent = world.take(Api.FETCH)
    assert (world.broker_of(sent), asked(sent)) == (2, {0: 500})
    assert not consumer.machine.errors


def test_a_seek_goes_on_after_an_error_but_not_while_paused() -> None:
    consumer = fetching()
    world = consumer.world
    answer_fetch(world, world.take(Api.FETCH), {0: b"\xff" * 200})
    consumer.machine.pause(world.now, "t", 0, 1)
    consumer.machine.seek(world.now, "t", 0, 2, Place(PlaceKind.OFFSET, 7))
    world.step()
    assert world.take_all(Api.FETCH) == []
    consumer.machine.resume("t", 0)
    world.step()

    assert asked(world.take(Api.FETCH)) == {0: 7}


def test_not_the_leader_means_asking_who_is() -> None:
    consumer = fetching()
    world = consumer.world
    refuse_partition(world, world.take(Api.FETCH), Code.NOT_LEADER)
    world.leader = 2
    world.advance(100)
    world.tell_metadata()
    world.advance(100)
    world.greet(broker=2)

    assert world.take(Api.FETCH).socket == world.socket


def test_a_denial_is_told_and_the_other_partitions_go_on() -> None:
    consumer = fetching(2)
    world = consumer.world
    sent = world.take(Api.FETCH)
    error = error_to_wire(refusal(Code.DENIED, "no"))
    world.answer(sent, {"partitions": [error, [0, 5, 0]]})

    assert isinstance(consumer.machine.errors[0], DeniedError)
    assert asked(world.take(Api.FETCH)) == {1: 0}


def test_a_lost_connection_fetches_on_where_it_was() -> None:
    consumer = fetching()
    world = consumer.world
    answer_fetch(world, world.take(Api.FETCH), {0: batch(0)})
    world.lose()
    world.reconnect()
    world.advance(100)

    sent = world.take_all(Api.FETCH)[-1]
    assert asked(sent) == {0: 2}
    assert sent.fields["rx"] == 0


def test_an_unknown_topic_is_told() -> None:
    world = World(topics={})
    consumer = Fetching(world, "typo")
    world.greet()
    for _ in range(3):
        world.tell_metadata()
        world.greet_all()
        world.advance(200)

    assert isinstance(consumer.machine.start_errors[0], NotFoundError)


def test_a_partition_that_does_not_exist_is_told() -> None:
    world = World(topics={"t": 2})
    consumer = Fetching(world, partitions=(1, 5))
    world.greet()
    world.tell_metadata()

    assert isinstance(consumer.machine.start_errors[0], NotFoundError)
    assert asked(consumer.world.take(Api.FETCH)) == {1: 0}


def test_partitions_added_later_are_read_from_their_start() -> None:
    consumer = fetching(1, start=END)
    world = consumer.world
    answer_offsets(world, {"end": 50})
    world.topics["t"] = 2
    world.core.routing.refresh(world.now)
    world.advance(200)
    world.tell_metadata()
    answer_offsets(world, {"start": 0})

    positions = {s.partition: s.position for s in consumer.machine.streams.values()}
    assert positions == {0: 50, 1: 0}


def test_headers_that_lead_nowhere_stop_the_partition() -> None:
    consumer = fetching()
    world = consumer.world
    answer_fetch(world, world.take(Api.FETCH), {0: b"\xff" * 200})

    assert isinstance(consumer.machine.errors[0], CorruptDataError)
    assert world.take_all(Api.FETCH) == []


def test_assign_reads_what_it_is_told_and_nothing_else() -> None:
    consumer = fetching(3)
    world = consumer.world
    stale = world.take(Api.FETCH)
    consumer.machine.assign(world.now, [("t", 2)])
    answer_fetch(world, stale, {0: batch(0), 1: batch(0, partition=1)})

    assert list(consumer.machine.streams) == [("t", 2)]
    assert not consumer.machine.chunks
    assert {p for s in world.take_all(Api.FETCH) for p in asked(s)} == {2}


def test_closing_stops_everything() -> None:
    consumer = fetching(group="g")
    world = consumer.world
    sent = world.take(Api.FETCH)
    world.core.remove_consumer(world.now, consumer.machine)
    answer_fetch(world, sent, {0: batch(0)})

    assert not consumer.machine.chunks
    assert world.take_all(Api.FETCH) == []


class TestCommits:
    def test_automatic_commits_come_at_their_time_and_only_with_news(self) -> None:
        consumer = fetching(group="g", auto_commit_ms=100)
        world = consumer.world
        due = consumer.promise.commits_due
        world.advance(100)
        assert consumer.promise.commits_due == due + 1

        consumer.machine.auto_commit(world.now, {("t", 0): 5})
        world.step()
        sent = world_take_commit(world)
        assert sent.fields["offsets"] == [[id_of("t"), 0, 5, 0, ""]]
        world.answer(sent, {"results": [None]})
        consumer.machine.auto_commit(world.now, {("t", 0): 5})
        world.step()
        assert world.take_all(Api.OFFSET_COMMIT) == []

    def test_f12_the_epoch_of_the_record_before_goes_with_an_offset(self) -> None:
        consumer = fetching(group="g", auto_commit=False)
        world = consumer.world
        old, new = (stored_batch(base, [b"a", b"b"], epoch=base + 1) for base in (0, 2))
        answer_fetch(world, world.take(Api.FETCH), {0: old + new})
        commits = consumer.machine.commits
        assert commits is not None

        def epoch_with(offset: int) -> int:
            commits.commit(world.now, {("t", 0): offset}, world.now + 5_000 * MS, None)
            world.step()
            sent = world_take_commit(world)
            world.answer(sent, {"results": [None]})
            epoch: int = sent.fields["offsets"][0][3]
            return epoch

        assert [epoch_with(offset) for offset in range(6)] == [0, 0, 0, 3, 3, 0]
        answer_fetch(world, world.take(Api.FETCH), {0: stored_batch(4, [b"c"], epoch=3)})
        assert [epoch_with(offset) for offset in (2, 3, 5)] == [0, 3, 3]
        consumer.machine.seek(world.now, "t", 0, 1, Place(PlaceKind.OFFSET, 4))
        assert epoch_with(4) == 0

    @pytest.mark.parametrize(("epoch", "told"), [(0, None), (3, 3)])
    def test_f12_whoever_goes_on_says_in_which_epoch_the_record_before_was_read(
        self, epoch: int, told: int | None
    ) -> None:
        world = World()
        consumer = Fetching(world, start=Place(PlaceKind.STORED), group="g", auto_commit=False)
        world.greet()
        world.tell_metadata()
        world.advance(1)
        world.answer(
            world.take(Api.OFFSET_FETCH), {"offsets": [[id_of("t"), 0, 9, epoch, "", START_MS]]}
        )
        assert world.take(Api.FETCH).fields["partitions"][0][5] == told
        commits = consumer.machine.commits
        assert commits is not None
        commits.commit(world.now, {("t", 0): 9}, world.now + 5_000 * MS, None)
        world.step()
        assert world_take_commit(world).fields["offsets"][0][3] == epoch

    def test_there_are_none_without_a_group(self) -> None:
        consumer = fetching()
        consumer.world.advance(5_000)

        assert consumer.promise.commits_due == 0

    def test_one_commit_at_a_time_so_that_none_overtakes_another(self) -> None:
        consumer = fetching(group="g", auto_commit=False)
        world = consumer.world
        commits = consumer.machine.commits
        assert commits is not None
        for offset in (5, 6):
            commits.commit(world.now, {("t", 0): offset}, world.now + 5_000 * MS, None)
        world.step()
        first = world_take_commit(world)
        assert world.take_all(Api.OFFSET_COMMIT) == []
        world.answer(first, {"results": [None]})

        assert world_take_commit(world).fields["offsets"][0][2] == 6

    def test_a_commit_of_many_partitions_goes_in_pieces(self) -> None:
        consumer = fetching(2_500, group="g", auto_commit=False)
        world = consumer.world
        commits = consumer.machine.commits
        assert commits is not None
        promise = type(consumer.promise)()
        offsets = {("t", n): 5 for n in range(2_500)}
        commits.commit(world.now, offsets, world.now + 5_000 * MS, promise)
        world.step()
        sizes = []
        while not promise.is_done:
            sent = world_take_commit(world)
            sizes.append(len(sent.fields["offsets"]))
            world.answer(sent, {"results": [None] * sizes[-1]})

        assert sizes == [1_000, 1_000, 500]
        assert commits.committed == offsets

    @pytest.mark.parametrize("code", [Code.COORDINATOR_LOADING, Code.DEADLINE_PASSED])
    def test_a_commit_is_tried_again_and_then_told(self, code: Code) -> None:
        consumer = fetching(group="g", auto_commit=False)
        world = consumer.world
        commits = consumer.machine.commits
        assert commits is not None
        promise = type(consumer.promise)()
        commits.commit(world.now, {("t", 0): 5}, world.now + 5_000 * MS, promise)
        world.step()
        world.refuse(world_take_commit(world), code)
        assert not promise.is_done
        world.advance(100)
        world.answer(world_take_commit(world), {"results": [None]})

        assert promise.is_done
        assert promise.error is None

    def test_a_refused_commit_is_told(self) -> None:
        consumer = fetching(group="g", auto_commit=False)
        world = consumer.world
        commits = consumer.machine.commits
        assert commits is not None
        promise = type(consumer.promise)()
        commits.commit(world.now, {("t", 0): 5}, world.now + 5_000 * MS, promise)
        world.step()
        denied = error_to_wire(refusal(Code.DENIED, "no"))
        world.answer(world_take_commit(world), {"results": [denied]})

        assert isinstance(promise.error, DeniedError)


def world_take_commit(world: World) -> Sent:
    return world.take(Api.OFFSET_COMMIT)
