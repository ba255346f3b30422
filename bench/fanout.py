"""Fan-out: one stream of batches to many subscribers, from a broker and from a bare XPUB.

The subscribers are the same on both sides and as cheap as can be: TCP connections that speak just
enough ZMTP to subscribe, and count what comes without looking into it. Publishing is not held up by
slow subscribers but loses frames to them, so both sides run in a window: no more than so many
batches ahead of the slowest subscriber. Whatever gets lost ends the run.

    python -m bench.fanout subscribe PORT SUBJECT COUNT FILE SLOT     used by bench.push
    python -m bench.fanout bare PORT SUBJECT SUBSCRIBERS BYTES COUNT FILE
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import zmq

from bench.raw_client import Raw
from bench.server import Server, ServerError, free_port, serving
from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import log_seed
from zmqmq.bench.processes import cpu_of, own_cpu_ns
from zmqmq.bench.target import random_values
from zmqmq.runtime.transport import KEEP_FRAME_BYTES
from zmqmq.wire.apis import PUSH_QUEUE, Api
from zmqmq.wire.frame import encode_header

WINDOW: Final = 64
"""Batches that the slowest subscriber may be behind; well within PUSH_QUEUE."""
PROCESSES: Final = 2
IN_FLIGHT: Final = 32
STALLED_S: Final = 20
_NAP_S: Final = 0.0001
_GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_READY: Final = b"\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB"
_SLOT: Final = struct.Struct("<QQ")


class Progress:
    """A file that all processes of a run share: what the slowest subscriber of each process has of
    batches, in bytes, and how many of its subscribers have heard anything."""

    def __init__(self, path: Path) -> None:
        file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        os.ftruncate(file, mmap.PAGESIZE)
        self._map = mmap.mmap(file, mmap.PAGESIZE)
        os.close(file)

    def set(self, slot: int, least: int, heard: int) -> None:
        """Of one process."""
        _SLOT.pack_into(self._map, slot * _SLOT.size, least, heard)

    def wait(self, least: int, heard: int = 0) -> None:
        """Until every subscriber has so much, and so many have heard something."""
        seen, end = None, 0.0
        while True:
            slots = [_SLOT.unpack_from(self._map, s * _SLOT.size) for s in range(PROCESSES)]
            if min(slots)[0] >= least and sum(slot[1] for slot in slots) >= heard:
                return
            if slots != seen:
                seen, end = slots, time.monotonic() + STALLED_S
            elif time.monotonic() > end:
                raise TimeoutError(f"frames are lost: {least} bytes were sent, and came: {slots}")
            time.sleep(_NAP_S)


class Subscriber:
    """One connection that counts the bytes of batches."""

    def __init__(self, port: int, subject: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.bytes = 0
        self.is_heard = False
        self._skip = 0
        self._rest = b""
        self.socket.sendall(_GREETING)
        self._exactly(64)
        self.socket.sendall(bytes([4, len(_READY)]) + _READY)
        self._exactly(self._exactly(2)[1])
        self.socket.sendall(bytes([0, 1 + len(subject)]) + b"\x01" + subject)
        self.socket.settimeout(0)

    def take(self, buffer: bytearray) -> bool:
        """Count what has come, in the same buffer for all connections; False: it is over."""
        try:
            size = self.socket.recv_into(memoryview(buffer)[len(self._rest) :])
        except ConnectionError:
            return False
        if not size:
            return False
        if self._skip >= size:
            self._skip -= size
            self.bytes += size
            return True
        buffer[: len(self._rest)] = self._rest
        end = size + len(self._rest)
        at = self._skip
        self.bytes += self._skip
        self._skip, self._rest = 0, b""
        while at < end:
            after = self._message(buffer, at, end)
            if after < 0:
                self._rest = bytes(buffer[at:end])
                return True
            at = after
        self._skip = at - end
        self.bytes -= self._skip
        return True

    def _message(self, buffer: bytearray, at: int, end: int) -> int:
        """Where the message that begins here ends, if that can be told already, else -1."""
        header = at + 2 + buffer[at + 1] if at + 2 <= end else end
        if header + 2 > end:
            return -1
        body = header + 2 + buffer[header + 1]
        if not buffer[header] & 1:
            self.is_heard = True  # a HEAD
            return body if body <= end else -1
        if body + 9 > end:
            return -1
        if buffer[body] & 2:
            size = int.from_bytes(buffer[body + 1 : body + 9], "big")
            first = body + 9
        else:
            size = buffer[body + 1]
            first = body + 2
        self.bytes += size
        return first + size

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise ConnectionError("the publisher has gone")
            data += part
        return data


def subscribe(port: int, subject: bytes, count: int, path: Path, slot: int) -> None:
    """So many subscribers in this process, until the publisher goes."""
    progress = Progress(path)
    subscribers = [Subscriber(port, subject) for _ in range(count)]
    selector = selectors.DefaultSelector()
    for one in subscribers:
        selector.register(one.socket, selectors.EVENT_READ, one)
    buffer = bytearray(1 << 20)
    while True:
        for key, _ in selector.select():
            if not key.data.take(buffer):
                return
        heard = sum(one.is_heard for one in subscribers)
        progress.set(slot, min(one.bytes for one in subscribers), heard)


class FanOut(NamedTuple):
    """What one run gave."""

    delivered: int
    """Batches, at all subscribers together."""
    seconds: float
    cpu_ns: int
    """Of the publishing process."""


def serve_bare(port: int, subject: bytes, count: int, size: int, batches: int, path: Path) -> None:
    """The least: an XPUB that sends the same frames. Prints what `FanOut` holds."""
    progress = Progress(path)
    publisher = zmq.Context().socket(zmq.XPUB)
    publisher.linger = 0
    publisher.sndhwm = PUSH_QUEUE
    publisher.setsockopt(zmq.XPUB_VERBOSE, 1)
    publisher.bind(f"tcp://127.0.0.1:{port}")
    print("ready", flush=True)
    for _ in range(count):
        publisher.recv()
    publisher.send_multipart([subject, encode_header(Api.HEAD, 0, {})])
    progress.wait(0, count)
    body = os.urandom(size)
    began, cpu = time.perf_counter(), own_cpu_ns()
    for number in range(batches):
        progress.wait((number - WINDOW) * size)
        header = encode_header(Api.PUSH, 0, {"prev": number, "end": number + 1, "epoch": 1})
        publisher.send(subject, zmq.SNDMORE)
        publisher.send(header, zmq.SNDMORE)
        if size < KEEP_FRAME_BYTES:
            publisher.send(body)
        else:
            publisher.send(body, copy=False)
    progress.wait(batches * size)
    took = time.perf_counter() - began
    print(json.dumps([count * batches, took, own_cpu_ns() - cpu]), flush=True)


def from_bare(folder: Path, subscribers: int, size: int, batches: int) -> FanOut:
    """The yardstick."""
    port, subject = free_port(), b"p.%s.0." % os.urandom(16).hex().encode()
    path = folder / "progress"
    numbers = [str(port), subject.decode(), str(subscribers), str(size), str(batches), str(path)]
    command = [sys.executable, "-m", "bench.fanout", "bare", *numbers]
    with (
        serving(command, port, folder) as server,
        _subscribers(port, subject, subscribers, path),
    ):
        assert server.process.stdout is not None
        line = server.process.stdout.readline().strip() or server.process.stdout.readline()
        if not line:
            raise ServerError((folder / "stderr.txt").read_text()[-800:])
        return FanOut(*json.loads(line))


def from_broker(server: Server, folder: Path, subscribers: int, size: int, batches: int) -> FanOut:
    """Produced to a broker with acks=all, and published by it."""
    client = Raw(server.port, server.pid)
    topic_id = client.create("fanout", 1)
    answer = client.ask(Api.SUBSCRIBE, {"partitions": [(topic_id, 0)]})
    (subject,) = answer["subjects"]
    port = int(answer["endpoint"].rpartition(":")[2])
    values: list[bytes | None] = [*random_values(size, 1)]
    seed = log_seed(topic_id, 0)
    stored = len(encode_batch(seed, values, timestamp_ms=0))
    path = folder / "progress"
    progress = Progress(path)
    with _subscribers(port, subject, subscribers, path):
        progress.wait(0, subscribers)
        began, cpu = time.perf_counter(), _cpu_ns(server)
        for number in range(batches):
            if number >= IN_FLIGHT:
                client.receive()
            progress.wait((number - WINDOW) * stored)
            client.put(topic_id, 0, seed, values)
        for _ in range(min(batches, IN_FLIGHT)):
            client.receive()
        # What the kernel did not have at hand was announced only, to be fetched.
        (measures,) = client.ask(Api.DESCRIBE, {"kind": "broker"})["items"]
        progress.wait(measures["bytes_pushed"])
        took = time.perf_counter() - began
        delivered = subscribers * measures["bytes_pushed"] // stored
        done = FanOut(delivered, took, _cpu_ns(server) - cpu)
    client.close()
    return done


def _cpu_ns(server: Server) -> int:
    cpu = cpu_of(server.pid)
    assert cpu
    return cpu.whole


@contextlib.contextmanager
def _subscribers(port: int, subject: bytes, count: int, path: Path) -> Iterator[None]:
    """In processes of their own, which are killed afterwards."""
    Progress(path)
    processes = []
    try:
        for slot in range(PROCESSES):
            share = count // PROCESSES + (slot < count % PROCESSES)
            numbers = [str(port), subject.decode(), str(share), str(path), str(slot)]
            command = [sys.executable, "-m", "bench.fanout", "subscribe", *numbers]
            processes.append(subprocess.Popen(command))
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main(role: str, port: str, subject: str, *rest: str) -> None:
    """A process of its own."""
    roles: dict[str, Any] = {"subscribe": subscribe, "bare": serve_bare}
    arguments = [Path(text) if "/" in text else int(text) for text in rest]
    roles[role](int(port), subject.encode(), *arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
