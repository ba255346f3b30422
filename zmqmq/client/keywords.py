"""The keywords of `Client.producer` and `Client.consumer`, as type checkers see them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal, TypedDict

from zmqmq.client.options import Acks, Partitioner

Start = str | int | datetime | None
"""`"start"`, `"end"`, `"stored"`, `"@ms"`, an offset, that many before the end, or a time."""


class ProducerKeywords(TypedDict, total=False):
    """The keywords of `Client.producer`."""

    acks: Acks
    linger_ms: int
    batch_bytes: int
    batch_records: int
    compression: Literal["none", "lz4", "zstd"]
    partitioner: Literal["key", "round-robin"] | Partitioner
    idempotent: bool
    in_flight: int
    buffer_bytes: int
    on_full: Literal["block", "refuse"]
    block_ms: int
    delivery_timeout_ms: int
    request_timeout_ms: int | None
    retry_backoff_ms: int


class ConsumerKeywords(TypedDict, total=False):
    """The keywords of `Client.consumer`."""

    group: str | None
    start: Start
    partitions: Iterable[int] | None
    auto_commit: bool
    auto_commit_ms: int
    fetch_bytes: int
    prefetch_bytes: int
    max_wait_ms: int
    mode: Literal["pull", "push", "auto"]
    stop_at_end: bool
    rack: str | None
