"""What becomes of batches: sent in order, sent again, stored, refused, given up on.

The broker's side is scripted: each test says what it answers. How records become batches is in
test_accumulator.py.
"""

from __future__ import annotations

import pytest

from tests.unit.client.scripted import START_MS, Sending, Sent, World, id_of, sending
from zmqmq.batch.decode import decode_batches
from zmqmq.batch.layout import log_seed, stamp
from zmqmq.client.machines.batch import Batch, Stored
from zmqmq.client.machines.effects import MS
from zmqmq.errors import (
    Code,
    DisconnectedError,
    FencedError,
    NotFoundError,
    OutcomeUnknownError,
    RefusedError,
    RetryError,
    TimedOutError,
)
from zmqmq.model.limits import SEQUENCE_MAX
from zmqmq.wire.apis import Api


def values_of(data: bytes) -> list[bytes | None]:
    """The values of a batch as a producer sends it."""
    stamped = stamp(0, len(data), 1, 1, 0, data[36:40]) + data[36:]
    (batch,) = decode_batches(stamped, log_seed(id_of("t"), 0), "t", 0)
    return batch.values


def assert_stored(batch: Batch, offset: int) -> None:
    assert batch.outcome == Stored(offset, START_MS)


def test_nothing_is_sent_before_connection_topic_and_producer_id_are_there() -> None:
    world = World()
    producer = Sending(world)
    producer.send()
    assert {s.api for s in world.sent} == {Api.HELLO}
    world.greet()
    assert {s.api for s in world.sent} == {Api.METADATA, Api.INIT_PRODUCER}
    world.tell_metadata()
    assert world.take_all(Api.PRODUCE) == []
    world.tell_producer_id()

    assert len(world.take_all(Api.PRODUCE)) == 1


def test_a_request_says_where_each_batch_goes_and_when_it_is_too_late() -> None:
    producer = sending(request_timeout_ms=5_000)
    producer.send(b"hello")
    sent = producer.world.take(Api.PRODUCE)

    assert sent.fields["acks"] == -1
    assert sent.fields["timeout_ms"] == 5_000
    assert sent.fields["batches"] == [[id_of("t"), 0]]
    assert sent.fields["expires_ms"] == START_MS + producer.world.now // MS + 5_001
    assert values_of(sent.body[0]) == [b"hello"]


def test_an_acknowledged_batch_knows_its_offset_and_frees_its_room() -> None:
    producer = sending()
    batch = producer.send()
    producer.world.acknowledge(producer.world.take(Api.PRODUCE), 41)

    assert_stored(batch, 41)
    assert producer.world.settled == [batch]
    assert producer.accumulator.free == producer.options.buffer_bytes


def test_sequences_count_records() -> None:
    producer = sending(batch_records=3, linger_ms=60_000)
    for _ in range(7):
        producer.put()
    producer.accumulator.seal_all()
    producer.world.step()

    assert producer.world.take(Api.PRODUCE).sequences == [(0, 0, 0), (0, 0, 3), (0, 0, 6)]


def test_at_most_in_flight_batches_of_a_partition_are_out() -> None:
    producer = sending(in_flight=3)
    batches = [producer.send() for _ in range(3)]
    producer.send(b"waits")
    producer.send(b"too")
    requests = producer.world.take_all(Api.PRODUCE)
    assert len(requests) == 3

    producer.world.acknowledge(requests[0], 0)
    late = producer.world.take(Api.PRODUCE)
    assert values_of(late.body[0]) == [b"waits", b"too"]
    assert batches[1].outcome is None


def test_the_broker_may_allow_fewer_batches_in_flight() -> None:
    producer = Sending(World(limits={"in_flight": 2})).ready()
    for _ in range(5):
        producer.send()

    assert len(producer.world.take_all(Api.PRODUCE)) == 2


def test_answers_may_come_in_any_order() -> None:
    producer = sending()
    batches = [producer.send() for _ in range(3)]
    one, two, three = producer.world.take_all(Api.PRODUCE)
    producer.world.acknowledge(three, 2)
    producer.world.acknowledge(one, 0)
    producer.world.acknowledge(two, 1)

    for offset, batch in enumerate(batches):
        assert_stored(batch, offset)


def test_a_lost_connection_sends_the_same_bytes_again_in_order() -> None:
    producer = sending()
    world = producer.world
    batches = [producer.send(b"%d" % n) for n in range(3)]
    before = [r.body[0] for r in world.take_all(Api.PRODUCE)]
    world.lose()
    world.reconnect()
    world.advance(200)
    again = world.take(Api.PRODUCE)

    assert again.body == before
    world.acknowledge(again, 0, 1, 2)
    assert_stored(batches[2], 2)


def test_a_request_without_an_answer_is_sent_again() -> None:
    producer = sending(request_timeout_ms=1_000)
    batch = producer.send()
    first = producer.world.take(Api.PRODUCE)
    for _ in range(7):
        producer.world.advance(500)
        for ping in producer.world.take_all(Api.PING):
            producer.world.answer(ping, {"time_ms": START_MS})
    second = producer.world.take(Api.PRODUCE)

    assert second.body == first.body
    producer.world.acknowledge(second, 5)
    assert_stored(batch, 5)


def test_a_duplicate_is_stored_somewhere() -> None:
    producer = sending()
    batch = producer.send()
    producer.world.acknowledge(producer.world.take(Api.PRODUCE), Code.DUPLICATE_SEQUENCE)

    assert batch.outcome == Stored(-1, -1)


def test_a_broker_that_is_not_the_leader_means_asking_who_is() -> None:
    producer = sending()
    world = producer.world
    batch = producer.send()
    sent = world.take(Api.PRODUCE)
    world.acknowledge(sent, Code.NOT_LEADER)
    world.leader = 2
    world.advance(100)
    world.tell_metadata()
    world.advance(100)
    assert world.open[world.socket] == "b:2"
    world.greet(broker=2)
    again = world.take(Api.PRODUCE)

    assert again.socket == world.socket
    assert again.body == sent.body
    world.acknowledge(again, 0)
    assert_stored(batch, 0)


def test_a_gap_is_filled_before_what_came_behind_it() -> None:
    producer = sending()
    world = producer.world
    producer.send(b"0")
    producer.send(b"1")
    zero, one = world.take_all(Api.PRODUCE)
    world.acknowledge(one, Code.OUT_OF_ORDER_SEQUENCE)
    world.refuse(zero, Code.THROTTLED, retry_after_ms=50)
    world.take_all(Api.PRODUCE)
    world.advance(150)
    again = world.take_all(Api.PRODUCE)[-1]

    assert again.sequences[-1][2] == 1
    assert again.body[-1] == one.body[0]


def test_a_throttled_request_waits_as_long_as_it_is_told() -> None:
    producer = sending(retry_backoff_ms=1)
    world = producer.world
    producer.send()
    world.refuse(world.take(Api.PRODUCE), Code.THROTTLED, retry_after_ms=300)
    world.advance(299)
    assert world.take_all(Api.PRODUCE) == []

    world.advance(1)
    assert len(world.take_all(Api.PRODUCE)) == 1


def test_retries_back_off() -> None:
    producer = sending(retry_backoff_ms=100)
    world = producer.world
    producer.send()
    waits = []
    for _ in range(6):
        world.refuse(world.take(Api.PRODUCE), Code.DISK_FULL)
        began = world.now
        while not any(s.api is Api.PRODUCE for s in world.sent):
            world.advance(10)
        waits.append((world.now - began) // MS)

    assert waits == [100, 200, 400, 800, 1600, 2000]


def test_a_clock_that_was_not_known_well_is_no_reason_to_wait() -> None:
    """Seed 231: what was refused waited, and was by then as old as that before it had been; nothing
    was stored any more."""
    producer = sending(delivery_timeout_ms=1_000)
    world = producer.world
    batch = producer.send()
    world.advance(600)
    first = world.take(Api.PRODUCE)
    ahead = first.fields["expires_ms"] + 5_000
    world.refuse(first, Code.DEADLINE_PASSED, time_ms=ahead)
    again = world.take(Api.PRODUCE)

    assert again.body == first.body
    assert again.fields["expires_ms"] == ahead + 401
    world.acknowledge(again, 0)
    assert_stored(batch, 0)


def test_requests_that_are_lost_together_are_one_failure() -> None:
    """Or a broker that comes back at once would be left alone for seconds."""
    producer = sending()
    world = producer.world
    for _ in range(16):
        producer.send()
    assert len(world.take_all(Api.PRODUCE)) == 16
    world.lose()
    world.advance(100)
    world.greet()

    assert len(world.take(Api.PRODUCE).body) == 16


def test_a_refused_batch_fails_and_the_numbers_begin_anew() -> None:
    """The batches behind it cannot follow a number that never came."""
    producer = sending()
    world = producer.world
    bad, good = producer.send(b"bad"), producer.send(b"good")
    first, second = world.take_all(Api.PRODUCE)
    assert (first.sequences, second.sequences) == ([(0, 0, 0)], [(0, 0, 1)])
    world.acknowledge(first, Code.CORRUPT_BATCH)
    assert isinstance(bad.outcome, RefusedError)
    assert world.take_all(Api.PRODUCE) == []  # the second one may yet be appended

    world.acknowledge(second, Code.UNKNOWN_PRODUCER)
    again = world.take(Api.PRODUCE)
    assert again.sequences == [(0, 1, 0)]
    assert values_of(again.body[0]) == [b"good"]
    world.acknowledge(again, 0)
    assert_stored(good, 0)


def test_unknown_producer_at_the_head_begins_anew_and_keeps_the_order() -> None:
    producer = sending()
    world = producer.world
    world.acknowledge(_sent(producer, b"x"), 0)
    producer.send(b"a")
    producer.send(b"b")
    first, second = world.take_all(Api.PRODUCE)
    world.acknowledge(first, Code.UNKNOWN_PRODUCER)
    world.acknowledge(second, Code.UNKNOWN_PRODUCER)
    again = world.take(Api.PRODUCE)

    assert again.sequences == [(0, 1, 0), (0, 1, 1)]
    assert [values_of(frame) for frame in again.body] == [[b"a"], [b"b"]]


def test_only_the_partition_concerned_begins_anew() -> None:
    world = World(topics={"t": 2})
    producer = Sending(world).ready()
    world.acknowledge(_sent(producer, b"x", partition=0), 0)
    world.acknowledge(_sent(producer, b"x", partition=1), 0)
    world.acknowledge(_sent(producer, b"x", partition=0), Code.UNKNOWN_PRODUCER)

    assert world.take(Api.PRODUCE).sequences == [(0, 1, 0)]
    assert _sent(producer, b"x", partition=1).sequences == [(1, 0, 1)]


def test_what_follows_a_number_that_no_log_has_is_in_no_log_either() -> None:
    """However its own sending ended: so it can have another number at once."""
    producer = sending(in_flight=2)
    world = producer.world
    bad, behind = producer.send(b"0"), producer.send(b"1")
    zero, _ = world.take_all(Api.PRODUCE)
    world.acknowledge(zero, Code.CORRUPT_BATCH)
    world.lose()
    world.reconnect()
    world.advance(300)

    assert isinstance(bad.outcome, RefusedError)
    assert world.take(Api.PRODUCE).sequences == [(0, 1, 0)]
    assert behind.outcome is None


def given_up_in_doubt() -> tuple[Sending, Batch, Sent]:
    """Two batches in doubt; the first is given up, the second asked for under its old number."""
    world = World(brokers={1: "a:1"})
    producer = Sending(world, in_flight=2, delivery_timeout_ms=1_000).ready()
    first = producer.send(b"0")
    world.advance(500)
    second = producer.send(b"1")
    world.take_all(Api.PRODUCE)
    world.lose()
    world.reconnect()
    world.advance(250)
    world.take(Api.PRODUCE)
    world.lose()
    world.advance(400)
    assert isinstance(first.outcome, TimedOutError)
    world.greet_all()
    asked = world.take(Api.PRODUCE)
    assert asked.sequences == [(0, 0, 1)]
    return producer, second, asked


def test_a_batch_in_doubt_behind_one_that_was_given_up_keeps_its_number() -> None:
    producer, second, asked = given_up_in_doubt()
    producer.world.acknowledge(asked, 8)

    assert_stored(second, 8)
    assert _sent(producer, b"2").sequences == [(0, 1, 0)]


@pytest.mark.parametrize("code", [Code.OUT_OF_ORDER_SEQUENCE, Code.UNKNOWN_PRODUCER])
def test_a_batch_in_doubt_that_one_broker_does_not_have_is_perhaps(code: Code) -> None:
    """
    The next leader may have it, if this one was elected while the other was away. Under a new
    number it could be stored twice, and no is not the truth either.
    """
    producer, second, asked = given_up_in_doubt()
    producer.world.acknowledge(asked, code)

    assert isinstance(second.outcome, OutcomeUnknownError)
    assert _sent(producer, b"2").sequences == [(0, 1, 0)]


def test_never_sent_is_no() -> None:
    world = World()
    producer = Sending(world, delivery_timeout_ms=500)
    batch = producer.send()
    world.advance(500)

    assert isinstance(batch.outcome, RefusedError)
    assert batch.outcome.code is Code.DEADLINE_PASSED
    assert producer.accumulator.free == producer.options.buffer_bytes


def test_sent_and_not_answered_is_perhaps() -> None:
    producer = sending(delivery_timeout_ms=500)
    batch = producer.send()
    producer.world.advance(500)

    assert isinstance(batch.outcome, TimedOutError)


def test_sent_and_always_refused_is_no_with_the_brokers_reason() -> None:
    producer = sending(delivery_timeout_ms=500)
    world = producer.world
    batch = producer.send()
    while batch.outcome is None:
        for sent in world.take_all(Api.PRODUCE):
            world.acknowledge(sent, Code.TOPIC_FULL)
        world.advance(10)

    assert isinstance(batch.outcome, RetryError)
    assert batch.outcome.code is Code.TOPIC_FULL


def test_an_answer_after_giving_up_changes_nothing() -> None:
    producer = sending(delivery_timeout_ms=500)
    batch = producer.send()
    sent = producer.world.take(Api.PRODUCE)
    producer.world.advance(500)
    producer.world.acknowledge(sent, 7)

    assert isinstance(batch.outcome, TimedOutError)
    assert producer.world.settled == [batch]


def test_after_giving_up_the_next_batch_begins_a_new_epoch() -> None:
    producer = sending(delivery_timeout_ms=500)
    producer.send()
    producer.world.take(Api.PRODUCE)
    producer.world.advance(500)
    producer.send(b"next")

    assert producer.world.take(Api.PRODUCE).sequences == [(0, 1, 0)]


def test_the_number_after_the_last_is_zero() -> None:
    producer = sending()
    (queue,) = producer.accumulator.topic("t").partitions
    queue.next_sequence = SEQUENCE_MAX - 1
    for _ in range(3):
        producer.put()
    producer.world.step()
    assert producer.world.take(Api.PRODUCE).sequences == [(0, 0, SEQUENCE_MAX - 1)]

    producer.send()
    assert producer.world.take(Api.PRODUCE).sequences == [(0, 0, 1)]


def test_batches_of_several_partitions_share_a_request() -> None:
    world = World(topics={"t": 200})
    producer = Sending(world, linger_ms=60_000).ready()
    for partition in range(200):
        producer.put(partition=partition)
    producer.accumulator.seal_all()
    world.step()
    requests = world.take_all(Api.PRODUCE)

    assert [len(r.body) for r in requests] == [63, 63, 63, 11]
    assert sorted(p for r in requests for _, p in r.fields["batches"]) == list(range(200))


def test_a_request_stays_below_the_brokers_limit() -> None:
    world = World(topics={"t": 8}, limits={"request_bytes": 300_000})
    producer = Sending(world, linger_ms=60_000, batch_bytes=200_000).ready()
    for partition in range(8):
        producer.put(b"x" * 100_000, partition=partition)
    producer.accumulator.seal_all()
    world.step()

    assert all(sum(map(len, r.body)) < 300_000 for r in world.take_all(Api.PRODUCE))


def test_a_batch_larger_than_the_broker_takes_fails_alone() -> None:
    world = World(limits={"batch_bytes": 1_000})
    producer = Sending(world).ready()
    large = producer.send(b"x" * 2_000)
    small = producer.send(b"small")
    sent = world.take(Api.PRODUCE)

    assert isinstance(large.outcome, RefusedError)
    assert large.outcome.code is Code.TOO_LARGE
    assert sent.sequences == [(0, 0, 0)]
    world.acknowledge(sent, 0)
    assert_stored(small, 0)


def test_batches_are_no_larger_than_the_broker_says_it_takes() -> None:
    world = World(limits={"batch_bytes": 1_000})
    producer = Sending(world, linger_ms=60_000).ready()
    world.acknowledge(_sent_all(producer), 0)
    for _ in range(100):
        producer.put(b"x" * 50)
    producer.accumulator.seal_all()
    world.step()

    assert all(len(f) <= 1_000 for s in world.take_all(Api.PRODUCE) for f in s.body)


def test_results_are_each_batchs_own() -> None:
    world = World(topics={"t": 3})
    producer = Sending(world, linger_ms=60_000).ready()
    batches = [producer.put(partition=partition) for partition in range(3)]
    producer.accumulator.seal_all()
    world.step()
    world.acknowledge(world.take(Api.PRODUCE), 5, Code.CORRUPT_BATCH, 9)

    assert_stored(batches[0], 5)
    assert isinstance(batches[1].outcome, RefusedError)
    assert_stored(batches[2], 9)


def test_an_unknown_topic_fails_its_records_and_no_others() -> None:
    producer = sending()
    world = producer.world
    lost = producer.send(topic="typo")
    for _ in range(3):
        world.tell_metadata()
        world.greet_all()
        world.advance(200)
    assert isinstance(lost.outcome, NotFoundError)

    fine = producer.send()
    world.acknowledge(world.take(Api.PRODUCE), 0)
    assert_stored(fine, 0)


def test_a_topic_that_is_made_later_works_later() -> None:
    producer = sending()
    world = producer.world
    producer.send(topic="new")
    for _ in range(3):
        world.tell_metadata()
        world.greet_all()
        world.advance(200)
    world.topics["new"] = 1
    batch = producer.send(topic="new")
    world.tell_metadata()
    world.acknowledge(world.take(Api.PRODUCE), 0)

    assert_stored(batch, 0)


def test_without_idempotence_perhaps_is_final() -> None:
    producer = sending(idempotent=False)
    batch = producer.send()
    sent = producer.world.take(Api.PRODUCE)
    assert sent.headers[0].producer_id == 0
    producer.world.lose()

    assert isinstance(batch.outcome, DisconnectedError)


def test_without_idempotence_a_refusal_is_still_tried_again() -> None:
    producer = sending(idempotent=False)
    batch = producer.send()
    producer.world.refuse(producer.world.take(Api.PRODUCE), Code.THROTTLED)
    producer.world.advance(100)
    producer.world.acknowledge(producer.world.take(Api.PRODUCE), 3)

    assert_stored(batch, 3)


def test_without_acks_a_batch_is_done_when_it_is_sent() -> None:
    producer = sending(acks=0)
    batch = producer.send()
    sent = producer.world.take(Api.PRODUCE)

    assert sent.fields["acks"] == 0
    assert sent.headers[0].producer_id == 0
    assert batch.outcome == Stored(-1, -1)
    assert producer.accumulator.free == producer.options.buffer_bytes


def test_acks_of_the_leader_alone() -> None:
    assert _sent(sending(acks=1)).fields["acks"] == 1


def test_a_fenced_producer_says_so() -> None:
    producer = sending()
    batch = producer.send()
    producer.world.acknowledge(producer.world.take(Api.PRODUCE), Code.PRODUCER_FENCED)

    assert isinstance(batch.outcome, FencedError)


def test_the_producer_id_is_asked_for_until_it_is_told() -> None:
    world = World()
    producer = Sending(world)
    producer.send()
    world.greet()
    world.tell_metadata()
    world.refuse(world.take(Api.INIT_PRODUCER), Code.COORDINATOR_LOADING)
    world.advance(100)
    world.tell_producer_id(99)

    assert world.take(Api.PRODUCE).headers[0].producer_id == 99


def test_closing_gives_everything_an_outcome() -> None:
    producer = sending(in_flight=1)
    sent, waiting = producer.send(), producer.send()
    producer.world.core.remove_producer(producer.machine)
    producer.world.take_effects()

    assert isinstance(sent.outcome, TimedOutError)
    assert isinstance(waiting.outcome, RefusedError)
    assert producer.accumulator.free == producer.options.buffer_bytes


def test_nonsense_in_an_answer_is_perhaps_and_asked_again() -> None:
    producer = sending()
    batch = producer.send()
    first = producer.world.take(Api.PRODUCE)
    producer.world.answer(first, {"results": []})
    producer.world.advance(200)
    again = producer.world.take(Api.PRODUCE)

    assert again.body == first.body
    producer.world.acknowledge(again, 0)
    assert_stored(batch, 0)


def test_a_failed_delivery_is_loud_even_if_nobody_holds_the_handle() -> None:
    producer = sending()
    producer.send()
    producer.world.acknowledge(producer.world.take(Api.PRODUCE), Code.DENIED)

    assert [o.event for o in producer.world.observed if o.is_warning] == ["delivery-failed"]


def test_a_topic_made_anew_gets_what_was_not_stored_in_the_old_one() -> None:
    producer = sending()
    world = producer.world
    batch = producer.send()
    world.acknowledge(world.take(Api.PRODUCE), Code.UNKNOWN_TOPIC)
    world.ids["t"] = b"another id of it"
    for _ in range(3):
        while not any(s.api is Api.METADATA for s in world.sent):
            world.advance(50)
        for sent in world.take_all(Api.PRODUCE):
            world.acknowledge(sent, Code.UNKNOWN_TOPIC)
        world.tell_metadata()
        world.greet_all()
    world.advance(2_000)
    again = world.take(Api.PRODUCE)

    assert again.fields["batches"] == [[b"another id of it", 0]]
    assert again.sequences == [(0, 1, 0)]
    world.acknowledge(again, 0)
    assert_stored(batch, 0)


@pytest.mark.parametrize("linger_ms", [0, 5, 200])
def test_linger_is_waited_for_and_no_longer(linger_ms: int) -> None:
    producer = sending(linger_ms=linger_ms)
    producer.send()
    if linger_ms:
        producer.world.advance(linger_ms - 0.1)
        assert producer.world.take_all(Api.PRODUCE) == []
        producer.world.advance(0.1)

    assert len(producer.world.take_all(Api.PRODUCE)) == 1


def _sent_all(producer: Sending) -> Sent:
    producer.put()
    producer.accumulator.seal_all()
    producer.world.step()
    return producer.world.take(Api.PRODUCE)


def _sent(producer: Sending, value: bytes = b"v", **other: int) -> Sent:
    producer.send(value, **other)
    return producer.world.take(Api.PRODUCE)


def test_a_batch_in_doubt_waits_for_the_one_before_it_to_be_decided() -> None:
    """A broker that got neither does not know the producer yet; the first one introduces it."""
    producer = sending()
    world = producer.world
    first, second = producer.send(b"0"), producer.send(b"1")
    world.take_all(Api.PRODUCE)
    world.lose()
    world.reconnect()
    world.advance(300)
    world.acknowledge(world.take(Api.PRODUCE), Code.THROTTLED, Code.UNKNOWN_PRODUCER)
    world.advance(300)
    again = world.take(Api.PRODUCE)

    assert again.sequences == [(0, 0, 0), (0, 0, 1)]
    world.acknowledge(again, 5, 6)
    assert_stored(first, 5)
    assert_stored(second, 6)


@pytest.mark.parametrize("code", [Code.STORAGE_OFFLINE, Code.DENIED, Code.UNKNOWN_PRODUCER])
def test_a_refusal_after_a_sending_in_doubt_is_perhaps(code: Code) -> None:
    """The first sending may have been appended; what is refused is only the second."""
    producer = sending()
    world = producer.world
    record = producer.send(b"0")
    world.take(Api.PRODUCE)
    world.lose()
    world.reconnect()
    world.advance(300)
    world.acknowledge(world.take(Api.PRODUCE), code)

    assert isinstance(record.outcome, OutcomeUnknownError)
