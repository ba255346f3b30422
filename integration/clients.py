"""The clients: threads with the ordinary Python client, which write down what they see."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from random import Random
from typing import Final, Literal

import zmqmq
from integration.history import SharedHistory
from zmqmq.client.keywords import Mode
from zmqmq.client.options import ACKS
from zmqmq.errors import (
    OutcomeUnknownError,
    RefusedError,
    UsageError,
    WireError,
    ZmqmqError,
)
from zmqmq.sim.history import (
    COMMIT,
    COMMITTED,
    END,
    FAIL,
    INFO,
    OK,
    POLL,
    SEEK,
    SEND,
    STORED,
    Committing,
    Polled,
    Position,
    Refused,
    Resumed,
    Sending,
    Stored,
    make_value,
)

UNANSWERED_MAX: Final = 64
"""Records without an outcome, before a producer waits."""
KEYS: Final = 8
PADDING: Final = bytes(range(33, 127)) * 12
MODES: Final[tuple[Mode, ...]] = ("pull", "push", "auto")
LIFE_S: Final = (6.0, 20.0)
"""So long a client lives before another takes its place."""
CLOSE_S: Final = 2.0
REQUEST_MS: Final = 3_000


class Working(threading.Thread):
    """Lives again and again, each time under another name, until it is told to stop."""

    def __init__(
        self, history: SharedHistory, servers: str, name: str, topics: Mapping[str, int], seed: int
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.history = history
        self.servers = servers
        self.topics = dict(topics)
        self.random = Random(f"{seed}/{name}")
        self.life = ""
        self.crashes: list[BaseException] = []
        """What no client should ever raise."""
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping.set()

    def run(self) -> None:
        """The thread."""
        lives = 0
        while not self._stopping.is_set():
            lives += 1
            self.life = f"{self.name}.{lives}"
            try:
                with zmqmq.connect(self.servers, request_timeout_ms=REQUEST_MS) as client:
                    self.live(client)
            except ZmqmqError:
                self.think(0.2)
            except Exception as error:  # noqa: BLE001 - a bug of the client, for the judge
                self.crashes.append(error)
                return

    def think(self, seconds: float) -> bool:
        """Wait; whether there is still something to do."""
        return not self._stopping.wait(seconds)

    def live(self, client: zmqmq.Client) -> None:
        """One life."""
        raise NotImplementedError


class Producing(Working):
    """Sends to all topics, a bounded number of records at once."""

    def __init__(
        self,
        history: SharedHistory,
        servers: str,
        name: str,
        topics: Mapping[str, int],
        seed: int,
        *,
        idempotent: bool = True,
        acks: Literal[1, "all"] = "all",
    ) -> None:
        super().__init__(history, servers, name, topics, seed)
        self._idempotent = idempotent
        self._acks: Literal[1, "all"] = acks
        self._room = threading.Semaphore(UNANSWERED_MAX)

    def live(self, client: zmqmq.Client) -> None:
        """Produce for a while."""
        choice = self.random.choice
        producer = client.producer(
            acks=self._acks,
            idempotent=self._idempotent,
            linger_ms=choice((0, 5, 20)),
            batch_records=choice((1, 3, 1_000)),
            compression=choice(("none", "none", "lz4", "zstd")),
            delivery_timeout_ms=choice((2_000, 10_000, 30_000)),
            request_timeout_ms=choice((500, 1_500, 3_000)),
        )
        self._room = room = threading.Semaphore(UNANSWERED_MAX)
        number, left = 0, self.random.uniform(*LIFE_S)
        while left > 0 and self.think(pause := self.random.uniform(0.001, 0.03)):
            left -= pause
            if room.acquire(timeout=0.2):
                number += 1
                self._send(producer, number)
            else:
                left -= 0.2
        with suppress(ZmqmqError):
            producer.close(CLOSE_S)

    def _send(self, producer: zmqmq.Producer, number: int) -> None:
        topic = self.random.choice(list(self.topics))
        partition, key = None, b"k%d" % self.random.randrange(KEYS)
        if self.random.randrange(2):
            partition = self.random.randrange(self.topics[topic])
        value = make_value(self.life, number, PADDING[: self.random.randrange(len(PADDING))])
        asking = Sending(topic, partition, value, ACKS[self._acks], self._idempotent, key)
        asked = self.history.invoke(self.life, SEND, asking)
        try:
            handle = producer.send(value, key, topic=topic, partition=partition)
        except ZmqmqError:
            self.history.end(asked, FAIL, None)
            self._room.release()
            return
        handle.add_done_callback(partial(self._settled, asked, topic, self._room))

    def _settled(
        self, asked: int, topic: str, room: threading.Semaphore, handle: zmqmq.Delivery
    ) -> None:
        error = handle.failure()
        if error is None:
            where = handle.metadata()
            assert isinstance(where, zmqmq.RecordMetadata)
            self.history.end(asked, OK, Stored(topic, where.partition, where.offset))
        else:
            self.history.end(asked, type_of(error), str(error))
        room.release()


class Consuming(Working):
    """Reads its topics in order from the start, or from what its group has committed."""

    def __init__(
        self,
        history: SharedHistory,
        servers: str,
        name: str,
        topics: Mapping[str, int],
        seed: int,
        *,
        rack: str | None = None,
    ) -> None:
        super().__init__(history, servers, name, topics, seed)
        self._rack = rack

    def live(self, client: zmqmq.Client) -> None:
        """Consume for a while."""
        mode = self.random.choice(MODES)
        with client.consumer(*self.topics, start="start", rack=self._rack, mode=mode) as consumer:
            for log in consumer.assignment:
                position = consumer.position(*log)
                self.history.note(self.life, SEEK, Position(*log, position))
            left = self.random.uniform(*LIFE_S)
            while left > 0 and self.think(0.05):
                left -= 0.05
                if take(self.history, self.life, consumer) is None:
                    return
                if self.random.randrange(10) == 0:
                    log = self.random.choice(list(self.topics.items()))
                    with suppress(ZmqmqError):
                        ask_offsets(self.history, self.life, client, END, log)


class Grouped(Working):
    """The one member of a group: goes on where its last life has committed."""

    def live(self, client: zmqmq.Client) -> None:
        """Consume and commit for a while."""
        group = self.name
        logs = [(topic, p) for topic, count in self.topics.items() for p in range(count)]
        asked = {
            log: self.history.invoke(self.life, STORED, Resumed(group, *log, -1)) for log in logs
        }
        mode = self.random.choice(MODES)
        with client.consumer(*self.topics, group=group, auto_commit=False, mode=mode) as consumer:
            following: dict[tuple[str, int], int | None] = {}
            for log, number in asked.items():
                position = consumer.position(*log)
                self.history.note(self.life, SEEK, Position(*log, position))
                self.history.end(number, OK, Resumed(group, *log, position))
            left = self.random.uniform(*LIFE_S)
            while left > 0 and self.think(0.1):
                left -= 0.1
                taken = take(self.history, self.life, consumer)
                if taken is None:
                    return
                following |= taken
                if following and self.random.randrange(4) == 0:
                    self._commit(consumer, group, following)
                if self.random.randrange(8) == 0:
                    self._ask(consumer, group, self.random.choice(logs))

    def _commit(
        self,
        consumer: zmqmq.Consumer,
        group: str,
        offsets: Mapping[tuple[str, int], int | None],
    ) -> None:
        asking = Committing(group, dict(offsets))
        asked = self.history.invoke(self.life, COMMIT, asking)
        try:
            consumer.commit({log: offset for log, offset in offsets.items() if offset is not None})
        except ZmqmqError:
            # The error of one is told for all; others may have been committed.
            self.history.end(asked, INFO, asking)
        else:
            self.history.end(asked, OK, asking)

    def _ask(self, consumer: zmqmq.Consumer, group: str, log: tuple[str, int]) -> None:
        asking = Committing(group, {log: None})
        asked = self.history.invoke(self.life, COMMITTED, asking)
        try:
            found = Committing(group, {log: consumer.committed(*log)})
        except ZmqmqError:
            self.history.end(asked, INFO, asking)
        else:
            self.history.end(asked, OK, found)


def take(
    history: SharedHistory, life: str, consumer: zmqmq.Consumer
) -> dict[tuple[str, int], int | None] | None:
    """Note what is there, and what was said instead; where to go on in each log. None: it has ended
    for this consumer."""
    following: dict[tuple[str, int], int | None] = {}
    try:
        for batch in consumer.fetch_batches(max_wait_ms=100):
            pairs = zip(batch.offsets, batch.values, strict=True)
            records = [(offset, value or b"") for offset, value in pairs]
            epoch = batch.header.leader_epoch
            history.note(life, POLL, Polled(batch.topic, batch.partition, records, epoch))
            following[batch.topic, batch.partition] = batch.next_offset
    except ZmqmqError as error:
        code = error.code.name if isinstance(error, WireError) else type(error).__name__
        type_ = INFO if isinstance(error, OutcomeUnknownError) or error.retriable else FAIL
        history.note(life, POLL, Refused(code, str(error)), type_)
        return None
    return following


def ask_offsets(
    history: SharedHistory, life: str, client: zmqmq.Client, f: str, topic: tuple[str, int]
) -> Mapping[int, int]:
    """Where the logs of a topic, by name and partitions, start or end (f is START or END)."""
    name, count = topic
    asked = [history.invoke(life, f, Position(name, p, -1)) for p in range(count)]
    try:
        found = client.offsets(name, f)
    except ZmqmqError as error:
        for partition, number in enumerate(asked):
            history.end(number, type_of(error), Position(name, partition, -1))
        raise
    for partition, number in enumerate(asked):
        history.end(number, OK, Position(name, partition, found[partition]))
    return found


def type_of(error: ZmqmqError) -> str:
    """What an error means for the history: a definite no, or *perhaps*."""
    return FAIL if isinstance(error, RefusedError | UsageError) else INFO
