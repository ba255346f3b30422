"""Who this broker is, and what it tells clients about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Identity:
    """Fixed for the life of a broker process, but for the epoch."""

    broker_id: int
    epoch: int = 0
    """The create_revision of its live key: grows with each registration. 0 before the first."""
    cluster: bytes
    """16 bytes."""
    server: str
    """Name and version of the software."""
    instance: bytes
    """16 random bytes of this process."""
    rack: str | None = None
    is_alone: bool
    """Whether its metadata store is its own, so that there can be no other broker."""
    endpoints: Mapping[str, str]
    """Listener to the `HOST:PORT` that others are told."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Every setting with its value, for DESCRIBE."""
