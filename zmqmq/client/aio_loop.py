"""Running the driver on the caller's loop, and awaiting what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Protocol, TypeVar, cast

from zmqmq.client.driver import Driver
from zmqmq.client.machines.core import Core
from zmqmq.client.machines.effects import Promise, Resolved
from zmqmq.client.operations import Ask, Operation
from zmqmq.errors import UsageError, ZmqmqError

ResultT = TypeVar("ResultT")


class Closable(Protocol):
    """What an `async with` closes."""

    async def close(self) -> None:
        """End it."""


ClosableT = TypeVar("ClosableT", bound=Closable)


class FutureAnswer:
    """The result of one command, as a future."""

    __slots__ = ("future",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[object] = loop.create_future()

    def resolve(self, value: object) -> None:
        """It is done; whoever awaited it may have been cancelled meanwhile."""
        if not self.future.done():
            self.future.set_result(value)

    def reject(self, error: BaseException) -> None:
        """It has failed."""
        if not self.future.done():
            self.future.set_exception(error)


class AioLoop:
    """One client's driver on the loop that made it."""

    def __init__(self, core: Core, request_seconds: float) -> None:
        self.request_seconds = request_seconds
        self.loop = asyncio.get_running_loop()
        self.driver = Driver(self.loop, core)
        self._core = core

    async def connect(self, timeout_ns: int) -> None:
        """Wait for the first broker that answers. Raises DisconnectedError."""
        await self.call(self._connect, timeout_ns)

    async def call(self, action: Callable[..., None], *arguments: object) -> object:
        """Run `action(now, answer, *arguments)` and await its answer."""
        if asyncio.get_running_loop() is not self.loop:
            raise UsageError("this client belongs to another event loop; connect on this one")
        self.driver.check_usable()
        answer = FutureAnswer(self.loop)
        self.driver.command(action, answer, *arguments)
        return await answer.future

    async def run(self, operation: Operation[ResultT]) -> ResultT:
        """Carry an operation out, awaiting each of its answers."""
        step: Callable[[Any], Ask] = operation.send
        value: object = None
        while True:
            try:
                ask = step(value)
            except StopIteration as done:
                return cast("ResultT", done.value)
            try:
                step, value = operation.send, await self.call(ask.action, *ask.arguments)
            except ZmqmqError as error:
                step, value = operation.throw, error

    def resolve(self, promise: Promise) -> None:
        """The command of this promise is done, once the machines were looked at."""
        self._core.effects.append(Resolved(promise, None))

    def _connect(self, now: int, promise: Promise, timeout: int) -> None:
        self._core.connect(promise, now + timeout)


class Opening(Awaitable[ClosableT]):
    """A producer or consumer that is still being made: `await` it, or use `async with`."""

    def __init__(self, opening: Coroutine[Any, Any, ClosableT]) -> None:
        self._opening = opening
        self._opened: ClosableT | None = None

    def __await__(self) -> Generator[Any, Any, ClosableT]:
        return self._opening.__await__()

    async def __aenter__(self) -> ClosableT:
        self._opened = await self._opening
        return self._opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._opened is not None:
            await self._opened.close()
