"""What METADATA said: each topic's id, the leader of each partition, where the brokers are.

Asks again when somebody met a broker that is no longer the leader, does not reach it or hears
nothing of it, when a topic is not known yet, and every minute. One request at a time, with
back-off, so that a thousand partitions that lose their leader together make one request.

Any broker may answer, and one that lags tells of the past. So of each partition the highest leader
epoch counts that any broker has told of, and a topic is another one, or gone, only when that was
said several times in a row, and not by one broker alone where there are more.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, Final, NamedTuple

from zmqmq.client.machines.backoff import Backoff
from zmqmq.client.machines.connection import Connection
from zmqmq.client.machines.effects import MS, NEVER, SECOND, Chance, Failure, News, Reply
from zmqmq.client.machines.network import Network
from zmqmq.client.machines.stream import is_offset
from zmqmq.errors import (
    Code,
    OutcomeUnknownError,
    ProtocolError,
    WireError,
    ZmqmqError,
    error_from_wire,
)
from zmqmq.model.groups import offsets_partition
from zmqmq.model.names import OFFSETS_TOPIC
from zmqmq.wire.apis import ENTRIES_MAX, Api
from zmqmq.wire.schema import malformed, row

REFRESH_EVERY: Final = 60 * SECOND
ANSWER_TIMEOUT: Final = 2 * SECOND
"""After so long another broker is asked. A little longer than it takes to find out that the first
one is silent (connection.py)."""
SILENT_EVERY: Final = 800 * MS
"""At most so often others are asked, while one is silent, who leads by now."""
CALM_AFTER: Final = 5 * SECOND
"""Without a refresh for so long, the next one comes soon."""
MOVED: Final = frozenset({Code.NOT_LEADER, Code.UNKNOWN_TOPIC, Code.UNKNOWN_PARTITION})
"""What a broker says that does not have what was asked for, or not any more."""
NAMES_BYTES_MAX: Final = 32_768
"""Longer lists of names ask for all topics: the header of a request has 64 KiB."""
UNKNOWN_ANSWERS_MAX: Final = 3
"""So many times in a row a topic must be unknown, or have another id, before that counts: a topic
that was made a moment ago may not have reached the broker that was asked. Each time somebody else
is asked if there is somebody else; if none of them answers, nothing is final."""


class Topic(NamedTuple):
    """One topic as METADATA describes it."""

    name: str
    id: bytes
    leaders: tuple[int | None, ...]
    """The leader's broker id, by partition; None while there is none."""
    epochs: tuple[int, ...]
    """The leader epoch, by partition."""
    copies: tuple[tuple[int, ...], ...] = ()
    """The brokers that have a copy, those in sync first, by partition; empty if not told."""


class Routing:
    """The image of the cluster that a client works with."""

    def __init__(self, network: Network, chance: Chance, request_timeout: int, news: News) -> None:
        self.topics: dict[str, Topic] = {}
        self.unknown: dict[str, WireError] = {}
        """Topics that are wanted and that the broker has refused to describe for good."""
        self.version = 0
        """Grows with every answer."""
        self._network = network
        self._news = news
        self._timeout = request_timeout
        # Shorter than the pause of those who were refused: they then know better where to go.
        self._backoff = Backoff(chance, first=40 * MS, longest=400 * MS)
        self._patience = Backoff(chance, first=SILENT_EVERY, longest=SILENT_EVERY)
        self._replaced: dict[int, int] = {}
        """Brokers that had led something, and when METADATA said first that others do."""
        self._wanted: dict[str, list[int]] = {}
        """Topics that somebody uses, and the brokers that spoke against them, in a row."""
        self._disturbed_at = -CALM_AFTER
        """When somebody found the image out of date last."""
        self._is_asking = False
        self._asked: dict[str, None] = {}
        self._ask_at = NEVER

    def want(self, now: int, name: str) -> Topic | None:
        """The topic if it is known. Otherwise it is asked for: look again when `version` grows,
        in `topics` and in `unknown`."""
        topic = self.topics.get(name)
        if topic is None and name not in self._wanted:
            self._wanted[name] = []
            self._ask_at = min(self._ask_at, now)
            self._news.is_fresh = True
        return topic

    def ask_again(self, now: int, name: str) -> None:
        """Somebody begins anew with a topic: what was refused before may be there by now."""
        if name not in self.topics:
            self.forget(name)
            self.want(now, name)

    def forget(self, name: str) -> None:
        """A topic was deleted by this client: ask anew when somebody wants it."""
        self.topics.pop(name, None)
        self.unknown.pop(name, None)
        self._wanted.pop(name, None)

    def refresh(self, now: int) -> None:
        """Somebody has found the image out of date: ask again, soon."""
        if now - self._disturbed_at > CALM_AFTER:
            self._backoff.reset()
        self._disturbed_at = now
        if not self._is_asking and self._ask_at > now + SECOND:
            self._ask_at = now + self._backoff.next_delay()
            self._news.is_fresh = True

    def to_leader(self, now: int, name: str, partition: int) -> Connection | None:
        """The connection to the leader. None while there is none: look again when there is news."""
        leader = self.leader(name, partition)
        if leader is not None:
            connection = self._network.to_broker(leader)
            if connection is not None:
                return connection
            if not self._network.is_failing(leader):
                return None
        self.refresh(now)
        return None

    def to_copy(
        self, now: int, name: str, partition: int, but: Container[int]
    ) -> Connection | None:
        """The connection to a broker that follows and can be reached (F11), and is none of those.
        They are connected to when they are first asked for: None is for now."""
        topic = self.topics.get(name)
        if topic is None or partition >= len(topic.copies):
            return None
        for broker in topic.copies[partition]:
            if broker == topic.leaders[partition] or broker in but:
                continue
            connection = self._network.to_broker(broker)
            if connection is not None and connection.is_sound(now):
                return connection
        return None

    def to_coordinator(self, now: int, group: str) -> Connection | None:
        """The connection to the broker that keeps what a group has committed. None: as above."""
        topic = self.want(now, OFFSETS_TOPIC)
        if topic is None:
            if self.unknown.pop(OFFSETS_TOPIC, None) is not None:
                self.refresh(now)  # the cluster makes it by itself
            return None
        return self.to_leader(now, OFFSETS_TOPIC, offsets_partition(group, len(topic.leaders)))

    def note_error(
        self,
        now: int,
        name: str,
        topic_id: bytes,
        partition: int,
        connection: Connection,
        error: ZmqmqError,
    ) -> bool:
        """A broker refused something in this partition, or did not answer: is it still its leader?

        A hint at who leads counts as what METADATA says. Returns whether nobody knows better yet:
        asking again makes sense only when `version` has grown.
        """
        code = error.code if isinstance(error, WireError) else None
        if isinstance(error, OutcomeUnknownError):
            # It may be cut off from the others, and would tell of the past.
            connection.doubt(now)
        elif code not in MOVED and code not in (Code.SHUTTING_DOWN, Code.FENCED_LEADER_EPOCH):
            return False
        self.refresh(now)
        topic = self.topics.get(name)
        hints = error.hints if isinstance(error, WireError) else {}
        leader, epoch = hints.get("leader"), hints.get("leader_epoch")
        if (
            type(leader) is int
            and type(epoch) is int
            and topic is not None
            and topic.id == topic_id
            and partition < len(topic.epochs)
            and epoch > topic.epochs[partition]
        ):
            leaders, epochs = list(topic.leaders), list(topic.epochs)
            leaders[partition], epochs[partition] = leader, epoch
            self.topics[name] = topic._replace(leaders=tuple(leaders), epochs=tuple(epochs))
            self.version += 1
        return code in MOVED and self.leader(name, partition) == connection.broker

    def note_coordinator_error(
        self, now: int, group: str, connection: Connection, error: ZmqmqError
    ) -> None:
        """The same of a group's coordinator."""
        topic = self.topics.get(OFFSETS_TOPIC)
        if topic is not None:
            partition = offsets_partition(group, len(topic.leaders))
            self.note_error(now, topic.name, topic.id, partition, connection, error)

    def leader(self, name: str, partition: int) -> int | None:
        """The leader's broker id; None when there is none or it is not known."""
        topic = self.topics.get(name)
        if topic is None or partition >= len(topic.leaders):
            return None
        return topic.leaders[partition]

    def epoch(self, name: str, partition: int) -> int:
        """The leader epoch of a partition; 0 when it is not known."""
        topic = self.topics.get(name)
        return topic.epochs[partition] if topic and partition < len(topic.epochs) else 0

    def open_question(self, name: str) -> str:
        """Why it is not known yet whether there is such a topic, for an error message."""
        against = self._wanted.get(name)
        if not against:
            return f"no broker answered; {self._network.failures()}"
        told = ", ".join(str(broker) for broker in dict.fromkeys(against))
        return (
            f"broker {told} has not heard of it, which is no proof; no other one answered; "
            f"{self._network.failures()}"
        )

    def handle_time(self, now: int) -> None:
        """Ask if it is time."""
        if self._network.has_silent():
            self.refresh(now)  # others may lead by now what it led
        if self._is_asking or now < self._ask_at or not self._wanted:
            return
        self._is_asking = True
        self._asked = dict.fromkeys(self._wanted)
        self._ask_at = NEVER
        names = list(self._wanted)
        is_short = len(names) <= ENTRIES_MAX and sum(map(len, names)) <= NAMES_BYTES_MAX
        fields = {"topics": names if is_short else None}
        deadline = now + min(self._timeout, ANSWER_TIMEOUT)
        self._network.request_any(now, Api.METADATA, fields, deadline, self._take_answer)

    def next_wake(self) -> int:
        """When `handle_time` has something to do next."""
        return NEVER if self._is_asking or not self._wanted else self._ask_at

    def _take_answer(self, now: int, answer: Reply | Failure) -> None:
        self._is_asking = False
        self.version += 1
        if isinstance(answer, Failure):
            self._ask_at = now + self._backoff.next_delay()
            return
        try:
            has_gaps = self._read(now, answer)
        except (ProtocolError, KeyError, TypeError, ValueError, WireError):
            has_gaps = True  # what is nonsense is not taken, and others are asked
        self._network.leave_silent(now, self._replaced)
        if has_gaps:
            self._ask_at = now + self._backoff.next_delay()
        elif self._network.has_silent():
            self._ask_at = now + self._patience.next_delay()
        else:
            if now - self._disturbed_at > CALM_AFTER:
                self._backoff.reset()
            self._ask_at = now + REFRESH_EVERY
        if any(name not in self._asked for name in self._wanted):
            self._ask_at = now  # wanted since the question went out

    def _read(self, now: int, answer: Reply) -> bool:
        """Take the answer in; whether something that is wanted is missing from it."""
        fields = answer.fields
        brokers = [row("brokers", entry, int, str) for entry in fields["brokers"]]
        self._network.note_brokers({entry[0]: entry[1] for entry in brokers})
        has_gaps = False
        for entry in fields["topics"]:
            name = entry["name"]
            if name not in self._wanted or name not in self._asked:
                continue
            if "error" in entry:
                if not isinstance(entry["error"], dict):
                    raise malformed(f"topic {name!r} has the error {entry['error']!r:.100}")
                error = error_from_wire(entry["error"])
                has_gaps |= self._note_refusal(now, name, error, answer.broker)
                continue
            topic = _topic_of(name, entry)
            known = self.topics.get(name)
            if known is not None and known.id != topic.id:
                if not self._is_certain(now, name, answer.broker):
                    has_gaps = True
                    continue
            elif known is not None:
                topic = _newest(known, topic)
                self._note_elections(now, known, topic)
            self._wanted[name] = []
            self.unknown.pop(name, None)
            self.topics[name] = topic
            has_gaps |= None in topic.leaders
        return has_gaps

    def _note_elections(self, now: int, known: Topic, topic: Topic) -> None:
        here = self._network.addresses
        self._replaced = {b: then for b, then in self._replaced.items() if b in here}
        elected = []
        for partition, epoch in enumerate(known.epochs):
            then, leader = known.leaders[partition], topic.leaders[partition]
            if topic.epochs[partition] > epoch:
                if then is not None and then != leader:
                    self._replaced[then] = now
                if leader is not None:
                    elected.append(leader)
        self._network.encourage(now, elected)

    def _note_refusal(self, now: int, name: str, error: WireError, broker: int) -> bool:
        """Whether to ask for the topic once more."""
        if error.retriable:
            return True
        if error.code is Code.UNKNOWN_TOPIC and not self._is_certain(now, name, broker):
            return True
        self.topics.pop(name, None)
        self.unknown[name] = error
        return False

    def _is_certain(self, now: int, name: str, broker: int) -> bool:
        """A broker spoke against a topic: whether that is enough. If not, another one is asked."""
        if name in self.unknown:
            return True
        against = self._wanted[name]
        if len(against) < UNKNOWN_ANSWERS_MAX or broker not in against:
            against.append(broker)
        if len(against) >= UNKNOWN_ANSWERS_MAX and (
            len(set(against)) > 1 or not self._network.has_others(against)
        ):
            return True
        self._network.ask_others(now, broker)
        return False


def _newest(known: Topic, told: Topic) -> Topic:
    """What is known of a topic, with what a broker tells of it, which may be older in parts."""
    if known == told:
        return known
    leaders, epochs, copies = list(told.leaders), list(told.epochs), list(told.copies)
    for partition, epoch in enumerate(known.epochs):
        if partition == len(epochs):  # added since that broker looked
            leaders += known.leaders[partition:]
            epochs += known.epochs[partition:]
            copies += known.copies[partition:]
            break
        if epoch > epochs[partition]:
            leaders[partition], epochs[partition] = known.leaders[partition], epoch
    return told._replace(leaders=tuple(leaders), epochs=tuple(epochs), copies=tuple(copies))


def _topic_of(name: str, entry: Mapping[Any, Any]) -> Topic:
    """What METADATA says of a topic. Raises WireError, KeyError, TypeError or ValueError for
    nonsense."""
    leaders: list[int | None] = []
    epochs: list[int] = []
    copies: list[tuple[int, ...]] = []
    for told in entry["partitions"]:
        leader, epoch, *more = told
        if not (leader is None or is_offset(leader)) or not is_offset(epoch):
            raise malformed(f"partition {len(leaders)} of {name!r} is led as {told!r:.100} says")
        leaders.append(leader)
        epochs.append(epoch)
        others = more[0] if more and type(more[0]) is list else ()
        copies.append(tuple(b for b in others if type(b) is int))
    if type(entry["id"]) is not bytes:
        raise malformed(f"topic {name!r} has the id {entry['id']!r:.100}")
    return Topic(name, entry["id"], tuple(leaders), tuple(epochs), tuple(copies))
