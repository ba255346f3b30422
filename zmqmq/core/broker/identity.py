"""Who this broker is, and what it tells clients about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Fixed for the life of a broker process."""

    broker_id: int
    epoch: int
    """The create_revision of its live key: grows with each start."""
    cluster: bytes
    """16 bytes."""
    server: str
    """Name and version of the software."""
    endpoints: Mapping[str, str]
    """Listener to the `HOST:PORT` that clients are told."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Every setting with its value, for DESCRIBE."""
