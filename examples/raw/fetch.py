"""Print a partition: plain pyzmq, msgpack and crc32c, after docs/protocol.md.

python examples/raw/fetch.py 127.0.0.1:5755 lines 0
Reads batches that are not compressed; the document says how to read the others.
"""
# ruff: noqa: ANN001, ANN201

import os
import struct
import sys

import msgpack
import zmq
from crc32c import crc32c

HELLO, METADATA, FETCH = 1, 3, 6


def call(socket, api, fields):
    socket.send(msgpack.packb([api, 1, 1, fields]))
    if not socket.poll(30_000):
        sys.exit("no answer in 30 s")
    header, *bodies = socket.recv_multipart()
    reply = msgpack.unpackb(header)[3]
    if "error" in reply:
        sys.exit(f"{reply['error']['name']}: {reply['error']['detail']}")
    return reply, bodies


def decode(data, seed):
    """For each batch of a frame: the offset behind its last record, and its values."""
    while data:
        base, size, _, _, _, head_crc, body_crc = struct.unpack_from(">QIIQQII", data)
        magic, attributes, last_delta = struct.unpack_from(">4sII", data, 40)
        right = crc32c(data[:32] + data[36:40]) == head_crc and magic == b"zmb\x01"
        if not right or crc32c(data[40:size], seed) != body_crc or attributes:
            sys.exit(f"the batch at offset {base} is damaged, compressed or of a later version")
        unpacker = msgpack.Unpacker()
        unpacker.feed(data[92:size])
        values_size = {number: stored for number, stored, _ in unpacker.unpack()}[15]
        yield base + last_delta + 1, msgpack.unpackb(data[size - values_size : size])
        data = data[size:]


endpoint, topic, partition = sys.argv[1], sys.argv[2], int(sys.argv[3])
socket = zmq.Context.instance().socket(zmq.DEALER)
socket.linger = 0
socket.connect(f"tcp://{endpoint}")
call(socket, HELLO, {"client": "raw", "min": 1, "max": 1, "session": os.urandom(16)})
topic_id = call(socket, METADATA, {"topics": [topic]})[0]["topics"][0]["id"]
seed, offset, end, read = crc32c(topic_id + struct.pack(">I", partition)), 0, 1, 0
while offset < end:
    wanted = {"partitions": [[topic_id, partition, offset, 1 << 20]], "rx": read}
    reply, bodies = call(socket, FETCH, wanted)
    end = reply["partitions"][0][1]
    read += sum(map(len, bodies))
    for offset, values in decode(b"".join(bodies), seed):  # noqa: B007 - it is where to go on
        sys.stdout.buffer.write(b"".join((value or b"") + b"\n" for value in values))
