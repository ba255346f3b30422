"""Which segments age, size or the log's own growth say to end or to drop. Pure."""

from __future__ import annotations

from zmqmq.core.storage.log import Log


def should_roll(log: Log, now_ms: int) -> bool:
    """Whether the last segment is old enough to be ended, so that retention can come to it."""
    active = log.segments[-1]
    if active.is_empty:
        return False
    config = log.config
    limit = config.segment_ms
    if config.cleanup == "delete" and config.retention_ms:
        limit = min(limit, config.retention_ms)
    return now_ms - active.first_append_ms >= limit


def retained_start(log: Log, now_ms: int, high_watermark: int) -> int:
    """Where the log should begin: the base of a segment, never beyond what is committed (L16).

    The last segment is never dropped. Ages are those of append times, so that a producer with a
    wrong clock can neither keep its records for ever nor have them dropped at once.
    """
    config = log.config
    start = log.start_offset
    if config.cleanup != "delete":
        return start
    size = log.size_bytes
    end = min(high_watermark, log.flushed_base)
    for segment, following in zip(log.segments, log.segments[1:], strict=False):
        if following.base_offset > end:
            break
        too_old = config.retention_ms and now_ms - segment.last_append_ms > config.retention_ms
        too_large = config.retention_bytes and size > config.retention_bytes
        if not (too_old or too_large):
            break
        size -= segment.size
        start = following.base_offset
    return start
