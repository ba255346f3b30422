"""What a follower takes from a leader as its next batch (F8)."""

from __future__ import annotations

from typing import NamedTuple

from zmqmq.batch.decode import check_batch
from zmqmq.batch.layout import BatchHeader
from zmqmq.errors import CorruptDataError
from zmqmq.model.limits import BATCH_BYTES_MAX


class Last(NamedTuple):
    """The last batch that a log has."""

    next_offset: int
    epoch: int
    append_ms: int


def check_next(view: memoryview, position: int, seed: int, last: Last) -> BatchHeader:
    """The header of the batch at `position`, if that may come next.

    Every leader stamps a time that is not below that of the batch before, so times never fall
    along a log, whatever the clocks of its leaders say. Raises CorruptDataError.
    """
    header = check_batch(view, position, seed)
    wrong: str | None = None
    if header.base_offset != last.next_offset:
        wrong = f"offset {header.base_offset} stands where {last.next_offset} belongs"
    elif header.leader_epoch < last.epoch:
        wrong = f"leader epoch {header.leader_epoch} comes behind {last.epoch}"
    elif header.append_time_ms < last.append_ms:
        wrong = f"append time {header.append_time_ms} comes behind {last.append_ms}"
    elif header.size > BATCH_BYTES_MAX:
        wrong = f"a batch of {header.size} bytes is over the limit of {BATCH_BYTES_MAX}"
    if wrong:
        raise CorruptDataError(wrong)
    return header
