"""The push listener: an XPUB socket on the event loop (zeromq.md 4).

It is drained as soon as it has something, since libzmq keeps what comes in queues and trees without
a bound, and a send may have to wait behind that. A subscription takes effect when the broker admits
it (ZMQ_XPUB_MANUAL), which must happen before the next one is read. What is published to a socket
whose queue is full is lost to it alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

import zmq

from zmqmq.core.storage.disk import Buffer
from zmqmq.runtime.transport import KEEP_FRAME_BYTES, bind, descriptor_of, has_input, keep_alive
from zmqmq.wire.apis import PUSH_QUEUE

logger = logging.getLogger("zmqmq.publisher")

BURST: Final = 256
"""Subscriptions that are handled before others get their turn."""
SUBSCRIPTION_BYTES_MAX: Final = 256
"""A subject has less than 50 bytes; libzmq keeps whatever it is sent, a node for each byte."""
RECEIVE_QUEUE: Final = 1
"""Subscriptions of one connection that may be on their way to this thread. With more libzmq goes on
taking them in, for seconds and hundreds of MiB, while somebody sends faster than it can."""
REFUSED_MAX: Final = 4_096
"""libzmq also keeps what was refused, as long as the connection lives. After so many the socket is
made anew, which ends all connections; whoever means well comes back and fetches what it missed."""
REBIND_S: Final = 0.05
_MORE: Final = zmq.NOBLOCK | zmq.SNDMORE


class Publisher:
    """Lives on one event loop and is used from its thread alone."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        loop: asyncio.AbstractEventLoop,
        wanted: Callable[[bytes], None],
    ) -> None:
        self._context = context
        self._loop = loop
        self._wanted = wanted
        self._socket = self._make()
        self._place = ("", 0)
        self._is_listening = False
        self._is_scheduled = False
        self._refused: dict[bytes, int] = {}
        """Subjects of connections that live, and how many times each was refused."""
        self._refused_count = 0
        self._is_astray = False
        """Whether libzmq does not know whose the subscriptions are that come now."""

    def bind(self, host: str, port: int) -> int:
        """Take a port, which the system chooses if it is 0, and return it. Raises zmq.ZMQError."""
        port = bind(self._socket, host, port)
        self._place = (host, port)
        return port

    def listen(self) -> None:
        """Begin to take in subscriptions."""
        self._is_listening = True
        self._loop.add_reader(descriptor_of(self._socket), self._drain)
        self._schedule()

    def admit(self, subject: bytes) -> None:
        """Let the socket that has just asked for it have this subject."""
        self._count_refused(subject, -1)
        self._socket.setsockopt(zmq.SUBSCRIBE, subject)

    def publish(self, frames: Sequence[Buffer]) -> None:
        """Send to whoever has the subject, without ever waiting."""
        send, last = self._socket.send, len(frames) - 1
        for number, frame in enumerate(frames):
            copy = len(frame) < KEEP_FRAME_BYTES
            send(frame, _MORE if number < last else zmq.NOBLOCK, copy=copy)
        self._schedule()

    def close(self) -> None:
        """Stop listening."""
        if self._is_listening:
            self._is_listening = False
            self._loop.remove_reader(descriptor_of(self._socket))
        self._socket.close(linger=0)

    def _make(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.XPUB)
        socket.linger = 0
        socket.sndhwm = PUSH_QUEUE
        socket.rcvhwm = RECEIVE_QUEUE
        socket.maxmsgsize = SUBSCRIPTION_BYTES_MAX
        socket.setsockopt(zmq.XPUB_MANUAL, 1)
        keep_alive(socket)
        return socket

    def _schedule(self) -> None:
        """A send may have swallowed the sign that something came in: look."""
        if not self._is_scheduled and self._is_listening:
            self._is_scheduled = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._is_scheduled = False
        if self._socket.closed:
            return
        if not has_input(self._socket):
            self._is_astray = False
            return
        for _ in range(BURST):
            try:
                frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                self._is_astray = False
                return
            self._take(frame)
            if self._refused_count > REFUSED_MAX:
                self._begin_anew()
                return
        self._schedule()

    def _take(self, frame: zmq.Frame) -> None:
        message = frame.bytes
        subject = message[1:]
        match message[:1]:
            case b"\x01":
                self._count_refused(subject, 1)  # until it is admitted
                if not self._is_astray:
                    self._wanted(subject)
            case b"\x00" if _is_of_ended(frame):
                if subject in self._refused:
                    self._count_refused(subject, -1)
            case b"\x00":
                # What was refused is not forgiven: somebody else may have asked for it.
                if not self._is_astray:
                    self._socket.setsockopt(zmq.UNSUBSCRIBE, subject)
            case _:
                # libzmq counts it as a subscription only when it is read, not when it comes in: up
                # to the end of what is there it would mistake each subscriber for the one behind
                # it. Whom this keeps out hears nothing, and asks again.
                self._is_astray = True

    def _count_refused(self, subject: bytes, change: int) -> None:
        self._refused_count += change
        count = self._refused.get(subject, 0) + change
        if count:
            self._refused[subject] = count
        else:
            del self._refused[subject]

    def _begin_anew(self) -> None:
        logger.warning(
            "%d subscriptions that nobody may have: the push listener ends all its connections",
            self._refused_count,
        )
        self.close()
        self._refused.clear()
        self._refused_count, self._is_astray = 0, False
        self._socket = self._make()
        self._rebind()

    def _rebind(self) -> None:
        if self._socket.closed:
            return  # this was due when it was closed
        try:
            self.bind(*self._place)
        except zmq.ZMQError:
            self._loop.call_later(REBIND_S, self._rebind)  # the old one is not quite closed yet
        else:
            self.listen()


def _is_of_ended(frame: zmq.Frame) -> bool:
    """Whether a connection's end has cancelled it, rather than somebody: it has no sender."""
    try:
        frame.get("Peer-Address")
    except zmq.ZMQError:
        return True
    return False
