"""A moment, as the world tells it to the machines."""

from __future__ import annotations

from typing import NamedTuple


class Now(NamedTuple):
    """Both clocks at one moment."""

    ns: int
    """Monotonic, for deadlines."""
    ms: int
    """Of the wall, since 1970 UTC, for append times."""
