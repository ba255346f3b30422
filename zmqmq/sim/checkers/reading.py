"""Reading: no record is passed over, none comes twice, and the end that is told is never stale."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from zmqmq.errors import Code
from zmqmq.sim.checkers.facts import Facts, Violation, name_of
from zmqmq.sim.checkers.records import known_end
from zmqmq.sim.history import DRAINED, END, FAIL, OK, POLL, SEEK, START, Log, Polled, Position


def polls_are_gapless(facts: Facts) -> Iterator[Violation]:
    """From a seek on a consumer gets every record, each once, in order."""
    expected: dict[tuple[str, Log], tuple[int, int]] = {}
    for entry in facts.entries:
        if entry.f == SEEK and entry.type == OK:
            sought: Position = entry.value
            key = sought.topic, sought.partition
            expected[entry.client, key] = sought.offset, entry.number
        elif entry.f == POLL and entry.type == OK:
            polled: Polled = entry.value
            key = polled.topic, polled.partition
            position, since = expected.get((entry.client, key), (0, entry.number))
            order = facts.log(key).order
            at = -1
            for offset, _ in polled.records:
                if at < 0 or order[at] != position:
                    at = bisect_left(order, position)  # the next offset that holds a record
                if offset < position:
                    detail = f"offset {offset} was handed out when {position} was next"
                    yield Violation("poll goes back", name_of(key), detail, (since, entry.number))
                elif order[at] != offset and not _may_skip(facts, key, order[at], offset):
                    detail = f"offsets {order[at]} to {offset - 1} were passed over"
                    yield Violation("poll skips", name_of(key), detail, (since, entry.number))
                position = offset + 1
                at = at + 1 if at + 1 < len(order) else -1
            expected[entry.client, key] = position, entry.number


def _may_skip(facts: Facts, log: Log, first: int, end: int) -> bool:
    """Whether retention, compaction or a flagged loss may have taken these offsets before they were
    read."""
    known = facts.log(log)
    drained = known.drained
    begins = max(drained.start if drained else end, facts.allowed.starts.get(log, 0))
    is_trimmed = log[0] in facts.allowed.trimmed and end <= begins
    if is_trimmed or facts.is_lost(log, first, end):
        return True
    passed = known.order[bisect_left(known.order, first) : bisect_left(known.order, end)]
    return all(facts.is_replaced(log, offset) for offset in passed)


def readers_are_not_refused(facts: Facts) -> Iterator[Violation]:
    """A reader behind the end is served: it never met offsets that are gone again, nor damage."""
    for entry in facts.entries:
        if entry.f != POLL or entry.type != FAIL:
            continue
        refused = entry.value
        if refused.code in facts.allowed.refusals:
            continue
        if refused.code == Code.OFFSET_OUT_OF_RANGE.name and facts.allowed.losses:
            continue
        if refused.code == Code.UNKNOWN_TOPIC.name and (
            facts.deleted or not entry.client.startswith("drain")
        ):
            continue  # a broker that hears nothing new may deny a topic until all is well again
        yield Violation(
            "reader refused", entry.client, f"{refused.code}: {refused.detail}", (entry.number,)
        )


def latest_reads_are_latest(facts: Facts) -> Iterator[Violation]:
    """An end is at least what anybody had been told of before it was asked for (I28)."""
    for entry in facts.entries:
        if entry.f != END or entry.type != OK:
            continue
        position: Position = entry.value
        key = position.topic, position.partition
        index, end = known_end(facts, key, facts.log(key), entry.asked)
        if position.offset < end:
            detail = f"the end is told as {position.offset}, and was {end} before it was asked for"
            yield Violation("stale end", name_of(key), detail, (index, entry.asked, entry.number))


def logs_begin_where_they_should(facts: Facts) -> Iterator[Violation]:
    """Without retention a log begins at 0, and never behind its end."""
    for entry in facts.entries:
        if entry.type != OK or entry.f not in (START, DRAINED):
            continue
        value = entry.value
        log = value.topic, value.partition
        start = value.offset if entry.f == START else value.start
        if start > 0 and log[0] not in facts.allowed.trimmed:
            detail = f"it begins at {start}, and nothing may be removed from it"
            yield Violation("trimmed", name_of(log), detail, (entry.number,))
        if entry.f == DRAINED and start > value.end:
            detail = f"it begins at {start}, behind its end {value.end}"
            yield Violation("trimmed", name_of(log), detail, (entry.number,))
