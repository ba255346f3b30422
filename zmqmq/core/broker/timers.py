"""Deadlines of requests, in a heap; whoever is done early is skipped when its time comes."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Protocol


class Waiter(Protocol):
    """Something with an end."""

    done: bool

    def expire(self) -> None:
        """The deadline has come, and it is not done."""
        ...


class Timers:
    """Waiters by deadline."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Waiter]] = []
        self._count = 0

    def add(self, deadline_ns: int, waiter: Waiter) -> None:
        """Expire `waiter` at this time unless it is done by then."""
        self._count += 1
        heapq.heappush(self._heap, (deadline_ns, self._count, waiter))
        if len(self._heap) > 1024 and self._count % 1024 == 0:
            # Most requests are answered long before their deadline: without this the heap would
            # hold every request of the last half minute.
            self._heap = [entry for entry in self._heap if not entry[2].done]
            heapq.heapify(self._heap)

    def due(self, now_ns: int) -> Iterator[Waiter]:
        """Take out those whose time has come."""
        heap = self._heap
        while heap and (heap[0][0] <= now_ns or heap[0][2].done):
            waiter = heapq.heappop(heap)[2]
            if not waiter.done:
                yield waiter

    @property
    def next_ns(self) -> int | None:
        """When to look again."""
        return self._heap[0][0] if self._heap else None
