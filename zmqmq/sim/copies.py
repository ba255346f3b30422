"""The brokers' copies of partitions as they were last looked at, so that a look costs little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from zmqmq.core.broker.broker import Broker
from zmqmq.core.broker.replica import Replica
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.core.replication.follower import Follower
from zmqmq.core.replication.isr import Isr, Pending
from zmqmq.core.replication.partition import Partition
from zmqmq.core.replication.vouching import Place, Registration
from zmqmq.core.storage.log import Log, LogKey
from zmqmq.sim.broker_host import BrokerHost
from zmqmq.sim.disk import SimDisk
from zmqmq.sim.observed import Fail, Lineage, Shadow, Tail, Unreadable, stored

YET_TO_COME: Final = 1 << 62
"""Stands for the broker epoch that a process has not got yet."""


class Copy:
    """One copy, in one process."""

    __slots__ = (
        "_former",
        "_tail",
        "document",
        "flushed",
        "high_watermark",
        "is_read",
        "isr",
        "led",
        "life",
        "log",
        "pending",
        "place",
        "replica",
        "role",
        "shadow",
        "start",
        "was_cut",
        "written",
    )

    def __init__(self, life: Life, replica: Replica, former: Shadow | None) -> None:
        self.life = life
        self._former = former
        """What the process before had of it."""
        self.replica = replica
        self.place: Place = replica.place
        self.log: Log | None = None
        self.shadow = Shadow(0)
        self.is_read = False
        """Whether what the log has is known."""
        self._tail = Tail()
        self.start = self.written = self.flushed = self.high_watermark = 0
        self.role: Partition | Follower | None = None
        self.isr: Isr | None = None
        self.document: PartitionDocument | None = None
        self.pending: Pending | None = None
        """If it leads: what it makes of its document."""
        self.led = -1
        """The last leader epoch in which it led."""
        self.was_cut = False
        """Opened, or made shorter, when it was last looked at."""

    def __str__(self) -> str:
        role = self.role
        what = "no role" if role is None else f"{type(role).__name__} of epoch {role.epoch}"
        return (
            f"{self.life}: {what}, {self.replica.phase.value}, log {self.start} to {self.written} "
            f"(flushed {self.flushed}), high watermark {self.high_watermark}, last batch "
            f"{self.shadow.last or '-'}"
        )

    @property
    def is_known(self) -> bool:
        """Whether there is a log, and all that it says it has is there."""
        log = self.replica.log
        return self.is_read and log is not None and not (log.failed or log.damage)

    def is_changed(self, replica: Replica) -> bool:
        """Whether there is anything new to see, or another replica has taken its place."""
        log, role = replica.log, replica.role
        if replica is not self.replica or log is not self.log or role is not self.role:
            return True
        if log is None:
            return False
        written = self.written
        if (
            (log.end_offset != written and log.written_end != written)
            or log.flushed_end != self.flushed
            or log.start_offset != self.start
        ):
            return True
        if role is None:
            return False
        isr = self.isr
        return role.high_watermark != self.high_watermark or (
            isr is not None
            and (isr.document is not self.document or isr.pending is not self.pending)
        )

    def take_role(self) -> bool:
        """Remember the role of now; whether it is a new one."""
        role = self.replica.role
        is_new, self.role = role is not self.role, role
        self.isr = self.document = self.pending = None
        if isinstance(role, Partition):
            self.isr = role.isr
            self.document, self.pending = role.isr.document, role.isr.pending
        return is_new

    def read(self, lineage: Lineage | None, fail: Fail) -> bool:
        """Follow the log; False if there is none, or nothing certain in it. `lineage` is None if
        batches may be replaced by others."""
        log = self.replica.log
        if log is not self.log:
            self.log, self.is_read = log, False
        if log is None or log.failed:
            return False
        if log.damage:
            # What it had is as good as it was, and may yet be flushed before it is put aside.
            if self.is_read and log.written_end == self.written:
                self.flushed = log.flushed_end
            return False
        is_same = self.is_read and log.written_end == self.written
        if is_same and log.start_offset == self.start:
            self.flushed, self.was_cut = log.flushed_end, False
            return True
        try:
            self._follow(log, lineage, fail)
        except Unreadable as error:
            if not self.life.disk.is_rotten:
                fail("I11", str(error))
            self.is_read = False
            return False
        self.is_read = True
        self.start, self.flushed, self.written = log.start_offset, log.flushed_end, self.shadow.end
        return True

    def _follow(self, log: Log, lineage: Lineage | None, fail: Fail) -> None:
        shadow, start, end = self.shadow, log.start_offset, log.written_end
        self.was_cut = True
        if not self.is_read:
            shadow = self.shadow = Shadow(start)
        elif self.start < start <= shadow.end <= end:
            shadow.drop(start)
            self.was_cut = False
        elif start != self.start:
            shadow = self.shadow = Shadow(start)
        elif end < shadow.end:
            shadow.cut(end)
        else:
            self.was_cut = False
        if self.was_cut:
            self._tail = Tail()
        self._extend(log, end, lineage, fail)
        if shadow.end != end:
            fail("I11", f"its log ends at {end}, and its last batch at {shadow.end}")
        if lineage is not None and log.end_offset == end:
            self._check_epochs(log, fail)

    def _extend(self, log: Log, end: int, lineage: Lineage | None, fail: Fail) -> None:
        shadow = self.shadow
        if shadow.end >= end:
            return
        for batch, _ in stored(
            self.life.disk, log, shadow.end, end, tail=self._tail, former=self._former
        ):
            if lineage is not None:
                lineage.note(batch, shadow.last, str(self.life), fail)
            shadow.add(batch)

    def _check_epochs(self, log: Log, fail: Fail) -> None:
        """I30: the index of leader epochs is a function of the log (D14)."""
        last = self.shadow.last
        if last is not None and log.epochs.latest != last.epoch:
            fail("I30", f"its last epoch is {log.epochs.latest}, that of its last batch {last}")
        if not self.was_cut:
            return
        first = self.shadow.start - 1 if last is None else self.shadow.batches[0].base
        index = [entry for entry in log.epochs.snapshot() if entry[1] > first]
        if index != self.shadow.epochs():
            fail("I30", f"its epochs are {index}, those of its batches {self.shadow.epochs()}")


class Life:
    """One process of a broker."""

    __slots__ = (
        "_by_place",
        "_first_epoch",
        "_formers",
        "broker",
        "copies",
        "epoch",
        "epochs",
        "host",
    )

    def __init__(self, host: BrokerHost, broker: Broker, before: Life | None) -> None:
        self.host = host
        self.broker = broker
        self.epoch = 0
        self.epochs: list[int] = []
        """Broker epochs in which it has served."""
        self.copies: list[Copy] = []
        """In the order of its replicas."""
        self._by_place: dict[Place, Copy] = {}
        self._formers: dict[Place, Shadow] = before.shadows if before else {}
        self._first_epoch = broker.membership.format.epoch
        """That of the process before."""

    def __str__(self) -> str:
        return f"b{self.host.broker_id}@{self.epoch}"

    @property
    def is_running(self) -> bool:
        """Whether this is the broker's process of now."""
        return self.host.broker is self.broker

    @property
    def disk(self) -> SimDisk:
        """Where its logs are; only while it runs."""
        return self.host.disk

    @property
    def shadows(self) -> dict[Place, Shadow]:
        """What it has, or those before it had of what it has not read."""
        return self._formers | {copy.place: copy.shadow for copy in self.copies if copy.is_read}

    def copy_of(self, place: Place) -> Copy | None:
        """Its copy of a partition."""
        return self._by_place.get(place)

    def follow(self, replicas: Mapping[Place, Replica]) -> None:
        """Its replicas are others now."""
        known = {copy.replica: copy for copy in self.copies}
        self.copies = [
            known.get(r) or Copy(self, r, self._formers.get(r.place)) for r in replicas.values()
        ]
        self._by_place = {copy.place: copy for copy in self.copies}

    def registration(self, place: Place) -> Registration:
        """What it says of its data, or will say when it registers (D4, D5)."""
        form = self.broker.membership.format
        is_registered = form.epoch != self._first_epoch
        folder = LogKey(*place).folder
        unvouched = {place: form.unvouched[folder]} if folder in form.unvouched else {}
        epoch = form.epoch if is_registered else YET_TO_COME
        return Registration(epoch, form.since_fsync, form.since_clean, unvouched)
