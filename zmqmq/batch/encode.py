"""Records to the bytes of a batch."""

from __future__ import annotations

from typing import Any

from zmqmq.batch.columns import Column, pack_columns
from zmqmq.batch.compression import Codec
from zmqmq.batch.layout import pack_producer_part


def encode_batch(
    seed: int,
    values: list[bytes | None],
    *,
    timestamp_ms: int,
    keys: list[bytes | None] | None = None,
    headers: list[list[Any] | None] | None = None,
    tags: list[str | None] | None = None,
    timestamps_ms: list[int] | None = None,
    offset_deltas: list[int] | None = None,
    last_offset_delta: int | None = None,
    codec: Codec = Codec.NONE,
    attributes: int = 0,
    producer_id: int = 0,
    producer_epoch: int = 0,
    base_sequence: int = 0,
) -> bytes:
    """A batch as a producer sends it, the leader's part zeroed.

    `seed` is `layout.log_seed` of the partition. `timestamp_ms` is that of the first record, and of
    all where `timestamps_ms` is None. A record's headers are a flat list [name, value, name, …].
    `offset_deltas` and `last_offset_delta` are for what compaction leaves.
    """
    columns: list[tuple[Column, list[Any]]] = []
    if offset_deltas is not None:
        columns.append((Column.OFFSET_DELTAS, offset_deltas))
    if tags is not None:
        columns.append((Column.TAGS, tags))
    if keys is not None:
        columns.append((Column.KEYS, keys))
    last_timestamp_ms = timestamp_ms
    if timestamps_ms is not None:
        columns.append((Column.TIMESTAMP_DELTAS, [t - timestamp_ms for t in timestamps_ms]))
        last_timestamp_ms = max(timestamps_ms)
    if headers is not None:
        columns.append((Column.HEADERS, headers))
    columns.append((Column.VALUES, values))
    packed, inflated_size = pack_columns(columns, codec)
    count = len(values)
    return pack_producer_part(
        seed,
        packed,
        attributes=attributes | codec,
        last_offset_delta=count - 1 if last_offset_delta is None else last_offset_delta,
        count=count,
        inflated_size=inflated_size,
        first_timestamp_ms=timestamp_ms,
        last_timestamp_ms=last_timestamp_ms,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
    )
