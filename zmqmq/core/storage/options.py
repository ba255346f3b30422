"""What an operator can set about storage on one broker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from zmqmq.model.limits import GIB, MIB
from zmqmq.model.setting import Setting, Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOptions:
    """Handed to every log when it is opened."""

    index_interval_bytes: Annotated[
        int,
        Setting(
            "One entry of the sparse index for about this many bytes.",
            minimum=512,
            maximum=1 * MIB,
            unit=Unit.BYTES,
        ),
    ] = 16_384
    allocate_bytes: Annotated[
        int,
        Setting(
            "Segments grow by up to this much at a time, ahead of what is written.",
            minimum=4096,
            maximum=1 * GIB,
            unit=Unit.BYTES,
        ),
    ] = 8 * MIB
    checkpoint_ms: Annotated[
        int,
        Setting(
            "How often recovery points are written: it bounds what a start after a crash scans.",
            minimum=100,
            unit=Unit.MS,
        ),
    ] = 10_000
    retention_check_ms: Annotated[
        int,
        Setting("How often retention and compaction look for work.", minimum=100, unit=Unit.MS),
    ] = 10_000
    flusher: Annotated[
        str,
        Setting(
            "Who flushes: `auto` lets a kernel thread do small groups where the kernel offers "
            "that (Linux AIO), `threads` uses threads of the broker for all.",
            choices=("auto", "threads"),
        ),
    ] = "auto"
    producer_expiry_ms: Annotated[
        int,
        Setting(
            "A producer that appended nothing to a partition for this long is forgotten there.",
            minimum=60_000,
            unit=Unit.MS,
        ),
    ] = 7 * 86_400_000
    producers_max: Annotated[
        int, Setting("Idempotent producers remembered for each partition.", minimum=1)
    ] = 10_000
    free_bytes_min: Annotated[
        int,
        Setting(
            "Appends are refused with DISK_FULL while the disk has less room than this.",
            unit=Unit.BYTES,
        ),
    ] = 64 * MIB
