"""What the fuzzer throws bytes at. Each target takes bytes and raises only what it must not.

Shared by the property tests and tests/fuzz/run.py.
"""

from __future__ import annotations

from random import Random

from zmqmq.batch.decode import decode_batches
from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import BODY_AT, BODY_CRC_AT, log_seed, stamp, unpack_header
from zmqmq.core.storage.log import Log, LogKey
from zmqmq.core.storage.options import StorageOptions
from zmqmq.core.storage.reading import read
from zmqmq.core.storage.recovery import Checkpoint, open_log
from zmqmq.errors import CorruptDataError, ProtocolError, WireError, ZmqmqError
from zmqmq.model.limits import MIB
from zmqmq.model.topics import TopicConfig
from zmqmq.sim.disk import SimDisk
from zmqmq.wire.apis import COMMON, REPLIES, REQUESTS, Api
from zmqmq.wire.frame import decode_header, decode_reply_header, encode_header
from zmqmq.wire.schema import reader

TOPIC_ID = bytes(range(16))
KEY = LogKey(TOPIC_ID, 3)
SEED = log_seed(TOPIC_ID, 3)
OPTIONS = StorageOptions(free_bytes_min=0, index_interval_bytes=512, allocate_bytes=4096)
CONFIG = TopicConfig(segment_bytes=4096)
_READERS = {int(api): reader({**COMMON, **schema}) for api, schema in REQUESTS.items()}


def stored(base: int, sent: bytes, *, epoch: int = 1, committed_end: int | None = None) -> bytes:
    """A batch with the leader's part filled in."""
    end = base if committed_end is None else committed_end
    head = stamp(base, len(sent), epoch, 5_000 + base, end, sent[BODY_CRC_AT:BODY_AT])
    return head + sent[BODY_CRC_AT:]


def fuzz_header(data: bytes) -> None:
    """Any bytes are a header, or a ProtocolError; any header is a request, or a refusal."""
    try:
        api, _, correlation, fields = decode_header(data)
    except ProtocolError:
        return
    encode_header(0, correlation, {})
    try:
        if (read_fields := _READERS.get(api)) is not None:
            read_fields(fields)
    except WireError:
        pass
    decode_reply_header(data)


def fuzz_batch(data: bytes) -> None:
    """Any bytes are batches whose every column can be read, or a CorruptDataError.

    Also with right checksums around them, for without those hardly anything comes through.
    """
    for candidate in (data, _with_checksums(data)):
        try:
            for batch in decode_batches(candidate, SEED, "t", 3):
                records = batch.records()
                assert len(records) == len(batch) <= batch.next_offset - batch.base_offset
                assert [record.offset for record in records] == batch.offsets
        except CorruptDataError:
            pass


def _with_checksums(data: bytes) -> bytes:
    if len(data) <= BODY_AT:
        return data
    from crc32c import crc32c

    body = data[BODY_AT:]
    crc = crc32c(body, SEED).to_bytes(4, "big")
    return stamp(7, len(data), 1, 1, 0, crc) + crc + body


def small_log() -> tuple[SimDisk, Checkpoint]:
    """A log of a few segments, flushed, and a checkpoint from its middle."""
    disk = SimDisk()
    disk.make_directory(KEY.folder)
    log = open_log(disk, KEY, CONFIG, OPTIONS)
    middle = 0
    for number in range(24):
        sent = encode_batch(
            SEED,
            [b"value %d" % number * 30, None],
            timestamp_ms=number,
            keys=[b"k%d" % (number % 5), b"t"],
            producer_id=1 + number % 3,
            base_sequence=2 * (number // 3),
        )
        whole = stored(log.end_offset, sent, committed_end=log.flushed_end)
        log.append(unpack_header(whole), (whole[:BODY_CRC_AT], whole[BODY_CRC_AT:]))
        log.write_out()
        if number % 4 == 3:
            _flush(log)
        middle = log.end_offset if number == 12 else middle
    _flush(log)
    return disk, Checkpoint(middle, 0)


def fuzz_recovery(data: bytes) -> None:
    """A log whose files were changed opens, and gives out nothing but what was written.

    The bytes choose the changes. What is read must be a prefix of the log, up to the damage.
    """
    chance = Random(data)
    disk, checkpoint = small_log()
    whole = bytes(_all(disk, checkpoint))
    names = disk.list(KEY.folder)
    for at in range(1 + len(data) % 4):
        path = f"{KEY.folder}/{names[chance.randrange(len(names))]}"
        file = disk.open(path)
        kind = data[at % len(data)] % 6 if data else 0
        position = chance.randrange(max(file.size, 1))
        if kind == 0 and file.size:
            disk.flip(path, position, 1 << chance.randrange(8))
        elif kind == 1:
            file.truncate(position)
        elif kind == 2:
            file.write(position, [chance.randbytes(chance.randrange(1, 200))])
        elif kind == 3:
            file.write(position, [data])
        elif kind == 4:
            file.write(position, [bytes(chance.randrange(1, 3000))])
        else:
            file.truncate(0)
        file.close()
    found = _all(disk, checkpoint)
    assert whole.startswith(found), "something was read that was never written"


def _all(disk: SimDisk, checkpoint: Checkpoint) -> bytes:
    """Everything that can be read from a log, as bytes."""
    parts: list[bytes] = []
    try:
        log = open_log(disk, KEY, CONFIG, OPTIONS, checkpoint)
        _flush(log)
        offset = log.start_offset
        while offset < log.end_offset:
            data = bytes(read(log, offset, MIB, log.end_offset))
            for batch in decode_batches(data, SEED, "t", 3):
                assert batch.base_offset == offset
                batch.records()
                offset = batch.next_offset
            parts.append(data)
    except ZmqmqError:
        pass
    return b"".join(parts)


def _flush(log: Log) -> None:
    flush = log.begin_flush()
    for file in flush.files:
        file.sync()
    log.end_flush(flush)


def seeds(name: str) -> list[bytes]:
    """Where mutation begins."""
    if name == "header":
        return [encode_header(api, 1, dict.fromkeys(REQUESTS[api], 0)) for api in REQUESTS] + [
            encode_header(Api.FETCH, 9, {"partitions": [[TOPIC_ID, 0, 5, 100]], "rx": 7}),
            encode_header(Api.HELLO, 1, {"client": "x", "min": 1, "max": 1, "session": TOPIC_ID}),
            encode_header(Api.PING, 2, dict.fromkeys(REPLIES[Api.HELLO], 3)),
        ]
    if name == "batch":
        from zmqmq.batch.compression import Codec

        lines: list[bytes | None] = [b"the same words again %d" % n for n in range(9)]
        return [
            stored(7, encode_batch(SEED, [b"a", None], timestamp_ms=1, keys=[b"k", None])),
            stored(7, encode_batch(SEED, lines, timestamp_ms=1, codec=Codec.LZ4)),
            stored(7, encode_batch(SEED, lines, timestamp_ms=1, codec=Codec.ZSTD)),
            stored(
                7,
                encode_batch(
                    SEED,
                    [b"a", b"b"],
                    timestamp_ms=5,
                    tags=["t", None],
                    headers=[["n", b"v"], None],
                    timestamps_ms=[5, 6],
                    offset_deltas=[1, 3],
                    last_offset_delta=4,
                ),
            ),
        ]
    return [b"\0", b"recovery", bytes(range(40))]


TARGETS = {"header": fuzz_header, "batch": fuzz_batch, "recovery": fuzz_recovery}
