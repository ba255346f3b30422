"""The blocking client's I/O thread: one event loop, and the driver on it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from zmqmq.client.driver import Driver
from zmqmq.client.machines.core import Core
from zmqmq.client.machines.effects import MS, Promise, Resolved
from zmqmq.client.operations import Ask, Operation
from zmqmq.client.waiting import Answer, io_threads
from zmqmq.errors import ClosedError, ZmqmqError

ResultT = TypeVar("ResultT")

logger = logging.getLogger("zmqmq.client")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed: a third less CPU for each message."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return cast("asyncio.AbstractEventLoop", uvloop.new_event_loop())


class IOThread:
    """Runs a driver until `stop`.

    A daemon: a program that forgets to close its client still ends. What was not sent by then is
    flushed, with a warning, by the exit hook of sync.py.
    """

    def __init__(self, core: Core, request_seconds: float) -> None:
        self.request_seconds = request_seconds
        self._core = core
        self._loop = new_event_loop()
        self._driver: Driver | None = None
        self._started = Answer()
        self._unheard: set[Answer] = set()
        """Of commands that are on their way to the loop, which may end before they are there."""
        self._thread = threading.Thread(target=self._run, name="zmqmq-client", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()
        self._started.wait()

    @property
    def driver(self) -> Driver:
        """What runs on the loop; there once `start` has returned."""
        assert self._driver is not None
        return self._driver

    def connect(self, timeout_ms: int) -> None:
        """Wait for the first broker that answers. Raises DisconnectedError."""
        self.call(self._connect, timeout_ms * MS)

    @property
    def is_current(self) -> bool:
        """Whether this is the I/O thread: it must not wait for itself."""
        return threading.current_thread() is self._thread

    def call(
        self, action: Callable[..., None], *arguments: object, seconds: float | None = None
    ) -> object:
        """Run `action(now, answer, *arguments)` on the loop and wait for its answer."""
        answer = Answer()
        self.driver.check_usable()
        self._unheard.add(answer)
        try:
            self._loop.call_soon_threadsafe(self._command, action, answer, *arguments)
        except RuntimeError:
            self._unheard.discard(answer)
            raise ClosedError("the client is closed") from None
        return answer.wait(seconds)

    def run(self, operation: Operation[ResultT]) -> ResultT:
        """Carry an operation out, waiting for each of its answers."""
        step: Callable[[Any], Ask] = operation.send
        value: object = None
        while True:
            try:
                ask = step(value)
            except StopIteration as done:
                return cast("ResultT", done.value)
            try:
                step, value = operation.send, self.call(ask.action, *ask.arguments)
            except ZmqmqError as error:
                step, value = operation.throw, error

    def resolve(self, promise: Promise) -> None:
        """On the loop: the command of this promise is done, once the machines were looked at."""
        self._core.effects.append(Resolved(promise, None))

    def stop(self) -> None:
        """End the driver and the thread. May be called more than once."""
        driver = self._driver
        if driver is None or driver.is_forked or not self._thread.is_alive():
            return
        try:
            self._loop.call_soon_threadsafe(self._stop)
        except RuntimeError:
            return
        if not self.is_current:
            self._thread.join()

    def _command(self, action: Callable[..., None], answer: Answer, *arguments: object) -> None:
        self._unheard.discard(answer)
        self.driver.command(action, answer, *arguments)

    def _connect(self, now: int, promise: Promise, timeout: int) -> None:
        self._core.connect(promise, now + timeout)

    def _stop(self) -> None:
        assert self._driver is not None
        try:
            self._driver.close()
        finally:
            self._loop.stop()

    def _run(self) -> None:
        try:
            # Here, because ZeroMQ's descriptors belong to the thread that polls them.
            self._driver = Driver(self._loop, self._core)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that started us
            self._started.reject(error)
            return
        io_threads.add(threading.get_ident())
        self._started.resolve(None)
        try:
            self._loop.run_forever()
        except Exception:
            logger.exception("the client's event loop failed")
            self._driver.close()
        finally:
            io_threads.discard(threading.get_ident())
            self._loop.close()
            # No more can come from here on: a loop that is closed refuses them.
            for answer in tuple(self._unheard):
                answer.reject(ClosedError("the client was closed"))
