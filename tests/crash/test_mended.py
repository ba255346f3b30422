"""Each bug that the other tests of this folder found, alone and by name."""

from __future__ import annotations

import gc
from pathlib import Path
from random import Random

import pytest

from tests.support.log_driver import (
    COMPACTED,
    CONFIG,
    KEY,
    LogDriver,
    check,
    read_from,
    table_of,
)
from zmqmq.batch.encode import encode_batch
from zmqmq.core.storage.compaction import Compaction, plan_compaction
from zmqmq.core.storage.data_directory import CHECKPOINTS_FILE, read_checkpoints
from zmqmq.core.storage.log import Damage
from zmqmq.core.storage.reading import find_time
from zmqmq.core.storage.retention import retained_start
from zmqmq.core.storage.segment import INDEX_SUFFIX, STATE_SUFFIX
from zmqmq.errors import Code, CorruptDataError, StorageError, WireError
from zmqmq.model.topics import TopicConfig
from zmqmq.runtime.os_disk import OSDisk
from zmqmq.sim.disk import SimDisk


def started(disk: SimDisk | None = None, config: TopicConfig = CONFIG) -> LogDriver:
    driver = LogDriver(disk or SimDisk(), config=config, rng=Random(1))
    driver.serve()
    return driver


def filled(config: TopicConfig = CONFIG, *, keys: int = 0) -> LogDriver:
    """Several segments, flushed and in the checkpoint."""
    driver = started(config=config)
    for _ in range(12):
        driver.send(4, size=150, producer=7, keys=keys)
        driver.flush()
    driver.checkpoint()
    return driver


def sim(driver: LogDriver) -> SimDisk:
    assert isinstance(driver.disk, SimDisk)
    return driver.disk


@pytest.mark.parametrize("suffix", [INDEX_SUFFIX, STATE_SUFFIX, CHECKPOINTS_FILE])
@pytest.mark.parametrize("content", [b"", bytes(4)])
def test_a_small_file_that_a_power_cut_left_empty_is_no_whole_one(
    suffix: str, content: bytes
) -> None:
    """The CRC-32C of nothing is 0, and so is the missing one in front of it."""
    driver = filled()
    known = driver.close()
    disk = sim(driver).kill_state()
    names = [f"{KEY.folder}/{n}" for n in disk.list(KEY.folder)] + disk.list("")
    for name in names:
        if name.endswith(suffix):
            file = disk.open(name)
            file.truncate(0)
            file.write(0, [content])

    again = LogDriver(disk, before=known)

    check(again.log, known)


def test_a_restart_after_sigkill_makes_names_durable_too() -> None:
    """The first run was killed before it flushed the folder; the second one only has to read."""
    driver = LogDriver(SimDisk(), rng=Random(1))
    again = LogDriver(sim(driver).kill_state(), before=driver.story.marks[-1])
    again.serve()
    again.send(3)
    again.flush()

    for state in sim(again).crash_states(rng=Random(1), limit=64):
        check(LogDriver(state, before=again.story.marks[-1]).log, again.story.marks[-1])


def test_a_segment_doomed_while_the_checkpoint_is_written_stays() -> None:
    driver = filled()
    driver.retain(1)

    driver.unlink(meanwhile=lambda: driver.retain(1))

    known = driver.story.marks[-1]
    assert len(driver.log.doomed) == 1
    again = LogDriver(sim(driver).kill_state(), before=known)
    check(again.log, known)


def test_every_state_of_a_flush_is_flushed() -> None:
    """Two rolls in one group; retention needs the first one's state after the next checkpoint."""
    driver = started()
    for _ in range(8):
        driver.send(4, size=150, producer=7)
        driver.log.write_out()
    states = [n for n in driver.disk.list(KEY.folder) if n.endswith(STATE_SUFFIX)]
    assert len(states) >= 2
    driver.flush()

    for state in sim(driver).crash_states(rng=Random(1), limit=32):
        for name in states:
            file = state.open(f"{KEY.folder}/{name}")
            whole = sim(driver).open(f"{KEY.folder}/{name}")
            assert file.read(0, file.size) == whole.read(0, whole.size)


def test_rolls_since_the_checkpoint_take_no_state_that_it_counts_on() -> None:
    """Producers that only dropped segments spoke of must be known after a crash."""
    driver = started()
    driver.send(1, producer=9)
    for _ in range(6):
        driver.send(4, size=150)
        driver.flush()
    driver.retain(1)
    driver.unlink()
    for _ in range(12):
        driver.send(4, size=150)
        driver.flush()

    again = LogDriver(sim(driver).kill_state(), before=driver.story.marks[-1])

    assert again.log.start_offset > 0
    assert table_of(again.log.producers).keys() == {9}
    check(again.log, driver.story.marks[-1])


def test_compaction_waits_for_the_checkpoint() -> None:
    """What a start replays must still name its producers."""
    driver = started(config=COMPACTED)
    for _ in range(12):
        driver.send(4, size=150, producer=7, keys=2)
        driver.flush()
    assert not driver.compact()
    driver.checkpoint()

    assert driver.compact()

    again = LogDriver(sim(driver).kill_state(), config=COMPACTED, before=driver.story.marks[-1])
    check(again.log, driver.story.marks[-1])


def test_the_checkpoint_of_a_damaged_log_does_not_fall() -> None:
    """Else the next start takes the damage for a torn tail, and cuts it."""
    driver = filled()
    last = driver.history.batches[-1]
    segment = driver.log.segments[-1]
    sim(driver).flip(segment.path, segment.size - len(last.data) + 100)
    again = LogDriver(sim(driver).kill_state(), before=driver.story.marks[-1])
    assert again.log.damage is not None

    again.checkpoint()
    third = LogDriver(sim(again).kill_state(), before=driver.story.marks[-1])

    assert read_checkpoints(third.disk)[KEY.folder].recovery_point == driver.log.end_offset
    assert third.log.damage is not None


def test_what_was_buffered_when_a_roll_failed_is_not_taken_for_written() -> None:
    """acks=1 is answered when `write_out` has returned."""
    driver = started()
    driver.send(3, size=300)
    sim(driver).fail("write")
    with pytest.raises(WireError):  # noqa: PT012 - whichever of them rolls
        for _ in range(6):
            driver.send(3, size=300)

    with pytest.raises(StorageError):
        driver.log.write_out()


@pytest.mark.parametrize("operation", ["open", "allocate", "truncate"])
def test_a_disk_that_fails_under_an_append_takes_the_log_offline(operation: str) -> None:
    driver = filled()
    sim(driver).fail(operation)

    with pytest.raises(WireError) as refused:  # noqa: PT012 - whichever of them rolls
        for _ in range(9):
            driver.send(4, size=150)
            driver.log.write_out()

    assert refused.value.code == Code.STORAGE_OFFLINE
    assert driver.log.failed


def compacted_by_hand(driver: LogDriver) -> tuple[Compaction, list[int]]:
    plan = plan_compaction(driver.log, driver.now_ms + 1_000, driver.log.end_offset, 0)
    assert plan is not None
    bases = [segment.base_offset for segment in plan.segments]
    return Compaction(driver.disk, KEY, plan, driver.options), bases


def test_no_sidecar_outlives_its_segment() -> None:
    """Joined segments may be as large as the first one was, so that its sidecar fits them."""
    driver = filled(COMPACTED, keys=2)
    compaction, bases = compacted_by_hand(driver)

    results = compaction.run(driver.log.segment_bytes)

    assert results
    for state in sim(driver).crash_states(rng=Random(1), limit=64):
        for base in bases:
            assert not state.exists(f"{KEY.folder}/{base:020d}{INDEX_SUFFIX}")


def test_a_sidecar_that_cannot_be_written_leaves_the_new_segment_in_place() -> None:
    """An old one that is opened again would find the new file, and call it damaged."""
    driver = filled(COMPACTED, keys=2)
    driver.compacted = True
    driver.mark()
    compaction, _ = compacted_by_hand(driver)
    results = compaction.run(driver.log.segment_bytes)
    sim(driver).fail("open")

    with pytest.raises(StorageError):
        compaction.install(driver.log, results)

    for segment in driver.log.segments[:-1]:
        segment.let_go()
    check(driver.log, driver.story.marks[-1])


def deleted() -> LogDriver:
    """Two segments, one with a value and one with the old tombstone of its key, that will shrink,
    and not be joined."""
    driver = started(config=COMPACTED)
    for key, value in ((b"a", b"1"), (b"a", None)):
        stays = (b"stays%r" % value, bytes(450))
        for name, content in ((key, value), stays, (b"x", bytes(100)), (b"x", b"2")):
            driver.append(encode_batch(KEY.seed, [content], keys=[name], timestamp_ms=1))
        driver.roll()
    driver.flush()
    driver.checkpoint()
    return driver


def check_every_power_cut(driver: LogDriver) -> None:
    known = driver.story.marks[-1]
    for state in sim(driver).crash_states(rng=Random(1), limit=64):
        check(LogDriver(state, config=driver.config, before=known).log, known)


def test_a_power_cut_does_not_bring_a_deleted_key_back() -> None:
    """One rename took the value, and another the tombstone, which was all that remained."""
    driver = deleted()
    assert driver.compact()
    assert [segment.record_count for segment in driver.log.segments] == [2, 3, 0]
    check_every_power_cut(driver)

    driver._compacted_end = 0
    assert driver.compact()
    assert [segment.record_count for segment in driver.log.segments] == [2, 2, 0]
    check_every_power_cut(driver)


def test_a_tombstone_stays_until_dropped_segments_cannot_come_back() -> None:
    """What drop-oldest took is back when the power is cut before the next checkpoint."""
    driver = deleted()
    driver.retain(1)
    assert driver.compact()
    assert driver.log.segments[0].record_count == 3
    check_every_power_cut(driver)

    driver.unlink()
    driver._compacted_end = 0
    assert driver.compact()
    assert driver.log.segments[0].record_count == 2
    check_every_power_cut(driver)


def test_what_lay_behind_a_torn_tail_does_not_come_back() -> None:
    """A whole batch behind the torn one fits behind whatever has its size, offsets and all."""
    driver = started()
    driver.send(1)
    driver.flush()
    driver.checkpoint()
    torn = driver.log.segments[-1].size
    first = encode_batch(KEY.seed, [b"torn"], timestamp_ms=1)
    again = encode_batch(KEY.seed, [b"anew"], timestamp_ms=1)
    assert len(first) == len(again)
    driver.append(first)
    driver.append(encode_batch(KEY.seed, [b"must not come back"], timestamp_ms=1))
    driver.log.write_out()
    disk = sim(driver).kill_state()
    disk.flip(driver.log.segments[-1].path, torn + len(first) - 1)

    second = LogDriver(disk, before=driver.story.marks[-1], rng=Random(1))
    second.serve()
    assert second.log.end_offset == 1
    second.append(again)
    second.flush()

    known = second.story.marks[-1]
    check(LogDriver(sim(second).kill_state(), before=known).log, known)


def test_retention_waits_for_the_state_as_well_as_for_the_data() -> None:
    """The log rolled during a flush: all that the old segment has is flushed, and what it says of
    producers will only be with the next flush."""
    driver = started(config=TopicConfig(segment_bytes=1200, retention_ms=0, retention_bytes=1))
    log = driver.log

    def retain() -> None:
        start = retained_start(log, driver.now_ms, driver.partition.high_watermark)
        driver.promised_start = start
        driver.mark()
        log.drop_before(start)
        driver.unlink()

    driver.send(3, producer=7)
    driver.begin_flush()
    driver.roll()
    driver.send(1)
    driver.finish_flush()
    retain()
    assert log.flushed_end == 3
    assert log.start_offset == 0
    check_every_power_cut(driver)

    driver.flush()
    retain()
    assert log.start_offset == 3
    check_every_power_cut(driver)


def test_a_power_cut_of_a_topic_in_memory_is_no_damage() -> None:
    """With flush=replicated batches are committed that were never flushed."""
    driver = started(config=TopicConfig(flush="replicated"))
    for _ in range(4):
        driver.send(2)
        driver.log.write_out()
        driver.partition.advance()
    known = driver.story.marks[-1]

    for state in sim(driver).crash_states(rng=Random(2), limit=200):
        check(LogDriver(state, config=driver.config, before=known).log, known)


def test_a_state_that_was_never_flushed_is_flushed_by_the_next_run() -> None:
    """The flush was under way when the log rolled at its end; then the broker was killed."""
    driver = started()
    driver.send(3, producer=7)
    driver.begin_flush()
    driver.roll()
    driver.finish_flush()
    driver.checkpoint()
    again = LogDriver(sim(driver).kill_state(), before=driver.story.marks[-1])
    again.serve()
    again.send(1)
    again.flush()
    again.retain(1)
    again.unlink()
    known = again.story.marks[-1]
    assert again.log.start_offset == 3

    for state in sim(again).crash_states(rng=Random(2), limit=64):
        check(LogDriver(state, before=known).log, known)


def test_a_state_older_than_the_log_is_not_used() -> None:
    """The newest is damaged; what lies between the older one and the start cannot be replayed."""
    driver = filled()
    driver.retain(99)
    driver.unlink()
    known = driver.story.marks[-1]
    disk = sim(driver).kill_state()
    names = [n for n in disk.list(KEY.folder) if n.endswith(STATE_SUFFIX)]
    disk.flip(f"{KEY.folder}/{names[-1]}", 9)

    again = LogDriver(disk, before=known)

    assert int(names[0][:20]) < again.log.start_offset
    got, full = table_of(again.log.producers)[7], known.history.producers(known.end)[7]
    assert got[1] == full[1][-len(got[1]) :], "a gap in the middle of what is remembered"


def test_dropped_segments_give_their_room_back(tmp_path: Path) -> None:
    """A descriptor that stays open keeps the file on the disk."""
    disk = OSDisk(tmp_path)
    driver = LogDriver(disk, rng=Random(1))
    driver.serve()
    for _ in range(20):
        driver.send(4, size=150)
        driver.flush()
    driver.retain(6)
    driver.unlink()
    gc.collect()

    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("no /proc")
    targets = []
    for entry in descriptors.iterdir():
        try:
            targets.append(str(entry.readlink()))
        except FileNotFoundError:
            continue
    assert not [t for t in targets if str(tmp_path) in t and "(deleted)" in t]


@pytest.mark.parametrize("behind", [False, True])
def test_a_time_is_not_looked_up_in_damage(behind: bool) -> None:
    driver = filled()
    segment = driver.log.segments[0]
    wanted = driver.history.batches[1].header.append_time_ms
    sim(driver).flip(segment.path, len(driver.history.batches[0].data) + 20)
    if behind:
        wanted = driver.now_ms + 1
        driver.log.note_damage(Damage(1, segment.path, 0, "by order of the test"))

    with pytest.raises(WireError if behind else CorruptDataError):
        find_time(driver.log, wanted, driver.log.end_offset)

    assert driver.log.damage is not None


def test_reading_is_the_same_after_all_that() -> None:
    driver = filled()

    assert read_from(driver.log, 0, driver.log.end_offset, 1) == bytes(driver.history.data)
