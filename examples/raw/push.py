"""Follow a partition: plain pyzmq, msgpack and crc32c, after docs/protocol.md, section Push.

python examples/raw/push.py 127.0.0.1:5755 lines 0
Reads batches that are not compressed; the document says how to read the others.
"""
# ruff: noqa: ANN001, ANN201, ANN204

import os
import struct
import sys
import time
from contextlib import suppress

import msgpack
import zmq
from crc32c import crc32c

HELLO, PING, METADATA, FETCH, SUBSCRIBE = 1, 2, 3, 6, 10
LISTS = "topics", "partitions", "subjects"  # where errors may stand in replies


class BeginAnewError(Exception):
    """Another broker leads, or nobody answers."""


def decode(data, place):
    """For each batch of a frame: the offset behind it, its leader epoch, offsets and values."""
    seed = crc32c(struct.pack(">16sI", *place))
    while data:
        base, size, epoch, _, _, head_crc, body_crc = struct.unpack_from(">QIIQQII", data)
        magic, attributes, last_delta, count = struct.unpack_from(">4sIII", data, 40)
        right = crc32c(data[:32] + data[36:40]) == head_crc and magic == b"zmb\x01"
        if not right or crc32c(data[40:size], seed) != body_crc or attributes:
            raise ValueError(f"the batch at {base} is damaged, compressed or of a later version")
        unpacker, columns, at = msgpack.Unpacker(), {}, size
        unpacker.feed(data[92:size])
        for number, stored, _ in reversed(unpacker.unpack()):
            columns[number] = msgpack.unpackb(data[at - stored : at])
            at -= stored
        offsets = [base + delta for delta in columns.get(1, range(count))]
        yield base + last_delta + 1, epoch, offsets, columns[15]
        data = data[size:]


class Reader:
    """What was read of a partition, and what to do when something comes."""

    def __init__(self, deliver, place=None, start=0):
        self.deliver, self.place = deliver, place
        self.next, self.last_epoch = start, None  # leader epoch of the last batch read
        self.epoch = 0  # of the leader that was asked

    def take(self, data):
        for behind, epoch, offsets, values in decode(data, self.place):
            if behind > self.next:  # else it was seen already
                for offset, value in zip(offsets, values, strict=True):
                    if offset >= self.next:
                        self.deliver(offset, value)
                self.next, self.last_epoch = behind, epoch

    def fetched(self, end, data):
        self.take(data)
        return "fetch" if self.next < end else "wait"

    def published(self, fields, data=b""):  # a HEAD has neither `prev` nor data
        if fields["epoch"] != self.epoch:
            return "begin" if fields["epoch"] > self.epoch else "wait"
        if data and fields["prev"] <= self.next:
            with suppress(ValueError, struct.error):  # one that is damaged is as good as lost
                self.take(data)
                return "wait"  # what follows will be published too, or announced
        return "fetch" if self.next < fields["end"] else "wait"


class Broker:
    """A session, in which one request after the other is answered."""

    def __init__(self, context, endpoint):
        self.socket, self.read = context.socket(zmq.DEALER), 0
        self.socket.connect(f"tcp://{endpoint}")
        self.call(HELLO, {"client": "raw", "min": 1, "max": 1, "session": os.urandom(16)})

    def call(self, api, fields):
        self.socket.send(msgpack.packb([api, 1, 1, {"rx": self.read, **fields}]))
        self.called_at = time.monotonic()
        if not self.socket.poll(5_000):
            raise BeginAnewError("no answer in 5 s")
        header, *bodies = self.socket.recv_multipart()
        self.read += sum(map(len, bodies))
        reply = msgpack.unpackb(header)[3]
        entries = [reply, *(e for name in LISTS for e in reply.get(name, []) if type(e) is dict)]
        for error in (entry.get("error", entry) for entry in entries):
            if "retriable" in error:
                problem = f"{error['name']}: {error['detail']}"
                raise BeginAnewError(problem) if error["retriable"] else SystemExit(problem)
        return reply, b"".join(bodies)


def fetch(leader, reader):
    then = "fetch"
    while then == "fetch":
        wanted = [*reader.place, reader.next, 1 << 20, reader.epoch, reader.last_epoch]
        reply, data = leader.call(FETCH, {"partitions": [wanted]})
        then = reader.fetched(reply["partitions"][0][1], data)


def follow(context, endpoint, topic, partition, reader):
    reply, _ = Broker(context, endpoint).call(METADATA, {"topics": [topic]})
    where = {broker: address for broker, address, *_ in reply["brokers"]}
    found = reply["topics"][0]
    reader.place = reader.place or (found["id"], partition)
    broker, reader.epoch = found["partitions"][partition][:2]
    if broker not in where:
        raise BeginAnewError("nobody leads the partition")
    leader = Broker(context, where[broker])
    fetch(leader, reader)
    reply, _ = leader.call(SUBSCRIBE, {"partitions": [reader.place]})
    socket = context.socket(zmq.SUB)
    socket.connect(f"tcp://{reply['endpoint']}")
    socket.subscribe(reply["subjects"][0])
    while socket.poll(3_000):
        _, header, *data = socket.recv_multipart()
        fields = msgpack.unpackb(header)[3]
        then = reader.published(fields, *data)
        if then == "begin":
            raise BeginAnewError("another broker leads")
        if then == "fetch":
            print(f"fetching {reader.next} to {fields['end']}", file=sys.stderr, flush=True)
            fetch(leader, reader)
        elif time.monotonic() > leader.called_at + 5:
            leader.call(PING, {})  # the subscription ends with the session
    raise BeginAnewError("nothing was published for 3 s")


def print_value(_, value):
    sys.stdout.buffer.write((value or b"") + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    reader = Reader(print_value)
    while True:
        context = zmq.Context()
        try:
            follow(context, sys.argv[1], sys.argv[2], int(sys.argv[3]), reader)
        except BeginAnewError as why:
            print(f"beginning anew at {reader.next}: {why}", file=sys.stderr, flush=True)
            time.sleep(0.2)
        finally:
            context.destroy(linger=0)
