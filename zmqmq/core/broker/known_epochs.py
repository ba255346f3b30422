"""F12: leader epochs that a consumer knows, against those of the log that it reads (KIP-320).

A consumer that says under whom it has read what lies before its offset hears when that is not what
stands here: after an election that lost records, or from a broker that has not heard of one.
"""

from __future__ import annotations

from zmqmq.core.replication.divergence import parted
from zmqmq.core.replication.partition import Partition
from zmqmq.errors import Code, refusal
from zmqmq.model.limits import INTEGER_MAX
from zmqmq.wire.schema import malformed, whole


def check_epochs(partition: Partition, offset: int, epochs: list[object]) -> None:
    """`epochs` may have the leader epoch that the consumer knows and that of the last record it has
    read before `offset`; nil stands for either.

    Raises refusals: NOT_LEADER of a newer leader, FENCED_LEADER_EPOCH, OFFSET_OUT_OF_RANGE.
    """
    known, last = epochs_of(epochs)
    mine = partition.epoch
    if (known is not None and known > mine) or (last is not None and last > mine):
        raise refusal(
            Code.NOT_LEADER,
            f"{partition.name} was led in a later epoch than {mine}, which is the last one that "
            "this broker knows of",
        )
    if known is not None and known < mine:
        raise refusal(
            Code.FENCED_LEADER_EPOCH,
            f"{partition.name} is led in epoch {mine} now; the request is of epoch {known}",
            {"leader": partition.isr.me.broker_id, "leader_epoch": mine},
        )
    log = partition.log
    if last is None or offset < log.start_offset:
        return
    at = parted(log, offset, last)
    if at is not None:
        raise refusal(
            Code.OFFSET_OUT_OF_RANGE,
            f"{partition.name} is not what was read up to offset {offset} in leader epoch {last}: "
            f"from offset {at} on records were lost in an election. Seek to where to go on",
            {"log_start": log.start_offset, "end": log.end_offset, "parted": at},
        )


def epochs_of(epochs: list[object]) -> tuple[int | None, int | None]:
    """The two, None for what is not there. Raises refusal(MALFORMED)."""
    known = _epoch(epochs[0]) if epochs else None
    return known, _epoch(epochs[1]) if len(epochs) > 1 else None


def _epoch(value: object) -> int | None:
    """Raises refusal(MALFORMED)."""
    value = whole(value)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= INTEGER_MAX:
        raise malformed(f"an entry of 'partitions' has {value!r:.100} where a leader epoch belongs")
    return value
