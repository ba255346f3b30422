"""The yardstick: the least that any broker on these sockets and this disk must do (DESIGN 10).

The server takes frames from a ROUTER socket, writes each with one `writev` behind a header with
offset, length, CRC and count, makes all that was drained at once durable with one `fdatasync`,
and answers. Reading is one `pread` and one send. There are no topics, sessions, checks, limits or
recovery, so it is no broker; what it reaches is what Python, pyzmq, msgpack and the disk allow.

    request   [number u32, count u32] ["P"] [msgpack array of values]
              [number u32, 0 u32]     ["F"] [index of a batch u64]
    reply     [number, count] [offset u64]
              [number, 0]     [index of the next batch u64] [batches]
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Sequence
from itertools import cycle, islice
from time import perf_counter_ns

import msgpack
import zmq
from crc32c import crc32c

from zmqmq.bench.histogram import Histogram
from zmqmq.bench.measure import Measurement, Meter

HEAD = struct.Struct("<QIIQ")
REQUEST = struct.Struct("<II")
READ_BYTES = 1 << 20
WAIT_MS = 60_000


def serve(port: int, path: str, *, fsync: bool) -> None:
    """Serve until killed."""
    router = zmq.Context().socket(zmq.ROUTER)
    router.sndhwm = router.rcvhwm = 0
    router.bind(f"tcp://127.0.0.1:{port}")
    poller = zmq.Poller()
    poller.register(router, zmq.POLLIN)
    file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600)
    index: list[tuple[int, int]] = []
    position = offset = 0
    print("ready", flush=True)
    while True:
        poller.poll()
        late: list[list[bytes]] = []
        while True:
            try:
                route, request, kind, body = router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            if kind.bytes == b"F":
                first = int.from_bytes(body.buffer, "little")
                after, size = first, 0
                while after < len(index):
                    more = index[after][1]
                    if after > first and size + more > READ_BYTES:
                        break
                    size += more
                    after += 1
                data = os.pread(file, size, index[first][0]) if size else b""
                reply = [route.bytes, request.bytes, after.to_bytes(8, "little"), data]
                router.send_multipart(reply, zmq.NOBLOCK, copy=False)
                continue
            values = body.buffer
            count = REQUEST.unpack(request.buffer)[1]
            head = HEAD.pack(offset, len(values), crc32c(values), count)
            size = len(head) + len(values)
            if os.writev(file, [head, values]) != size:
                raise OSError("short write")
            index.append((position, size))
            position += size
            reply = [route.bytes, request.bytes, offset.to_bytes(8, "little")]
            offset += count
            if fsync:
                late.append(reply)
            else:
                router.send_multipart(reply, zmq.NOBLOCK)
        if late:
            os.fdatasync(file)
            for reply in late:
                router.send_multipart(reply, zmq.NOBLOCK)


class Bare:
    """A client of it. `pid` is the server's."""

    def __init__(self, port: int, pid: int) -> None:
        self._pid = pid
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.sndhwm = self._socket.rcvhwm = 0
        self._socket.rcvtimeo = WAIT_MS
        self._socket.connect(f"tcp://127.0.0.1:{port}")
        self._number = 0

    def put(self, values: Sequence[bytes]) -> None:
        """Send one batch."""
        self._number += 1
        body = msgpack.packb(values)
        request = REQUEST.pack(self._number & 0xFFFFFFFF, len(values))
        self._socket.send_multipart([request, b"P", body], copy=len(body) < 65_536)

    def produce(self, values: Sequence[bytes], count: int, in_flight: int) -> Measurement:
        """So many records, a batch for each request, a number of requests in flight."""
        self.put(values)
        self._socket.recv_multipart()
        left = -(-count // len(values))
        total = left * len(values)
        flying = 0
        meter = Meter(self._pid)
        while left or flying:
            while left and flying < in_flight:
                self.put(values)
                left -= 1
                flying += 1
            self._socket.recv_multipart()
            flying -= 1
        return meter.stop("produce", total, len(values[0]))

    def single(self, values: Sequence[bytes], count: int, in_flight: int) -> Measurement:
        """Requests of one record; how long each took."""
        latency = Histogram()
        began: list[int] = []
        source = islice(cycle(values), count)
        answered = 0
        meter = Meter(self._pid)
        while answered < count:
            while len(began) - answered < in_flight and len(began) < count:
                began.append(perf_counter_ns())
                self.put([next(source)])
            self._socket.recv_multipart()
            latency.record(perf_counter_ns() - began[answered])
            answered += 1
        return meter.stop("single", count, len(values[0]), latency)

    def consume(self, count: int, record_bytes: int) -> Measurement:
        """Read from the start, one fetch after the other, and unpack every batch."""
        seen = at = 0
        meter = Meter(self._pid)
        while seen < count:
            request = [bytes(8), b"F", at.to_bytes(8, "little")]
            self._socket.send_multipart(request)
            frames = self._socket.recv_multipart(copy=False)
            at = int.from_bytes(frames[1].buffer, "little")
            data = frames[2].buffer
            position = 0
            while position < len(data):
                size = HEAD.unpack_from(data, position)[1]
                position += HEAD.size
                seen += len(msgpack.unpackb(data[position : position + size]))
                position += size
        return meter.stop("consume", seen, record_bytes)

    def close(self) -> None:
        """Let go."""
        self._socket.close(0)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], fsync=sys.argv[3] == "1")
