"""PRODUCE: append now, answer when the promise that was asked for holds (L3, L4).

acks=0 is never answered, acks=1 once written out at the end of the burst, acks=all once the high
watermark has passed. All batches of a request are answered together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from zmqmq.core.broker.catalog import Catalog
from zmqmq.core.broker.flushing import Flushing
from zmqmq.core.broker.options import ServingOptions
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.sessions import Session
from zmqmq.core.broker.timers import Timers
from zmqmq.core.replication.partition import Appended, Partition
from zmqmq.core.security.authorize import Action, authorize
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import Log
from zmqmq.errors import Code, WireError, error_to_wire, refusal
from zmqmq.model.names import INTERNAL_PREFIX
from zmqmq.model.now import Now
from zmqmq.wire.apis import ACKS_ALL, ACKS_NONE, REQUESTS, Api
from zmqmq.wire.frame import Fields
from zmqmq.wire.schema import malformed, reader, row

_read = reader(REQUESTS[Api.PRODUCE])


class ProduceRequest:
    """A request whose batches are appended and not all committed."""

    __slots__ = ("_outbox", "correlation", "done", "pending", "results", "session")

    def __init__(
        self, outbox: Outbox, session: Session, correlation: int, results: list[Any]
    ) -> None:
        self._outbox = outbox
        self.session = session
        self.correlation = correlation
        self.results = results
        self.pending = 0
        self.done = False

    def settle(self, count: int = 1) -> None:
        """So many of its batches are committed, or known to have failed."""
        self.pending -= count
        if self.pending <= 0 and not self.done:
            self.finish()

    def finish(self) -> None:
        """Answer with what is known."""
        self.done = True
        self.session.waiting -= 1
        self._outbox.reply(self.session, Api.PRODUCE, self.correlation, {"results": self.results})

    def fail(self, index: int, error: WireError) -> None:
        """One of its batches has come to nothing, perhaps."""
        self.results[index] = error_to_wire(error)
        self.settle()

    def expire(self) -> None:
        """The commit did not come in time. It may yet come: say perhaps, never no."""
        error = error_to_wire(
            refusal(Code.TIMED_OUT, "appended, but not committed within timeout_ms")
        )
        self.results = [r if type(r) is dict else error for r in self.results]
        self.finish()


class Producing:
    """Appends, and who waits for which offset."""

    def __init__(
        self,
        catalog: Catalog,
        outbox: Outbox,
        timers: Timers,
        flushing: Flushing,
        options: ServingOptions,
    ) -> None:
        self._catalog = catalog
        self._outbox = outbox
        self._timers = timers
        self._flushing = flushing
        self._options = options
        self._written: list[ProduceRequest] = []
        """acks=1, to be answered when the burst has been written out."""
        self._waiting: dict[Partition, deque[tuple[int, ProduceRequest, int]]] = {}
        """By partition: (next offset, request, index in it), in the order of offsets."""
        self.batches = self.bytes = 0

    def handle(
        self, now: Now, session: Session, correlation: int, fields: Fields, bodies: list[Buffer]
    ) -> None:
        """Append what a client sent."""
        acks, timeout_ms, entries = _read(fields)
        if len(entries) != len(bodies):
            raise malformed(f"{len(entries)} batches are listed and {len(bodies)} frames follow")
        size = sum(map(len, bodies))
        unflushed = self._flushing.unflushed_bytes
        if unflushed + size > self._options.unflushed_bytes:
            raise refusal(
                Code.THROTTLED,
                f"{unflushed} bytes wait for the disk and serving.unflushed_bytes is "
                f"{self._options.unflushed_bytes}",
                {"retry_after_ms": 50},
            )
        results: list[Any] = []
        request = ProduceRequest(self._outbox, session, correlation, results)
        for entry, body in zip(entries, bodies, strict=True):
            try:
                topic_id, number = row("batches", entry, bytes, int)
                partition = self._catalog.partition(topic_id, number)
                if not authorize(session.principal, Action.WRITE, "topic", partition.topic):
                    raise refusal(Code.DENIED, f"may not write to {partition.topic!r}")
                if partition.topic.startswith(INTERNAL_PREFIX):
                    # A start replays what stands there, and could not with a stranger's records.
                    raise refusal(Code.DENIED, f"topic {partition.topic!r} is the broker's own")
                appended = self._append(now, partition, body, acks)
            except WireError as error:
                results.append(error_to_wire(error))
                continue
            results.append((appended.base_offset, appended.append_ms))
            if acks == ACKS_ALL and appended.next_offset > partition.high_watermark:
                self._wait(partition, appended.next_offset, request, len(results) - 1)
        self.batches += len(bodies)
        self.bytes += size
        if acks == ACKS_NONE:
            return
        session.waiting += 1
        if acks != ACKS_ALL:
            self._written.append(request)
        elif request.pending:
            self._timers.add(now.ns + timeout_ms * 1_000_000, request)
        else:
            request.finish()

    def append_own(self, now: Now, partition: Partition, batch: bytes) -> int:
        """Append a batch of the broker's own; the offset behind it. Raises refusals."""
        return self._append(now, partition, batch, ACKS_ALL).next_offset

    def _append(self, now: Now, partition: Partition, batch: Buffer, acks: int) -> Appended:
        log = partition.log
        if not log.failed:
            # Before the append: one that fails the log has others who wait for it.
            self._flushing.touch(log)
        appended = partition.append(now.ms, batch, acks)
        # After it too: a batch that came again may be of a failed log.
        self._flushing.touch(log, len(batch))
        return appended

    def answer_written(self, failed: Sequence[tuple[Log, str]]) -> None:
        """The burst was written out, but for the logs that failed: answer acks=1."""
        if failed:
            # A write of this burst failed: none of its acks=1 requests may be confirmed.
            names = ", ".join(f"{log.name} ({why})" for log, why in failed)
            error = error_to_wire(refusal(Code.NOT_COMMITTED, f"the disk failed: {names}"))
            for request in self._written:
                request.results = [r if type(r) is dict else error for r in request.results]
        written, self._written = self._written, []
        for request in written:
            request.finish()

    def commit(self, partition: Partition) -> None:
        """The high watermark has moved: answer those who waited for it."""
        waiting = self._waiting.get(partition)
        if not waiting:
            return
        committed = partition.high_watermark
        while waiting and waiting[0][0] <= committed:
            waiting.popleft()[1].settle()

    def drop(self, partition: Partition, why: str) -> None:
        """It has failed, is gone, or is led elsewhere: nobody knows what of the uncommitted end
        will stay."""
        error = refusal(
            Code.NOT_COMMITTED, f"{partition.name}: the record is not known to be stored: {why}"
        )
        for _, request, index in self._waiting.pop(partition, ()):
            request.fail(index, error)

    def has_waiting(self, partition: Partition) -> bool:
        """Whether somebody waits for a commit."""
        return bool(self._waiting.get(partition))

    def _wait(
        self, partition: Partition, next_offset: int, request: ProduceRequest, index: int
    ) -> None:
        waiting = self._waiting.get(partition)
        if waiting is None:
            waiting = self._waiting[partition] = deque()
        request.pending += 1
        if waiting and waiting[-1][0] > next_offset:
            # A batch that came again waits for its first copy, which lies before others.
            waiting.append((next_offset, request, index))
            self._waiting[partition] = deque(sorted(waiting, key=lambda entry: entry[0]))
            return
        waiting.append((next_offset, request, index))
