"""A disk that fails at every call, one after the other: what was acknowledged stays."""

from __future__ import annotations

from random import Random

import pytest

from tests.support.log_driver import COMPACTED, CONFIG, KEY, LogDriver, check, one_step, read_from
from zmqmq.core.storage.options import StorageOptions
from zmqmq.errors import Code, DiskFullError, StorageError, WireError
from zmqmq.sim.disk import SimDisk
from zmqmq.sim.power_cut import Synced

OPERATIONS = (
    "write",
    "sync",
    "rename",
    "open",
    "allocate",
    "truncate",
    "remove",
    "make_directory",
    "sync_directory",
)
CALLS_MAX = 400


class Run:
    """A workload on a disk of which one call fails; goes on with a new start after that."""

    def __init__(self, seed: int, operation: str, at: int, *, full: bool) -> None:
        self.rng = Random(seed)
        self.config = (CONFIG, COMPACTED)[seed % 2]
        self.disk = SimDisk()
        self.disk.fail(operation, at=at, full=full)
        self.driver: LogDriver | None = None
        self.failed = False

    def run(self) -> bool:
        """Whether the call came to be made at all."""
        keys = 6 if self.config is COMPACTED else 0
        try:
            self.driver = LogDriver(self.disk, config=self.config, rng=self.rng)
            self.driver.serve()
            for _ in range(30):
                one_step(self.driver, self.rng, keys)
            self.driver.close()
        except (StorageError, WireError):
            self.failed = True
        return not self.disk._faults


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_fails_what_was_acknowledged_stays(operation: str, full: bool) -> None:
    """Behind the failing call the broker is killed, or loses power, and starts again."""
    looked_at = 0
    for seed in range(2):
        for at in range(1, CALLS_MAX):
            run = Run(seed, operation, at, full=full)
            if not run.run():
                break
            looked_at += 1
            driver = run.driver
            known = driver.story.marks[-1] if driver else None
            rng = Random(at)
            for state in (run.disk.kill_state(), *run.disk.crash_states(rng=rng, limit=2)):
                again = LogDriver(state, config=run.config, before=known, now_ms=90_000)
                if known is not None:
                    check(again.log, known)
                again.serve()
                again.send(1, keys=6 if run.config is COMPACTED else 0)
                again.flush()
                for cut in state.crash_states(rng=rng, limit=1):
                    last = LogDriver(cut, config=run.config, before=again.story.marks[-1])
                    check(last.log, again.story.marks[-1])
        else:
            pytest.fail("the workload makes more calls than are looked at")
    assert looked_at >= 2, f"{operation} is hardly ever called"


def test_a_failed_sync_is_never_tried_again_on_that_file() -> None:
    for at in range(1, 60):
        run = Run(0, "sync", at, full=False)
        if not run.run():
            break
        failed = [o.node for o in run.disk.operations if isinstance(o, Synced) and o.failed]
        assert len(failed) == 1
        (node,) = failed
        calls = [o for o in run.disk.operations if isinstance(o, Synced) and o.node == node]
        assert calls[-1].failed, "synced again, and believed it"
    assert at > 10


def test_a_failed_write_ends_the_log_until_it_is_opened_anew() -> None:
    disk = SimDisk()
    driver = LogDriver(disk)
    driver.serve()
    driver.send(1)
    driver.flush()
    driver.send(2)
    disk.fail("write")

    with pytest.raises(StorageError):
        driver.log.write_out()
    with pytest.raises(WireError) as refused:
        driver.send(1)

    assert refused.value.code == Code.STORAGE_OFFLINE
    assert driver.acknowledged == 1


@pytest.mark.parametrize("size", [40, 900])
def test_a_full_disk_refuses_and_works_again_when_there_is_room(size: int) -> None:
    """With and without a segment to begin; nothing else has changed by the refusal."""
    disk = SimDisk()
    driver = LogDriver(disk, options=StorageOptions(allocate_bytes=4096, free_bytes_min=0))
    driver.serve()
    driver.send(1)
    driver.flush()
    disk.budget = 1 << 30
    disk.budget += 200 - disk.free_bytes()
    for _ in range(50):
        end, producers = driver.log.end_offset, driver.log.producers.snapshot()
        try:
            driver.send(1, size=size, producer=7)
        except WireError as error:
            assert error.code == Code.DISK_FULL  # noqa: PT017 - which of them it is, is open
            break
        driver.log.write_out()
    else:
        pytest.fail("it never was full")
    assert (driver.log.end_offset, driver.log.producers.snapshot()) == (end, producers)
    assert driver.log.failed is None
    assert read_from(driver.log, 0, end)

    disk.budget = None
    driver.send(1, size=size, producer=7)
    driver.flush()

    assert driver.acknowledged == end + 1
    again = LogDriver(disk.kill_state(), before=driver.story.marks[-1])
    check(again.log, driver.story.marks[-1])


def test_the_reserve_is_kept_free() -> None:
    disk = SimDisk(budget=10_000)
    driver = LogDriver(disk, options=StorageOptions(allocate_bytes=512, free_bytes_min=9_000))
    driver.serve()

    with pytest.raises(WireError, match=r"storage\.free_bytes_min is 9000"):  # noqa: PT012 - whichever of them it is
        for _ in range(50):
            driver.send(1)

    assert disk.free_bytes() >= 9_000 - 512, "more than one step ahead"


def test_a_roll_that_fails_changes_nothing() -> None:
    """At each of its calls."""
    for operation in ("open", "allocate", "write", "truncate"):
        for at in range(1, 6):
            disk = SimDisk()
            driver = LogDriver(disk)
            driver.serve()
            driver.send(2)
            driver.flush()
            known = driver.story.marks[-1]
            disk.fail(operation, at=at, full=True)
            try:
                driver.log.roll()
            except DiskFullError:
                assert [s.base_offset for s in driver.log.segments] == [0]
                names = disk.list(KEY.folder)
                assert [n for n in names if n.endswith(".log")] == [f"{0:020d}.log"]
            disk._faults.clear()
            driver.send(1)
            driver.flush()
            again = LogDriver(disk.kill_state(), before=driver.story.marks[-1])
            check(again.log, driver.story.marks[-1])
            assert known.acknowledged == 2
