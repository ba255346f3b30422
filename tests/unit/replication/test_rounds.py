"""Who may answer what must be the latest (D10, L14)."""

from __future__ import annotations

from tests.support.replicas import Cluster
from zmqmq.core.meta.fields import Member


def stamp(c: Cluster, leader: int = 1) -> int:
    return c.brokers[leader].sessions.stamp


def over(c: Cluster, since: int, leader: int = 1) -> bool:
    return c.brokers[leader].leading.round_is_over(since)


def test_d10_alone_and_enough_a_leader_answers_at_once() -> None:
    c = Cluster(1)

    assert over(c, stamp(c))


def test_d10_alone_and_too_few_it_does_not() -> None:
    c = Cluster(isr=[1])

    assert not over(c, stamp(c))


def test_d10_each_other_member_must_echo_something_sent_after_the_beginning() -> None:
    c = Cluster()
    c.fetch(2, 2)
    c.fetch(3, 2)
    since = stamp(c)
    assert not over(c, since)
    c.fetch(2, 2)
    assert not over(c, since)
    c.fetch(3)
    assert not over(c, since)  # that request was made before anything was sent
    c.fetch(3)

    assert over(c, since)


def test_d10_a_fetch_that_only_arrives_after_the_beginning_is_not_enough() -> None:
    c = Cluster(2)
    c.fetch(2, 2)
    asked = c.ask(2)
    since = stamp(c)
    c.answer(1, asked)

    assert not over(c, since)


def test_d10_a_joiner_whose_joining_is_not_known_counts() -> None:
    c = Cluster(isr=[1, 2])
    c.fetch(2)
    c.fetch(3)
    assert c.propose(1) is not None
    since = stamp(c)
    c.fetch(2, 2)
    assert not over(c, since)
    c.fetch(3, 2)

    assert over(c, since)


def test_d10_an_echo_of_another_run_than_the_one_named_does_not_count() -> None:
    c = Cluster(2)
    c.change(isr=(c.brokers[1].me, Member(2, 1)), min_isr=1)
    since = stamp(c)
    c.fetch(2, 3)

    assert not over(c, since)


def test_d10_a_follower_that_is_in_a_later_epoch_echoes_for_no_earlier_one() -> None:
    c = Cluster(2)
    c.fetch(2, 2)
    since = stamp(c)
    c.elect(1, 2)  # the leader does not know of its second epoch
    c.fetch(2, 3)

    assert not over(c, since)


def test_d10_an_echo_counts_no_more_when_the_partition_was_forgotten() -> None:
    c = Cluster(2)
    c.fetch(2, 2)
    since = stamp(c)
    c.elect(2, 2)
    c.now_ns += 10**6
    c.answer(1, c.ask(2, leader=1))

    session = c.brokers[1].sessions.of(2)
    assert session is not None
    assert session.echo_of(c.brokers[1].leading.place, 1) == 0
    assert not over(c, since)


def test_d10_a_round_needs_a_session_that_goes_on() -> None:
    c = Cluster(2)
    c.fetch(2, 2)
    since = stamp(c)
    c.fetch(2, 2)
    assert over(c, since)
    c.brokers[2].fetcher.link(is_up=True)
    c.answer(1, c.ask(2))

    assert not over(c, since)


def test_l14_a_round_alone_does_not_show_what_was_committed_before_the_epoch() -> None:
    c = Cluster(2, flush="replicated")
    c.brokers[1].send()
    c.brokers[1].send()
    c.elect(1)
    since = stamp(c)
    c.fetch(2, 2, max_bytes=1)
    assert c.brokers[1].leading.isr.round_is_over(since)
    assert c.brokers[1].leading.high_watermark == 1
    assert not over(c, since)
    c.fetch(2)

    assert over(c, since)
