"""When batches have to go out, and when they have failed.

Both times are the same for every batch of a producer, so two queues in the order of opening are
sorted by themselves. What is done before its time is dropped when it comes to the front.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from zmqmq.client.machines.batch import Batch
from zmqmq.client.machines.effects import NEVER

TIDY_ABOVE: Final = 1_024


class DueTimes:
    """The lingers and delivery time-outs of one producer's batches."""

    def __init__(self, linger: int, timeout: int) -> None:
        self._linger = linger
        self._timeout = timeout
        self._lingering: deque[Batch] = deque()
        self._deadlines: deque[Batch] = deque()

    def add(self, now: int, batch: Batch) -> None:
        """A batch was opened."""
        batch.due_at = now + self._linger
        batch.deadline = now + self._timeout
        self._lingering.append(batch)
        self._deadlines.append(batch)

    def lingered(self, now: int) -> list[Batch]:
        """The batches whose linger is over; each is told once."""
        over = []
        while self._lingering and self._lingering[0].due_at <= now:
            over.append(self._lingering.popleft())
        return over

    def overdue(self, now: int, unsettled_count: int) -> list[Batch]:
        """The batches whose time-out is over and that have no outcome; each is told once."""
        deadlines = self._deadlines
        late: list[Batch] = []
        while deadlines and (deadlines[0].outcome is not None or deadlines[0].deadline <= now):
            batch = deadlines.popleft()
            if batch.outcome is None:
                late.append(batch)
        if len(deadlines) > TIDY_ABOVE and len(deadlines) > 4 * unsettled_count:
            # One batch that gets no answer must not hold on to all that came after it.
            self._deadlines = deque(b for b in deadlines if b.outcome is None)
        return late

    def next(self) -> int:
        """When something is over next; NEVER if nothing will be."""
        lingering, deadlines = self._lingering, self._deadlines
        while lingering and lingering[0].queue.open is not lingering[0]:
            lingering.popleft()
        while deadlines and deadlines[0].outcome is not None:
            deadlines.popleft()
        return min(
            lingering[0].due_at if lingering else NEVER,
            deadlines[0].deadline if deadlines else NEVER,
        )
