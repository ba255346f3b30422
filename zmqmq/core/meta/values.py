"""What stands under the keys: one JSON object each, with the field `v` for its version.

JSON, so that an operator can read it with any tool of the store. What a field means is said at
the dataclass; the rules (L1, C9, D4, …) are those of research/replication.md.

1. A field that this version does not know is kept in `extra` and written again, so that an older
   broker takes nothing away from a newer one. A change that it must not ignore raises `v`.
2. `decode` raises CorruptDataError for whatever `encode` could not have written, and names the
   kind of document and the field. It never raises anything else.
3. Equal documents have equal bytes.

Broker epochs are create_revisions of live keys (keys.LiveKey).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from zmqmq.core.meta.fields import REPLICAS_MAX, Fields, Member, encode_fields
from zmqmq.core.meta.keys import BROKER_ID_MAX, TOPIC_ID_BYTES
from zmqmq.errors import InvalidNameError
from zmqmq.model.limits import PARTITIONS_MAX
from zmqmq.model.names import check_topic_name

TopicState = Literal["creating", "ready", "deleting"]
FlushMode = Literal["fsync", "replicated"]

TOPIC_STATES: Final[tuple[TopicState, ...]] = ("creating", "ready", "deleting")
FLUSH_MODES: Final[tuple[FlushMode, ...]] = ("fsync", "replicated")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterDocument:
    """Which cluster this is. A data directory that belongs to another refuses to join."""

    cluster_id: bytes
    """16 bytes; hex in JSON."""
    format: int
    extra: Mapping[str, object] = field(default_factory=dict, hash=False)

    def encode(self) -> bytes:
        return encode_fields(self.extra, cluster_id=self.cluster_id.hex(), format=self.format)

    @classmethod
    def decode(cls, data: bytes) -> ClusterDocument:
        f = Fields("cluster", data)
        cluster_id, version = f.hex_bytes("cluster_id", 16), f.number("format", minimum=1)
        return cls(cluster_id=cluster_id, format=version, extra=f.rest())


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveDocument:
    """One run of a broker. Immutable: what changes while it runs stands in BrokerDocument."""

    instance: bytes
    """16 random bytes of this process: tells its own key, written by a call whose answer was
    lost, from another's."""
    endpoints: Mapping[str, str] = field(hash=False)
    """The advertised address of each named listener."""
    rack: str | None
    version: str
    since_fsync: int | None
    """The range of earlier broker epochs that vouch for its data begins here (D4); None: only
    this run does."""
    since_clean: int | None
    unvouched: Mapping[str, int | None] = field(default_factory=dict, hash=False)
    """`<topic id in hex>.<partition>` of those that were damaged or lost (D5), with the epoch from
    which on this broker vouches for them; None: only this run does."""
    extra: Mapping[str, object] = field(default_factory=dict, hash=False)

    def encode(self) -> bytes:
        return encode_fields(
            self.extra,
            instance=self.instance.hex(),
            endpoints=dict(self.endpoints),
            rack=self.rack,
            version=self.version,
            since_fsync=self.since_fsync,
            since_clean=self.since_clean,
            unvouched=dict(self.unvouched),
        )

    @classmethod
    def decode(cls, data: bytes) -> LiveDocument:
        f = Fields("live", data)
        return cls(
            instance=f.hex_bytes("instance", 16),
            endpoints=f.text_map("endpoints"),
            rack=f.optional_text("rack"),
            version=f.text("version"),
            since_fsync=f.optional_number("since_fsync"),
            since_clean=f.optional_number("since_clean"),
            unvouched=f.optional_number_map("unvouched"),
            extra=f.rest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerDocument:
    """What is known of a broker whether it runs or not."""

    broker_epoch: int
    """The run that `shutting_down` is about; it says nothing of another."""
    shutting_down: bool
    """It hands over what it leads, and joins no ISR (C10)."""
    cordoned: bool
    """It gets no new partitions. About the broker, not the run."""
    extra: Mapping[str, object] = field(default_factory=dict, hash=False)

    def encode(self) -> bytes:
        return encode_fields(
            self.extra,
            broker_epoch=self.broker_epoch,
            shutting_down=self.shutting_down,
            cordoned=self.cordoned,
        )

    @classmethod
    def decode(cls, data: bytes) -> BrokerDocument:
        f = Fields("broker", data)
        return cls(
            broker_epoch=f.number("broker_epoch"),
            shutting_down=f.flag("shutting_down"),
            cordoned=f.flag("cordoned"),
            extra=f.rest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicDocument:
    """A topic. Its partitions are documents of their own, written before it is `ready`."""

    name: str
    topic_id: bytes
    """16 bytes; hex in JSON. Another topic of the same name has another one."""
    partitions: int
    replicas: int
    """How many each partition should have."""
    config: Mapping[str, int | str] = field(hash=False)
    """The settings that differ from the defaults (model/topics.py)."""
    state: TopicState
    """What is `creating` or `deleting` is finished by its maker; once that run of a broker is over,
    the controller takes it over, to remove it."""
    maker: Member | None = None
    """Who is making or removing it; None once it is `ready`."""
    extra: Mapping[str, object] = field(default_factory=dict, hash=False)

    def encode(self) -> bytes:
        return encode_fields(
            self.extra,
            name=self.name,
            topic_id=self.topic_id.hex(),
            partitions=self.partitions,
            replicas=self.replicas,
            config=dict(self.config),
            state=self.state,
            maker=self.maker,
        )

    @classmethod
    def decode(cls, data: bytes) -> TopicDocument:
        f = Fields("topic", data)
        try:
            name = check_topic_name(f.text("name"), internal=True)
        except InvalidNameError as error:
            f.refuse("name", str(error))
        return cls(
            name=name,
            topic_id=f.hex_bytes("topic_id", TOPIC_ID_BYTES),
            partitions=f.number("partitions", minimum=1, maximum=PARTITIONS_MAX),
            replicas=f.number("replicas", minimum=1, maximum=REPLICAS_MAX),
            config=f.settings("config"),
            state=f.choice("state", TOPIC_STATES),
            maker=f.optional_member("maker"),
            extra=f.rest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicNameDocument:
    """Which topic has the name."""

    topic_id: bytes
    extra: Mapping[str, object] = field(default_factory=dict, hash=False)

    def encode(self) -> bytes:
        return encode_fields(self.extra, topic_id=self.topic_id.hex())

    @classmethod
    def decode(cls, data: bytes) -> TopicNameDocument:
        f = Fields("topic name", data)
        return cls(topic_id=f.hex_bytes("topic_id", TOPIC_ID_BYTES), extra=f.rest())


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionDocument:
    """Who holds a partition and who leads it (replication.md 1.1, 12).

    Changed by compare-and-swap on its mod_revision alone: by the leader what concerns the ISR, by
    the controller everything. `decode` checks what holds of every such document.
    """

    replicas: tuple[int, ...]
    """Brokers in the order in which they are preferred as leaders; no broker twice."""
    adding: tuple[int, ...]
    """Those of `replicas` that a reassignment brings in (C9)."""
    removing: tuple[int, ...]
    """Those of `replicas` that it will take out."""
    leader: Member | None
    """Always in `isr`. It leads only in the run that is named (L1)."""
    leader_epoch: int
    """One higher with each change of the leader, and when a replica was taken out (C6)."""
    isr: tuple[Member, ...]
    """Who must hold a record before it is committed (L5)."""
    elr: tuple[Member, ...]
    """Out of the ISR, but still holding all that is committed (L8, C4)."""
    last_leader: int | None
    """Who led when the ISR became empty."""
    min_isr: int
    """Here and not only in the topic, so that it changes together with `elr` (D7)."""
    recovering: bool
    """After an unclean election: the ISR may not grow until the leader clears it (C7)."""
    rec: int
    """What was acknowledged under leader epochs below this may be lost (D8, D9); 0: nothing."""
    write_id: str
    """Unique to the attempt that wrote this: settles a commit whose answer was lost (L9)."""
    flush: FlushMode
    """In force; the topic's setting is only the wish (D1, D12)."""
    extra: Mapping[str, object] = field(default_factory=dict, hash=False)

    @property
    def effective_min_isr(self) -> int:
        """So many must be in sync for anything to be committed (L5); all, if there are fewer."""
        return min(self.min_isr, len(self.replicas))

    def encode(self) -> bytes:
        return encode_fields(
            self.extra,
            replicas=self.replicas,
            adding=self.adding,
            removing=self.removing,
            leader=self.leader,
            leader_epoch=self.leader_epoch,
            isr=self.isr,
            elr=self.elr,
            last_leader=self.last_leader,
            min_isr=self.min_isr,
            recovering=self.recovering,
            rec=self.rec,
            write_id=self.write_id,
            flush=self.flush,
        )

    @classmethod
    def decode(cls, data: bytes) -> PartitionDocument:
        f = Fields("partition", data)
        document = cls(
            replicas=f.broker_ids("replicas"),
            adding=f.broker_ids("adding"),
            removing=f.broker_ids("removing"),
            leader=f.optional_member("leader"),
            leader_epoch=f.number("leader_epoch"),
            isr=f.members("isr"),
            elr=f.members("elr"),
            last_leader=f.optional_number("last_leader", maximum=BROKER_ID_MAX),
            min_isr=f.number("min_isr", minimum=1, maximum=REPLICAS_MAX),
            recovering=f.flag("recovering"),
            rec=f.number("rec"),
            write_id=f.text("write_id"),
            flush=f.choice("flush", FLUSH_MODES),
            extra=f.rest(),
        )
        document._check(f)
        return document

    def _check(self, f: Fields) -> None:
        if not self.replicas:
            f.refuse("replicas", "is empty")
        known = set(self.replicas)
        in_sync, eligible = ({m.broker_id for m in group} for group in (self.isr, self.elr))
        if not known.issuperset(self.adding) or not known.issuperset(self.removing):
            f.refuse("replicas", "lacks a broker that is being added or removed")
        if set(self.adding) & set(self.removing):
            f.refuse("adding", "has a broker that is also being removed")
        if not known >= in_sync | eligible:
            f.refuse("replicas", "lacks a broker of isr or elr")
        if in_sync & eligible:
            f.refuse("elr", "has a broker of isr")
        if self.leader is not None and self.leader not in self.isr:
            f.refuse("leader", "is not in isr")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerDocument:
    """Who is the controller (C1). Its epoch is the create_revision of the key."""

    broker_id: int
    broker_epoch: int
    extra: Mapping[str, object] = field(default_factory=dict, hash=False)

    def encode(self) -> bytes:
        return encode_fields(self.extra, broker_id=self.broker_id, broker_epoch=self.broker_epoch)

    @classmethod
    def decode(cls, data: bytes) -> ControllerDocument:
        f = Fields("controller", data)
        return cls(
            broker_id=f.number("broker_id", maximum=BROKER_ID_MAX),
            broker_epoch=f.number("broker_epoch"),
            extra=f.rest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerIdsDocument:
    """How far producer ids have been handed out, in blocks."""

    next_id: int
    """The first of the next block."""
    extra: Mapping[str, object] = field(default_factory=dict, hash=False)

    def encode(self) -> bytes:
        return encode_fields(self.extra, next_id=self.next_id)

    @classmethod
    def decode(cls, data: bytes) -> ProducerIdsDocument:
        f = Fields("producer ids", data)
        return cls(next_id=f.number("next_id"), extra=f.rest())


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDocument:
    """Settings of one scope and name that were changed while the cluster runs."""

    settings: Mapping[str, int | str] = field(hash=False)
    extra: Mapping[str, object] = field(default_factory=dict, hash=False)

    def encode(self) -> bytes:
        return encode_fields(self.extra, settings=dict(self.settings))

    @classmethod
    def decode(cls, data: bytes) -> ConfigDocument:
        f = Fields("config", data)
        return cls(settings=f.settings("settings"), extra=f.rest())
