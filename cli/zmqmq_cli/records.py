"""Batches of records to the bytes that `consume` prints."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from itertools import repeat
from json.encoder import encode_basestring
from typing import Any, Final

from zmqmq.model.message import Headers
from zmqmq_cli.formats import Batch, Formatter

Printer = Callable[[Batch], bytes]
"""From a batch to what stdout gets for it."""


class Head:
    """The first records of a batch, where the count that was asked for ends in its middle."""

    def __init__(self, batch: Batch, count: int) -> None:
        self.topic = batch.topic
        self.partition = batch.partition
        self._batch = batch
        self._count = count

    def __len__(self) -> int:
        return self._count

    @property
    def offsets(self) -> list[int]:
        return self._batch.offsets[: self._count]

    @property
    def keys(self) -> list[bytes | None]:
        return self._batch.keys[: self._count]

    @property
    def values(self) -> list[bytes | None]:
        return self._batch.values[: self._count]

    @property
    def headers(self) -> list[Headers]:
        return self._batch.headers[: self._count]

    @property
    def tags(self) -> list[str | None]:
        return self._batch.tags[: self._count]

    @property
    def timestamps_ms(self) -> list[int]:
        return self._batch.timestamps_ms[: self._count]


def print_values(batch: Batch) -> bytes:
    """Each value and a newline, by one join a batch; a tombstone is an empty line."""
    values: list[Any] = batch.values
    try:
        return b"\n".join(values) + b"\n"
    except TypeError:
        return b"\n".join([value or b"" for value in values]) + b"\n"


def printer_of(formatter: Formatter) -> Printer:
    """A printer for `-f`."""
    return lambda batch: b"".join(formatter(batch))


class JSONPrinter:
    """A record an object: each on its line, or all of them in one array."""

    def __init__(self, *, is_array: bool) -> None:
        self._is_array = is_array
        self._is_begun = False

    def __call__(self, batch: Batch) -> bytes:
        lines = _objects(batch)
        if not self._is_array:
            return ("\n".join(lines) + "\n").encode()
        lead = ",\n" if self._is_begun else "[\n"
        self._is_begun = True
        return (lead + ",\n".join(lines)).encode()

    def end(self) -> bytes:
        """What closes the array, also an empty one."""
        if not self._is_array:
            return b""
        return b"\n]\n" if self._is_begun else b"[]\n"


_RECORD: Final = (
    '{"topic": %s, "partition": %d, "offset": %d, "timestamp_ms": %d, "key": %s, "value": %s, '
    '"headers": %s, "tag": %s}'
)
"""Filled in by one `%` a record: `json.dumps` of a dictionary takes five times as long."""


def _objects(batch: Batch) -> list[str]:
    columns = zip(
        repeat(encode_basestring(batch.topic)),
        repeat(batch.partition),
        batch.offsets,
        batch.timestamps_ms,
        map(as_json, batch.keys),
        map(as_json, batch.values),
        map(_headers, batch.headers),
        ("null" if tag is None else encode_basestring(tag) for tag in batch.tags),
        strict=False,
    )
    return [_RECORD % row for row in columns]


def as_json(value: bytes | None) -> str:
    """Bytes as JSON can hold them: text, or {"base64": "…"} where they are not UTF-8."""
    if value is None:
        return "null"
    try:
        return encode_basestring(value.decode())
    except UnicodeDecodeError:
        return f'{{"base64": "{b64encode(value).decode()}"}}'


def _headers(headers: Headers) -> str:
    pairs = [f"[{encode_basestring(name)}, {as_json(value)}]" for name, value in headers]
    return f"[{', '.join(pairs)}]"
