"""Random walks of several controllers over one store: images lag, commits land late, twice or
never, registrations come and go. Every document that was ever written is checked (I7-I9, I29),
and at the end, when all is well again, every partition is led by somebody in an ISR that is whole.
"""

from __future__ import annotations

import random

import pytest

from tests.support.control_world import KEYS, SECOND, Node, Pending, World
from tests.support.documents import PLACE, TOPIC, check_i8, partition
from zmqmq.core.control.elections import Report
from zmqmq.core.control.image import registration_of
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.store import If, Put
from zmqmq.core.meta.values import LiveDocument, PartitionDocument
from zmqmq.core.replication.transitions import with_isr, with_member
from zmqmq.core.replication.vouching import Registration, vouches

PARTITIONS = 4
STEPS = 250


class Walk:
    """One seed."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.world = World(3)
        self.flush = self.draw.choice(["fsync", "fsync", "replicated"])
        self.since: dict[int, tuple[int, int]] = dict.fromkeys((1, 2, 3), (0, 0))
        self.late: list[tuple[Node, Pending]] = []
        me = [tuple(self.world.member(i)) for i in (1, 2, 3)]
        documents = [
            partition(
                (1, 2, 3),
                leader=me[0],
                isr=me,
                flush=self.flush,
                min_isr=self.draw.choice([1, 2]),
            )
            for _ in range(PARTITIONS)
        ]
        self.world.topic(*documents, config={"flush": self.flush, "min_isr": 2})

    def step(self) -> None:
        node = self.world.nodes[self.draw.randint(1, 3)]
        action = self.draw.choices(
            ["follow", "answer", "tick", "lose", "register", "leader", "land", "report", "stop"],
            [30, 25, 10, 5, 12, 15, 4, 6, 1],
        )[0]
        getattr(self, action)(node)

    def follow(self, node: Node) -> None:
        node.follow(self.draw.randint(1, 5))

    def answer(self, node: Node) -> None:
        if not node.pending:
            return
        at = self.draw.randrange(len(node.pending))
        outcome = self.draw.choices(["done", "lost", "perhaps", "away"], [12, 2, 2, 1])[0]
        if outcome == "perhaps":
            self.late.append((node, node.pending[at]))
        node.answer(outcome, at)

    def land(self, _: Node) -> None:
        """A commit whose outcome nobody knew arrives after all."""
        if self.late:
            self.world.apply(*self.late.pop(self.draw.randrange(len(self.late))))

    def tick(self, _: Node) -> None:
        self.world.advance(self.draw.choice([SECOND // 10, SECOND, 5 * SECOND]))

    def lose(self, node: Node) -> None:
        """The lease ends; half of the time the process with it, perhaps uncleanly."""
        if node.me is None or KEYS.live(node.broker_id) not in self.world.store.now:
            return
        node.lose()
        if self.draw.random() < 0.6:
            node.controller.unregistered(self.world.now)
            kind = self.draw.choice(["session", "kill", "kill", "clean"])
            if kind == "kill":
                fsync, _ = self.since[node.broker_id]
                self.since[node.broker_id] = (fsync, -1)

    def register(self, node: Node) -> None:
        if KEYS.live(node.broker_id) in self.world.store.now:
            return
        fsync, clean = self.since[node.broker_id]
        node.controller.unregistered(self.world.now)
        node.register(fsync, None if clean < 0 else clean)
        if clean < 0:
            self.since[node.broker_id] = (fsync, self.world.member(node.broker_id).broker_epoch)

    def leader(self, node: Node) -> None:
        """A leader changes its ISR by its image (L7, L8)."""
        number = self.draw.randrange(PARTITIONS)
        known = node.image.partitions.get((TOPIC, number))
        if known is None or node.me is None or known.document.leader != node.me:
            return
        document = known.document
        other = self.draw.choice([b for b in document.replicas if b != node.broker_id])
        present = [m for m in document.isr if m.broker_id == other]
        guards = [If(KEYS.partition(TOPIC, number), "mod", "==", known.revision)]
        if present:
            document = with_isr(document, [m for m in document.isr if m not in present])
        else:
            epoch = node.image.broker(other).epoch
            if epoch is None or node.image.broker(other).is_shutting_down:
                return
            document = with_member(document, Member(other, epoch))
            guards.append(If(KEYS.live(other), "create", "==", epoch))
        put = Put(KEYS.partition(TOPIC, number), document.encode())
        pending = Pending([put], guards, lambda _now, _outcome: None)
        if self.draw.random() < 0.3:
            self.late.append((node, pending))
        else:
            self.world.apply(node, pending)

    def report(self, node: Node) -> None:
        """Whoever is asked answers, with an epoch that may be old by now."""
        for place, broker_id, leader_epoch in node.asked:
            me = self.world[broker_id].me
            if me is not None:
                end = 10 * broker_id
                self.world.report(
                    node.broker_id, Report(place, *me, leader_epoch, broker_id % 2, end)
                )
        node.asked.clear()

    def stop(self, node: Node) -> None:
        if node.me is not None:
            node.flag(stops=self.draw.random() < 0.5)

    def heal(self) -> None:
        """Faults end: all are up, leaders take everybody in."""
        while self.late:
            self.land(self.world[1])
        for node in self.world.nodes.values():
            self.world.settle_for(1)
            self.register(node)
            node.flag(stops=False)
        for _ in range(40):
            self.world.settle_for(1)
            for node in self.world.nodes.values():
                self.report(node)
                for number in range(PARTITIONS):
                    self.join_all(node, number)

    def join_all(self, node: Node, number: int) -> None:
        document = self.world.document(number)
        if document.leader != node.me:
            return
        for other in document.replicas:
            document = with_member(document, self.world.member(other))
        if document != self.world.document(number):
            put = Put(KEYS.partition(TOPIC, number), document.encode())
            self.world.store.commit([put])

    def registration(self, revision: int, broker_id: int) -> Registration | None:
        kv = self.world.store.states[revision].get(KEYS.live(broker_id))
        if kv is None:
            return None
        return registration_of(LiveDocument.decode(kv.value), kv.create_revision)

    def check_history(self) -> None:
        """Every change that was ever made."""
        for number in range(PARTITIONS):
            key = KEYS.partition(TOPIC, number)
            before: PartitionDocument | None = None
            for revision, state in enumerate(self.world.store.states):
                kv = state.get(key)
                if kv is None or kv.mod_revision != revision:
                    continue
                after = PartitionDocument.decode(kv.value)
                check_i8(after)
                if before is not None:
                    self.check_change(before, after, revision)
                before = after

    def check_change(
        self, before: PartitionDocument, after: PartitionDocument, revision: int
    ) -> None:
        changed = after.leader != before.leader
        assert after.leader_epoch == before.leader_epoch + changed, "I7, I9, C6"
        assert after.rec in (before.rec, after.leader_epoch)
        if not changed or after.leader is None:
            return
        leader = after.leader
        registration = self.registration(revision - 1, leader.broker_id)
        assert registration is not None
        assert registration.epoch == leader.broker_epoch, "C4: it was there when it was elected"
        last = (*before.isr, *before.elr)
        entries = [m for m in last if m.broker_id == leader.broker_id]
        assert entries, "nobody from outside leads"
        vouched = any(vouches(m, registration, PLACE, before.flush) for m in entries)
        if after.rec == before.rec:
            assert vouched
            return
        assert before.leader is None
        assert before.flush == "replicated"
        for member in last:
            known = self.registration(revision - 1, member.broker_id)
            assert known is not None, "D8: all members are here"
            assert not vouches(member, known, PLACE, before.flush)


@pytest.mark.parametrize("first", range(0, 80, 20))
def test_walks(first: int) -> None:
    elections = recoveries = 0
    for seed in range(first, first + 20):
        walk = Walk(seed)
        for _ in range(STEPS):
            walk.step()
        walk.heal()
        walk.check_history()
        for number in range(PARTITIONS):
            document = walk.world.document(number)
            assert document.leader is not None, f"seed {seed}: {document}"
            assert len(document.isr) == 3, f"seed {seed}: {document}"
            assert document.leader.broker_id == 1, "C8"
            elections += document.leader_epoch - 5
            recoveries += document.rec > 0
    assert elections > 100
    assert recoveries > 0
