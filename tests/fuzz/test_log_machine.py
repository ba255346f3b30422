"""The log against a list: hypothesis looks for an order of calls in which the two differ."""

from __future__ import annotations

import os
from bisect import bisect_left
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.log_driver import CONFIG, LogDriver, check, read_from
from zmqmq.batch.layout import unpack_header
from zmqmq.core.storage.reading import find_time, read
from zmqmq.sim.disk import SimDisk

SCALE = int(os.environ.get("ZMQMQ_TEST_SCALE", "1"))


class LogMachine(RuleBasedStateMachine):
    """The list is the driver's history: batches in order, of which the log must hold a part."""

    @initialize()
    def begin(self) -> None:
        self.disk = SimDisk()
        self.driver = LogDriver(self.disk, rng=Random(1))
        self.driver.serve()
        self.flushed = 0

    @rule(
        records=st.integers(1, 5),
        size=st.integers(1, 400),
        producer=st.sampled_from([0, 7, 8]),
        pause_ms=st.integers(0, 50),
    )
    def append(self, records: int, size: int, producer: int, pause_ms: int) -> None:
        driver = self.driver
        driver.now_ms += pause_ms
        end = driver.log.end_offset
        driver.send(records, size=size, producer=producer)
        assert driver.log.end_offset == end + records

    @rule(producer=st.sampled_from([7, 8]))
    def append_again(self, producer: int) -> None:
        """A batch whose reply was lost gets the offset that it had."""
        driver = self.driver
        mine = [s for s in driver.history.batches if s.header.producer_id == producer][-64:]
        if not mine:
            return
        end, first = driver.log.end_offset, mine[0]
        done = driver.append(bytes(36) + first.data[36:])
        assert done == (first.header.base_offset, first.header.next_offset)
        assert driver.log.end_offset == end

    @rule()
    def write_out(self) -> None:
        self.driver.log.write_out()

    @rule()
    def flush(self) -> None:
        self.driver.flush()
        assert self.driver.acknowledged == self.driver.log.end_offset

    @rule()
    def roll(self) -> None:
        self.driver.roll()

    @rule()
    def checkpoint(self) -> None:
        self.driver.checkpoint()

    @rule(segments=st.integers(1, 3))
    def retain(self, segments: int) -> None:
        self.driver.retain(segments)
        assert self.driver.log.start_offset == self.driver.promised_start

    @rule()
    def unlink(self) -> None:
        self.driver.unlink()
        assert not self.driver.log.doomed

    @rule()
    def reopen(self) -> None:
        known = self.driver.close()
        assert known.acknowledged == known.end
        self.begin_again(self.disk.kill_state(), is_cut=False)
        assert self.driver.log.end_offset == known.end

    @rule(seed=st.integers(0, 1 << 16))
    def crash(self, seed: int) -> None:
        """The end that was not acknowledged may be cut, at a batch."""
        (state,) = list(self.disk.crash_states(rng=Random(seed), limit=1))[:1]
        self.begin_again(state, is_cut=True)

    @rule()
    def kill(self) -> None:
        self.begin_again(self.disk.kill_state(), is_cut=True)

    def begin_again(self, disk: SimDisk, *, is_cut: bool) -> None:
        known = self.driver.story.marks[-1]
        now_ms = self.driver.now_ms
        self.disk = disk
        self.driver = LogDriver(disk, before=known, now_ms=now_ms, rng=Random(now_ms))
        check(self.driver.log, known)
        self.driver.serve()
        assert is_cut or self.driver.history.end == known.end

    @precondition(lambda self: self.driver.acknowledged > self.driver.log.start_offset)
    @rule(data=st.data(), max_bytes=st.integers(0, 3_000))
    def read(self, data: st.DataObject, max_bytes: int) -> None:
        """From any offset: the batch that holds it comes first, and whole ones follow."""
        log, end = self.driver.log, self.driver.acknowledged
        offset = data.draw(st.integers(log.start_offset, end - 1), label="offset")
        found = bytes(read(log, offset, max_bytes, end))
        ends = [s.header.next_offset for s in self.driver.history.batches]
        first = self.driver.history.batches[bisect_left(ends, offset + 1)]
        assert found.startswith(first.data)
        assert len(found) <= max(max_bytes, len(first.data))
        position, expected = 0, first.header.base_offset
        while position < len(found):
            header = unpack_header(found, position)
            assert header.base_offset == expected
            expected = header.next_offset
            position += header.size
        start = self.driver.history.position(first.header.base_offset)
        assert found == self.driver.history.data[start : start + len(found)]
        assert read_from(log, expected, end, max_bytes) is not None

    @precondition(lambda self: self.driver.acknowledged > self.driver.log.start_offset)
    @rule(data=st.data())
    def find(self, data: st.DataObject) -> None:
        """By append time: the first batch that is not older."""
        log, end = self.driver.log, self.driver.acknowledged
        stored = [
            s.header
            for s in self.driver.history.batches
            if log.start_offset <= s.header.base_offset < end
        ]
        low, high = stored[0].append_time_ms, stored[-1].append_time_ms
        when = data.draw(st.integers(low - 2, high + 2), label="when")
        wanted = next((h for h in stored if h.append_time_ms >= when), None)
        expected = None if wanted is None else (wanted.base_offset, wanted.append_time_ms)
        assert find_time(log, when, end) == expected

    @invariant()
    def counts_hold(self) -> None:
        if not hasattr(self, "driver"):
            return
        log, history = self.driver.log, self.driver.history
        assert log.start_offset <= log.flushed_end <= log.end_offset == history.end
        assert log.record_count == log.end_offset - log.start_offset
        assert log.size_bytes == len(history.data) - history.position(log.start_offset)
        assert log.config is CONFIG


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(
    max_examples=60 * SCALE,
    stateful_step_count=40,
    deadline=None,
    derandomize=SCALE == 1,
    suppress_health_check=list(HealthCheck),
)
