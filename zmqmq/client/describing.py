"""What the client tells about topics and groups, read from the broker's maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from zmqmq.errors import Code, ConflictError, ProtocolError, refusal
from zmqmq.wire.frame import Fields


class TopicInfo(NamedTuple):
    """One topic."""

    name: str
    id: bytes
    partitions: int
    replicas: int
    config: Mapping[str, Any]
    """Every setting with its value (docs/configuration.md)."""


class PartitionDescription(NamedTuple):
    """One partition, as its leader sees it. -1 where the broker did not say."""

    partition: int
    leader: int | None
    leader_epoch: int
    start: int
    """The first offset that is stored."""
    committed_end: int
    """The offset behind the last record that consumers see."""
    bytes: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    """Broker ids of the replicas that are in sync."""
    error: str | None
    """Why it cannot be used, if it cannot."""
    adding: tuple[int, ...] = ()
    """Broker ids of the replicas that a reassignment brings in."""
    removing: tuple[int, ...] = ()
    """Those that it takes out, once the new ones are in sync."""
    min_isr: int = -1
    """So many must be in sync for anything to be committed."""
    lag: Mapping[int, int | None] = {}
    """Of each follower the records that it lacks; None: it has not said anything yet."""
    bytes_in_per_s: int = -1
    """In the last minute; -1 too in the first ten seconds of a leader."""
    bytes_out_per_s: int = -1
    work_per_s: int = -1
    """What it gives its leader to do (docs/protocol.md, DESCRIBE items)."""
    copy_work_per_s: int = -1
    """And each follower."""

    @property
    def target(self) -> tuple[int, ...]:
        """The replicas, as they will be when what is under way is done."""
        return tuple(b for b in self.replicas if b not in self.removing)

    @property
    def is_moving(self) -> bool:
        """Whether a reassignment is under way."""
        return bool(self.adding or self.removing)


class TopicDescription(NamedTuple):
    """One topic with its partitions."""

    name: str
    id: bytes
    replicas: int
    config: Mapping[str, Any]
    partitions: tuple[PartitionDescription, ...]


class GroupInfo(NamedTuple):
    """One group."""

    name: str
    offsets: Mapping[tuple[str, int], int]
    """Committed: topic and partition, and the offset to go on at."""


def items_of(fields: Fields) -> tuple[list[dict[str, Any]], bool]:
    """The items of one page of DESCRIBE, and whether there is another."""
    items = fields.get("items")
    if type(items) is not list or not all(type(item) is dict for item in items):
        raise ProtocolError(f"DESCRIBE was answered with {items!r:.100}")
    return items, fields.get("more") is True


def leaders_to_ask(topics: Sequence[Fields]) -> list[int]:
    """The brokers that lead partitions of which the one that was asked could not tell all."""
    rows = [row for topic in topics for row in _rows(topic) if not _is_whole(row)]
    return sorted({row["leader"] for row in rows if type(row.get("leader")) is int})


def take_partitions(topics: Sequence[Fields], told: Sequence[Fields]) -> None:
    """Put what a leader has told of partitions in the place of what was known of them."""
    known = {
        (topic.get("id"), row.get("partition")): row
        for topic in told
        for row in _rows(topic)
        if _is_whole(row)
    }
    for topic in topics:
        for row in _rows(topic):
            if not _is_whole(row):
                row.update(known.get((topic.get("id"), row.get("partition")), {}))


def _rows(topic: Fields) -> list[Fields]:
    rows = topic.get("partitions")
    return [row for row in rows if type(row) is dict] if type(rows) is list else []


def _is_whole(row: Fields) -> bool:
    return "committed_end" in row or row.get("error") is not None


def topic_info(name: str, fields: Fields) -> TopicInfo:
    """From the reply of CREATE_TOPIC, or from an item of DESCRIBE."""
    partitions = fields.get("partitions")
    count = len(partitions) if type(partitions) is list else partitions
    if type(count) is not int:
        raise ProtocolError(f"topic {name!r} was described with {partitions!r:.100} partitions")
    config = fields.get("config")
    return TopicInfo(
        name,
        bytes(fields.get("id") or b""),
        count,
        _number(fields, "replicas"),
        config if type(config) is dict else {},
    )


def topic_description(item: Fields) -> TopicDescription:
    """From an item of DESCRIBE."""
    info = topic_info(str(item.get("name")), item)
    entries = item.get("partitions")
    if type(entries) is not list:
        raise ProtocolError(f"topic {info.name!r} was described with {entries!r:.100}")
    return TopicDescription(
        info.name, info.id, info.replicas, info.config, tuple(map(_partition, entries))
    )


def group_info(item: Fields) -> GroupInfo:
    """From an item of DESCRIBE."""
    offsets = {
        (str(entry["topic"]), int(entry["partition"])): int(entry["offset"])
        for entry in item.get("offsets") or ()
    }
    return GroupInfo(str(item.get("name")), offsets)


def check_like(info: TopicInfo, partitions: int, config: Mapping[str, Any] | None) -> None:
    """Raise ConflictError unless an existing topic is as `ensure` wants it."""
    wrong = []
    if info.partitions != partitions:
        wrong.append(f"it has {info.partitions} partitions, not {partitions}")
    for name, value in (config or {}).items():
        if info.config.get(name) != value:
            wrong.append(f"{name} is {info.config.get(name)!r}, not {value!r}")
    if wrong:
        error = refusal(
            Code.CONFLICT,
            f"topic {info.name!r} exists and differs: {'; '.join(wrong)}. Change what is asked "
            "for, or the topic (topics.alter)",
        )
        assert isinstance(error, ConflictError)
        raise error


def _partition(entry: Fields) -> PartitionDescription:
    leader, error = entry.get("leader"), entry.get("error")
    return PartitionDescription(
        _number(entry, "partition"),
        leader if type(leader) is int else None,
        _number(entry, "leader_epoch"),
        _number(entry, "start"),
        _number(entry, "committed_end"),
        _number(entry, "bytes"),
        _brokers(entry.get("replicas")),
        _brokers(entry.get("isr")),
        None if error is None else str(error),
        _brokers(entry.get("adding")),
        _brokers(entry.get("removing")),
        _number(entry, "min_isr"),
        {int(follower["broker"]): follower["lag"] for follower in entry.get("followers") or ()},
        _number(entry, "bytes_in_per_s"),
        _number(entry, "bytes_out_per_s"),
        _number(entry, "work_per_s"),
        _number(entry, "copy_work_per_s"),
    )


def _number(fields: Fields, name: str) -> int:
    value = fields.get(name)
    return value if type(value) is int else -1


def _brokers(value: Sequence[int] | None) -> tuple[int, ...]:
    return tuple(value) if type(value) is list else ()
