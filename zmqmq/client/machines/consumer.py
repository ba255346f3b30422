"""One consumer: where each partition stands, and fetching ahead of the caller.

Decides what to fetch next from whom, and what an answer means for a partition. It leaves to the
reader (client/reading.py, on the caller's thread) checksums, records and what counts as consumed.

A partition is in at most one fetch at a time, since only the answer tells the next offset. As
soon as it is there the next fetch goes out, while the caller still reads: so up to
`prefetch_bytes` lie ready, and a caller who does not read stops the fetching.

With `mode` push a partition of which everything was fetched is subscribed to (push.py), and
fetched from again only when something is missing: what was published and lost, what is too large,
what came while there was no room. Whoever falls behind leaves the subject, and comes back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from zmqmq.client.machines.backoff import backoff_delay
from zmqmq.client.machines.commits import Commits, Offsets
from zmqmq.client.machines.connection import Connection
from zmqmq.client.machines.effects import (
    MS,
    NEVER,
    Body,
    Chance,
    CommitDue,
    Effect,
    Failure,
    Fetched,
    Observed,
    Promise,
    Reply,
)
from zmqmq.client.machines.lookup import Answers, Lookup, Question
from zmqmq.client.machines.network import Network
from zmqmq.client.machines.places import Places, StoredOffsets
from zmqmq.client.machines.push import Push
from zmqmq.client.machines.pushed import Pushed
from zmqmq.client.machines.routing import MOVED, Routing
from zmqmq.client.machines.sources import Source, Sources, parts
from zmqmq.client.machines.stream import (
    Asked,
    Chunk,
    End,
    Place,
    PlaceKind,
    Stream,
    end_of_batches,
    is_offset,
    made_anew,
    no_partition,
)
from zmqmq.client.options import ConsumerOptions
from zmqmq.errors import (
    Code,
    CorruptDataError,
    ProtocolError,
    WireError,
    ZmqmqError,
    error_from_wire,
)
from zmqmq.model.limits import REPLY_BYTES_MAX
from zmqmq.model.names import OFFSETS_TOPIC
from zmqmq.wire.apis import Api

FETCHES_MAX: Final = 16
"""Fetches of one consumer at one broker; each carries other partitions."""
FETCHES_APART: Final = 6
"""Up to so many, busy and idle partitions are asked for in fetches of their own."""
RETRY_MAX: Final = 2_000 * MS


class Consumer:
    """The I/O side of a consumer. `chunks` and `errors` are what the reader takes from.

    `received` is only written here and `taken` only by the reader, so the bytes that lie ready
    are their difference at any moment, without a lock.
    """

    def __init__(
        self,
        options: ConsumerOptions,
        start: Place,
        stored: StoredOffsets | None,
        topics: Sequence[str],
        request_timeout: int,
        promise: Promise,
        network: Network,
        routing: Routing,
        lookup: Lookup,
        push: Push,
        chance: Chance,
        effects: list[Effect],
    ) -> None:
        self.chunks: deque[Chunk] = deque()
        self.errors: deque[ZmqmqError] = deque()
        """To be raised once what was fetched before has been read."""
        self.start_errors: deque[ZmqmqError] = deque()
        """Why some partition has no position: no such topic, or nobody could tell."""
        self.streams: dict[tuple[str, int], Stream] = {}
        self.received = 0
        self.taken = 0
        self.is_starved = False
        """Whether fetching has stopped until the reader takes something."""
        self.is_closed = False
        self.commits: Commits | None = None
        if options.group:
            self.commits = Commits(options.group, self.streams, network, routing, chance, effects)
        self._options = options
        self._start = start
        self._topics: dict[str, int] = dict.fromkeys(topics, 0)
        """Topics of which new partitions are followed, and how many are known."""
        self._timeout = request_timeout
        self._promise = promise
        self._routing = routing
        self._lookup = lookup
        self._pushed = Pushed(options, push, routing, self._room, self._take_published)
        self._chance = chance
        self._effects = effects
        self._places = Places(options.group, request_timeout, routing, lookup, chance, self._placed)
        self._places.stored = stored
        self._sources = Sources(options.rack, network, routing)
        self._fetch_bytes = min(options.fetch_bytes, options.prefetch_bytes)
        self._asked_bytes = 0
        """What the fetches that are not answered may bring."""
        self._fetches: dict[Connection, int] = {}
        self._turns = 0
        self._commit_every = options.auto_commit_ms * MS
        self._commit_at = 0 if options.keeps_offsets and options.auto_commit else NEVER
        self._routing_version = -1
        self._is_begun = False
        self._pumped_at = 0

    @property
    def buffered_bytes(self) -> int:
        """What lies ready for the reader."""
        return self.received - self.taken

    @property
    def is_placed(self) -> bool:
        """Whether the position of every partition is known, or an error says why not."""
        return self._is_begun and all(s.place is None for s in self.streams.values())

    @property
    def is_finished(self) -> bool:
        """Whether every partition has been fetched as far as `stop_at_end` wants."""
        return (
            self._options.stop_at_end
            and self.is_placed
            and all(stream.is_done for stream in self.streams.values())
        )

    # Commands

    def assign(self, now: int, partitions: Sequence[tuple[str, int]]) -> None:
        """Read these partitions and no others; those that are new begin where `start` says."""
        self._topics.clear()
        for key in [key for key in self.streams if key not in partitions]:
            stream = self.streams.pop(key)
            stream.request = None
            self._pushed.leave(now, stream, "not read any more")
        for name, partition in partitions:
            if (name, partition) not in self.streams:
                self.streams[name, partition] = Stream(name, partition, self._start)
                self._routing.want(now, name)
        self._is_begun = True

    def seek(self, now: int, topic: str, partition: int, generation: int, place: Place) -> None:
        """Go on from there. What was fetched, or is being fetched, under an older generation is
        stale: the reader drops it."""
        stream = self.streams.get((topic, partition))
        if stream is None:
            return
        self._pushed.leave(now, stream, "sought")
        stream.seek(generation, place)

    def pause(self, now: int, topic: str, partition: int, generation: int) -> None:
        """Fetch nothing of this partition until a seek and `resume`."""
        stream = self.streams.get((topic, partition))
        if stream is not None:
            self._pushed.leave(now, stream, "paused")
            stream.request = None
            stream.generation = generation
            stream.is_paused = True

    def stop(self, now: int, topic: str, partition: int, generation: int) -> None:
        """What was fetched cannot be read: fetch nothing more of this partition until a seek."""
        stream = self.streams.get((topic, partition))
        if stream is not None:
            self._pushed.leave(now, stream, "stopped")
            stream.request = None
            stream.generation = generation
            stream.is_stopped = True

    def resume(self, topic: str, partition: int) -> None:
        """Fetch again, from the position of the last seek."""
        stream = self.streams.get((topic, partition))
        if stream is not None:
            stream.is_paused = False

    def auto_commit(self, now: int, offsets: Offsets) -> None:
        """The reader's answer to CommitDue: commit what has changed."""
        commits = self.commits
        self._commit_at = now + self._commit_every
        if commits is None or not commits.is_idle:
            return
        changed = {k: o for k, o in offsets.items() if commits.committed.get(k) != o}
        if changed:
            commits.commit(now, changed, now + self._timeout, None)

    def close(self, now: int) -> None:
        """Fetch nothing more. Answers that still come are ignored."""
        self.is_closed = True
        for stream in self.streams.values():
            stream.request = None
            self._pushed.leave(now, stream, "closed")
        self.streams.clear()
        self.chunks.clear()
        self._commit_at = NEVER

    # Driving

    def pump(self, now: int) -> None:
        """Do whatever can be done now."""
        self._pumped_at = now
        if self.commits is not None:
            self.commits.pump(now)
        if self.is_closed:
            return
        if self._routing_version != self._routing.version or not self._is_begun:
            self._routing_version = self._routing.version
            self._follow_topics(now)
            for stream in self.streams.values():
                self._pushed.check_epoch(now, stream)
        if any(stream.place is not None for stream in self.streams.values()):
            self._places.pump(now, self.streams.values(), has_end=self._options.stop_at_end)
        if now >= self._commit_at:
            self._commit_at = now + self._commit_every
            self._effects.append(CommitDue(self._promise))
        self._fetch(now)

    def next_wake(self) -> int:
        """When `pump` has something to do next, besides when an answer comes."""
        wake = self._commit_at
        if self.commits is not None:
            wake = min(wake, self.commits.next_wake())
        if not self.is_closed:
            for stream in self.streams.values():
                if stream.place is not None:
                    wake = min(wake, self._places.next_wake())
                elif stream.not_before > self._pumped_at:
                    wake = min(wake, stream.not_before)
        return wake

    def _follow_topics(self, now: int) -> None:
        """Make a stream for each partition that METADATA tells of, the first time and later."""
        if self.commits is not None:
            self._routing.want(now, OFFSETS_TOPIC)  # asked for together with the others
        for name, known in self._topics.items():
            topic = self._routing.want(now, name)
            if topic is None:
                if name in self._routing.unknown and not known:
                    self._topics[name] = -1
                    self.start_errors.append(self._routing.unknown[name])
                continue
            count = len(topic.leaders)
            for partition in range(max(known, 0), count):
                if self._options.partitions is None or partition in self._options.partitions:
                    # What is added later was empty when this consumer began: all of it is news.
                    place = self._start if known <= 0 else Place(PlaceKind.START)
                    self.streams[name, partition] = Stream(name, partition, place)
            if known <= 0:
                for partition in self._options.partitions or ():
                    if partition >= count:
                        self.start_errors.append(no_partition(name, partition, count))
            self._topics[name] = count
        if not self._is_begun and all(self._topics.values()):
            self._is_begun = True
            self._effects.append(Fetched(self._promise))

    def _placed(self, stream: Stream, error: ZmqmqError | None) -> None:
        """The position of a stream has been found out, or cannot be."""
        if error is not None:
            stream.place, stream.position, stream.is_stopped = None, -1, True
            self.start_errors.append(error)
        self._effects.append(Fetched(self._promise))

    def _give_up(self, now: int, stream: Stream, error: ZmqmqError) -> None:
        """Only a seek can mend this."""
        self._pushed.leave(now, stream, "stopped")
        stream.is_stopped = True
        self.errors.append(error)
        self._effects.append(Fetched(self._promise))

    # Fetching

    def _fetch(self, now: int) -> None:
        ready = [s for s in self.streams.values() if s.can_fetch(now)]
        if not ready:
            return
        # Where there is no room for all, no partition shall always be the one that waits. The dict
        # keeps its order: other threads look at it.
        ready.sort(key=lambda stream: stream.turn)
        by_source: dict[Source, list[Stream]] = {}
        for stream in ready:
            source = self._source_of(now, stream)
            if source is not None:
                by_source.setdefault(source, []).append(stream)
        room = self._options.prefetch_bytes - self.buffered_bytes - self._asked_bytes
        for source, streams in by_source.items():
            connection = source.connection
            # Whoever asks when many fetches are out asks for all at once: every answer makes room
            # for one fetch, so no partition ever waits for somebody else's long poll to end.
            is_apart = self._fetches.get(connection, 0) + 3 <= FETCHES_APART
            is_apart = is_apart and room >= 3 * self._fetch_bytes
            for part in parts(streams, is_apart=is_apart):
                # Something must always be under way, or nothing would come after a batch
                # that is larger than all that may lie ready.
                if room < self._fetch_bytes and (self._asked_bytes or self.buffered_bytes):
                    self.is_starved = True
                    return
                if self._fetches.get(connection, 0) >= FETCHES_MAX or connection.room <= 0:
                    break
                self._request(now, source, part)
                room -= self._fetch_bytes

    def _source_of(self, now: int, stream: Stream) -> Source | None:
        refused = self._routing.unknown.get(stream.topic)
        if refused is not None:
            self._give_up(now, stream, refused)
            return None
        topic = self._routing.topics.get(stream.topic)
        if topic is not None and stream.topic_id not in (b"", topic.id):
            self._give_up(now, stream, made_anew(stream))
            return None
        return self._sources.of(now, stream)

    def _request(self, now: int, source: Source, streams: list[Stream]) -> None:
        connection = source.connection
        topics = self._routing.topics
        size = self._fetch_bytes
        token = object()
        asked = []
        entries = []
        for stream in streams:
            stream.request = token
            stream.turn = self._turns = self._turns + 1
            topic, partition, position = topics[stream.topic], stream.partition, stream.position
            stream.topic_id = topic.id
            epoch, last_epoch = topic.epochs[partition], stream.last_epoch
            asked.append(Asked(stream, topic.id, position, epoch))
            entries.append((topic.id, partition, position, size, epoch, last_epoch))
        self._fetches[connection] = self._fetches.get(connection, 0) + 1
        self._asked_bytes += size
        self.is_starved = False
        wait_ms = self._options.max_wait_ms
        fields: dict[str, Any] = {"max_wait_ms": wait_ms, "max_bytes": size, "partitions": entries}
        fields |= self._sources.fields_of(source)
        deadline = now + self._timeout + wait_ms * MS
        on_answer = partial(self._answered, source, token, asked, size)
        connection.request(now, Api.FETCH, fields, (), deadline, on_answer)

    def _answered(
        self,
        source: Source,
        token: object,
        asked: Sequence[Asked],
        size: int,
        now: int,
        answer: Reply | Failure,
    ) -> None:
        self._fetches[source.connection] -= 1
        self._asked_bytes -= size
        if self.is_closed:
            return
        entries = answer.fields.get("partitions") if isinstance(answer, Reply) else None
        if type(entries) is not list or len(entries) != len(asked):
            error = (
                answer.error
                if isinstance(answer, Failure)
                else ProtocolError(f"FETCH was answered with {entries!r:.100}")
            )
            for stream, _, _, _ in asked:
                if stream.request is token:
                    stream.request = None
                    self._refused(now, stream, source, error)
            return
        assert isinstance(answer, Reply)
        body = iter(answer.body)
        has_news = False
        for (stream, topic_id, position, epoch), entry in zip(asked, entries, strict=True):
            is_data = type(entry) is list and len(entry) >= 3 and is_offset(entry[1])
            data = next(body, None) if is_data and entry[0] else None
            if stream.request is not token:
                continue  # it was sought, paused or dropped meanwhile
            stream.request = None
            if is_data:
                stream.retries = stream.not_before = 0
                stream.end = entry[1]
                if len(entry) > 3:
                    self._sources.note_nearby(now, stream, entry[3])
                if data is not None:
                    self._take(now, stream, topic_id, position, data)
                    has_news = True
                has_news |= stream.is_done
                if not source.is_copy:
                    self._pushed.join(now, stream, source.connection, epoch)
            else:
                is_error = isinstance(entry, dict)
                error = error_from_wire(entry) if is_error else ProtocolError("FETCH: no entry")
                self._refused(now, stream, source, error)
        if has_news:
            self._effects.append(Fetched(self._promise))

    def _room(self) -> int:
        """How many bytes may come that nobody has asked for."""
        ready = self.buffered_bytes
        return self._options.prefetch_bytes - ready if ready else REPLY_BYTES_MAX

    def _take(self, now: int, stream: Stream, topic_id: bytes, position: int, data: Body) -> None:
        try:
            end = end_of_batches(data)
        except CorruptDataError as error:
            self._give_up(now, stream, CorruptDataError(f"{stream!r}: {error}"))
            return
        generation, stop_at = stream.generation, stream.stop_at
        self._add(Chunk(stream, generation, topic_id, position, stop_at, data), end)
        stream.turn = self._turns = self._turns + 1  # answers are filled in the order of questions

    def _take_published(self, stream: Stream, data: Body, end: End) -> None:
        place = stream.generation, stream.topic_id, stream.position
        self._add(Chunk(stream, *place, None, data, is_pushed=True), end)
        self._effects.append(Fetched(self._promise))

    def _add(self, chunk: Chunk, end: End) -> None:
        self.received += len(chunk.data)
        self.chunks.append(chunk)
        chunk.stream.advance(max(end.next_offset, chunk.position), end.epoch, end.since)

    def _refused(self, now: int, stream: Stream, source: Source, error: ZmqmqError) -> None:
        """Nothing came of a stream: try again, go elsewhere, or tell the caller."""
        self._sources.note_error(now, stream, source)
        code = error.code if isinstance(error, WireError) else None
        if code is Code.OFFSET_OUT_OF_RANGE and isinstance(error, WireError):
            self._out_of_range(now, stream, error)
        elif source.is_copy or code in MOVED or error.retriable:
            where = stream.topic, stream.topic_id, stream.partition
            if self._routing.note_error(now, *where, source.connection, error):
                stream.moved_at = self._routing.version
            self._back_off(now, stream)
        else:
            self._give_up(now, stream, error)

    def _back_off(self, now: int, stream: Stream) -> None:
        stream.retries += 1
        jitter = self._chance.jitter()
        stream.not_before = now + backoff_delay(50 * MS, RETRY_MAX, stream.retries, jitter)

    def _out_of_range(self, now: int, stream: Stream, error: WireError) -> None:
        """Behind the log's start: retention took what was not read yet, go on at the start.

        Not what was read before any more, as a leader of a later epoch says: only the caller can
        know what to do (F12).

        Beyond its end: what was read or committed once is gone, or this broker was replaced as
        the leader and does not know it yet. LIST_OFFSETS tells, whose answers are the latest.
        """
        log_start = error.hints.get("log_start")
        if type(log_start) is int and stream.position < log_start:
            detail = (
                f"{stream.topic}/{stream.partition}: offsets {stream.position} to "
                f"{log_start - 1} are gone (retention); going on at {log_start}"
            )
            self._effects.append(Observed("position-reset", detail, is_warning=True))
            stream.position, stream.last_epoch = log_start, None
            self._effects.append(Fetched(self._promise))
        elif "parted" in error.hints:
            self._give_up(now, stream, error)
        else:
            stream.request = token = object()
            questions = [Question(stream.topic, stream.partition, "end")]
            confirm = partial(self._confirm_end, stream, token, error)
            self._lookup.ask(now, questions, now + self._timeout, confirm)

    def _confirm_end(
        self, stream: Stream, token: object, error: WireError, now: int, answers: Answers
    ) -> None:
        """The end that the leader tells: only the caller can know what to do beyond it."""
        if self.is_closed or stream.request is not token:
            return  # it was sought, paused or dropped meanwhile
        stream.request = None
        (end,) = answers.values()
        if isinstance(end, int) and end < stream.position:
            self._give_up(now, stream, error)
        else:
            self._back_off(now, stream)
