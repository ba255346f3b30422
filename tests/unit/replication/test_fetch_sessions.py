"""Incremental fetch sessions, at both ends (KIP-227, F2)."""

from __future__ import annotations

from dataclasses import replace as changed

import pytest

from tests.support.replicas import MS, PLACE, Cluster, S
from zmqmq.core.meta.fields import Member
from zmqmq.core.replication import follower_session as leader_end
from zmqmq.core.replication.fetcher import Fetcher, Reply
from zmqmq.core.replication.fetcher import Request as Asking
from zmqmq.core.replication.follower import Follower
from zmqmq.core.replication.follower_session import (
    FollowerSessions,
    Request,
    SessionRefusedError,
)
from zmqmq.wire.peers import LISTED_MAX, Answer, Listed, PeerCode

ME = Member(2, 20)


def listed(partition: int = 0, epoch: int = 1, written: int = 0) -> Listed:
    return Listed(bytes(16), partition, epoch, written, -1, 0, 0)


def request(session: int = 0, sequence: int = 0, **changes: object) -> Request:
    whole = Request(ME, session, 5 if session else 0, sequence, 0, [], [])
    return whole._replace(**changes)  # type: ignore[arg-type]


def refused(sessions: FollowerSessions, asked: Request) -> PeerCode:
    with pytest.raises(SessionRefusedError) as caught:
        sessions.receive(0, asked)
    return caught.value.code


# The leader's end


def test_a_session_holds_what_was_listed_and_not_forgotten() -> None:
    sessions = FollowerSessions(5)
    session = sessions.receive(0, request(listed=[listed(0), listed(1)]))
    assert list(session.due) == [(bytes(16), 0), (bytes(16), 1)]
    one = request(session.number, 1, listed=[listed(0, written=7)], forgotten=[(bytes(16), 1)])

    assert sessions.receive(0, one) is session
    assert [*session.entries.values()] == [listed(0, written=7)]


def test_f2_a_request_that_was_taken_is_not_taken_again() -> None:
    sessions = FollowerSessions(5)
    session = sessions.receive(0, request())
    one = request(session.number, 1, listed=[listed()])
    sessions.receive(0, one)
    assert refused(sessions, one) is PeerCode.UNKNOWN_SESSION

    assert sessions.receive(0, request(session.number, 2)) is session


def test_f2_after_a_gap_only_a_full_session_helps() -> None:
    sessions = FollowerSessions(5)
    session = sessions.receive(0, request())
    assert refused(sessions, request(session.number, 2)) is PeerCode.UNKNOWN_SESSION
    assert refused(sessions, request(session.number, 1)) is PeerCode.UNKNOWN_SESSION

    assert not session.is_current
    assert sessions.receive(0, request()).number == session.number + 1


@pytest.mark.parametrize("field", ["run", "session", "sender", "echo"])
def test_f2_a_request_of_another_session_run_or_process_is_refused(field: str) -> None:
    sessions = FollowerSessions(5)
    session = sessions.receive(0, request())
    good = request(session.number, 1)
    wrong = {"run": 4, "session": 9, "sender": Member(2, 21), "echo": 1}
    code = refused(sessions, good._replace(**{field: wrong[field]}))  # type: ignore[arg-type]

    assert code is PeerCode.UNKNOWN_SESSION
    assert sessions.receive(0, good) is session


def test_f3_an_earlier_run_of_a_follower_does_not_take_the_session_of_a_later_one() -> None:
    sessions = FollowerSessions(5)
    session = sessions.receive(0, request(sender=Member(2, 21)))

    assert refused(sessions, request()) is PeerCode.STALE_BROKER_EPOCH
    assert session.is_current


def test_sessions_and_their_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_end, "SESSIONS_MAX", 2)
    monkeypatch.setattr(leader_end, "ENTRIES_MAX", 2)
    sessions = FollowerSessions(5)
    for broker_id in (1, 2, 3):
        sessions.receive(broker_id, request(sender=Member(broker_id, 9)))
    assert [session.member.broker_id for session in sessions] == [2, 3]
    many = request(sender=Member(4, 9), listed=[listed(n) for n in range(3)])

    assert refused(sessions, many) is PeerCode.UNKNOWN_SESSION
    assert sessions.of(4) is None


def test_what_a_follower_was_told_is_told_again_in_a_new_epoch() -> None:
    sessions = FollowerSessions(5)
    place = (bytes(16), 0)
    session = sessions.receive(0, request(listed=[listed()]))
    assert not session.is_told(place, 3, 0)
    session.note_told(place, 3, 0)
    assert session.is_told(place, 3, 0)
    assert not session.due
    sessions.receive(0, request(session.number, 1, listed=[listed(epoch=2)]))

    assert not session.is_told(place, 3, 0)


def test_whoever_lists_a_partition_is_told_its_high_watermark_also_if_that_never_moves() -> None:
    sessions = FollowerSessions(5)
    session = sessions.receive(0, request(listed=[listed()]))

    assert list(session.news) == [(bytes(16), 0)]


def test_marks_reach_the_sessions_that_list_the_partition() -> None:
    sessions = FollowerSessions(5)
    one = sessions.receive(0, request(sender=Member(1, 9), listed=[listed(0)]))
    two = sessions.receive(0, request(listed=[listed(1)]))
    for session in (one, two):
        session.due.clear()
        session.news.clear()
    sessions.mark_news((bytes(16), 1))

    assert sessions.mark((bytes(16), 0)) == [one]
    assert (list(one.due), list(two.due)) == ([(bytes(16), 0)], [])
    assert (list(one.news), list(two.news)) == ([], [(bytes(16), 1)])


# The follower's end


def next_of(fetcher: Fetcher, now_ns: int = 0, correlation: int = 1) -> Asking | None:
    return fetcher.next_request(now_ns, correlation)


def test_a_request_lists_only_what_has_changed() -> None:
    c = Cluster(2)
    first = c.ask(2)
    assert len(first.request.listed) == 1
    c.deliver(first, *c.answer(1, first))
    second = c.ask(2)
    assert (second.request.listed, second.request.sequence) == ([], 1)
    c.deliver(second, *c.answer(1, second))
    c.brokers[1].send()
    c.fetch(2)

    assert [entry.written for entry in c.ask(2).request.listed] == [1]


def test_one_request_is_under_way_until_it_is_answered_or_takes_too_long() -> None:
    c = Cluster(2)
    c.fetch(2, 2)
    c.ask(2)
    fetcher = c.brokers[2].fetcher
    assert next_of(fetcher, c.now_ns + 3 * S) is None
    again = next_of(fetcher, c.now_ns + 3 * S + 1)

    assert again is not None
    assert (again.session, again.sequence, again.echo, len(again.partitions)) == (0, 0, 0, 1)


def test_f2_a_reply_to_an_earlier_request_is_void() -> None:
    """The model's no_corr_id: a late diverging reply meets a log that has grown to the same end."""
    c = Cluster(2)
    c.brokers[1].send()
    c.fetch(2)
    asked = c.ask(2)
    head = asked.request.listed[0]
    late = Answer(*PLACE, 1, head.written, PeerCode.DIVERGING, 0, 0)
    c.brokers[2].fetcher.link(is_up=True)
    c.fetch(2)
    c.ask(2)
    c.deliver(asked, Reply(c.brokers[2].epoch, 0, 1, 1, 99, [late]), [])

    assert c.brokers[2].following.cut is None
    assert c.brokers[2].values == [(1, 0)]


def test_f2_a_reply_to_an_earlier_run_is_void() -> None:
    c = Cluster(2)
    asked = c.ask(2)
    reply, bodies = c.answer(1, asked)

    assert c.deliver(asked, reply._replace(to=1), bodies) == []
    assert len(c.deliver(asked, reply, bodies)) == 1


@pytest.mark.parametrize("what", ["epoch", "offset", "dropped", "cut"])
def test_f2_an_answer_to_what_is_so_no_more_is_void_and_the_partition_is_listed_again(
    what: str,
) -> None:
    c = Cluster(2)
    c.brokers[1].send()
    asked = c.ask(2)
    reply, bodies = c.answer(1, asked)
    follower = c.brokers[2]
    if what == "epoch":
        c.change(2, leader_epoch=2)
    elif what == "offset":
        reply = reply._replace(answers=[reply.answers[0]._replace(offset=5)])
    elif what == "dropped":
        follower.fetcher.drop(PLACE)
    else:
        follower.following.take(Answer(*PLACE, 1, 0, PeerCode.DIVERGING, 0, 0), None)
    assert c.deliver(asked, reply, bodies) == []
    assert follower.log.end_offset == 0

    again = c.ask(2).request
    assert len(again.listed) == (what in ("epoch", "offset"))
    assert [*again.forgotten] == ([PLACE] if what in ("dropped", "cut") else [])


def test_what_is_followed_no_more_is_forgotten() -> None:
    c = Cluster(2)
    c.fetch(2)
    c.brokers[2].fetcher.drop(PLACE)
    asked = c.ask(2)
    assert asked.request.forgotten == [PLACE]
    c.deliver(asked, *c.answer(1, asked))
    session = c.brokers[1].sessions.of(2)

    assert session is not None
    assert not session.entries
    assert c.brokers[2].fetcher.is_idle
    assert next_of(c.brokers[2].fetcher, c.now_ns) is None


def test_a_lost_link_begins_a_full_session() -> None:
    c = Cluster(2)
    c.fetch(2, 2)
    fetcher = c.brokers[2].fetcher
    fetcher.link(is_up=False)
    assert next_of(fetcher, c.now_ns) is None
    fetcher.link(is_up=True)
    again = next_of(fetcher, c.now_ns)

    assert again is not None
    assert (again.session, again.echo, len(again.partitions)) == (0, 0, 1)


def test_a_leader_that_does_not_know_the_session_gets_a_full_one() -> None:
    c = Cluster(2)
    c.fetch(2, 2)
    c.brokers[1].sessions = FollowerSessions(99)
    asked = c.ask(2)
    c.deliver(asked, *c.answer(1, asked))
    again = c.ask(2)
    assert again.request.session == 0
    c.deliver(again, *c.answer(1, again))

    assert c.ask(2).request.run == 99


def test_a_sender_that_is_refused_waits_before_it_asks_again() -> None:
    c = Cluster(2)
    asked = c.ask(2)
    c.deliver(asked, Reply(c.brokers[2].epoch, PeerCode.WRONG_CLUSTER, 0, 0, 0, []), [])
    fetcher = c.brokers[2].fetcher

    assert next_of(fetcher, c.now_ns + 100 * MS) is None
    assert next_of(fetcher, c.now_ns + 200 * MS) is not None


def test_a_partition_that_is_refused_is_listed_again_after_a_while() -> None:
    c = Cluster(2)
    c.change(2, leader_epoch=2)  # and the leader does not know it yet
    asked = c.ask(2)
    c.deliver(asked, *c.answer(1, asked))
    waiting = c.ask(2)
    assert waiting.request.listed == []
    c.deliver(waiting, *c.answer(1, waiting))
    c.now_ns += 200 * MS

    assert len(c.ask(2).request.listed) == 1


def many(count: int) -> tuple[Fetcher, list[Follower]]:
    """A fetcher of so many partitions; all copies of one log, which does not matter here."""
    c = Cluster(2)
    fetcher = Fetcher(c.brokers[2].me)
    fetcher.link(is_up=True)
    document = c.document
    assert document.leader is not None
    followers = []
    for number in range(count):
        follower = Follower(c.brokers[2].log, document, document.leader, 0)
        follower.place = (bytes(16), number)
        fetcher.follow(follower)
        followers.append(follower)
    return fetcher, followers


def test_more_partitions_than_one_request_may_list_follow_in_the_next() -> None:
    fetcher, _ = many(LISTED_MAX + 3)
    first = next_of(fetcher)
    assert first is not None
    assert (len(first.partitions), first.max_wait_ms) == (LISTED_MAX, 0)
    fetcher.take(0, 1, Reply(fetcher._me.broker_epoch, 0, 1, 5, 8, []), [])
    second = next_of(fetcher, correlation=2)

    assert second is not None
    assert (len(second.partitions), second.max_wait_ms, second.sequence) == (3, 500, 1)


def test_d10_a_request_that_could_not_list_all_changes_echoes_nothing() -> None:
    """What it does not list may be in another leader epoch by now."""
    fetcher, followers = many(LISTED_MAX + 1)
    next_of(fetcher)
    fetcher.take(0, 1, Reply(fetcher._me.broker_epoch, 0, 1, 5, 8, []), [])
    second = next_of(fetcher, correlation=2)
    assert second is not None
    assert second.echo == 8
    fetcher.take(0, 2, Reply(fetcher._me.broker_epoch, 0, 1, 5, 9, []), [])
    for follower in followers:
        later = Follower(
            follower.log,
            changed(follower.document, leader_epoch=2),
            follower.leader,
            0,
        )
        later.place = follower.place
        fetcher.follow(later)
    third = next_of(fetcher, correlation=3)

    assert third is not None
    assert (len(third.partitions), third.echo) == (LISTED_MAX, 0)
