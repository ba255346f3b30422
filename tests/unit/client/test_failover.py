"""A producer against a cluster whose leadership changes at random, and what is in the log after.

The cluster is a model: whoever is elected has everything that was committed, and otherwise what it
happens to have; a leader that was replaced may go on for a while; METADATA may tell of the past.
That is what the broker promises (research: L1 to L11), including a leader that was away, comes back
by an election and brings what nobody else has.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from tests.unit.client.scripted import Sending, Sent, World
from zmqmq.batch.decode import decode_batches
from zmqmq.batch.layout import BatchHeader, log_seed, stamp
from zmqmq.client.machines.batch import Batch, Stored
from zmqmq.client.machines.effects import Link
from zmqmq.core.storage.producers import ProducerTable, Written
from zmqmq.errors import Code, RefusedError, WireError, error_to_wire, refusal
from zmqmq.wire.apis import Api

BROKERS = {1: "a:1", 2: "b:2", 3: "c:3"}


class Entry(NamedTuple):
    """One batch in a log. Offsets count batches here."""

    header: BatchHeader
    values: tuple[bytes | None, ...]
    epoch: int


class Cluster:
    """One partition with three copies."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self.logs: dict[int, list[Entry]] = {1: [], 2: [], 3: []}
        self.history: list[int | None] = [None, 1]
        """Who leads, by epoch."""
        self.belief = {1: 1, 2: 0, 3: 0}
        """The epoch in which a broker believes to lead, or 0."""
        self.committed = 0
        self.owed: list[tuple[int, Sent, list[Any], int]] = []
        """Broker, request, results, and the length of the log at which it is answered."""

    @property
    def epoch(self) -> int:
        return len(self.history) - 1

    @property
    def leader(self) -> int | None:
        return self.history[-1]

    def produce(self, sent: Sent) -> None:
        """A broker gets a request."""
        broker = self.world.broker_of(sent)
        results: list[Any] = []
        for frame, header in zip(sent.body, sent.headers, strict=True):
            try:
                results.append([self._append(broker, frame, header), 1])
            except WireError as error:
                results.append(error_to_wire(error))
        if all(isinstance(result, dict) for result in results):
            self._answer(sent, results)
        else:
            end = max(result[0] + 1 for result in results if isinstance(result, list))
            self.owed.append((broker, sent, results, end))
            self.settle()

    def _append(self, broker: int, frame: bytes, header: BatchHeader) -> int:
        if self.chance.random() < 0.05:
            raise refusal(Code.THROTTLED, "at times")
        if not self.belief[broker]:
            hints = {}
            if self.leader is not None and self.chance.random() < 0.5:
                hints = {"leader": self.leader, "leader_epoch": self.epoch}
            raise refusal(Code.NOT_LEADER, "elsewhere", hints)
        log = self.logs[broker]
        table = ProducerTable(10, 10**9)
        for at, entry in enumerate(log):
            told = entry.header
            written = Written(told.base_sequence, told.last_sequence, at, at + 1, 1)
            table.note(told.producer_id, told.producer_epoch, written)
        again = table.check(
            header.producer_id, header.producer_epoch, header.base_sequence, header.last_sequence
        )
        if again is not None:
            return again.base_offset
        stamped = stamp(0, len(frame), 1, 1, 0, frame[36:40]) + frame[36:]
        (batch,) = decode_batches(stamped, log_seed(b"t".ljust(16, b"."), 0), "t", 0)
        log.append(Entry(header, tuple(batch.values), self.belief[broker]))
        return len(log) - 1

    def replicate(self) -> None:
        """A follower takes over the leader's log; what two have is committed."""
        leader = self.leader
        if leader is None or self.belief[leader] != self.epoch:
            return
        follower = self.chance.choice([b for b in BROKERS if b != leader])
        mine, theirs = self.logs[leader], self.logs[follower]
        same = 0
        while same < min(len(mine), len(theirs)) and mine[same] == theirs[same]:
            same += 1
        self.logs[follower] = mine[: self.chance.randint(same, len(mine))]
        self.belief[follower] = 0
        self.drop(follower)
        self.committed = max(self.committed, len(self.logs[follower]))
        self.settle()

    def elect(self) -> None:
        """Somebody who has all that is committed leads, or nobody for now."""
        leader = self.leader or next(b for b in reversed(self.history) if b)
        known = self.logs[leader][: self.committed]
        able = [b for b, log in self.logs.items() if log[: self.committed] == known]
        chosen = self.chance.choice([*able, None])
        if chosen is None and self.leader is None:
            return
        self.history.append(chosen)
        if chosen is not None:
            self.belief[chosen] = self.epoch

    def learn(self) -> None:
        """A leader of the past hears of it: what it has not answered is perhaps."""
        for broker, epoch in self.belief.items():
            if epoch and epoch != self.epoch and self.chance.random() < 0.5:
                self.belief[broker] = 0
                self.drop(broker)

    def drop(self, broker: int) -> None:
        lost = error_to_wire(refusal(Code.NOT_COMMITTED, "leads no more"))
        mine = [owed for owed in self.owed if owed[0] == broker]
        self.owed = [owed for owed in self.owed if owed[0] != broker]
        for _, sent, results, _ in mine:
            self._answer(sent, [r if isinstance(r, dict) else lost for r in results])

    def settle(self) -> None:
        """Answer what is committed."""
        for owed in list(self.owed):
            broker, sent, results, end = owed
            leads = broker == self.leader and self.belief[broker] == self.epoch
            if leads and end <= self.committed:
                self.owed.remove(owed)
                self._answer(sent, results)

    def _answer(self, sent: Sent, results: Sequence[Any]) -> None:
        if sent.socket in self.world.open:
            self.world.answer(sent, {"results": list(results)})

    def serve(self) -> None:
        """Everything that was sent arrives, or is lost with its connection."""
        world = self.world
        while world.sent:
            sent = world.sent.pop(0)
            if sent.socket not in world.open:
                continue
            if sent.api is Api.HELLO:
                world.sent.insert(0, sent)
                world.greet(world.broker_of(sent))
            elif sent.api is Api.METADATA:
                world.sent.insert(0, sent)
                world.epoch = self.epoch - self.chance.choice([0, 0, 0, 1, 2])
                world.epoch = max(world.epoch, 1)
                world.leader = self.history[world.epoch]
                world.tell_metadata()
            elif sent.api is Api.PING:
                world.answer(sent, {"time_ms": 1})
            elif sent.api is Api.PRODUCE:
                self.produce(sent)

    def lose(self) -> None:
        """A connection breaks, and the answers that it owes."""
        if self.world.open:
            socket = self.chance.choice(sorted(self.world.open))
            if self.chance.random() < 0.5:  # what was on its way may arrive all the same
                self.world.sent = [s for s in self.world.sent if s.socket != socket]
            else:
                self.serve()
            if socket in self.world.open:
                self.world.core.handle_link(self.world.now, socket, Link.LOST)
                self.world.step()


def run(seed: int) -> tuple[list[tuple[bytes, Batch]], Cluster]:
    """A producer sends while leaders come and go; then all is well, and it comes to its end."""
    chance = random.Random(seed)
    world = World(brokers=BROKERS)
    sending = Sending(
        world, delivery_timeout_ms=chance.choice([2_000, 20_000]), request_timeout_ms=5_000
    ).ready()
    cluster = Cluster(world, chance)
    batches: list[tuple[bytes, Batch]] = []
    steps = [cluster.replicate, cluster.elect, cluster.learn, cluster.lose, cluster.serve]
    weights = [chance.choice([1, 3, 9]) for _ in steps]
    for _ in range(150):
        for _ in range(chance.choice([0, 0, 1, 2])):
            value = b"%d" % len(batches)
            batches.append((value, sending.send(value)))
        chance.choices(steps, weights)[0]()
        world.advance(chance.choice([0, 1, 10, 100, 300]))
    while cluster.leader is None:
        cluster.elect()
    for _ in range(300):
        cluster.belief = {b: cluster.epoch if b == cluster.leader else 0 for b in BROKERS}
        for broker in BROKERS:
            if broker != cluster.leader:
                cluster.drop(broker)
        cluster.serve()
        cluster.replicate()
        world.advance(100)
    return batches, cluster


@pytest.mark.parametrize("seed", [*range(100), 165, 177, 303])
def test_each_record_is_stored_once_in_order_or_its_handle_says_why_not(seed: int) -> None:
    batches, cluster = run(seed)
    assert cluster.leader is not None
    entries = cluster.logs[cluster.leader]
    log = [value for entry in entries for value in entry.values]
    numbers = [int(value or b"") for value in log]

    assert len(set(log)) == len(log), "stored twice"
    assert numbers == sorted(numbers), "out of order"
    for value, batch in batches:
        if isinstance(batch.outcome, Stored):
            assert value in entries[batch.outcome.base_offset].values
        elif isinstance(batch.outcome, RefusedError):
            assert value not in log, f"{value!r}: {batch.outcome}"
        else:
            assert batch.outcome is not None, "no outcome"


def test_the_model_shows_what_it_is_for() -> None:
    """Elections, records in doubt that were stored, and such that were not."""
    kinds: dict[str, int] = {}
    for seed in range(40):
        batches, cluster = run(seed)
        assert cluster.leader is not None
        log = {value for entry in cluster.logs[cluster.leader] for value in entry.values}
        for value, batch in batches:
            stored = "stored" if value in log else "not stored"
            kind = f"{type(batch.outcome).__name__}, {stored}"
            kinds[kind] = kinds.get(kind, 0) + 1
        kinds["elections"] = kinds.get("elections", 0) + cluster.epoch

    assert kinds["elections"] > 100
    assert kinds["Stored, stored"] > 500
    assert kinds["TimedOutError, stored"] > 5
    assert kinds["TimedOutError, not stored"] > 5
