"""Test vectors of the wire protocol, from the code, with fixed inputs.

    python docs/vectors/generate.py     writes what differs beside itself

Bytes stand in hex. In values, bytes are {"bin": hex}. tests/golden/test_vectors.py checks that
making them again changes nothing and that decoding gives the values back.
"""
# ruff: noqa: INP001

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from zmqmq.batch.compression import Codec
from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import BODY_AT, BODY_CRC_AT, log_seed, stamp, unpack_header
from zmqmq.errors import Code, error_to_wire, refusal
from zmqmq.wire.apis import COMMON, PUSHED, Api, push_subject
from zmqmq.wire.frame import encode_header

HERE: Final = Path(__file__).parent
TOPIC: Final = bytes(range(16))
OTHER: Final = bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0")
SESSION: Final = bytes(range(100, 116))
CLUSTER: Final = bytes(range(200, 216))
TIME_MS: Final = 1_700_000_000_123
LARGEST: Final = 2**53 - 1
CONFIG: Final = {"cleanup": "compact", "retention_ms": 604_800_000, "flush": "fsync"}
OUT_OF_RANGE: Final = refusal(
    Code.OFFSET_OUT_OF_RANGE, "offset 9 is not stored", {"log_start": 2, "end": 7}
)
NOTHING: Final = refusal(Code.CONFLICT, "no reassignment is under way")
NO_TOPIC: Final = refusal(Code.UNKNOWN_TOPIC, "there is no topic 'typo'")

REQUESTS: Final[list[tuple[Api, dict[str, Any]]]] = [
    (Api.HELLO, {"client": "mine/0.1", "min": 1, "max": 1, "session": SESSION}),
    (
        Api.HELLO,
        {"client": "grün", "min": 1, "max": 3, "session": SESSION, "cluster": CLUSTER},
    ),
    (Api.PING, {}),
    (Api.PING, {"rx": LARGEST, "expires_ms": TIME_MS, "trace": "00-" + "0" * 32 + "-1-01"}),
    (Api.METADATA, {}),
    (Api.METADATA, {"topics": None}),
    (Api.METADATA, {"topics": ["orders", "typo"]}),
    (Api.INIT_PRODUCER, {}),
    (Api.PRODUCE, {"acks": -1, "batches": [[TOPIC, 0], [OTHER, 2**31]]}),
    (Api.PRODUCE, {"acks": 0, "timeout_ms": 300_000, "batches": [[TOPIC, 0]]}),
    (Api.FETCH, {"partitions": [[TOPIC, 0, LARGEST, 1 << 20]]}),
    (
        Api.FETCH,
        {
            "max_wait_ms": 500,
            "min_bytes": 1,
            "max_bytes": 1 << 20,
            "partitions": [[TOPIC, 0, 2**32, 65_536], [OTHER, 1, 0, 65_536]],
            "rx": 2**31,
        },
    ),
    (
        Api.LIST_OFFSETS,
        {"partitions": [[TOPIC, 0, "start"], [TOPIC, 0, "end"], [TOPIC, 1, TIME_MS]]},
    ),
    (Api.OFFSET_COMMIT, {"group": "g-1", "offsets": [[TOPIC, 0, 42, 3, "a note"]]}),
    (Api.OFFSET_FETCH, {"group": "g-1"}),
    (Api.OFFSET_FETCH, {"group": "g-1", "partitions": [[TOPIC, 0]]}),
    (Api.SUBSCRIBE, {"partitions": [[TOPIC, 0]]}),
    (
        Api.CREATE_TOPIC,
        {"topic": "orders", "partitions": 3, "replicas": 0, "config": {"retention_ms": "7d"}},
    ),
    (Api.CREATE_TOPIC, {"topic": "orders", "check_only": True}),
    (Api.ALTER_TOPIC, {"topic": "orders", "partitions": 6, "config": {"retention_ms": None}}),
    (Api.DELETE_TOPIC, {"topic": "orders"}),
    (Api.DESCRIBE, {"kind": "topics", "names": ["orders"], "internal": False, "after": ""}),
    (Api.REASSIGN, {"topic": "orders", "partitions": [[0, [2, 3, 1]], [1, None]]}),
    (Api.ELECT, {"topic": "orders", "kind": "preferred"}),
    (Api.ELECT, {"topic": "orders", "kind": "unclean", "partitions": [0, 2]}),
    (Api.FETCH, {"partitions": [[TOPIC, 0, 7, 65_536, 4, 3], [OTHER, 1, 0, 65_536, 4, None]]}),
    (Api.CORDON, {"broker": 3, "cordoned": True}),
]

REPLIES: Final[list[tuple[Api, dict[str, Any]]]] = [
    (
        Api.HELLO,
        {
            "version": 1,
            "server": "zmqmq/0.1.0",
            "cluster": CLUSTER,
            "broker": 1,
            "broker_epoch": 17,
            "principal": "anonymous",
            "lease_ms": 60_000,
            "time_ms": TIME_MS,
            "endpoints": {"clients": "127.0.0.1:5755", "push": "127.0.0.1:5756"},
            "limits": {
                "request_bytes": 2 << 20,
                "reply_bytes": 8 << 20,
                "frames": 64,
                "batch_bytes": 1 << 20,
                "credit_bytes": 16 << 20,
                "in_flight": 16,
                "fetches": 64,
                "integer": LARGEST,
            },
        },
    ),
    (Api.PING, {"time_ms": TIME_MS}),
    (
        Api.METADATA,
        {
            "brokers": [[1, "127.0.0.1:5755", None]],
            "topics": [
                {"name": "orders", "id": TOPIC, "partitions": [[1, 4], [None, 4]]},
                {"name": "typo", "error": error_to_wire(NO_TOPIC)},
            ],
        },
    ),
    (Api.INIT_PRODUCER, {"producer_id": 1001, "producer_epoch": 0}),
    (Api.PRODUCE, {"results": [[LARGEST - 1, TIME_MS], error_to_wire(NO_TOPIC)]}),
    (Api.FETCH, {"partitions": [[113, 7, 2], [0, 7, 2], error_to_wire(OUT_OF_RANGE)]}),
    (Api.LIST_OFFSETS, {"offsets": [[2, None], [7, None], [5, TIME_MS]]}),
    (Api.OFFSET_COMMIT, {"results": [None, error_to_wire(NO_TOPIC)]}),
    (Api.OFFSET_FETCH, {"offsets": [[TOPIC, 0, 42, 3, "a note", TIME_MS]]}),
    (Api.SUBSCRIBE, {"subjects": [push_subject(TOPIC, 0)], "endpoint": "127.0.0.1:5756"}),
    (Api.CREATE_TOPIC, {"id": TOPIC, "partitions": 3, "replicas": 1, "config": CONFIG}),
    (Api.ALTER_TOPIC, {"partitions": 6, "config": CONFIG}),
    (Api.DELETE_TOPIC, {}),
    (Api.DESCRIBE, {"items": [{"name": "orders", "id": TOPIC}], "more": False}),
    (Api.FETCH, {"error": error_to_wire(refusal(Code.NEED_HELLO, "send HELLO first"))}),
    (Api.REASSIGN, {"results": [None, error_to_wire(NOTHING)]}),
    (Api.ELECT, {"results": [None, None]}),
    (Api.ELECT, {"error": error_to_wire(refusal(Code.NOT_LEADER, "broker 2 is", {"leader": 2}))}),
    (Api.CORDON, {}),
]

LINES: Final[list[bytes | None]] = [
    b"line %d: the same words again and again" % n for n in range(9)
]
BATCHES: Final[list[tuple[str, dict[str, Any]]]] = [
    ("one value", {"values": [b"hello"]}),
    ("an empty value and a tombstone", {"values": [b"", None], "keys": [b"k", b"k"]}),
    ("keys, some missing", {"values": [b"a", b"b"], "keys": [None, b"key"]}),
    ("tags", {"values": [b"a", b"b"], "tags": ["red", None]}),
    (
        "headers, one name twice",
        {"values": [b"a", b"b"], "headers": [["h", b"1", "h", b"2"], None]},
    ),
    (
        "timestamps, one before the first",
        {"values": [b"a", b"b", b"c"], "timestamps_ms": [TIME_MS, TIME_MS - 5, TIME_MS + 9]},
    ),
    (
        "everything",
        {
            "values": [b"a", None],
            "keys": [b"k1", b"k2"],
            "tags": ["t", "ü"],
            "headers": [None, ["n", b"v"]],
            "timestamps_ms": [TIME_MS, TIME_MS + 1],
            "producer_id": LARGEST,
            "producer_epoch": 2**32 - 1,
            "base_sequence": 5,
        },
    ),
    (
        "sequence numbers that wrap",
        {"values": [b"a", b"b"], "producer_id": 7, "base_sequence": 2**31 - 1},
    ),
    ("lz4", {"values": LINES, "codec": Codec.LZ4}),
    ("zstd", {"values": LINES, "keys": [b"k"] * 9, "codec": Codec.ZSTD}),
    ("compressed, but too small to gain", {"values": [b"x"], "codec": Codec.ZSTD}),
    (
        "what compaction left: offsets 1 and 4 of 0 to 5",
        {
            "values": [b"b", b"e"],
            "keys": [b"kb", b"ke"],
            "offset_deltas": [1, 4],
            "last_offset_delta": 5,
        },
    ),
]


def shown(value: Any) -> Any:  # noqa: ANN401 - any value of msgpack
    """A value as JSON can hold it."""
    if isinstance(value, bytes):
        return {"bin": value.hex()}
    if isinstance(value, Mapping):
        return {key: shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    return value


def headers() -> dict[str, Any]:
    """Requests and replies of every API."""

    def entry(kind: str, correlation: int, api: Api, fields: dict[str, Any]) -> dict[str, Any]:
        frame = encode_header(api, correlation, fields).hex()
        said = {"api": int(api), "version": 1, "correlation": correlation, "fields": shown(fields)}
        return {"name": f"{api.name} {kind}", **said, "frame": frame}

    return {
        "common fields": list(COMMON),
        "requests": [entry("request", n, *r) for n, r in enumerate(REQUESTS)],
        "replies": [entry("reply", LARGEST - n, *r) for n, r in enumerate(REPLIES)],
    }


def batches() -> dict[str, Any]:
    """Single batches without and with the leader's part, and a frame of several."""
    seed, base, frame, entries = log_seed(TOPIC, 3), 40, b"", []
    for name, given in BATCHES:
        sent = encode_batch(seed, timestamp_ms=TIME_MS, **given)
        crc = sent[BODY_CRC_AT:BODY_AT]
        stamped = stamp(base, len(sent), 4, TIME_MS + 1000, base - 1, crc) + sent[BODY_CRC_AT:]
        header = unpack_header(stamped)._asdict() | {"magic": sent[40:44].hex()}
        given = {**given, "codec": given.get("codec", Codec.NONE).name.lower()}
        entries.append(
            {"name": name, "records": shown(given), "header": header}
            | {"sent": sent.hex(), "stored": stamped.hex()}
        )
        base, frame = unpack_header(stamped).next_offset, frame + stamped
    return {
        "topic id": TOPIC.hex(),
        "partition": 3,
        "what the body CRC starts from: CRC-32C of topic id and partition": seed,
        "timestamp_ms": TIME_MS,
        "batches": entries,
        "several batches in one frame": frame.hex(),
    }


def seeds() -> dict[str, Any]:
    """CRC-32C of topic ids with partitions, and of keys for the partitioner."""
    from crc32c import crc32c

    keys = [b"", b"a", b"123456789", "ü".encode(), bytes(32)]
    places = [(TOPIC, 0), (TOPIC, 1), (TOPIC, 2**31), (OTHER, 9_999)]
    return {
        "topic id and partition": [
            {"topic id": t.hex(), "partition": p, "crc": log_seed(t, p)} for t, p in places
        ],
        "key to partition": [
            {"key": key.hex(), "crc": crc32c(key), "of 7": crc32c(key) % 7} for key in keys
        ],
    }


def push() -> dict[str, Any]:
    """Subjects, and the headers of PUSH and HEAD."""
    fields = {"prev": 38, "end": 41, "epoch": 4, "start": 2}
    return {
        "subjects": [
            {"topic id": t.hex(), "partition": p, "subject": push_subject(t, p).hex()}
            for t, p in ((TOPIC, 1), (TOPIC, 10), (OTHER, 0))
        ],
        "headers": [
            {
                "name": api.name,
                "fields": (said := {name: fields[name] for name in schema}),
                "frame": encode_header(api, 0, said).hex(),
            }
            for api, schema in PUSHED.items()
        ],
    }


def stored(batches: Sequence[tuple[Any, ...]]) -> bytes:
    """Batches of following.py as a broker has them."""
    frame = b""
    for epoch, offsets, *last in batches:
        base, end = offsets[0], last[0] if last else offsets[-1]
        is_whole = end - base + 1 == len(offsets)
        deltas = None if is_whole else [offset - base for offset in offsets]
        sent = encode_batch(
            log_seed(TOPIC, 0),
            [b"%d" % offset for offset in offsets],
            timestamp_ms=TIME_MS,
            offset_deltas=deltas,
            last_offset_delta=None if is_whole else end - base,
        )
        crc = sent[BODY_CRC_AT:BODY_AT]
        frame += stamp(base, len(sent), epoch, TIME_MS, base, crc) + sent[BODY_CRC_AT:]
    return frame


def module(path: Path) -> Any:  # noqa: ANN401
    """A file of Python that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def following() -> dict[str, Any]:
    """What a reader does: the one of examples/raw/push.py, which the tests compare with ours."""
    example = module(HERE.parents[1] / "examples/raw/push.py")
    sequences = []
    for name, start, events in module(HERE / "following.py").FOLLOWING:
        delivered: list[int] = []
        deliver = partial(_append, delivered)
        reader = example.Reader(deliver, (TOPIC, 0), start)
        steps = []
        for event in events:
            delivered.clear()
            shown, then = step(reader, *event)
            state = {"next": reader.next, "last epoch": reader.last_epoch, "then": then}
            steps.append({"event": event[0], **shown, "delivers": list(delivered), **state})
        sequences.append({"name": name, "start": start, "steps": steps})
    return {"topic id": TOPIC.hex(), "partition": 0, "sequences": sequences}


def _append(delivered: list[int], offset: int, _: object) -> None:
    delivered.append(offset)


def step(reader: Any, event: str, *given: Any) -> tuple[dict[str, Any], str]:  # noqa: ANN401
    """One event as it is told, and what the reader does next."""
    match event, *given:
        case "METADATA", epoch:
            reader.epoch = epoch
            return {"epoch": epoch}, "fetch"
        case "FETCH", end, batches:
            data = stored(batches)
            return {"end": end, "body": data.hex()}, reader.fetched(end, data)
        case "PUSH", epoch, prev, end, batches, *damaged:
            data = stored(batches)[: -1 if damaged else None]
            fields = {"prev": prev, "end": end, "epoch": epoch}
        case "HEAD", epoch, end:
            data, fields = b"", {"end": end, "start": 0, "epoch": epoch}
        case _:
            return {}, "begin" if event == "silence" else "wait"
    frames = [push_subject(TOPIC, 0), encode_header(Api[event], 0, fields), *([data] * bool(data))]
    told = {"fields": fields, "frames": [frame.hex() for frame in frames]}
    return told, reader.published(fields, data)


def errors() -> dict[str, Any]:
    """An error map of each code."""
    hints = {"retry_after_ms": 50}
    return {
        "errors": [
            {
                "fields": (said := error_to_wire(refusal(code, f"why {code.name}", hints))),
                "frame": encode_header(Api.PING, 1, {"error": said}).hex(),
            }
            for code in Code
        ]
    }


def made() -> dict[Path, str]:
    """What each file should be."""
    parts = {
        "headers": headers(),
        "batches": batches(),
        "seeds": seeds(),
        "push": push(),
        "following": following(),
        "errors": errors(),
    }
    return {
        HERE / f"{name}.json": json.dumps(part, indent=1, ensure_ascii=True) + "\n"
        for name, part in parts.items()
    }


def main() -> None:
    """Write what differs, and say so."""
    for path, text in made().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            sys.stderr.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
