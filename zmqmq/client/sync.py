"""The blocking client: `zmqmq.connect` and the objects that it leads to.

A façade: commands go to the I/O thread and the caller waits for their answer. Nothing is
decided in here. Objects may be shared between threads; a consumer belongs to one at a time.
"""

from __future__ import annotations

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

from zmqmq.client.cluster_operations import ClusterOperations
from zmqmq.client.describing import GroupInfo, TopicDescription, TopicInfo
from zmqmq.client.io_thread import IOThread
from zmqmq.client.keywords import ConsumerKeywords, ProducerKeywords
from zmqmq.client.machines.core import Core
from zmqmq.client.machines.effects import Promise
from zmqmq.client.operations import Operations
from zmqmq.client.options import ConnectOptions, ConsumerOptions, ProducerOptions, parse_options
from zmqmq.client.servers import parse_servers
from zmqmq.client.sync_cluster import Cluster
from zmqmq.client.sync_consumer import Consumer
from zmqmq.client.sync_producer import Producer
from zmqmq.client.system_chance import SystemChance
from zmqmq.client.version import software
from zmqmq.errors import OutcomeUnknownError, UsageError, ZmqmqError

EXIT_FLUSH_SECONDS = 10.0
"""How long the exit hook waits for records that the program forgot to flush."""


def connect(
    servers: str | Iterable[str] | None = None,
    *,
    client_name: str = "",
    request_timeout_ms: int = 30_000,
    connect_timeout_ms: int = 10_000,
    interceptors: Iterable[object] = (),
) -> Client:
    """Connect to a cluster.

    Args:
        servers: `"host:port"`, `"zmqmq://host:port"`, several with commas, or a list. Any one of
            the cluster's brokers will do. None takes the environment's `ZMQMQ_SERVERS`, and
            without that 127.0.0.1:5755.
        client_name: shown by the broker beside this client.
        request_timeout_ms: a request without an answer for this long has failed.
        connect_timeout_ms: how long to wait for the first broker that answers.
        interceptors: objects with any of `on_send`, `on_delivery`, `on_receive`.

    Returns:
        A client, to be closed or used with `with`.

    Raises:
        DisconnectedError: no server answered; says of each what happened.
        ConfigError: an address or an option is not one.

    Example:
        >>> with zmqmq.connect("127.0.0.1:5755") as mq:      # doctest: +SKIP
        ...     mq.topics.create("orders", partitions=4, if_not_exists=True)
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
    io = IOThread(core, options.request_timeout_ms / 1000)
    io.start()
    try:
        io.connect(options.connect_timeout_ms)
    except BaseException:
        io.stop()
        raise
    return Client(io, core, options)


class Client:
    """A connection to a cluster. Made by `zmqmq.connect`; may be shared between threads."""

    def __init__(self, io: IOThread, core: Core, options: ConnectOptions) -> None:
        self._io = io
        self._core = core
        self._options = options
        self._operations = Operations(core)
        self._producers: weakref.WeakSet[Producer] = weakref.WeakSet()
        self._consumers: weakref.WeakSet[Consumer] = weakref.WeakSet()
        self.topics = Topics(io, self._operations)
        """Creating, changing and describing topics."""
        self.cluster = Cluster(io, ClusterOperations(core, self._operations))
        """Brokers, and moving partitions between them."""
        _open.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<zmqmq.Client {self.state}>"

    def producer(self, topic: str | None = None, **options: Unpack[ProducerKeywords]) -> Producer:
        """Make a producer.

        Args:
            topic: where its records go, unless `send` says otherwise.
            **options: see docs/client.md, "Producer".

        Raises:
            NotFoundError: there is no such topic; says how to create it.
            ConfigError: an option is unknown or out of bounds.

        Example:
            >>> with mq.producer("orders", acks="all", linger_ms=5) as producer:  # doctest: +SKIP
            ...     producer.send(b"hello")
        """
        self._io.driver.check_usable()
        parsed = parse_options(ProducerOptions, options)
        if topic is not None:
            self._io.run(self._operations.topic(topic))
        producer = Producer(self._io, parsed, topic, self._options.interceptors)
        self._io.call(self._start, producer)
        self._producers.add(producer)
        return producer

    def consumer(self, *topics: str, **options: Unpack[ConsumerKeywords]) -> Consumer:
        """Make a consumer, and find out where it begins.

        Args:
            *topics: what to read. None: nothing until `assign`.
            **options: see docs/client.md, "Consumer".

        Raises:
            NotFoundError: there is no such topic or partition.
            ConflictError: a broadcast consumer of that name is open already.
            CorruptDataError, StorageError: its file is damaged, or cannot be used.
            ConfigError: an option is unknown or out of bounds.

        Example:
            >>> with mq.consumer("orders", group="billing") as consumer:  # doctest: +SKIP
            ...     for record in consumer:
            ...         print(record.value)
        """
        self._io.driver.check_usable()
        parsed = parse_options(ConsumerOptions, options)
        for topic in topics:
            self._io.run(self._operations.topic(topic))
        consumer = Consumer(self._io, self._operations, parsed, topics, self._options.interceptors)
        try:
            consumer.open_offsets()
            self._io.call(self._start, consumer)
            consumer.wait_until_placed()
        except BaseException:
            consumer.close()
            raise
        self._consumers.add(consumer)
        return consumer

    def offsets(self, topic: str, at: str | int | datetime = "end") -> dict[int, int]:
        """The offset of a place in each partition of a topic.

        Args:
            topic: the topic's name.
            at: "start", "end", or the time of an append as a datetime or in ms since 1970.
        """
        return self._io.run(self._operations.offsets(topic, at))

    def groups(self) -> list[GroupInfo]:
        """All groups, with their committed offsets."""
        return self._io.run(self._operations.groups())

    def describe(
        self,
        kind: str,
        names: Sequence[str] | None = None,
        internal: bool = False,  # noqa: FBT001, FBT002
    ) -> list[dict[str, Any]]:
        """What DESCRIBE answers, all pages: of "broker", "brokers", "topics", "groups", "sessions",
        "config".

        Args:
            kind: which of these.
            names: only these; None: all.
            internal: internal topics too.
        """
        return self._io.run(self._operations.describe(kind, names, internal=internal))

    def ping(self) -> float:
        """Ask a broker whether it is there; the seconds that the answer took."""
        began = time.perf_counter()
        self._io.run(self._operations.ping())
        return time.perf_counter() - began

    @property
    def state(self) -> str:
        """`"connected"`, `"connecting"` (a broker is being looked for) or `"closed"`."""
        if self._io.driver.is_closed or self._io.driver.is_forked:
            return "closed"
        ready = any(c.is_ready for c in list(self._core.network.connections.values()))
        return "connected" if ready else "connecting"

    def healthy(self) -> bool:
        """Whether some broker is connected now."""
        return self.state == "connected"

    @property
    def pending_records(self) -> int:
        """Records of all producers that have no outcome yet."""
        return sum(producer.pending_records for producer in list(self._producers))

    def close(self) -> None:
        """Close consumers, flush and close producers, end the I/O thread."""
        _open.discard(self)
        if self.state == "closed":
            return
        try:
            for consumer in list(self._consumers):
                consumer.close()
            for producer in list(self._producers):
                producer.close()
        finally:
            self._io.stop()

    def _start(self, now: int, promise: Promise, part: Producer | Consumer) -> None:
        part.start(now)
        self._io.resolve(promise)


class Topics:
    """`client.topics`."""

    def __init__(self, io: IOThread, operations: Operations) -> None:
        self._io = io
        self._operations = operations

    def create(
        self,
        name: str,
        partitions: int = 1,
        replicas: int = 0,
        config: Mapping[str, object] | None = None,
        *,
        if_not_exists: bool = False,
    ) -> TopicInfo:
        """Create a topic.

        Args:
            name: 1 to 200 of the characters A-Z a-z 0-9 . _ -
            partitions: how many; they can be added to later, not taken away.
            replicas: copies of each partition; 0: 3, or as many as there are brokers.
            config: settings (docs/configuration.md, "Topics").
            if_not_exists: be content with a topic of that name that exists already.

        Raises:
            ConflictError: it exists already.
            RefusedError: the name, a number or a setting is not allowed.

        Example:
            >>> mq.topics.create("orders", partitions=4, config={"retention_ms": 86_400_000})
            ... # doctest: +SKIP
        """
        return self._io.run(
            self._operations.create_topic(
                name, partitions, replicas, config, if_not_exists=if_not_exists
            )
        )

    def ensure(
        self,
        name: str,
        partitions: int = 1,
        replicas: int = 0,
        config: Mapping[str, object] | None = None,
    ) -> TopicInfo:
        """Create a topic, or check that the one that exists is like that.

        Raises:
            ConflictError: it exists with other partitions or settings; says which.
        """
        return self._io.run(self._operations.ensure_topic(name, partitions, replicas, config))

    def list(self, *, internal: bool = False) -> list[TopicInfo]:
        """All topics by name; with `internal` also the broker's own."""
        return self._io.run(self._operations.list_topics(internal=internal))

    def describe_all(self, *, internal: bool = False) -> builtins.list[TopicDescription]:
        """All topics with their partitions, by name."""
        return self._io.run(self._operations.describe_all(internal=internal))

    def describe(self, name: str) -> TopicDescription:
        """A topic with its partitions. Raises NotFoundError."""
        return self._io.run(self._operations.describe_topic(name))

    def alter(
        self,
        name: str,
        partitions: int | None = None,
        config: Mapping[str, object] | None = None,
    ) -> TopicInfo:
        """Add partitions, change settings.

        Args:
            name: the topic's name.
            partitions: the new number, not smaller than the old; None leaves it.
            config: settings to change; a value of None resets one to its default.
        """
        return self._io.run(self._operations.alter_topic(name, partitions, config))

    def delete(self, name: str) -> None:
        """Delete a topic and every record in it. Raises NotFoundError."""
        self._io.run(self._operations.delete_topic(name))


_open: weakref.WeakSet[Client] = weakref.WeakSet()


def _at_exit() -> None:
    """Flush what a program forgot, loudly: without a close nobody looked at the outcomes."""
    for client in list(_open):
        left = client.pending_records if client.state != "closed" else 0
        if not left:
            continue
        warnings.warn(
            f"zmqmq: the program ends with {left} records not acknowledged; flushing them. "
            "Close the producer, or use `with`",
            RuntimeWarning,
            stacklevel=1,
        )
        try:
            for producer in list(client._producers):  # noqa: SLF001 - this module's own
                producer.close(EXIT_FLUSH_SECONDS)
        except (OutcomeUnknownError, UsageError, ZmqmqError) as error:
            warnings.warn(f"zmqmq: records may be lost: {error}", RuntimeWarning, stacklevel=1)


atexit.register(_at_exit)
