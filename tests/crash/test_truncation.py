"""A follower's log loses power while it is cut, reset, put aside and filled again.

Behind each operation of the disk, in many states that a power cut may leave: the log that a start
finds is one that this follower had, or one that it was about to have; it is never damaged; and
with what the leader then sends it becomes the leader's.
"""

from __future__ import annotations

from random import Random

import pytest

from tests.support.lineages import FollowerLog, between, check_same, extended
from tests.support.log_driver import KEY, History, read_from, table_of
from zmqmq.core.storage.data_directory import (
    Format,
    quarantine,
    read_checkpoints,
    read_format,
    write_checkpoints,
    write_format,
)
from zmqmq.core.storage.log import Log
from zmqmq.core.storage.recovery import Checkpoint
from zmqmq.core.storage.states import states_in
from zmqmq.core.storage.truncation import state_at_start
from zmqmq.sim.disk import SimDisk

STATES = 16
SEEDS = 8


class Parting:
    """A follower that copied a leader which is gone, and the leader of now."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = Random(seed)
        common = extended(History(), 0, 1, rng.randint(0, 12), rng)
        self.parted = common.end
        flushed = rng.choice([0, *(sent.header.next_offset for sent in common.batches)])
        self.committed = committed = flushed
        """Leaders know no more of it than this follower, in the ISR, has told them."""
        self.old = extended(common, self.parted, 2, rng.randint(1, 25), rng, committed=committed)
        # The leader of now may have an epoch that is older than the tail of this one.
        epoch = rng.choice((1, 3))
        self.new = extended(
            common, self.parted, epoch, rng.randint(0, 25), rng, committed=committed
        )
        self.disk = SimDisk()
        self.follower = follower = FollowerLog(self.disk)
        follower.copy(self.old, flushed)
        follower.flush()
        follower.checkpoint(committed)
        follower.copy(self.old, rng.choice(self.old.batches).header.next_offset)
        if rng.random() < 0.5:
            follower.flush()
            follower.checkpoint(committed)
        follower.copy(self.old, self.old.end)
        if rng.random() < 0.5:
            follower.flush()

    def fill(self, follower: FollowerLog) -> None:
        """What a follower does that knows where the logs part."""
        log = follower.log
        if log.end_offset > self.parted:
            follower.cut(self.parted)
        follower.flush()
        follower.copy(self.new, self.new.end)
        follower.flush()
        follower.checkpoint(self.new.end)
        check_same(log, self.new, self.new.end)
        assert read_from(log, log.start_offset, self.new.end) == between(
            self.new, log.start_offset, self.new.end
        )


def check_one_of(follower: FollowerLog, histories: list[History]) -> None:
    """The log is the beginning of one of these, whole."""
    log = follower.log
    assert log.damage is None, f"a crash looks like damage: {log.damage}"
    end = log.end_offset
    for history in histories:
        if history.has(end) and read_from(log, 0, end) == between(history, 0, end):
            check_same(log, history, end)
            return
    raise AssertionError(f"a log that nobody ever had, up to {end}")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_power_cut_leaves_the_old_log_or_the_new_one(seed: int) -> None:
    parting = Parting(seed)
    disk, rng = parting.disk, parting.rng
    start = len(disk.operations)

    parting.fill(parting.follower)

    for at in range(start, len(disk.operations) + 1):
        states = [disk.kill_state(at=at), *disk.crash_states(at=at, rng=rng, limit=STATES)]
        for number, state in enumerate(states):
            again = FollowerLog(state)
            check_one_of(again, [parting.old, parting.new])
            assert again.log.end_offset >= parting.committed
            if number % 10 == 0:
                parting.fill(again)


@pytest.mark.parametrize("seed", range(4))
def test_a_power_cut_while_a_start_mends_that(seed: int) -> None:
    """The next cut comes while what the first one left is opened, cut and filled."""
    parting = Parting(100 + seed)
    disk, rng = parting.disk, parting.rng
    start = len(disk.operations)
    parting.fill(parting.follower)

    for _ in range(20):
        at = rng.randint(start, len(disk.operations))
        for state in disk.crash_states(at=at, rng=rng, limit=1):
            parting.fill(FollowerLog(state))
            for second in range(0, len(state.operations) + 1, 3):
                for after in state.crash_states(at=second, rng=rng, limit=4):
                    again = FollowerLog(after)
                    check_one_of(again, [parting.old, parting.new])
                    assert again.log.end_offset >= parting.committed


def test_a_torn_tail_that_others_had_committed_is_taken_for_damage() -> None:
    """Of a follower outside the ISR: it is told what is committed before it has flushed as much.
    Nothing is lost by that: it is put aside, and copied again."""
    rng = Random(1)
    common = extended(History(), 0, 1, 10, rng)
    history = extended(common, common.end, 1, 10, rng, committed=common.end)
    disk = SimDisk()
    follower = FollowerLog(disk)
    follower.copy(history, history.end)

    found = [FollowerLog(state).log for state in disk.crash_states(rng=rng, limit=400)]

    assert any(log.damage is not None and log.damage.offset < common.end for log in found)
    assert all(log.damage is None or log.damage.offset < common.end for log in found)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_power_cut_of_a_reset_leaves_some_of_the_old_log_or_the_new_one(seed: int) -> None:
    """And the new one never without what the leader's state says of producers."""
    rng = Random(seed)
    history = extended(History(), 0, 1, 60, rng)
    leader = FollowerLog(SimDisk())
    leader.copy(history, history.end)
    leader.flush()
    leader.log.drop_before(leader.log.segments[rng.randint(4, 8)].base_offset)
    start = leader.log.start_offset
    here = max(b.header.next_offset for b in history.batches if b.header.next_offset < start)
    disk = SimDisk()
    follower = FollowerLog(disk)
    follower.copy(history, here)
    follower.flush()
    follower.checkpoint(here)
    begun = len(disk.operations)

    follower.cut(start, state_at_start(leader.log))
    follower.copy(history, history.end)
    follower.flush()
    follower.checkpoint(history.end)

    check_same(follower.log, history, history.end)
    for at in range(begun, len(disk.operations) + 1):
        states = [disk.kill_state(at=at), *disk.crash_states(at=at, rng=rng, limit=STATES)]
        for number, state in enumerate(states):
            check_reset(FollowerLog(state).log, history, here, start)
            if number % 8 == 0:
                # The start that finds it loses power as well.
                for after in state.crash_states(rng=rng, limit=4):
                    check_reset(FollowerLog(after).log, history, here, start)


def check_reset(log: Log, history: History, here: int, start: int) -> None:
    """Some of the log that ended `here`, or one that begins at `start`."""
    assert log.damage is None, f"a crash looks like damage: {log.damage}"
    end = log.end_offset
    assert (log.start_offset, end <= here) in ((0, True), (start, False))
    assert history.has(end)
    assert all(at <= end for at in states_in(log.disk, KEY.folder)), "a state of what is not there"
    assert read_from(log, log.start_offset, end) == between(history, log.start_offset, end)
    known = history.producers(end)
    assert table_of(log.producers).keys() == known.keys()
    for producer, (_, batches) in table_of(log.producers).items():
        assert batches == known[producer][1][-len(batches) :]


@pytest.mark.parametrize("seed", range(6))
def test_a_power_cut_leaves_a_damaged_copy_here_or_in_quarantine(seed: int) -> None:
    """A start that finds damage notes it, puts it aside, and begins an empty log; any of these may
    have been cut short. It is noted before, and the evidence is never lost."""
    rng = Random(seed)
    history = extended(History(), 0, 1, 30, rng)
    disk = SimDisk()
    write_format(disk, Format("ab" * 16, 1, 7, since_fsync=3))
    follower = FollowerLog(disk)
    follower.copy(history, history.end)
    follower.flush()
    follower.checkpoint(history.end)
    disk.make_directory("quarantine/" + KEY.folder.removeprefix("logs/"))
    segment = next(s for s in reversed(follower.log.segments) if not s.is_empty)
    disk.flip(segment.path, 70)
    size = disk.open(segment.path).size
    begun = len(disk.operations)

    started_from_damage(disk)

    for at in range(begun, len(disk.operations) + 1):
        states = [disk.kill_state(at=at), *disk.crash_states(at=at, rng=rng, limit=STATES)]
        for state in states:
            log = started_from_damage(state).log
            assert (log.start_offset, log.end_offset, log.damage) == (0, 0, None)
            form = read_format(state)
            assert form is not None
            assert form.unvouched == {KEY.folder: None}
            assert KEY.folder not in read_checkpoints(state) or not log.recovery_point
            aside = segment.path.replace("logs/", "quarantine/")
            assert state.open(aside).size == size


def started_from_damage(disk: SimDisk) -> FollowerLog:
    """What a start does with a log that it finds damaged."""
    follower = FollowerLog(disk)
    if follower.log.damage is not None:
        form = read_format(disk)
        assert form is not None
        write_format(disk, form.without(KEY.folder))
        quarantine(disk, KEY)
        write_checkpoints(disk, {KEY.folder: Checkpoint()})
        follower = FollowerLog(disk)
    follower.flush()
    return follower
