"""Where a consumer begins: `"end"`, a time, the committed offset, turned into offsets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from zmqmq.client.machines.backoff import Backoff
from zmqmq.client.machines.connection import Connection
from zmqmq.client.machines.effects import MS, NEVER, Chance, Failure, Reply
from zmqmq.client.machines.lookup import Answers, Lookup, Question
from zmqmq.client.machines.routing import Routing
from zmqmq.client.machines.stream import Place, PlaceKind, Stream, is_offset
from zmqmq.errors import ProtocolError, ZmqmqError
from zmqmq.wire.apis import ENTRIES_MAX, Api

OnPlaced = Callable[[Stream, ZmqmqError | None], None]
StoredOffsets = Mapping[tuple[bytes, int], tuple[int, int]]
"""Of topic id and partition: the offset to go on at, and the leader epoch of the record before."""

_QUESTIONS: dict[PlaceKind, tuple[str, ...]] = {
    PlaceKind.START: ("start",),
    PlaceKind.END: ("end",),
    PlaceKind.BEFORE_END: ("start", "end"),
    PlaceKind.OFFSET: (),
    PlaceKind.TIME: (),
    PlaceKind.STORED: (),
}


class Places:
    """Resolves the place of each stream of one consumer to a position.

    A stream may be sought elsewhere while its place is being looked up; then the answer is of an
    older generation and is ignored.
    """

    def __init__(
        self,
        group: str | None,
        timeout: int,
        routing: Routing,
        lookup: Lookup,
        chance: Chance,
        on_placed: OnPlaced,
    ) -> None:
        self._group = group
        self._timeout = timeout
        self._routing = routing
        self._lookup = lookup
        self._backoff = Backoff(chance, longest=1_000 * MS)
        self._on_placed = on_placed
        self.stored: StoredOffsets | None = None
        """What a broadcast consumer has stored itself; None: the group's coordinator knows."""
        self._asking: dict[Stream, int] = {}
        """Streams that are being looked up, and the generation they had."""
        self._not_before = 0

    def pump(self, now: int, streams: Iterable[Stream], *, has_end: bool) -> None:
        """Look up what is not being looked up yet; with `has_end`, the end to stop at too."""
        if now < self._not_before:
            return
        self._not_before = 0
        looked_up: list[Stream] = []
        stored: list[Stream] = []
        coordinator: Connection | None = None
        if self._group is not None:
            coordinator = self._routing.to_coordinator(now, self._group)
        for stream in streams:
            if stream.place is None or self._asking.get(stream) == stream.generation:
                continue
            topic = self._routing.want(now, stream.topic)
            if topic is None:
                continue
            if stream.place.kind is PlaceKind.STORED and self.stored is not None:
                _go_on(stream, self.stored.get((topic.id, stream.partition)))
            is_stored = stream.place.kind is PlaceKind.STORED
            if is_stored and coordinator is None:
                continue  # there is news when it is there
            stream.topic_id = topic.id
            (stored if is_stored else looked_up).append(stream)
        for at in range(0, len(stored), ENTRIES_MAX // 4):
            assert coordinator is not None
            self._ask_group(now, coordinator, stored[at : at + ENTRIES_MAX // 4])
        if looked_up:
            self._ask_leaders(now, looked_up, has_end=has_end)

    def next_wake(self) -> int:
        """When `pump` has something to do next."""
        return self._not_before or NEVER

    def _ask_group(self, now: int, coordinator: Connection, streams: list[Stream]) -> None:
        asked = []
        for stream in streams:
            self._asking[stream] = stream.generation
            asked.append((stream, stream.generation))
        fields = {
            "group": self._group,
            "partitions": [(s.topic_id, s.partition) for s in streams],
        }
        coordinator.request(
            now,
            Api.OFFSET_FETCH,
            fields,
            (),
            now + self._timeout,
            partial(self._take_stored, coordinator, asked),
        )

    def _take_stored(
        self,
        coordinator: Connection,
        asked: Sequence[tuple[Stream, int]],
        now: int,
        answer: Reply | Failure,
    ) -> None:
        entries = answer.fields.get("offsets") if isinstance(answer, Reply) else None
        error: ZmqmqError | None = None
        found: dict[tuple[bytes, int], tuple[int, int]] = {}
        if isinstance(answer, Failure):
            error = answer.error
        elif type(entries) is not list or not all(
            type(e) is list
            and len(e) >= 4
            and type(e[0]) is bytes
            and all(is_offset(number) for number in e[1:4])
            for e in entries
        ):
            error = ProtocolError(f"OFFSET_FETCH was answered with {entries!r:.100}")
        else:
            found = {(e[0], e[1]): (e[2], e[3]) for e in entries}
        may_retry = error is not None and error.retriable
        if error is not None and self._group is not None:
            self._routing.note_coordinator_error(now, self._group, coordinator, error)
        for stream, generation in asked:
            self._forget(stream, generation)
            if stream.generation != generation:
                continue
            if may_retry:
                self._not_before = now + self._backoff.next_delay()
            elif error is not None:
                self._on_placed(stream, error)
            else:
                _go_on(stream, found.get((stream.topic_id, stream.partition)))

    def _forget(self, stream: Stream, generation: int) -> None:
        if self._asking.get(stream) == generation:
            del self._asking[stream]

    def _ask_leaders(self, now: int, streams: list[Stream], *, has_end: bool) -> None:
        questions: dict[Question, None] = {}
        asked = []
        for stream in streams:
            assert stream.place is not None
            for at in _questions_of(stream.place, has_end=has_end and stream.stop_at is None):
                questions[Question(stream.topic, stream.partition, at)] = None
            self._asking[stream] = stream.generation
            asked.append((stream, stream.generation))
        deadline = now + self._timeout
        self._lookup.ask(
            now, list(questions), deadline, partial(self._take_offsets, asked, has_end)
        )

    def _take_offsets(
        self,
        asked: Sequence[tuple[Stream, int]],
        has_end: bool,  # noqa: FBT001 - bound by partial
        _now: int,
        answers: Answers,
    ) -> None:
        for stream, generation in asked:
            self._forget(stream, generation)
            if stream.generation != generation or stream.place is None:
                continue
            where = stream.topic, stream.partition
            mine = {q.at: a for q, a in answers.items() if (q.topic, q.partition) == where}
            error = next((a for a in mine.values() if isinstance(a, ZmqmqError)), None)
            if error is not None:
                self._on_placed(stream, error)
                continue
            offsets = {at: a for at, a in mine.items() if isinstance(a, int)}
            stream.position = _position_of(stream.place, offsets)
            stream.place = None
            if has_end and stream.stop_at is None:
                stream.stop_at = offsets["end"]
            self._on_placed(stream, None)


def _go_on(stream: Stream, committed: tuple[int, int] | None) -> None:
    """Where to begin is looked up like any other place."""
    if committed is None:
        stream.place = Place(PlaceKind.START)
    else:
        stream.place = Place(PlaceKind.OFFSET, committed[0])
        stream.resume(*committed)


def _questions_of(place: Place, *, has_end: bool) -> list[str | int]:
    at: list[str | int] = [*_QUESTIONS[place.kind]]
    if place.kind is PlaceKind.TIME:
        at.append(place.number)
    if has_end and "end" not in at:
        at.append("end")
    return at


def _position_of(place: Place, offsets: dict[str | int, int]) -> int:
    if place.kind is PlaceKind.OFFSET:
        return place.number
    if place.kind is PlaceKind.TIME:
        return offsets[place.number]
    if place.kind is PlaceKind.BEFORE_END:
        return max(offsets["start"], offsets["end"] - place.number)
    return offsets[place.kind.value]
