"""A client of several brokers: leaders that change, brokers that lag, are silent or go away.

`World` plays all of them; a test says who leads what, and in which epoch METADATA tells of it.
"""

from __future__ import annotations

import pytest

from tests.unit.client.scripted import (
    START_MS,
    Fetching,
    Promise,
    Sending,
    World,
    answer_fetch,
    id_of,
    stored_batch,
)
from zmqmq.client.machines.batch import Stored
from zmqmq.client.machines.commits import Commits
from zmqmq.client.machines.effects import MS, Link
from zmqmq.client.machines.stream import Place, PlaceKind
from zmqmq.errors import (
    Code,
    NotFoundError,
    OutcomeUnknownError,
    RefusedError,
    TimedOutError,
    WireError,
    error_to_wire,
    refusal,
)
from zmqmq.model.groups import offsets_partition
from zmqmq.model.names import OFFSETS_TOPIC
from zmqmq.wire.apis import Api


def moved_to(leader: int, epoch: int) -> WireError:
    return refusal(Code.NOT_LEADER, "moved", {"leader": leader, "leader_epoch": epoch})


def tell(world: World) -> None:
    """Let METADATA come, and answer it, and whoever is said HELLO to answers."""
    for _ in range(30):
        if any(s.api is Api.METADATA for s in world.sent):
            break
        world.advance(50)
        world.greet_all()
    world.tell_metadata()
    world.greet_all()


def sending(*, connect_to: int = 0, **options: object) -> Sending:
    """A producer of `t`, which broker 1 leads in epoch 1; also connected to another broker."""
    world = World()
    producer = Sending(world, **options).ready()
    if connect_to:
        world.core.network.to_broker(connect_to)
        world.step()
        world.greet_all()
    return producer


class TestLeaders:
    def test_a_hint_at_the_new_leader_is_taken_without_asking(self) -> None:
        producer = sending(connect_to=2)
        world = producer.world
        batch = producer.send()
        sent = world.take(Api.PRODUCE)
        world.acknowledge(sent, moved_to(2, 2))
        world.advance(100)
        again = world.take(Api.PRODUCE)

        assert world.broker_of(again) == 2
        assert again.body == sent.body
        world.acknowledge(again, 4)
        assert batch.outcome == Stored(4, START_MS)

    def test_a_hint_of_the_past_is_not_taken(self) -> None:
        producer = sending(connect_to=2)
        world = producer.world
        producer.send()
        world.acknowledge(world.take(Api.PRODUCE), moved_to(2, 1))
        tell(world)
        world.advance(200)

        assert world.broker_of(world.take(Api.PRODUCE)) == 1

    def test_metadata_of_the_past_does_not_count(self) -> None:
        producer = sending(connect_to=2)
        world = producer.world
        producer.send()
        world.acknowledge(world.take(Api.PRODUCE), moved_to(2, 7))
        world.epoch = 6
        tell(world)
        assert world.core.routing.leader("t", 0) == 2
        assert world.core.routing.epoch("t", 0) == 7
        world.advance(100)
        assert world.broker_of(world.take(Api.PRODUCE)) == 2

    def test_each_partition_counts_for_itself(self) -> None:
        world = World(topics={"t": 3})
        Sending(world).ready()
        world.leads = {("t", 0): (2, 5), ("t", 1): (2, 5), ("t", 2): (None, 3)}
        world.core.routing.refresh(world.now)
        tell(world)
        world.leads = {("t", 0): (3, 6), ("t", 1): (1, 4), ("t", 2): (1, 3)}
        world.core.routing.refresh(world.now)
        tell(world)

        assert world.core.routing.topics["t"].leaders == (3, 2, 1)
        assert world.core.routing.topics["t"].epochs == (6, 5, 3)

    def test_a_broker_that_has_not_heard_of_more_partitions_takes_none_away(self) -> None:
        world = World(topics={"t": 3})
        Sending(world).ready()
        world.topics["t"] = 2
        world.core.routing.refresh(world.now)
        tell(world)

        assert world.core.routing.topics["t"].leaders == (1, 1, 1)

    def test_nothing_is_sent_while_there_is_no_leader(self) -> None:
        producer = sending()
        world = producer.world
        batch = producer.send()
        world.acknowledge(world.take(Api.PRODUCE), Code.NOT_LEADER)
        world.leads["t", 0] = None, 2
        for _ in range(5):
            tell(world)
        assert world.take_all(Api.PRODUCE) == []
        world.leads["t", 0] = 1, 3
        tell(world)
        world.advance(200)
        world.acknowledge(world.take(Api.PRODUCE), 0)

        assert batch.outcome == Stored(0, START_MS)

    def test_a_lost_leader_means_asking_who_leads_until_somebody_does(self) -> None:
        """It takes the cluster a while to notice; the minute's refresh would be far too late."""
        producer = sending(connect_to=2)
        world = producer.world
        batch = producer.send()
        world.take_all(Api.PRODUCE)
        world.lose(world.socket_to(1))
        for _ in range(4):
            tell_from(world, 2)
        world.leader, world.epoch = 2, 2
        tell_from(world, 2)
        world.advance(200)
        world.acknowledge(world.take(Api.PRODUCE), 0)

        assert batch.outcome == Stored(0, START_MS)

    def test_who_leads_is_asked_for_ever_more_seldom(self) -> None:
        producer = sending(connect_to=2)
        world = producer.world
        producer.send()
        world.lose(world.socket_to(1))
        asked = 0
        for _ in range(1_000):
            world.advance(10)
            for sent in [s for s in world.sent if s.api is Api.METADATA]:
                assert world.broker_of(sent) == 2
                world.tell_metadata()
                asked += 1

        assert 25 <= asked <= 50

    def test_a_broker_that_shuts_down_is_left_for_the_next_leader(self) -> None:
        producer = sending(connect_to=2)
        world = producer.world
        producer.send()
        world.refuse(world.take(Api.PRODUCE), Code.SHUTTING_DOWN)
        world.leader, world.epoch = 2, 2
        tell_from(world, 2)
        world.advance(200)

        assert world.broker_of(world.take(Api.PRODUCE)) == 2


def tell_from(world: World, broker: int) -> None:
    """As `tell`, by this broker; the others that are said HELLO to do not answer."""
    for _ in range(50):
        if any(s.api is Api.METADATA for s in world.sent):
            break
        world.advance(50)
    assert world.broker_of(world.tell_metadata()) == broker


class TestHome:
    def test_a_silent_broker_is_found_out_in_seconds(self) -> None:
        """However long the requests themselves may take."""
        producer = sending(connect_to=2, request_timeout_ms=60_000)
        world = producer.world
        producer.send()
        home = world.socket_to(1)
        world.advance(1_000)
        assert world.take(Api.PING).socket == home
        world.advance(7_000)

        assert home in world.closed

    def test_a_broker_that_is_only_slow_keeps_its_connection(self) -> None:
        producer = sending(request_timeout_ms=60_000)
        world = producer.world
        batch = producer.send()
        home = world.socket_to(1)
        sent = world.take(Api.PRODUCE)
        for _ in range(15):
            world.advance(1_000)
            world.answer(world.take(Api.PING), {"time_ms": START_MS})
        world.acknowledge(sent, 9)

        assert batch.outcome == Stored(9, START_MS)
        assert home not in world.closed

    def test_nobody_is_asked_whether_it_is_there_who_owes_nothing(self) -> None:
        producer = sending()
        world = producer.world
        producer.send()
        world.advance(900)
        world.acknowledge(world.take(Api.PRODUCE), 0)
        world.advance(15_000)

        assert world.take_all(Api.PING) == []

    def test_a_silent_broker_is_left_once_another_one_leads(self) -> None:
        """And not before: a slow one may still answer."""
        producer = sending(connect_to=2, request_timeout_ms=60_000)
        world = producer.world
        producer.send()
        silent = world.take(Api.PRODUCE).socket
        world.advance(1_000)
        for _ in range(3):
            tell_from(world, 2)
        assert silent in world.open

        world.leader, world.epoch = 2, 2
        tell_from(world, 2)
        assert silent in world.closed
        world.advance(200)
        assert world.broker_of(world.take(Api.PRODUCE)) == 2

    def test_one_that_was_elected_is_tried_at_once(self) -> None:
        """However often it was not reached before."""
        producer = sending(connect_to=2)
        world = producer.world
        producer.send()
        world.lose(world.socket_to(2))
        for _ in range(400):
            world.advance(50)
            for socket, address in list(world.open.items()):
                if address == "b:2":
                    world.core.handle_link(world.now, socket, Link.REFUSED)
                    world.step()
            for ping in world.take_all(Api.PING):
                world.answer(ping, {"time_ms": START_MS})
        assert world.core.network.connections["b:2"].reopen_at > world.now
        world.leader, world.epoch = 2, 2
        world.take_all(Api.METADATA)
        world.refuse(world.take(Api.PRODUCE), Code.NOT_LEADER)
        tell_from(world, 1)

        assert "b:2" in world.open.values()

    def test_another_broker_is_asked_when_the_home_is_silent(self) -> None:
        producer = sending(connect_to=2)
        world = producer.world
        producer.send()
        world.core.routing.refresh(world.now)
        world.advance(100)
        assert world.broker_of(world.take(Api.METADATA)) == 1
        world.advance(3_000)

        assert world.broker_of(world.take(Api.METADATA)) == 2

    def test_another_broker_is_sought_when_the_home_is_silent(self) -> None:
        producer = sending()
        world = producer.world
        producer.send()
        assert list(world.open.values()) == ["a:1"]
        world.advance(1_000)
        assert list(world.open.values()) == ["a:1", "b:2"]
        world.greet_all()
        world.take_all(Api.METADATA)
        world.core.routing.refresh(world.now)
        world.advance(200)

        assert world.broker_of(world.take(Api.METADATA)) == 2

    def test_the_only_broker_is_asked_all_the_same(self) -> None:
        world = World(brokers={1: "a:1"})
        producer = Sending(world).ready()
        producer.send()
        world.acknowledge(world.take(Api.PRODUCE), Code.TIMED_OUT)
        world.advance(200)

        assert list(world.open.values()) == ["a:1"]
        assert world.broker_of(world.take(Api.METADATA)) == 1

    def test_a_leader_that_cannot_commit_is_not_asked_who_leads(self) -> None:
        """It may be cut off from the others, and does not know that it was replaced."""
        producer = sending(connect_to=2)
        world = producer.world
        producer.send()
        world.acknowledge(world.take(Api.PRODUCE), Code.TIMED_OUT)

        world.leader, world.epoch = 2, 2
        tell_from(world, 2)
        world.advance(200)
        assert world.broker_of(world.take(Api.PRODUCE)) == 2

    def test_a_call_that_waits_for_a_broker_which_is_gone_goes_to_another(self) -> None:
        producer = sending(connect_to=2)
        world = producer.world
        promise = Promise()
        deadline = world.now + 30_000 * MS
        world.core.admin.call(world.now, Api.DESCRIBE, {"kind": "broker"}, deadline, promise)
        world.step()
        world.refuse(world.take(Api.DESCRIBE), Code.NEED_HELLO)
        world.advance(200)
        gone = next(s for s in world.sent if s.api is Api.HELLO)
        world.lose(gone.socket)
        world.advance(200)
        again = world.take(Api.DESCRIBE)

        assert world.broker_of(again) == 2
        world.answer(again, {"items": []})
        assert promise.error is None
        assert producer.world is world


class TestOrder:
    def test_what_was_not_acknowledged_goes_to_the_new_leader_in_order(self) -> None:
        producer = sending(connect_to=2)
        world = producer.world
        batches = [producer.send(b"%d" % n) for n in range(4)]
        first, *others = world.take_all(Api.PRODUCE)
        world.acknowledge(first, 0)
        world.lose(world.socket_to(1))
        world.leader, world.epoch = 2, 2
        tell_from(world, 2)
        world.advance(200)
        again = world.take(Api.PRODUCE)

        assert world.broker_of(again) == 2
        assert again.body == [sent.body[0] for sent in others]
        world.acknowledge(again, 1, 2, 3)
        assert [b.outcome for b in batches] == [Stored(n, START_MS) for n in range(4)]

    def test_a_later_batch_waits_where_an_earlier_one_is_missing(self) -> None:
        """The new leader has lost what was not committed, and knows nothing of this producer."""
        producer = sending(connect_to=2)
        world = producer.world
        batches = [producer.send(b"%d" % n) for n in range(3)]
        zero, one, two = world.take_all(Api.PRODUCE)
        world.acknowledge(zero, moved_to(2, 2))
        world.acknowledge(two, moved_to(2, 2))
        world.acknowledge(one, Code.TIMED_OUT)
        world.advance(200)
        sent = world.take(Api.PRODUCE)
        assert sent.sequences == [(0, 0, 0), (0, 0, 1), (0, 0, 2)]
        unknown = Code.UNKNOWN_PRODUCER
        world.acknowledge(sent, Code.THROTTLED, unknown, unknown)
        world.advance(2_000)
        sent = world.take(Api.PRODUCE)
        assert sent.sequences == [(0, 0, 0), (0, 0, 1), (0, 0, 2)]
        world.acknowledge(sent, 0, 1, 2)

        assert [b.outcome for b in batches] == [Stored(n, START_MS) for n in range(3)]

    def test_nothing_overtakes_what_the_old_leader_has_not_answered(self) -> None:
        """The whole queue moves, with what the old leader may yet have stored: it is recognised."""
        producer = sending(connect_to=2)
        world = producer.world
        batches = [producer.send(b"%d" % n) for n in range(3)]
        zero, one, two = world.take_all(Api.PRODUCE)
        world.acknowledge(one, moved_to(2, 2))
        world.advance(200)
        sent = world.take(Api.PRODUCE)
        assert world.broker_of(sent) == 2
        assert sent.sequences == [(0, 0, 0), (0, 0, 1), (0, 0, 2)]

        world.acknowledge(zero, 0)  # it was committed after all
        assert batches[0].outcome == Stored(0, START_MS)
        world.acknowledge(two, Code.NOT_LEADER)  # of no interest any more
        assert batches[2].outcome is None
        world.acknowledge(sent, 0, 1, 2)
        assert [b.outcome for b in batches] == [Stored(n, START_MS) for n in range(3)]

    def test_without_idempotence_the_old_leaders_answer_is_awaited(self) -> None:
        producer = sending(connect_to=2, idempotent=False)
        world = producer.world
        zero, one = producer.send(b"0"), producer.send(b"1")
        first, second = world.take_all(Api.PRODUCE)
        world.acknowledge(second, moved_to(2, 2))
        world.advance(1_000)
        assert world.take_all(Api.PRODUCE) == []

        world.acknowledge(first, moved_to(2, 2))
        world.advance(200)
        sent = world.take(Api.PRODUCE)
        assert len(sent.body) == 2
        world.acknowledge(sent, 0, 1)
        assert (zero.outcome, one.outcome) == (Stored(0, START_MS), Stored(1, START_MS))

    def test_a_head_in_doubt_that_the_leader_cannot_place_is_perhaps(self) -> None:
        """Acknowledged records are gone there: an unclean election, or acks=1."""
        producer = sending(connect_to=2)
        world = producer.world
        stored = producer.send(b"0")
        world.acknowledge(world.take(Api.PRODUCE), 0)
        doubtful, fresh = producer.send(b"1"), None
        world.lose(world.socket_to(1))
        world.leader, world.epoch = 2, 2
        tell_from(world, 2)
        world.advance(200)
        fresh = producer.send(b"2")
        requests = [s for s in world.take_all(Api.PRODUCE) if world.open.get(s.socket) == "b:2"]
        assert [s.sequences for s in requests] == [[(0, 0, 1)], [(0, 0, 2)]]
        for sent in requests:
            world.acknowledge(sent, Code.UNKNOWN_PRODUCER)

        assert stored.outcome == Stored(0, START_MS)
        assert isinstance(doubtful.outcome, OutcomeUnknownError)
        world.advance(200)
        again = world.take(Api.PRODUCE)
        assert again.sequences == [(0, 1, 0)]
        world.acknowledge(again, 1)
        assert fresh.outcome == Stored(1, START_MS)

    def test_time_ends_the_attempts_and_says_perhaps_of_what_was_in_doubt(self) -> None:
        producer = sending(delivery_timeout_ms=2_000)
        world = producer.world
        doubtful = producer.send(b"0")
        world.lose()
        world.advance(100)
        never_sent = producer.send(b"1")
        world.advance(2_000)

        assert isinstance(doubtful.outcome, TimedOutError)
        assert isinstance(never_sent.outcome, RefusedError)


class TestTopics:
    def test_a_topic_that_one_answer_calls_another_is_the_same(self) -> None:
        """A broker that lags may tell of one that was deleted."""
        producer = sending()
        world = producer.world
        world.ids["t"] = b"the old one's id"
        for _ in range(2):
            world.core.routing.refresh(world.now)
            tell(world)
        world.ids.clear()
        tell(world)

        assert world.core.routing.topics["t"].id == id_of("t")
        assert world.core.routing.topics["t"].leaders == (1,)

    def test_batches_in_doubt_are_not_sent_to_a_topic_made_anew(self) -> None:
        """METADATA may tell of the past; under a new number they could be stored twice."""
        producer = sending(connect_to=2, in_flight=1)
        world = producer.world
        doubtful = producer.send(b"0")
        waiting = producer.send(b"1")
        world.take(Api.PRODUCE)
        world.lose(world.socket_to(1))
        world.leads["t", 0] = None, 2
        tell_from(world, 2)
        world.ids["t"], world.leads["t", 0] = b"another id of it", (2, 1)
        for _ in range(3):
            tell(world)
        world.advance(2_000)
        asked = world.take(Api.PRODUCE)
        world.acknowledge(asked, Code.CORRUPT_BATCH)  # as of another topic

        assert isinstance(doubtful.outcome, OutcomeUnknownError)
        sent = world.take(Api.PRODUCE)
        assert sent.sequences == [(0, 1, 0)]
        world.acknowledge(sent, 0)
        assert waiting.outcome == Stored(0, START_MS)

    def test_batches_in_doubt_of_a_topic_that_is_gone_are_perhaps(self) -> None:
        producer = sending(in_flight=1)
        world = producer.world
        doubtful, waiting = producer.send(b"0"), producer.send(b"1")
        del world.topics["t"]
        world.core.routing.refresh(world.now)
        for _ in range(3):
            tell(world)

        assert isinstance(doubtful.outcome, OutcomeUnknownError)
        assert isinstance(waiting.outcome, NotFoundError)

    def test_numbers_do_not_come_again_when_a_topic_does(self) -> None:
        """
        It was never gone: the broker that said so was behind. With the same numbers the next
        records would be taken for those that are stored already, and be lost.
        """
        producer = sending()
        world = producer.world
        producer.send(b"0")
        world.acknowledge(world.take(Api.PRODUCE), 0)
        world.topics.clear()
        world.core.routing.refresh(world.now)
        for _ in range(3):
            tell(world)
        world.topics["t"] = 1
        producer.send(b"1")
        tell(world)

        assert world.take(Api.PRODUCE).sequences == [(0, 1, 0)]

    def test_a_consumer_does_not_go_on_in_a_topic_made_anew(self) -> None:
        """Its offset means nothing there; going on would skip records without a word."""
        world = World()
        consumer = Fetching(world, start=Place(PlaceKind.OFFSET, 50), group="g")
        world.greet()
        world.tell_metadata()
        sent = world.take(Api.FETCH)
        gone = error_to_wire(refusal(Code.UNKNOWN_TOPIC, "deleted"))
        world.answer(sent, {"partitions": [gone]})
        world.ids["t"] = b"another id of it"
        for _ in range(3):
            for sent in world.take_all(Api.FETCH):
                world.answer(sent, {"partitions": [gone]})
            tell(world)
        world.advance(2_000)
        assert isinstance(consumer.machine.errors[0], NotFoundError)
        assert world.take_all(Api.FETCH) == []

        consumer.machine.commits.commit(  # type: ignore[union-attr]
            world.now, {("t", 0): 50}, world.now + 5_000 * MS, None
        )
        world.step()
        assert world.take(Api.OFFSET_COMMIT).fields["offsets"][0][0] == id_of("t")

        consumer.machine.seek(world.now, "t", 0, 1, Place(PlaceKind.OFFSET, 0))
        world.step()
        assert world.take(Api.FETCH).fields["partitions"][0][:3] == [b"another id of it", 0, 0]


class TestConsumer:
    def test_a_fetch_that_is_lost_goes_to_the_new_leader_from_the_same_offset(self) -> None:
        world = World()
        Fetching(world)
        world.greet()
        world.tell_metadata()
        world.core.network.to_broker(2)
        world.step()
        world.greet_all()
        answer_fetch(world, world.take(Api.FETCH), {0: stored_batch(0, [b"x"] * 5)})
        world.lose(world.socket_to(1))
        world.leader, world.epoch = 2, 2
        tell_from(world, 2)
        world.advance(200)

        sent = world.take_all(Api.FETCH)[-1]
        assert world.broker_of(sent) == 2
        assert sent.fields["partitions"][0][2] == 5

    def test_with_room_for_one_fetch_the_leaders_are_asked_in_turn(self) -> None:
        world = World(topics={"t": 2})
        world.leads["t", 1] = 2, 1
        Fetching(world, prefetch_bytes=1_000, fetch_bytes=1_000)
        world.greet()
        world.tell_metadata()
        world.core.network.to_broker(2)
        world.step()
        world.greet_all()
        asked = []
        for _ in range(4):
            sent = world.take(Api.FETCH)
            asked.append(world.broker_of(sent))
            answer_fetch(world, sent, {})

        assert asked == [1, 2, 1, 2]


GROUP = "g"
PARTS = 8
MINE = offsets_partition(GROUP, PARTS)


class Committing:
    """A consumer of a group whose coordinator is broker 2."""

    def __init__(self, place: PlaceKind = PlaceKind.OFFSET) -> None:
        world = self.world = World(topics={"t": 1, OFFSETS_TOPIC: PARTS})
        world.leads[OFFSETS_TOPIC, MINE] = 2, 1
        self.consumer = Fetching(world, start=Place(place, 0), group=GROUP, auto_commit=False)
        world.greet()
        world.tell_metadata()
        world.advance(1)
        world.greet_all()
        commits = self.consumer.machine.commits
        assert commits is not None
        self.machine: Commits = commits

    def commit(self, offset: int, timeout_ms: int = 5_000) -> Promise:
        promise, world = Promise(), self.world
        self.machine.commit(world.now, {("t", 0): offset}, world.now + timeout_ms * MS, promise)
        world.step()
        world.greet_all()
        return promise

    def move(self, broker: int, epoch: int) -> None:
        """Another broker is the coordinator; METADATA tells."""
        self.world.leads[OFFSETS_TOPIC, MINE] = broker, epoch
        tell_from(self.world, 1)
        self.world.advance(100)
        self.world.greet_all()
        self.world.advance(900)


class TestCoordinator:
    def test_offsets_are_committed_and_fetched_at_the_groups_coordinator(self) -> None:
        case = Committing(PlaceKind.STORED)
        world = case.world
        fetched = world.take(Api.OFFSET_FETCH)
        assert world.broker_of(fetched) == 2
        world.answer(fetched, {"offsets": [[id_of("t"), 0, 9, 1, "", START_MS]]})
        promise = case.commit(10)
        sent = world.take(Api.OFFSET_COMMIT)
        assert world.broker_of(sent) == 2
        world.answer(sent, {"results": [None]})

        assert promise.is_done
        assert promise.error is None

    @pytest.mark.parametrize(
        "code",
        [Code.NOT_LEADER, Code.COORDINATOR_LOADING, Code.THROTTLED, Code.NOT_COMMITTED],
    )
    def test_it_is_tried_again_at_whoever_is_the_coordinator_by_then(self, code: Code) -> None:
        case = Committing()
        world = case.world
        promise = case.commit(10)
        world.refuse(world.take(Api.OFFSET_COMMIT), code)
        world.core.routing.refresh(world.now)
        case.move(3, 2)
        again = world.take_all(Api.OFFSET_COMMIT)[-1]
        assert again.fields["offsets"][0][2] == 10
        world.answer(again, {"results": [None]})

        assert world.broker_of(again) == 3
        assert promise.is_done
        assert promise.error is None

    def test_a_lost_answer_is_asked_for_again_before_anything_newer(self) -> None:
        case = Committing()
        world = case.world
        old, new = case.commit(10), case.commit(11)
        assert len(world.take_all(Api.OFFSET_COMMIT)) == 1
        world.lose(world.socket_to(2))
        case.move(3, 2)
        again = world.take(Api.OFFSET_COMMIT)
        assert (world.broker_of(again), again.fields["offsets"][0][2]) == (3, 10)
        world.answer(again, {"results": [None]})
        assert old.is_done
        assert not new.is_done

        world.answer(world.take(Api.OFFSET_COMMIT), {"results": [None]})
        assert new.is_done
        assert case.machine.committed == {("t", 0): 11}

    def test_a_commit_says_until_when_it_may_be_taken(self) -> None:
        """What is taken later could undo a newer one."""
        case = Committing()
        case.commit(10, timeout_ms=5_000)
        sent = case.world.take(Api.OFFSET_COMMIT)

        assert sent.fields["expires_ms"] == START_MS + case.world.now // MS + 5_001

    def test_at_the_deadline_it_is_perhaps_if_any_attempt_was_not_answered(self) -> None:
        case = Committing()
        world = case.world
        promise = case.commit(10)
        world.lose(world.socket_to(2))
        world.leads[OFFSETS_TOPIC, MINE] = None, 2
        for _ in range(4):
            tell(world)
        world.advance(5_000)

        assert isinstance(promise.error, OutcomeUnknownError)

    def test_at_the_deadline_it_is_no_if_all_were_refused(self) -> None:
        case = Committing()
        world = case.world
        promise = case.commit(10)
        world.refuse(world.take(Api.OFFSET_COMMIT), Code.NOT_LEADER)
        world.leads[OFFSETS_TOPIC, MINE] = None, 2
        for _ in range(4):
            tell(world)
        world.advance(5_000)

        assert isinstance(promise.error, RefusedError)

    def test_a_refusal_after_a_lost_answer_is_perhaps(self) -> None:
        case = Committing()
        world = case.world
        promise = case.commit(10)
        world.take(Api.OFFSET_COMMIT)
        world.lose(world.socket_to(2))
        case.move(3, 2)
        world.refuse(world.take(Api.OFFSET_COMMIT), Code.DENIED)

        assert isinstance(promise.error, OutcomeUnknownError)

    def test_a_coordinator_that_has_not_heard_of_the_topic_is_asked_again(self) -> None:
        case = Committing()
        world = case.world
        promise = case.commit(10)
        unknown = error_to_wire(refusal(Code.UNKNOWN_TOPIC, "not yet"))
        world.answer(world.take(Api.OFFSET_COMMIT), {"results": [unknown]})
        tell(world)
        world.advance(1_000)
        world.answer(world.take(Api.OFFSET_COMMIT), {"results": [None]})

        assert promise.error is None
        assert promise.is_done

    def test_a_cluster_that_has_not_made_its_offsets_topic_yet_is_waited_for(self) -> None:
        world = World(topics={"t": 1, OFFSETS_TOPIC: 1})
        offsets = world.topics.pop(OFFSETS_TOPIC)
        world.topics[OFFSETS_TOPIC] = None  # type: ignore[assignment]
        Fetching(world, start=Place(PlaceKind.STORED), group=GROUP)
        world.greet()
        for _ in range(6):
            tell(world)
        world.topics[OFFSETS_TOPIC] = offsets
        tell(world)
        world.advance(100)

        assert world.take(Api.OFFSET_FETCH).fields["group"] == GROUP

    def test_the_start_of_a_group_is_asked_at_the_next_coordinator(self) -> None:
        case = Committing(PlaceKind.STORED)
        world = case.world
        world.refuse(world.take(Api.OFFSET_FETCH), Code.NOT_LEADER, leader=1, leader_epoch=2)
        world.advance(200)
        again = world.take(Api.OFFSET_FETCH)
        assert world.broker_of(again) == 1
        world.answer(again, {"offsets": [[id_of("t"), 0, 9, 1, "", START_MS]]})

        assert world.take(Api.FETCH).fields["partitions"][0][2] == 9


class TestController:
    """REASSIGN and ELECT go to whoever the brokers call the controller."""

    FIELDS = {"topic": "t", "partitions": [[0, [2]]]}  # noqa: RUF012 - never changed

    def asked(self, ms: int = 30_000) -> tuple[World, Promise]:
        world, promise = World(), Promise()
        world.greet()
        deadline = world.now + ms * MS
        world.core.admin.call(world.now, Api.REASSIGN, self.FIELDS, deadline, promise)
        world.step()
        return world, promise

    def redirect(self, world: World, leader: int | None) -> None:
        hints = {} if leader is None else {"leader": leader}
        world.refuse(world.take(Api.REASSIGN), Code.NOT_LEADER, **hints)
        if leader is not None:
            world.tell_metadata()
        world.advance(100)
        world.greet_all()
        world.advance(100)

    def test_the_hint_is_followed(self) -> None:
        world, promise = self.asked()
        self.redirect(world, 3)
        sent = world.take(Api.REASSIGN)
        assert world.broker_of(sent) == 3
        assert sent.fields["partitions"] == self.FIELDS["partitions"]
        world.answer(sent, {"results": [None]})
        assert promise.value == {"results": [None]}

    def test_a_controller_that_is_not_reached_is_asked_for_again(self) -> None:
        world, promise = self.asked()
        world.refuse(world.take(Api.REASSIGN), Code.NOT_LEADER, leader=3)
        world.tell_metadata()
        world.advance(100)
        assert world.take_all(Api.REASSIGN) == []
        world.take(Api.HELLO)
        world.core.handle_link(world.now, world.socket_to(3), Link.REFUSED)
        world.step()
        world.advance(2_000)
        again = world.take(Api.REASSIGN)
        assert world.broker_of(again) == 1
        world.answer(again, {"results": [None]})
        assert promise.value == {"results": [None]}

    def test_while_there_is_none_it_is_asked_again(self) -> None:
        world, promise = self.asked()
        for _ in range(3):
            self.redirect(world, None)
            world.advance(1_000)
        world.answer(world.take(Api.REASSIGN), {"results": [None]})
        assert promise.value == {"results": [None]}

    def test_until_the_deadline(self) -> None:
        world, promise = self.asked(1_500)
        for _ in range(20):
            for sent in world.take_all(Api.REASSIGN):
                world.refuse(sent, Code.NOT_LEADER)
            world.advance(100)
        assert promise.error.code is Code.NOT_LEADER

    def test_a_lost_answer_is_a_perhaps(self) -> None:
        world, promise = self.asked()
        world.take(Api.REASSIGN)
        world.lose()
        world.advance(10_000)
        assert isinstance(promise.error, OutcomeUnknownError)
        assert world.take_all(Api.REASSIGN) == []


class TestOneBroker:
    """What is asked of one broker is asked of no other."""

    def asked(self, broker: int, ms: int = 30_000) -> tuple[World, Promise]:
        world, promise = World(), Promise()
        world.greet()
        fields = {"kind": "broker"}
        deadline = world.now + ms * MS
        world.core.network.note_brokers({2: "b2:1"})
        world.core.admin.call_exactly(world.now, Api.DESCRIBE, fields, deadline, promise, broker)
        world.step()
        return world, promise

    def test_the_whole_reply_comes(self) -> None:
        world, promise = self.asked(1)
        world.answer(world.take(Api.DESCRIBE), {"items": [{}], "more": False}, [b"body"])

        assert promise.value.fields == {"items": [{}], "more": False}
        assert (promise.value.broker, list(promise.value.body)) == (1, [b"body"])

    def test_a_refusal_is_not_asked_again(self) -> None:
        world, promise = self.asked(1)
        world.refuse(world.take(Api.DESCRIBE), Code.NOT_LEADER)

        assert promise.error.code is Code.NOT_LEADER

    def test_one_that_nobody_knows_fails_at_once(self) -> None:
        world, promise = self.asked(7)

        assert str(promise.error) == "broker 7 is not up"
        assert world.take_all(Api.DESCRIBE) == []

    def test_one_that_cannot_be_reached_fails_and_says_where(self) -> None:
        world, promise = self.asked(2)
        world.refuse_connection()
        world.advance(100)

        assert str(promise.error).startswith("broker 2 is not reached at b2:1: ")
        assert world.take_all(Api.DESCRIBE) == []

    def test_one_that_is_silent_fails_at_the_deadline(self) -> None:
        world, promise = self.asked(2, ms=1_000)
        world.advance(1_100)

        assert "broker 2 is not reached at b2:1" in str(promise.error)
