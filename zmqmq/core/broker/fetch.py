"""FETCH: long poll over several partitions, never beyond the high watermark or the credit.

A fetch is answered as soon as there are `min_bytes`, or any error, and at the latest after
`max_wait_ms`, then with whatever there is. What is in the page cache is read at once; for what is
not, the broker asks the world (ReadCold) and goes on with others meanwhile.

Replies are bounded by what the client has not read yet (`credit_bytes`) and by what all clients
together have not (`memory_bytes`). Who has no credit waits for it, and answers itself with
nothing when its time is over.

What this broker does not lead it shows only to those who say that they want that (copies.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from zmqmq.core.broker.catalog import Catalog
from zmqmq.core.broker.cold_reads import ColdReads
from zmqmq.core.broker.copies import Copy, Nearest, open_copy
from zmqmq.core.broker.fetch_request import Asked, Cold, Elsewhere, Entry, FetchRequest
from zmqmq.core.broker.known_epochs import check_epochs
from zmqmq.core.broker.options import ServingOptions
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.replica import Replica
from zmqmq.core.broker.sessions import Session, Sessions
from zmqmq.core.broker.timers import Timers
from zmqmq.core.replication.partition import Partition
from zmqmq.core.replication.vouching import Place as Where
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import Log
from zmqmq.core.storage.read_cache import ReadCache
from zmqmq.core.storage.reading import (
    Place,
    Taken,
    bytes_between,
    check_offset,
    read_in_memory,
    take,
)
from zmqmq.errors import Code, CorruptDataError, StorageError, WireError, error_to_wire, refusal
from zmqmq.model.limits import FRAMES_MAX, REPLY_BYTES_MAX
from zmqmq.model.now import Now
from zmqmq.wire.apis import REQUESTS, Api
from zmqmq.wire.frame import Fields
from zmqmq.wire.schema import reader, row

_read = reader(REQUESTS[Api.FETCH])
ENTRIES_WAITING_MAX: Final = 8_192
"""Partitions that the waiting fetches of one session may name together: 1 MiB or so."""

DISK_WAIT_NS: Final = 10**9
"""How much longer than it was asked to wait a fetch waits for a disk or for credit."""


class Fetching:
    """Who reads, and who waits for records or for credit."""

    def __init__(
        self,
        catalog: Catalog,
        outbox: Outbox,
        timers: Timers,
        sessions: Sessions,
        reads: ColdReads,
        options: ServingOptions,
        cache: ReadCache,
        damaged: Callable[[Log], None],
        replica: Callable[[Where], Replica | None],
        nearest: Nearest,
    ) -> None:
        self._catalog = catalog
        self._outbox = outbox
        self._timers = timers
        self._sessions = sessions
        self._reads = reads
        self._cache = cache
        self._damaged = damaged
        """Told of a log that turned out to have damage."""
        self._replica = replica
        """The copy of a partition that is here, led or not."""
        self._nearest = nearest
        self._options = options
        self._waiting: dict[Where, dict[FetchRequest, None]] = {}
        self._starved: deque[Session] = deque()
        """Sessions with fetches that wait for credit, each once."""
        self.bytes = 0
        self.bytes_of_copies = 0
        """Of those, what another broker leads."""
        self.sent_elsewhere = 0
        """How many times a consumer was told of a nearer broker."""

    def handle(self, now: Now, session: Session, correlation: int, fields: Fields) -> None:
        """Answer, or park until there is something to answer."""
        max_wait_ms, min_bytes, max_bytes, entries, rack, copies = _read(fields)
        if len(session.fetches) >= self._options.fetches_max:
            raise refusal(
                Code.THROTTLED,
                f"{len(session.fetches)} fetches of this session wait and serving.fetches_max is "
                f"{self._options.fetches_max}",
                {"retry_after_ms": 100},
            )
        waiting = sum(len(request.asked) for request in session.fetches)
        if waiting + len(entries) > ENTRIES_WAITING_MAX:
            raise refusal(
                Code.THROTTLED,
                f"fetches of this session wait for {waiting} partitions; with {len(entries)} more "
                f"they are over {ENTRIES_WAITING_MAX}",
                {"retry_after_ms": 100},
            )
        asked = [self._entry(now, session, e, rack, copies=copies) for e in entries]
        end_ns = now.ns + max_wait_ms * 1_000_000
        max_bytes = min(max_bytes, REPLY_BYTES_MAX)
        request = FetchRequest(
            self.expire, session, correlation, asked, min_bytes, max_bytes, end_ns
        )
        session.fetches[request] = None
        if max_wait_ms == 0 or request.is_due or self._is_ready(request):
            self._start(request)
            if not request.done:
                self._timers.add(max(end_ns, now.ns + DISK_WAIT_NS), request)
            return
        request.parked = True
        for entry in asked:
            assert isinstance(entry, Asked)
            self._waiting.setdefault(entry.source.place, {})[request] = None
        self._timers.add(end_ns, request)

    def wake(self, place: Where) -> None:
        """The high watermark of a partition has moved, or it can be read no more."""
        for request in tuple(self._waiting.get(place, ())):
            if self._is_ready(request):
                self._unpark(request)
                self._start(request)

    def credit_came(self, session: Session) -> None:
        """A client has read something, or gone: its own fetches go on, then those of others."""
        starved = self._starved
        if not starved:
            return
        if session.starved:
            starved.remove(session)
            starved.appendleft(session)
        for _ in range(len(starved)):
            waiting = starved.popleft()
            while waiting.starved and self._sessions.credit(waiting) > 0:
                request = waiting.starved.popleft()
                if not request.done:
                    self._go_on(request)
            if waiting.starved:
                starved.append(waiting)

    def _end_cold(self, request: FetchRequest, data: Buffer | StorageError) -> Log | None:
        """The disk has answered. The log that has failed by that, if it has."""
        if request.cold is None:
            return None
        where, asked, rewinds = request.cold
        request.cold = None
        self._sessions.note_reading(request.session, -where.size)
        if request.done:
            self.credit_came(request.session)
            return None
        failed = None
        source = asked.source
        if source.log.rewinds != rewinds or (isinstance(source, Copy) and source.is_closed):
            why = f"{source.log.name} was cut, or is another one now"
            self._answer_error(request, refusal(Code.NOT_LEADER, why))
        elif isinstance(data, StorageError):
            failed = source.log
            failed.fail(data)
            self._answer_error(request, self._storage_error(source, data))
        else:
            self._take(request, asked, where, data)
        if request.cold is None:
            self._go_on(request)
        # Less may have been sent than the disk was asked for.
        self.credit_came(request.session)
        return failed

    def expire(self, request: FetchRequest) -> None:
        """Answer with what there is, which may be nothing."""
        if request.parked:
            self._unpark(request)
            self._start(request)
            if request.cold is not None:
                # It has asked the disk only now. Answered with nothing, it would ask again, and
                # never get what there is.
                self._timers.add(request.end_ns + DISK_WAIT_NS, request)
                return
        if request.done:
            return
        # Still waiting for credit or for a slow disk: what was not reached is answered empty.
        if request in request.session.starved and not request.session.tells_read:
            error = refusal(
                Code.THROTTLED,
                f"{request.session.outstanding} bytes were sent in this session and none "
                "confirmed: send the field rx (docs/protocol.md, Flow control)",
            )
            self._unstarve(request)
            request.done = True
            del request.session.fetches[request]
            self._outbox.refuse(request.session, Api.FETCH, request.correlation, error)
            return
        self._unstarve(request)
        while len(request.answers) < len(request.asked):
            self._answer_rest(request)
        self._finish(request)

    def forget(self, session: Session) -> None:
        """The session is closed: none of its fetches will be answered."""
        for request in session.fetches:
            request.done = True
            if request.parked:
                self._unpark(request)
        session.fetches.clear()
        session.starved.clear()
        if session in self._starved:
            self._starved.remove(session)

    def _entry(
        self, now: Now, session: Session, entry: object, rack: str | None, *, copies: bool
    ) -> Entry:
        topic_id, number, offset, max_bytes, *epochs = row(
            "partitions", entry, bytes, int, int, int
        )
        try:
            self._catalog.check_readable(session.principal, topic_id, number)
            if copies:
                copy = open_copy(self._replica((topic_id, number)), offset, epochs)
                if copy is not None:
                    return Asked(copy, offset, max_bytes)
            partition = self._catalog.partition(topic_id, number)
            if epochs:
                check_epochs(partition, offset, epochs)
            self._check_usable(partition)
            check_offset(partition.log, offset)
            if rack is not None:
                broker_id = self._nearest.find(now, partition, offset, rack)
                if broker_id is not None:
                    return Elsewhere(partition, broker_id)
        except WireError as error:
            return error
        return Asked(partition, offset, max_bytes)

    def _is_ready(self, request: FetchRequest) -> bool:
        """Whether there is enough to answer before the time is over."""
        found = 0
        for entry in request.asked:
            if not isinstance(entry, Asked) or self._is_broken(entry.source):
                return True
            source, offset, _ = entry
            if offset < source.log.start_offset:
                return True
            end = source.shown_end
            if end > offset:
                if request.min_bytes <= 1:
                    return True
                found += bytes_between(source.log, offset, end)
        return found >= request.min_bytes

    def _is_broken(self, source: Partition | Copy) -> bool:
        """Whether some or all of it can be read no more."""
        return bool(source.is_closed or source.log.failed or source.log.damage)

    def _unpark(self, request: FetchRequest) -> None:
        request.parked = False
        for entry in request.asked:
            assert isinstance(entry, Asked)
            place = entry.source.place
            waiting = self._waiting.get(place)
            if waiting is None:
                continue  # it stands in the request twice
            waiting.pop(request, None)
            if not waiting:
                del self._waiting[place]

    def _start(self, request: FetchRequest) -> None:
        session = request.session
        if session.starved or (self._sessions.credit(session) <= 0 and self._has_data(request)):
            if not session.starved:
                self._starved.append(session)
            session.starved.append(request)
            return
        self._go_on(request)

    def _has_data(self, request: FetchRequest) -> bool:
        return any(
            isinstance(entry, Asked) and entry.source.shown_end > entry.offset
            for entry in request.asked
        )

    def _go_on(self, request: FetchRequest) -> None:
        """Read partition after partition until all are answered, or the disk must be asked."""
        limit = min(request.max_bytes, max(self._sessions.credit(request.session), 1))
        while len(request.answers) < len(request.asked):
            asked = request.asked[len(request.answers)]
            room = limit - request.taken_bytes
            is_full = room <= 0 or len(request.bodies) >= FRAMES_MAX - 1
            if (
                not isinstance(asked, Asked)
                or is_full
                or (asked.offset >= asked.source.shown_end and not self._is_broken(asked.source))
            ):
                self._answer_rest(request)
                continue
            self._read(request, asked._replace(max_bytes=min(room, asked.max_bytes)))
            if request.cold is not None:
                return
        self._finish(request)

    def _answer_rest(self, request: FetchRequest) -> None:
        """Answer the next partition without data."""
        match request.asked[len(request.answers)]:
            case WireError() as error:
                request.answers.append(error_to_wire(error))
            case Elsewhere(partition, broker_id):
                self.sent_elsewhere += 1
                known = 0, partition.shown_end, partition.log.start_offset
                request.answers.append((*known, broker_id))
            case Asked(source):
                request.answers.append((0, source.shown_end, source.log.start_offset))

    def _read(self, request: FetchRequest, asked: Asked) -> None:
        source, log = asked.source, asked.source.log
        try:
            if isinstance(source, Copy):
                source.check(asked.offset)
            elif source.is_closed:
                self._catalog.partition(*source.place)
            check_offset(log, asked.offset)
            limits = asked.max_bytes, source.shown_end
            known = self._cache.find(log, asked.offset, *limits)
            found = known or read_in_memory(log, asked.offset, *limits)
        except CorruptDataError as error:
            self._damaged(log)
            self._answer_error(request, self._storage_error(source, error))
        except WireError as error:
            self._answer_error(request, error)
        except StorageError as error:
            self._answer_error(request, self._storage_error(source, error))
        else:
            if isinstance(found, Place):
                self._ask_disk(request, asked, found)
                return
            if known is None:
                self._cache.add(log, asked.offset, found)
            self._give(request, source, found)

    def _take(self, request: FetchRequest, asked: Asked, where: Place, data: Buffer) -> None:
        source, offset, max_bytes = asked
        log, end = source.log, source.shown_end
        try:
            taken = take(log, where, data, offset, end, max_bytes)
        except CorruptDataError as error:
            self._damaged(log)
            self._answer_error(request, self._storage_error(source, error))
            return
        if isinstance(taken, int):
            self._ask_disk(request, asked, where._replace(size=taken))
            return
        self._cache.add(log, offset, taken)
        self._give(request, source, taken)

    def _give(self, request: FetchRequest, source: Partition | Copy, taken: Taken) -> None:
        size = len(taken.data)
        if request.bodies and request.taken_bytes + size > request.max_bytes:
            self._answer_rest(request)  # only the very first batch may be larger
            return
        request.answers.append((size, source.shown_end, source.log.start_offset))
        if size:
            request.bodies.append(taken.data)
            request.taken_bytes += size
            source.log.counters.sent(size)
            if isinstance(source, Copy):
                self.bytes_of_copies += size

    def _ask_disk(self, request: FetchRequest, asked: Asked, where: Place) -> None:
        self._sessions.note_reading(request.session, where.size)
        request.cold = Cold(where, asked, asked.source.log.rewinds)
        self._reads.begin(where, partial(self._end_cold, request))

    def _answer_error(self, request: FetchRequest, error: WireError) -> None:
        request.answers.append(error_to_wire(error))

    def _check_usable(self, partition: Partition) -> None:
        """Raise the refusal of one whose disk has failed: of that follows only later that it is not
        served here any more."""
        if partition.log.failed and partition.is_shared:
            raise self._storage_error(partition, StorageError(partition.log.failed))

    def _storage_error(self, source: Partition | Copy, error: Exception) -> WireError:
        log = source.log
        if isinstance(source, Copy) or source.is_shared or source.is_closed:
            # Another copy takes its place.
            return refusal(Code.NOT_LEADER, f"{log.name}: the copy on this broker fails: {error}")
        if log.damage:
            return refusal(
                Code.STORAGE_DAMAGED, f"{log.name}: {log.damage}; see `zmqmq inspect repair`"
            )
        return refusal(Code.STORAGE_OFFLINE, f"{log.name}: {error}")

    def _unstarve(self, request: FetchRequest) -> None:
        session = request.session
        if request in session.starved:
            session.starved.remove(request)
            if not session.starved and session in self._starved:
                self._starved.remove(session)

    def _finish(self, request: FetchRequest) -> None:
        request.done = True
        del request.session.fetches[request]
        self.bytes += request.taken_bytes
        self._outbox.reply(
            request.session,
            Api.FETCH,
            request.correlation,
            {"partitions": request.answers},
            request.bodies,
        )
