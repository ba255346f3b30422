"""Headers: what goes in comes out, and whatever comes in is refused or read, and soon."""

from __future__ import annotations

import time
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.run import run_blind
from tests.fuzz.targets import TARGETS, fuzz_header
from tests.hostile.raw import SCALE
from zmqmq.errors import Code, WireError, error_from_wire, error_to_wire, refusal
from zmqmq.model.limits import HEADER_BYTES_MAX, INTEGER_MAX
from zmqmq.wire.apis import REQUESTS
from zmqmq.wire.frame import decode_header, encode_header
from zmqmq.wire.schema import reader, row

INTEGERS = st.integers(0, INTEGER_MAX)
LEAVES = st.none() | st.booleans() | INTEGERS | st.text(max_size=20) | st.binary(max_size=20)
VALUES = st.recursive(
    LEAVES | st.floats(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)
EXAMPLES = 200 * SCALE


def same(one: Any, other: Any) -> bool:
    """Equal in type too, with NaN equal to itself."""
    return bool(msgpack.packb(one) == msgpack.packb(other))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(-5, 2**40), INTEGERS, st.dictionaries(st.text(max_size=10), VALUES, max_size=6))
def test_a_header_comes_back(api: int, correlation: int, fields: dict[str, Any]) -> None:
    assert same(
        decode_header(encode_header(api, correlation, fields)), [api, 1, correlation, fields]
    )


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    fuzz_header(data)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from(list(REQUESTS)), st.data())
def test_any_fields_are_read_or_refused_by_name(api: Any, data: st.DataObject) -> None:
    schema = REQUESTS[api]
    fields = {name: data.draw(VALUES) for name in schema if data.draw(st.booleans())}
    try:
        values = reader(schema)(fields)
    except WireError as error:
        found = error
    else:
        assert len(values) == len(schema)
        return
    assert found.code is Code.MALFORMED
    assert any(repr(name) in found.detail for name in schema)


@settings(max_examples=EXAMPLES, deadline=None)
@given(INTEGERS)
def test_a_float_without_a_fraction_is_its_integer(number: int) -> None:
    if int(float(number)) == number:
        assert row("r", [float(number)], int) == [number]
        assert type(row("r", [float(number)], int)[0]) is int
    with pytest.raises(WireError):
        row("r", [number + 0.5 if number < 2**50 else -1.0], int)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from(list(Code)), st.text(max_size=50), INTEGERS)
def test_an_error_comes_back(code: Code, detail: str, wait_ms: int) -> None:
    sent = refusal(code, detail, {"retry_after_ms": wait_ms})
    found = error_from_wire(msgpack.unpackb(msgpack.packb(error_to_wire(sent))))

    assert (type(found), found.code, found.detail) == (type(sent), code, detail)
    assert (found.retriable, found.hints) == (sent.retriable, sent.hints)


@pytest.mark.parametrize("filler", [b"\x90", b"\x80", b"\xc0", b"\x00", b"\x91", b"\xa0"])
def test_the_dearest_header_of_64_kib_takes_little_time(filler: bytes) -> None:
    rows = b"\xdc\x1f\x00" + filler * 0x1F00
    frame = (b"\x94\x02\x01\x01\x87" + b"".join(b"\xa1%c" % (97 + n) + rows for n in range(7)))[
        :HEADER_BYTES_MAX
    ]
    times = []
    for _ in range(3):
        started = time.process_time()
        fuzz_header(frame)
        times.append(time.process_time() - started)

    assert min(times) < 0.2


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_of_each_fuzz_target(name: str) -> None:
    assert run_blind(name, seconds=1.5 * SCALE, seed=1) > 100
