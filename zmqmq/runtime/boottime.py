"""The clock of deadlines, which goes on while the machine is suspended."""

from __future__ import annotations

import time
from typing import Final

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_s() -> float:
    """Seconds since some moment of the past."""
    return time.clock_gettime(_CLOCK)
