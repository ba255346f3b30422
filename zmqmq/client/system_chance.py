"""What the machines are lent of chance (machines/effects.py)."""

from __future__ import annotations

import os
import random


class SystemChance:
    """Randomness of the operating system."""

    def jitter(self) -> int:
        """A number from 0 to 999."""
        return random.randrange(1_000)  # noqa: S311 - spreads retries, hides nothing

    def session_id(self) -> bytes:
        """16 random bytes."""
        return os.urandom(16)
