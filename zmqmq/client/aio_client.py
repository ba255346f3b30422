"""The asyncio client: `zmqmq.aio.connect` and the objects that it leads to."""

from __future__ import annotations

import asyncio
import atexit
import builtins
import os
import time
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, Unpack

from zmqmq.client.aio_cluster import Cluster
from zmqmq.client.aio_consumer import Consumer
from zmqmq.client.aio_loop import AioLoop, Opening
from zmqmq.client.aio_producer import Producer
from zmqmq.client.cluster_operations import ClusterOperations
from zmqmq.client.describing import GroupInfo, TopicDescription, TopicInfo
from zmqmq.client.keywords import ConsumerKeywords, ProducerKeywords
from zmqmq.client.machines.core import Core
from zmqmq.client.machines.effects import MS, Promise
from zmqmq.client.operations import Operations
from zmqmq.client.options import ConnectOptions, ConsumerOptions, ProducerOptions, parse_options
from zmqmq.client.servers import parse_servers
from zmqmq.client.system_chance import SystemChance
from zmqmq.client.version import software


async def connect(
    servers: str | Iterable[str] | None = None,
    *,
    client_name: str = "",
    request_timeout_ms: int = 30_000,
    connect_timeout_ms: int = 10_000,
    interceptors: Iterable[object] = (),
) -> Client:
    """Connect to a cluster, on the running loop. The arguments are those of `zmqmq.connect`.

    Raises:
        DisconnectedError: no server answered; says of each what happened.
        ConfigError: an address or an option is not one.

    Example:
        >>> async with await zmqmq.aio.connect("127.0.0.1:5755") as mq:      # doctest: +SKIP
        ...     await mq.topics.create("orders", partitions=4, if_not_exists=True)
    """
    options = parse_options(
        ConnectOptions,
        {
            "client_name": client_name,
            "request_timeout_ms": request_timeout_ms,
            "connect_timeout_ms": connect_timeout_ms,
            "interceptors": interceptors,
        },
    )
    addresses = parse_servers(servers, os.environ)
    core = Core(
        addresses, software(options.client_name), options.request_timeout_ms, SystemChance()
    )
    aio = AioLoop(core, options.request_timeout_ms / 1000)
    try:
        await aio.connect(options.connect_timeout_ms * MS)
    except BaseException:
        aio.driver.close()
        raise
    return Client(aio, core, options)


class Client:
    """A connection to a cluster. Made by `zmqmq.aio.connect`; belongs to its event loop."""

    def __init__(self, aio: AioLoop, core: Core, options: ConnectOptions) -> None:
        self._aio = aio
        self._core = core
        self._options = options
        self._operations = Operations(core)
        self._producers: weakref.WeakSet[Producer] = weakref.WeakSet()
        self._consumers: weakref.WeakSet[Consumer] = weakref.WeakSet()
        self.topics = Topics(aio, self._operations)
        """Creating, changing and describing topics."""
        self.cluster = Cluster(aio, ClusterOperations(core, self._operations))
        """Brokers, and moving partitions between them."""
        _open.add(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<zmqmq.aio.Client {self.state}>"

    def producer(
        self, topic: str | None = None, **options: Unpack[ProducerKeywords]
    ) -> Opening[Producer]:
        """Make a producer: `await` the result, or use it with `async with`.

        Args:
            topic: where its records go, unless `send` says otherwise.
            **options: see docs/client.md, "Producer".

        Raises:
            NotFoundError: (when awaited) there is no such topic.
            ConfigError: an option is unknown or out of bounds.
        """
        self._aio.driver.check_usable()
        return Opening(self._open_producer(topic, parse_options(ProducerOptions, options)))

    def consumer(self, *topics: str, **options: Unpack[ConsumerKeywords]) -> Opening[Consumer]:
        """Make a consumer: `await` the result, or use it with `async with`.

        Args:
            *topics: what to read. None: nothing until `assign`.
            **options: see docs/client.md, "Consumer".

        Raises:
            NotFoundError: (when awaited) there is no such topic or partition.
            ConflictError: (when awaited) a broadcast consumer of that name is open already.
            CorruptDataError, StorageError: (when awaited) its file is damaged, or cannot be used.
            ConfigError: an option is unknown or out of bounds.
        """
        self._aio.driver.check_usable()
        return Opening(self._open_consumer(topics, parse_options(ConsumerOptions, options)))

    async def offsets(self, topic: str, at: str | int | datetime = "end") -> dict[int, int]:
        """The offset of a place in each partition; see `zmqmq.Client.offsets`."""
        return await self._aio.run(self._operations.offsets(topic, at))

    async def groups(self) -> list[GroupInfo]:
        """All groups, with their committed offsets."""
        return await self._aio.run(self._operations.groups())

    async def describe(
        self,
        kind: str,
        names: Sequence[str] | None = None,
        internal: bool = False,  # noqa: FBT001, FBT002 - as the sync one
    ) -> list[dict[str, Any]]:
        """What DESCRIBE answers, all pages; see `zmqmq.Client.describe`."""
        return await self._aio.run(self._operations.describe(kind, names, internal=internal))

    async def ping(self) -> float:
        """Ask a broker whether it is there; the seconds that the answer took."""
        began = time.perf_counter()
        await self._aio.run(self._operations.ping())
        return time.perf_counter() - began

    @property
    def state(self) -> str:
        """`"connected"`, `"connecting"` (a broker is being looked for) or `"closed"`."""
        if self._aio.driver.is_closed or self._aio.driver.is_forked:
            return "closed"
        ready = any(c.is_ready for c in self._core.network.connections.values())
        return "connected" if ready else "connecting"

    def healthy(self) -> bool:
        """Whether some broker is connected now."""
        return self.state == "connected"

    @property
    def pending_records(self) -> int:
        """Records of all producers that have no outcome yet."""
        return sum(producer.pending_records for producer in list(self._producers))

    async def close(self) -> None:
        """Close consumers, flush and close producers, end every connection."""
        if self.state == "closed":
            return
        try:
            for consumer in list(self._consumers):
                await consumer.close()
            for producer in list(self._producers):
                await producer.close()
        finally:
            self._aio.driver.close()

    async def _open_producer(self, topic: str | None, options: ProducerOptions) -> Producer:
        if topic is not None:
            await self._aio.run(self._operations.topic(topic))
        producer = Producer(self._aio, options, topic, self._options.interceptors)
        await self._aio.call(self._start, producer)
        self._producers.add(producer)
        return producer

    async def _open_consumer(self, topics: Sequence[str], options: ConsumerOptions) -> Consumer:
        for topic in topics:
            await self._aio.run(self._operations.topic(topic))
        consumer = Consumer(
            self._aio, self._operations, options, topics, self._options.interceptors
        )
        try:
            if options.broadcast is not None:
                await asyncio.to_thread(consumer.open_offsets)
            await self._aio.call(self._start, consumer)
            await consumer.wait_until_placed()
        except BaseException:
            await consumer.close()
            raise
        self._consumers.add(consumer)
        return consumer

    def _start(self, now: int, promise: Promise, part: Producer | Consumer) -> None:
        part.start(now)
        self._aio.resolve(promise)


class Topics:
    """`client.topics`; see `zmqmq.Topics` for arguments and errors."""

    def __init__(self, aio: AioLoop, operations: Operations) -> None:
        self._aio = aio
        self._operations = operations

    async def create(
        self,
        name: str,
        partitions: int = 1,
        replicas: int = 0,
        config: Mapping[str, object] | None = None,
        *,
        if_not_exists: bool = False,
    ) -> TopicInfo:
        """Create a topic."""
        return await self._aio.run(
            self._operations.create_topic(
                name, partitions, replicas, config, if_not_exists=if_not_exists
            )
        )

    async def ensure(
        self,
        name: str,
        partitions: int = 1,
        replicas: int = 0,
        config: Mapping[str, object] | None = None,
    ) -> TopicInfo:
        """Create a topic, or check that the one that exists is like that."""
        return await self._aio.run(
            self._operations.ensure_topic(name, partitions, replicas, config)
        )

    async def list(self, *, internal: bool = False) -> list[TopicInfo]:
        """All topics by name; with `internal` also the broker's own."""
        return await self._aio.run(self._operations.list_topics(internal=internal))

    async def describe_all(self, *, internal: bool = False) -> builtins.list[TopicDescription]:
        """All topics with their partitions, by name."""
        return await self._aio.run(self._operations.describe_all(internal=internal))

    async def describe(self, name: str) -> TopicDescription:
        """A topic with its partitions."""
        return await self._aio.run(self._operations.describe_topic(name))

    async def alter(
        self,
        name: str,
        partitions: int | None = None,
        config: Mapping[str, object] | None = None,
    ) -> TopicInfo:
        """Add partitions, change settings."""
        return await self._aio.run(self._operations.alter_topic(name, partitions, config))

    async def delete(self, name: str) -> None:
        """Delete a topic and every record in it."""
        await self._aio.run(self._operations.delete_topic(name))


_open: weakref.WeakSet[Client] = weakref.WeakSet()


def _at_exit() -> None:
    """Say what was lost: without its loop nothing can be flushed any more."""
    left = sum(client.pending_records for client in list(_open) if client.state != "closed")
    if left:
        warnings.warn(
            f"zmqmq: the program ends with {left} records not acknowledged, and they are lost. "
            "Close the client before its event loop ends, or use `async with`",
            RuntimeWarning,
            stacklevel=1,
        )


atexit.register(_at_exit)
