"""Batches: what goes in comes out; a changed byte is found; no bytes raise anything else."""

from __future__ import annotations

import time
from itertools import accumulate
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import KEY, SEED, _all, fuzz_batch, fuzz_recovery, small_log, stored
from tests.hostile.raw import SCALE
from zmqmq.batch.compression import Codec
from zmqmq.batch.decode import decode_batches
from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import SEQUENCE_MAX, log_seed, pack_producer_part
from zmqmq.errors import CorruptDataError
from zmqmq.model.limits import INTEGER_MAX

EXAMPLES = 150 * SCALE
BYTES = st.none() | st.binary(max_size=80)
TEXT = st.none() | st.text(max_size=10)
PAIRS = st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=5)), max_size=3)


@st.composite
def given_records(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of encode_batch."""
    count = draw(st.integers(1, 12))

    def column(entries: st.SearchStrategy[Any]) -> Any:
        return draw(st.none() | st.lists(entries, min_size=count, max_size=count))

    headers = st.none() | PAIRS.map(lambda pairs: [x for pair in pairs for x in pair])
    steps = draw(st.none() | st.lists(st.integers(1, 9), min_size=count, max_size=count))
    deltas = None if steps is None else [total - 1 for total in accumulate(steps)]
    return {
        "values": draw(st.lists(BYTES, min_size=count, max_size=count)),
        "timestamp_ms": draw(st.integers(0, INTEGER_MAX)),
        "keys": column(BYTES),
        "tags": column(TEXT),
        "headers": column(headers),
        "timestamps_ms": column(st.integers(0, INTEGER_MAX)),
        "offset_deltas": deltas,
        "last_offset_delta": None if deltas is None else deltas[-1] + draw(st.integers(0, 5)),
        "codec": draw(st.sampled_from(Codec)),
        "producer_id": draw(st.integers(0, INTEGER_MAX)),
        "producer_epoch": draw(st.integers(0, 2**32 - 1)),
        "base_sequence": draw(st.integers(0, SEQUENCE_MAX)),
    }


@settings(max_examples=EXAMPLES, deadline=None)
@given(given_records(), st.integers(0, 2**50))
def test_records_come_back(records: dict[str, Any], base: int) -> None:
    (batch,) = decode_batches(stored(base, encode_batch(SEED, **records)), SEED, "t", 3)
    count, values = len(records["values"]), records["values"]
    times = records["timestamps_ms"] or [records["timestamp_ms"]] * count
    headers = [
        tuple(zip(h[::2], h[1::2], strict=True)) if h else ()
        for h in records["headers"] or [None] * count
    ]
    deltas = records["offset_deltas"] or range(count)

    assert [tuple(record) for record in batch.records()] == list(
        zip(
            ["t"] * count,
            [3] * count,
            [base + delta for delta in deltas],
            times,
            records["keys"] or [None] * count,
            values,
            headers,
            records["tags"] or [None] * count,
            strict=True,
        )
    )
    for name in ("producer_id", "producer_epoch", "base_sequence"):
        assert getattr(batch.header, name) == records[name]


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(given_records(), st.integers(1, 255))
def test_any_change_of_any_byte_is_found(records: dict[str, Any], mask: int) -> None:
    whole = stored(40, encode_batch(SEED, **records))
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= mask
        with pytest.raises(CorruptDataError):
            next(decode_batches(bytes(changed), SEED, "t", 3))


@settings(max_examples=EXAMPLES, deadline=None)
@given(given_records(), st.data())
def test_a_truncated_or_foreign_batch_is_found(
    records: dict[str, Any], data: st.DataObject
) -> None:
    whole = stored(40, encode_batch(SEED, **records))
    cut = data.draw(st.integers(1, len(whole) - 1))
    for part, seed in ((whole[:cut], SEED), (whole[cut:], SEED), (whole, log_seed(b"o" * 16, 3))):
        with pytest.raises(CorruptDataError):
            next(decode_batches(part, seed, "t", 3))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_batches_or_corrupt(data: bytes) -> None:
    fuzz_batch(data)


@settings(max_examples=EXAMPLES, deadline=None)
@given(given_records(), st.data())
def test_any_change_with_right_checksums_is_read_or_corrupt(
    records: dict[str, Any], data: st.DataObject
) -> None:
    """What a producer can do that computes its checksums over nonsense."""
    whole = bytearray(stored(40, encode_batch(SEED, **records)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(44, len(whole) - 1))] = data.draw(st.integers(0, 255))
    fuzz_batch(bytes(whole))


@pytest.mark.parametrize("filler", [b"\x90", b"\x80", b"\xc0", b"\xa0", b"\xc4\x00"])
def test_the_dearest_column_takes_bounded_time(filler: bytes) -> None:
    size = 4 << 20
    nested = b"\x91\xdd" + (size // len(filler)).to_bytes(4, "big") + filler * (size // len(filler))
    body = msgpack.packb([[15, len(nested), len(nested)]]) + nested
    fields = dict.fromkeys(("attributes", "last_offset_delta", "producer_id", "producer_epoch"), 0)
    times = {"first_timestamp_ms": 1, "last_timestamp_ms": 1, "base_sequence": 0}
    sent = pack_producer_part(SEED, body, count=1, inflated_size=len(nested), **fields, **times)
    started = time.process_time()
    (batch,) = decode_batches(stored(0, sent), SEED, "t", 3)
    with pytest.raises(CorruptDataError):
        _ = batch.values

    assert time.process_time() - started < 2


def test_a_log_that_nobody_touched_is_read_whole() -> None:
    """Without it the recovery target could pass by finding nothing."""
    disk, checkpoint = small_log()
    batches = list(decode_batches(_all(disk, checkpoint), SEED, "t", 3))

    assert len(disk.list(KEY.folder)) > 4
    assert [batch.base_offset for batch in batches] == list(range(0, 48, 2))


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(st.binary(min_size=1, max_size=40))
def test_any_changed_file_is_opened_or_refused(data: bytes) -> None:
    fuzz_recovery(data)
