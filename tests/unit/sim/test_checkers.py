"""Each checker finds what was planted for it, and says nothing of a good history."""

from __future__ import annotations

import json
from time import perf_counter
from typing import Any

import pytest

from zmqmq.sim.checkers import CHECKERS, Allowed, Violation, check
from zmqmq.sim.history import (
    ALTER,
    COMMIT,
    COMMITTED,
    CREATE,
    DELETE,
    DRAINED,
    END,
    FAIL,
    INFO,
    OK,
    POLL,
    SEEK,
    SEND,
    START,
    STORED,
    SURVEY,
    Committing,
    Described,
    Drained,
    History,
    Polled,
    Position,
    Refused,
    Resumed,
    Sending,
    Stored,
    label_of,
    make_value,
    sender_of,
)
from zmqmq.sim.loop import Loop
from zmqmq.wire.apis import ACKS_ALL, ACKS_LEADER

LOG = ("t", 0)


class Story:
    """A history by hand; each step takes a moment."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.history = History(self.loop)
        self.counts: dict[str, int] = {}

    def value(self, client: str) -> bytes:
        self.counts[client] = number = self.counts.get(client, 0) + 1
        return make_value(client, number, b"x" * (number % 7))

    def ask(
        self,
        client: str = "p1.1",
        *,
        acks: int = ACKS_ALL,
        idempotent: bool = True,
        partition: int | None = None,
        key: bytes | None = None,
    ) -> tuple[int, bytes]:
        value = self.value(client)
        sending = Sending("t", partition, value, acks, idempotent, key)
        return self.history.invoke(client, SEND, sending), value

    def send(self, offset: int, client: str = "p1.1", **how: Any) -> bytes:
        asked, value = self.ask(client, **how)
        self.history.end(asked, OK, Stored(*LOG, offset))
        return value

    def poll(self, *records: tuple[int, bytes], client: str = "c1.1") -> None:
        self.history.note(client, POLL, Polled(*LOG, list(records), 1))

    def seek(self, offset: int, client: str = "c1.1") -> None:
        self.history.note(client, SEEK, Position(*LOG, offset))

    def end(self, *offsets: int, client: str = "c1.1") -> None:
        for offset in offsets:
            asked = self.history.invoke(client, END, Position(*LOG, -1))
            self.history.end(asked, OK, Position(*LOG, offset))

    def drain(self, *values: bytes, start: int = 0, end: int | None = None) -> None:
        self.seek(start, "d.1")
        self.poll(*enumerate(values, start), client="d.1")
        last = start + len(values) if end is None else end
        self.history.note("d.1", DRAINED, Drained(*LOG, start, last))

    def commit(self, offset: int, type_: str | None = OK, group: str = "g") -> int:
        asking = Committing(group, {LOG: offset})
        asked = self.history.invoke("c1.1", COMMIT, asking)
        if type_ is not None:
            self.history.end(asked, type_, asking)
        return asked

    def committed(self, offset: int | None, group: str = "g") -> None:
        asked = self.history.invoke("c1.1", COMMITTED, Committing(group, {LOG: None}))
        self.history.end(asked, OK, Committing(group, {LOG: offset}))

    def resumed(self, offset: int) -> None:
        asked = self.history.invoke("c2.1", STORED, Resumed("g", *LOG, -1))
        self.history.end(asked, OK, Resumed("g", *LOG, offset))

    def order(
        self, f: str, partitions: int = 0, type_: str | None = OK, topic: str = "t", **config: Any
    ) -> None:
        asking = Described(topic, partitions, config)
        asked = self.history.invoke("a1.1", f, asking)
        if type_ is not None:
            self.history.end(asked, type_, asking)

    def survey(self, partitions: int, topic: str = "t", **config: Any) -> None:
        asked = self.history.invoke("d.1", SURVEY, Described(topic, 0, {}))
        self.history.end(asked, OK, Described(topic, partitions, config))

    def check(self, **allowed: Any) -> list[Violation]:
        return check(self.history.entries, Allowed(**allowed))

    def kinds(self, **allowed: Any) -> list[str]:
        return [violation.kind for violation in self.check(**allowed)]


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_good_history(story: Story) -> None:
    story.order(CREATE, 1, min_isr=2)
    story.seek(0)
    a, b = story.send(0), story.send(1, "p2.1")
    story.poll((0, a), (1, b))
    story.commit(2)
    story.end(2, 2)
    asked, refused = story.ask()
    story.history.end(asked, FAIL, None)
    story.resumed(2)
    asked, perhaps = story.ask()
    story.history.end(asked, INFO, "timed out")
    d = story.send(3)
    story.seek(1)
    story.poll((1, b), (2, perhaps))
    story.poll((3, d))
    story.ask("p3.1")  # its client dies
    story.committed(2)
    story.order(ALTER, 2)
    story.drain(a, b, perhaps, d)
    story.survey(2, min_isr=2)

    assert sender_of(refused) == ("p1.1", 2)
    assert story.check() == []


# Records


def test_an_acknowledged_record_that_is_gone(story: Story) -> None:
    a, _ = story.send(0), story.send(1)
    story.drain(a, end=2)

    (found,) = story.check()

    assert (found.kind, found.where) == ("lost", "t/0")
    assert "offset 1" in found.detail
    assert found.entries == (3, 6)
    assert story.kinds(losses={LOG: [(1, None)]}) == []
    assert story.kinds(losses={LOG: [(2, None)]}) == ["lost"]


def test_an_acknowledged_tail_that_is_gone(story: Story) -> None:
    a, _ = story.send(0), story.send(1)
    story.drain(a)

    assert story.kinds() == ["lost"]


def test_an_acknowledged_record_without_an_offset(story: Story) -> None:
    a, b = story.send(-1), story.send(-1)
    story.drain(a)
    assert story.kinds() == ["lost"]

    story.drain(a, b)
    assert story.kinds() == []


def test_a_log_that_nobody_drained(story: Story) -> None:
    story.send(0)

    assert story.kinds() == ["not drained"]


def test_a_deleted_topic_keeps_nothing(story: Story) -> None:
    story.send(0)
    story.order(DELETE)

    assert story.kinds() == []


def test_acks_1_promises_no_survival(story: Story) -> None:
    story.send(0, acks=ACKS_LEADER)
    b = story.send(0, "p2.1")
    story.drain(b)

    assert story.kinds() == []


def test_two_values_under_one_offset(story: Story) -> None:
    a, b = story.send(0), story.value("p1.1")
    story.history.invoke("p1.1", SEND, Sending("t", None, b, ACKS_ALL, True))
    story.poll((0, b))
    story.drain(a)

    assert story.kinds() == ["inconsistent offset"]
    assert story.kinds(losses={LOG: [(0, 1)]}) == []


def test_a_record_that_nobody_sent(story: Story) -> None:
    story.poll((0, make_value("p9.1", 1, b"")))

    assert story.kinds() == ["from nowhere"]


def test_a_record_that_is_read_before_it_is_sent(story: Story) -> None:
    value = story.value("p1.1")
    story.poll((0, value))
    asked = story.history.invoke("p1.1", SEND, Sending("t", None, value, ACKS_ALL, True))
    story.history.end(asked, INFO, None)

    assert story.kinds() == ["from nowhere"]


@pytest.mark.parametrize("at", range(len(make_value("p1.1", 1, b"x"))))
def test_a_damaged_record(story: Story, at: int) -> None:
    value = bytearray(story.ask()[1])
    value[at] ^= 1
    story.poll((0, bytes(value)))

    assert len(story.kinds()) == 1
    assert story.kinds()[0] in ("damaged", "from nowhere")


def test_a_record_in_another_partition(story: Story) -> None:
    _, value = story.ask(partition=1)
    story.poll((0, value))

    assert story.kinds() == ["wrong log"]


def test_a_record_in_another_partition_too(story: Story) -> None:
    asked, value = story.ask(partition=0, idempotent=False)
    story.history.end(asked, OK, Stored(*LOG, 0))
    story.history.note("c1.1", POLL, Polled("t", 1, [(0, value)], 1))
    story.drain(value)

    assert story.kinds() == ["wrong log"]


def test_a_topic_made_anew_that_shows_an_old_record(story: Story) -> None:
    a = story.send(0)
    story.order(DELETE)
    story.history.note("c1.1", POLL, Polled(label_of("t", 1), 0, [(0, a)], 1))

    assert set(story.kinds()) == {"wrong log", "duplicate"}


def test_a_refused_record_that_is_there(story: Story) -> None:
    asked, value = story.ask()
    story.poll((0, value))
    story.history.end(asked, FAIL, "no")

    assert story.kinds() == ["definite error appeared"]


def test_a_perhaps_may_be_there_or_not(story: Story) -> None:
    asked, value = story.ask()
    story.history.end(asked, INFO, None)
    asked, _ = story.ask()
    story.history.end(asked, INFO, None)
    story.drain(value)

    assert story.kinds() == []


def test_records_in_another_order(story: Story) -> None:
    (_, a), (_, b) = story.ask(), story.ask()
    story.drain(b, a)

    assert story.kinds() == ["reordered"]


def test_without_idempotence_the_order_is_free(story: Story) -> None:
    (_, a), (_, b) = story.ask(idempotent=False), story.ask(idempotent=False)
    story.drain(b, a, a)

    assert story.kinds() == []


def test_a_record_that_is_stored_twice(story: Story) -> None:
    a = story.send(0)
    story.drain(a, a)

    assert story.kinds() == ["duplicate"]


def test_a_record_that_is_acknowledged_and_stored_elsewhere(story: Story) -> None:
    (_, a), b = story.ask("p2.1"), story.send(0)
    story.drain(a, b)

    assert set(story.kinds()) == {"duplicate", "inconsistent offset", "lost"}


def test_a_record_behind_the_end_that_was_known(story: Story) -> None:
    (_, a), (_, b) = story.ask("p2.1"), story.ask("p2.1")
    story.end(2)
    c = story.send(1, "p3.1")
    story.drain(a, c, b)

    assert story.kinds() == ["append into the past"]


def test_concurrent_appends_have_any_order(story: Story) -> None:
    first, a = story.ask("p2.1")
    b = story.send(1, "p3.1")
    story.history.end(first, OK, Stored(*LOG, 0))
    story.drain(a, b)

    assert story.kinds() == []


# Reading


def test_a_poll_that_skips(story: Story) -> None:
    a, b, c = story.send(0), story.send(1), story.send(2)
    story.seek(0)
    story.poll((0, a), (2, c))
    story.drain(a, b, c)

    (found,) = story.check()

    assert found.kind == "poll skips"
    assert "offsets 1 to 1" in found.detail
    assert story.kinds(losses={LOG: [(1, 2)]}) == []


def test_a_first_poll_that_skips(story: Story) -> None:
    a, b = story.send(0), story.send(1)
    story.seek(0)
    story.poll((1, b))
    story.drain(a, b)

    assert story.kinds() == ["poll skips"]


def test_a_poll_may_skip_what_retention_took(story: Story) -> None:
    _, _, c = story.send(0), story.send(1), story.send(2)
    story.seek(0)
    story.poll((2, c))
    story.drain(c, start=2)

    assert story.kinds(trimmed=["t"]) == []
    assert story.kinds() == ["poll skips", "trimmed"]


def test_compaction_takes_what_a_newer_record_of_the_key_replaces(story: Story) -> None:
    a, _, c = (story.send(offset, key=b"k") for offset in range(3))
    story.seek(0)
    story.poll((0, a), (2, c))
    story.seek(2, client="d.1")
    story.poll((2, c), client="d.1")
    story.history.note("d.1", DRAINED, Drained(*LOG, 0, 3))

    assert story.kinds(compacted=["t"]) == []
    assert sorted(set(story.kinds())) == ["lost", "poll skips", "vanished"]


@pytest.mark.parametrize("keys", [(b"k", b"other"), (None, b"k"), (None, None)])
def test_compaction_takes_nothing_else(story: Story, keys: tuple[bytes | None, ...]) -> None:
    _, b = (story.send(offset, key=key) for offset, key in enumerate(keys))
    story.seek(0, client="d.1")
    story.poll((1, b), client="d.1")
    story.history.note("d.1", DRAINED, Drained(*LOG, 0, 2))

    assert sorted(story.kinds(compacted=["t"])) == ["lost", "poll skips"]


def test_compaction_does_not_take_the_newest_of_a_key(story: Story) -> None:
    a, _ = (story.send(offset, key=b"k") for offset in range(2))
    story.drain(a, end=2)

    assert story.kinds(compacted=["t"]) == ["lost"]


def test_offsets_that_nobody_knows_are_no_gap(story: Story) -> None:
    (_, a), (_, b) = story.ask(), story.ask()
    story.seek(0)
    story.poll((0, a), (5, b))

    assert story.kinds() == []


@pytest.mark.parametrize("is_one_poll", [True, False])
def test_a_poll_that_goes_back(story: Story, is_one_poll: bool) -> None:
    a, b = story.send(0), story.send(1)
    story.seek(0)
    if is_one_poll:
        story.poll((0, a), (1, b), (1, b))
    else:
        story.poll((0, a), (1, b))
        story.poll((1, b))
    story.drain(a, b)

    assert story.kinds() == ["poll goes back"]


def test_a_seek_may_go_back(story: Story) -> None:
    a, b = story.send(0), story.send(1)
    story.seek(0)
    story.poll((0, a), (1, b))
    story.seek(1)
    story.poll((1, b))
    story.drain(a, b)

    assert story.kinds() == []


def test_a_record_that_was_read_and_is_gone(story: Story) -> None:
    a, (_, b) = story.send(0), story.ask()
    story.poll((0, a), (1, b))
    story.drain(a)

    assert story.kinds() == ["vanished"]
    assert story.kinds(losses={LOG: [(1, None)]}) == []


def test_a_reader_that_is_refused(story: Story) -> None:
    story.history.note("c1.1", POLL, Refused("OFFSET_OUT_OF_RANGE", "beyond the end"), FAIL)
    story.history.note("c1.1", POLL, Refused("TIMED_OUT", "no leader"), INFO)

    assert story.kinds() == ["reader refused"]
    assert story.kinds(losses={LOG: [(1, None)]}) == []


@pytest.mark.parametrize("how", ["acknowledged", "told", "read"])
def test_an_end_that_is_stale(story: Story, how: str) -> None:
    asked, a = story.ask()
    if how == "acknowledged":
        story.history.end(asked, OK, Stored(*LOG, 0))
    elif how == "told":
        story.end(1)
    else:
        story.poll((0, a))
    story.end(0)
    story.drain(a)

    assert story.kinds() == ["stale end"]
    assert story.kinds(losses={LOG: [(0, None)]}) == []


def test_an_end_that_was_asked_for_before(story: Story) -> None:
    asked = story.history.invoke("c1.1", END, Position(*LOG, -1))
    a = story.send(0)
    story.history.end(asked, OK, Position(*LOG, 0))
    story.drain(a)

    assert story.kinds() == []


def test_a_log_that_begins_too_late(story: Story) -> None:
    asked = story.history.invoke("c1.1", START, Position(*LOG, -1))
    story.history.end(asked, OK, Position(*LOG, 3))

    assert story.kinds() == ["trimmed"]
    assert story.kinds(trimmed=["t"]) == []


def test_a_log_that_begins_behind_its_end(story: Story) -> None:
    story.drain(start=5, end=3)

    assert story.kinds(trimmed=["t"]) == ["trimmed"]


# Groups


def test_a_committed_offset_that_goes_back(story: Story) -> None:
    story.commit(3)
    story.commit(5)
    story.committed(3)

    (found,) = story.check()

    assert "offset 3, which had been replaced" in found.detail


def test_a_committed_offset_that_is_forgotten(story: Story) -> None:
    story.commit(3)
    story.committed(None)
    story.resumed(0)

    assert story.kinds() == ["committed offset", "committed offset"]


def test_an_offset_that_nobody_committed(story: Story) -> None:
    story.commit(3)
    story.resumed(4)

    assert story.kinds() == ["committed offset"]


def test_without_a_commit_a_group_begins_at_the_start(story: Story) -> None:
    story.resumed(0)
    story.committed(None)
    assert story.kinds() == []

    story.resumed(7)
    assert story.kinds() == ["committed offset"]
    assert story.kinds(trimmed=["t"]) == []


def test_a_commit_perhaps_shows_then_stays(story: Story) -> None:
    story.commit(3)
    story.commit(5, INFO)
    story.committed(3)
    story.committed(5)
    assert story.kinds() == []

    story.committed(3)
    assert story.kinds() == ["committed offset"]


def test_a_commit_perhaps_may_come_late(story: Story) -> None:
    story.commit(3, None)
    story.commit(5)
    story.committed(5)
    story.committed(3)

    assert story.kinds() == []


def test_a_commit_under_way_is_seen_or_not(story: Story) -> None:
    story.commit(3)
    asked = story.commit(5, None)
    story.committed(3)
    story.history.end(asked, OK, Committing("g", {LOG: 5}))
    story.committed(5)
    assert story.kinds() == []

    story.committed(3)
    assert story.kinds() == ["committed offset"]


def test_a_read_that_began_before_the_commit(story: Story) -> None:
    story.commit(3)
    asked = story.history.invoke("c1.1", COMMITTED, Committing("g", {LOG: None}))
    story.commit(5)
    story.history.end(asked, OK, Committing("g", {LOG: 3}))

    assert story.kinds() == []


@pytest.mark.parametrize("is_read_first", [True, False])
def test_a_refused_commit_that_shows(story: Story, is_read_first: bool) -> None:
    asked = story.commit(3, None)
    if is_read_first:
        story.committed(3)
    story.history.end(asked, FAIL, Committing("g", {LOG: 3}))
    if not is_read_first:
        story.committed(3)

    (found,) = story.check()

    assert "which was refused for good" in found.detail


def test_groups_are_apart(story: Story) -> None:
    story.commit(3, group="g")
    story.commit(5, group="h")
    story.committed(3, group="g")
    story.committed(None, group="i")

    assert story.kinds() == []


# Topics


def test_a_topic_that_is_gone(story: Story) -> None:
    story.order(CREATE, 1)
    story.survey(0)

    assert story.kinds() == ["topic"]


def test_a_topic_that_outlives_its_deletion(story: Story) -> None:
    story.order(CREATE, 1)
    story.order(DELETE)
    story.survey(1)

    assert "topic" in story.kinds()


def test_a_topic_that_was_refused_and_is_there(story: Story) -> None:
    story.order(CREATE, 1, FAIL)
    story.survey(1)

    assert "topic" in story.kinds()


def test_a_topic_that_was_created_twice(story: Story) -> None:
    story.order(CREATE, 1)
    story.order(CREATE, 1)
    story.survey(1)

    assert story.kinds() == ["topic"]


@pytest.mark.parametrize("partitions", [0, 1])
@pytest.mark.parametrize("f", [CREATE, DELETE])
def test_a_topic_perhaps(story: Story, f: str, partitions: int) -> None:
    story.order(CREATE, 1, OK if f == DELETE else INFO)
    if f == DELETE:
        story.order(DELETE, 0, INFO)
    story.survey(partitions)

    assert story.kinds() == []


def test_settings_that_are_forgotten(story: Story) -> None:
    story.order(CREATE, 1, segment_bytes=4096, retention_ms=7)
    story.order(ALTER, 2, segment_bytes=65536)
    story.survey(1, segment_bytes=4096, retention_ms=7, other=3)

    details = [violation.detail for violation in story.check()]

    assert details == [
        "partitions is 1, which had been replaced",
        "segment_bytes is 4096, which had been replaced",
    ]


@pytest.mark.parametrize("value", [0, 7])
def test_a_setting_that_was_perhaps_changed(story: Story, value: int) -> None:
    story.order(CREATE, 1)
    story.order(ALTER, 0, INFO, capacity_records=7)
    story.survey(1, capacity_records=value)

    assert story.kinds() == []


# All together


def test_every_checker_has_caught_something() -> None:
    """Each is tried alone against what the tests above plant for it."""
    stories: dict[str, Story] = {c.__name__: Story() for c in CHECKERS}
    lost = stories["acknowledged_is_kept"]
    lost.send(0)
    two = stories["one_value_an_offset"]
    two.send(0)
    two.poll((0, two.ask()[1]))
    stories["everything_read_was_sent"].poll((0, b"junk"))
    order = stories["order_is_kept"]
    first, second = order.ask()[1], order.ask()[1]
    order.poll((0, second), (1, first))
    doubled = stories["nothing_is_doubled"]
    doubled.poll((5, doubled.send(0)))
    past = stories["appends_follow_real_time"]
    past.end(3)
    past.send(1)
    stories["polls_are_gapless"].seek(1)
    stories["polls_are_gapless"].poll((0, b""))
    gone = stories["read_is_kept"]
    gone.poll((0, b""))
    gone.drain()
    stories["readers_are_not_refused"].history.note("c", POLL, Refused("CORRUPT", ""), FAIL)
    stories["latest_reads_are_latest"].end(2, 1)
    stories["logs_begin_where_they_should"].drain(start=1)
    stories["commits_are_kept"].committed(1)
    stories["topics_are_as_ordered"].survey(1)

    for checker in CHECKERS:
        entries = stories[checker.__name__].history.entries
        assert check(entries, checkers=[checker]), f"{checker.__name__} is blind"


def test_a_history_can_be_dumped(story: Story) -> None:
    story.poll((0, b"\xff\0"))
    story.commit(3)

    lines = [json.loads(line) for line in story.history.lines()]

    assert lines[0] == {
        "number": 0,
        "at": 0,
        "client": "c1.1",
        "type": "ok",
        "f": "poll",
        "value": {"topic": "t", "partition": 0, "records": [[0, "\xff\0"]], "epoch": 1},
        "asked": 0,
    }
    assert lines[2]["value"] == {"group": "g", "offsets": [[["t", 0], 3]]}


def test_a_long_history_is_checked_fast(story: Story) -> None:
    """300 seeds of 5,000 operations are checked after each change: no search, no squares."""
    values = [story.send(offset) for offset in range(20_000)]
    for at in range(0, 20_000, 10):
        story.poll(*enumerate(values[at : at + 10], at))
        story.commit(at + 10)
        story.committed(at + 10)
        story.end(20_000)
    story.drain(*values)

    began = perf_counter()
    assert story.kinds() == []
    assert perf_counter() - began < 5
