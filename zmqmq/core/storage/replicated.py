"""What a follower takes from a leader as its next batch (F8)."""

from __future__ import annotations

from zmqmq.batch.decode import check_batch
from zmqmq.batch.layout import BatchHeader
from zmqmq.errors import CorruptDataError
from zmqmq.model.limits import BATCH_BYTES_MAX


def check_next(
    view: memoryview, position: int, seed: int, *, offset: int, epoch: int, append_ms: int
) -> BatchHeader:
    """The header of the batch at `position`, which comes at `offset` behind one of this leader
    epoch and append time.

    Every leader stamps a time that is not below that of the batch before, so times never fall
    along a log, whatever the clocks of its leaders say. Raises CorruptDataError.
    """
    header = check_batch(view, position, seed)
    wrong: str | None = None
    if header.base_offset != offset:
        wrong = f"offset {header.base_offset} stands where {offset} belongs"
    elif header.leader_epoch < epoch:
        wrong = f"leader epoch {header.leader_epoch} comes behind {epoch}"
    elif header.append_time_ms < append_ms:
        wrong = f"append time {header.append_time_ms} comes behind {append_ms}"
    elif header.size > BATCH_BYTES_MAX:
        wrong = f"batch at offset {offset} has {header.size} bytes; the limit is {BATCH_BYTES_MAX}"
    if wrong:
        raise CorruptDataError(wrong)
    return header
