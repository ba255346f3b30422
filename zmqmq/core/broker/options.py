"""What an operator can set about serving clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from zmqmq.model.limits import GIB, MIB
from zmqmq.model.setting import Setting, Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """Handed to the broker machine when it is built."""

    sessions_max: Annotated[
        int, Setting("Clients that may be connected at the same time.", minimum=1)
    ] = 10_000
    session_lease_ms: Annotated[
        int,
        Setting(
            "A session from which nothing comes for this long is closed.",
            minimum=1_000,
            unit=Unit.MS,
        ),
    ] = 60_000
    credit_bytes: Annotated[
        int,
        Setting(
            "Replies that one client may have outstanding, not yet read.",
            minimum=1 * MIB,
            unit=Unit.BYTES,
        ),
    ] = 16 * MIB
    memory_bytes: Annotated[
        int,
        Setting(
            "Memory for all outstanding replies and all requests that wait for the disk.",
            minimum=16 * MIB,
            unit=Unit.BYTES,
        ),
    ] = 256 * MIB
    read_cache_bytes: Annotated[
        int,
        Setting(
            "What was read last stays in memory, so that consumers near the same position share "
            "one read; 0: nothing does.",
            maximum=64 * GIB,
            unit=Unit.BYTES,
        ),
    ] = 16 * MIB
    fetches_max: Annotated[
        int, Setting("Fetches of one session that may wait for records at a time.", minimum=1)
    ] = 64
    unflushed_bytes: Annotated[
        int,
        Setting(
            "Appended bytes that may wait for the disk; beyond it produce is answered THROTTLED.",
            minimum=4 * MIB,
            unit=Unit.BYTES,
        ),
    ] = 128 * MIB
    partitions_max: Annotated[
        int, Setting("Partitions of all topics together on this broker.", minimum=1)
    ] = 100_000
    offsets_partitions: Annotated[
        int,
        Setting(
            "Partitions of the internal topic of committed offsets, fixed when it is made.",
            minimum=1,
            maximum=1_000,
        ),
    ] = 8
    offsets_replicas: Annotated[
        int,
        Setting(
            "Replicas of the internal topic of committed offsets, which waits for so many brokers "
            "to be made; 0: 3, or as many as there are then.",
            maximum=15,
        ),
    ] = 0
    unclean_wait_ms: Annotated[
        int,
        Setting(
            "So long nobody may lead a partition with unclean_election=on before who has most "
            "does, and records may be lost. By then whoever was only late has come back.",
            minimum=500,
            unit=Unit.MS,
        ),
    ] = 10_000
