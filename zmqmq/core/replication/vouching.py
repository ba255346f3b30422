"""Whether an entry of a partition document still stands for complete data (D4, D5).

An entry of ISR or ELR names one incarnation of a broker. A later incarnation of the same broker
may speak for it, if its data directory has lost nothing of what the earlier one reported: under
`fsync` that survives a kill and a power cut, under `replicated` only a clean stop. The live key
says from which broker epoch on that holds, and for which partitions it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.values import FlushMode

Place = tuple[bytes, int]
"""Topic id and partition."""


class Registration(NamedTuple):
    """What the live key of a broker says of its data."""

    epoch: int
    """Its create_revision."""
    since_fsync: int | None
    """The first epoch whose flushed data is still there; None: only this one's."""
    since_clean: int | None
    """The first epoch of which all data is still there, flushed or not; None: only this one's."""
    unvouched: Mapping[Place, int | None]
    """Partitions that were damaged or lost: the first epoch of those that count; None: only this
    one."""


def vouches(
    entry: Member, registration: Registration | None, place: Place, flush: FlushMode
) -> bool:
    """Whether who is registered now has all that the incarnation in `entry` reported."""
    if registration is None:
        return False
    if entry.broker_epoch == registration.epoch:
        return True
    since = registration.since_fsync if flush == "fsync" else registration.since_clean
    if since is None:
        return False
    if place in registration.unvouched:
        again = registration.unvouched[place]
        if again is None:
            return False
        since = max(since, again)
    return since <= entry.broker_epoch < registration.epoch
