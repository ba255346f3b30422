"""A watch that outlives connections, members and tokens, without a gap and without a repetition.

It goes on from the event that was delivered last, or from a mark of progress (etcd.md R23). A
stream that is silent is asked how far it is, and given up if it does not say (R26).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Final

from zmqmq.core.meta.store import (
    KV,
    Batch,
    CompactedError,
    Event,
    UnauthorizedError,
    prefix_end,
)
from zmqmq.runtime.etcd.channel import Stream
from zmqmq.runtime.etcd.connection import EtcdConnection
from zmqmq.runtime.etcd.messages import (
    WATCH,
    Message,
    WatchCreateRequest,
    WatchProgressRequest,
)
from zmqmq.runtime.etcd.outcomes import FailedError, Outcome, is_denial
from zmqmq.runtime.etcd.version import tells_progress

SILENCE_S: Final = 2.0
"""After that a stream is asked how far it is; after as much again it is given up."""
PAUSE_FIRST_S: Final = 0.02
PAUSE_LAST_S: Final = 1.0
"""The pause before another stream doubles from the first to the last, until one is accepted."""
DENIALS_MAX: Final = 1
"""Etcd 3.4 says "permission denied" of a token that has expired, so once is not enough."""
_DELETE: Final = 1
"""Of Event.type; 0 is a put."""


def kv_of(message: Message, namespace: bytes) -> KV:
    """A key as etcd sends it, without the prefix that is in front of all of ours."""
    return KV(
        message.key[len(namespace) :],
        message.value,
        message.create_revision,
        message.mod_revision,
        message.version,
        message.lease,
    )


class EventReader:
    """Makes batches of replies: one for each revision, in order, none of them twice.

    A reply that is too large for etcd comes in fragments, which are cut between any two events:
    a revision is complete when the next begins or the last fragment has come (R24).
    """

    def __init__(self, namespace: bytes, next_revision: int) -> None:
        self._namespace = namespace
        self.next_revision = next_revision
        """The least that was not delivered."""
        self._revision = 0
        self._events: list[Event] = []
        """Of `_revision`, which may not be complete."""

    def forget_fragments(self) -> None:
        """A new stream begins, which will say again what was not delivered."""
        self._events = []

    def take(self, reply: Message) -> Iterator[Batch]:
        """What a reply with events completes."""
        for event in reply.events:
            revision = event.kv.mod_revision
            # Before 3.4.24 and 3.5.8 etcd says things twice; and see WatchStream.open.
            if revision < self.next_revision:
                continue
            if self._events and revision != self._revision:
                yield self._complete()
            self._revision = revision
            self._events.append(self._event(event))
        if self._events and not reply.fragment:
            yield self._complete()

    def progress(self, revision: int) -> Iterator[Batch]:
        """Everything up to the revision has been said."""
        if revision >= self.next_revision:
            self.next_revision = revision + 1
            yield Batch(revision, ())

    def _complete(self) -> Batch:
        batch = Batch(self._revision, tuple(self._events))
        self.next_revision, self._events = self._revision + 1, []
        return batch

    def _event(self, event: Message) -> Event:
        prev = kv_of(event.prev_kv, self._namespace) if event.HasField("prev_kv") else None
        kv = kv_of(event.kv, self._namespace)
        return Event("delete" if event.type == _DELETE else "put", kv, prev)


async def watch(
    connection: EtcdConnection, namespace: bytes, prefix: bytes, from_revision: int
) -> AsyncIterator[Batch]:
    """See MetadataStore.watch."""
    reader = EventReader(namespace, from_revision)
    pause_s = PAUSE_FIRST_S
    denials = 0
    while True:
        reader.forget_fragments()
        try:
            async with connection.stream(WATCH) as (endpoint, call):
                await _open(call, namespace + prefix, reader.next_revision)
                async with contextlib.aclosing(_replies(call)) as replies:
                    async for reply in replies:
                        if reply.created:
                            pause_s, denials = PAUSE_FIRST_S, 0
                        elif reply.events:
                            for batch in reader.take(reply):
                                yield batch
                        elif tells_progress(endpoint.version):
                            for batch in reader.progress(reply.header.revision):
                                yield batch
        except FailedError as failed:
            if failed.outcome is Outcome.REFUSED or is_denial(str(failed)):
                denials += 1
                if denials > DENIALS_MAX:
                    raise UnauthorizedError(f"etcd refused a watch: {failed}") from None
        await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 - spreads load
        pause_s = min(2 * pause_s, PAUSE_LAST_S)


async def _open(call: Stream, prefix: bytes, next_revision: int) -> None:
    """Ask for all events from this revision on.

    And for those of the one before it, which are dropped: etcd does not say how far a watch is
    that begins in the future, so one that waits for the next revision would look dead. If just
    that revision was compacted the caller lists again, as it should: before 3.5.18 a watch from
    the compacted revision itself may miss a delete (R25).
    """
    request = WatchCreateRequest(
        key=prefix or b"\0",
        range_end=prefix_end(prefix) or b"\0",
        start_revision=max(next_revision - 1, 1),
        prev_kv=True,
        fragment=True,
    )
    await call.write(WATCH(create_request=request), timeout_s=SILENCE_S)


async def _replies(call: Stream) -> AsyncGenerator[Message, None]:
    """Replies that are good news. Raises CompactedError and FailedError."""
    is_asked = True  # It says that it was created before it need say anything else.
    reading: asyncio.Future[Message | None] | None = None
    try:
        while True:
            if reading is None:
                reading = asyncio.ensure_future(call.read())
            # Waited for like this, as cancelling a read ends the stream.
            await asyncio.wait((reading,), timeout=SILENCE_S)
            if not reading.done():
                if is_asked:
                    raise FailedError(Outcome.ELSEWHERE, "a watch was silent")
                is_asked = True
                asking = WATCH(progress_request=WatchProgressRequest())
                await call.write(asking, timeout_s=SILENCE_S)
                continue
            reply, reading, is_asked = reading.result(), None, False
            if reply is None:
                raise FailedError(Outcome.ELSEWHERE, "etcd ended the stream")
            # Also together with `created`, of a watch that never was.
            if reply.compact_revision:
                raise CompactedError(reply.compact_revision)
            if reply.canceled:
                is_token = is_denial(reply.cancel_reason)
                outcome = Outcome.LOGIN if is_token else Outcome.ELSEWHERE
                raise FailedError(outcome, reply.cancel_reason or "etcd ended the watch")
            yield reply
    finally:
        if reading is not None:
            call.cancel()
            await asyncio.wait((reading,))
