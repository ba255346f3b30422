"""Where two logs part: what the leader tells a follower, and how far that one goes back (F4, F5).

A batch is known by (leader epoch, offset), for an epoch has one leader. So two logs are equal up to
the end of the last epoch that both have, in the one where it ends earlier.
"""

from __future__ import annotations

from zmqmq.core.storage.log import Log


def end_offset_for(log: Log, epoch: int) -> tuple[int, int]:
    """The last epoch in the log that is not above `epoch`, and where it ends."""
    return log.epochs.end_offset_for(epoch, log.start_offset, log.end_offset)


def divergence(log: Log, written: int, last_epoch: int) -> tuple[int, int] | None:
    """F4: what to tell a follower whose log ends at `written` with `last_epoch`, if it is not a
    prefix of the leader's `log`."""
    if last_epoch < 0:
        return None
    epoch, end = end_offset_for(log, last_epoch)
    return (epoch, end) if epoch < last_epoch or end < written else None


def parted(log: Log, offset: int, last_epoch: int) -> int | None:
    """F12: from where on the log is not the one that a consumer has read, who wants `offset` next
    and read its last record in `last_epoch`; None: it is, as far as can be known.

    Compaction drops whole epochs, and has batches reach over what was dropped behind them: what it
    may have changed proves nothing.
    """
    if log.config.cleanup == "compact":
        return None
    found = divergence(log, offset, last_epoch)
    return None if found is None else min(found[1], offset)


def cut_for(log: Log, epoch: int, end: int) -> int:
    """F5: where a follower truncates that was told (epoch, end). If it has not this epoch itself it
    goes back to one before, and asks again."""
    _, own_end = end_offset_for(log, epoch)
    return min(end, own_end, log.end_offset)
