"""ZMTP 3.0 by hand over TCP: connections that cost one descriptor, say what they like and need
not read."""

from __future__ import annotations

import secrets
import socket
from typing import Self

import msgpack

from zmqmq.wire.apis import Api

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE = 1


class Wire:
    """One TCP connection to a broker."""

    def __init__(self, endpoint: str, *, receive_buffer: int = 0) -> None:
        host, _, port = endpoint.rpartition(":")
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.socket.connect((host, int(port)))
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def shake(self, kind: str = "DEALER") -> Self:
        """The greeting of both sides, and READY."""
        ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind.encode()
        self.socket.sendall(GREETING)
        self._exactly(64)
        self.socket.sendall(bytes([4, len(ready)]) + ready)
        self.frame()
        return self

    def hello(self) -> Self:
        """A session."""
        fields = {"client": "wire", "min": 1, "max": 1, "session": secrets.token_bytes(16)}
        self.send(msgpack.packb([int(Api.HELLO), 1, 1, fields]))
        assert b"error" not in self.frame()
        return self

    def send(self, *frames: bytes) -> None:
        """One message."""
        last = len(frames) - 1
        parts = [self.packed(frame, more=at < last) for at, frame in enumerate(frames)]
        self.socket.sendall(b"".join(parts))

    @staticmethod
    def packed(frame: bytes, *, more: bool) -> bytes:
        """A frame as it goes over the wire."""
        if len(frame) < 256:
            return bytes([MORE if more else 0, len(frame)]) + frame
        return bytes([2 | (MORE if more else 0)]) + len(frame).to_bytes(8, "big") + frame

    def frame(self) -> bytes:
        """The next frame or command."""
        flags, size = self._exactly(2)
        if flags & 2:
            rest = self._exactly(7)
            return self._exactly(int.from_bytes(bytes([size]) + rest, "big"))
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self.socket.recv(min(size, 1 << 20))
            if not part:
                raise ConnectionError("the broker closed the connection")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
