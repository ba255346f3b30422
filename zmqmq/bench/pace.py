"""When records are due: the clock of an open-loop load.

A closed loop sends when it got its answer, so a broker that stands still for a second delays
one request, and the hundreds that should have been sent meanwhile are never counted (coordinated
omission). Here every record has the moment at which it was due, whether or not the sender got to
it, and what is measured begins there.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter_ns, sleep
from typing import Final

TICK_NS: Final = 1_000_000
"""The load comes in a burst each millisecond: sleeping is not exact enough for less."""
_SLOW_TICKS: Final = 1


class Pace:
    """Yields (due, records): send so many now, which were due then on `perf_counter_ns`.

    Rates below one record a tick get longer ticks. Whoever is late gets the bursts that he missed
    at once, one after the other, each with its own due time.
    """

    def __init__(self, rate: int, seconds: float) -> None:
        assert rate > 0
        self._tick_ns = max(TICK_NS, -(-1_000_000_000 // rate))
        self._ticks = max(round(seconds * 1e9 / self._tick_ns), 1)
        self._rate = rate
        self.records = self._due_records(self._ticks)
        """All of them together."""
        self.late = 0
        """Bursts that were asked for more than a tick after they were due."""
        self.started_ns = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        self.started_ns = start = perf_counter_ns()
        for tick in range(self._ticks):
            due = start + tick * self._tick_ns
            wait = due - perf_counter_ns()
            if wait > 0:
                sleep(wait / 1e9)
            elif -wait > _SLOW_TICKS * self._tick_ns:
                self.late += 1
            yield due, self._due_records(tick + 1) - self._due_records(tick)

    def _due_records(self, ticks: int) -> int:
        return ticks * self._tick_ns * self._rate // 1_000_000_000
