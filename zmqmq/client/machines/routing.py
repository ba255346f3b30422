"""What METADATA said: each topic's id, the leader of each partition, where the brokers are.

Asks again when somebody met a broker that is no longer the leader, when a topic is not known yet,
and every minute. One request at a time, with back-off, so that a thousand partitions that lose
their leader together make one request.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from zmqmq.client.machines.backoff import Backoff
from zmqmq.client.machines.effects import MS, NEVER, SECOND, Chance, Failure, News, Reply
from zmqmq.client.machines.network import Network
from zmqmq.errors import Code, ProtocolError, WireError, error_from_wire
from zmqmq.wire.apis import ENTRIES_MAX, Api

REFRESH_EVERY: Final = 60 * SECOND
NAMES_BYTES_MAX: Final = 32_768
"""Longer lists of names ask for all topics: the header of a request has 64 KiB."""
UNKNOWN_ANSWERS_MAX: Final = 3
"""So many times in a row a topic must be unknown before it counts as unknown: a topic that was
made a moment ago may not have reached the broker that was asked."""


class Topic(NamedTuple):
    """One topic as METADATA describes it."""

    name: str
    id: bytes
    leaders: tuple[int | None, ...]
    """The leader's broker id, by partition; None while there is none."""
    epochs: tuple[int, ...]
    """The leader epoch, by partition."""


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
        self._backoff = Backoff(chance, longest=1_000 * MS)
        self._wanted: dict[str, int] = {}
        """Topics that somebody uses, and how often in a row they were unknown."""
        self._is_asking = False
        self._asked: dict[str, None] = {}
        self._ask_at = NEVER

    def want(self, now: int, name: str) -> Topic | None:
        """The topic if it is known. Otherwise it is asked for: look again when `version` grows,
        in `topics` and in `unknown`."""
        topic = self.topics.get(name)
        if topic is None and name not in self._wanted:
            self._wanted[name] = 0
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
        """Somebody was told that the image is out of date: ask again, soon."""
        if not self._is_asking and self._ask_at > now + SECOND:
            self._ask_at = now + self._backoff.next_delay()
            self._news.is_fresh = True

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

    def handle_time(self, now: int) -> None:
        """Ask if it is time."""
        if self._is_asking or now < self._ask_at or not self._wanted:
            return
        self._is_asking = True
        self._asked = dict.fromkeys(self._wanted)
        self._ask_at = NEVER
        names = list(self._wanted)
        is_short = len(names) <= ENTRIES_MAX and sum(map(len, names)) <= NAMES_BYTES_MAX
        fields = {"topics": names if is_short else None}
        self._network.request_any(now, Api.METADATA, fields, now + self._timeout, self._take_answer)

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
            has_gaps = self._read(answer.fields)
        except (ProtocolError, KeyError, TypeError, ValueError):
            has_gaps = True
        if has_gaps:
            self._ask_at = now + self._backoff.next_delay()
        else:
            self._backoff.reset()
            self._ask_at = now + REFRESH_EVERY
        if any(name not in self._asked for name in self._wanted):
            self._ask_at = now  # wanted since the question went out

    def _read(self, fields: dict[str, Any]) -> bool:
        """Take the answer in; whether something that is wanted is missing from it."""
        self._network.note_brokers({entry[0]: entry[1] for entry in fields["brokers"]})
        has_gaps = False
        for entry in fields["topics"]:
            name = entry["name"]
            if name not in self._wanted or name not in self._asked:
                continue
            if "error" in entry:
                has_gaps |= self._note_refusal(name, error_from_wire(entry["error"]))
                continue
            self._wanted[name] = 0
            self.unknown.pop(name, None)
            leaders = tuple(p[0] for p in entry["partitions"])
            epochs = tuple(p[1] for p in entry["partitions"])
            self.topics[name] = Topic(name, bytes(entry["id"]), leaders, epochs)
            has_gaps |= None in leaders
        return has_gaps

    def _note_refusal(self, name: str, error: WireError) -> bool:
        """Whether to ask for the topic once more."""
        self._wanted[name] += 1
        is_final = error.code is not Code.UNKNOWN_TOPIC and not error.retriable
        if not is_final and self._wanted[name] < UNKNOWN_ANSWERS_MAX:
            return True
        if error.retriable:
            return True
        self.topics.pop(name, None)
        self.unknown[name] = error
        return False
