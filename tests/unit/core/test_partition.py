"""One partition: which batches it takes, what it stamps on them, and what it does at capacity."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.replicas import lone_partition
from tests.support.world import BROKEN
from zmqmq.batch.columns import Column, pack_columns
from zmqmq.batch.compression import Codec
from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import CONTROL, TRANSACTIONAL, log_seed, pack_producer_part, unpack_header
from zmqmq.core.replication.partition import Partition
from zmqmq.core.storage.log import LOGS_FOLDER, LogKey
from zmqmq.core.storage.options import StorageOptions
from zmqmq.core.storage.reading import read
from zmqmq.core.storage.recovery import open_log
from zmqmq.errors import Code, WireError
from zmqmq.model.topics import TopicConfig
from zmqmq.sim.disk import SimDisk

KEY = LogKey(bytes(16), 0)
OPTIONS = StorageOptions(index_interval_bytes=512, allocate_bytes=4096, free_bytes_min=0)
NOW_MS = 1_000


def partition_of(disk: SimDisk | None = None, **config: Any) -> Partition:
    """An empty one, served."""
    disk = disk or SimDisk()
    disk.make_directory(LOGS_FOLDER)
    partition = lone_partition(open_log(disk, KEY, TopicConfig(**config), OPTIONS), epoch=3)
    flush(partition)
    return partition


def batch(*values: bytes, seed: int = KEY.seed, **coding: Any) -> bytes:
    return encode_batch(seed, list(values) or [b"v"], timestamp_ms=5, **coding)


def flush(partition: Partition) -> None:
    partition.log.write_out()
    partition.log.end_flush(partition.log.begin_flush())
    partition.advance()


def refused(partition: Partition, data: bytes) -> Code:
    """Why a batch is refused; nothing has changed by it."""
    log = partition.log
    before = (log.end_offset, log.start_offset, log.size_bytes, len(log.producers))
    with pytest.raises(WireError) as caught:
        partition.append(NOW_MS, data)
    assert before == (log.end_offset, log.start_offset, log.size_bytes, len(log.producers))
    return caught.value.code


def test_a_batch_is_stamped_with_offset_epoch_time_and_what_was_committed() -> None:
    partition = partition_of()
    partition.append(NOW_MS, batch(b"a", b"b"))
    flush(partition)
    partition.append(NOW_MS + 1, batch(b"c"))
    flush(partition)
    header = unpack_header(bytes(read(partition.log, 2, 1_000, 3)))

    assert (header.base_offset, header.leader_epoch) == (2, 3)
    assert (header.append_time_ms, header.committed_end) == (NOW_MS + 1, 2)


def test_append_times_never_fall_when_the_clock_does() -> None:
    partition = partition_of()
    partition.append(NOW_MS, batch())

    assert partition.append(NOW_MS - 500, batch()).append_ms == NOW_MS


def test_the_committed_end_in_a_batch_is_never_ahead_of_the_disk() -> None:
    """What a power cut takes must not look like damage, and with flush=replicated it may."""
    partition = partition_of(flush="replicated")
    partition.append(NOW_MS, batch())
    partition.log.write_out()
    partition.advance()
    partition.append(NOW_MS, batch())
    partition.log.write_out()

    assert partition.high_watermark == 1
    header = unpack_header(bytes(read(partition.log, 1, 1_000, 2)))
    assert header.committed_end == 0


def test_the_high_watermark_waits_for_the_disk_or_not_as_the_topic_says() -> None:
    careful, fast = partition_of(), partition_of(flush="replicated")
    for partition in (careful, fast):
        partition.append(NOW_MS, batch())
        partition.log.write_out()
        partition.advance()

    assert (careful.high_watermark, fast.high_watermark) == (0, 1)


@pytest.mark.parametrize(
    ("coding", "code"),
    [
        ({"seed": log_seed(bytes(16), 1)}, Code.CORRUPT_BATCH),
        ({"attributes": CONTROL}, Code.CORRUPT_BATCH),
        ({"attributes": TRANSACTIONAL}, Code.CORRUPT_BATCH),
        ({"attributes": 0x40}, Code.CORRUPT_BATCH),
        ({"last_offset_delta": 5}, Code.CORRUPT_BATCH),
        ({"offset_deltas": [0]}, Code.CORRUPT_BATCH),
    ],
)
def test_what_is_not_a_producers_batch_for_this_partition_is_refused(
    coding: dict[str, Any], code: Code
) -> None:
    assert refused(partition_of(), batch(**coding)) is code


def test_a_batch_without_values_or_with_a_count_that_lies_is_refused() -> None:
    def packed(columns: list[tuple[Column, list[Any]]], count: int) -> bytes:
        body, size = pack_columns(columns, Codec.NONE)
        return pack_producer_part(
            KEY.seed,
            body,
            attributes=0,
            last_offset_delta=count - 1,
            count=count,
            inflated_size=size,
            first_timestamp_ms=1,
            last_timestamp_ms=1,
            producer_id=0,
            producer_epoch=0,
            base_sequence=0,
        )

    partition = partition_of()
    assert refused(partition, packed([(Column.KEYS, [b"k"])], 1)) is Code.CORRUPT_BATCH
    assert refused(partition, packed([(Column.VALUES, [b"v"])], 2)) is Code.CORRUPT_BATCH
    assert refused(partition, packed([(Column.VALUES, [b"v"] * 2)], 1)) is Code.CORRUPT_BATCH


def test_any_flipped_bit_of_the_producers_part_is_refused() -> None:
    partition = partition_of()
    whole = batch(b"abc", producer_id=7)
    for at in range(36, len(whole)):
        wrong = bytearray(whole)
        wrong[at] ^= 1
        assert refused(partition, bytes(wrong)) is Code.CORRUPT_BATCH


@pytest.mark.parametrize("size", [0, 1, 91, 92])
def test_a_batch_shorter_than_its_header_is_refused(size: int) -> None:
    assert refused(partition_of(), batch()[:size]) is Code.CORRUPT_BATCH


def test_a_batch_over_the_topics_limit_is_refused_as_too_large() -> None:
    partition = partition_of(batch_bytes_max=1024)

    assert refused(partition, batch(bytes(1024))) is Code.TOO_LARGE
    assert partition.append(NOW_MS, batch(bytes(900))).base_offset == 0


# Capacity


def fill(partition: Partition, count: int, size: int = 1_000) -> None:
    for _ in range(count):
        partition.append(NOW_MS, batch(bytes(size)))
        flush(partition)


def test_a_topic_that_refuses_at_capacity_drops_nothing() -> None:
    partition = partition_of(capacity_bytes=4_000)
    fill(partition, 3)

    assert refused(partition, batch(bytes(1_000))) is Code.TOPIC_FULL
    assert partition.append(NOW_MS, batch(bytes(10))).base_offset == 3


def test_a_topic_that_refuses_counts_the_records_of_the_batch_that_comes() -> None:
    partition = partition_of(capacity_records=10)
    partition.append(NOW_MS, batch(*[b"v"] * 8))

    assert refused(partition, batch(b"a", b"b", b"c")) is Code.TOPIC_FULL
    assert partition.append(NOW_MS, batch(b"a", b"b")).next_offset == 10


def test_drop_oldest_drops_as_many_segments_as_it_takes_and_no_more() -> None:
    partition = partition_of(capacity_bytes=40_000, full="drop-oldest")
    fill(partition, 60)

    assert partition.log.end_offset == 60
    assert 30_000 < partition.log.size_bytes <= 40_000
    assert partition.log.start_offset == partition.log.segments[0].base_offset > 0


def test_drop_oldest_by_records_keeps_the_newest() -> None:
    partition = partition_of(capacity_records=40, full="drop-oldest")
    for _ in range(30):
        partition.append(NOW_MS, batch(*[b"v"] * 3))
        flush(partition)

    assert 30 <= partition.log.record_count <= 40
    assert partition.log.end_offset == 90


def test_drop_oldest_never_drops_what_is_not_committed() -> None:
    partition = partition_of(capacity_records=8, full="drop-oldest")
    for _ in range(8):
        partition.append(NOW_MS, batch())

    assert refused(partition, batch()) is Code.TOPIC_FULL
    flush(partition)
    assert partition.append(NOW_MS, batch()).base_offset == 8


def test_a_batch_that_could_never_fit_drops_nothing() -> None:
    partition = partition_of(capacity_bytes=40_000, full="drop-oldest")
    fill(partition, 20)
    assert refused(partition, batch(bytes(50_000))) is Code.TOPIC_FULL

    counted = partition_of(capacity_records=40, full="drop-oldest")
    fill(counted, 20, size=1)
    assert refused(counted, batch(*[b"v"] * 41)) is Code.TOPIC_FULL


@pytest.mark.parametrize(
    ("config", "values"),
    [({"capacity_records": 100}, [b"v"] * 60), ({"capacity_bytes": 100_000}, [bytes(60_000)])],
)
def test_drop_oldest_makes_room_in_the_segment_that_is_written_too(
    config: dict[str, int], values: list[bytes]
) -> None:
    """One large batch may be all there is. It cannot go before its segment is ended and flushed."""
    partition = partition_of(full="drop-oldest", **config)
    partition.append(NOW_MS, batch(*values))
    flush(partition)
    with pytest.raises(WireError) as caught:
        partition.append(NOW_MS, batch(*values))
    assert caught.value.code is Code.TOPIC_FULL
    assert caught.value.retriable
    flush(partition)

    assert partition.append(NOW_MS, batch(*values)).base_offset == len(values)
    assert partition.log.start_offset == len(values)


def test_a_failed_log_drops_nothing() -> None:
    partition = partition_of(capacity_bytes=40_000, full="drop-oldest")
    fill(partition, 38)
    partition.log.fail(BROKEN)

    assert refused(partition, batch(bytes(4_000))) is Code.STORAGE_OFFLINE
