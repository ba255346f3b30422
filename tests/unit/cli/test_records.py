"""What stdout gets for a batch: every byte as it is, and JSON that any reader reads back."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqmq_cli.records import Head, JSONPrinter, print_values

from zmqmq.model.message import Headers

HEADERS = st.lists(
    st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), st.binary(max_size=4)),
    max_size=2,
).map(tuple)


class Batch:
    """Some records."""

    def __init__(self, rows: list[tuple[bytes | None, bytes | None, Headers, str | None]]) -> None:
        self.topic = 'a"b'
        self.partition = 2
        self.offsets = [7 + 2 * index for index in range(len(rows))]
        self.timestamps_ms = [1000 + index for index in range(len(rows))]
        self.keys = [row[0] for row in rows]
        self.values = [row[1] for row in rows]
        self.headers = [row[2] for row in rows]
        self.tags = [row[3] for row in rows]

    def __len__(self) -> int:
        return len(self.values)


def shown(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


ROWS = st.lists(
    st.tuples(
        st.none() | st.binary(max_size=6),
        st.none() | st.binary(max_size=6) | st.text(max_size=6).map(str.encode),
        HEADERS,
        st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
    ),
    min_size=1,
    max_size=4,
)


@given(ROWS, ROWS)
def test_json_is_read_back_as_what_it_was(first: Any, second: Any) -> None:
    batches = [Batch(first), Batch(second)]
    expected = [
        {
            "topic": batch.topic,
            "partition": batch.partition,
            "offset": batch.offsets[index],
            "timestamp_ms": batch.timestamps_ms[index],
            "key": shown(batch.keys[index]),
            "value": shown(batch.values[index]),
            "headers": [[name, shown(value)] for name, value in batch.headers[index]],
            "tag": batch.tags[index],
        }
        for batch in batches
        for index in range(len(batch))
    ]
    lines, array = JSONPrinter(is_array=False), JSONPrinter(is_array=True)
    text = b"".join(map(lines, batches)) + lines.end()
    whole = b"".join(map(array, batches)) + array.end()

    assert [json.loads(line) for line in text.split(b"\n")[:-1]] == expected
    assert json.loads(whole) == expected


def test_no_records_are_an_empty_array() -> None:
    assert json.loads(JSONPrinter(is_array=True).end()) == []
    assert JSONPrinter(is_array=False).end() == b""


@given(st.lists(st.none() | st.binary(max_size=4), min_size=1))
def test_values_are_printed_as_they_are(values: list[bytes | None]) -> None:
    batch = Batch([(None, value, (), None) for value in values])

    assert print_values(batch) == b"".join((value or b"") + b"\n" for value in values)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_head_of_a_batch_has_the_first_of_everything(count: int) -> None:
    rows: Any = [(b"k%d" % n, b"v%d" % n, (("h", b"%d" % n),), f"t{n}") for n in range(3)]
    head = Head(Batch(rows), count)

    assert len(head) == count
    for name in ("offsets", "keys", "values", "headers", "tags", "timestamps_ms"):
        assert getattr(head, name) == getattr(Batch(rows), name)[:count]
