"""One copy of a partition on this broker: its log, and the role that it has now."""

from __future__ import annotations

import enum

from zmqmq.core.replication.follower import Follower
from zmqmq.core.replication.partition import Partition
from zmqmq.core.replication.vouching import Place
from zmqmq.core.storage.log import Log, LogKey
from zmqmq.core.storage.recovery import Checkpoint


class Phase(enum.Enum):
    """What can be done with the log."""

    OPENING = "opening"
    FLUSHING = "flushing"
    """Open, and what was found in it not yet flushed: nothing of it counts (D3)."""
    READY = "ready"
    CUTTING = "cutting"
    """The world truncates it."""
    BROKEN = "broken"


class Replica:
    """Lives as long as this broker is one of the partition's replicas, or the process."""

    __slots__ = (
        "adopted",
        "cut_to",
        "cut_with",
        "key",
        "log",
        "phase",
        "rec",
        "role",
        "saved_high_watermark",
        "why",
    )

    def __init__(self, key: LogKey) -> None:
        self.key = key
        self.log: Log | None = None
        self.phase = Phase.OPENING
        self.role: Partition | Follower | None = None
        self.adopted = -1
        """The highest leader epoch that this process has seen (L1, F1)."""
        self.rec = 0
        """The highest `rec` of its documents (D9)."""
        self.saved_high_watermark = 0
        """Where it stood when the last role ended."""
        self.cut_to: int | None = None
        """Where the log is to be cut once it is not being flushed."""
        self.cut_with: bytes | None = None
        self.why = ""
        """Why it is broken."""

    @property
    def place(self) -> Place:
        """Which partition."""
        return self.key.topic_id, self.key.partition

    @property
    def high_watermark(self) -> int:
        """As far as this copy knows, and has of it."""
        role = self.role
        return self.saved_high_watermark if role is None else role.high_watermark

    def drop_role(self) -> Partition | Follower | None:
        """End the role; what it knew of the high watermark stays."""
        role, self.role = self.role, None
        if role is not None:
            self.saved_high_watermark = role.high_watermark
        return role

    @property
    def is_usable(self) -> bool:
        """Whether its log may be read, rolled and shortened from its start just now."""
        log = self.log
        return self.phase is Phase.READY and log is not None and not (log.failed or log.damage)

    def checkpoint(self, *, clean: bool) -> Checkpoint | None:
        """What the checkpoint file should say of it now; None: what it says already."""
        log = self.log
        if log is None or self.phase is Phase.CUTTING:
            return None
        usable = not (log.failed or log.damage)
        committed = min(self.high_watermark, log.flushed_end)  # (D3)
        return Checkpoint(log.recovery_point, log.start_offset, clean and usable, committed)
