"""The record batch header, field by field (docs/storage.md, "Record batch").

    position  size  field              written by
    0         8     base offset        leader
    8         4     batch size         leader    bytes of the whole batch, this header included
    12        4     leader epoch       leader
    16        8     append time        leader    ms since 1970, UTC
    24        8     committed end      leader    the high watermark when this was appended
    32        4     head CRC           leader    CRC-32C of bytes 0-31 and 36-39
    36        4     body CRC           producer  CRC-32C of topic id, partition, bytes 40 on
    40        4     magic              producer  "zmb" and the version, 1
    44        4     attributes         producer
    48        4     last offset delta  producer
    52        4     record count       producer
    56        4     inflated size      producer  of all columns after decompression
    60        8     first timestamp    producer  ms
    68        8     last timestamp     producer  ms
    76        8     producer id        producer  0: none
    84        4     producer epoch     producer
    88        4     base sequence      producer
    92              columns

Big-endian. The leader writes its part without touching the producer's, so the body CRC travels
from the producer to the consumer. It covers topic id and partition too: a batch that ends up in
another log fails its checksum there. The head CRC covers the body CRC, so a reader that has
checked both knows that the two parts belong together.

The magic is four bytes that hardly ever occur by chance, so that recovery can look for a valid
batch behind a damaged one without trying every byte.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from crc32c import crc32c

from zmqmq.batch.compression import Codec
from zmqmq.errors import CorruptDataError
from zmqmq.model.limits import (
    BATCH_INFLATED_BYTES_MAX,
    BATCH_RECORDS_MAX,
    INTEGER_MAX,
    SEQUENCE_MAX,
)

Buffer = bytes | bytearray | memoryview

MAGIC: Final = b"zmb\x01"
MAGIC_AT: Final = 40
BODY_CRC_AT: Final = 36
BODY_AT: Final = 40
HEAD_SIZE: Final = 36
HEADER_SIZE: Final = 92

_STAMP: Final = struct.Struct(">QIIQQ")
_HEADER: Final = struct.Struct(">QIIQQII4sIIIIQQQII")
_PRODUCER: Final = struct.Struct(">4sIIIIQQQII")
_CRC: Final = struct.Struct(">I")
_VERIFIED: Final = struct.Struct(">QI20xII8xI")
SIZE_AT: Final = struct.Struct(">QI")

COMPRESSION_MASK: Final = 0x07
CONTROL: Final = 0x10
TRANSACTIONAL: Final = 0x20
_CODECS: Final = tuple(Codec)
KNOWN_ATTRIBUTES: Final = COMPRESSION_MASK | CONTROL | TRANSACTIONAL

assert _HEADER.size == HEADER_SIZE
assert _STAMP.size + _CRC.size == HEAD_SIZE
assert _PRODUCER.size == HEADER_SIZE - BODY_AT


class BatchHeader(NamedTuple):
    """The header of a batch, unpacked. Nothing in it has been checked yet."""

    base_offset: int
    size: int
    leader_epoch: int
    append_time_ms: int
    committed_end: int
    head_crc: int
    body_crc: int
    magic: bytes
    attributes: int
    last_offset_delta: int
    record_count: int
    inflated_size: int
    first_timestamp_ms: int
    last_timestamp_ms: int
    producer_id: int
    producer_epoch: int
    base_sequence: int

    @property
    def next_offset(self) -> int:
        """The offset behind the last record."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def last_sequence(self) -> int:
        """The sequence number of the last record; after SEQUENCE_MAX comes 0."""
        return (self.base_sequence + self.last_offset_delta) & SEQUENCE_MAX

    @property
    def codec(self) -> Codec:
        """How the columns are compressed."""
        return _CODECS[self.attributes & COMPRESSION_MASK]

    @property
    def is_control(self) -> bool:
        """A mark of the broker's own, which consumers never see."""
        return bool(self.attributes & CONTROL)


def unpack_header(data: Buffer, position: int = 0) -> BatchHeader:
    """The header at `position`; the caller has seen to it that 92 bytes are there."""
    return BatchHeader._make(_HEADER.unpack_from(data, position))


def log_seed(topic_id: bytes, partition: int) -> int:
    """What the body CRC of every batch of this partition starts from."""
    assert len(topic_id) == 16
    return int(crc32c(topic_id + partition.to_bytes(4, "big")))


def stamp(
    base_offset: int,
    size: int,
    leader_epoch: int,
    append_time_ms: int,
    committed_end: int,
    body_crc: bytes,
) -> bytes:
    """The leader's 36 bytes for a batch whose bytes 36 to 39 are `body_crc`."""
    head = _STAMP.pack(base_offset, size, leader_epoch, append_time_ms, committed_end)
    return head + _CRC.pack(crc32c(body_crc, crc32c(head)))


def head_is_valid(data: Buffer, position: int, head_crc: int) -> bool:
    """Whether the leader's part of the header is what the leader wrote."""
    view = memoryview(data)
    head = crc32c(view[position : position + 32])
    body_crc = view[position + BODY_CRC_AT : position + BODY_AT]
    return bool(crc32c(body_crc, head) == head_crc)


def body_is_valid(data: Buffer, position: int, size: int, body_crc: int, seed: int) -> bool:
    """Whether the producer's part and the columns are what the producer wrote for this log."""
    return bool(crc32c(memoryview(data)[position + BODY_AT : position + size], seed) == body_crc)


def verify(view: memoryview, position: int, seed: int) -> tuple[int, int]:
    """Base and next offset of the stored batch at `position` if both checksums hold, else -1, -1.

    What a broker does with each batch that it hands out. The fields were checked when the batch
    came in; whoever does not trust them uses decode.check_batch.
    """
    base_offset, size, head_crc, body_crc, last_offset_delta = _VERIFIED.unpack_from(view, position)
    head = crc32c(view[position : position + 32])
    if (
        crc32c(view[position + BODY_CRC_AT : position + BODY_AT], head) != head_crc
        or crc32c(view[position + BODY_AT : position + size], seed) != body_crc
    ):
        return -1, -1
    return base_offset, base_offset + last_offset_delta + 1


def pack_producer_part(
    seed: int,
    columns: bytes,
    *,
    attributes: int,
    last_offset_delta: int,
    count: int,
    inflated_size: int,
    first_timestamp_ms: int,
    last_timestamp_ms: int,
    producer_id: int,
    producer_epoch: int,
    base_sequence: int,
) -> bytes:
    """A whole batch as a producer sends it: the leader's part is zeros."""
    fields = _PRODUCER.pack(
        MAGIC,
        attributes,
        last_offset_delta,
        count,
        inflated_size,
        first_timestamp_ms,
        last_timestamp_ms,
        producer_id,
        producer_epoch,
        base_sequence,
    )
    body_crc = crc32c(columns, crc32c(fields, seed))
    return b"".join((bytes(HEAD_SIZE), _CRC.pack(body_crc), fields, columns))


def check_fields(header: BatchHeader) -> None:
    """Raise CorruptDataError unless every field is one that this version may write.

    Says nothing about checksums. Run on what producers send and on what recovery finds, since a
    correct checksum over a nonsensical field proves only that nobody changed it on the way.
    """
    wrong: str | None = None
    if header.magic != MAGIC:
        wrong = f"magic {header.magic.hex()} is not {MAGIC.hex()}"
    elif header.attributes & ~KNOWN_ATTRIBUTES:
        wrong = f"attributes {header.attributes:#x} has bits unknown to this version"
    elif header.attributes & COMPRESSION_MASK > Codec.ZSTD:
        wrong = f"compression {header.attributes & COMPRESSION_MASK} is unknown"
    elif not 1 <= header.record_count <= BATCH_RECORDS_MAX:
        wrong = f"record count {header.record_count} is outside 1 to {BATCH_RECORDS_MAX}"
    elif header.last_offset_delta + 1 < header.record_count:
        wrong = (
            f"last offset delta {header.last_offset_delta} is too small for {header.record_count}"
        )
    elif header.inflated_size > BATCH_INFLATED_BYTES_MAX:
        wrong = f"inflated size {header.inflated_size} is over {BATCH_INFLATED_BYTES_MAX}"
    elif header.base_sequence > SEQUENCE_MAX:
        wrong = f"base sequence {header.base_sequence} is over {SEQUENCE_MAX}"
    elif (
        max(
            header.base_offset,
            header.first_timestamp_ms,
            header.last_timestamp_ms,
            header.producer_id,
            header.append_time_ms,
            header.committed_end,
        )
        > INTEGER_MAX
    ):
        wrong = f"an offset, time or producer id is over {INTEGER_MAX}"
    if wrong:
        raise CorruptDataError(f"record batch: {wrong}")
