"""The open loop: nobody who is late may make the load smaller."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from zmqmq.bench import pace as module
from zmqmq.bench.pace import TICK_NS, Pace


class Clock:
    """Time that passes when somebody sleeps or works."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def read(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "perf_counter_ns", clock.read)
    monkeypatch.setattr(module, "sleep", clock.sleep)
    return clock


def played(pace: Pace, work: Callable[[], None]) -> list[tuple[int, int]]:
    bursts = []
    for burst in pace:
        bursts.append(burst)
        work()
    return bursts


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("rate", [1, 3, 999, 1000, 1001, 12_345, 5_000_000])
def test_every_record_is_due_once_and_in_time(rate: int) -> None:
    seconds = 5
    pace = Pace(rate, seconds)
    bursts = played(pace, lambda: None)

    total = sum(records for _, records in bursts)
    assert total == pace.records
    assert total == pytest.approx(rate * seconds, abs=1)
    assert pace.late == 0
    sent = 0
    for due, records in bursts:
        sent += records
        lasted = (due - pace.started_ns) / 1e9
        assert sent <= rate * lasted + max(rate / 1000, 1) + 1


def test_a_sender_that_stands_still_is_given_what_it_missed_as_it_was_due(clock: Clock) -> None:
    pace = Pace(10_000, 1)
    stall = iter([0.5])

    bursts = played(pace, lambda: clock.sleep(next(stall, 0)))

    start = pace.started_ns
    assert [due for due, _ in bursts] == [start + n * TICK_NS for n in range(1000)]
    assert {records for _, records in bursts} == {10}
    assert pace.late == pytest.approx(500, abs=3)
    assert clock.now_ns - start == pytest.approx(1e9, rel=0.01)
