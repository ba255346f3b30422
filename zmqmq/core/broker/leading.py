"""The followers of what this broker leads: their requests, and the ISR that comes of them.

A request is answered at once when there is something to tell, and otherwise waits for that. What a
follower may read ends with what is written out, not with what is committed: it is how records
become committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from zmqmq.core.broker.catalog import Catalog
from zmqmq.core.broker.cold_reads import ColdReads
from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.metadata import Commits
from zmqmq.core.broker.outbox import Outbox
from zmqmq.core.broker.timers import Timers
from zmqmq.core.control.image import Image
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import Commit, StoreError
from zmqmq.core.replication.follower_session import (
    FollowerSession,
    FollowerSessions,
    Request,
    SessionRefusedError,
)
from zmqmq.core.replication.partition import Partition
from zmqmq.core.replication.proposals import Brokers
from zmqmq.core.replication.vouching import Place
from zmqmq.core.storage.disk import Buffer
from zmqmq.core.storage.log import Log
from zmqmq.core.storage.reading import Place as Bytes
from zmqmq.core.storage.reading import Taken, read_in_memory, take
from zmqmq.errors import CorruptDataError, StorageError, WireError
from zmqmq.model.limits import MIB
from zmqmq.model.now import Now
from zmqmq.wire.frame import Fields
from zmqmq.wire.peers import (
    ANSWERS_MAX,
    BODIES_MAX,
    PEER_REQUESTS,
    Answer,
    Listed,
    PeerApi,
    PeerCode,
)
from zmqmq.wire.schema import reader, row

_read_replicate = reader(PEER_REQUESTS[PeerApi.REPLICATE])
PARTITION_BYTES_MAX: Final = 1 * MIB
"""Of one partition in one reply, so that one that is far behind does not keep out the others."""
LOOK_NS: Final = 500 * 10**6
"""How often to look who has fallen behind, or may join."""
READERS_NS: Final = 2 * 60 * 10**9
"""So long after a consumer was sent to a follower it is taken to read there. Twice as long as it
stays without asking the leader again (client/machines/sources.py)."""
COLD_READS_MAX: Final = 16
"""Under way for one follower."""


class Parked:
    """A request that is not answered yet."""

    __slots__ = ("_leading", "correlation", "done", "max_bytes", "route", "session")

    def __init__(
        self,
        leading: Leading,
        route: bytes,
        correlation: int,
        session: FollowerSession,
        max_bytes: int,
    ) -> None:
        self._leading = leading
        self.route = route
        self.correlation = correlation
        self.session = session
        self.max_bytes = max_bytes
        self.done = False

    def expire(self) -> None:
        """There was nothing to tell; say so, with what else is new."""
        self._leading.answer(self)


class Leading:
    """All follower sessions of this broker."""

    def __init__(
        self,
        catalog: Catalog,
        image: Image,
        outbox: Outbox,
        timers: Timers,
        commits: Commits,
        reads: ColdReads,
        keys: KeySpace,
        identity: Identity,
        moved: Callable[[Iterable[Partition]], None],
        damaged: Callable[[Log], None],
        echoed: Callable[[FollowerSession], bool],
    ) -> None:
        self._catalog = catalog
        self._image = image
        self._outbox = outbox
        self._timers = timers
        self._commits = commits
        self._reads = reads
        self._keys = keys
        self._identity = identity
        self._moved = moved
        self._damaged = damaged
        self._echoed = echoed
        """Told of each request; says whether somebody waits for a round with its sender (D10)."""
        self._sessions: FollowerSessions | None = None
        self._parked: dict[int, Parked] = {}
        """By broker id of the follower."""
        self._cold: dict[tuple[int, Place], tuple[int, int, Buffer | None]] = {}
        """What the disk was asked for: leader epoch, offset, and the bytes when they are there."""
        self._look_ns = 0
        self._readers: dict[Place, int] = {}
        """Partitions that consumers read from followers, and until when that is believed."""

    @property
    def sessions(self) -> FollowerSessions:
        """Those of this process, told apart by its first broker epoch."""
        if self._sessions is None:
            self._sessions = FollowerSessions(self._identity.epoch)
        return self._sessions

    def stamp(self) -> int:
        """Of the last reply that was sent to any follower (D10)."""
        return self.sessions.stamp

    # Requests

    def replicate(self, now: Now, route: bytes, correlation: int, fields: Fields) -> None:
        """REPLICATE. Raises refusal(MALFORMED)."""
        (_, broker, epoch, number, run, sequence, echo, wait_ms, max_bytes, listed, forget) = (
            _read_replicate(fields)
        )
        sender = Member(broker, epoch)
        forgotten = [tuple(row("forget", entry, bytes, int)[:2]) for entry in forget]
        request = Request(
            sender, number, run, sequence, echo, [Listed.decode(e) for e in listed], forgotten
        )
        if number == 0:
            for key in [key for key in self._cold if key[0] == broker]:
                del self._cold[key]
        old = self._parked.pop(broker, None)
        if old is not None:
            old.done = True  # whoever asks again does not wait for that one any more
        try:
            session = self.sessions.receive(now.ns, request)
        except SessionRefusedError as error:
            fields = {"to": epoch, "error": int(error.code)}
            self._outbox.answer_peer(route, PeerApi.REPLICATE, correlation, fields)
            return
        parked = Parked(self, route, correlation, session, max_bytes)
        self._parked[broker] = parked
        self._note_fetches(now, session)
        is_awaited = self._echoed(session)
        if not parked.done:
            self._answer_if_due(parked)
        if not parked.done and (wait_ms == 0 or is_awaited):
            self.answer(parked)
        elif not parked.done:
            self._timers.add(now.ns + wait_ms * 1_000_000, parked)

    def _note_fetches(self, now: Now, session: FollowerSession) -> None:
        """What was listed is progress, or shows that the logs have parted (L5, F4)."""
        moved = []
        for where in session.due:
            partition = self._catalog.partitions.get(where)
            if partition is None:
                continue
            if partition.fetched(now.ns, session) is None:
                if session.member not in partition.isr.document.isr:
                    self.propose(now, partition)
                if partition.advance():
                    moved.append(partition)
        self._moved(moved)

    def written(self, partitions: Iterable[Partition]) -> None:
        """Something was written out: whoever waits for it can have it."""
        woken: dict[int, None] = {}
        for partition in partitions:
            for session in self.sessions.mark(partition.place):
                woken[session.member.broker_id] = None
        self._wake(woken)

    def moved(self, partition: Partition) -> None:
        """Its high watermark has moved: told with the next reply."""
        if len(partition.isr.document.replicas) > 1:
            self.sessions.mark_news(partition.place)
            if partition.place in self._readers:
                self.hurry(partition)

    def note_readers(self, now: Now, place: Place) -> None:
        """A consumer was told to read this partition from a follower (F11)."""
        self._readers[place] = now.ns + READERS_NS

    def began(self, partition: Partition) -> None:
        """A leader epoch has begun; followers may have asked for it already."""
        if len(partition.isr.document.replicas) > 1:
            self.written([partition])

    def hurry(self, partition: Partition) -> None:
        """Somebody waits for a round (D10), or reads from a follower: answer them at once."""
        for session in self.sessions:
            parked = self._parked.get(session.member.broker_id)
            if parked is not None and partition.place in session.entries:
                self.answer(parked)

    def hurried(self, member: Member) -> None:
        """A follower has something to list, and waits for its answer to do so."""
        parked = self._parked.get(member.broker_id)
        if parked is not None and parked.session.member == member:
            self.answer(parked)

    def _wake(self, broker_ids: Iterable[int]) -> None:
        for broker_id in broker_ids:
            parked = self._parked.get(broker_id)
            if parked is not None:
                self._answer_if_due(parked)

    # Answers

    def _answer_if_due(self, parked: Parked) -> None:
        answers, bodies = self._collect(parked)
        if answers:
            self._reply(parked, answers, bodies)

    def answer(self, parked: Parked) -> None:
        """Answer with whatever there is."""
        self._reply(parked, *self._collect(parked))

    def _reply(self, parked: Parked, answers: list[Answer], bodies: list[Buffer]) -> None:
        session = parked.session
        parked.done = True
        if self._parked.get(session.member.broker_id) is parked:
            del self._parked[session.member.broker_id]
        for where in tuple(session.news):
            if len(answers) >= ANSWERS_MAX:
                break
            news = self._news(session, where)
            session.news.pop(where, None)
            if news is not None:
                answers.append(news)
        fields = {
            "to": session.member.broker_epoch,
            "session": session.number,
            "run": self.sessions.run,
            "stamp": self.sessions.next_stamp(),
            "partitions": answers,
        }
        self._outbox.answer_peer(
            parked.route, PeerApi.REPLICATE, parked.correlation, fields, bodies
        )

    def _collect(self, parked: Parked) -> tuple[list[Answer], list[Buffer]]:
        """What is due and fits: data, or why there is none."""
        session = parked.session
        answers: list[Answer] = []
        bodies: list[Buffer] = []
        room = parked.max_bytes
        for where in tuple(session.due):
            if room <= 0 or len(bodies) >= BODIES_MAX or len(answers) >= ANSWERS_MAX:
                break
            listed = session.entries[where]
            partition = self._catalog.partitions.get(where)
            if partition is None:
                session.due.pop(where)
                answers.append(_answer(listed, PeerCode.UNKNOWN_LEADER_EPOCH))
                continue
            refused = partition.fence(session.member, listed) or partition.compare(listed)
            if refused is not None:
                session.due.pop(where)
                answers.append(_answer(listed, refused.code, refused.x, refused.y))
                continue
            if listed.written >= partition.log.written_end:
                session.due.pop(where)  # marked again when more is written
                continue
            try:
                data = self._read(session, partition, listed, min(room, PARTITION_BYTES_MAX))
            except (CorruptDataError, StorageError, WireError):
                session.due.pop(where)
                answers.append(_answer(listed, PeerCode.OFFLINE))
                self._damaged(partition.log)
                continue
            if data is None:
                continue  # the disk is asked
            room -= len(data)
            high_watermark, start = partition.high_watermark, partition.log.start_offset
            session.note_told(where, high_watermark, start)
            bodies.append(data)
            answers.append(_answer(listed, PeerCode.NONE, high_watermark, start, len(data)))
        return answers, bodies

    def _news(self, session: FollowerSession, where: Place) -> Answer | None:
        """The high watermark and the log start, if the follower does not know them."""
        listed = session.entries.get(where)
        partition = self._catalog.partitions.get(where)
        if listed is None or partition is None or listed.leader_epoch != partition.epoch:
            return None
        if partition.compare(listed) is not None:
            return None  # it has to cut first (F6)
        high_watermark, start = partition.high_watermark, partition.log.start_offset
        if session.is_told(where, high_watermark, start):
            return None
        session.note_told(where, high_watermark, start)
        return _answer(listed, PeerCode.NONE, high_watermark, start)

    def _read(
        self, session: FollowerSession, partition: Partition, listed: Listed, size: int
    ) -> Buffer | None:
        """What comes next for a follower; None while the disk is asked for it.

        Raises CorruptDataError, StorageError and refusals.
        """
        log, offset = partition.log, listed.written
        key = (session.member.broker_id, partition.place)
        cold = self._cold.get(key)
        if cold is not None and cold[:2] == (partition.epoch, offset):
            if cold[2] is not None:
                del self._cold[key]
            return cold[2]
        found = read_in_memory(log, offset, size, log.written_end)
        if isinstance(found, Taken):
            return found.data
        self._ask_disk(key, partition, found, offset, size)
        return None

    def _ask_disk(
        self, key: tuple[int, Place], partition: Partition, where: Bytes, offset: int, size: int
    ) -> None:
        own = sum(1 for broker_id, _ in self._cold if broker_id == key[0])
        if own >= COLD_READS_MAX:
            return
        mark = partition.epoch
        self._cold[key] = (mark, offset, None)
        self._reads.begin(where, partial(self._end_cold, key, mark, partition, where, offset, size))

    def _end_cold(
        self,
        key: tuple[int, Place],
        mark: int,
        partition: Partition,
        where: Bytes,
        offset: int,
        size: int,
        data: Buffer | StorageError,
    ) -> Log | None:
        log = partition.log
        if self._cold.get(key) != (mark, offset, None):
            return None
        del self._cold[key]
        if isinstance(data, StorageError):
            log.fail(data)
            return log
        if partition.is_closed:
            return None
        try:
            taken = take(log, where, data, offset, log.written_end, size)
        except CorruptDataError:
            self._damaged(log)
            return None
        if isinstance(taken, int):
            self._ask_disk(key, partition, where._replace(size=taken), offset, size)
            return None
        if len(taken.data):
            self._cold[key] = (mark, offset, taken.data)
        self._wake((key[0],))
        return None

    # The ISR

    def tick(self, now: Now) -> None:
        """Look now and then at every partition that is not at rest."""
        if now.ns < self._look_ns:
            return
        self._look_ns = now.ns + LOOK_NS
        self._readers = {place: end for place, end in self._readers.items() if end > now.ns}
        brokers = self._brokers()
        for partition in tuple(self._catalog.partitions.values()):
            if partition.is_at_rest:
                partition.isr.rested_ns = now.ns
                continue
            document = partition.isr.document
            if len(document.replicas) > 1 or document.flush != partition.log.config.flush:
                self._propose(now, partition, brokers)
                if partition.advance():
                    self._moved([partition])
            partition.settle()

    def propose(self, now: Now, partition: Partition) -> None:
        """Change the ISR or the flush mode, if it is to be changed (L7, L8, D12)."""
        self._propose(now, partition, self._brokers())

    def _brokers(self) -> Brokers:
        brokers = self._image.brokers
        registrations = {
            i: known.registration for i, known in brokers.items() if known.registration is not None
        }
        leaving = [i for i, known in brokers.items() if known.is_shutting_down]
        return Brokers(registrations, leaving)

    def _propose(self, now: Now, partition: Partition, brokers: Brokers) -> None:
        proposal = partition.next_proposal(now.ns, brokers, self._keys)
        if proposal is not None:
            self._commits.begin(proposal.ops, proposal.ifs, partial(self._committed, partition))

    def _committed(self, partition: Partition, now: Now, outcome: Commit | StoreError) -> None:
        partition.proposal_ended(now.ns, outcome)
        if not partition.is_closed and partition.advance():
            self._moved([partition])


def _answer(listed: Listed, code: PeerCode, x: int = 0, y: int = 0, size: int = 0) -> Answer:
    return Answer(
        listed.topic_id,
        listed.partition,
        listed.leader_epoch,
        listed.written,
        int(code),
        x,
        y,
        size,
    )
