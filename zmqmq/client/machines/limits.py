"""What one broker accepts of a client, as it says in HELLO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from zmqmq.model.limits import (
    BATCH_BYTES_MAX,
    BATCHES_IN_FLIGHT_MAX,
    FRAMES_MAX,
    REQUEST_BYTES_MAX,
)
from zmqmq.wire.frame import Fields

PARTITIONS_AT_ONCE: Final = 1_000
"""Partitions in one request: what surely fits a header of 64 KiB."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the broker accepts; before HELLO is answered, what any broker does."""

    request_bytes: int = REQUEST_BYTES_MAX
    frames: int = FRAMES_MAX
    batch_bytes: int = BATCH_BYTES_MAX
    batches_in_flight: int = BATCHES_IN_FLIGHT_MAX
    """Of one producer on one partition."""


def limits_of(told: Fields) -> Limits:
    """The broker's limits where they are narrower than ours; nonsense is ignored."""
    ours = Limits()

    def narrower(name: str, own: int) -> int:
        value = told.get(name)
        return min(value, own) if type(value) is int and value > 0 else own

    return Limits(
        request_bytes=narrower("request_bytes", ours.request_bytes),
        frames=narrower("frames", ours.frames),
        batch_bytes=narrower("batch_bytes", ours.batch_bytes),
        batches_in_flight=narrower("in_flight", ours.batches_in_flight),
    )
