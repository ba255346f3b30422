"""Schedules about consumers that read from brokers that follow (F11, KIP-392)."""

from __future__ import annotations

from dataclasses import replace

from tests.sim.driven import Driven
from tests.sim.driven_clients import Reader
from zmqmq.sim.host_options import HostOptions
from zmqmq.sim.node import MS, SECOND
from zmqmq.wire.apis import Api

RACKS = HostOptions(racks=3)
"""Broker 1 stands in rack 1, 2 in rack 2, 3 in rack 0."""


def read_at(d: Driven, broker_id: int) -> int:
    """Bytes that a broker has shown of what it does not lead."""
    broker = d.hosts[broker_id].broker
    assert broker is not None
    return broker.fetching.bytes_of_copies


def until_read(d: Driven, reader: Reader, count: int) -> None:
    d.until(lambda: len(reader.offsets) == count, f"{count} records are read")
    assert reader.offsets == list(range(count))


def read_near(d: Driven) -> Reader:
    """A consumer in the rack of 2, which has read the first record."""
    reader = d.reader("c", rack="rack 2")
    d.send_acked()
    until_read(d, reader, 1)
    return reader


def test_f11_who_is_in_a_rack_reads_from_the_broker_there() -> None:
    """The leader names it, since it is in sync and has what is wanted (F11)."""
    d = Driven(hosts=RACKS)
    d.send_acked()
    reader = d.reader("c", rack="rack 2")
    until_read(d, reader, 1)
    d.run(1)  # what it has asked the leader for meanwhile is answered
    d.send_acked()
    until_read(d, reader, 2)
    assert read_at(d, 2)
    assert not read_at(d, 3)
    d.finish()


def test_f11_where_the_leader_is_and_where_nobody_is_the_leader_is_read() -> None:
    """One consumer is in the leader's rack, one where no broker is, one does not say (F11)."""
    d = Driven(hosts=RACKS)
    readers = [d.reader("c1", rack="rack 1"), d.reader("c2", rack="rack 7"), d.reader("c3")]
    d.send_acked()
    for reader in readers:
        until_read(d, reader, 1)
    assert not read_at(d, 2) + read_at(d, 3)
    d.finish()


def test_f11_kafka_9731_a_follower_hears_at_once_what_is_committed_if_somebody_reads_there() -> (
    None
):
    """One record at a time: nothing that comes after it brings its high watermark along."""
    d = Driven(hosts=RACKS)
    reader = read_near(d)
    for count in range(2, 6):
        d.run(3)
        d.send_acked()
        began = d.loop.now
        until_read(d, reader, count)
        assert d.loop.now - began < 50 * MS, "the leader keeps a fetch for 500 ms"
    assert read_at(d, 2)
    d.finish()


def test_f11_a_copy_shows_only_what_it_has_been_told_is_committed() -> None:
    """2 has records of which it does not know yet that they are committed."""
    d = Driven(hosts=RACKS)
    reader = read_near(d)
    apart = d.separate(1, 3)
    sent = d.send()
    d.until(lambda: d.end(2) == 2, "2 has it")
    d.run(1)
    assert not sent.outcome
    assert reader.offsets == [0]
    apart.end()
    until_read(d, reader, 2)
    d.finish()


def test_f11_a_leader_that_cannot_be_reached_is_not_missed_by_those_who_read() -> None:
    """Without any racks: brokers see their leader, and the consumer does not."""
    d = Driven()
    reader = d.reader("c")
    d.send_acked()
    until_read(d, reader, 1)
    d.network.cut("b1", "c")
    d.send_acked()
    d.until(lambda: len(reader.offsets) == 2, "it is read from a copy", 30 * SECOND)
    assert read_at(d, 2) + read_at(d, 3)
    d.finish()


def test_f11_while_nobody_leads_what_is_committed_can_be_read() -> None:
    """The leader dies and nobody is elected; the followers show what it had told them (F11)."""
    d = Driven()
    reader = d.reader("c")
    d.send_acked()
    until_read(d, reader, 1)
    for number in d.hosts:
        d.network.cut(f"b{number}", "c")
    d.send_acked()
    d.send_acked()
    d.run(1)  # followers hear of the last one
    d.kill(1)
    was = d.document
    d.write(replace(was, leader=None, leader_epoch=was.leader_epoch + 1, isr=(), elr=was.isr))
    for number in d.hosts:
        d.network.heal(f"b{number}", "c")
    until_read(d, reader, 3)
    assert d.document.leader is None
    d.finish()


def test_f11_kafka_14379_a_broker_nearby_is_asked_no_more_when_another_one_leads() -> None:
    """2 is cut off from the others. In the next epoch it is not in sync; the reader goes on."""
    d = Driven(hosts=RACKS)
    reader = d.reader("c", rack="rack 2")
    d.run(1)
    d.send_acked()
    until_read(d, reader, 1)
    assert read_at(d, 2)
    d.separate(1, 2)
    d.separate(3, 2)
    d.elect(3, isr=[1, 3])
    d.until(lambda: d.is_leading(3), "3 leads")
    d.send_acked()
    began = d.loop.now
    until_read(d, reader, 2)
    assert d.loop.now - began < 10 * SECOND
    d.finish()


def test_f11_a_broker_nearby_that_dies_is_left_and_found_again() -> None:
    """It is read at the leader at once, and after some seconds the leader may name it again."""
    d = Driven(hosts=RACKS)
    reader = read_near(d)
    d.kill(2)
    d.leave_isr(2)
    d.send_acked()
    until_read(d, reader, 2)
    d.restart(2)
    d.until(lambda: 2 in d.isr, "2 is in sync")
    before = read_at(d, 2)
    d.run(10)
    d.send_acked()
    until_read(d, reader, 3)
    assert read_at(d, 2) > before
    d.finish()


def fetch(d: Driven, broker_id: int, offset: int, **fields: object) -> list[object]:
    """Ask a broker for the partition, copies too; the list gets its entry."""
    epoch = d.document.leader_epoch
    last = fields.pop("last", None)
    entry = (d.place[0], 0, offset, 100_000, fields.pop("epoch", epoch), last)
    asked = {"max_wait_ms": 8_000, "max_bytes": 100_000, "copies": True, **fields}
    entries: list[object] = []

    def answered(answer: object) -> None:
        assert isinstance(answer, dict), answer
        entries.extend(answer["partitions"])

    hand = d.hand(f"asks{broker_id}", [broker_id])
    hand.host.call(Api.FETCH, {**asked, "partitions": [entry]}, answered)
    return entries


def is_refused(entries: list[object]) -> bool:
    """Whether it is to ask the leader."""
    (entry,) = entries
    return isinstance(entry, dict) and entry["name"] == "NOT_LEADER"


def test_f11_what_a_copy_cannot_judge_is_the_leaders_to_say() -> None:
    """An epoch that it does not follow in, a last record of a later one."""
    d = Driven()
    d.send_acked()
    d.run(1)
    epoch = d.document.leader_epoch
    good = fetch(d, 2, 0, last=None)
    d.until(lambda: good, "it answers")
    assert isinstance(good[0], list)
    for asked in (
        fetch(d, 2, 0, epoch=epoch + 1),
        fetch(d, 2, 0, epoch=epoch - 1),
        fetch(d, 2, 1, last=epoch + 1),
    ):
        d.until(lambda asked=asked: asked, "it answers")  # type: ignore[misc]
        assert is_refused(asked)
    d.finish()


def test_f11_a_copy_never_says_that_an_offset_is_out_of_range() -> None:
    """Its own retention passes what a fetch waits for: the leader may still have that."""
    d = Driven()
    for _ in range(3):
        d.send_acked()
    d.run(1)
    d.log(3).roll(reserve=False)
    for _ in range(3):
        d.send_acked()
    d.run(1)
    waiting = fetch(d, 3, 0, min_bytes=1_000_000, max_bytes=1_000_000, max_wait_ms=3_000)
    d.run(1)
    assert not waiting
    log = d.log(3)
    log.drop_before(log.segments[1].base_offset)
    d.until(lambda: waiting, "it answers")
    assert is_refused(waiting)
    begins_later = fetch(d, 3, 0)
    d.until(lambda: begins_later, "it answers")
    assert is_refused(begins_later)
    d.finish()


def test_f12_a_copy_looks_again_when_what_was_asked_for_has_come() -> None:
    """A consumer has read three records of 1 that an unclean election loses. It waits at 3 for the
    fourth, which comes behind others that it has never read."""
    d = Driven(min_isr=1)
    d.send_acked()
    d.run(1)
    d.separate(1, 2, 3)
    d.leave_isr(2, 3)
    d.send_acked()
    d.send_acked()
    read_in, offset = d.document.leader_epoch, d.leading(1).shown_end
    d.kill(1)
    d.elect_uncleanly(2)
    d.until(lambda: d.is_leading(2) and d.is_following(3, 2), "2 leads")
    d.run(2)
    waiting = fetch(d, 3, offset, last=read_in)
    d.run(1)
    assert not waiting
    other = d.hand("p2")
    for _ in range(4):
        sent = other.send()
        d.until(lambda sent=sent: sent.is_acked, "it is stored")  # type: ignore[misc]
    d.until(lambda: waiting, "3 answers")
    assert is_refused(waiting)
