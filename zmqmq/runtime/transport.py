"""The client listener: a ROUTER socket on the event loop (zeromq.md 1.2, 3, 9).

The file descriptor of a ZeroMQ socket signals edges, and any send or receive may swallow one. So
each time it is readable everything is drained, in bursts, and after every send outside a burst
the socket is asked again whether something came in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import zmq

from zmqmq.core.storage.disk import Buffer
from zmqmq.model.limits import FRAMES_MAX, REQUEST_BYTES_MAX

BURST: Final = 256
"""Messages that are handled before what they brought is written out."""
KEEP_FRAME_BYTES: Final = 32 * 1024
"""Body frames from this size on are not copied; smaller ones would pin their receive buffer."""
SEND_QUEUE: Final = 4_096
"""Replies that may wait for one client. Their bytes are bounded by its credit."""
_MORE: Final = zmq.NOBLOCK | zmq.SNDMORE
RECEIVE_QUEUE: Final = 64
"""Requests of one client that ZeroMQ takes in while the broker is busy."""


def bind(socket: zmq.Socket[bytes], host: str, port: int) -> int:
    """Take a port, which the system chooses if it is 0, and return it. Raises zmq.ZMQError."""
    place = f"[{host}]" if ":" in host else host
    socket.bind(f"tcp://{place}:{port}")
    endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    return int(str(endpoint).rpartition(":")[2])


def keep_alive(socket: zmq.Socket[bytes]) -> None:
    """What every socket is set to that is listened on: connections that are dead end."""
    socket.setsockopt(zmq.BACKLOG, 4_096)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5_000)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
    # Evicts who reads nothing for so long. Seconds would cut clients that only pause.
    socket.setsockopt(zmq.TCP_MAXRT, 90_000)


def descriptor_of(socket: zmq.Socket[bytes]) -> int:
    """What tells, edge by edge, that a socket is to be asked for its events."""
    descriptor = socket.getsockopt(zmq.FD)
    assert isinstance(descriptor, int)
    return descriptor


def has_input(socket: zmq.Socket[bytes]) -> bool:
    """Whether something has come in."""
    events = socket.getsockopt(zmq.EVENTS)
    assert isinstance(events, int)
    return bool(events & zmq.POLLIN)


class Listener:
    """Lives on one event loop and is used from its thread alone."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        loop: asyncio.AbstractEventLoop,
        received: Callable[[bytes, list[Buffer]], None],
        burst_ended: Callable[[], None],
        lost: Callable[[bytes], None],
    ) -> None:
        self._loop = loop
        self._received = received
        self._burst_ended = burst_ended
        self._lost = lost
        self._is_scheduled = False
        self._is_draining = False
        self._has_sent = False
        self.dropped = 0
        """Replies to clients that do not read them."""
        socket = self._socket = context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.router_mandatory = True
        socket.sndhwm, socket.rcvhwm = SEND_QUEUE, RECEIVE_QUEUE
        # MAXMSGSIZE is per frame; the whole message is checked when it is in.
        socket.maxmsgsize = REQUEST_BYTES_MAX
        keep_alive(socket)

    def bind(self, host: str, port: int) -> int:
        """Take a port, which the system chooses if it is 0, and return it. Raises zmq.ZMQError."""
        return bind(self._socket, host, port)

    def listen(self) -> None:
        """Begin to take in what arrives."""
        self._loop.add_reader(descriptor_of(self._socket), self._drain)
        self._recheck()

    def send(self, route: bytes, frames: Sequence[Buffer]) -> None:
        """Send a reply without ever waiting; `lost` is called if the client is gone."""
        send = self._socket.send
        try:
            # One frame at a time, since send_multipart looks at every frame twice. Only the route
            # can be refused: once that is taken, the rest of the message is.
            send(route, _MORE)
            last = len(frames) - 1
            for number, frame in enumerate(frames):
                copy = len(frame) < KEEP_FRAME_BYTES
                send(frame, _MORE if number < last else zmq.NOBLOCK, copy=copy)
        except zmq.Again:
            # It has not read thousands of replies, and will find its session gone if it does.
            self.dropped += 1
            self._loop.call_soon(self._lost, route)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._loop.call_soon(self._lost, route)
        self._has_sent = True
        if not (self._is_draining or self._is_scheduled):
            self._is_scheduled = True
            self._loop.call_soon(self._look)

    def close(self) -> None:
        """Stop listening; replies that are on their way get a moment."""
        self._loop.remove_reader(descriptor_of(self._socket))
        self._socket.close(linger=200)

    def _recheck(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._drain)

    def _look(self) -> None:
        """After sends outside a burst: did they swallow the edge of something that came in?"""
        self._is_scheduled = False
        if not self._socket.closed and has_input(self._socket):
            self._drain()

    def _drain(self) -> None:
        self._is_scheduled = False
        if self._socket.closed:
            return  # this was due when it was closed
        self._is_draining = True
        recv, received = self._socket.recv, self._received
        count = 0
        try:
            while count < BURST:
                try:
                    route = recv(zmq.NOBLOCK)
                except zmq.Again:
                    break
                count += 1
                received(route, self._rest())
            # An empty receive has seen every edge; what is sent from here on may swallow one.
            self._has_sent = False
            if count:
                self._burst_ended()
        finally:
            self._is_draining = False
        if count == BURST or (self._has_sent and has_input(self._socket)):
            self._recheck()

    def _rest(self) -> list[Buffer]:
        """The frames behind the route; of too many only so many that it shows."""
        recv = self._socket.recv
        frames: list[Buffer] = []
        while True:
            frame = recv(zmq.NOBLOCK, copy=False)
            if len(frames) <= FRAMES_MAX:
                is_large = len(frame) >= KEEP_FRAME_BYTES
                frames.append(frame.buffer if is_large else frame.bytes)
            if not frame.more:
                return frames
