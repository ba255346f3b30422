"""The broker process: load, build, run, stop. The only place that builds the real world."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import resource
import secrets
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Final, Self

import zmq

from zmqmq.config.broker import BrokerConfig
from zmqmq.core.broker.broker import Broker
from zmqmq.core.broker.identity import Identity
from zmqmq.core.meta.keys import KeySpace
from zmqmq.core.meta.store import AmbiguousError, If, MetadataStore, Put, UnavailableError
from zmqmq.core.meta.values import ClusterDocument
from zmqmq.core.storage.data_directory import (
    FORMAT_VERSION,
    Format,
    read_checkpoints,
    read_format,
    write_checkpoints,
    write_format,
)
from zmqmq.errors import ConfigError, DirectoryError
from zmqmq.runtime.os_disk import OSDisk
from zmqmq.runtime.publisher import Publisher
from zmqmq.runtime.registrars import EmbeddedRegistrar, LeaseRegistrar, Registrar
from zmqmq.runtime.server import Server
from zmqmq.runtime.sqlite_store import SqliteStore
from zmqmq.runtime.transport import Listener

logger = logging.getLogger("zmqmq.broker")

CLUSTER = "main"
"""The name under which an embedded store keeps its one cluster."""
STORE_RETRY_S: Final = 1.0
"""The pause before a metadata store that did not answer is tried again."""


def run(config: BrokerConfig) -> int:
    """Run a broker in the foreground until SIGTERM or SIGINT; the exit code."""
    if not __debug__:
        raise ConfigError("python -O takes away the checks that stop a broker that is wrong")
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    _raise_file_limit()
    # The flush thread must get the interpreter soon after its fdatasync is done, also while the
    # loop is busy; with the default of 5 ms a busy loop held it up for seconds.
    sys.setswitchinterval(0.0001)
    # What is loaded by now lives as long as the process, and a request makes no cycles.
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    return asyncio.run(_main(config))


async def _main(config: BrokerConfig) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        running = RunningBroker(config)
        starting = asyncio.ensure_future(stack.enter_async_context(running))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()  # it may wait long for its registration
            with contextlib.suppress(asyncio.CancelledError):
                await starting
            return 0
        await starting
        sys.stdout.write(
            f"ready: {running.endpoint}, broker {config.broker.id}, data in {running.folder}\n"
        )
        sys.stdout.flush()
        await running.server.run(stop)
        logger.info("stopping: what was taken is finished, flushed and closed")
    return 0


class RunningBroker:
    """A broker from the lock on its directory to its last checkpoint, as a context manager."""

    def __init__(self, config: BrokerConfig) -> None:
        self._config = config
        self.folder = Path(config.broker.data_dir)
        self.endpoint = ""
        self.server: Server
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        try:
            if exception[0] is None:
                await self.server.stop()
            else:
                self.server.abort()
        finally:
            await self._stack.aclose()

    async def crash(self) -> None:
        """Let go of everything without finishing anything."""
        self.server.abort()
        await self._stack.aclose()

    async def _start(self) -> None:
        config = self._config
        self._stack.enter_context(locked(self.folder))
        disk = OSDisk(self.folder)
        form = read_format(disk)
        if form is not None and form.broker != config.broker.id:
            raise DirectoryError(
                f"{self.folder} belongs to broker {form.broker}; this is {config.broker.id}"
            )
        keys = KeySpace.of_cluster(CLUSTER)
        known = None if form is None else form.cluster
        store, cluster = await self._reach_store(keys, known)
        self._stack.push_async_callback(store.close)
        if form is None:
            form = Format(cluster.hex(), config.broker.id, 0)
            write_format(disk, form)
        checkpoints = read_checkpoints(disk)
        # From here on the last stop was not a clean one, whatever happens next.
        write_checkpoints(disk, {f: replace(c, clean=False) for f, c in checkpoints.items()})
        endpoints: dict[str, str] = {}
        registrar: Registrar
        live = keys.live(config.broker.id)
        if config.is_alone:
            registrar = EmbeddedRegistrar(store, live, keys.controller)
        else:
            registrar = LeaseRegistrar(store, live, config.broker.session_ms / 1_000)
        settings: Mapping[str, object] = config.settings()
        identity = Identity(
            broker_id=config.broker.id,
            cluster=cluster,
            instance=secrets.token_bytes(16),
            is_alone=config.is_alone,
            rack=config.broker.rack or None,
            server=f"zmqmq/{version('zmqmq')}",
            endpoints=endpoints,
            settings=settings,
        )
        broker = Broker(
            identity, keys, config.serving, config.topics, form, lambda: secrets.token_bytes(16)
        )
        self.server = Server(broker, disk, store, keys, config.storage, checkpoints, registrar)
        server, options = self.server, config.broker
        try:
            # Bound before logs are opened, so that a port in use is told at once; nothing is
            # read from it before everything is served.
            endpoints["clients"] = _bind(server.listener, "bind", options.bind, options.advertise)
            self.endpoint = endpoints["clients"]
            push = options.push_addresses
            endpoints["push"] = _bind(server.publisher, "bind-push", *push, self.endpoint)
            if not config.is_alone:
                endpoints["peers"] = _bind(
                    server.peer_listener, "bind-peers", options.bind_peers, options.advertise_peers
                )
            await server.start()
            server.listener.listen()
            server.publisher.listen()
            if not config.is_alone:
                server.peer_listener.listen()
        except BaseException:
            self.server.abort()
            raise

    async def _reach_store(self, keys: KeySpace, known: str | None) -> tuple[MetadataStore, bytes]:
        """The metadata store and its cluster; one of others is waited for.

        After a power cut it may be the last to be back. A broker that gave up would need somebody
        to start it again.
        """
        while True:
            store = _make_store(self._config, self.folder)
            try:
                await store.open()
                return store, await _cluster_id(store, keys, known)
            except UnavailableError as error:
                await store.close()
                if self._config.is_alone:
                    raise
                logger.warning("waiting for %s: %s", self._config.broker.metadata, error)
            except BaseException:
                await store.close()
                raise
            await asyncio.sleep(STORE_RETRY_S)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a data directory, which is made if it is missing. Raises DirectoryError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DirectoryError(f"cannot use {folder} as a data directory: {error}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace") or "unknown"
            raise DirectoryError(
                f"{folder} is in use by another broker (process {holder}): "
                "one directory has one broker"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _make_store(config: BrokerConfig, folder: Path) -> MetadataStore:
    driver = config.broker.metadata.partition("://")[0]
    if not driver:
        return SqliteStore(folder / "metadata.db")
    found = entry_points(group="zmqmq.metadata", name=driver)
    if not found:
        known = ", ".join(sorted(e.name for e in entry_points(group="zmqmq.metadata")))
        raise ConfigError(f"broker.metadata: there is no driver {driver!r}; installed are {known}")
    try:
        make = next(iter(found)).load()
    except ImportError as error:
        raise ConfigError(
            f"broker.metadata: the driver {driver!r} needs what is not installed ({error}): "
            f"pip install 'zmqmq[{driver}]'"
        ) from None
    store: MetadataStore = make(config.broker.metadata)
    return store


async def _cluster_id(store: MetadataStore, keys: KeySpace, known: str | None) -> bytes:
    """The cluster of the store; a new one for a new store. Raises DirectoryError."""
    kv = await store.get(keys.cluster)
    if kv is None:
        if known is not None:
            raise DirectoryError(
                f"the directory is of cluster {known}, and its metadata store is empty: "
                "metadata.db was lost, or this is another etcd; restore it from a backup"
            )
        document = ClusterDocument(cluster_id=secrets.token_bytes(16), format=FORMAT_VERSION)
        put, condition = Put(keys.cluster, document.encode()), If(keys.cluster, "create", "==", 0)
        try:
            done = await store.commit([put], [condition])
        except AmbiguousError:
            return await _cluster_id(store, keys, known)
        if done.ok:
            return document.cluster_id
        kv = done.current[keys.cluster]
        assert kv is not None, "made and gone"
    document = ClusterDocument.decode(kv.value)
    if known is not None and known != document.cluster_id.hex():
        raise DirectoryError(
            f"the directory is of cluster {known}, its metadata store of "
            f"{document.cluster_id.hex()}: files of two clusters are mixed"
        )
    return document.cluster_id


def _bind(
    listener: Listener | Publisher, flag: str, address: str, advertise: str, like: str = ""
) -> str:
    """Take a port; the address that others are told: its host is that of `like`, if given."""
    host, _, port = address.rpartition(":")
    try:
        bound = listener.bind(host.strip("[]"), int(port))
    except zmq.ZMQError as error:
        raise ConfigError(
            f"cannot listen on {address}: {error}; another broker may be running, "
            f"or use --{flag} HOST:PORT"
        ) from None
    if advertise:
        return advertise
    return f"{like.rpartition(':')[0] or host}:{bound}"


def _raise_file_limit() -> None:
    """Every connection and every segment takes a descriptor; without one listeners spin."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
