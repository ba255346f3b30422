"""A proxy on loopback that loses replies and connections when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self


class TcpProxy:
    """Between whoever connects and one server; on the loop of the test."""

    def __init__(self, target: str) -> None:
        self.target = target
        """`HOST:PORT` of the server, for connections from then on."""
        self._server: asyncio.Server | None = None
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.loses_requests = False
        self.loses_replies = False
        self.cut_after_bytes: int | None = None
        """Of replies, on the connections from then on together; counts down."""
        self.delay_s = 0.0
        """Of replies."""
        self.connections = 0

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()

    async def listen(self) -> None:
        """Begin, or begin again at the same port."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Cut what is connected, and let nobody connect."""
        assert self._server is not None
        self._server.close()
        self.cut()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def cut(self) -> None:
        """End every connection with a reset. Who connects again is served as usual."""
        self.loses_requests = self.loses_replies = False
        for writer in self._writers:
            writer.transport.abort()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError):
                back_reader, back_writer = await asyncio.open_connection(*self.target.split(":"))
                self._writers.add(back_writer)
                try:
                    forth = asyncio.create_task(self._pass(reader, back_writer, is_reply=False))
                    back = asyncio.create_task(self._pass(back_reader, writer, is_reply=True))
                    await asyncio.wait((forth, back), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    back_writer.transport.abort()
                    forth.cancel()
                    back.cancel()
                    await asyncio.gather(forth, back, return_exceptions=True)
                    self._writers.discard(back_writer)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool
    ) -> None:
        while data := await reader.read(65536):
            if is_reply and self.delay_s:
                await asyncio.sleep(self.delay_s)
            if is_reply and self.cut_after_bytes is not None:
                data = data[: self.cut_after_bytes]
                self.cut_after_bytes -= len(data)
            if not (self.loses_replies if is_reply else self.loses_requests):
                writer.write(data)
                await writer.drain()
            if is_reply and self.cut_after_bytes == 0:
                self.cut_after_bytes = None
                return
