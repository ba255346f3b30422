"""A producer: records of random size, keyed or not, at random moments, a bounded number at once."""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import partial

from zmqmq.client.options import Acks, ProducerOptions
from zmqmq.errors import RefusedError, ZmqmqError
from zmqmq.sim.client_host import SimProducer
from zmqmq.sim.history import FAIL, OK, SEND, Sending, Stored, make_value
from zmqmq.sim.workloads.base import SimClient, Stage, type_of

UNANSWERED_MAX = 24
"""Records without an outcome, before it waits."""
BURST_MAX = 6
PADDING = bytes(range(33, 127)) * 24
KEYS = 8
UNKEYED_EVERY = 16


class ProducingClient(SimClient):
    """Sends to all its topics. How it does so is drawn once, and kept over its lives."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        topics: Mapping[str, int],
        think_ms: int = 120,
        *,
        acks: Acks | None = None,
        idempotent: bool | None = None,
        compacted: Container[str] = (),
    ) -> None:
        """`compacted` are topics for which most records get a key."""
        super().__init__(stage, name, think_ms)
        self._compacted = compacted
        self._topics = dict(topics)
        """How many partitions each had in the beginning."""
        self._padding_max = self.stream.choice((8, 200, len(PADDING)))
        self._options = self._draw_options(acks, idempotent=idempotent)
        self._ways = self.stream.choice(("key", "partition", "plain", "mixed"))
        self._producer: SimProducer
        self._number = 0
        self._unanswered = 0

    @property
    def is_idle(self) -> bool:
        """Whether every record has its outcome."""
        return super().is_idle or not self._unanswered

    def begin(self) -> None:
        """A process has started."""
        self._number = self._unanswered = 0
        self._producer = self.host.producer(self._options, next(iter(self._topics)))

    def turn(self) -> None:
        """Send one record, or a burst that mostly becomes a batch."""
        is_burst = self.stream.randrange(4) == 0
        topic = self.stream.choice(list(self._topics))
        partition, key = self._draw_way(topic)
        for _ in range(self.stream.randrange(2, BURST_MAX) if is_burst else 1):
            if self._unanswered < UNANSWERED_MAX:
                self._send(topic, partition, key)

    def _send(self, topic: str, partition: int | None, key: bytes | None) -> None:
        self._number += 1
        padding = PADDING[: self.stream.randrange(self._padding_max)]
        value = make_value(self.name, self._number, padding)
        options = self._options
        if key is None and topic in self._compacted and self._number % UNKEYED_EVERY:
            key = b"k%d" % (self._number % KEYS)
        asking = Sending(topic, partition, value, options.wire_acks, options.idempotent, key)
        asked = self.history.invoke(self.name, SEND, asking)
        self._unanswered += 1
        then = partial(self._settled, asked, topic)
        try:
            is_taken = self._producer.send(topic, value, key, then, partition)
        except RefusedError:
            is_taken = False
        if not is_taken:
            self._unanswered -= 1
            self.history.end(asked, FAIL, None)

    def _settled(self, asked: int, topic: str, outcome: tuple[int, int] | ZmqmqError) -> None:
        self._unanswered -= 1
        if isinstance(outcome, ZmqmqError):
            self.history.end(asked, type_of(outcome), str(outcome))
        else:
            self.history.end(asked, OK, Stored(topic, *outcome))

    def _draw_way(self, topic: str) -> tuple[int | None, bytes | None]:
        ways = self._ways
        if ways == "mixed":
            ways = self.stream.choice(("key", "partition", "plain"))
        if ways == "partition":
            return self.stream.randrange(self._topics[topic]), None
        key = b"k%d" % self.stream.randrange(KEYS) if ways == "key" else None
        return None, key

    def _draw_options(self, acks: Acks | None, *, idempotent: bool | None) -> ProducerOptions:
        choice = self.stream.choice
        return ProducerOptions(
            acks=choice(("all", "all", "all", "all", "all", 1)) if acks is None else acks,
            idempotent=choice((True, True, True, False)) if idempotent is None else idempotent,
            linger_ms=choice((0, 5, 50)),
            batch_bytes=choice((256, 1_024, 65_536)),
            batch_records=choice((1, 3, 10_000)),
            compression=choice(("none", "none", "lz4", "zstd")),
            in_flight=choice((1, 2, 16)),
            buffer_bytes=choice((65_536, 1 << 20)),
            delivery_timeout_ms=choice((2_000, 10_000, 60_000)),
            request_timeout_ms=choice((300, 1_000, 3_000)),
            retry_backoff_ms=choice((10, 100)),
        )
