"""Connections to other brokers: a DEALER each, and a monitor that tells whether it is connected.

Nothing is kept for a broker that is not connected: whoever asks hears that the link is down, and
asks again. A socket whose connection is lost is closed, and another one made: what was on its way
must not arrive out of a queue when the other broker is somebody else by then (zeromq.md 3.3).

Names are looked up here, anew for each attempt: a broker may come back somewhere else. libzmq would
do it in the one thread that serves all sockets, and a name that no name server answers for, as that
of a container that is down, would hold up everybody for many seconds.

There are no ZMTP heartbeats. So a connection is lost only when the kernel of the other side says
so, and who is silent is found out by PING (core/control/detector.py).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final, cast

import zmq

from zmqmq.core.storage.disk import Buffer
from zmqmq.runtime.transport import BURST, KEEP_FRAME_BYTES

logger = logging.getLogger("zmqmq.server")

SEND_QUEUE: Final = 1_000
REOPEN_S: Final = 0.1
RETRY_S: Final = 0.5
"""Until the next attempt, after one that failed."""
CONNECT_MS: Final = 3_000
"""After so long without an answer another attempt is made to connect."""
_EVENT: Final = struct.Struct("=hi")
_UP: Final = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
_DOWN: Final = int(zmq.EVENT_DISCONNECTED)
_FAILED: Final = int(zmq.EVENT_CONNECT_RETRIED)
_MORE: Final = zmq.NOBLOCK | zmq.SNDMORE


class _Link:
    """One broker, and the socket of now."""

    __slots__ = ("address", "broker_id", "is_up", "look_up", "monitor", "socket", "trouble")

    def __init__(self, broker_id: int, address: str) -> None:
        self.broker_id = broker_id
        self.address = address
        self.is_up = False
        self.trouble = ""
        """What was said last about its address."""
        self.look_up: asyncio.Task[None] | None = None
        self.socket: zmq.Socket[bytes] | None = None
        self.monitor: zmq.Socket[bytes] | None = None

    @property
    def place(self) -> tuple[int, str]:
        """For messages to people."""
        return self.broker_id, self.address


class PeerLinks:
    """Lives on one event loop and is used from its thread alone."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        loop: asyncio.AbstractEventLoop,
        linked: Callable[[int], None],
        lost: Callable[[int], None],
        refused: Callable[[int], None],
        answered: Callable[[int, list[Buffer]], None],
        burst_ended: Callable[[], None],
    ) -> None:
        self._context = context
        self._loop = loop
        self._linked = linked
        self._lost = lost
        self._refused = refused
        self._answered = answered
        self._burst_ended = burst_ended
        self._links: dict[int, _Link] = {}

    def link(self, broker_id: int, address: str | None) -> None:
        """Keep up a connection to this address, and to no other of this broker."""
        old = self._links.pop(broker_id, None)
        if old is not None:
            self._shut(old)
        if address is not None:
            self._links[broker_id] = link = _Link(broker_id, address)
            self._open(link)

    def send(self, broker_id: int, frames: Sequence[Buffer]) -> None:
        """Send a request, or nothing where there is no connection."""
        link = self._links.get(broker_id)
        if link is None or link.socket is None or not link.is_up:
            return
        last = len(frames) - 1
        try:
            for number, frame in enumerate(frames):
                link.socket.send(frame, _MORE if number < last else zmq.NOBLOCK)
        except zmq.Again:
            self._lose(link, "it takes no more requests")
            return
        # A send may swallow the signal that something has come in.
        self._loop.call_soon(self._drain, link)

    def close(self) -> None:
        """End all connections."""
        for link in self._links.values():
            self._shut(link)
        self._links.clear()

    def _open(self, link: _Link) -> None:
        is_idle = link.socket is None and link.look_up is None
        if is_idle and self._links.get(link.broker_id) is link:
            link.look_up = self._loop.create_task(self._find(link))

    async def _find(self, link: _Link) -> None:
        host, _, port = link.address.rpartition(":")
        try:
            found = await self._loop.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM
            )
        except (OSError, ValueError) as error:
            link.look_up = None
            if str(error) != link.trouble:
                link.trouble = str(error)
                logger.error("cannot connect to broker %s at %s: %s", *link.place, error)
            self._loop.call_later(RETRY_S, self._open, link)
            return
        link.look_up = None
        link.trouble = ""
        where = cast("str", found[0][4][0])
        bracketed = f"[{where}]" if ":" in where else where
        self._connect(link, f"tcp://{bracketed}:{port}")

    def _connect(self, link: _Link, endpoint: str) -> None:
        dealer = link.socket = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, SEND_QUEUE),
            (zmq.RCVHWM, 0),  # what was asked for bounds it
            (zmq.IMMEDIATE, 1),
            (zmq.IPV6, 1),
            (zmq.CONNECT_TIMEOUT, CONNECT_MS),
            (zmq.HANDSHAKE_IVL, CONNECT_MS),
        ):
            dealer.setsockopt(option, value)
        link.monitor = dealer.get_monitor_socket(_UP | _DOWN | _FAILED)
        self._loop.add_reader(cast("int", dealer.fd), self._drain, link)
        self._loop.add_reader(cast("int", link.monitor.fd), self._look, link)
        dealer.connect(endpoint)
        self._loop.call_soon(self._look, link)

    def _shut(self, link: _Link) -> None:
        if link.look_up is not None:
            link.look_up.cancel()
            link.look_up = None
        dealer, monitor = link.socket, link.monitor
        link.socket = link.monitor = None
        if dealer is None or monitor is None:
            return
        for each in (dealer, monitor):
            self._loop.remove_reader(cast("int", each.fd))
        dealer.disable_monitor()
        dealer.close(linger=0)
        monitor.close(linger=0)

    def _lose(self, link: _Link, why: str) -> None:
        logger.warning("the connection to broker %s at %s was lost: %s", *link.place, why)
        self._shut(link)
        self._loop.call_later(REOPEN_S, self._open, link)
        if link.is_up:
            link.is_up = False
            self._lost(link.broker_id)

    def _look(self, link: _Link) -> None:
        """What the monitor says."""
        while link.monitor is not None:
            try:
                event, _ = link.monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            kind, _ = _EVENT.unpack(event)
            if kind == _UP:
                link.is_up = True
                logger.info("connected to broker %s at %s", *link.place)
                self._linked(link.broker_id)
                self._drain(link)
            elif kind == _DOWN:
                self._lose(link, "the other side has closed it")
            elif kind == _FAILED:
                self._shut(link)
                self._loop.call_later(RETRY_S, self._open, link)
                self._refused(link.broker_id)

    def _drain(self, link: _Link) -> None:
        count = 0
        while link.socket is not None and count < BURST:
            try:
                frame = link.socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            frames = [_taken(frame)]
            while frame.more:
                frame = link.socket.recv(zmq.NOBLOCK, copy=False)
                frames.append(_taken(frame))
            count += 1
            self._answered(link.broker_id, frames)
        if count:
            self._burst_ended()
            self._loop.call_soon(self._drain, link)  # there may be more, or what was sent hid it


def _taken(frame: zmq.Frame) -> Buffer:
    return frame.buffer if len(frame) >= KEEP_FRAME_BYTES else frame.bytes
