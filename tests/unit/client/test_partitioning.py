"""Which partition a record goes to, with vectors that other languages can check against."""

from __future__ import annotations

import pytest

from zmqmq.client.machines.batch import PartitionQueue, TopicQueue
from zmqmq.client.machines.partitioning import Partitioning, partition_of_key
from zmqmq.errors import Code, NotFoundError, UsageError


def topic_of(count: int) -> TopicQueue:
    topic = TopicQueue("t")
    topic.partitions = [PartitionQueue(topic, n) for n in range(count)]
    return topic


@pytest.mark.parametrize(
    ("key", "crc"),
    [
        (b"", 0x00000000),
        (b"123456789", 0xE3069283),  # the check value of CRC-32C (RFC 3720)
        (b"a", 0xC1D04330),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        ("ключ".encode(), 0x98096BAE),
    ],
)
def test_a_key_goes_to_its_crc32c_modulo_the_partitions(key: bytes, crc: int) -> None:
    for count in (1, 3, 7, 64, 10_000):
        assert partition_of_key(key, count) == crc % count
        assert Partitioning("key").choose(topic_of(count), None, key, b"v") == crc % count


def test_records_without_a_key_stay_with_the_sticky_partition() -> None:
    topic = topic_of(4)
    topic.sticky = 2
    partitioning = Partitioning("key")

    assert [partitioning.choose(topic, None, None, b"v") for _ in range(3)] == [2, 2, 2]


def test_round_robin_takes_one_after_the_other_with_a_key_or_without() -> None:
    topic = topic_of(3)
    partitioning = Partitioning("round-robin")

    chosen = [partitioning.choose(topic, None, key, b"v") for key in (b"a", None, b"a", None)]
    assert chosen == [0, 1, 2, 0]


def test_a_function_of_the_callers_decides() -> None:
    partitioning = Partitioning(lambda _, value, count: (len(value or b"") + count) % count)

    assert partitioning.choose(topic_of(4), None, None, b"12345") == 1


def test_a_named_partition_wins() -> None:
    assert Partitioning("round-robin").choose(topic_of(3), 1, b"k", b"v") == 1


@pytest.mark.parametrize("partition", [-1, 3, 100])
def test_a_partition_that_does_not_exist_is_refused(partition: int) -> None:
    with pytest.raises(NotFoundError, match="0 to 2") as caught:
        Partitioning("key").choose(topic_of(3), partition, None, b"v")
    assert caught.value.code is Code.UNKNOWN_PARTITION


@pytest.mark.parametrize("wrong", [3, -1, "1", None, True])
def test_a_function_that_answers_nonsense_is_told_so(wrong: object) -> None:
    with pytest.raises(UsageError, match="partitioner returned"):
        Partitioning(lambda *_: wrong).choose(topic_of(3), None, None, b"v")  # type: ignore[arg-type, return-value]


def test_a_function_that_raises_fails_the_send() -> None:
    def broken(_key: object, _value: object, _count: int) -> int:
        raise KeyError("oops")

    with pytest.raises(UsageError, match="oops"):
        Partitioning(broken).choose(topic_of(3), None, None, b"v")
