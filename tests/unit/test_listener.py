"""The broker's own socket, on loopback."""

from __future__ import annotations

import asyncio
from typing import Any

import zmq

from zmqmq.runtime.transport import Listener


def test_what_was_due_when_it_was_closed_does_nothing() -> None:
    """A broker whose disk fails has answers on their way when it lets go of everything."""
    said: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: said.append(context))
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        for is_listening in (False, True):
            listener = Listener(context, loop, lambda *_: None, lambda: None, lambda _: None)
            listener.bind("127.0.0.1", 0)
            if is_listening:
                listener.listen()
            listener.send(b"nobody", [b"reply"])
            listener.close()
            await asyncio.sleep(0)
        context.term()

    asyncio.run(main())
    assert said == []
