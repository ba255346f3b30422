"""A real broker inside your test process, on a temporary folder and a free port.

    from zmqmq.testing import Broker

    with Broker() as broker, broker.connect() as mq:
        mq.topics.create("orders")
        mq.producer("orders").send(b"hello").result()

It is the broker of production with its disk and its sockets, not a stand-in. `crash()` ends it as
`kill -9` would, `start()` brings it back on the same folder. With pytest the fixtures
`zmqmq_broker` and `zmqmq_client` are there as soon as zmqmq is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from zmqmq.config.broker import BrokerConfig
from zmqmq.config.load import load
from zmqmq.runtime.main import RunningBroker

if TYPE_CHECKING:
    from zmqmq.client.sync import Client

START_S = 30.0


class Broker:
    """A broker in a thread of this process.

    Args:
        folder: its data directory; None makes one that goes with the broker.
        settings: as in a configuration file, such as `{"storage.segment_bytes": "1MiB"}`.

    Raises:
        ConfigError: a setting is unknown or out of bounds.
    """

    def __init__(
        self, folder: Path | str | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self._own = tempfile.TemporaryDirectory(prefix="zmqmq-") if folder is None else None
        self.folder = Path(self._own.name if self._own else str(folder))
        self._settings = dict(settings or {})
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._crash = False
        self._error: BaseException | None = None
        self.endpoint = ""
        """`HOST:PORT` to connect to; it stays the same over restarts."""

    def start(self) -> Self:
        """Start it, or start it again after `stop` or `crash`. Raises what the start raised."""
        assert self._thread is None, "the broker is running"
        ready = threading.Event()
        self._error = None
        self._crash = False
        self._thread = threading.Thread(target=self._run, args=(ready,), name="zmqmq-broker")
        self._thread.start()
        if not ready.wait(START_S):
            raise TimeoutError(f"the broker was not ready within {START_S} s")
        self._raise_error()
        return self

    def stop(self) -> None:
        """Drain, flush and close it; a later start finds a clean directory."""
        self._end(crash=False)

    def crash(self) -> None:
        """End it at once, without finishing anything, as `kill -9` would."""
        self._end(crash=True)

    def connect(self, **options: Any) -> Client:  # noqa: ANN401 - those of zmqmq.connect
        """A client that is connected to it."""
        from zmqmq.client.sync import connect

        return connect(self.endpoint, **options)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._thread is not None:
                self.stop()
        finally:
            if self._own is not None:
                self._own.cleanup()

    def _config(self) -> BrokerConfig:
        flags = {"broker.bind": self.endpoint or "127.0.0.1:0", **self._settings}
        flags["broker.data_dir"] = str(self.folder)
        return load(None, {}, flags).config

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as error:  # noqa: BLE001 - raised in start() or stop()
            self._error = error
        finally:
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        running = RunningBroker(self._config())
        await running.__aenter__()
        self.endpoint = running.endpoint
        ready.set()
        try:
            await running.server.run(self._stop)
        except BaseException:
            await running.crash()
            raise
        if self._crash:
            await running.crash()
        else:
            await running.__aexit__(None, None, None)

    def _end(self, *, crash: bool) -> None:
        assert self._thread is not None, "the broker is not running"
        assert self._loop is not None
        assert self._stop is not None
        self._crash = crash
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)
        self._join()
        self._raise_error()

    def _raise_error(self) -> None:
        """Raise what the broker's thread ended with, if it did."""
        if self._error is not None:
            self._join()
            raise self._error

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
