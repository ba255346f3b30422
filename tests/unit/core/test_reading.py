"""From an offset to whole batches: hints, slack, long batches, the end, and damage."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.log_driver import KEY, LogDriver
from zmqmq.batch.decode import decode_batches
from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import HEADER_SIZE
from zmqmq.core.storage.log import Log
from zmqmq.core.storage.options import StorageOptions
from zmqmq.core.storage.reading import bytes_between, find_time, place, read, take
from zmqmq.errors import Code, CorruptDataError, WireError
from zmqmq.model.limits import MIB
from zmqmq.model.topics import TopicConfig
from zmqmq.sim.disk import SimDisk

INTERVAL = 512
OPTIONS = StorageOptions(index_interval_bytes=INTERVAL, allocate_bytes=4096, free_bytes_min=0)


def log_of(*sizes: int, segment_bytes: int = 1 << 20) -> Log:
    """A batch of one record of each of these sizes, all flushed."""
    config = TopicConfig(segment_bytes=segment_bytes, retention_ms=0)
    driver = LogDriver(SimDisk(), config=config, options=OPTIONS)
    driver.serve()
    for at, size in enumerate(sizes):
        value = b"%d" % at
        driver.append(encode_batch(KEY.seed, [value.ljust(size)], timestamp_ms=1))
    driver.flush()
    return driver.log


def taken(*arguments: Any) -> bytes | bytearray | memoryview:
    """What `take` gets, if that is enough."""
    found = take(*arguments)
    assert not isinstance(found, int), f"asks for {found} bytes"
    return found.data


def offsets(data: bytes | bytearray | memoryview) -> list[int]:
    return [batch.base_offset for batch in decode_batches(bytes(data), KEY.seed, "", 3)]


def sizes_of(log: Log) -> int:
    """The bytes of one batch, when all are alike."""
    return log.size_bytes // log.end_offset


def test_every_offset_is_found_with_any_size_of_read() -> None:
    log = log_of(*[50, 400, 10, 1_000, 3_000] * 6, segment_bytes=8_192)
    for offset in range(log.end_offset):
        for max_bytes in (1, 92, 500, 5_000, MIB):
            found = offsets(read(log, offset, max_bytes, log.end_offset))
            assert found[0] == offset
            assert found == list(range(offset, offset + len(found)))


def test_reading_on_comes_to_the_end_across_segments() -> None:
    log = log_of(*[700] * 40, segment_bytes=4_096)
    assert len(log.segments) > 5
    found: list[int] = []
    while len(found) < 40:
        found += offsets(read(log, len(found), 2_000, 40))

    assert found == list(range(40))


def test_no_more_than_asked_is_taken_but_for_the_first_batch() -> None:
    log = log_of(*[100] * 20)
    size = sizes_of(log)

    assert offsets(read(log, 7, 3 * size, 20)) == [7, 8, 9]
    assert offsets(read(log, 7, 3 * size + 1, 20)) == [7, 8, 9]
    assert offsets(read(log, 7, 3 * size - 1, 20)) == [7, 8]
    assert offsets(read(log, 7, 1, 20)) == [7]


@pytest.mark.parametrize("end", [0, 1, 7, 20])
def test_nothing_beyond_the_end_that_is_given_is_taken(end: int) -> None:
    log = log_of(*[100] * 20)

    assert offsets(read(log, 0, MIB, end)) == list(range(end))


def test_a_reader_that_goes_on_begins_where_it_stopped_without_slack() -> None:
    log = log_of(*[100] * 20)
    size = sizes_of(log)
    read(log, 0, 7 * size, 20)
    where = place(log, 7, size)

    assert (where.base_offset, where.position, where.size) == (7, 7 * size, size)


def test_a_reader_without_a_hint_begins_before_and_reads_as_much_more() -> None:
    log = log_of(*[100] * 20)
    where = place(log, 4, 300)

    assert where.base_offset < 4
    assert where.size == 300 + INTERVAL


def test_hints_are_few_and_those_of_other_segments_are_not_taken() -> None:
    log = log_of(*[100] * 100)
    size = sizes_of(log)
    for offset in range(99):
        read(log, offset, size, 100)
    assert len(log.hints) <= 64

    read(log, 0, MIB, 100)
    assert 100 in log.hints
    log.roll()
    assert place(log, 100, 100).segment is log.segments[-1]


def test_a_batch_longer_than_what_was_read_asks_for_all_of_it() -> None:
    log = log_of(5_000)
    where = place(log, 0, 100)
    data = where.file.read(where.position, where.size)
    wanted = take(log, where, data, 0, 1, 100)

    assert isinstance(wanted, int)
    assert wanted == log.size_bytes
    whole = where._replace(size=wanted)
    assert offsets(taken(log, whole, where.file.read(0, wanted), 0, 1, 100)) == [0]


def test_a_header_that_straddles_the_end_of_what_was_read_is_read_again() -> None:
    log = log_of(100, 100)
    size = sizes_of(log)
    for cut in range(1, HEADER_SIZE):
        where = place(log, 1, MIB)._replace(size=size + cut, position=0, base_offset=0)
        data = where.file.read(0, where.size)
        wanted = take(log, where, data, 1, 2, MIB)
        assert isinstance(wanted, int)
        assert wanted > where.size
    assert offsets(read(log, 1, 1, 2)) == [1]


def test_a_short_piece_of_a_long_read_is_copied() -> None:
    """Or it would keep all of it in memory until it is sent."""
    log = log_of(*[100] * 20)
    where = place(log, 0, MIB)
    data = where.file.read(0, where.size)

    assert isinstance(taken(log, where, data, 19, 20, MIB), bytes)
    assert isinstance(taken(log, where, data, 1, 20, MIB), memoryview)
    assert taken(log, where, data, 0, 20, MIB) is data


def test_what_lies_before_damage_is_served_and_nothing_from_there_on() -> None:
    log = log_of(*[100] * 5)
    size = sizes_of(log)
    disk = log.disk
    assert isinstance(disk, SimDisk)
    disk.flip(log.segments[0].path, 3 * size + 95)

    assert offsets(read(log, 0, MIB, 5)) == [0, 1, 2]
    assert log.damage is not None
    assert (log.damage.offset, log.damage.position) == (3, 3 * size)
    assert offsets(read(log, 1, MIB, 5)) == [1, 2]
    for offset in (3, 4):
        with pytest.raises(WireError) as caught:
            read(log, offset, MIB, 5)
        assert caught.value.code is Code.STORAGE_DAMAGED


@pytest.mark.parametrize("position", [0, 7, 8, 11, 20, 33, 37, 41, 91, 92, 150])
def test_any_byte_that_is_wrong_is_damage(position: int) -> None:
    log = log_of(100)
    disk = log.disk
    assert isinstance(disk, SimDisk)
    disk.flip(log.segments[0].path, position, 0x80)

    with pytest.raises(CorruptDataError):
        read(log, 0, MIB, 1)
    assert log.damage is not None


def test_an_offset_outside_the_log_is_refused_with_its_bounds() -> None:
    log = log_of(100, 100)
    with pytest.raises(WireError) as caught:
        place(log, 3, 100)

    assert caught.value.code is Code.OFFSET_OUT_OF_RANGE
    assert caught.value.hints == {"log_start": 0, "end": 2}


def test_bytes_between_two_offsets_are_about_right_and_exact_for_a_follower() -> None:
    log = log_of(*[100] * 40, segment_bytes=4_096)
    size = sizes_of(log)
    for low in (0, 7, 20, 39):
        exact = (40 - low) * size
        assert exact <= bytes_between(log, low, 40) <= exact + INTERVAL + size
    assert bytes_between(log, 40, 40) == 0
    position = 0
    while position < 33:
        position += len(offsets(read(log, position, 3 * size, 33)))

    assert bytes_between(log, 33, 40) == 7 * size


def test_a_time_is_found_in_any_segment_and_not_beyond_the_end() -> None:
    log = log_of(*[700] * 30, segment_bytes=4_096)
    times = {log_time(log, offset): offset for offset in range(30)}

    for ms, offset in times.items():
        assert find_time(log, ms, 30) == (offset, ms)
        assert find_time(log, ms, offset) is None
    assert find_time(log, max(times) + 1, 30) is None


def log_time(log: Log, offset: int) -> int:
    (batch, *_) = decode_batches(bytes(read(log, offset, 1, 30)), KEY.seed, "", 3)
    return batch.header.append_time_ms


def test_a_batch_of_which_only_a_part_is_committed_is_not_taken() -> None:
    driver = LogDriver(SimDisk(), options=OPTIONS)
    driver.serve()
    driver.append(encode_batch(KEY.seed, [b"a", b"b", b"c"], timestamp_ms=1))
    driver.flush()

    assert offsets(read(driver.log, 0, MIB, 2)) == []
    assert offsets(read(driver.log, 0, MIB, 3)) == [0]
