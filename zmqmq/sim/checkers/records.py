"""Records: nothing acknowledged is lost, nothing comes from nowhere, order and number are kept."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from zmqmq.sim.checkers.facts import Facts, LogFacts, Sent, Violation, name_of
from zmqmq.sim.history import FAIL, Log, sender_of
from zmqmq.wire.apis import ACKS_ALL

SHOWN = 40
"""Bytes of a value that a violation shows."""


def one_value_an_offset(facts: Facts) -> Iterator[Violation]:
    """Whoever reads or writes an offset gets to know the same record (I11)."""
    for log, offset, value, index in facts.conflicts:
        if not facts.is_lost(log, offset):
            known, first = facts.log(log).known[offset]
            detail = f"offset {offset} has {known[:SHOWN]!r} and {value[:SHOWN]!r}"
            yield Violation("inconsistent offset", name_of(log), detail, (first, index))


def everything_read_was_sent(facts: Facts) -> Iterator[Violation]:
    """What is read is what somebody sent there, unharmed, and not told *no* about (I12, I27)."""
    for value, (log, offset, index) in facts.places.items():
        yield from _origin(facts, value, log, offset, index)
    for value, log, offset, index in facts.twice:
        sent = facts.sent.get(value)
        if sent is not None and _is_elsewhere(sent, log):
            yield from _origin(facts, value, log, offset, index)


def _origin(facts: Facts, value: bytes, log: Log, offset: int, index: int) -> Iterator[Violation]:
    where = name_of(log)
    sent = facts.sent.get(value)
    if sent is None:
        is_whole = sender_of(value) is not None
        kind = "from nowhere" if is_whole else "damaged"
        yield Violation(kind, where, f"offset {offset} has {value[:SHOWN]!r}", (index,))
    elif sent.asked > index:
        detail = f"{value[:SHOWN]!r} was read before it was sent"
        yield Violation("from nowhere", where, detail, (index, sent.asked))
    elif _is_elsewhere(sent, log):
        detail = f"{value[:SHOWN]!r} was sent to {sent.asking.topic}/{sent.asking.partition}"
        yield Violation("wrong log", where, detail, (sent.asked, index))
    elif sent.type == FAIL:
        detail = f"{value[:SHOWN]!r} at offset {offset} was refused for good"
        yield Violation("definite error appeared", where, detail, (sent.ended, index))


def _is_elsewhere(sent: Sent, log: Log) -> bool:
    asking = sent.asking
    return asking.topic != log[0] or asking.partition not in (None, log[1])


def acknowledged_is_kept(facts: Facts) -> Iterator[Violation]:
    """What acks=all has acknowledged is there at the end (I1, I27)."""
    for key, log in facts.logs.items():
        if key[0] in facts.deleted:
            continue
        drained = log.drained
        if drained is None:
            if log.acked:
                detail = f"nobody has read it to its end, {len(log.acked)} records are awaited"
                yield Violation("not drained", name_of(key), detail, (log.acked[0].ended,))
            continue
        for sent in log.acked:
            assert sent.stored is not None
            offset = sent.stored.offset
            if offset < 0:
                is_there = sent.asking.value in facts.places
                is_excused = drained.start > 0 or key in facts.allowed.losses
                is_excused = is_excused or (
                    key[0] in facts.allowed.compacted and sent.asking.key is not None
                )
            else:
                is_there = offset < drained.start or log.found.get(offset) == sent.asking.value
                is_excused = facts.is_lost(key, offset) or facts.is_replaced(key, offset)
            if not (is_there or is_excused):
                detail = f"offset {offset}, {sent.asking.value[:SHOWN]!r}, was acknowledged"
                entries = (sent.ended, log.drained_at)
                yield Violation("lost", name_of(key), detail, entries)


def read_is_kept(facts: Facts) -> Iterator[Violation]:
    """Only committed records are read: what one reader has seen is there for all that follow."""
    for key, log in facts.logs.items():
        drained = log.drained
        if drained is None or key[0] in facts.deleted:
            continue
        for offset, index in log.polled.items():
            if offset >= drained.start and offset not in log.found:
                if facts.is_lost(key, offset) or facts.is_replaced(key, offset):
                    continue
                detail = f"offset {offset} was read, and is gone at the end"
                yield Violation("vanished", name_of(key), detail, (index, log.drained_at))


def order_is_kept(facts: Facts) -> Iterator[Violation]:
    """The records of an idempotent producer stand in a log in the order of their sending (P1)."""
    for key, log in facts.logs.items():
        latest: dict[str, tuple[int, int]] = {}
        for offset in log.order:
            value, index = log.known[offset]
            sent = facts.sent.get(value)
            if sent is None or not sent.asking.is_idempotent:
                continue
            number, at = latest.get(sent.sender, (-1, -1))
            if sent.number < number and not facts.is_lost(key, offset):
                detail = f"offset {offset} has number {sent.number} of {sent.sender} after {number}"
                yield Violation("reordered", name_of(key), detail, (at, index))
            latest[sent.sender] = sent.number, index


def nothing_is_doubled(facts: Facts) -> Iterator[Violation]:
    """An idempotent producer's record is stored once (I13)."""
    for value, log, offset, index in facts.twice:
        sent = facts.sent.get(value)
        if sent is None or not sent.asking.is_idempotent:
            continue
        other, first_offset, first = facts.places[value]
        if facts.is_lost(log, offset) or facts.is_lost(other, first_offset):
            continue
        detail = f"{value[:SHOWN]!r} is at {name_of(other)} {first_offset} and at offset {offset}"
        yield Violation("duplicate", name_of(log), detail, (first, index))


def appends_follow_real_time(facts: Facts) -> Iterator[Violation]:
    """What is sent when an end is known to somebody is stored behind that end."""
    for key, log in facts.logs.items():
        for sent in log.acked:
            assert sent.stored is not None
            offset = sent.stored.offset
            if offset < 0 or sent.asking.acks != ACKS_ALL:
                continue
            index, end = known_end(facts, key, log, sent.asked)
            if offset < end:
                detail = f"sent after the end was {end}, stored at {offset}"
                yield Violation("append into the past", name_of(key), detail, (index, sent.ended))


def known_end(facts: Facts, key: Log, log: LogFacts, before: int) -> tuple[int, int]:
    """The entry and the end that somebody had been told of before an entry of the history."""
    at = bisect_left(log.raised, (before, 0)) - 1
    if at < 0:
        return -1, 0
    index, end = log.raised[at]
    lost = facts.first_lost(key)
    return index, end if lost is None else min(end, lost)
