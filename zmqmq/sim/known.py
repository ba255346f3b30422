"""What is known of a cluster from behind: its processes and their copies, what is committed, and
what the store says.
"""

from __future__ import annotations

from typing import Final, NamedTuple, NoReturn

from zmqmq.core.broker.broker import Broker
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.core.replication.partition import Partition
from zmqmq.core.replication.vouching import Place
from zmqmq.sim.broker_host import KEYS, BrokerHost
from zmqmq.sim.cluster import Cluster
from zmqmq.sim.committed import Committed
from zmqmq.sim.copies import Copy, Life
from zmqmq.sim.documents import Documents
from zmqmq.sim.observed import Lineage
from zmqmq.sim.violation import InvariantError

VERSIONS_TOLD: Final = 4
LINES_TOLD: Final = 20


class Reach(NamedTuple):
    """How far a copy goes."""

    written: int
    flushed: int


NOTHING: Final = Reach(0, 0)


class Known:
    """Of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.documents = Documents(cluster.store.keys, KEYS, self.fail)
        self.documents.on_delete = self._forget
        self.lives: dict[int, Life] = {}
        """The last process of each broker, running or not."""
        self._cluster = cluster
        self._ended: dict[tuple[Member, Place], Reach] = {}
        """How far the copies of earlier processes went when those ended."""
        self._committed: dict[Place, Committed] = {}
        self._lineages: dict[Place, Lineage] = {}

    @property
    def now(self) -> int:
        """The true time."""
        return self._cluster.loop.now

    def begin_life(self, host: BrokerHost, broker: Broker) -> Life:
        """A broker has a new process."""
        old = self.lives.get(host.broker_id)
        if old is not None:
            for copy in old.copies:
                for epoch in old.epochs:
                    key = (Member(host.broker_id, epoch), copy.place)
                    self._ended[key] = Reach(copy.written, copy.flushed)
        life = self.lives[host.broker_id] = Life(host, broker, old)
        return life

    def leading(self, place: Place) -> tuple[Copy, Partition] | None:
        """Who leads in the leader epoch of the store, if it runs and knows."""
        document = self.documents.now.get(place)
        if document is None or document.leader is None:
            return None
        copy = self.copy_on(document.leader.broker_id, place)
        role = None if copy is None else copy.replica.role
        if copy is None or not isinstance(role, Partition) or not leads(role, document):
            return None
        return copy, role

    def reach(self, member: Member, place: Place) -> Reach:
        """How far the copy of a broker's run goes, or went when its process ended."""
        life = self.lives.get(member.broker_id)
        if life is not None and member.broker_epoch in life.epochs:
            copy = life.copy_of(place)
            return NOTHING if copy is None else Reach(copy.written, copy.flushed)
        return self._ended.get((member, place), NOTHING)

    def copy_on(self, broker_id: int, place: Place) -> Copy | None:
        """The copy on a broker, if that runs and its log can be relied on."""
        life = self.lives.get(broker_id)
        copy = None if life is None or not life.is_running else life.copy_of(place)
        return copy if copy is not None and copy.is_known else None

    def copies(self, place: Place) -> list[Copy]:
        """Of brokers that run."""
        copies = [self.copy_on(broker_id, place) for broker_id in self.lives]
        return [copy for copy in copies if copy is not None]

    def rec(self, place: Place) -> int:
        """Records of leader epochs below this may have been lost (D9)."""
        document = self.documents.now.get(place)
        return 0 if document is None else document.rec

    def committed_of(self, place: Place) -> Committed:
        """What is committed there."""
        found = self._committed.get(place)
        if found is None:
            found = self._committed[place] = Committed()
        return found

    def lineage_of(self, place: Place) -> Lineage:
        """All batches that were ever there."""
        found = self._lineages.get(place)
        if found is None:
            found = self._lineages[place] = Lineage()
        return found

    def fail(self, rule: str, place: Place, why: str) -> NoReturn:
        """Raise InvariantError, with all that one wants to know then."""
        documents, trace = self.documents, self._cluster.trace
        seconds = f"{self.now // 10**9}.{self.now % 10**9:09d}"
        told = [f"{documents.name(place)} at {seconds}: {why}", "Documents:"]
        told += documents.versions.get(place, [])[-VERSIONS_TOLD:]
        told.append(f"Committed up to {self.committed_of(place).end}; copies:")
        for life in self.lives.values():
            copy = life.copy_of(place)
            if copy is not None:
                told.append(f"{'' if life.is_running else 'down, was '}{copy}")
        told += ["Last lines:", *trace.lines[-LINES_TOLD:]]
        raise InvariantError(rule, "\n  ".join(told))

    def _forget(self, place: Place) -> None:
        self._committed.pop(place, None)
        self._lineages.pop(place, None)


def leads(role: Partition, document: PartitionDocument) -> bool:
    """Whether a role is the leader's of a document."""
    return role.epoch == document.leader_epoch and role.isr.me == document.leader
