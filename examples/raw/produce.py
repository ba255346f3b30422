"""Produce lines from stdin: plain pyzmq, msgpack and crc32c, after docs/protocol.md.

seq 1000 | python examples/raw/produce.py 127.0.0.1:5755 lines
"""
# ruff: noqa: ANN001, ANN002, ANN201

import os
import struct
import sys
import time

import msgpack
import zmq
from crc32c import crc32c

HELLO, METADATA, INIT_PRODUCER, PRODUCE, CREATE_TOPIC = 1, 3, 4, 5, 20


def call(socket, api, fields, *bodies):
    call.number = getattr(call, "number", 0) + 1
    socket.send_multipart([msgpack.packb([api, 1, call.number, fields]), *bodies])
    while socket.poll(30_000):
        header, *_ = socket.recv_multipart()
        _, _, correlation, reply = msgpack.unpackb(header)
        if correlation == call.number:
            return reply
    sys.exit("no answer in 30 s: perhaps written, perhaps not")


def encode(topic_id, partition, values, producer, sequence):
    column = msgpack.packb(values)
    directory = msgpack.packb([[15, len(column), len(column)]])
    count, now = len(values), int(time.time() * 1000)
    fields = (0, count - 1, count, len(column), now, now, *producer, sequence)
    body = struct.pack(">4sIIIIQQQII", b"zmb\x01", *fields) + directory + column
    return (
        bytes(36) + struct.pack(">I", crc32c(topic_id + struct.pack(">I", partition) + body)) + body
    )


endpoint, topic = sys.argv[1:3]
socket = zmq.Context.instance().socket(zmq.DEALER)
socket.linger = 0
socket.connect(f"tcp://{endpoint}")
call(socket, HELLO, {"client": "raw", "min": 1, "max": 1, "session": os.urandom(16)})
call(socket, CREATE_TOPIC, {"topic": topic})  # an error if it is there already: fine
topic_id = call(socket, METADATA, {"topics": [topic]})["topics"][0]["id"]
reply = call(socket, INIT_PRODUCER, {})
producer, sequence = (reply["producer_id"], reply["producer_epoch"]), 0
lines = sys.stdin.buffer.read().splitlines()
for at in range(0, len(lines), 500):
    batch = encode(topic_id, 0, lines[at : at + 500], producer, sequence % 2**31)
    reply = call(socket, PRODUCE, {"acks": -1, "batches": [[topic_id, 0]]}, batch)
    result = reply["error"] if "error" in reply else reply["results"][0]
    if isinstance(result, dict):
        sys.exit(f"{result['name']}: {result['detail']}")
    sequence += len(lines[at : at + 500])
    print(f"{len(lines[at : at + 500])} records at offset {result[0]}")
