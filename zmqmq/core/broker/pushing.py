"""Push: what is committed is published once, for any number of subscribers (zeromq.md 4.3).

Sessions say which partitions they want published (SUBSCRIBE), and SUB sockets then take the
subjects from the XPUB. Whatever is published may be lost on the way, and whoever misses something
fetches it, so nothing here is owed to anybody: what is too large or not in memory any more is
only announced, by a HEAD that says where the partition ends. HEADs also tell whoever has lost the
last PUSH that there was one: at the end of a burst, and every second.

Whether anybody still listens is known from sessions alone: what a socket says of cancelled
subscriptions does not tell whose they were (zeromq.md 4.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from zmqmq.core.broker.catalog import Catalog
from zmqmq.core.broker.events import AdmitSubject, Publish
from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.sessions import Session
from zmqmq.core.replication.partition import Partition
from zmqmq.core.replication.vouching import Place
from zmqmq.core.security.authorize import ANONYMOUS
from zmqmq.core.storage.log import Log
from zmqmq.core.storage.read_cache import ReadCache
from zmqmq.core.storage.reading import Taken, read_in_memory
from zmqmq.errors import Code, CorruptDataError, StorageError, WireError, error_to_wire, refusal
from zmqmq.model.now import Now
from zmqmq.wire.apis import PUSH_BYTES_MAX, REQUESTS, Api, place_of_subject, push_subject
from zmqmq.wire.frame import Fields, encode_header
from zmqmq.wire.schema import reader, row

_read = reader(REQUESTS[Api.SUBSCRIBE])

SUBJECTS_MAX: Final = 8_192
"""Partitions that one session may want published."""
AT_ONCE_MAX: Final = 4 << 20
"""Bytes that are published when a high watermark moves; behind more than that HEAD tells."""
HEAD_EVERY_NS: Final = 10**9
HEADS_AT_ONCE: Final = 64
"""In one tick, or a sixteenth of all: more would overflow the queue of who listens to many."""


class Subject:
    """A partition that somebody wants published."""

    __slots__ = ("head_ns", "is_owed", "is_running", "name", "partition", "published", "sessions")

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.name = push_subject(*partition.place)
        self.sessions: dict[Session, None] = {}
        self.published = partition.high_watermark
        """Behind the last record that was published, or left out."""
        self.is_running = False
        """Whether something was published since the last tick."""
        self.is_owed = True
        """Whether a HEAD is to follow when nothing is any more."""
        self.head_ns = 0
        """When one is due in any case."""


class Pushing:
    """Knows who wants what, and publishes."""

    def __init__(
        self,
        catalog: Catalog,
        outbox: Outbox,
        identity: Identity,
        cache: ReadCache,
        damaged: Callable[[Log], None],
    ) -> None:
        self._catalog = catalog
        self._outbox = outbox
        self._identity = identity
        self._cache = cache
        self._damaged = damaged
        self._subjects: dict[Place, Subject] = {}
        self.pushes = 0
        self.bytes = 0
        self.heads = 0
        self.refused = 0
        """Subscriptions of SUB sockets that were not admitted."""

    def __len__(self) -> int:
        return len(self._subjects)

    def handle(self, session: Session, correlation: int, fields: Fields) -> None:
        """SUBSCRIBE: publish these partitions for this session from now on, or no more."""
        entries, leave = _read(fields)
        answers: list[object] = []
        for entry in entries:
            topic_id, number = row("partitions", entry, bytes, int)
            try:
                if leave:
                    self._leave(session, (topic_id, number))
                else:
                    self._join(session, topic_id, number)
            except WireError as error:
                answers.append(error_to_wire(error))
            else:
                answers.append(push_subject(topic_id, number))
        reply = {"subjects": answers, "endpoint": self._identity.endpoints["push"]}
        self._outbox.reply(session, Api.SUBSCRIBE, correlation, reply)

    def admit(self, name: bytes) -> None:
        """A SUB socket wants a subject: let it, if there is such a partition and it may."""
        where = place_of_subject(name)
        try:
            if where is None:
                raise refusal(Code.MALFORMED, f"subject {name!r:.100} is that of no partition")
            self._catalog.check_readable(ANONYMOUS, *where)
        except WireError:
            self.refused += 1
            return
        self._outbox.emit(AdmitSubject(name))
        subject = self._subjects.get(where)
        if subject is not None:
            subject.is_owed = True  # which tells it that the subscription works

    def moved(self, partition: Partition) -> None:
        """The high watermark has moved: publish what lies below it by now."""
        subject = self._subjects.get(partition.place)
        if subject is None or subject.partition is not partition:
            return
        end, room = partition.high_watermark, AT_ONCE_MAX
        while subject.published < end:
            taken = self._read(partition.log, subject.published, end) if room > 0 else None
            if taken is None:
                subject.published = end
                self._head(subject)
                return
            room -= len(taken.data)
            fields = {"prev": subject.published, "end": end, "epoch": partition.epoch}
            header = encode_header(Api.PUSH, 0, fields)
            self._outbox.emit(Publish([subject.name, header, taken.data]))
            subject.published = taken.next_offset
            subject.is_running = True
            self.pushes += 1
            self.bytes += len(taken.data)
            partition.log.counters.sent(len(taken.data))

    def tick(self, now: Now) -> None:
        """Tell where partitions end: when a burst is over, and every second."""
        room = max(HEADS_AT_ONCE, len(self._subjects) // 16)
        for subject in self._subjects.values():
            is_due = now.ns >= subject.head_ns or (subject.is_owed and not subject.is_running)
            if is_due and room:
                room -= 1
                is_due = False
                subject.head_ns = now.ns + HEAD_EVERY_NS
                self._head(subject)
            subject.is_owed = is_due or subject.is_running
            subject.is_running = False

    def forget(self, session: Session) -> None:
        """The session is closed."""
        for where in tuple(session.subjects):
            self._leave(session, where)

    def drop(self, where: Place) -> None:
        """This broker does not lead the partition any more. A HEAD of a later epoch says so, and
        whoever listens asks who does."""
        subject = self._subjects.pop(where, None)
        if subject is not None:
            self._head(subject, subject.partition.epoch + 1)
            for session in subject.sessions:
                del session.subjects[where]

    def _join(self, session: Session, topic_id: bytes, number: int) -> None:
        self._catalog.check_readable(session.principal, topic_id, number)
        partition = self._catalog.partition(topic_id, number)
        where = partition.place
        if len(session.subjects) >= SUBJECTS_MAX and where not in session.subjects:
            raise refusal(
                Code.THROTTLED,
                f"{len(session.subjects)} partitions are published for this session, and no more "
                f"than {SUBJECTS_MAX} can be: fetch the others",
            )
        subject = self._subjects.get(where)
        if subject is None:
            subject = self._subjects[where] = Subject(partition)
        subject.sessions[session] = None
        session.subjects[where] = None

    def _leave(self, session: Session, where: Place) -> None:
        if where not in session.subjects:
            return
        del session.subjects[where]
        subject = self._subjects[where]
        del subject.sessions[session]
        if not subject.sessions:
            del self._subjects[where]

    def _read(self, log: Log, offset: int, end: int) -> Taken | None:
        """What comes next, if it is in memory and small enough; never waits for the disk."""
        taken = self._cache.find(log, offset, PUSH_BYTES_MAX, end)
        if taken is not None:
            return taken
        try:
            found = read_in_memory(log, offset, PUSH_BYTES_MAX, end)
        except CorruptDataError:
            self._damaged(log)
            return None
        except (WireError, StorageError):
            return None  # whoever fetches is told
        if not isinstance(found, Taken):
            return None
        self._cache.add(log, offset, found)  # whoever has to fetch it shares this read
        return found if 0 < len(found.data) <= PUSH_BYTES_MAX else None

    def _head(self, subject: Subject, epoch: int = 0) -> None:
        partition = subject.partition
        end, start = partition.high_watermark, partition.log.start_offset
        fields = {"end": end, "start": start, "epoch": epoch or partition.epoch}
        self._outbox.emit(Publish([subject.name, encode_header(Api.HEAD, 0, fields)]))
        self.heads += 1
