"""Schedules about what is published: whatever is lost, doubled, late or out of order on its way,
a reader gets every record once, in order, and soon."""

from __future__ import annotations

from collections.abc import Callable

from tests.sim.driven import Driven
from tests.sim.driven_clients import TOPIC, Reader
from tests.sim.driven_host import Separation
from zmqmq.batch.decode import RecordBatch
from zmqmq.client.machines.push import Subscription
from zmqmq.client.machines.stream import Place, PlaceKind
from zmqmq.client.options import ConsumerOptions
from zmqmq.core.broker.events import Effect, Publish
from zmqmq.sim.client_reader import SimConsumer
from zmqmq.sim.node import MS, SECOND
from zmqmq.sim.pubsub import QUEUE_MAX, Odds
from zmqmq.wire.apis import Api

LATE = 2 * SECOND
"""Without a HEAD nothing takes so long."""


def marks(d: Driven, what: str) -> int:
    """How often something happened to what is published."""
    return d.network.mischief.rarely[f"push: {what}"]


def is_push(effect: Effect) -> bool:
    """Whether it publishes a record."""
    return isinstance(effect, Publish) and len(effect.frames) == 3


def subscribed(d: Driven, **options: object) -> Reader:
    """A reader to whom 1 publishes, and who has read one record."""
    d.send_acked()
    reader = d.reader("c", mode="push", **options)
    d.until(lambda: marks(d, "joined") == 1, "1 publishes to it")
    assert reader.offsets == [0]
    d.run(0.6)  # the long poll of before ends
    return reader


def until_read(d: Driven, reader: Reader, count: int, within: int = LATE) -> None:
    d.until(lambda: len(reader.offsets) >= count, f"{count} records are read", within)
    assert reader.offsets == list(range(count))


def test_what_is_committed_is_published() -> None:
    """And nothing has to be asked for."""
    d = Driven()
    reader = subscribed(d)
    asked = d.hold_answers(1, Api.FETCH)
    for _ in range(5):
        d.send_acked()
    until_read(d, reader, 6)

    assert marks(d, "delivered") == 5
    assert not asked.effects
    d.finish()


def test_a_push_that_is_lost_in_the_middle_is_fetched() -> None:
    """Of three records one is lost on its way. The next one says that there is a gap (prev): it is
    not taken, and both are fetched."""
    d = Driven()
    reader = subscribed(d)
    lost = d.hold_pushes(1)
    d.send_acked()
    lost.drop()
    lost.end()
    d.send_acked()
    until_read(d, reader, 3, 100 * MS)

    assert marks(d, "gap found by PUSH") == 1
    d.finish()


def test_a_tail_that_is_lost_is_told_by_head() -> None:
    """The last of some records is lost, and nothing comes after it."""
    d = Driven()
    reader = subscribed(d)
    lost = d.hold_pushes(1, Api.PUSH)
    d.send_acked()
    d.run(0.01)
    assert reader.offsets == [0]
    until_read(d, reader, 2, 200 * MS)  # at the end of the burst
    assert marks(d, "tail found by HEAD") == 1
    lost.drop()
    lost.end()
    d.finish()


def test_whoever_hears_nothing_at_all_asks() -> None:
    """Nothing of what is published arrives any more, though all connections are up."""
    d = Driven()
    reader = subscribed(d)
    d.network.mischief.spoil(Odds(lost=1_000_000), "c")
    d.send_acked()
    until_read(d, reader, 2, 5 * SECOND)
    assert marks(d, "left, silent") == 1
    for _ in range(3):  # and goes on so as long as that is so
        d.send_acked()
        until_read(d, reader, len(reader.offsets) + 1, 100 * MS)

    d.network.mischief.heal_all()
    d.until(lambda: marks(d, "came back") == 1, "it is published to again")
    d.finish()


def test_records_between_the_fetch_and_the_subscription_are_read() -> None:
    """A reader has fetched everything and subscribes. Until the subscription is there (slow
    joiner) records are published to nobody, and what it asks meanwhile is late too."""
    d = Driven()
    d.send_acked()
    reader = d.reader("c", mode="push")
    pushing = d.hosts[1].broker.pushing  # type: ignore[union-attr]
    d.until(lambda: len(pushing) == 1, "1 was asked to publish")
    d.network.clog("c", "b1", d.loop.now + SECOND)
    for _ in range(3):
        d.send_acked()
    assert marks(d, "joined") == 0
    until_read(d, reader, 4, 3 * SECOND)
    d.finish()


def test_pushes_that_come_twice_and_in_any_order_are_read_once_in_order() -> None:
    """As if a SUB that was opened anew stood beside an old one."""
    d = Driven()
    reader = subscribed(d)
    held = d.hold_pushes(1, Api.PUSH)
    for _ in range(4):
        d.send_acked()
    assert len(held) == 4
    held.deliver(2, 0, 0, 3, 1, 0, 2, 1, 3, 3, 0)
    held.drop()
    held.end()
    until_read(d, reader, 5)
    d.run(1)
    d.finish()


def beside_a_fetch(*, push_first: bool) -> None:
    """The first PUSH comes while the long poll of before is under way, which brings the same."""
    d = Driven()
    d.send_acked()
    heads = d.hold_pushes(1, Api.HEAD)
    reader = d.reader("c", mode="push")
    d.until(lambda: heads.effects, "the reader has subscribed")
    d.run(0.1)
    pushes, answers = d.hold_pushes(1, Api.PUSH), d.hold_answers(1, Api.FETCH)
    d.send_acked()
    d.until(lambda: pushes.effects and answers.effects, "both are under way")
    for held in (pushes, answers) if push_first else (answers, pushes):
        held.end()
        d.run(0.1)
    assert reader.offsets == [0, 1]
    heads.end()
    d.send_acked()
    until_read(d, reader, 3)
    d.finish()


def test_what_was_published_before_a_fetch_is_answered_is_read_once() -> None:
    """A fetch is under way that brings the same."""
    beside_a_fetch(push_first=True)


def test_what_was_fetched_before_it_is_published_is_read_once() -> None:
    """It comes when the reader has got it."""
    beside_a_fetch(push_first=False)


def test_a_new_leader_goes_on_where_the_old_one_ended() -> None:
    """The leader changes in the middle of what it publishes. Its last pushes arrive when the reader
    gets those of the next one already."""
    d = Driven()
    reader = subscribed(d)
    undo = d.network.mischief.stall("c")
    for _ in range(3):
        d.send_acked()
    d.elect(2)
    d.until(lambda: d.is_leading(2), "2 leads")
    for _ in range(3):
        d.send_acked()
    until_read(d, reader, 7, 10 * SECOND)
    d.run(1)
    undo()
    d.until(lambda: marks(d, "joined") == 2, "2 publishes to it")
    d.send_acked()
    until_read(d, reader, 8)
    d.finish()


def test_whoever_leads_no_more_says_so() -> None:
    """The leader hands over, and nothing is wrong with it. Its readers need not wait until they
    miss a HEAD."""
    d = Driven()
    reader = subscribed(d)
    d.elect(2)
    d.until(lambda: d.is_leading(2), "2 leads")
    d.send_acked()
    until_read(d, reader, 2, 100 * MS)
    d.until(lambda: marks(d, "joined") == 2, "2 publishes to it")
    d.finish()


def leave_alone(d: Driven) -> Separation:
    """Only 1 gets records from now on, and commits them."""
    d.until(lambda: d.high_watermark(2) == d.high_watermark(3) == 1, "all know what is committed")
    apart = d.separate(1, 2, 3)
    d.leave_isr(2, 3)
    d.until(d.leading(1).isr.is_alone, "1 is alone")
    return apart


def test_pushes_of_a_leader_whose_records_are_lost_arrive_when_another_one_leads() -> None:
    """Only the leader has a record, which is committed, published, and on its way when it is
    deposed. An unclean election gives the partition to 2, which has another record there."""
    d = Driven(min_isr=1)
    reader = subscribed(d)
    leave_alone(d)
    undo = d.network.mischief.stall("c")
    d.send_acked(b"of the old leader")
    d.network.cut("c", "b1")
    d.fence(1)
    d.elect_uncleanly(2)
    d.until(lambda: d.is_leading(2), "2 leads")
    other = d.hand("p2", [2]).send(b"of the new leader")
    d.until(lambda: other.is_acked, "another record stands there")
    assert other.outcome == (0, 1)
    d.until(lambda: len(reader.offsets) == 2, "it is read")
    undo()
    d.run(1)

    assert reader.offsets == [0, 1]
    assert reader.records[1] == (1, other.value)


def test_a_push_of_a_leaders_former_term_is_of_another_log() -> None:
    """Only the leader has a record, which is committed and published. It arrives when that leader
    has lost the record, by an unclean election, and leads again.

    Socket, subject and offset are the same as they were. Only the leader epoch is not."""
    d = Driven(min_isr=1)
    reader = subscribed(d)
    apart = leave_alone(d)
    held = d.hold_pushes(1)
    d.send_acked(b"of the former term")
    d.fence(1)
    d.elect_uncleanly(2)
    d.until(lambda: d.is_leading(2), "2 leads")
    apart.lose()
    d.let_register(1)
    d.until(lambda: d.is_following(1, 2) and d.end(1) == 1, "1 has cut it")
    d.until(lambda: 1 in d.isr, "1 is in sync")
    d.elect(1)
    d.until(lambda: d.is_leading(1), "1 leads again")
    former = [effect for effect in held.effects if is_push(effect)]
    held.drop()
    held.end()
    d.until(lambda: marks(d, "joined") > 1, "1 publishes to it again", 20 * SECOND)
    d.run(1)
    assert reader.positions == {("t", 0): 1}
    for effect in former:
        d.hosts[1].send_after_all(effect)
    d.run(0.1)
    assert reader.offsets == [0]
    assert marks(d, "of an old epoch") == 1

    sent = d.send_acked(b"of this term")
    until_read(d, reader, 2)
    assert reader.records[1] == (1, sent.value)


def test_nothing_is_published_before_it_is_committed() -> None:
    """Two records come. The leader hears that 3 has the first one, which is committed by that and
    published, and nothing of the second."""
    d = Driven()
    reader = subscribed(d)
    d.leave_isr(2)
    requests = d.hold_requests(3, 1)
    d.send()
    d.until(lambda: requests, "3 has the first, and says so")
    d.send()
    d.until(lambda: d.log(1).written_end == 3, "1 has the second")
    requests.deliver()
    until_read(d, reader, 2)
    d.never(lambda: len(reader.offsets) > 2, "what is not committed is read", 0.5)
    d.finish()


def test_a_broker_that_comes_back_publishes_to_whoever_connects_again() -> None:
    """The only broker restarts. Its SUB socket is back by itself, and has its subject again, before
    the client has asked for anything in the new leader epoch."""
    d = Driven(brokers=1, min_isr=1)
    reader = subscribed(d)
    d.begin_control()
    d.kill(1)
    d.run(1)
    d.restart(1)
    d.until(lambda: marks(d, "came back") == 1, "it publishes again")
    delivered = marks(d, "delivered")
    d.send_acked()
    until_read(d, reader, 2)
    assert marks(d, "delivered") == delivered + 1
    d.finish()


def test_a_reader_that_is_full_leaves_and_comes_back() -> None:
    """It takes nothing for a while. What is published then has no room; it is not lost."""
    d = Driven()
    reader = subscribed(d, prefetch_bytes=4_096, fetch_bytes=1_024)
    reader.rest()
    for _ in range(20):
        d.send_acked(bytes(600))
    assert marks(d, "left, full") == 1
    assert marks(d, "delivered") < 10
    d.run(5)
    reader.go_on()
    until_read(d, reader, 21)
    d.until(lambda: marks(d, "came back") == 1, "it is published to again")
    delivered = marks(d, "delivered")
    d.send_acked()
    until_read(d, reader, 22, 100 * MS)
    assert marks(d, "delivered") == delivered + 1
    d.finish()


def test_consumers_of_one_client_share_what_is_published_to_it() -> None:
    """One of two has no room, leaves, and comes back. The other one goes on meanwhile."""
    d = Driven()
    reader = subscribed(d)
    options = ConsumerOptions(
        auto_commit=False, mode="push", prefetch_bytes=2_000, fetch_bytes=1_000
    )
    other = SimConsumer(reader.host, options, [TOPIC], Place(PlaceKind.START), lambda: None)
    found = poll(other)
    d.until(lambda: found() == [0], "the other one has begun")
    d.until(lambda: len(subscriptions(reader)) == 2, "it is published to both")
    d.run(0.6)
    for _ in range(9):
        d.send_acked(bytes(600))
    until_read(d, reader, 10)
    assert marks(d, "left, full") == 1
    assert len(subscriptions(reader)) == 1
    d.until(lambda: found() == list(range(10)), "the other one has read on")
    d.until(lambda: len(subscriptions(reader)) == 2, "it is published to both again")
    other.close()
    d.send_acked()
    until_read(d, reader, 11)
    assert len(subscriptions(reader)) == 1
    d.finish()


def subscriptions(reader: Reader) -> list[Subscription]:
    """Those of its client."""
    feeds = reader.host.core.push._feeds.values()
    return [s for feed in feeds for wished in feed.subjects.values() for s in wished]


def poll(consumer: SimConsumer) -> Callable[[], list[int]]:
    """Takes what lies ready; the offsets that were taken in all."""
    offsets: list[int] = []

    def look() -> list[int]:
        while isinstance(batch := consumer.poll(), RecordBatch):
            offsets.extend(batch.offsets)
        return offsets

    return look


def test_a_socket_that_is_not_read_loses_its_tail_and_nothing_else() -> None:
    """More is published than its queue takes."""
    d = Driven()
    reader = subscribed(d)
    undo = d.network.mischief.stall("c")
    for _ in range(QUEUE_MAX + 20):
        d.send_acked()
    assert marks(d, "queue full") > 0
    undo()
    until_read(d, reader, QUEUE_MAX + 21)
    d.finish()


def test_a_subscription_that_never_comes_to_be_stalls_nothing() -> None:
    """No broker hears of any subscription: the reader goes on to ask."""
    d = Driven()
    for host in d.hosts.values():
        d.network.mischief.unhear(host.node.name)
    readers = [d.reader("c", mode="push"), d.reader("c2", mode="auto")]
    for count in range(1, 100):
        d.send_acked()
        for reader in readers:
            until_read(d, reader, count, 100 * MS)
        d.run(0.1)

    assert marks(d, "joined") == 0
    assert marks(d, "subscription lost") > 1
    d.finish()
