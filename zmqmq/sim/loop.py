"""Simulated time: a heap of what is to happen, in the order of time, then of asking.

Nothing happens at the same moment by accident and nothing runs beside anything else; a seed
therefore gives one history. What belongs to a node does not happen while the node is down, and
waits while it is paused (node.py).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Protocol

Action = Callable[..., object]
Entry = tuple[int, int, "Owner | None", int, Action, tuple[object, ...]]
"""When, a running number, whose and in which life, what, and with what."""


class Owner(Protocol):
    """What a node (node.py) is to the loop."""

    life: int
    is_still: bool
    """Paused, or down."""

    def keep(self, entry: Entry) -> None:
        """Take what is due while it is still."""


class Timer:
    """Something that will happen unless it is cancelled."""

    __slots__ = ("_action", "_arguments")

    def __init__(self, action: Action, arguments: tuple[object, ...]) -> None:
        self._action: Action | None = action
        self._arguments = arguments

    def cancel(self) -> None:
        """Nothing happens any more; also when it has happened already."""
        self._action = None
        self._arguments = ()

    def fire(self) -> None:
        """Called by the loop."""
        if self._action is not None:
            self._action(*self._arguments)


class Loop:
    """The clock of the world and all that is going to happen in it."""

    __slots__ = ("_queue", "_sequence", "after_step", "now", "steps")

    def __init__(self) -> None:
        self.now = 0
        """True time in nanoseconds, which no node can see."""
        self.steps = 0
        self.after_step: list[Callable[[], object]] = []
        """Called after every step, to look whether all that must hold does."""
        self._queue: list[Entry] = []
        self._sequence = 0

    def call_at(self, when: int, node: Owner | None, action: Action, *arguments: object) -> Timer:
        """Have something happen then, or now if that is over; may be cancelled."""
        timer = Timer(action, arguments)
        self.post(when, node, timer.fire)
        return timer

    def call_soon(self, node: Owner | None, action: Action, *arguments: object) -> None:
        """Have something happen now, after what is under way and what was asked for before."""
        self.post(self.now, node, action, *arguments)

    def post(self, when: int, node: Owner | None, action: Action, *arguments: object) -> None:
        """As `call_at`, for what is never cancelled."""
        self._sequence = sequence = self._sequence + 1
        now = self.now
        heapq.heappush(
            self._queue,
            (
                when if when > now else now,  # noqa: FURB136 - max() costs more than the rest
                sequence,
                node,
                0 if node is None else node.life,
                action,
                arguments,
            ),
        )

    def step(self) -> bool:
        """Let the next thing happen; False if nothing will."""
        if not self._queue:
            return False
        self._run(self._queue[0][0], 1)
        return True

    def run_until(self, end: int) -> None:
        """Let everything happen that happens up to then; the time is `end` afterwards."""
        self._run(end, -1)
        self.now = max(self.now, end)

    def _run(self, end: int, most: int) -> None:
        """Up to `most` steps, or any number if that is negative."""
        queue, hooks, pop = self._queue, self.after_step, heapq.heappop
        while most and queue and queue[0][0] <= end:
            most -= 1
            entry = pop(queue)
            self.now, _, node, life, action, arguments = entry
            if node is not None:
                if node.life != life:
                    continue
                if node.is_still:
                    node.keep(entry)
                    continue
            self.steps += 1
            action(*arguments)
            for hook in hooks:
                hook()
