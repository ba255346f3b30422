"""How long to wait before the next attempt."""

from __future__ import annotations

from zmqmq.client.machines.effects import MS, SECOND, Chance

DELAY_MAX = 10 * SECOND


def backoff_delay(first: int, longest: int, failures: int, jitter: int) -> int:
    """Nanoseconds to wait after so many failures in a row, the last one included.

    `jitter`, 0 to 999 thousandths, takes up to a half away.
    """
    full = min(first << min(max(failures - 1, 0), 30), longest)
    return full - full * jitter // 2_000


class Backoff:
    """Exponential delays, each shortened by chance by up to a half.

    The chance keeps a thousand clients whose broker came back from all asking in the same
    millisecond; never more than `longest`, so that nobody sleeps long after it is back.
    """

    __slots__ = ("_chance", "_failures", "_first", "_longest")

    def __init__(self, chance: Chance, first: int = 100 * MS, longest: int = DELAY_MAX) -> None:
        self._chance = chance
        self._first = first
        self._longest = longest
        self._failures = 0

    def next_delay(self) -> int:
        """Nanoseconds to wait after one more failure."""
        self._failures += 1
        return backoff_delay(self._first, self._longest, self._failures, self._chance.jitter())

    @property
    def failures(self) -> int:
        """How often in a row it did not work."""
        return self._failures

    def reset(self) -> None:
        """It worked: begin small again."""
        self._failures = 0
