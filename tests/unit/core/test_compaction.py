"""Compaction: what stays of each key, and what the offsets of the rest become."""

from __future__ import annotations

from random import Random

import pytest

from tests.support.log_driver import KEY, OPTIONS, LogDriver, read_from
from zmqmq.batch.columns import Column
from zmqmq.batch.compression import Codec
from zmqmq.batch.decode import RecordBatch, decode_batches
from zmqmq.batch.encode import encode_batch
from zmqmq.core.storage import compaction as module
from zmqmq.core.storage.compaction import Compaction, plan_compaction
from zmqmq.core.storage.log import LOGS_FOLDER, Log
from zmqmq.core.storage.options import StorageOptions
from zmqmq.core.storage.recovery import open_log
from zmqmq.errors import CorruptDataError
from zmqmq.model.limits import BATCH_BYTES_MAX, BATCHES_REMEMBERED
from zmqmq.model.topics import TopicConfig
from zmqmq.sim.disk import SimDisk

TOMBSTONE_MS = 1_000
Pair = tuple[bytes | None, bytes | None]
Batches = list[list[Pair] | bytes] | list[list[Pair]]


def compacted(*segments: Batches, later_ms: int = 0, segment_bytes: int = 4_096) -> LogDriver:
    """A log whose closed segments have these batches of (key, value), after one pass."""
    driver = written(*segments, segment_bytes=segment_bytes)
    run(driver, later_ms)
    return driver


def written(*segments: Batches, segment_bytes: int = 4_096) -> LogDriver:
    """Not compacted yet. A batch that is given as bytes is taken as it is."""
    config = TopicConfig(cleanup="compact", tombstone_ms=TOMBSTONE_MS, segment_bytes=segment_bytes)
    driver = LogDriver(SimDisk(), config=config)
    driver.serve()
    for batches in segments:
        for pairs in batches:
            driver.append(pairs if isinstance(pairs, bytes) else batch_of(pairs))
        driver.roll()
    driver.flush()
    driver.checkpoint()
    return driver


def batch_of(pairs: list[Pair], codec: Codec = Codec.NONE) -> bytes:
    values = [value for _, value in pairs]
    keys = [key for key, _ in pairs]
    return encode_batch(KEY.seed, values, keys=keys, timestamp_ms=1, codec=codec)


def nonsense(*keys: bytes | None) -> bytes:
    """A batch with the right checksums and values that are none: a broker takes it."""
    return encode_batch(KEY.seed, [7] * len(keys), keys=[*keys], timestamp_ms=1)  # type: ignore[list-item]


def run(driver: LogDriver, later_ms: int = 0) -> bool:
    log = driver.log
    plan = plan_compaction(log, driver.now_ms + later_ms, driver.partition.high_watermark, 0)
    if plan is None:
        return False
    compaction = Compaction(driver.disk, KEY, plan, OPTIONS)
    compaction.install(log, compaction.run(log.segment_bytes))
    return True


def batches_of(driver: LogDriver) -> list[RecordBatch]:
    log = driver.log
    data = read_from(log, log.start_offset, log.end_offset)
    return list(decode_batches(data, KEY.seed, "", 3))


def records_of(driver: LogDriver) -> dict[int, Pair]:
    """What is left, by offset; the batches around leave no gap."""
    found: dict[int, Pair] = {}
    expected = 0
    for batch in batches_of(driver):
        assert batch.base_offset == expected
        expected = batch.next_offset
        found |= dict(zip(batch.offsets, zip(batch.keys, batch.values, strict=True), strict=True))
    assert expected == driver.log.end_offset
    return found


def test_the_newest_of_each_key_stays_under_its_offset() -> None:
    driver = compacted(
        [[(b"a", b"1"), (b"b", b"2")], [(b"a", b"3")]], [[(b"b", b"4"), (b"c", b"5")]]
    )

    assert records_of(driver) == {2: (b"a", b"3"), 3: (b"b", b"4"), 4: (b"c", b"5")}


def test_a_record_without_a_key_is_never_replaced() -> None:
    driver = compacted([[(None, b"1"), (b"a", bytes(200))], [(None, b"3"), (b"a", b"4")]])

    assert records_of(driver) == {0: (None, b"1"), 2: (None, b"3"), 3: (b"a", b"4")}


def test_a_tombstone_stays_until_slow_readers_had_their_time() -> None:
    segments: list[list[list[Pair]]] = [
        [[(b"a", b"1")], [(b"a", None)], [(b"b", b"2")]],
        [[(b"c", b"3")]],
    ]

    driver = compacted(*segments)
    run(driver, TOMBSTONE_MS - 10)
    assert records_of(driver)[1] == (b"a", None)
    run(driver, TOMBSTONE_MS + 10)
    assert list(records_of(driver)) == [2, 3]


def test_a_tombstone_stays_while_a_value_that_it_deletes_does() -> None:
    """In this pass, whose renames a power cut may keep one by one, and longer where the value is
    the last record of its segment."""
    segments: list[list[list[Pair]]] = [
        [[(b"a", b"1")], [(b"x", bytes(3_000))], [(b"b", b"1")]],
        [[(b"a", None)], [(b"b", None)], [(b"y", bytes(3_000))]],
    ]
    driver = compacted(*segments, later_ms=TOMBSTONE_MS + 10)
    assert list(records_of(driver)) == [1, 2, 3, 4, 5]

    run(driver, TOMBSTONE_MS + 10)
    assert list(records_of(driver)) == [1, 2, 4, 5]


def test_a_tombstone_goes_with_all_that_is_deleted_and_an_older_one() -> None:
    driver = compacted(
        [[(b"a", None)], [(b"a", None)], [(b"a", b"1"), (b"b", b"1")]], later_ms=TOMBSTONE_MS + 10
    )

    assert list(records_of(driver)) == [2, 3]


def test_a_segment_that_does_not_decode_is_left_and_others_are_compacted() -> None:
    driver = written(
        [[(b"a", b"0")], [(b"b", b"1")], [(b"x", b"2")]],
        [nonsense(b"b", b"b")],
        [[(b"a", b"5")], [(b"a", b"6")], [(b"c", b"7")]],
    )
    before = read_from(driver.log, 3, 5)
    assert run(driver)

    assert [segment.base_offset for segment in driver.log.segments] == [0, 3, 5, 8]
    assert read_from(driver.log, 3, 5) == before
    left = read_from(driver.log, 0, 3) + read_from(driver.log, 5, 8)
    batches = decode_batches(left, KEY.seed, "", 3)
    assert [offset for batch in batches for offset in batch.offsets] == [1, 2, 6, 7]


def test_a_tombstone_stays_behind_a_segment_that_does_not_decode() -> None:
    """It may hold what the tombstone deletes."""
    driver = compacted(
        [nonsense(b"a", b"b")],
        [[(b"a", None)], [(b"x", bytes(100))], [(b"x", b"4")]],
        later_ms=TOMBSTONE_MS + 10,
    )

    batches = decode_batches(read_from(driver.log, 2, 5), KEY.seed, "", 3)
    assert [offset for batch in batches for offset in batch.offsets] == [2, 4]


@pytest.mark.parametrize(("length", "readings"), [(8, 100), (2_000, 100), (8, 3)])
def test_more_keys_than_fit_in_memory(
    length: int, readings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told apart in many readings, or in many passes."""
    monkeypatch.setattr(module, "KEYS_BYTES_MAX", 12 * (length + module.KEY_OVERHEAD))
    monkeypatch.setattr(module, "READINGS_MAX", readings)
    keys = [b"%0*d" % (length, n) for n in range(40)]
    twice: list[list[Pair]] = [[(key, b"%d" % n)] for n in (1, 2) for key in keys]
    driver = written(twice, segment_bytes=1 << 20)

    for passed in range(300):
        run(driver)
        if len(records_of(driver)) == 40 + passed:
            break
        driver.append(batch_of([(None, b"")]))
        driver.roll()
        driver.flush()
        driver.checkpoint()

    assert list(records_of(driver))[:40] == list(range(40, 80))
    assert passed > 0 if readings == 3 else passed == 0


def test_a_pass_has_no_more_records_than_it_has_bits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = written([[(b"a", b"1")], [(b"a", b"2")]], [[(b"a", b"3")], [(b"a", b"4")]])
    monkeypatch.setattr(module, "RECORDS_MAX", 3)
    plan = plan_compaction(driver.log, driver.now_ms, 4, 0)

    assert plan is not None
    assert plan.end == 2


def test_nothing_is_left_beside_a_segment_that_does_not_shrink() -> None:
    driver = compacted([[(b"a", b"1")], [(b"b", b"2")]])

    assert not [name for name in driver.disk.list(KEY.folder) if name.endswith("compacting")]


def test_a_batch_that_would_inflate_over_the_limit_is_halved() -> None:
    """Offset deltas again: no reader takes a batch that inflates to more."""
    count = 200_000
    pairs: list[Pair] = [(None, bytes(37))] * (count - 1)
    driver = written(
        [
            batch_of([(b"k", b"old"), *pairs], Codec.LZ4),
            *[[(b"b", bytes(900_000))]] * 3,
            [(b"k", b"new"), (b"b", b"new")],
        ],
        segment_bytes=1 << 22,
    )
    run(driver)

    batches = batches_of(driver)
    assert [len(batch) for batch in batches] == [99_999, 100_000, 2]


def test_the_last_record_of_a_segment_stays_so_that_its_end_does() -> None:
    driver = compacted([[(b"a", b"1")]], [[(b"a", b"2")]], [[(b"a", b"3")]], segment_bytes=4_096)

    assert 2 in records_of(driver)
    assert driver.log.end_offset == 3
    beside = compacted(
        [[(b"x", bytes(300))], [(b"x", b"1"), (b"a", b"2")]], [[(b"a", b"3")], [(b"a", b"4")]]
    )
    assert 2 in records_of(beside)


def test_batches_of_which_nothing_stays_are_covered_by_their_neighbours() -> None:
    many: list[list[Pair]] = [[(b"a", b"%d" % n)] for n in range(20)]
    driver = compacted([[(b"x", b"0")], *many])

    assert records_of(driver) == {0: (b"x", b"0"), 20: (b"a", b"19")}
    assert len(batches_of(driver)) == 2


def test_a_batch_of_which_everything_stays_keeps_its_bytes() -> None:
    driver = written([[(b"a", b"1")], [(b"b", b"2")], [(b"a", b"3")]], [[(b"c", b"4")]])
    before = bytes(read_from(driver.log, 3, 4))
    run(driver)

    assert bytes(read_from(driver.log, 3, 4)) == before


def test_neighbours_that_have_become_small_are_joined() -> None:
    segments = [[[(b"a", bytes(300))]] * 5 for _ in range(6)]
    driver = compacted(*segments, segment_bytes=8_192)

    assert len(driver.log.segments) == 2
    assert len(driver.log.doomed) == 5
    assert driver.log.segments[0].end_offset == 30


def test_large_segments_are_not_joined() -> None:
    def segment(at: int) -> list[list[Pair]]:
        keep: list[list[Pair]] = [[(b"%d/%d" % (at, n), bytes(900))] for n in range(3)]
        return [[(b"x", bytes(900))], *keep]

    driver = compacted(segment(0), segment(1), segment(2), segment_bytes=4_500)

    assert len(driver.log.segments) == 4
    assert driver.log.doomed == []


def test_a_batch_that_grows_over_the_limit_is_halved() -> None:
    """Offset deltas take room that the dropped records need not have freed."""
    count = 50_000
    pairs: list[Pair] = [(None, b"x" * 17)] * (count - 1)
    driver = written(
        [[(b"k", b"old"), *pairs], [(b"b", bytes(300_000))], [(b"k", b"new"), (b"b", b"new")]],
        segment_bytes=1 << 21,
    )
    run(driver)
    batches = batches_of(driver)

    assert len(batches) == 3
    assert all(batch.header.size <= BATCH_BYTES_MAX for batch in batches)
    assert list(records_of(driver)) == [*range(1, count), count + 1, count + 2]


def test_producers_times_and_committed_ends_survive() -> None:
    driver = written([[(b"a", bytes(200))], [(b"b", b"2")], [(b"a", b"3")]])
    times = {b.next_offset: b.header.append_time_ms for b in batches_of(driver)}
    run(driver)

    for batch in batches_of(driver):
        assert batch.header.append_time_ms == times[batch.next_offset]
        assert batch.header.leader_epoch == 1
        if batch.has(Column.OFFSET_DELTAS):
            assert batch.header.committed_end >= batch.next_offset


def sent(key: bytes, sequence: int, size: int = 1, *, producer: int = 7) -> bytes:
    """A batch of an idempotent producer: three records of one key."""
    return encode_batch(
        KEY.seed,
        [bytes(size)] * 3,
        keys=[key] * 3,
        timestamp_ms=1,
        producer_id=producer,
        base_sequence=sequence,
    )


def copy_of(driver: LogDriver) -> Log:
    """What a follower has that is filled from the log as it stands."""
    driver.log.write_out()
    disk = SimDisk()
    disk.make_directory(LOGS_FOLDER)
    copy = open_log(disk, KEY, driver.log.config, driver.options)
    copy.append_replicated(read_from(driver.log, 0, driver.log.end_offset))
    return copy


def test_the_batches_that_a_producer_may_send_again_keep_a_record_and_their_numbers() -> None:
    driver = compacted([sent(b"a", 0, 900), sent(b"a", 3), [(b"b", b"1")]], [[(b"a", b"2")]])

    first, second, *_ = batches_of(driver)
    assert [*records_of(driver)] == [2, 5, 6, 7]
    assert (first.next_offset, second.next_offset) == (3, 6)
    assert [b.header.base_sequence for b in (first, second)] == [0, 3]
    assert [b.header.last_sequence for b in (first, second)] == [2, 5]


def test_batches_that_no_producer_would_send_again_go() -> None:
    count = BATCHES_REMEMBERED + 10
    driver = compacted([sent(b"a", 3 * n) for n in range(count)], segment_bytes=1 << 20)

    # One record stays to cover what is gone, before the first that covers nothing but itself.
    assert [batch.header.producer_id for batch in batches_of(driver)] == [0] + [
        7
    ] * BATCHES_REMEMBERED


@pytest.mark.parametrize("seed", range(6))
def test_a_copy_of_what_is_left_knows_the_same_of_producers(seed: int) -> None:
    """P4, decision 11: after every pass, while more is written in between."""
    rng = Random(seed)
    driver = written()
    passes = 0
    for _ in range(400):
        driver.send(rng.randint(1, 4), producer=rng.choice((0, 7, 7, 8, 9)), keys=3)
        if rng.randrange(16) == 0:
            driver.roll()
            driver.flush()
            driver.checkpoint()
            passes += driver.compact()
            assert copy_of(driver).producers.snapshot() == driver.log.producers.snapshot()
    assert passes > 2
    driver.log.write_out()
    assert len(batches_of(driver)) < 400


def test_producers_of_a_segment_that_does_not_decode_are_known_too() -> None:
    """Here the latest batch of one, which so has not been idle for too long."""
    expiry_ms = StorageOptions().producer_expiry_ms
    driver = written()
    driver.append(sent(b"a", 0, 900))
    driver.roll()
    driver.now_ms += expiry_ms
    driver.append(nonsense(b"x"))
    driver.append(sent(b"a", 3))
    driver.roll()
    driver.now_ms += expiry_ms - 10
    driver.append(batch_of([(b"a", b"2")]))
    driver.roll()
    driver.flush()
    driver.checkpoint()
    assert driver.compact()

    assert [b.header.base_sequence for b in batches_of(driver)] == [0, 0, 3, 0]
    assert copy_of(driver).producers.snapshot() == driver.log.producers.snapshot()


@pytest.mark.parametrize("later_ms", [0, 49, 50])
def test_young_segments_are_left_alone(later_ms: int) -> None:
    driver = written([[(b"a", b"1")], [(b"a", b"2")]])
    driver.log.config = TopicConfig(cleanup="compact", compact_lag_ms=50)

    assert run(driver, later_ms) == (later_ms >= 50)


def test_only_closed_committed_checkpointed_segments_are_planned() -> None:
    driver = written([[(b"a", b"1")]], [[(b"a", b"2")]])
    log = driver.log
    plan = plan_compaction(log, driver.now_ms, 1, 0)
    assert plan is not None
    assert plan.segments == (log.segments[0],)
    assert plan_compaction(log, driver.now_ms, 0, 0) is None

    log.checkpointed = 0
    assert plan_compaction(log, driver.now_ms, 2, 0) is None


def test_a_pass_waits_until_half_of_it_is_new() -> None:
    driver = written(*[[[(b"%d" % n, bytes(100))]] for n in range(4)])
    log = driver.log

    assert plan_compaction(log, driver.now_ms, 4, compacted_end=3) is None
    assert plan_compaction(log, driver.now_ms, 4, compacted_end=2) is not None
    assert plan_compaction(log, driver.now_ms, 4, compacted_end=4) is None


def test_a_topic_that_deletes_is_not_compacted() -> None:
    driver = written([[(b"a", b"1")], [(b"a", b"2")]])
    driver.log.config = TopicConfig(cleanup="delete")

    assert plan_compaction(driver.log, driver.now_ms, 2, 0) is None


def test_damage_stops_a_pass_before_anything_is_in_place() -> None:
    driver = written([[(b"a", b"1")], [(b"a", b"2")]])
    names = driver.disk.list(KEY.folder)
    assert isinstance(driver.disk, SimDisk)
    driver.disk.flip(driver.log.segments[0].path, 100)

    with pytest.raises(CorruptDataError):
        run(driver)
    assert set(names) <= set(driver.disk.list(KEY.folder))


def test_what_retention_took_meanwhile_is_not_put_back() -> None:
    driver = written([[(b"a", b"1")], [(b"a", b"2")]], [[(b"a", b"3")]])
    log = driver.log
    plan = plan_compaction(log, driver.now_ms, 3, 0)
    assert plan is not None
    compaction = Compaction(driver.disk, KEY, plan, OPTIONS)
    results = compaction.run(log.segment_bytes)
    log.drop_before(log.segments[1].base_offset)
    compaction.install(log, results)

    assert log.start_offset == 2
    assert not [name for name in driver.disk.list(KEY.folder) if name.endswith("compacting")]
