"""Which broker keeps what a group has committed."""

from __future__ import annotations

from crc32c import crc32c


def offsets_partition(group: str, partition_count: int) -> int:
    """Which partition of `__offsets` holds a group; its leader is the group's coordinator."""
    return int(crc32c(group.encode())) % partition_count
