"""Batches that lie: about their magic, checksum, count, length, size, attributes or sequence."""

from __future__ import annotations

import struct
from typing import Any

import lz4.block
import msgpack
import pytest

from tests.hostile.raw import MIB, RawClient, batch_of
from zmqmq.batch.compression import Codec
from zmqmq.batch.decode import decode_batches
from zmqmq.batch.layout import BODY_AT, HEADER_SIZE, log_seed, pack_producer_part, stamp
from zmqmq.errors import Code, CorruptDataError
from zmqmq.model.limits import (
    BATCH_BYTES_MAX,
    BATCH_INFLATED_BYTES_MAX,
    BATCH_RECORDS_MAX,
    SEQUENCE_MAX,
)
from zmqmq.wire.apis import Api

FIELDS = (
    "attributes",
    "last_offset_delta",
    "count",
    "inflated_size",
    "first_timestamp_ms",
    "last_timestamp_ms",
    "producer_id",
    "producer_epoch",
    "base_sequence",
)


def crafted(topic_id: bytes, columns: list[tuple[int, Any]], **changes: int) -> bytes:
    """A batch with a right checksum over whatever fields and columns are wanted."""
    packed = [(n, v if isinstance(v, bytes) else msgpack.packb(v)) for n, v in columns]
    directory = msgpack.packb([(n, len(v), len(v)) for n, v in packed])
    return around(topic_id, directory + b"".join(v for _, v in packed), packed, **changes)


def around(topic_id: bytes, body: bytes, packed: list[tuple[int, bytes]], **changes: int) -> bytes:
    fields = dict.fromkeys(FIELDS, 0) | {
        "count": 2,
        "last_offset_delta": 1,
        "inflated_size": sum(len(v) for _, v in packed),
        "first_timestamp_ms": 5,
        "last_timestamp_ms": 5,
    }
    return pack_producer_part(log_seed(topic_id, 0), body, **{**fields, **changes})


def refused(client: RawClient, topic_id: bytes, batch: bytes) -> dict[str, Any]:
    """The error of a batch that must not be stored."""
    end = client.fetch(topic_id, 0)[0]["partitions"][0][1]
    (entry,) = client.produce(topic_id, batch)["results"]
    assert isinstance(entry, dict), f"it was stored at {entry}"
    assert client.fetch(topic_id, 0)[0]["partitions"][0][1] == end
    assert not entry["retriable"]
    return entry


@pytest.fixture
def topic_id(client: RawClient) -> bytes:
    return client.make_topic("lies")


GOOD = [(15, [b"a", b"b"])]


def test_what_the_lies_are_told_of_is_taken(client: RawClient, topic_id: bytes) -> None:
    (entry,) = client.produce(topic_id, crafted(topic_id, GOOD))["results"]
    assert isinstance(entry, list)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attributes": 3}, ["compression 3"]),
        ({"attributes": 7}, ["compression 7"]),
        ({"attributes": 8}, ["0x8"]),
        ({"attributes": 0x10}, ["control"]),
        ({"attributes": 0x20}, ["transactional"]),
        ({"attributes": 0x40}, ["0x40"]),
        ({"attributes": 1 << 31}, ["0x80000000"]),
        ({"count": 0, "last_offset_delta": 0}, ["record count 0", str(BATCH_RECORDS_MAX)]),
        ({"count": BATCH_RECORDS_MAX + 1}, [str(BATCH_RECORDS_MAX + 1), str(BATCH_RECORDS_MAX)]),
        ({"count": 3, "last_offset_delta": 2}, ["2 entries", "3"]),
        ({"count": 1, "last_offset_delta": 0}, ["2 entries", "1"]),
        ({"last_offset_delta": 0}, ["last offset delta 0"]),
        ({"last_offset_delta": 7}, ["last offset delta 7"]),
        ({"last_offset_delta": 2**32 - 1}, [str(2**32 - 1)]),
        ({"inflated_size": 1}, ["says 1"]),
        ({"inflated_size": BATCH_INFLATED_BYTES_MAX + 1}, [str(BATCH_INFLATED_BYTES_MAX)]),
        ({"first_timestamp_ms": 2**53}, [str(2**53 - 1)]),
        ({"last_timestamp_ms": 2**64 - 1}, [str(2**53 - 1)]),
        ({"producer_id": 2**53}, [str(2**53 - 1)]),
        ({"base_sequence": SEQUENCE_MAX + 1}, [str(SEQUENCE_MAX + 1), str(SEQUENCE_MAX)]),
    ],
    ids=str,
)
def test_a_field_that_lies_is_refused(
    client: RawClient, topic_id: bytes, changes: dict[str, int], said: list[str]
) -> None:
    error = refused(client, topic_id, crafted(topic_id, GOOD, **changes))

    assert error["code"] == Code.CORRUPT_BATCH
    for text in said:
        assert text in error["detail"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ([], "no values"),
        ([(3, [b"k", b"k"])], "no values"),
        ([(15, [b"a"])], "1 entries"),
        ([(15, {})], "-1 entries"),
        ([(15, [b"a", b"b"]), (15, [b"a", b"b"])], "twice"),
        ([(3, [b"k"]), *GOOD], "1 entries"),
        ([(1, [0, 0]), *GOOD], "offset deltas"),
        ([(1, [0, 1]), *GOOD], "offset deltas"),
    ],
    ids=str,
)
def test_columns_that_no_reader_could_show_are_refused(
    client: RawClient, topic_id: bytes, columns: list[tuple[int, Any]], said: str
) -> None:
    error = refused(client, topic_id, crafted(topic_id, columns))

    assert error["code"] == Code.CORRUPT_BATCH
    assert said in error["detail"]


@pytest.mark.parametrize(
    "directory",
    [
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        msgpack.packb([[15]]),
        msgpack.packb([[15, -1, 5]]),
        msgpack.packb([["15", 5, 5]]),
        msgpack.packb([[15, 5.0, 5]]),
        msgpack.packb({15: [5, 5]}),
        msgpack.packb([[15, 2**63, 2**63]]),
        b"\x91\x93\x0f\xcf",
        b"\x93\x93\x01",
    ],
    ids=bytes.hex,
)
def test_a_directory_that_is_none_is_refused(
    client: RawClient, topic_id: bytes, directory: bytes
) -> None:
    values = msgpack.packb([b"a", b"b"])
    batch = around(topic_id, directory + values, [(15, values)])

    error = refused(client, topic_id, batch)
    assert error["code"] == Code.CORRUPT_BATCH
    assert "directory" in error["detail"]


@pytest.mark.parametrize("at", [36, 40, 43, 44, 51, 52, 60, 91, HEADER_SIZE, -1])
def test_a_flipped_bit_is_refused(client: RawClient, topic_id: bytes, at: int) -> None:
    batch = bytearray(batch_of(topic_id, b"value", b"other"))
    batch[at] ^= 1

    assert refused(client, topic_id, bytes(batch))["code"] == Code.CORRUPT_BATCH


def test_every_truncation_is_refused(client: RawClient, topic_id: bytes) -> None:
    batch = batch_of(topic_id, b"value", b"other", keys=[b"k", b"k"])
    for size in range(1, len(batch)):
        error = refused(client, topic_id, batch[:size])
        assert error["code"] == Code.CORRUPT_BATCH
    assert refused(client, topic_id, b"")["code"] == Code.CORRUPT_BATCH
    assert refused(client, topic_id, batch + b"\0")["code"] == Code.CORRUPT_BATCH


def test_two_batches_in_one_frame_are_refused(client: RawClient, topic_id: bytes) -> None:
    batch = batch_of(topic_id, b"value")

    assert refused(client, topic_id, batch + batch)["code"] == Code.CORRUPT_BATCH


def test_a_batch_of_another_partition_or_topic_is_refused(
    client: RawClient, topic_id: bytes
) -> None:
    other = client.make_topic("lies-too")
    for batch in (batch_of(other, b"x"), batch_of(topic_id, b"x", partition=1)):
        error = refused(client, topic_id, batch)
        assert "topic id and partition" in error["detail"]


def test_what_stands_in_the_leaders_part_does_not_count(client: RawClient, topic_id: bytes) -> None:
    batch = batch_of(topic_id, b"value")
    end = client.fetch(topic_id, 0)[0]["partitions"][0][1]
    lie = stamp(10**9, 7, 10**6, 5, 10**9, batch[36:40]) + batch[36:]

    assert client.produce(topic_id, lie)["results"][0][0] == end


def test_a_batch_over_the_limit_is_told_the_limit(client: RawClient, topic_id: bytes) -> None:
    error = refused(client, topic_id, batch_of(topic_id, bytes(BATCH_BYTES_MAX)))
    assert error["code"] == Code.TOO_LARGE
    assert str(BATCH_BYTES_MAX) in error["detail"]
    small = client.make_topic("small-batches", batch_bytes_max=2048)
    error = refused(client, small, batch_of(small, bytes(3000)))
    assert (error["code"], "2048" in error["detail"]) == (Code.TOO_LARGE, True)


def test_one_bad_batch_does_not_spoil_its_neighbours(client: RawClient, topic_id: bytes) -> None:
    good, bad = batch_of(topic_id, b"good"), batch_of(topic_id, b"bad")[:-1]
    fields = {"acks": -1, "batches": [[topic_id, 0]] * 3}
    reply, _ = client.call(Api.PRODUCE, fields, [good, bad, good])

    first, error, last = reply["results"]
    assert (first[0] + 1, error["code"]) == (last[0], Code.CORRUPT_BATCH)


def test_more_or_fewer_batches_than_frames_are_malformed(
    client: RawClient, topic_id: bytes
) -> None:
    batch = batch_of(topic_id, b"x")
    for listed, sent in ((1, 0), (2, 1), (1, 2)):
        fields = {"acks": -1, "batches": [[topic_id, 0]] * listed}
        error = client.error(Api.PRODUCE, fields, [batch] * sent)
        assert error["code"] == Code.MALFORMED
        assert str(listed) in error["detail"]
        assert str(sent) in error["detail"]


# Sequences (P1 to P5)


def numbered(topic_id: bytes, producer_id: int, sequence: int, epoch: int = 0) -> bytes:
    extra = {"producer_id": producer_id, "producer_epoch": epoch, "base_sequence": sequence}
    return batch_of(topic_id, b"s", **extra)


def test_sequences_that_lie_are_refused_by_kind(client: RawClient, topic_id: bytes) -> None:
    producer_id = client.call(Api.INIT_PRODUCER, {})[0]["producer_id"]

    def send(sequence: int, epoch: int = 0) -> Any:
        return client.produce(topic_id, numbered(topic_id, producer_id, sequence, epoch))[
            "results"
        ][0]

    assert send(3)["code"] == Code.UNKNOWN_PRODUCER
    first = send(0)
    assert isinstance(first, list)
    assert send(0) == first
    error = send(2)
    assert (error["code"], error["retriable"]) == (Code.OUT_OF_ORDER_SEQUENCE, True)
    for sequence in range(1, 65):
        assert isinstance(send(sequence), list)
    assert send(0)["code"] == Code.DUPLICATE_SEQUENCE
    assert send(1, epoch=1)["code"] == Code.UNKNOWN_PRODUCER
    assert isinstance(send(0, epoch=1), list)
    assert send(65)["code"] == Code.PRODUCER_FENCED


def test_a_batch_that_comes_again_for_ever_throttles_nobody(client: RawClient) -> None:
    """Each repetition was counted as waiting for the disk, and nothing ever took it off."""
    topic_id = client.make_topic("again")
    producer_id = client.call(Api.INIT_PRODUCER, {})[0]["producer_id"]
    batch = batch_of(topic_id, bytes(1_000_000), producer_id=producer_id)
    first = client.produce(topic_id, batch)["results"]
    for _ in range(150):
        assert client.produce(topic_id, batch)["results"] == first


# Compressed bombs


def bombs() -> list[tuple[str, Codec, bytes, int]]:
    zeros = bytes(64 * MIB)
    from backports import zstd

    half = bytes(4 * MIB)
    return [
        ("lz4 that inflates to more", Codec.LZ4, lz4.block.compress(zeros, store_size=False), 1000),
        ("zstd that inflates to more", Codec.ZSTD, zstd.compress(zeros), 1000),
        ("zstd that inflates to less", Codec.ZSTD, zstd.compress(half), 8 * MIB - 100),
        ("lz4 of noise", Codec.LZ4, b"\xf0" * 100, 8 * MIB - 100),
        ("zstd of noise", Codec.ZSTD, b"\xf0" * 100, 8 * MIB - 100),
        ("nothing", Codec.ZSTD, b"", 8 * MIB - 100),
    ]


@pytest.mark.parametrize(
    ("name", "codec", "stored", "announced"), bombs(), ids=lambda v: str(v)[:30]
)
def test_a_bomb_costs_what_it_announced_and_is_refused_by_the_reader(
    client: RawClient, topic_id: bytes, name: str, codec: Codec, stored: bytes, announced: int
) -> None:
    """
    The broker does not inflate, so it takes what its checksum and sizes allow. The reader is told
    which batch it is, and can go on behind it.
    """
    del name
    directory = msgpack.packb([[15, len(stored), announced]])
    batch = around(topic_id, directory + stored, [], attributes=codec, inflated_size=announced)
    (entry,) = client.produce(topic_id, batch)["results"]
    assert isinstance(entry, list), entry
    _, (body,) = client.fetch(topic_id, entry[0])
    (found,) = decode_batches(body, log_seed(topic_id, 0), "lies", 0)
    with pytest.raises(CorruptDataError, match=str(announced)):
        _ = found.values
    assert found.next_offset == entry[0] + 2


def test_nested_arrays_are_refused_before_they_are_built(topic_id: bytes) -> None:
    """Eight MiB of empty arrays within a column would be half a gigabyte of lists."""
    nested = b"\xdd" + (BATCH_INFLATED_BYTES_MAX // 2).to_bytes(4, "big")
    nested += b"\x90" * (BATCH_INFLATED_BYTES_MAX // 2)
    for column in (3, 5, 15):
        stored = lz4.block.compress(b"\x92\xc0" + nested, store_size=False)
        size = len(nested) + 2
        values = b"" if column == 15 else b"\x92\xc0\xc0"
        entries = [[column, len(stored), size]] + ([[15, 3, 3]] if values else [])
        body = msgpack.packb(entries) + stored + values
        batch = around(topic_id, body, [], attributes=Codec.LZ4, inflated_size=size + len(values))
        whole = stamp(0, len(batch), 1, 1, 0, batch[36:BODY_AT]) + batch[36:]
        (found,) = decode_batches(whole, log_seed(topic_id, 0), "lies", 0)
        with pytest.raises(CorruptDataError, match="nested"):
            found.records()


@pytest.mark.parametrize("deltas", [[0, -(10**13)], [0, 2**63]])
def test_times_that_no_header_can_hold_are_refused_by_the_reader(
    topic_id: bytes, deltas: list[int]
) -> None:
    """Compaction would have failed on them with an error that nobody expects."""
    batch = crafted(topic_id, [(4, deltas), *GOOD])
    whole = stamp(0, len(batch), 1, 1, 0, batch[36:BODY_AT]) + batch[36:]
    (found,) = decode_batches(whole, log_seed(topic_id, 0), "lies", 0)
    with pytest.raises(CorruptDataError, match="timestamps"):
        _ = found.timestamps_ms


def test_a_hole_without_offset_deltas_is_refused_by_the_reader(topic_id: bytes) -> None:
    batch = crafted(topic_id, GOOD, last_offset_delta=5)
    whole = stamp(0, len(batch), 1, 1, 0, batch[36:BODY_AT]) + batch[36:]
    (found,) = decode_batches(whole, log_seed(topic_id, 0), "lies", 0)
    with pytest.raises(CorruptDataError, match="no offset deltas"):
        found.records()


def test_the_stamp_is_where_the_document_says(client: RawClient, topic_id: bytes) -> None:
    offset, append_ms = client.produce(topic_id, batch_of(topic_id, b"x"))["results"][0]
    _, (body,) = client.fetch(topic_id, offset)

    base, size, _, time_ms, _ = struct.unpack_from(">QIIQQ", body)
    assert (base, size, time_ms) == (offset, len(body), append_ms)
