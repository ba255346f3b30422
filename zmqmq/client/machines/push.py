"""What brokers publish, and who of this client wants it (docs/protocol.md, Push).

A subscription is one consumer's wish for one partition, at the leader of one epoch, for as long as
the connection on which the leader was asked. It may end at any time, and is then made anew or not:
nothing depends on it, since the consumer fetches whatever it does not get (consumer.py).

There is one SUB socket for each broker. It connects again by itself. One that says nothing for
three seconds, although brokers publish a HEAD every second, is given up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from zmqmq.client.machines.connection import Connection
from zmqmq.client.machines.effects import (
    NEVER,
    SECOND,
    Body,
    CloseSocket,
    Effect,
    Failure,
    News,
    Observed,
    OpenSubscriber,
    Reply,
    Subscribe,
    Unsubscribe,
)
from zmqmq.client.machines.limits import PARTITIONS_AT_ONCE
from zmqmq.client.machines.network import Network
from zmqmq.errors import ProtocolError, WireError
from zmqmq.wire.apis import PUSHED, Api, push_subject
from zmqmq.wire.frame import decode_reply_header
from zmqmq.wire.schema import reader

SILENCE_MAX: Final = 3 * SECOND
"""Three HEADs that did not come."""
BULK_BYTES: Final = 4 << 20
BULK_TIME: Final = SECOND // 4
BULK_SIZE: Final = 16 << 10
"""So many bytes in so short a time, in messages that are as large on average, are better pulled:
one fetch brings what ten such messages do."""
LOOK_EVERY: Final = SECOND
IDLE_MAX: Final = 10 * SECOND
"""So long a socket without subjects is kept: a consumer that is behind comes back soon."""

_read_push = reader(PUSHED[Api.PUSH])
_read_head = reader(PUSHED[Api.HEAD])


class Published(NamedTuple):
    """What a subscription brings."""

    prev: int
    """Nothing that can be read lies between this offset and `data`."""
    end: int
    """The committed end."""
    data: Body | None
    """Whole batches; None if it is only announced that there are some."""


Take = Callable[[int, Published], None]
"""Called with the time."""


class Subscription:
    """See the module. Ended by `Push`, or by whoever made it."""

    __slots__ = (
        "_bytes",
        "_connection",
        "_messages",
        "_since",
        "_socket",
        "epoch",
        "feed",
        "has_ended",
        "heard_at",
        "is_heard",
        "missed",
        "partition",
        "subject",
        "take",
        "topic_id",
    )

    def __init__(
        self,
        now: int,
        connection: Connection,
        topic_id: bytes,
        partition: int,
        epoch: int,
        take: Take,
    ) -> None:
        self._connection = connection
        self._socket = connection.socket
        self.topic_id = topic_id
        self.partition = partition
        self.epoch = epoch
        self.take = take
        self.feed: Feed | None = None
        self.subject = push_subject(topic_id, partition)
        self.heard_at = now
        self.is_heard = False
        """Whether anything has come: from then on whatever is committed does, or leaves a gap."""
        self.has_ended = False
        self.missed = 0
        """For the consumer: how often it could not use what came, in a row."""
        self._bytes = self._messages = 0
        self._since = now
        """What was taken since then."""

    def is_bulk(self, now: int, size: int) -> bool:
        """Something was taken; whether a fetch would bring the like of it with less ado."""
        self._bytes += size
        self._messages += 1
        if self._bytes < BULK_BYTES:
            return False
        is_much = now - self._since < BULK_TIME and self._bytes >= self._messages * BULK_SIZE
        self._bytes, self._messages, self._since = 0, 0, now
        return is_much

    @property
    def connection(self) -> Connection:
        """To the leader."""
        return self._connection

    @property
    def is_over(self) -> bool:
        """Whether nothing may be expected of it any more."""
        return self.has_ended or self._connection.socket != self._socket

    @property
    def is_live(self) -> bool:
        """Whether fetching can wait until something comes."""
        return self.is_heard and not self.is_over


class Feed:
    """One SUB socket."""

    __slots__ = ("address", "heard_at", "idle_since", "socket", "subjects")

    def __init__(self, now: int, socket: int, address: str) -> None:
        self.socket = socket
        self.address = address
        self.subjects: dict[bytes, list[Subscription]] = {}
        self.heard_at = self.idle_since = now


class Push:
    """All subscriptions of one client."""

    def __init__(
        self, network: Network, request_timeout: int, effects: list[Effect], news: News
    ) -> None:
        self._network = network
        self._timeout = request_timeout
        self.effects = effects
        self.news = news
        self._asked: list[Subscription] = []
        """Wished for, and the broker is to be asked."""
        self._under_way: dict[Subscription, None] = {}
        """The broker was asked."""
        self._feeds: dict[str, Feed] = {}
        self._by_socket: dict[int, Feed] = {}
        self._look_at = NEVER

    def join(self, subscription: Subscription) -> None:
        """Ask the leader to publish a partition to us."""
        self._asked.append(subscription)
        self.news.is_fresh = True

    def leave(self, now: int, subscription: Subscription, why: str) -> None:
        """End a subscription; what is on its way is ignored."""
        if subscription.has_ended:
            return
        is_over = subscription.is_over
        subscription.has_ended = True
        feed = subscription.feed
        if feed is None:
            return
        others = feed.subjects[subscription.subject]
        others.remove(subscription)
        place = f"{subscription.subject.decode()} at {feed.address}: {why}"
        self.effects.append(Observed("push-left", place))
        if others:
            return
        del feed.subjects[subscription.subject]
        if not feed.subjects:
            feed.idle_since = now
        self.effects.append(Unsubscribe(feed.socket, subscription.subject))
        if not is_over:
            self._tell_left(now, subscription)

    def handle_message(self, now: int, socket: int, frames: Sequence[Body]) -> None:
        """Something was published, perhaps on a socket that was closed."""
        feed = self._by_socket.get(socket)
        if feed is None:
            return
        feed.heard_at = now
        subscriptions = feed.subjects.get(bytes(frames[0]))
        if subscriptions is None:
            return
        try:
            api, _, _, fields = decode_reply_header(bytes(frames[1]))
            if api == Api.PUSH:
                prev, end, epoch = _read_push(fields)
                published = Published(prev, end, frames[2])
            else:
                end, _, epoch = _read_head(fields)
                published = Published(end, end, None)
        except (ProtocolError, WireError, IndexError):
            return  # as good as lost
        for subscription in tuple(subscriptions):
            if epoch > subscription.epoch:
                self.leave(now, subscription, "leader changed")
                self.news.is_fresh = True
            elif epoch == subscription.epoch and not subscription.is_over:
                subscription.heard_at = now
                if not subscription.is_heard:
                    subscription.is_heard = True
                    place = f"{subscription.subject.decode()} at {feed.address}"
                    self.effects.append(Observed("push-joined", place))
                subscription.take(now, published)

    def pump(self, now: int) -> None:
        """Ask brokers, and give up what is silent."""
        if self._asked:
            asked, self._asked = self._asked, []
            by_connection: dict[Connection, list[Subscription]] = {}
            for subscription in asked:
                if not subscription.is_over:
                    by_connection.setdefault(subscription.connection, []).append(subscription)
            for connection, wished in by_connection.items():
                for at in range(0, len(wished), PARTITIONS_AT_ONCE):
                    part = wished[at : at + PARTITIONS_AT_ONCE]
                    self._under_way.update(dict.fromkeys(part))
                    self._ask(now, connection, part)
        if now >= self._look_at:
            self._look(now)

    def next_wake(self) -> int:
        """When `pump` has something to do next."""
        return self._look_at

    def close(self) -> None:
        """End everything."""
        for feed in tuple(self._feeds.values()):
            self._end_feed(feed)
        self._asked.clear()
        self._under_way.clear()
        self._look_at = NEVER

    def _ask(self, now: int, connection: Connection, wished: list[Subscription]) -> None:
        fields = {"partitions": [(s.topic_id, s.partition) for s in wished]}
        on_answer = partial(self._answered, wished)
        deadline = now + self._timeout
        connection.request(now, Api.SUBSCRIBE, fields, (), deadline, on_answer)

    def _answered(self, wished: list[Subscription], now: int, answer: Reply | Failure) -> None:
        subjects = answer.fields.get("subjects") if isinstance(answer, Reply) else None
        address = answer.fields.get("endpoint") if isinstance(answer, Reply) else None
        if type(subjects) is not list or len(subjects) != len(wished) or type(address) is not str:
            subjects = [None] * len(wished)
        self.news.is_fresh = True
        for subscription in wished:
            self._under_way.pop(subscription, None)
        for subscription, told in zip(wished, subjects, strict=True):
            subject = subscription.subject
            if told != subject or not address:  # an error map, or nonsense
                subscription.has_ended = True
                continue
            if subscription.is_over:
                self._tell_left(now, subscription)
                continue
            feed = self._feed(now, str(address))
            subscription.feed = feed
            subscription.heard_at = now
            if subject not in feed.subjects:
                feed.subjects[subject] = []
                self.effects.append(Subscribe(feed.socket, subject))
            feed.subjects[subject].append(subscription)

    def _tell_left(self, now: int, left: Subscription) -> None:
        """The broker need not publish it for us any more, unless another consumer wants it. Whether
        it hears so does not matter."""
        others = [*self._asked, *self._under_way]
        others += [s for feed in self._feeds.values() for s in feed.subjects.get(left.subject, ())]
        if any(s.subject == left.subject and s.connection is left.connection for s in others):
            return
        fields = {"partitions": [(left.topic_id, left.partition)], "leave": True}
        left.connection.request(now, Api.SUBSCRIBE, fields, (), now + self._timeout, _ignore)

    def _feed(self, now: int, address: str) -> Feed:
        feed = self._feeds.get(address)
        if feed is None:
            feed = Feed(now, self._network.new_socket(), address)
            self._look_at = min(self._look_at, now + LOOK_EVERY)
            self._feeds[address] = self._by_socket[feed.socket] = feed
            self.effects.append(OpenSubscriber(feed.socket, address))
        return feed

    def _look(self, now: int) -> None:
        for feed in tuple(self._feeds.values()):
            if not feed.subjects:
                if now - feed.idle_since > IDLE_MAX:
                    self._end_feed(feed)
                continue
            for subscriptions in tuple(feed.subjects.values()):
                for subscription in tuple(subscriptions):
                    if subscription.is_over:
                        self.leave(now, subscription, "the connection to the leader has ended")
                    elif now - subscription.heard_at > SILENCE_MAX:
                        self.leave(now, subscription, "silent")
                        self.news.is_fresh = True
            if now - feed.heard_at > SILENCE_MAX and not feed.subjects:
                self._end_feed(feed)
        self._look_at = now + LOOK_EVERY if self._feeds else NEVER

    def _end_feed(self, feed: Feed) -> None:
        del self._feeds[feed.address]
        del self._by_socket[feed.socket]
        for subscriptions in feed.subjects.values():
            for subscription in subscriptions:
                subscription.has_ended = True
        feed.subjects.clear()
        self.effects.append(CloseSocket(feed.socket))


def _ignore(_now: int, _answer: Reply | Failure) -> None:
    """Whoever leaves needs no answer."""
