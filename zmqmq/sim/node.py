"""A machine with one process on it: it crashes, stands still, and has its own idea of the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from zmqmq.sim.chance import Chance, Stream
from zmqmq.sim.loop import Action, Entry, Loop, Timer

MS: Final = 1_000_000
SECOND: Final = 1_000 * MS
WALL_START_MS: Final = 1_767_225_600_000
"""What an exact clock shows at the beginning of the world."""
_MILLION: Final = 1_000_000


class Clock:
    """The two clocks of a machine. They drift together; only the wall clock is ever set."""

    __slots__ = ("_base", "_drift_ppm", "_loop", "_since", "_stream", "_wall_base")

    def __init__(self, loop: Loop, stream: Stream) -> None:
        self._loop = loop
        self._stream = stream
        self._since = loop.now
        self._drift_ppm = 0
        self._wall_base = WALL_START_MS * MS + loop.now
        self._base = 0
        self.boot()

    def monotonic_ns(self) -> int:
        """Nanoseconds since the machine started; never runs backwards, also while paused."""
        passed = self._loop.now - self._since
        if self._drift_ppm:
            passed += passed * self._drift_ppm // _MILLION
        return self._base + passed

    def wall_ms(self) -> int:
        """Milliseconds since 1970, as far as this machine knows."""
        return (self._wall_base + self.monotonic_ns() - self._base) // MS

    def true_time(self, monotonic_ns: int) -> int:
        """When `monotonic_ns()` will first be that much, if the drift stays as it is."""
        passed = monotonic_ns - self._base
        if self._drift_ppm and passed > 0:
            passed = -(-passed * _MILLION // (_MILLION + self._drift_ppm))
        return self._since + passed

    def step_wall(self, ms: int) -> None:
        """Somebody sets the wall clock, forwards or back."""
        self._wall_base += ms * MS

    def drift(self, ppm: int) -> None:
        """From now on run so many millionths too fast, or too slow if negative."""
        assert ppm > -_MILLION
        self._rebase()
        self._drift_ppm = ppm

    def boot(self) -> None:
        """The machine starts: the monotonic clock begins anew, not far from zero."""
        self._rebase()
        self._base = self._stream.randrange(SECOND, 10_000 * SECOND)

    def _rebase(self) -> None:
        now = self.monotonic_ns()
        self._wall_base += now - self._base
        self._base, self._since = now, self._loop.now


class Node:
    """Owns timers and deliveries, which end with its life and wait while it is paused."""

    __slots__ = (
        "_paused_until",
        "_resume",
        "_waiting",
        "clock",
        "is_powered",
        "is_still",
        "is_up",
        "life",
        "loop",
        "monotonic_ns",
        "name",
        "on_crash",
        "on_restart",
        "wall_ms",
    )

    def __init__(self, loop: Loop, name: str, chance: Chance) -> None:
        self.loop = loop
        self.name = name
        self.life = 1
        """Grows with every crash and restart. What was asked for in an earlier one does not
        happen any more."""
        self.is_up = True
        self.is_powered = True
        """False from a power cut until the restart: not even the kernel answers."""
        self.is_still = False
        """Paused, or down: nothing happens."""
        self.on_crash: list[Callable[[Node], object]] = []
        """Called when it crashes, with `is_powered` saying how."""
        self.on_restart: list[Callable[[Node], object]] = []
        self.clock = Clock(loop, chance.stream(f"clock/{name}"))
        self.monotonic_ns = self.clock.monotonic_ns
        self.wall_ms = self.clock.wall_ms
        self._waiting: list[Entry] = []
        self._paused_until = 0
        self._resume: Timer | None = None

    def call_at(self, monotonic_ns: int, action: Action, *arguments: object) -> Timer:
        """Have something happen when this node's monotonic clock shows that.

        A drift that begins meanwhile makes it early or late: look at the clock again.
        """
        when = self.clock.true_time(monotonic_ns)
        return self.loop.call_at(when, self, action, *arguments)

    def call_soon(self, action: Action, *arguments: object) -> None:
        """Have something happen now, after what is under way."""
        self.loop.post(self.loop.now, self, action, *arguments)

    def crash(self, *, power_cut: bool = False) -> None:
        """End the process: by SIGKILL, of which the kernel tells all peers, or silently.

        The power may also go after the process has.
        """
        if power_cut and self.is_powered:
            self.is_powered = False
            self.clock.boot()
        if not self.is_up:
            return
        self.is_up = False
        self.life += 1
        self._waiting.clear()
        self._end_pause()
        self.is_still = True
        for hook in self.on_crash:
            hook(self)

    def restart(self) -> None:
        """Begin a new life; of the old one there is nothing but what is on the disk."""
        assert not self.is_up
        self.is_up = self.is_powered = True
        self.is_still = False
        self.life += 1
        for hook in self.on_restart:
            hook(self)

    def pause(self, duration: int) -> None:
        """SIGSTOP for so long, or until an earlier pause ends if that is later."""
        until = self.loop.now + duration
        if not self.is_up or until <= self._paused_until:
            return
        self._end_pause()
        self.is_still = True
        self._paused_until = until
        self._resume = self.loop.call_at(until, None, self.resume)

    def resume(self) -> None:
        """SIGCONT: everything that waited happens now, in its order."""
        if not self.is_up:
            return
        self._end_pause()
        waiting, self._waiting = self._waiting, []
        for _, _, node, _, action, arguments in waiting:
            self.loop.post(self.loop.now, node, action, *arguments)

    def keep(self, entry: Entry) -> None:
        """Called by the loop with what is due while this node is still."""
        if self.is_up:
            self._waiting.append(entry)

    def _end_pause(self) -> None:
        self.is_still = False
        self._paused_until = 0
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
