"""Which key holds what: the layout of a cluster's metadata (research/etcd.md 5).

All keys of a cluster begin with one prefix, so that one watch sees everything in one order. They
are ASCII with `/` between the parts, without one in front. Topics are named by their id, so that
one that is deleted and made again shares nothing with the first. Numbers have five digits, so
that the order of the bytes is the order of the numbers.

`KeySpace.parse` is the inverse: whoever follows the store asks it what an event is about.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from zmqmq.errors import CorruptDataError, InvalidNameError
from zmqmq.model.limits import PARTITIONS_MAX
from zmqmq.model.names import check_topic_name

BROKER_ID_MAX: Final = 99_999
"""What five digits hold."""
TOPIC_ID_BYTES: Final = 16

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}\Z")
_NUMBER = re.compile(r"[0-9]{5}\Z")
_TOPIC_ID = re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True, slots=True)
class ClusterKey:
    """`meta/cluster`: which cluster this is. Written once, never changed."""


@dataclass(frozen=True, slots=True)
class LiveKey:
    """`live/<id>`: a broker is up. On its lease, never rewritten: its create_revision is the
    broker epoch."""

    broker_id: int


@dataclass(frozen=True, slots=True)
class BrokerKey:
    """`broker/<id>`: what is known of a broker whether it is up or not."""

    broker_id: int


@dataclass(frozen=True, slots=True)
class TopicKey:
    """`topic/<id>`: a topic."""

    topic_id: bytes


@dataclass(frozen=True, slots=True)
class TopicNameKey:
    """`tname/<name>`: which topic has the name. Created in the topic's commit if absent, so names
    are unique."""

    name: str


@dataclass(frozen=True, slots=True)
class PartitionKey:
    """`part/<topic id>/<n>`: who holds and who leads a partition. Its mod_revision is its
    version."""

    topic_id: bytes
    partition: int


@dataclass(frozen=True, slots=True)
class ProducerIdsKey:
    """`alloc/pid`: the next block of producer ids."""


@dataclass(frozen=True, slots=True)
class ControllerKey:
    """`ctl/leader`: who is the controller. On the lease of that broker; its create_revision is the
    controller epoch."""


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """`cfg/<scope>/<name>`: settings changed while the cluster runs."""

    scope: str
    name: str


Key = (
    ClusterKey
    | LiveKey
    | BrokerKey
    | TopicKey
    | TopicNameKey
    | PartitionKey
    | ProducerIdsKey
    | ControllerKey
    | ConfigKey
)


@dataclass(frozen=True, slots=True)
class KeySpace:
    """The keys of one cluster."""

    prefix: bytes
    """Ends with `/`. List and watch this for everything of the cluster."""

    def __post_init__(self) -> None:
        assert self.prefix.endswith(b"/"), self.prefix
        assert not self.prefix.startswith(b"/"), self.prefix

    @classmethod
    def of_cluster(cls, name: str) -> KeySpace:
        """`zmqmq/<name>/`. Raises InvalidNameError."""
        return cls(f"zmqmq/{_check_part(name)}/".encode())

    @property
    def cluster(self) -> bytes:
        return self.prefix + b"meta/cluster"

    @property
    def live_prefix(self) -> bytes:
        return self.prefix + b"live/"

    def live(self, broker_id: int) -> bytes:
        return self.live_prefix + _digits(broker_id, BROKER_ID_MAX)

    @property
    def broker_prefix(self) -> bytes:
        return self.prefix + b"broker/"

    def broker(self, broker_id: int) -> bytes:
        return self.broker_prefix + _digits(broker_id, BROKER_ID_MAX)

    @property
    def topic_prefix(self) -> bytes:
        return self.prefix + b"topic/"

    def topic(self, topic_id: bytes) -> bytes:
        return self.topic_prefix + _topic_hex(topic_id)

    @property
    def topic_name_prefix(self) -> bytes:
        return self.prefix + b"tname/"

    def topic_name(self, name: str) -> bytes:
        """Raises InvalidNameError. Internal topics have a key like all others."""
        return self.topic_name_prefix + check_topic_name(name, internal=True).encode()

    def partition_prefix(self, topic_id: bytes) -> bytes:
        return self.prefix + b"part/" + _topic_hex(topic_id) + b"/"

    def partition(self, topic_id: bytes, partition: int) -> bytes:
        return self.partition_prefix(topic_id) + _digits(partition, PARTITIONS_MAX - 1)

    @property
    def producer_ids(self) -> bytes:
        return self.prefix + b"alloc/pid"

    @property
    def controller(self) -> bytes:
        return self.prefix + b"ctl/leader"

    @property
    def config_prefix(self) -> bytes:
        return self.prefix + b"cfg/"

    def config(self, scope: str, name: str) -> bytes:
        """Raises InvalidNameError."""
        return self.config_prefix + f"{_check_part(scope)}/{_check_part(name)}".encode()

    def parse(self, key: bytes) -> Key | None:
        """What a key of this cluster is about; None if it is of a kind from a later version.

        Raises CorruptDataError for a key of a kind that is known, but not of its form, and for
        one that is not of this cluster.
        """
        if not key.startswith(self.prefix):
            raise CorruptDataError(f"key {key!r} does not begin with {self.prefix!r}")
        try:
            kind, *parts = key[len(self.prefix) :].decode("ascii").split("/")
        except UnicodeDecodeError:
            raise CorruptDataError(f"key {key!r} is not ASCII") from None
        try:
            return _parse(kind, parts)
        except (ValueError, InvalidNameError):
            raise CorruptDataError(f"key {key!r} is not of the form of a {kind!r} key") from None


def _parse(kind: str, parts: list[str]) -> Key | None:
    match kind, parts:
        case "meta", ["cluster"]:
            return ClusterKey()
        case "alloc", ["pid"]:
            return ProducerIdsKey()
        case "ctl", ["leader"]:
            return ControllerKey()
        case "live", [number]:
            return LiveKey(_parse_number(number, BROKER_ID_MAX))
        case "broker", [number]:
            return BrokerKey(_parse_number(number, BROKER_ID_MAX))
        case "topic", [topic_id]:
            return TopicKey(_parse_topic_id(topic_id))
        case "tname", [name]:
            return TopicNameKey(check_topic_name(name, internal=True))
        case "part", [topic_id, number]:
            return PartitionKey(
                _parse_topic_id(topic_id), _parse_number(number, PARTITIONS_MAX - 1)
            )
        case "cfg", [scope, name]:
            return ConfigKey(_check_part(scope), _check_part(name))
        case (("live" | "broker" | "topic" | "tname" | "part" | "cfg"), _):
            raise ValueError(parts)
        case _:
            return None


def _digits(number: int, maximum: int) -> bytes:
    # A number out of bounds here is our own mistake: whatever comes from outside was checked.
    assert 0 <= number <= maximum, number
    return b"%05d" % number


def _topic_hex(topic_id: bytes) -> bytes:
    assert len(topic_id) == TOPIC_ID_BYTES, topic_id
    return topic_id.hex().encode()


def _parse_number(text: str, maximum: int) -> int:
    if not _NUMBER.match(text) or int(text) > maximum:
        raise ValueError(text)
    return int(text)


def _parse_topic_id(text: str) -> bytes:
    if not _TOPIC_ID.match(text):
        raise ValueError(text)
    return bytes.fromhex(text)


def _check_part(name: str) -> str:
    if not _NAME.match(name):
        raise InvalidNameError(f"{name!r}: allowed are 1 to 200 of A-Z a-z 0-9 . _ -")
    return name
