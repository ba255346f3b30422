"""Clients that do what a test says: one that sends, and one that reads and does nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from zmqmq.client.machines.stream import PlaceKind
from zmqmq.client.options import ConsumerOptions, ProducerOptions
from zmqmq.errors import ZmqmqError
from zmqmq.sim.client_host import SimProducer
from zmqmq.sim.history import END, OK, POLL, SEND, Sending, Stored, make_value
from zmqmq.sim.workloads.base import SimClient, Stage, type_of
from zmqmq.sim.workloads.consume import ConsumingClient

TOPIC: Final = "t"


@dataclass
class Sent:
    """A record that a client has sent."""

    value: bytes
    asked: int
    outcome: tuple[int, int] | ZmqmqError | None = None
    """Partition and offset, or the error; None: nothing yet."""

    @property
    def is_acked(self) -> bool:
        return isinstance(self.outcome, tuple)


class Hand(SimClient):
    """A client that does what the test says."""

    def __init__(self, stage: Stage, name: str, options: ProducerOptions) -> None:
        super().__init__(stage, name)
        self._request_timeout_ms = 10_000
        self._options = options
        self._number = 0
        self._unanswered: dict[int, None] = {}
        self.producer: SimProducer

    @property
    def is_idle(self) -> bool:
        return super().is_idle or not self._unanswered

    def begin(self) -> None:
        self._unanswered.clear()
        self.producer = self.host.producer(self._options, TOPIC)

    def send(self, text: bytes = b"", key: bytes | None = None) -> Sent:
        """Send a record to partition 0."""
        self._number += 1
        value = make_value(self.name, self._number, text)
        options = self._options
        asking = Sending(TOPIC, 0, value, options.wire_acks, options.idempotent, key)
        sent = Sent(value, self.history.invoke(self.name, SEND, asking))
        self._unanswered[sent.asked] = None
        assert self.producer.send(TOPIC, value, key, partial(self._settled, sent), 0)
        return sent

    def _settled(self, sent: Sent, outcome: tuple[int, int] | ZmqmqError) -> None:
        del self._unanswered[sent.asked]
        sent.outcome = outcome
        if isinstance(outcome, ZmqmqError):
            self.history.end(sent.asked, type_of(outcome), str(outcome))
        else:
            self.history.end(sent.asked, OK, Stored(TOPIC, *outcome))

    def ask_end(self) -> list[int | ZmqmqError]:
        """Ask where the log ends; the list gets the answer."""
        answers: list[int | ZmqmqError] = []
        self.ask_offset(END, TOPIC, 0, answers.append)
        return answers


class Reader(ConsumingClient):
    """A consumer that reads from the start and does nothing else."""

    def __init__(
        self, stage: Stage, name: str, group: str | None, rack: str | None, **options: Any
    ) -> None:
        start = PlaceKind.STORED if group else PlaceKind.START
        self._more = options
        self._is_resting = False
        super().__init__(stage, name, {TOPIC: 1}, think_ms=10, start=start, group=group, rack=rack)

    def turn(self) -> None:
        """Only read."""

    @property
    def records(self) -> list[tuple[int, bytes]]:
        """What it was handed, offsets and values."""
        mine = [e for e in self.history.entries if (e.client, e.f) == (self.name, POLL)]
        return [record for e in mine if e.type == OK for record in e.value.records]

    @property
    def offsets(self) -> list[int]:
        """Of what it was handed."""
        return [offset for offset, _ in self.records]

    @property
    def positions(self) -> dict[tuple[str, int], int]:
        """Where it is, once it has begun."""
        return {log: at for log, at in self._consumer.positions.items() if at >= 0}

    def rest(self) -> None:
        """Take nothing of what comes."""
        self._is_resting = True

    def go_on(self) -> None:
        """Take what has come, and what comes."""
        self._is_resting = False
        self._noticed()

    def commit(self) -> None:
        """Commit what was read."""
        self._commit()

    def ask_committed(self) -> None:
        """Ask what is committed; the history knows the answer."""
        self._ask_committed()

    def _draw_options(self) -> ConsumerOptions:
        return ConsumerOptions(group=self._group, auto_commit=False, rack=self._rack, **self._more)

    def _look(self) -> None:
        if self._is_resting:
            self._is_looking = False
        else:
            super()._look()
