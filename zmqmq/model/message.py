"""A record as producers and consumers see it."""

from __future__ import annotations

from typing import NamedTuple

Headers = tuple[tuple[str, bytes], ...]


class Record(NamedTuple):
    """One stored record.

    A tuple, because a consumer makes millions of them a second and nothing in Python is made or
    read faster.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    """When the producer says it happened: ms since 1970, UTC."""
    key: bytes | None
    value: bytes | None
    """None is a tombstone: on a compacted topic it deletes the key."""
    headers: Headers
    tag: str | None
