"""A consumer: reads its topics in order, seeks back now and then, asks for ends, commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from zmqmq.batch.decode import RecordBatch
from zmqmq.client.machines.stream import Place, PlaceKind
from zmqmq.client.options import ConsumerOptions
from zmqmq.errors import CorruptDataError, WireError, ZmqmqError
from zmqmq.sim.client_reader import SimConsumer
from zmqmq.sim.history import (
    COMMIT,
    COMMITTED,
    END,
    FAIL,
    INFO,
    OK,
    POLL,
    SEEK,
    STORED,
    Committing,
    Log,
    Polled,
    Position,
    Refused,
    Resumed,
)
from zmqmq.sim.node import MS
from zmqmq.sim.workloads.base import SimClient, Stage, is_no_answer, type_of
from zmqmq.wire.apis import Api

POLLS_MAX = 8
"""Batches that it takes at one look."""
APPETITES = ((2_048, 2_048), (8_192, 8_192), (512, 65_536), (1_048_576, 16_777_216))
"""What a fetch asks for and what may lie ready; the first two wait until all was read."""
UNANSWERED_MAX = 4
"""Questions under way, before it asks no more."""
BACK_MAX = 30
"""How many offsets a seek goes back at most."""
HASTE = 20 * MS
"""So long it thinks at most when it has to catch up."""


class ConsumingClient(SimClient):
    """Reads from the start, from the end, or from what its group has committed."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        topics: Mapping[str, int],
        think_ms: int = 250,
        *,
        start: PlaceKind = PlaceKind.START,
        group: str | None = None,
        rack: str | None = None,
        mode: str = "pull",
    ) -> None:
        super().__init__(stage, name, think_ms)
        assert (start is PlaceKind.STORED) == (group is not None)
        self._topics = dict(topics)
        self._group = group
        self._rack = rack
        self._mode = mode
        self._start = Place(start)
        self._options = self._draw_options()
        self._may_seek = self.stream.randrange(2) == 0
        self._only_reads = False
        self._unanswered = 0
        self._consumer: SimConsumer
        self._begun: dict[Log, None] = {}
        """Logs of which the history knows where reading began."""
        self._resuming: dict[Log, int] = {}
        """Those that begin where the group left off: the entry in the history."""
        self._next: dict[Log, int] = {}
        """The offset behind the last record that was handed out."""
        self._is_looking = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing but fetches is under way."""
        return super().is_idle or not self._unanswered

    def begin(self) -> None:
        """A process has started."""
        self._unanswered = 0
        self._begun, self._resuming, self._next = {}, {}, {}
        self._is_looking = False
        if self._group is not None:
            for topic, count in self._topics.items():
                for partition in range(count):
                    self._resume(topic, partition)
        self._consumer = SimConsumer(
            self.host, self._options, list(self._topics), self._start, self._noticed
        )

    def turn(self) -> None:
        """Something else than reading."""
        if self._only_reads or self._unanswered >= UNANSWERED_MAX:
            return
        what = self.stream.randrange(10)
        if what < 4:
            log = self._draw_log()
            self._ask(partial(self.ask_offset, END, *log))
        elif self._group is not None and what < 8:
            self._commit()
        elif self._group is not None and what == 8:
            self._ask_committed()
        elif self._may_seek and what == 9:
            self._seek_back()

    def catch_up(self) -> None:
        """Do nothing but read from now on, and waste no time."""
        self._only_reads = True
        self._think = HASTE

    def behind(self, ends: Mapping[Log, int]) -> Iterator[str]:
        """What it has not read yet of logs that end there."""
        positions = self._consumer.positions
        for log, end in ends.items():
            if log[0] in self._topics and positions.get(log, -1) < end:
                yield f"{self.name} is at {positions.get(log, -1)} of {log}, which ends at {end}"
        if not self._consumer.is_dry:
            yield f"{self.name} has not taken all that it has got"

    # Reading

    def _noticed(self) -> None:
        """There is news: note where reading begins before anything is read, and look soon."""
        if len(self._begun) < len(self._consumer.machine.streams):
            self._note_beginnings()
        if not (self._is_looking or self.is_stopping):
            self._is_looking = True
            self.later(self._look)

    def _note_beginnings(self) -> None:
        for log, position in self._consumer.positions.items():
            if position >= 0 and log not in self._begun:
                self._begun[log] = None
                self.history.note(self.name, SEEK, Position(*log, position))
                asked = self._resuming.pop(log, None)
                if asked is not None:
                    assert self._group is not None
                    self.history.end(asked, OK, Resumed(self._group, *log, position))

    def _look(self) -> None:
        self._is_looking = False
        polled: Polled | None = None
        for _ in range(POLLS_MAX):
            outcome = self._consumer.poll()
            if outcome is None:
                break
            if isinstance(outcome, RecordBatch):
                polled = self._take(outcome, polled)
            else:
                self._refused(outcome)
                polled = None
        else:
            self._noticed()

    def _take(self, batch: RecordBatch, before: Polled | None) -> Polled:
        """Note a batch, together with the one before if that is of the same log."""
        log = batch.topic, batch.partition
        pairs = zip(batch.offsets, batch.values, strict=True)
        records = [(offset, value or b"") for offset, value in pairs]
        self._next[log] = batch.next_offset
        polled = Polled(*log, records, batch.header.leader_epoch)
        if before is not None and polled._replace(records=before.records) == before:
            before.records.extend(records)
            return before
        self.history.note(self.name, POLL, polled)
        return polled

    def _refused(self, error: ZmqmqError) -> None:
        """The machine has given up on a partition: begin anew with it."""
        code = error.code.name if isinstance(error, WireError) else type(error).__name__
        type_ = INFO if is_no_answer(error) and not isinstance(error, CorruptDataError) else FAIL
        self.history.note(self.name, POLL, Refused(code, str(error)), type_)
        for (topic, partition), stream in self._consumer.machine.streams.items():
            if stream.is_stopped:
                self._begun.pop((topic, partition), None)
                self._next.pop((topic, partition), None)
                asked = self._resuming.pop((topic, partition), None)
                if asked is not None:  # where the group left off will never be known
                    assert self._group is not None
                    nowhere = Resumed(self._group, topic, partition, -1)
                    self.history.end(asked, INFO, nowhere)
                self._consumer.seek(topic, partition, Place(PlaceKind.START))

    def _seek_back(self) -> None:
        if self._next:
            topic, partition = log = self.stream.choice(list(self._next))
            offset = max(self._next[log] - self.stream.randrange(1, BACK_MAX), 0)
            self.history.note(self.name, SEEK, Position(topic, partition, offset))
            self._next[log] = offset
            self._consumer.seek(topic, partition, Place(PlaceKind.OFFSET, offset))

    # The group

    def _resume(self, topic: str, partition: int) -> None:
        assert self._group is not None
        asking = Resumed(self._group, topic, partition, -1)
        self._resuming[topic, partition] = self.history.invoke(self.name, STORED, asking)

    def _commit(self) -> None:
        """Commit what was handed out, of one partition or of all."""
        if not self._next:
            return
        assert self._group is not None
        offsets = dict(self._next)
        if self.stream.randrange(4):
            log = self.stream.choice(list(offsets))
            offsets = {log: offsets[log]}
        asking = Committing(self._group, offsets)
        asked = self.history.invoke(self.name, COMMIT, asking)

        def answered(done: Callable[[object], object], error: ZmqmqError | None) -> None:
            type_ = OK if error is None else type_of(error)
            # The error of one is told for all; others may have been committed.
            is_vague = type_ == FAIL and len(offsets) > 1
            self.history.end(asked, INFO if is_vague else type_, asking)
            done(None)

        self._ask(lambda done: self._consumer.commit(offsets, partial(answered, done)))

    def _ask_committed(self) -> None:
        """Ask what the group has committed for one partition."""
        assert self._group is not None
        log = self._draw_log()
        topic = self.host.core.routing.topics.get(log[0])
        if topic is None:
            return
        asking = Committing(self._group, {log: None})
        asked = self.history.invoke(self.name, COMMITTED, asking)

        def answered(done: Callable[[object], object], outcome: object) -> None:
            if isinstance(outcome, ZmqmqError):
                self.history.end(asked, INFO, asking)
            else:
                assert isinstance(outcome, dict)
                offset = next((int(entry[2]) for entry in outcome["offsets"]), None)
                self.history.end(asked, OK, Committing(asking.group, {log: offset}))
            done(None)

        fields = {"group": self._group, "partitions": [(topic.id, log[1])]}
        self._ask(lambda done: self.host.call(Api.OFFSET_FETCH, fields, partial(answered, done)))

    # Inside

    def _ask(self, ask: Callable[[Callable[[object], object]], object]) -> None:
        self._unanswered += 1
        ask(self._done)

    def _done(self, _outcome: object) -> None:
        self._unanswered -= 1

    def _draw_log(self) -> Log:
        topic = self.stream.choice(list(self._topics))
        return topic, self.stream.randrange(self._topics[topic])

    def _draw_options(self) -> ConsumerOptions:
        choice = self.stream.choice
        fetch_bytes, prefetch_bytes = choice(APPETITES)
        # Where there is room for one fetch the partitions of one leader wait for those of another.
        waits = (100, 100, 100) if fetch_bytes == prefetch_bytes else (100, 500, 2_000)
        return ConsumerOptions(
            group=self._group,
            auto_commit=False,
            fetch_bytes=fetch_bytes,
            prefetch_bytes=prefetch_bytes,
            max_wait_ms=choice(waits),
            rack=self._rack,
            mode=self._mode,
        )
