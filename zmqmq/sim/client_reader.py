"""A consumer in the simulated world: fetched bytes to batches, as client/reading.py does.

The consumer machine fetches ahead; whoever reads calls `poll` when it likes, and `notify` of its
own when there is something. Nothing is committed but by `commit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from zmqmq.batch.decode import RecordBatch, decode_batches
from zmqmq.batch.layout import log_seed
from zmqmq.client.machines.consumer import Consumer
from zmqmq.client.machines.stream import Chunk, Place
from zmqmq.client.options import ConsumerOptions
from zmqmq.client.trimmed import trimmed
from zmqmq.errors import CorruptDataError, ZmqmqError
from zmqmq.sim.client_host import ClientHost, Then
from zmqmq.sim.history import Log


class SimConsumer:
    """Reads topics, or those partitions of one that the options name."""

    def __init__(
        self,
        host: ClientHost,
        options: ConsumerOptions,
        topics: Sequence[str],
        start: Place,
        on_news: Callable[[], object],
    ) -> None:
        self._host = host
        self._on_news = on_news
        self._prefetch_bytes = options.prefetch_bytes
        self._generations: dict[Log, int] = {}
        self._chunk: Chunk | None = None
        self._batches: Iterator[RecordBatch] = iter(())
        self.machine: Consumer = host.core.add_consumer(options, start, topics, self)
        host.pump_soon()

    @property
    def positions(self) -> dict[Log, int]:
        """Where the machine fetches next, of every partition whose place is known by now."""
        return {
            log: stream.position
            for log, stream in self.machine.streams.items()
            if stream.place is None
        }

    @property
    def is_dry(self) -> bool:
        """Whether all that was fetched has been handed out."""
        return self._chunk is None and not self.machine.chunks

    def poll(self) -> RecordBatch | ZmqmqError | None:
        """The next batch that lies ready, or what went wrong once all before it was read."""
        while True:
            try:
                batch = next(self._batches, None)
            except CorruptDataError as error:
                self._give_up_chunk()
                return error
            if batch is None:
                if not self._next_chunk():
                    return self._next_error()
                continue
            chunk = self._chunk
            assert chunk is not None
            mine = trimmed(batch, chunk.position, chunk.stop_at)
            if mine is not None and not batch.header.is_control:
                return mine

    def seek(self, topic: str, partition: int, place: Place) -> None:
        """Go on elsewhere."""
        now = self._host.node.monotonic_ns()
        self.machine.seek(now, topic, partition, self._forget(topic, partition), place)
        self._host.pump_soon()

    def commit(self, offsets: dict[Log, int], then: Then) -> None:
        """Commit for the group; `then` gets None or the error."""
        commits, node = self.machine.commits, self._host.node
        assert commits is not None
        now = node.monotonic_ns()
        commits.commit(now, offsets, now + self._host.core.request_timeout, then)
        self._host.pump_soon()

    def close(self) -> None:
        """Fetch nothing more."""
        self._host.core.remove_consumer(self._host.node.monotonic_ns(), self.machine)

    def notify(self) -> None:
        """The machine has something new, or thinks that it is time to commit."""
        self._on_news()

    def _next_chunk(self) -> bool:
        machine = self.machine
        self._chunk = None
        while machine.chunks:
            chunk = machine.chunks.popleft()
            machine.taken += len(chunk.data)
            if machine.is_starved and machine.buffered_bytes * 2 <= self._prefetch_bytes:
                machine.is_starved = False
                self._host.pump_soon()
            key = chunk.stream.topic, chunk.stream.partition
            if chunk.generation == self._generations.get(key, 0):
                self._chunk = chunk
                seed = log_seed(chunk.topic_id, chunk.stream.partition)
                self._batches = decode_batches(chunk.data, seed, *key)
                return True
        return False

    def _next_error(self) -> ZmqmqError | None:
        for errors in (self.machine.start_errors, self.machine.errors):
            if errors:
                return errors.popleft()
        return None

    def _forget(self, topic: str, partition: int) -> int:
        """What was fetched of this partition is stale; its new generation."""
        key = topic, partition
        self._generations[key] = generation = self._generations.get(key, 0) + 1
        chunk = self._chunk
        if chunk is not None and (chunk.stream.topic, chunk.stream.partition) == key:
            self._batches, self._chunk = iter(()), None
        return generation

    def _give_up_chunk(self) -> None:
        chunk = self._chunk
        assert chunk is not None
        topic, partition = chunk.stream.topic, chunk.stream.partition
        now = self._host.node.monotonic_ns()
        self.machine.stop(now, topic, partition, self._forget(topic, partition))
