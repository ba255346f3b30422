"""A simulated cluster that a test directs by hand: which message, commit, flush or change of the
metadata comes when, and who leads.

Everything in it is the real thing (zmqmq/sim/cluster.py). Nobody holds elections until `finish`:
the office of the controller is taken, and the test writes what a controller might write. `finish`
ends all trouble, lets the real controllers work, and looks at what the clients saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from tests.sim.driven_clients import TOPIC, Hand, Reader, Sent
from tests.sim.driven_host import DrivenHost, Held, HeldCommit, HeldEffects, Separation
from zmqmq.batch.decode import check_batch
from zmqmq.client.options import Acks, ProducerOptions
from zmqmq.core.broker.events import (
    Effect,
    Event,
    PeerAnswered,
    PeerAsked,
    Publish,
    Send,
    Ticked,
)
from zmqmq.core.broker.replica import Replica
from zmqmq.core.control import elections
from zmqmq.core.control.controller import Controller
from zmqmq.core.control.image import Image
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.store import Delete, Put
from zmqmq.core.meta.values import (
    ControllerDocument,
    PartitionDocument,
    TopicNameDocument,
)
from zmqmq.core.replication.follower import Follower
from zmqmq.core.replication.partition import Partition
from zmqmq.core.replication.transitions import with_isr
from zmqmq.core.storage.log import Log
from zmqmq.core.storage.reading import read
from zmqmq.model.limits import MIB
from zmqmq.model.now import Now
from zmqmq.model.topics import TopicConfig
from zmqmq.sim.broker_host import KEYS, BrokerHost, HostOptions
from zmqmq.sim.checkers import Allowed, check
from zmqmq.sim.cluster import Cluster, ClusterOptions
from zmqmq.sim.disk import SimDisk
from zmqmq.sim.invariants import Invariants
from zmqmq.sim.links import Weather
from zmqmq.sim.node import MS, SECOND, Node
from zmqmq.sim.trace import Trace
from zmqmq.sim.workloads.base import Stage
from zmqmq.sim.workloads.settle import DrainingClient
from zmqmq.wire.apis import Api
from zmqmq.wire.frame import decode_reply_header
from zmqmq.wire.peers import PeerApi

NOBODY: Final = 99
"""The broker that is said to be the controller."""
PATIENCE: Final = 30 * SECOND
STILL: Final = Weather(base=1 * MS, spread=0, spike_parts=0)


class _Cluster(Cluster):
    def _host(self, number: int) -> BrokerHost:
        node = Node(self.loop, f"b{number}", self.chance)
        return DrivenHost(
            number,
            node,
            self.network,
            self.store,
            self.chance,
            self.trace,
            self.options.hosts,
            SimDisk(keeps_history=False),
        )


class Driven:
    """Three brokers, unless said otherwise, and one partition: b1 leads it, all are in sync.

    What is asked of brokers and documents is about the partition `place`."""

    def __init__(
        self,
        *,
        brokers: int = 3,
        replicas: int | None = None,
        flush: str = "fsync",
        min_isr: int = 2,
        config: Mapping[str, object] | None = None,
        hosts: HostOptions | None = None,
        seed: int = 1,
    ) -> None:
        trace = Trace(keep=400)
        options = ClusterOptions(brokers=brokers, weather=STILL, hosts=hosts or HostOptions())
        self.cluster = cluster = _Cluster(seed, options, trace)
        self.trace = trace
        self.invariants = Invariants(cluster)
        self.loop, self.store, self.network = cluster.loop, cluster.store, cluster.network
        self.hosts: dict[int, DrivenHost] = {}
        for host in cluster.hosts:
            assert isinstance(host, DrivenHost)
            self.hosts[host.broker_id] = host
        office = ControllerDocument(broker_id=NOBODY, broker_epoch=1)
        self.store.commit([Put(KEYS.controller, office.encode())], [])
        self.hands: dict[str, Hand] = {}
        self.readers: dict[str, Reader] = {}
        self._writes = 0
        self._is_compacted = (config or {}).get("cleanup") == "compact"
        # Those that come later have no replica yet.
        first = replicas or brokers
        self._start(range(1, first + 1))
        self._create(first, {"flush": flush, "min_isr": min_isr, **(config or {})})
        self._start(range(first + 1, brokers + 1))

    def _start(self, broker_ids: Sequence[int]) -> None:
        for broker_id in broker_ids:
            self.hosts[broker_id].start()
        for broker_id in broker_ids:
            self.until_up(broker_id)

    def _create(self, replicas: int, config: Mapping[str, object]) -> None:
        hand = self.hand("p1")
        answers: list[object] = []
        fields = {"topic": TOPIC, "partitions": 1, "replicas": replicas, "config": dict(config)}
        hand.host.call(Api.CREATE_TOPIC, fields, answers.append)
        self.until(lambda: answers, "the topic is made")
        assert isinstance(answers[0], dict), answers
        self.place = (self.topic_id(TOPIC), 0)
        document = self.document
        order = tuple(sorted(document.replicas))
        leader = self.member(order[0])
        epoch = document.leader_epoch + (document.leader != leader)
        isr = tuple(self.member(i) for i in order)
        self.write(replace(document, replicas=order, isr=isr, leader=leader, leader_epoch=epoch))
        self.epoch = epoch
        """The first leader epoch of 1."""
        self.until(
            lambda: self.is_leading(1) and all(self.is_following(i, 1) for i in order[1:]),
            "all have their roles",
        )
        self.until(
            lambda: (
                all(m in self.leading(1).isr.followers for m in order[1:])
                and all(self.following(i).high_watermark == 0 for i in order[1:])
            ),
            "all have fetched",
        )

    def topic_id(self, name: str) -> bytes:
        """Of a topic that is there."""
        kv = self.store.keys.get(KEYS.topic_name(name))
        assert kv is not None, f"there is no topic {name}"
        return TopicNameDocument.decode(kv.value).topic_id

    # Time

    def run(self, seconds: float) -> None:
        """Let so much time go by."""
        self.loop.run_until(self.loop.now + int(seconds * SECOND))

    def until(
        self, condition: Callable[[], object], what: str = "", within: int = PATIENCE
    ) -> None:
        """Let time go by until that is so."""
        end = self.loop.now + within
        while not condition():
            is_in_time = self.loop.now < end and self.loop.step()
            assert is_in_time, self._story(what)

    def _story(self, what: str) -> str:
        """That something never came about, and how things stand."""
        copies = [
            f"b{i}: {type(self.role(i)).__name__}, log to {self.end(i)}, "
            f"high watermark {self.high_watermark(i)}"
            for i in self.hosts
        ]
        lines = [f"it never came about that {what}; {self.document}", *copies]
        return "\n  ".join([*lines, *self.trace.lines[-20:]])

    def never(self, condition: Callable[[], object], what: str, seconds: float = 1) -> None:
        """Let time go by, in which that is never so."""
        end = self.loop.now + int(seconds * SECOND)
        while self.loop.now < end and self.loop.step():
            assert not condition(), f"it must not be that {what}"

    # Brokers

    def member(self, broker_id: int) -> Member:
        """The run that is registered."""
        kv = self.store.keys.get(KEYS.live(broker_id))
        assert kv is not None, f"broker {broker_id} is not registered"
        return Member(broker_id, kv.create_revision)

    def is_registered(self, broker_id: int) -> bool:
        return self.store.keys.get(KEYS.live(broker_id)) is not None

    def replica(self, broker_id: int) -> Replica | None:
        broker = self.hosts[broker_id].broker
        return None if broker is None else broker.replicas.all.get(self.place)

    def role(self, broker_id: int) -> Partition | Follower | None:
        replica = self.replica(broker_id)
        return None if replica is None else replica.role

    def leading(self, broker_id: int) -> Partition:
        role = self.role(broker_id)
        assert isinstance(role, Partition), f"broker {broker_id} does not lead"
        return role

    def following(self, broker_id: int) -> Follower:
        role = self.role(broker_id)
        assert isinstance(role, Follower), f"broker {broker_id} does not follow"
        return role

    def is_leading(self, broker_id: int, epoch: int | None = None) -> bool:
        role = self.role(broker_id)
        return isinstance(role, Partition) and epoch in (None, role.epoch)

    def is_following(self, broker_id: int, leader: int) -> bool:
        role = self.role(broker_id)
        return (
            isinstance(role, Follower)
            and role.leader.broker_id == leader
            and role.epoch == self.document.leader_epoch
        )

    def log(self, broker_id: int) -> Log:
        replica = self.replica(broker_id)
        assert replica is not None
        assert replica.log is not None
        return replica.log

    def end(self, broker_id: int) -> int:
        """Where its log ends; -1: it has none that is open."""
        replica = self.replica(broker_id)
        return -1 if replica is None or replica.log is None else replica.log.end_offset

    def high_watermark(self, broker_id: int) -> int:
        replica = self.replica(broker_id)
        return -1 if replica is None else replica.high_watermark

    def batches(self, broker_id: int) -> list[tuple[int, int]]:
        """(leader epoch, base offset) of every batch."""
        log, found = self.log(broker_id), []
        offset = log.start_offset
        while offset < log.written_end:
            data, at = memoryview(read(log, offset, MIB, log.written_end)), 0
            while at < len(data):
                header = check_batch(data, at, log.seed)
                found.append((header.leader_epoch, header.base_offset))
                at, offset = at + header.size, header.next_offset
        return found

    def kill(self, *broker_ids: int) -> None:
        """SIGKILL; their leases are over too."""
        for broker_id in broker_ids:
            self.hosts[broker_id].crash()
            self.store.expire(f"b{broker_id}")

    def power_cut(self, *broker_ids: int) -> None:
        """Exactly what was flushed is left; their leases are over too."""
        for broker_id in broker_ids:
            self.hosts[broker_id].crash(power_cut=True)
            self.store.expire(f"b{broker_id}")

    def stop(self, *broker_ids: int) -> None:
        """Stop these cleanly, one after the other."""
        for broker_id in broker_ids:
            host = self.hosts[broker_id]
            host.stop()
            self.until(lambda host=host: not host.node.is_up, f"broker {broker_id} has stopped")  # type: ignore[misc]

    def restart(self, *broker_ids: int) -> None:
        """Start these again."""
        for broker_id in broker_ids:
            self.hosts[broker_id].restart()
        for broker_id in broker_ids:
            if not self.hosts[broker_id].is_kept_out:
                self.until_up(broker_id)

    def until_up(self, broker_id: int) -> None:
        self.until(lambda: self._is_up(broker_id), f"broker {broker_id} is registered")

    def fence(self, *broker_ids: int) -> None:
        """Take their registrations away; they may not come back yet (D11)."""
        for broker_id in broker_ids:
            self.hosts[broker_id].is_kept_out = True
            self.store.commit([Delete(KEYS.live(broker_id))], [])

    def let_register(self, *broker_ids: int) -> None:
        for broker_id in broker_ids:
            self.hosts[broker_id].let_register()
        for broker_id in broker_ids:
            self.until_up(broker_id)

    def blind(self, *broker_ids: int) -> None:
        """They hear nothing of the metadata from now on."""
        for broker_id in broker_ids:
            self.hosts[broker_id].is_blind = True

    def see(self, *broker_ids: int) -> None:
        for broker_id in broker_ids:
            self.hosts[broker_id].see()

    def is_controller(self, broker_id: int) -> bool:
        """Whether it is the controller, as far as it knows."""
        broker = self.hosts[broker_id].broker
        return broker is not None and broker.controller.is_active

    def order(self, broker_id: int, what: Callable[[Controller, Now], object]) -> None:
        """Have a controller do something."""
        host = self.hosts[broker_id]
        assert host.broker is not None
        what(host.broker.controller, host._now())
        host.feed(Ticked())

    def _is_up(self, broker_id: int) -> bool:
        broker = self.hosts[broker_id].broker
        return broker is not None and broker.membership.me is not None

    # The document

    @property
    def known(self) -> tuple[PartitionDocument, int]:
        kv = self.store.keys.get(KEYS.partition(*self.place))
        assert kv is not None
        return PartitionDocument.decode(kv.value), kv.mod_revision

    @property
    def document(self) -> PartitionDocument:
        return self.known[0]

    @property
    def isr(self) -> list[int]:
        return [member.broker_id for member in self.document.isr]

    def write(self, document: PartitionDocument) -> None:
        """As a controller would."""
        self._writes += 1
        document = replace(document, write_id=f"test.{self._writes}")
        self.store.commit([Put(KEYS.partition(*self.place), document.encode())], [])

    def settle(self) -> None:
        """Write what the rules of the controller want now, if that is anything (elections.py)."""
        image = Image(KEYS, TopicConfig())
        found = self.store.list(KEYS.prefix)
        image.load(found.revision, found.items)
        wishes = elections.wishes_of(image.topics[self.place[0]])
        after = elections.settle(self.document, self.place, wishes, image.brokers)
        if after is not None:
            self.write(after)

    def elect(self, broker_id: int, *, isr: Iterable[int] | None = None) -> None:
        """Have another leader; in the ISR are these, or those who are in it and registered."""
        document = self.document
        if isr is None:
            isr = [m.broker_id for m in document.isr if self.is_registered(m.broker_id)]
        members = [self.member(i) for i in isr]
        document = with_isr(document, [*members])
        leader = self.member(broker_id)
        epoch = document.leader_epoch + 1
        self.write(replace(document, leader=leader, leader_epoch=epoch, last_leader=None))

    def elect_uncleanly(self, broker_id: int) -> None:
        """Whoever had everything is gone: this one leads with what it has (D8)."""
        was = self.document
        gone = replace(was, leader=None, leader_epoch=was.leader_epoch + 1, isr=(), elr=was.isr)
        self.write(gone)
        leader, epoch = self.member(broker_id), gone.leader_epoch + 1
        lost = replace(gone, leader=leader, leader_epoch=epoch, isr=(leader,), elr=(), rec=epoch)
        self.write(replace(lost, recovering=True))

    def leave_isr(self, *broker_ids: int) -> None:
        """Take these out of the ISR."""
        document = self.document
        self.write(with_isr(document, [m for m in document.isr if m.broker_id not in broker_ids]))

    def until_isr(self, *broker_ids: int) -> None:
        self.until(lambda: self.isr == list(broker_ids), f"the ISR is {broker_ids}")

    # What is under way

    def hold_requests(self, source: int, target: int, api: PeerApi = PeerApi.REPLICATE) -> Held:
        """Keep back what one broker asks another from now on."""
        return self._hold(target, source, api, PeerAsked)

    def hold_replies(self, source: int, target: int, api: PeerApi = PeerApi.REPLICATE) -> Held:
        """Keep back what one broker answers another from now on."""
        return self._hold(target, source, api, PeerAnswered)

    def separate(self, leader: int, *followers: int) -> Separation:
        """Let nothing through between a leader and these, as its followers."""
        gates = []
        for follower in followers:
            gates.append(self.hold_replies(leader, follower))
            gates.append(self.hold_requests(follower, leader))
        return Separation(gates)

    def _hold(self, at: int, source: int, api: PeerApi, kind: type[Event]) -> Held:
        host = self.hosts[at]
        gate = Held(host, lambda event, of, what: (type(event), of, what) == (kind, source, api))
        host.gates.append(gate)
        return gate

    def hold_pushes(self, broker_id: int, *apis: Api) -> HeldEffects:
        """Keep back what a broker publishes from now on, or only this of it."""
        wanted = apis or (Api.PUSH, Api.HEAD)

        def matches(effect: Effect) -> bool:
            return (
                isinstance(effect, Publish)
                and decode_reply_header(bytes(effect.frames[1]))[0] in wanted
            )

        return self.hosts[broker_id].hold_effects(matches)

    def hold_answers(self, broker_id: int, api: Api) -> HeldEffects:
        """Keep back what a broker answers clients from now on."""

        def matches(effect: Effect) -> bool:
            return (
                isinstance(effect, Send) and decode_reply_header(bytes(effect.frames[0]))[0] == api
            )

        return self.hosts[broker_id].hold_effects(matches)

    def hold_flushes(self, *broker_ids: int) -> None:
        """What these write from now on reaches no disk."""
        for broker_id in broker_ids:
            self.hosts[broker_id].holds_flushes = True

    def hold_commits(self, broker_id: int) -> None:
        self.hosts[broker_id].holds_commits = True

    def next_commit(self, broker_id: int) -> HeldCommit:
        """The oldest that is kept back; wait for one if there is none."""
        commits = self.hosts[broker_id].commits
        self.until(lambda: commits, f"broker {broker_id} commits something")
        return commits.pop(0)

    # Clients

    def hand(
        self,
        name: str,
        servers: Sequence[int] = (),
        *,
        acks: Acks = "all",
        idempotent: bool = True,
        in_flight: int = 16,
        delivery_timeout_ms: int = 60_000,
        request_timeout_ms: int = 3_000,
    ) -> Hand:
        """A client; it begins by asking these brokers."""
        options = ProducerOptions(
            acks=acks,
            idempotent=idempotent,
            linger_ms=0,
            batch_records=1,
            compression="none",
            in_flight=in_flight,
            delivery_timeout_ms=delivery_timeout_ms,
            request_timeout_ms=request_timeout_ms,
            retry_backoff_ms=10,
        )
        hand = self.hands[name] = Hand(self._stage(servers), name, options)
        hand.start()
        return hand

    def _stage(self, servers: Sequence[int]) -> Stage:
        stage = self.cluster.stage
        if not servers:
            return stage
        return stage._replace(servers=[self.hosts[i].clients_address for i in servers])

    def reader(
        self,
        name: str,
        group: str | None = None,
        servers: Sequence[int] = (),
        *,
        rack: str | None = None,
        **options: Any,
    ) -> Reader:
        """A consumer that reads everything; it begins by asking these brokers."""
        reader = self.readers[name] = Reader(self._stage(servers), name, group, rack, **options)
        reader.start()
        return reader

    def send(self, text: bytes = b"", key: bytes | None = None) -> Sent:
        """Send a record."""
        return self.hands["p1"].send(text, key)

    def send_acked(self, text: bytes = b"", key: bytes | None = None) -> Sent:
        """Send a record, and wait for its acknowledgement."""
        sent = self.send(text, key)
        self.until(lambda: sent.outcome is not None, "the record is acknowledged")
        assert sent.is_acked, sent.outcome
        return sent

    def alter(self, *, by: int = 0, **config: object) -> None:
        """Change settings of the topic; ask a certain broker to do it."""
        answers: list[object] = []
        fields = {"topic": TOPIC, "config": config}
        hand = self.hand(f"alter{by}", [by]) if by else self.hands["p1"]
        hand.host.call(Api.ALTER_TOPIC, fields, answers.append)
        self.until(lambda: answers, "the topic is changed")
        assert isinstance(answers[0], dict), answers

    # The end

    def begin_control(self) -> None:
        """Let the real controllers work from now on."""
        self.store.commit([Delete(KEYS.controller)], [])

    def heal(self) -> None:
        """Keep back nothing more, start everybody, and let the controllers work."""
        self.network.heal_all()
        for host in self.hosts.values():
            for gate in tuple(host.gates):
                gate.end()
            for held in tuple(host.held_effects):
                held.end()
            host.holds_commits = False
            for commit in host.commits:
                commit.go()
            host.commits.clear()
            host.flush()
            host.see()
            host.let_register()
            host.node.resume()
        self.begin_control()
        for host in self.hosts.values():
            if not host.node.is_up:
                host.restart()

    def finish(self, *, heals: bool = True) -> None:
        """End all trouble; all that was promised must be kept (I1), all be in sync (L-1)."""
        self.heal()
        if heals:
            self.until(self._is_healed, "everybody is in sync again", 60 * SECOND)
            self.invariants.finish()
        else:
            self.run(20)
        self.look()

    def look(self) -> None:
        """Read everything, and compare it with what was promised."""
        clients = [*self.hands.values(), *self.readers.values()]
        for client in clients:
            client.stop()
        self.until(lambda: all(c.is_idle for c in clients), "clients rest", 90 * SECOND)
        drainer = DrainingClient(self.cluster.stage, "drain", {TOPIC: 1})
        drainer.start()
        self.until(lambda: drainer.is_done, "all is read", 60 * SECOND)
        allowed = Allowed(compacted=(TOPIC,) if self._is_compacted else ())
        violations = check(self.cluster.history.entries, allowed)
        assert not violations, violations

    def _is_healed(self) -> bool:
        document = self.document
        return (
            document.leader is not None
            and sorted(self.isr) == sorted(document.replicas)
            and all(self.is_registered(i) for i in self.hosts)
            and all(self.role(i) is not None for i in document.replicas)
            and len({self.end(i) for i in document.replicas}) == 1
            and len({self.high_watermark(i) for i in document.replicas}) == 1
        )
