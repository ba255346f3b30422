"""Checkpoints, retention and compaction of a simulated broker: runtime/housekeeping.py without
threads."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from zmqmq.core.broker.broker import Broker
from zmqmq.core.broker.events import BurstEnded, Event
from zmqmq.core.storage.compaction import Compaction, plan_compaction
from zmqmq.core.storage.data_directory import write_checkpoints
from zmqmq.core.storage.log import unlink
from zmqmq.core.storage.recovery import Checkpoint
from zmqmq.core.storage.retention import retained_start, should_roll
from zmqmq.errors import StorageError, ZmqmqError
from zmqmq.sim.chance import Stream
from zmqmq.sim.disk import SimDisk
from zmqmq.sim.host_options import HostOptions
from zmqmq.sim.node import Node

JITTER: Final = 4
"""A period is up to a quarter longer than it is set."""


class Host(Protocol):
    """The machine that it is on."""

    broker: Broker | None
    disk: SimDisk
    checkpoints: dict[str, Checkpoint]
    rarely: Counter[str]

    def feed(self, event: Event) -> None:
        """Hand an event to the broker."""
        ...


class Housekeeper:
    """Lives as long as its process."""

    def __init__(self, host: Host, node: Node, options: HostOptions, stream: Stream) -> None:
        self._host = host
        self._node = node
        self._options = options
        self._stream = stream
        self._is_stopped = False
        self._compacted: dict[str, int] = {}
        self._every(options.checkpoint_ns, self.write)
        self._every(options.retention_ns, self._retain)

    def stop(self) -> None:
        """Do nothing more by itself."""
        self._is_stopped = True

    def forget(self, folder: str) -> None:
        """A log was deleted."""
        self._host.checkpoints.pop(folder, None)
        self._compacted.pop(folder, None)

    def write(self, *, clean: bool = False) -> bool:
        """Write the checkpoint of all logs as they are now; whether the disk took it."""
        host = self._host
        assert host.broker is not None
        for replica in host.broker.replicas:
            row = replica.checkpoint(clean=clean)
            if row is not None:
                host.checkpoints[replica.key.folder] = row
        try:
            write_checkpoints(host.disk, host.checkpoints)
        except StorageError:
            return False  # it is tried again
        for log in host.broker.replicas.logs:
            row = host.checkpoints.get(log.key.folder)
            if row is not None:
                log.note_checkpoint(row.recovery_point, row.high_watermark)
        return True

    def _every(self, period: int, work: Callable[[], object]) -> None:
        def go() -> None:
            if self._is_stopped:
                return
            work()
            again()

        def again() -> None:
            wait = period + self._stream.randrange(period // JITTER)
            self._node.call_at(self._node.monotonic_ns() + wait, go)

        again()

    def _retain(self) -> None:
        broker = self._host.broker
        assert broker is not None
        now_ms = self._node.wall_ms()
        for replica in broker.replicas:
            log = replica.log
            if log is None or not replica.is_usable:
                continue
            start = retained_start(log, now_ms, replica.high_watermark)
            if start > log.start_offset:
                log.drop_before(start)
            try:
                if should_roll(log, now_ms):
                    log.roll(reserve=False)
                plan = plan_compaction(
                    log, now_ms, replica.high_watermark, self._compacted.get(log.key.folder, 0)
                )
                if plan is not None:
                    compaction = Compaction(self._host.disk, log.key, plan, self._options.storage)
                    results = compaction.run(log.segment_bytes)
                    compaction.install(log, results)
                    self._compacted[log.key.folder] = plan.end
                    if results and len(log.producers):
                        self._host.rarely["compaction with producers"] += 1
            except ZmqmqError:
                pass  # it is tried again
            broker.flushing.mark_dirty(log)
        self._unlink()
        self._host.feed(BurstEnded())

    def _unlink(self) -> None:
        broker = self._host.broker
        assert broker is not None
        doomed = [(log, len(log.doomed)) for log in broker.replicas.logs if log.doomed]
        if not doomed or not self.write():
            return
        for log, count in doomed:
            # Those that stay stand below the start: the next start removes them.
            with contextlib.suppress(StorageError):
                unlink(self._host.disk, log.key.folder, log.release_doomed(count))
