"""The log on a simulated disk that loses power at every operation, in all the ways it may.

One seed is one run of a broker: a workload, then a crash behind each of its operations, and
behind each of those in many states of the disk. What a start finds in every state is compared
with what had been sent and acknowledged by then. Of some states the start itself is crashed, and
of some of those the next one, and now and then the log goes on working from there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from random import Random

import pytest

from tests.support.log_driver import COMPACTED, CONFIG, LogDriver, Mark, check, walk
from zmqmq.model.topics import TopicConfig
from zmqmq.sim.disk import SimDisk

SCALE = int(os.environ.get("ZMQMQ_TEST_SCALE", "1"))
SEEDS = 16
STATES_MIN = 100_000
STATES_A_CUT = 12
"""States looked at for each operation, or all where there are fewer."""

DROPPING = TopicConfig(segment_bytes=1200, capacity_bytes=4_096, full="drop-oldest")
COUNTED = TopicConfig(segment_bytes=4_000, capacity_records=40, full="drop-oldest")
IN_MEMORY = TopicConfig(segment_bytes=1200, flush="replicated")
CONFIGS = (CONFIG, COMPACTED, DROPPING, CONFIG, COMPACTED, IN_MEMORY, COUNTED, CONFIG)


class Enumeration:
    """Everything that one seed looks at."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.config = CONFIGS[seed % len(CONFIGS)]
        self.keys = 6 if self.config is COMPACTED else 0
        self.states = 0

    def run(self) -> None:
        """Three lives of a broker: the first ends cleanly or not, the others begin after it."""
        disk, known = SimDisk(), None
        for life in range(3):
            driver = self.start(disk, known)
            driver.serve()
            walk(driver, self.rng, 24, self.keys)
            is_clean = self.rng.random() < 0.5
            if is_clean:
                driver.close()
            self.every_cut(disk, driver, STATES_A_CUT)
            if is_clean and life < 2:
                disk, known = disk.kill_state(), driver.story.marks[-1]
            else:
                cut = self.rng.randint(driver.story.marks[0].operations, len(disk.operations))
                known = driver.story.at(cut)
                states = disk.crash_states(at=cut, rng=self.rng, limit=20)
                disk = self.rng.choice([*states, disk.kill_state(at=cut)])

    def start(self, disk: SimDisk, known: Mark | None) -> LogDriver:
        return LogDriver(disk, config=self.config, before=known, now_ms=50_000, rng=self.rng)

    def every_cut(self, disk: SimDisk, driver: LogDriver, limit: int, depth: int = 0) -> None:
        """Cut the power behind each operation of this run."""
        for at in range(driver.story.marks[0].operations, len(disk.operations) + 1):
            known = driver.story.at(at)
            for number, state in enumerate(self.states_at(disk, at, limit)):
                self.states += 1
                self.look(state, known, depth, goes_on=number == 0)

    def states_at(self, disk: SimDisk, at: int, limit: int) -> Iterator[SimDisk]:
        yield disk.kill_state(at=at)
        yield from disk.crash_states(at=at, rng=self.rng, limit=limit)

    def look(self, state: SimDisk, known: Mark, depth: int, *, goes_on: bool) -> None:
        """Start on this disk."""
        driver = self.start(state, known)
        check(driver.log, known)
        if not goes_on:
            return
        driver.serve()
        if depth < 2 and self.rng.random() < (0.05, 0.1)[depth]:
            # Crash the start itself, at each of its operations, and the one after that.
            self.every_cut(state, driver, 3, depth + 1)
        if self.rng.random() < 0.2:
            walk(driver, self.rng, 4, self.keys)
            known = driver.story.marks[-1]
            for after in self.states_at(state, len(state.operations), 2):
                self.states += 1
                self.look(after, known, 2, goes_on=False)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_power_cut_takes_what_was_acknowledged(seed: int) -> None:
    """All seeds together look at STATES_MIN states or more, wherever each of them runs."""
    start, states, story = time.perf_counter(), 0, seed

    while states < STATES_MIN * SCALE // SEEDS:
        enumeration = Enumeration(story)
        enumeration.run()
        states += enumeration.states
        story += SEEDS

    print(f"seed {seed}: {states} states in {time.perf_counter() - start:.1f} s")  # noqa: T201
