"""What a follower's log is after its end was cut, or all of it (F7, F9, D2, D14)."""

from __future__ import annotations

from random import Random

import pytest

from tests.support.lineages import FollowerLog, batch_at, between, check_same, extended
from tests.support.log_driver import CONFIG, KEY, History, read_from, table_of
from zmqmq.batch.layout import unpack_header
from zmqmq.core.storage.compaction import Compaction, plan_compaction
from zmqmq.core.storage.log import unlink
from zmqmq.core.storage.producers import ProducerTable
from zmqmq.core.storage.reading import place, read, take
from zmqmq.core.storage.segment import INDEX_SUFFIX, LOG_SUFFIX, STATE_SUFFIX, base_of
from zmqmq.core.storage.states import State, pack_state, remove_states, unpack_state
from zmqmq.core.storage.truncation import cut, state_at_start
from zmqmq.errors import CorruptDataError, StorageError
from zmqmq.model.topics import TopicConfig
from zmqmq.sim.disk import SimDisk

COMMON = 12
"""Batches that all leaders have."""


def lineages(seed: int = 1, tail: int = 20) -> tuple[History, History, int]:
    """The log of a deposed leader, that of the one after it, and where they part."""
    rng = Random(seed)
    common = extended(History(), 0, 1, COMMON, rng)
    old = extended(common, common.end, 2, tail, rng)
    return old, extended(common, common.end, 3, tail, rng), common.end


def follower_of(history: History, *, committed: int, config: TopicConfig = CONFIG) -> FollowerLog:
    """Has all of it, most of it flushed."""
    follower = FollowerLog(SimDisk(), config=config)
    middle = history.batches[len(history.batches) * 3 // 4].header.next_offset
    follower.copy(history, middle)
    follower.flush()
    follower.checkpoint(committed)
    follower.copy(history, history.end)
    return follower


def check_files(follower: FollowerLog) -> None:
    """Nothing on the disk speaks of what is gone."""
    log = follower.log
    names = log.disk.list(KEY.folder)
    bases = [b for n in names if (b := base_of(n, LOG_SUFFIX)) is not None]
    assert bases == [segment.base_offset for segment in log.segments]
    for name in names:
        index, state = base_of(name, INDEX_SUFFIX), base_of(name, STATE_SUFFIX)
        assert index is None or index in bases[:-1]
        assert state is None or state <= log.end_offset


@pytest.mark.parametrize("number", range(COMMON + 20))
def test_the_log_is_what_a_replay_up_to_there_gives(number: int) -> None:
    """At every batch, in the first segment and in later ones, and all of it flushed."""
    history, _, _ = lineages()
    follower = follower_of(history, committed=0)
    to = history.batches[number].header.base_offset

    follower.cut(to)

    log = follower.log
    check_same(log, history, to)
    check_files(follower)
    assert log.flushed_end == log.recovery_point == to
    assert not log.is_dirty
    assert log.checkpointed <= to
    assert log.checkpointed_high_watermark <= to
    assert read_from(log, 0, to) == between(history, 0, to)
    follower.copy(history, history.end)
    follower.flush()
    check_same(log, history, history.end)


def test_another_leaders_batches_follow() -> None:
    old, new, parted = lineages()
    follower = follower_of(old, committed=parted)

    follower.cut(parted)
    follower.copy(new, new.end)
    follower.flush()
    follower.checkpoint(new.end)

    check_same(follower.log, new, new.end)
    assert read_from(follower.log, 0, new.end) == bytes(new.data)
    again = FollowerLog(follower.disk.kill_state())
    check_same(again.log, new, new.end)


def test_within_one_of_our_batches_all_of_it_goes() -> None:
    """The batch is of a leader that is gone, so the leader of now need not begin one there."""
    follower = FollowerLog(SimDisk())
    three = (b"a", b"b", b"c")
    follower.log.append_replicated(batch_at(0, values=three) + batch_at(3, values=three, epoch=2))
    follower.flush()
    follower.checkpoint(0)

    follower.cut(4)

    assert follower.log.end_offset == 3
    assert follower.log.epochs.latest == 1
    assert follower.row.recovery_point <= 3, "a crash would look like damage"


def test_at_the_end_or_beyond_nothing_goes() -> None:
    old, _, _ = lineages()
    follower = follower_of(old, committed=0)
    before = follower.disk.list(KEY.folder)

    follower.cut(old.end)
    follower.cut(old.end + 5)

    check_same(follower.log, old, old.end)
    assert follower.disk.list(KEY.folder) == before


def test_what_is_buffered_is_cut_too() -> None:
    old, _, parted = lineages()
    follower = FollowerLog(SimDisk(), config=TopicConfig())
    follower.log.append_replicated(old.data)

    follower.cut(parted)

    check_same(follower.log, old, parted)
    follower.log.write_out()
    assert read_from(follower.log, 0, parted) == between(old, 0, parted)


def test_retention_may_drop_up_to_where_it_was_cut() -> None:
    """The state that it counts on is there, whatever a crash takes."""
    old, _, parted = lineages()
    follower = follower_of(old, committed=parted)
    follower.cut(parted)
    log = follower.log
    base = log.segments[-1].base_offset
    assert base > 0

    log.drop_before(base)
    follower.checkpoint(parted)

    again = FollowerLog(follower.disk.kill_state())
    assert again.log.start_offset == base
    assert table_of(again.log.producers) == old.producers(parted)


def test_the_recovery_point_falls_with_a_truncation() -> None:
    """Also that of the start, which else never falls: the log would count as damaged."""
    old, _, parted = lineages()
    follower = follower_of(old, committed=parted)
    follower.flush()
    follower.checkpoint(parted)
    again = FollowerLog(follower.disk.kill_state())
    assert again.log.recovery_point == old.end

    again.cut(parted)

    assert again.log.recovery_point == parted
    again.checkpoint(parted)
    check_same(FollowerLog(again.disk.kill_state()).log, old, parted)


def test_states_that_a_truncation_needs_stay() -> None:
    """Of producers whose records were dropped nothing but a state speaks; the newest ones are of
    what is flushed, but not of what is committed, and go with a truncation."""
    rng = Random(5)
    first = batch_at(0, producer=77, values=(b"x" * 500,))
    history = History()
    follower = FollowerLog(SimDisk())
    follower.log.append_replicated(first)
    history.add(unpack_header(first), first)
    history = extended(history, 1, 1, 40, rng)
    committed = history.batches[15].header.next_offset
    follower.copy(history, committed)
    follower.flush()
    follower.checkpoint(committed)
    follower.log.drop_before(follower.log.segments[1].base_offset)
    follower.copy(history, history.end)
    follower.flush()
    follower.checkpoint(committed)
    follower.log.roll()
    follower.flush()
    follower.checkpoint(committed)

    follower.cut(committed)

    assert 77 in table_of(follower.log.producers)
    assert table_of(follower.log.producers) == history.producers(committed)


@pytest.mark.parametrize("operation", ["remove", "sync_directory", "truncate", "sync", "write"])
@pytest.mark.parametrize("state", [None, pack_state(State(900, 0, [], []))])
def test_a_disk_that_fails_takes_the_log_offline(operation: str, state: bytes | None) -> None:
    old, _, parted = lineages()
    follower = follower_of(old, committed=parted)
    follower.disk.fail(operation)
    to = parted if state is None else 900

    with pytest.raises(StorageError):
        cut(follower.log, to, state)

    assert follower.log.failed


def test_a_state_that_cannot_be_read_is_done_without() -> None:
    old, _, parted = lineages()
    follower = follower_of(old, committed=parted)
    follower.disk.fail("open")

    cut(follower.log, parted)

    check_same(follower.log, old, parted)


def test_damage_below_the_cut_takes_the_log_offline() -> None:
    old, _, parted = lineages()
    follower = follower_of(old, committed=parted)
    segment = follower.log.segment_of(parted)
    follower.disk.flip(segment.path, 50)

    with pytest.raises(StorageError):
        follower.cut(parted)

    assert follower.log.failed


def test_who_reads_meanwhile_does_not_take_new_bytes_for_damage() -> None:
    """A cold read of what was cut, whose answer comes when other batches stand there."""
    old, new, parted = lineages()
    follower = follower_of(old, committed=parted, config=TopicConfig())
    log = follower.log
    offset = old.batches[COMMON + 3].header.base_offset
    where = place(log, offset, 1 << 20)
    follower.cut(parted)
    follower.copy(new, new.end)
    data = where.file.read(where.position, where.size)

    with pytest.raises(CorruptDataError):
        take(log, where, data, offset, log.written_end, 1 << 20)

    assert log.damage is None


def test_what_a_compaction_had_begun_is_not_put_in_place() -> None:
    config = TopicConfig(segment_bytes=1200, cleanup="compact", compact_lag_ms=0)
    history = History()
    for number in range(30):
        data = batch_at(number, values=(b"y" * 200,))
        history.add(unpack_header(data), data)
    follower = FollowerLog(SimDisk(), config=config)
    follower.copy(history, 30)
    follower.flush()
    follower.checkpoint(30)
    log = follower.log
    plan = plan_compaction(log, 10_000_000, 30, 0)
    assert plan is not None
    compaction = Compaction(follower.disk, KEY, plan, log.options)
    results = compaction.run(log.segment_bytes)

    follower.cut(10)
    compaction.install(log, results)

    check_same(log, history, 10)


def test_what_a_compaction_had_joined_does_not_take_new_files_with_it() -> None:
    """They were to be unlinked after the next checkpoint; by then others have their names."""
    config = TopicConfig(segment_bytes=1200, cleanup="compact", compact_lag_ms=0)
    history = History()
    for number in range(30):
        data = batch_at(number, values=(b"y" * 200,))
        history.add(unpack_header(data), data)
    follower = FollowerLog(SimDisk(), config=config)
    follower.copy(history, 30)
    follower.flush()
    follower.checkpoint(30)
    log = follower.log
    bases = [segment.base_offset for segment in log.segments]
    log.doomed.append(log.segments[2])  # as `replace_segments` does with those that were joined

    follower.cut(bases[1])
    follower.copy(history, 30)
    follower.flush()
    follower.checkpoint(30)
    unlink(follower.disk, KEY.folder, log.release_doomed(len(log.doomed)))

    assert [segment.base_offset for segment in log.segments] == bases
    check_same(FollowerLog(follower.disk.kill_state()).log, history, 30)


def test_readers_do_not_go_on_where_the_old_batches_were() -> None:
    old, new, parted = lineages()
    follower = follower_of(old, committed=parted, config=TopicConfig())
    log = follower.log
    offset = new.batches[COMMON + 2].header.base_offset
    old_offset = old.batches[COMMON + 4].header.base_offset
    read(log, 0, 1 << 20, old_offset)
    assert old_offset in log.hints

    follower.cut(parted)
    follower.copy(new, new.end)

    assert old_offset not in log.hints
    assert read_from(log, offset, new.end) == between(new, offset, new.end)


# Beginning anew


def test_a_follower_begins_where_the_leader_does_and_knows_its_producers() -> None:
    """Once it has what the leader had then, it knows all that the leader knew."""
    history = extended(History(), 0, 1, 60, Random(9))
    leader = FollowerLog(SimDisk())
    leader.copy(history, history.end)
    leader.flush()
    leader.log.drop_before(leader.log.segments[4].base_offset)
    start = leader.log.start_offset
    follower = FollowerLog(SimDisk())
    follower.copy(history, history.batches[3].header.next_offset)

    follower.cut(start, state_at_start(leader.log))

    log = follower.log
    assert (log.start_offset, log.end_offset, log.flushed_end) == (start, start, start)
    assert not log.is_dirty
    assert log.epochs.latest == 1
    check_files(follower)
    follower.checkpoint(start)
    follower.copy(history, history.end)
    check_same(log, history, history.end)


def test_the_state_at_the_start_is_what_was_known_there() -> None:
    """Also of a producer whose later batches have driven those out, and may yet be cut: a follower
    that begins there and cuts them knows what everybody else does (seed 7214)."""
    history = extended(History(), 0, 1, 30, Random(9))
    leader = FollowerLog(SimDisk())
    leader.copy(history, history.end)
    for offset in range(history.end, history.end + 400):
        producer = 1 + offset % 3
        leader.log.append_replicated(
            batch_at(offset, producer=producer, epoch=99, append_ms=1 << 39)
        )
        if offset % 50 == 0:
            leader.flush()
            leader.checkpoint(offset + 1)
    for base in [segment.base_offset for segment in leader.log.segments]:
        if base <= min(history.end, leader.log.flushed_base):
            leader.log.drop_before(base)
            table = ProducerTable(1_000, 1 << 40)
            table.restore(unpack_state(state_at_start(leader.log)).producers)
            assert table_of(table) == history.producers(base)


def test_without_the_state_of_the_start_one_is_made() -> None:
    history = extended(History(), 0, 1, 60, Random(9))
    leader = FollowerLog(SimDisk())
    assert unpack_state(state_at_start(leader.log))[1:] == (0, [], [])
    leader.copy(history, history.end)
    assert unpack_state(state_at_start(leader.log))[2:] == ([], []), "begins at 0"
    leader.flush()
    leader.log.drop_before(leader.log.segments[4].base_offset)
    start = leader.log.start_offset
    remove_states(leader.log.disk, KEY.folder, [start])

    state = unpack_state(state_at_start(leader.log))

    assert state.end == start
    assert state.last_append_ms == leader.log.segments[0].first_append_ms
    known = history.producers(start)
    for producer, _, batches in state.producers:
        assert batches == known[producer][1][-len(batches) :]
        assert all(batch[2] < start for batch in batches)
    assert {row[0] for row in state.producers} == known.keys()


def test_a_state_that_is_not_whole_changes_nothing() -> None:
    old, _, _ = lineages()
    follower = follower_of(old, committed=0)
    state = state_at_start(follower.log)

    for wrong in (b"", state[:-1], bytes([state[0] ^ 1]) + state[1:]):
        with pytest.raises(CorruptDataError):
            cut(follower.log, old.end + 10, wrong)

    check_same(follower.log, old, old.end)
    assert follower.log.failed is None


def test_below_its_start_a_log_begins_anew_without_producers() -> None:
    """After an unclean election the leader may have less than we have dropped already."""
    history = extended(History(), 0, 1, 60, Random(9))
    follower = FollowerLog(SimDisk())
    follower.copy(history, history.end)
    follower.flush()
    follower.log.drop_before(follower.log.segments[4].base_offset)
    follower.checkpoint(history.end)
    to = history.batches[2].header.next_offset

    follower.cut(to)

    log = follower.log
    assert (log.start_offset, log.end_offset, log.doomed) == (to, to, [])
    check_files(follower)
    assert table_of(log.producers) == {}
    follower.copy(history, history.end)
    assert read_from(log, to, history.end) == between(history, to, history.end)


def test_the_time_of_dropped_batches_is_known_after_a_restart() -> None:
    """A leader whose log is empty must not stamp earlier times than its followers have seen."""
    follower = FollowerLog(SimDisk())
    follower.log.append_replicated(batch_at(0, append_ms=9_000))
    follower.log.roll()
    follower.flush()
    follower.log.drop_before(1)
    follower.checkpoint(1)

    again = FollowerLog(follower.disk.kill_state())

    assert again.log.start_offset == again.log.end_offset == 1
    assert again.log.last_append_ms == 9_000
