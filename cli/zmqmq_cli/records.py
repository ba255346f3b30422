"""Batches of records to the bytes that `consume` prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from zmqmq.model.message import Headers
from zmqmq_cli.formats import Batch, Formatter
from zmqmq_cli.output import as_json

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
        lines = [json.dumps(record, ensure_ascii=False) for record in _objects(batch)]
        if not self._is_array:
            return ("\n".join(lines) + "\n").encode(errors="surrogatepass")
        lead = ",\n" if self._is_begun else "[\n"
        self._is_begun = True
        return (lead + ",\n".join(lines)).encode(errors="surrogatepass")

    def end(self) -> bytes:
        """What closes the array, also an empty one."""
        if not self._is_array:
            return b""
        return b"\n]\n" if self._is_begun else b"[]\n"


FIELDS: Final = (
    "topic",
    "partition",
    "offset",
    "timestamp_ms",
    "key",
    "value",
    "headers",
    "tag",
)
"""Of a record in JSON, in this order."""


def _objects(batch: Batch) -> list[dict[str, Any]]:
    columns = zip(
        batch.offsets,
        batch.timestamps_ms,
        map(as_json, batch.keys),
        map(as_json, batch.values),
        ([[name, as_json(value)] for name, value in headers] for headers in batch.headers),
        batch.tags,
        strict=True,
    )
    where = (batch.topic, batch.partition)
    return [dict(zip(FIELDS, (*where, *row), strict=True)) for row in columns]
