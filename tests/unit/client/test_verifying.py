"""Replicas are read from brokers that compact meanwhile, or have done so before."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, cast

import pytest

from tests.unit.client.test_cluster_info import partition, topic
from tests.unit.client.test_comparing import Row, batch
from zmqmq.batch.layout import unpack_header
from zmqmq.client.cluster_operations import ClusterOperations
from zmqmq.client.describing import TopicDescription, topic_description
from zmqmq.client.machines.comparing import PartitionCheck
from zmqmq.client.machines.effects import Reply
from zmqmq.client.verifying import Verifying
from zmqmq.wire.apis import Api
from zmqmq.wire.frame import Fields

OTHER: Row = (0, b"j", b"1")
OLD: Row = (1, b"k", b"old")
NEW: Row = (2, b"k", b"new")
FULL = [batch([row]) for row in (OTHER, OLD, NEW)]
COMPACTED = [batch([OTHER], last=1), batch([NEW])]


class Brokers:
    """What each has, a batch per reply; all of it is committed."""

    def __init__(self, *logs: list[bytes], cleanup: str) -> None:
        self.logs = dict(enumerate(logs, 1))
        self.cleanup = cleanup
        self.described = 0

    def find_brokers(self) -> Generator[None]:
        yield from ()

    def describe_topic(self, _name: str) -> Generator[None, None, TopicDescription]:
        yield from ()
        self.described += 1
        return self.description()

    def description(self, committed: int = 3) -> TopicDescription:
        brokers = list(self.logs)
        row = partition(replicas=brokers, isr=brokers, committed_end=committed)
        return topic_description({**topic(row), "config": {"cleanup": self.cleanup}})

    def ask_exactly(
        self, broker: int, _api: Api, fields: Fields, _patience: int = 0
    ) -> Generator[None, None, Reply]:
        yield from ()
        ((_, _, offset, max_bytes),) = fields["partitions"]
        found = [f for f in self.logs[broker] if end_of(f) > offset]
        data = found[0] if max_bytes and found else b""
        return Reply({"partitions": [[len(data), 3, 0]]}, [data] if data else [], broker)

    def verify(self, described: TopicDescription | str = "t") -> PartitionCheck:
        operation: Any = Verifying(cast("ClusterOperations", self)).verify(described, 0)
        try:
            next(operation)
        except StopIteration as end:
            return cast("PartitionCheck", end.value)
        raise AssertionError("nothing is waited for")


def end_of(frame: bytes) -> int:
    return unpack_header(frame).next_offset


def test_what_was_compacted_after_an_old_description_is_not_lacking() -> None:
    """Broker 1 has let go of offset 1 because of offset 2, which the description does not know."""
    brokers = Brokers(COMPACTED, FULL, cleanup="compact")

    assert brokers.verify(brokers.description(committed=2)).is_equal
    assert brokers.described == 1
    assert brokers.verify().is_equal


def test_what_is_lacking_whenever_one_looks_differs() -> None:
    brokers = Brokers(COMPACTED[:1], FULL[:2], cleanup="compact")
    check = brokers.verify(brokers.description(committed=2))

    assert check.difference is not None
    assert check.difference.offset == 1


@pytest.mark.parametrize(
    ("one", "other", "offset"),
    [
        (COMPACTED, FULL, 0),
        (FULL, COMPACTED, 0),
        (COMPACTED, [batch([OTHER, NEW])], 2),  # both were, each in its own way
    ],
)
def test_what_was_compacted_once_differs_in_its_batches_only(
    one: list[bytes], other: list[bytes], offset: int
) -> None:
    check = Brokers(one, other, cleanup="delete").verify()

    assert check.is_equal
    assert (check.by, check.is_compacted) == ("records", True)
    assert check.notes == (
        f"batches differ from offset {offset} on, records do not: it was compacted once",
    )


@pytest.mark.parametrize(
    ("one", "other", "offset"),
    [
        (FULL, [FULL[0], batch([OLD], epoch=2), FULL[2]], 1),  # nothing was compacted
        (FULL, [batch([OTHER, OLD]), FULL[2]], 1),
        (FULL, [batch([OTHER], last=1), batch([(2, b"k", b"X")])], 0),
        ([*FULL[:2], batch([(2, b"l", b"new")])], [COMPACTED[0], batch([(2, b"l", b"new")])], 0),
    ],
)
def test_what_compaction_does_not_explain_differs(
    one: list[bytes], other: list[bytes], offset: int
) -> None:
    check = Brokers(one, other, cleanup="delete").verify()

    assert check.difference is not None
    assert (check.by, check.difference.offset) == ("bytes", offset)
