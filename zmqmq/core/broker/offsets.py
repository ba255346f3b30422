"""OFFSET_COMMIT, OFFSET_FETCH and LIST_OFFSETS.

A commit is a batch in `__offsets`; it is answered, and shown to others, once that is committed.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from zmqmq.batch.decode import RecordBatch, decode_batches
from zmqmq.core.broker.catalog import Catalog, Topic
from zmqmq.core.broker.latest import Latest
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.produce import Producing
from zmqmq.core.broker.sessions import Session
from zmqmq.core.broker.timers import Timers
from zmqmq.core.groups.offsets_table import (
    Committed,
    OffsetsTable,
    commit_batch,
    forget_batch,
)
from zmqmq.core.replication.partition import Partition
from zmqmq.core.security.authorize import Action, authorize
from zmqmq.core.storage.reading import find_time, read
from zmqmq.errors import (
    Code,
    CorruptDataError,
    StorageError,
    WireError,
    error_to_wire,
    refusal,
)
from zmqmq.model.groups import offsets_partition
from zmqmq.model.limits import INTEGER_MAX, METADATA_NOTE_MAX, MIB
from zmqmq.model.names import OFFSETS_TOPIC, check_group_name
from zmqmq.model.now import Now
from zmqmq.wire.apis import REQUESTS, Api
from zmqmq.wire.frame import Fields
from zmqmq.wire.schema import malformed, reader, row, whole

_read_commit = reader(REQUESTS[Api.OFFSET_COMMIT])
_read_fetch = reader(REQUESTS[Api.OFFSET_FETCH])
_read_list = reader(REQUESTS[Api.LIST_OFFSETS])

COMMIT_TIMEOUT_NS = 30 * 10**9
FORGOTTEN_PER_BATCH = 1_000


class CommitRequest:
    """An OFFSET_COMMIT that waits for its record to be committed."""

    __slots__ = ("_outbox", "correlation", "done", "results", "session")

    def __init__(
        self, outbox: Outbox, session: Session, correlation: int, results: list[Any]
    ) -> None:
        self._outbox = outbox
        self.session = session
        self.correlation = correlation
        self.results = results
        self.done = False

    def finish(self) -> None:
        """Answer."""
        self.done = True
        self.session.waiting -= 1
        self._outbox.reply(
            self.session, Api.OFFSET_COMMIT, self.correlation, {"results": self.results}
        )

    def refuse(self, code: Code, detail: str) -> None:
        """Answer with an error."""
        self.done = True
        self.session.waiting -= 1
        error = refusal(code, detail)
        self._outbox.refuse(self.session, Api.OFFSET_COMMIT, self.correlation, error)

    def expire(self) -> None:
        """The disk did not answer in time; the offsets may yet be committed."""
        self.refuse(Code.TIMED_OUT, "the commit was written, but not flushed in time")


class Offsets:
    """Positions: those that groups have committed, and those of time, start and end."""

    def __init__(
        self,
        catalog: Catalog,
        outbox: Outbox,
        timers: Timers,
        producing: Producing,
        latest: Latest,
        make_own: Callable[[], None],
    ) -> None:
        self._catalog = catalog
        self._outbox = outbox
        self._timers = timers
        self._producing = producing
        self._latest = latest
        self._make_own = make_own
        """Makes the topic, unless it is there or being made."""
        self._tables: dict[int, OffsetsTable] = {}
        """By partition of `__offsets`."""
        self._loaded: dict[int, Partition] = {}
        """Of which leader epoch the table is, or would be if it could be read."""
        self._pending: dict[Partition, deque[tuple[int, RecordBatch, CommitRequest | None]]] = {}

    def load(self, partition: Partition) -> None:
        """Replay a partition of `__offsets`, once all that was committed before this leader epoch
        is known to be (L14).

        One that is damaged gets no table: a group whose offsets may be lost must not begin again
        at the start without anybody knowing why.
        """
        number = partition.log.key.partition
        if self._loaded.get(number) is partition or not partition.is_caught_up:
            return
        self._loaded[number] = partition
        table = OffsetsTable()
        log, offset = partition.log, partition.log.start_offset
        while offset < partition.high_watermark and not log.damage:
            try:
                data = read(log, offset, 1 * MIB, partition.high_watermark)
                batches = decode_batches(
                    memoryview(data), log.seed, OFFSETS_TOPIC, log.key.partition
                )
                for batch in batches:
                    table.apply(batch)
                    offset = batch.next_offset
            except CorruptDataError:
                return  # and remembered in log.damage
            except StorageError as error:
                log.fail(error)
                return
        if not log.damage:
            self._tables[number] = table

    def handle_commit(self, now: Now, session: Session, correlation: int, fields: Fields) -> None:
        """OFFSET_COMMIT."""
        group, entries = _read_commit(fields)
        self._check_group(session, group, Action.WRITE)
        partition, _ = self._coordinator(group)
        results: list[Any] = []
        commits = []
        for entry in entries:
            topic_id, number, offset, epoch, note = row("offsets", entry, bytes, int, int, int, str)
            try:
                self._check_note(note)
                self._catalog.check_exists(topic_id, number)
            except WireError as error:
                results.append(error_to_wire(error))
                continue
            results.append(None)
            commits.append(((topic_id, number), Committed(offset, epoch, note, now.ms)))
        session.waiting += 1
        request = CommitRequest(self._outbox, session, correlation, results)
        if not commits:
            request.finish()
            return
        batch = commit_batch(partition.log.seed, group, commits, now.ms)
        try:
            self._append(now, partition, batch, request)
        except WireError:
            session.waiting -= 1
            raise
        self._timers.add(now.ns + COMMIT_TIMEOUT_NS, request)

    def handle_fetch(self, now: Now, session: Session, correlation: int, fields: Fields) -> None:
        """OFFSET_FETCH."""
        group, entries = _read_fetch(fields)
        self._check_group(session, group, Action.READ)
        rows = None
        if entries is not None:
            rows = [row("partitions", entry, bytes, int) for entry in entries]
        partition, _ = self._coordinator(group)

        def finish() -> None:
            _, table = self._coordinator(group)
            found = table.of(group)
            wanted: Iterable[tuple[bytes, int]] = sorted(found)
            if rows is not None:
                wanted = [(topic_id, number) for topic_id, number, *_ in rows]
            offsets = [
                [*place, c.offset, c.leader_epoch, c.note, c.commit_ms]
                for place in wanted
                if (c := found.get(place)) is not None
            ]
            self._outbox.reply(session, Api.OFFSET_FETCH, correlation, {"offsets": offsets})

        self._latest.ask(now, session, Api.OFFSET_FETCH, correlation, (partition,), finish)

    def handle_list(self, now: Now, session: Session, correlation: int, fields: Fields) -> None:
        """LIST_OFFSETS."""
        (entries,) = _read_list(fields)
        rows = [row("partitions", entry, bytes, int) for entry in entries]
        latest: dict[Partition, None] = {}
        for topic_id, number, *rest in rows:
            partition = self._catalog.partitions.get((topic_id, number))
            if partition is not None and rest[:1] != ["start"] and not partition.log.failed:
                latest[partition] = None

        def finish() -> None:
            offsets = [self._list_one(session, *entry) for entry in rows]
            self._outbox.reply(session, Api.LIST_OFFSETS, correlation, {"offsets": offsets})

        self._latest.ask(now, session, Api.LIST_OFFSETS, correlation, latest, finish)

    def _list_one(
        self, session: Session, topic_id: bytes, number: int, *rest: object
    ) -> tuple[int, int | None] | Fields:
        try:
            partition = self._catalog.partition(topic_id, number)
            if not authorize(session.principal, Action.DESCRIBE, "topic", partition.topic):
                raise refusal(Code.DENIED, f"may not describe {partition.topic!r}")
            return self._find(partition, rest[0] if rest else None)
        except WireError as error:
            return error_to_wire(error)
        except CorruptDataError as error:
            return error_to_wire(refusal(Code.STORAGE_DAMAGED, str(error)))
        except StorageError as error:
            return error_to_wire(refusal(Code.STORAGE_OFFLINE, str(error)))

    def commit(self, partition: Partition) -> None:
        """The high watermark of a partition of `__offsets` has moved."""
        pending = self._pending.get(partition)
        table = self._tables.get(partition.log.key.partition)
        while pending and table and pending[0][0] <= partition.high_watermark:
            _, batch, request = pending.popleft()
            table.apply(batch)
            if request is not None and not request.done:
                request.finish()

    def drop(self, partition: Partition, why: str) -> None:
        """It has failed or is led elsewhere: nobody knows which pending commits will stay."""
        for _, _, request in self._pending.pop(partition, ()):
            if request is not None and not request.done:
                request.refuse(Code.NOT_COMMITTED, f"the commit may be lost: {why}")
        number = partition.log.key.partition
        if self._loaded.get(number) is partition:
            del self._loaded[number]
            self._tables.pop(number, None)

    def forget_topic(self, now: Now, topic: Topic) -> None:
        """A topic was deleted: nobody will ask for offsets in it again."""
        own = self._catalog.by_name.get(OFFSETS_TOPIC)
        for number, table in self._tables.items():
            partition = self._catalog.partitions.get((own.id, number)) if own else None
            if partition is None:
                continue
            for group in table:
                places = [place for place in table.of(group) if place[0] == topic.id]
                for at in range(0, len(places), FORGOTTEN_PER_BATCH):
                    some = places[at : at + FORGOTTEN_PER_BATCH]
                    # A disk that does not take it keeps offsets that nobody can ask for.
                    with contextlib.suppress(WireError):
                        batch = forget_batch(partition.log.seed, group, some, now.ms)
                        self._append(now, partition, batch, None)

    def groups(self) -> list[tuple[str, dict[tuple[bytes, int], Committed]]]:
        """Every group with what it has committed, by name."""
        return sorted(
            ((group, dict(table.of(group))) for table in self._tables.values() for group in table),
            key=lambda entry: entry[0],
        )

    def _append(
        self, now: Now, partition: Partition, batch: bytes, request: CommitRequest | None
    ) -> None:
        next_offset = self._producing.append_own(now, partition, batch)
        decoded = RecordBatch.of_producer(batch, OFFSETS_TOPIC, partition.log.key.partition)
        self._pending.setdefault(partition, deque()).append((next_offset, decoded, request))

    def _find(self, partition: Partition, at: object) -> tuple[int, int | None]:
        log, end = partition.log, partition.high_watermark
        if log.failed:
            log.check_usable()
        if at == "start":
            return log.start_offset, None
        if at == "end":
            return end, None
        at = whole(at)
        if type(at) is not int or not 0 <= at <= INTEGER_MAX:
            raise malformed(f'`at` is {at!r}; it must be "start", "end" or a time in ms')
        found = find_time(log, at, end)
        return found if found is not None else (end, None)

    def _topic(self) -> Topic:
        topic = self._catalog.by_name.get(OFFSETS_TOPIC)
        if topic is None or topic.state != "ready":
            self._make_own()
            raise refusal(
                Code.COORDINATOR_LOADING, "the offsets topic is being made", {"retry_after_ms": 200}
            )
        return topic

    def _coordinator(self, group: str) -> tuple[Partition, OffsetsTable]:
        topic = self._topic()
        number = offsets_partition(group, topic.partition_count)
        partition = self._catalog.partition(topic.id, number)
        table = self._tables.get(number)
        if table is None:
            partition.log.check_usable()
            raise refusal(Code.COORDINATOR_LOADING, f"offsets partition {number} is loading")
        return partition, table

    def _check_group(self, session: Session, group: str, action: Action) -> None:
        check_group_name(group)
        if not authorize(session.principal, action, "group", group):
            raise refusal(Code.DENIED, f"may not {action.value} group {group!r}")

    def _check_note(self, note: str) -> None:
        if len(note) > METADATA_NOTE_MAX:
            raise malformed(f"note has {len(note)} characters; the limit is {METADATA_NOTE_MAX}")
