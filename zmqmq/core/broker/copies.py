"""Reads that a broker answers which does not lead the partition (F11, KIP-392).

A copy that follows knows what is committed as far as its leader has told, and shows no more. It
never says that an offset is out of range, or that what was read before it was lost: its log may be
behind, or about to be cut. Whoever asks for what it cannot show is sent to the leader.
"""

from __future__ import annotations

from zmqmq.core.broker.identity import Identity
from zmqmq.core.broker.known_epochs import epochs_of
from zmqmq.core.broker.leading import Leading
from zmqmq.core.broker.replica import Replica
from zmqmq.core.control.image import Image
from zmqmq.core.replication.divergence import parted
from zmqmq.core.replication.partition import Partition
from zmqmq.core.replication.vouching import Place
from zmqmq.core.storage.log import Log
from zmqmq.errors import Code, WireError, refusal
from zmqmq.model.now import Now


class Copy:
    """A replica that does not lead, as consumers read it in one leader epoch."""

    __slots__ = ("_last", "_replica", "epoch", "log", "place")

    def __init__(self, replica: Replica, log: Log, last: int | None) -> None:
        """`last` is the leader epoch of the last record that was read before, if it is known."""
        self._replica = replica
        self._last = last
        self.log = log
        """As it was when the epoch began, or when it was cut."""
        self.place: Place = replica.place
        self.epoch = replica.adopted

    @property
    def is_closed(self) -> bool:
        """Whether this epoch is over for it, or its log is another one, or is being cut."""
        replica = self._replica
        return (
            replica.log is not self.log
            or replica.adopted != self.epoch
            or not replica.is_usable
            or isinstance(replica.role, Partition)
        )

    @property
    def shown_end(self) -> int:
        """Behind this offset nothing is shown. What has just come may not be written out yet."""
        return min(self._replica.high_watermark, self.log.written_end)

    def check(self, offset: int) -> None:
        """Whether it can show what comes from this offset on, and what was read before it is what
        stands here (F12): once when it is asked for, and again when it has come. Raises the
        refusal NOT_LEADER."""
        if self.is_closed:
            raise self.refusal("was cut, or is of another epoch now")
        log, last = self.log, self._last
        if offset < log.start_offset:
            raise self.refusal(f"begins at offset {log.start_offset}")
        if last is None or offset > self.shown_end:
            return  # nothing can be compared, or not yet
        if parted(log, offset, last) is not None:
            raise self.refusal(f"is not what was read up to offset {offset} in leader epoch {last}")

    def refusal(self, why: str) -> WireError:
        """Ask the leader."""
        return refusal(Code.NOT_LEADER, f"{self.log.name}: the copy on this broker {why}")


def open_copy(replica: Replica | None, offset: int, epochs: list[object]) -> Copy | None:
    """The copy, if it may be read by whoever knows these epochs (F12); None if there is none that
    can be read, or it leads. Raises the refusal NOT_LEADER."""
    if replica is None or replica.log is None or isinstance(replica.role, Partition):
        return None
    known, last = epochs_of(epochs)
    copy = Copy(replica, replica.log, last)
    if copy.is_closed:
        return None
    if known is not None and known != copy.epoch:
        raise copy.refusal(f"is of leader epoch {copy.epoch}, and the request of {known}")
    if last is not None and last > copy.epoch:
        raise copy.refusal(f"is of leader epoch {copy.epoch}, and epoch {last} was read")
    copy.check(offset)
    return copy


class Nearest:
    """Where else a consumer can read what this broker leads."""

    def __init__(self, image: Image, identity: Identity, leading: Leading) -> None:
        self._image = image
        self._identity = identity
        self._leading = leading

    def find(self, now: Now, partition: Partition, offset: int, rack: str) -> int | None:
        """The in-sync broker in this rack that has the offset, and most behind it; None: read here.

        Such a broker is told of a new high watermark at once from now on, and not only when
        something else is told (KAFKA-9731).
        """
        if rack == self._identity.rack:
            return None
        best, reach = None, -1
        for member in partition.isr.document.isr:
            known = self._image.brokers.get(member.broker_id)
            progress = partition.isr.progress_of(member)
            if (
                progress is not None
                and known is not None
                and known.live is not None
                and known.live.rack == rack
                and known.epoch == member.broker_epoch
                and progress.log_start <= offset <= progress.written
                and progress.written > reach
            ):
                best, reach = member.broker_id, progress.written
        if best is not None:
            self._leading.note_readers(now, partition.place)
        return best
