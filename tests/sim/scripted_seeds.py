"""Runs that end as their seed says, for what starts runs.

python -m tests.sim.scripted_seeds FOLDER SECONDS  begins with two quick ones, then each takes an
                                                   hour; may take so many seconds
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from zmqmq.sim.soak import Outcome, soak

FIRST = 100
HANG_S = 3_600.0


def quick(seed: int) -> Outcome:
    """Nothing happens."""
    return Outcome(seed, 10**9, 1, {}, {}, {}, "")


def slow(seed: int) -> Outcome:
    """All but the first two take until they are broken off."""
    if seed >= FIRST + 2:
        time.sleep(HANG_S)
    return quick(seed)


def attempt(seed: int) -> Outcome:
    """Some raise, some end their process, some hang."""
    match seed:
        case 3:
            raise ValueError("of seed 3")
        case 5:
            os.kill(os.getpid(), signal.SIGKILL)
        case 7:
            os._exit(7)
        case 9:
            time.sleep(HANG_S)
        case 10:
            stay_whatever_comes()
    return quick(seed)


def stay_whatever_comes() -> None:
    """As a simulated machine that catches what is raised in it."""
    while True:
        with contextlib.suppress(Exception):
            time.sleep(HANG_S)


if __name__ == "__main__":
    folder, seconds = sys.argv[1:]
    soak(Path(folder), print, first=FIRST, processes=2, attempt=slow, seconds_max=int(seconds))
