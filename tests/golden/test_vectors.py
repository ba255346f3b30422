"""The test vectors of docs/vectors: made again they are the same, decoded they say the same."""

from __future__ import annotations

import importlib.util
import json
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import msgpack
import pytest

from zmqmq.batch.decode import decode_batches
from zmqmq.batch.layout import log_seed, unpack_header
from zmqmq.errors import Code, error_from_wire
from zmqmq.wire.apis import COMMON, ERROR, PUSHED, REPLIES, REQUESTS, Api
from zmqmq.wire.frame import decode_header, decode_reply_header
from zmqmq.wire.schema import reader

FOLDER = Path(__file__).resolve().parents[2] / "docs/vectors"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vectors", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = generator()


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def plain(value: Any) -> Any:
    """JSON's value as msgpack has it."""
    if isinstance(value, dict):
        if list(value) == ["bin"]:
            return bytes.fromhex(value["bin"])
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("path", "text"), GENERATOR.made().items(), ids=lambda v: str(v)[-15:])
def test_made_again_they_are_the_same(path: Path, text: str) -> None:
    """One that differs is a change of the wire: it needs a new version, or must not be."""
    assert path.read_text() == text


@pytest.mark.parametrize("entry", load("headers")["requests"], ids=lambda e: e["name"])
def test_requests_decode_to_what_they_say(entry: dict[str, Any]) -> None:
    api, version, correlation, fields = decode_header(bytes.fromhex(entry["frame"]))

    assert [api, version, correlation] == [entry[n] for n in ("api", "version", "correlation")]
    assert fields == plain(entry["fields"])
    given = {**COMMON, **REQUESTS[Api(api)]}
    assert reader(given)(fields) == [fields.get(n, f.default) for n, f in given.items()]


@pytest.mark.parametrize("entry", load("headers")["replies"], ids=lambda e: e["name"])
def test_replies_decode_to_what_they_say(entry: dict[str, Any]) -> None:
    api, _, correlation, fields = decode_reply_header(bytes.fromhex(entry["frame"]))

    assert (api, correlation) == (entry["api"], entry["correlation"])
    assert fields == plain(entry["fields"])
    if ERROR not in fields:
        assert reader(REPLIES[Api(api)])(fields) == list(fields.values())


def test_every_api_has_a_vector_each_way() -> None:
    headers = load("headers")
    assert {e["api"] for e in headers["requests"]} == set(REQUESTS)
    assert {e["api"] for e in headers["replies"]} == set(REPLIES)
    assert {e["name"] for e in load("push")["headers"]} == {api.name for api in PUSHED}


@pytest.mark.parametrize("entry", load("batches")["batches"], ids=lambda e: e["name"])
def test_batches_decode_to_what_they_say(entry: dict[str, Any]) -> None:
    vectors = load("batches")
    seed = log_seed(bytes.fromhex(vectors["topic id"]), vectors["partition"])
    stored, sent = bytes.fromhex(entry["stored"]), bytes.fromhex(entry["sent"])
    (batch,) = decode_batches(stored, seed, "t", 3)
    said, count = plain(entry["records"]), len(batch)

    assert sent == bytes(36) + stored[36:]
    assert unpack_header(stored)._asdict() == {**entry["header"], "magic": stored[40:44]}
    assert batch.values == said["values"]
    assert batch.keys == said.get("keys", [None] * count)
    assert batch.tags == said.get("tags", [None] * count)
    assert batch.timestamps_ms == said.get("timestamps_ms", [vectors["timestamp_ms"]] * count)
    flat = [[x for pair in pairs for x in pair] for pairs in batch.headers]
    assert flat == [h or [] for h in said.get("headers", [None] * count)]
    deltas = said.get("offset_deltas", list(range(count)))
    assert [offset - batch.base_offset for offset in batch.offsets] == deltas
    assert batch.header.codec.name.lower() == said["codec"]


def test_several_batches_of_a_frame_follow_one_another() -> None:
    vectors = load("batches")
    frame = bytes.fromhex(vectors["several batches in one frame"])
    seed = log_seed(bytes.fromhex(vectors["topic id"]), vectors["partition"])
    batches = list(decode_batches(frame, seed, "t", 3))

    assert len(batches) == len(vectors["batches"])
    for one, other in pairwise(batches):
        assert one.next_offset == other.base_offset


@pytest.mark.parametrize("entry", load("errors")["errors"], ids=lambda e: e["fields"]["name"])
def test_errors_decode_to_what_they_say(entry: dict[str, Any]) -> None:
    fields = msgpack.unpackb(bytes.fromhex(entry["frame"]))[3][ERROR]
    error = error_from_wire(fields)

    assert fields == entry["fields"]
    assert error.code is Code(entry["fields"]["code"])
    assert (error.retriable, error.detail) == (fields["retriable"], fields["detail"])
