"""A proxy for what a broker publishes that loses messages at random, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from typing import Self

GREETING = 64
COMMAND, LONG, MORE = 4, 2, 1


class LossyPush:
    """Between SUB sockets and one XPUB. Each connection loses other messages."""

    def __init__(self, port: int, target: int, share: float) -> None:
        self._port, self._target, self._share = port, target, share
        self._chance = random.Random(target)
        self._is_listening = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.lost = self.passed = 0
        """Messages."""

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_listening.wait(20)
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join(20)

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._serve())
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(task)
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        self._serving = asyncio.ensure_future(server.serve_forever())
        self._is_listening.set()
        async with server:
            await self._serving

    async def _connected(self, here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                there, forth = await asyncio.open_connection("127.0.0.1", self._target)
                try:
                    ways = self._pass(here, forth), self._lose(there, back)
                    tasks = [asyncio.create_task(way) for way in ways]
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    forth.transport.abort()
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            back.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)

    async def _lose(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting = 0
        while greeting < GREETING:  # each side waits for parts of the other's
            data = await reader.read(GREETING - greeting)
            if not data:
                return  # without this it would read the end for ever, and hold up everybody
            writer.write(data)
            greeting += len(data)
        rest = b""
        while data := await reader.read(262_144):
            data = rest + data
            at, kept = 0, []
            while (end := message_end(data, at)) > 0:
                is_lost = not data[at] & COMMAND and self._chance.random() < self._share
                self.lost += is_lost
                self.passed += not is_lost
                if not is_lost:
                    kept.append(data[at:end])
                at = end
            rest = data[at:]
            writer.write(b"".join(kept))
            await writer.drain()


def message_end(data: bytes, at: int) -> int:
    """Where the message ends that begins there; 0: it is not all there."""
    more = MORE
    while more:
        if len(data) < at + 9 and (len(data) < at + 2 or data[at] & LONG):
            return 0
        flags = data[at]
        if flags & LONG:
            at += 9 + int.from_bytes(data[at + 1 : at + 9], "big")
        else:
            at += 2 + data[at + 1]
        more = flags & MORE
    return at if at <= len(data) else 0
