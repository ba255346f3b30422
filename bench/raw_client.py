"""A zmqmq client of nothing but pyzmq and our codecs: it shows the broker without our client.

It does what any client must (HELLO, ids, batches, checksums) and nothing that a good one should:
no retries, no idempotence, no reconnecting, no flow control but saying what was read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import cycle, islice
from time import perf_counter_ns, time_ns
from typing import Any

import zmq

from bench.bare import WAIT_MS
from zmqmq.batch.decode import decode_batches
from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import log_seed
from zmqmq.bench.histogram import Histogram
from zmqmq.bench.measure import Measurement, Meter
from zmqmq.wire.apis import ACKS_ALL, Api
from zmqmq.wire.frame import decode_reply_header, encode_header

FETCH_BYTES = 1 << 20


class RawError(Exception):
    """The broker refused."""


class Raw:
    """One DEALER socket with a session. `pid` is the broker's."""

    def __init__(self, port: int, pid: int) -> None:
        self._pid = pid
        self._correlation = 0
        self._read_bytes = 0
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.sndhwm = self._socket.rcvhwm = 0
        self._socket.rcvtimeo = WAIT_MS
        self._socket.connect(f"tcp://127.0.0.1:{port}")
        session = os.urandom(16)
        self.ask(Api.HELLO, {"client": "bench.raw", "min": 1, "max": 1, "session": session})

    def ask(self, api: Api, fields: dict[str, Any]) -> dict[str, Any]:
        """One request and its answer; nothing else may be in flight. Raises RawError."""
        self._send(api, fields)
        return self.receive()[0]

    def create(self, topic: str, partitions: int) -> bytes:
        """A new topic; its id."""
        reply = self.ask(Api.CREATE_TOPIC, {"topic": topic, "partitions": partitions})
        topic_id: bytes = reply["id"]
        return topic_id

    def delete(self, topic: str) -> None:
        """Drop it with all that is in it."""
        self.ask(Api.DELETE_TOPIC, {"topic": topic})

    def produce(
        self,
        topic_id: bytes,
        values: Sequence[bytes],
        count: int,
        in_flight: int,
        partitions: int = 1,
    ) -> Measurement:
        """Batches in turn to each partition, a number of requests in flight altogether."""
        batch = list(values)
        seeds = [log_seed(topic_id, partition) for partition in range(partitions)]
        left = -(-count // len(batch))
        total = left * len(batch)
        self.put(topic_id, 0, seeds[0], batch)
        self.receive()
        flying = turn = 0
        meter = Meter(self._pid)
        while left or flying:
            while left and flying < in_flight:
                self.put(topic_id, turn, seeds[turn], batch)
                turn = (turn + 1) % partitions
                left -= 1
                flying += 1
            self.receive()
            flying -= 1
        return meter.stop("produce", total, len(batch[0]), partitions=partitions)

    def single(
        self, topic_id: bytes, values: Sequence[bytes], count: int, in_flight: int
    ) -> Measurement:
        """Requests of one record; how long each took."""
        seed = log_seed(topic_id, 0)
        latency = Histogram()
        began: list[int] = []
        source = islice(cycle(values), count)
        answered = 0
        meter = Meter(self._pid)
        while answered < count:
            while len(began) - answered < in_flight and len(began) < count:
                began.append(perf_counter_ns())
                self.put(topic_id, 0, seed, [next(source)])
            self.receive()
            latency.record(perf_counter_ns() - began[answered])
            answered += 1
        return meter.stop("single", count, len(values[0]), latency)

    def consume(self, topic_id: bytes, count: int, record_bytes: int) -> Measurement:
        """Read partition 0 from its start, one fetch after the other, checking every batch."""
        seed = log_seed(topic_id, 0)
        seen = offset = 0
        meter = Meter(self._pid)
        while seen < count:
            self._send(
                Api.FETCH,
                {
                    "max_wait_ms": 5_000,
                    "max_bytes": FETCH_BYTES,
                    "partitions": [(topic_id, 0, offset, FETCH_BYTES)],
                    "rx": self._read_bytes,
                },
            )
            for body in self.receive()[1]:
                self._read_bytes += len(body)
                for batch in decode_batches(body, seed, "t", 0):
                    seen += len(batch.values)
                    offset = batch.next_offset
        return meter.stop("consume", seen, record_bytes)

    def close(self) -> None:
        """Let go."""
        self._socket.close(0)

    def put(self, topic_id: bytes, partition: int, seed: int, values: list[Any]) -> None:
        """Send one batch."""
        batch = encode_batch(seed, values, timestamp_ms=time_ns() // 1_000_000)
        fields = {"acks": ACKS_ALL, "batches": [(topic_id, partition)]}
        self._send(Api.PRODUCE, fields, batch)

    def _send(self, api: Api, fields: dict[str, Any], body: bytes | None = None) -> None:
        self._correlation += 1
        header = encode_header(api, self._correlation, fields)
        frames = [header] if body is None else [header, body]
        self._socket.send_multipart(frames, copy=body is None or len(body) < 65_536)

    def receive(self) -> tuple[dict[str, Any], list[memoryview]]:
        """The next answer, to whatever it is. Raises RawError."""
        frames = self._socket.recv_multipart(copy=False)
        fields = decode_reply_header(frames[0].bytes)[3]
        failed = fields.get("error") or next(
            (r for r in fields.get("results", ()) if type(r) is dict), None
        )
        if failed:
            raise RawError(str(failed))
        return fields, [frame.buffer for frame in frames[1:]]
