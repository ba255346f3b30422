"""Which streams of one consumer are published to it, and what it makes of what comes.

A stream is subscribed to once everything was fetched of it, under the leader epoch of now: so what
was read before is known to be what this leader has. What is published then is taken if nothing is
missing before it; else it is fetched, as without a subscription.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from zmqmq.client.machines.connection import Connection
from zmqmq.client.machines.effects import SECOND, Body, Observed
from zmqmq.client.machines.push import Published, Push, Subscription
from zmqmq.client.machines.routing import Routing
from zmqmq.client.machines.stream import End, Stream, end_of_batches
from zmqmq.client.options import ConsumerOptions
from zmqmq.errors import CorruptDataError

JOIN_AGAIN: Final = 5 * SECOND
"""How long a subscription is not asked for again that did not come to be."""
MISSED_MAX: Final = 32
"""Whoever could not use so much of what came, in a row, is behind, and leaves the subject."""
UNPUSHED_MAX: Final = 8
"""So often in a row something was only announced, because it is too large: it is better pulled."""
PULL_FOR: Final = 2 * SECOND
"""So long they are then; with mode `auto` a minute."""
PULL_LONG: Final = 60 * SECOND

Taken = Callable[[Stream, Body, End], None]
"""Called with a stream, what comes next in it, and where that ends."""


class Pushed:
    """Asks for subscriptions and ends them; `Stream.subscription` says what there is."""

    def __init__(
        self,
        options: ConsumerOptions,
        push: Push,
        routing: Routing,
        room: Callable[[], int],
        taken: Taken,
    ) -> None:
        self._pull_for = PULL_LONG if options.mode == "auto" else PULL_FOR
        self._is_wanted = options.mode != "pull" and not options.stop_at_end
        self._prefetch_bytes = options.prefetch_bytes
        self._push = push
        self._routing = routing
        self._room = room
        self._taken = taken

    def join(self, now: int, stream: Stream, leader: Connection, epoch: int) -> None:
        """The leader of this epoch has answered a fetch of a stream: if that was all there is, have
        the rest published."""
        subscription = stream.subscription
        if subscription is not None and subscription.is_over:
            if not subscription.is_heard:
                stream.no_push_until = now + JOIN_AGAIN
            stream.subscription = None
        if (
            not self._is_wanted
            or stream.subscription is not None
            or stream.position < stream.end
            or stream.nearby is not None
            or now < stream.no_push_until
            or self._room() * 2 < self._prefetch_bytes
            or epoch != self._routing.epoch(stream.topic, stream.partition)
        ):
            return
        place = stream.topic_id, stream.partition, epoch
        take = partial(self._published, stream)
        stream.subscription = Subscription(now, leader, *place, take)
        self._push.join(stream.subscription)

    def leave(self, now: int, stream: Stream, why: str) -> None:
        """Have it published no more."""
        if stream.subscription is not None:
            self._push.leave(now, stream.subscription, why)
            stream.subscription = None

    def check_epoch(self, now: int, stream: Stream) -> None:
        """METADATA has told something: a leader of another epoch has to be asked again."""
        subscription = stream.subscription
        if subscription is not None and subscription.epoch != self._routing.epoch(
            stream.topic, stream.partition
        ):
            self.leave(now, stream, "leader changed")

    def _published(self, stream: Stream, now: int, published: Published) -> None:
        """Something was published to a stream that wants it: use it, or fetch."""
        subscription = stream.subscription
        assert subscription is not None
        prev, end, data = published
        if data is not None and prev <= stream.position:
            if len(data) > self._room():
                self.leave(now, stream, "full")
                self._push.news.is_fresh = True
                return
            if self._take(stream, data):
                # What is committed behind it comes next, or is announced: nothing is fetched yet.
                subscription.missed = 0
                if subscription.is_bulk(now, len(data)):
                    self._pull(now, stream, "much at a time")
                return
        stream.end = max(stream.end, end)
        if stream.position >= stream.end:
            return
        # It was lost, or is too large to be pushed: a fetch brings it.
        self._push.news.is_fresh = True
        subscription.missed += 1
        if subscription.missed == 1:
            detail = f"{stream.topic}/{stream.partition}: {stream.position} to {stream.end}"
            self._push.effects.append(Observed("push-gap", detail))
        if subscription.missed >= MISSED_MAX:
            self.leave(now, stream, "behind")
        elif data is None and subscription.missed >= UNPUSHED_MAX:
            self._pull(now, stream, "too large")

    def _pull(self, now: int, stream: Stream, why: str) -> None:
        """For a while that is better."""
        self.leave(now, stream, why)
        stream.no_push_until = now + self._pull_for
        self._push.news.is_fresh = True

    def _take(self, stream: Stream, data: Body) -> bool:
        """Whether it was what comes next, or was seen already."""
        try:
            end = end_of_batches(data)
        except CorruptDataError:
            return False  # a fetch tells whether it is the log that is damaged
        if end.next_offset > stream.position:
            stream.request = None  # a fetch that is under way would bring the same
            stream.retries = stream.not_before = 0
            self._taken(stream, data, end)
        return True
