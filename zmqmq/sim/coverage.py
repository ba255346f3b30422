"""Marks: rare things that must happen in a long run, or the simulation is not as good as it looks.

They are derived from what can be seen from outside: documents in the store, what disks were asked
for, what clients were told. `Coverage` is there during a run; `missing` judges many runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from zmqmq.core.meta.keys import ControllerKey, LiveKey, PartitionKey, TopicKey
from zmqmq.core.meta.store import Event
from zmqmq.core.meta.values import LiveDocument, PartitionDocument
from zmqmq.core.replication.partition import Partition
from zmqmq.sim.broker_host import KEYS, BrokerHost
from zmqmq.sim.cluster import Cluster
from zmqmq.sim.history import FAIL, INFO, OK, POLL, SEND, Entry, Log, Polled, Stored
from zmqmq.sim.node import Node

MARKS: Final[Mapping[str, int]] = {
    "election": 30,
    "no leader": 60,
    "ISR shrunk": 60,
    "ISR grown": 60,
    "election from ELR, later run": 60,
    "hand-over": 150,
    "read from a copy": 100,
    "reader sent elsewhere": 100,
    "registered again": 80,
    "session lost while leading": 80,
    "controller": 10,
    "truncation": 100,
    "acknowledged by a later leader": 120,
    "recovery election": 150,
    "compaction with producers": 120,
    "commit lost": 120,
    "commit applied late": 120,
    "commit without answer": 120,
    "halt: has failed": 150,
    "halt: cannot start": 250,
    "push: delivered": 20,
    "push: came back": 30,
    "push: gap found by PUSH": 60,
    "push: left, full": 60,
    "push: tail found by HEAD": 80,
    "push: queue full": 300,
    "push: left, silent": 150,
    "push: subscription lost": 300,
    "push: subscription refused": 300,
    "push: of an old epoch": 600,
    "reassignment ended": 600,
    "min_isr changed": 800,
    "flush mode fsync": 1_200,
    "flush mode replicated": 600,
    "log begun anew": 1_200,
    "quarantine": 4_000,
    "registered without some logs": 4_000,
    "halt: damaged": 4_000,
    "unclean election": 6_000,
    "election from ELR": 6_000,
    "reader told OFFSET_OUT_OF_RANGE": 6_000,
}
"""Each mark, and in how many seeds it shows at least once as good as surely."""


def missing(counts: Mapping[str, int], seeds: int) -> list[str]:
    """The marks that should have been hit in so many seeds and were not."""
    return [mark for mark, within in MARKS.items() if within <= seeds and not counts.get(mark)]


class Coverage:
    """Watches one run."""

    def __init__(self, cluster: Cluster) -> None:
        self.marks: Counter[str] = Counter()
        self._cluster = cluster
        self._instances: dict[bytes, None] = {}
        self._led: dict[tuple[bytes, int], list[tuple[int, int]]] = {}
        """Of each partition: leader epochs, and when they began."""
        cluster.store.keys.on_change.append(self._changed)
        for host in cluster.hosts:
            host.node.on_crash.append(self._crashed)

    def finish(self, entries: Sequence[Entry]) -> Counter[str]:
        """All marks, when the run is over."""
        self.marks.update(self._cluster.store.rarely)
        self.marks.update(self._cluster.network.mischief.rarely)
        for host in self._cluster.hosts:
            self._leave(host)
            self.marks.update(host.rarely)
            for halt in host.halts:
                self.marks[f"halt: {_kind_of(halt)}"] += 1
        self._read(entries)
        return self.marks

    # The store

    def _changed(self, events: Sequence[Event]) -> None:
        for event in events:
            match KEYS.parse(event.kv.key):
                case PartitionKey(topic_id, number):
                    if event.type == "put" and event.prev is not None:
                        before = PartitionDocument.decode(event.prev.value)
                        after = PartitionDocument.decode(event.kv.value)
                        self._decided((topic_id, number), before, after)
                case LiveKey(broker_id):
                    self._lived(self._cluster.hosts[broker_id - 1], event)
                case ControllerKey() if event.type == "put":
                    self.marks["controller"] += 1
                case TopicKey() if event.type == "delete":
                    self.marks["topic deleted"] += 1
                case _:
                    pass

    def _decided(
        self, place: tuple[bytes, int], before: PartitionDocument, after: PartitionDocument
    ) -> None:
        marks = self.marks
        was, now = {m.broker_id for m in before.isr}, {m.broker_id for m in after.isr}
        if after.leader_epoch != before.leader_epoch:
            self._led.setdefault(place, []).append((after.leader_epoch, self._cluster.loop.now))
            self._elected(before, after)
        elif was - now:
            marks["ISR shrunk"] += 1
        elif now - was:
            marks["ISR grown"] += 1
        if before.flush != after.flush:
            marks[f"flush mode {after.flush}"] += 1
        if after.min_isr != before.min_isr:
            marks["min_isr changed"] += 1
        if after.adding and not before.adding:
            marks["reassignment begun"] += 1
        if set(before.replicas) != set(after.replicas) and not after.adding + after.removing:
            marks["reassignment ended"] += 1

    def _elected(self, before: PartitionDocument, after: PartitionDocument) -> None:
        marks, leader = self.marks, after.leader
        if leader is None:
            marks["no leader"] += 1
            return
        marks["election"] += 1
        elr = {m.broker_id: m for m in before.elr}
        if after.recovering:
            marks["unclean election"] += 1
        elif after.rec != before.rec:
            marks["recovery election"] += 1
        elif leader.broker_id in elr:
            is_same = elr[leader.broker_id] == leader
            marks["election from ELR" if is_same else "election from ELR, later run"] += 1
        elif before.leader is not None and before.leader in after.isr:
            marks["hand-over"] += 1

    def _lived(self, host: BrokerHost, event: Event) -> None:
        if event.type == "put":
            document = LiveDocument.decode(event.kv.value)
            if document.instance in self._instances:
                self.marks["registered again"] += 1
            self._instances[document.instance] = None
            if document.unvouched:
                self.marks["registered without some logs"] += 1
        elif host.broker is not None and any(
            isinstance(replica.role, Partition) for replica in host.broker.replicas
        ):
            self.marks["session lost while leading"] += 1

    # Brokers

    def _crashed(self, node: Node) -> None:
        self._leave(self._cluster.host_of(node.name))

    def _leave(self, host: BrokerHost) -> None:
        """Read the counters of a process that is about to end."""
        if host.broker is not None:
            for code, count in host.broker.outbox.errors.items():
                self.marks[f"told {code}"] += count
            self.marks["read from a copy"] += host.broker.fetching.bytes_of_copies > 0
            self.marks["reader sent elsewhere"] += host.broker.fetching.sent_elsewhere

    # Clients

    def _read(self, entries: Sequence[Entry]) -> None:
        epochs: dict[tuple[Log, int], int] = {}
        for entry in entries:
            if entry.f != POLL:
                continue
            if entry.type == OK:
                polled: Polled = entry.value
                log = polled.topic, polled.partition
                for offset, _ in polled.records:
                    epochs[log, offset] = polled.epoch
            else:
                self.marks[f"reader told {entry.value.code}"] += 1
        began = self._epochs_by_log()
        for entry in entries:
            if entry.f != SEND or entry.type not in (OK, FAIL, INFO):
                continue
            self.marks[f"send {entry.type}"] += 1
            if entry.type == OK and self._is_late(entry, epochs, began):
                self.marks["acknowledged by a later leader"] += 1

    def _epochs_by_log(self) -> dict[Log, list[tuple[int, int]]]:
        names: dict[bytes, str] = {}
        for host in self._cluster.hosts:
            if host.broker is not None:
                names |= {i: t.name for i, t in host.broker.catalog.by_id.items()}
        return {(names.get(i, ""), number): led for (i, number), led in self._led.items()}

    def _is_late(
        self,
        entry: Entry,
        epochs: Mapping[tuple[Log, int], int],
        began: Mapping[Log, Sequence[tuple[int, int]]],
    ) -> bool:
        """Whether a record was appended in one leader epoch and acknowledged in a later one."""
        stored: Stored = entry.value
        log = stored.topic, stored.partition
        epoch = epochs.get((log, stored.offset))
        return epoch is not None and any(
            later > epoch and at < entry.at for later, at in began.get(log, ())
        )


def _kind_of(halt: str) -> str:
    for word in ("has failed", "damaged", "does not start", "cannot start", "cannot write"):
        if word in halt:
            return word
    return "other"
