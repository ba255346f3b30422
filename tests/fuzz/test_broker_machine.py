"""Random requests, flushes and crashes against a broker, beside a dumb model of what it said.

The model knows per partition which values were sent and which were acknowledged. After any crash:
what was acknowledged is readable, once and in the order it was acknowledged in; what was not may
be there or not, never twice from an idempotent producer; nothing is shown that a later crash takes.
"""

from __future__ import annotations

import os
from random import Random
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.world import Answer, Place, World, batch_of
from zmqmq.core.broker.events import FlushFiles, ReadCold
from zmqmq.wire.apis import ACKS_ALL, ACKS_LEADER, ACKS_NONE

SCALE = int(os.environ.get("ZMQMQ_TEST_SCALE", "1"))
CLIENTS = ("ada", "bob")
PARTITIONS = 2
partitions = st.integers(0, PARTITIONS - 1)


class Sent:
    """One batch on its way, as the client that sent it sees it."""

    def __init__(self, answer: Answer, number: int, value: bytes, acks: int) -> None:
        self.answer = answer
        self.number = number
        self.value = value
        self.acks = acks


class BrokerMachine(RuleBasedStateMachine):
    """Several clients, one topic, and whatever may happen to a disk."""

    @initialize(seed=st.integers(0, 2**32), small=st.booleans())
    def begin(self, seed: int, small: bool) -> None:
        self.rng = Random(seed)
        self.world = World()
        self.topic = self.world.topic("t", PARTITIONS, segment_bytes=4096 if small else 1 << 20)
        self.clients = {name: self.world.client(name) for name in CLIENTS}
        self.world.hold(FlushFiles)
        self.count = 0
        self.waiting: list[Sent] = []
        self.acknowledged: list[dict[bytes, int]] = [{} for _ in range(PARTITIONS)]
        """Value to the offset that was told, with acks=all."""
        self.seen: list[dict[int, bytes]] = [{} for _ in range(PARTITIONS)]
        """What any consumer was ever shown."""
        self.sequences: dict[tuple[str, int], int] = {}
        self.last: dict[tuple[str, int], tuple[bytes, bytes]] = {}
        """By producer and partition: the batch that may be sent again, and its value."""
        self.offsets: dict[str, int] = {}
        self.commits: list[tuple[str, int, Answer]] = []
        self.unsure: dict[str, set[int]] = {}

    def send(self, name: str, number: int, value: bytes, acks: int, batch: bytes) -> None:
        answer = self.clients[name].produce(self.topic[number], batch=batch, acks=acks)
        self.waiting.append(Sent(answer, number, value, acks))

    @rule(name=st.sampled_from(CLIENTS), number=partitions, size=st.sampled_from([10, 900, 3000]))
    def produce(self, name: str, number: int, size: int) -> None:
        """In order, from an idempotent producer."""
        key = (name, number)
        if key in self.last and self.last[key][1] not in self.acknowledged[number]:
            self.produce_again(name, number)  # as a client does while it is in doubt
            return
        self.count += 1
        value = b"%d:" % self.count + bytes(size)
        sequence = self.sequences.get(key, 0)
        producer = CLIENTS.index(name) + 1
        batch = batch_of(self.topic[number], value, producer=producer, sequence=sequence)
        self.last[key] = (batch, value)
        self.sequences[key] = sequence + 1
        self.send(name, number, value, ACKS_ALL, batch)

    @rule(name=st.sampled_from(CLIENTS), number=partitions)
    def repeat(self, name: str, number: int) -> None:
        """The last one once more, whatever became of it."""
        self.produce_again(name, number)

    def produce_again(self, name: str, number: int) -> None:
        if (name, number) in self.last:
            batch, value = self.last[name, number]
            self.send(name, number, value, ACKS_ALL, batch)

    @rule(
        name=st.sampled_from(CLIENTS),
        number=partitions,
        acks=st.sampled_from([ACKS_ALL, ACKS_LEADER, ACKS_NONE]),
        count=st.integers(1, 3),
    )
    def produce_plainly(self, name: str, number: int, acks: int, count: int) -> None:
        """A burst of batches without a producer id."""
        with self.world.burst():
            for _ in range(count):
                self.count += 1
                value = b"%d:plain" % self.count
                batch = batch_of(self.topic[number], value)
                self.send(name, number, value, acks, batch)

    @rule(name=st.sampled_from(CLIENTS), number=partitions, cold=st.booleans(), wait=st.booleans())
    def fetch(self, name: str, number: int, cold: bool, wait: bool) -> None:
        """Everything, or what is new."""
        start = self.rng.choice([0, len(self.seen[number])])
        self.world.disk.cached = not cold
        if cold:
            self.world.hold(ReadCold)
        found = self.clients[name].fetch(
            (self.topic[number], start, 1 << 20), wait_ms=100 if wait else 0
        )
        if cold:
            self.world.release(ReadCold)
        self.world.disk.cached = True
        if found.fields is None or found.error:
            return
        self.show(number, found)

    def show(self, number: int, found: Answer) -> None:
        for offset, value in found.records[0]:
            assert value is not None
            assert self.seen[number].setdefault(offset, value) == value, "a record has changed"

    @rule(group=st.sampled_from(["g", "h"]), offset=st.integers(0, 9))
    def commit_offset(self, group: str, offset: int) -> None:
        """Where a group stands."""
        sent = self.clients["ada"].commit(group, (self.topic, offset))
        self.commits.append((group, offset, sent))
        self.unsure.setdefault(group, set()).add(offset)

    @precondition(lambda self: self.world.waiting(FlushFiles))
    @rule()
    def end_flush(self) -> None:
        """The disk is done."""
        self.world.end_flush()

    @precondition(lambda self: self.world.waiting(FlushFiles))
    @rule(name=st.sampled_from(["t/0", "t/1", "__offsets/0", "__offsets/1"]))
    def fail_flush(self, name: str) -> None:
        """The disk fails one of the logs, which is offline from then on."""
        self.world.end_flush(failing=[name])

    @rule(ms=st.sampled_from([1, 100, 40_000]))
    def pass_time(self, ms: int) -> None:
        """Deadlines come."""
        self.world.advance(ms)

    @rule()
    def checkpoint(self) -> None:
        """Recovery points are written."""
        self.world.checkpoint()

    @rule(name=st.sampled_from(CLIENTS))
    def reconnect(self, name: str) -> None:
        """On a new connection."""
        self.clients[name].connect()
        self.clients[name].hello()

    @rule(cut=st.booleans(), clean=st.booleans())
    def crash(self, cut: bool, clean: bool) -> None:
        """SIGKILL, a power cut, or a clean stop; then another start."""
        self.settle()
        if clean:
            self.world.release(FlushFiles)
            self.settle()
            self.world.stop()
        disk = self.world.disk.kill_state()
        if cut:
            disk = next(iter(self.world.disk.crash_states(rng=self.rng, limit=1)))
        self.world.crash(disk)
        assert self.world.broker.is_started
        self.world.hold(FlushFiles)
        self.waiting.clear()
        self.commits.clear()
        for client in self.clients.values():
            client.hello()
        self.check_all()

    @invariant()
    def settle(self) -> None:
        """Take note of what was answered."""
        for sent in list(self.waiting):
            if sent.answer.fields is None:
                continue
            self.waiting.remove(sent)
            outcome = sent.answer.outcome
            if not isinstance(outcome, list) or sent.acks != ACKS_ALL:
                continue
            (result,) = outcome
            if isinstance(result, int):
                told = self.acknowledged[sent.number].setdefault(sent.value, result)
                assert told == result, "a duplicate was given another offset"
        for entry in list(self.commits):
            group, offset, answer = entry
            if answer.fields is not None:
                self.commits.remove(entry)
                if answer.outcome == [None]:
                    self.offsets[group] = offset
                    later = {o for g, o, _ in self.commits if g == group}
                    self.unsure[group] = later

    def check_all(self) -> None:
        """Everything that was promised is there."""
        reader = self.world.client("reader")
        for number in range(PARTITIONS):
            place = self.topic[number]
            records = read_all(reader, place)
            values = list(records.values())
            assert list(records) == list(range(len(records))), "a gap"
            assert len(set(values)) == len(values), "a value twice"
            for value, offset in self.acknowledged[number].items():
                assert records.get(offset) == value, "an acknowledged record is gone"
            for offset, value in self.seen[number].items():
                assert records.get(offset) == value, "a record was shown and is gone"
        for group, offset in self.offsets.items():
            outcome = reader.committed(group, self.topic).outcome
            allowed = {offset, *self.unsure.get(group, ())}
            found = dict(outcome)[0]
            assert found in allowed, "a committed offset is gone"
            self.offsets[group] = found
            self.unsure[group] = set()

    def teardown(self) -> None:
        """A burst during a flush, then the power goes, in several ways."""
        if not hasattr(self, "world"):
            return
        for _ in range(2):
            self.produce_plainly("ada", 0, ACKS_ALL, 1)
            self.produce_plainly("bob", 1, ACKS_ALL, 1)
            self.commit_offset("g", len(self.commits))
        if self.world.waiting(FlushFiles):
            self.world.end_flush()
        for number in range(PARTITIONS):
            self.fetch("ada", number, cold=False, wait=False)
        self.settle()
        disk = self.world.disk
        known = dict(self.offsets), {group: set(some) for group, some in self.unsure.items()}
        for after in disk.crash_states(rng=self.rng, limit=4):
            self.offsets, self.unsure = dict(known[0]), dict(known[1])
            self.world.crash(after)
            self.waiting.clear()
            self.commits.clear()
            self.check_all()


def read_all(reader: Any, place: Place) -> dict[int, bytes | None]:
    """All that is committed, in small pieces."""
    found: dict[int, bytes | None] = {}
    while True:
        some = reader.fetch((place, len(found), 5_000), rx=1 << 40)
        assert isinstance(some.outcome[0], list), some.outcome
        fresh = dict(some.records[0])
        if not fresh:
            return found
        found |= fresh


BrokerMachine.TestCase.settings = settings(
    max_examples=100 * SCALE,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestBrokerMachine = BrokerMachine.TestCase
