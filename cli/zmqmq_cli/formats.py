r"""The format language of `consume -f`: letters as in kcat and rpk, and C's escapes.

A format becomes a template for the `%` of bytes: filling it is one call of C a record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any, Final, Protocol

from zmqmq.errors import ConfigError
from zmqmq.model.message import Headers

LETTERS: Final[dict[str, tuple[bytes, str]]] = {
    "t": (b"%b", "topic"),
    "p": (b"%d", "partition"),
    "o": (b"%d", "offset"),
    "k": (b"%b", "key"),
    "v": (b"%b", "value"),
    "h": (b"%b", "headers, as NAME=VALUE with commas"),
    "d": (b"%d", "the producer's time, ms since 1970"),
}
"""Letter to the directive that takes it and what it stands for."""

_ESCAPES: Final = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0", "\\": b"\\"}
_TOKEN: Final = re.compile(r"%(.?)|([^%]+)", re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(x[0-9A-Fa-f]{2}|.?)|([^\\]+)", re.DOTALL)


class Batch(Protocol):
    """What is read of a batch of records."""

    topic: str
    partition: int

    def __len__(self) -> int: ...
    @property
    def offsets(self) -> list[int]: ...
    @property
    def keys(self) -> list[bytes | None]: ...
    @property
    def values(self) -> list[bytes | None]: ...
    @property
    def headers(self) -> list[Headers]: ...
    @property
    def tags(self) -> list[str | None]: ...
    @property
    def timestamps_ms(self) -> list[int]: ...


Formatter = Callable[[Batch], Iterator[bytes]]
"""From a batch to the bytes that each of its records becomes."""


def unescape(text: str) -> bytes:
    r"""Text with `\n`, `\t`, `\r`, `\0`, `\\` and `\xHH` as the bytes they stand for."""
    return b"".join(
        match[2].encode(errors="surrogateescape") if match[2] else _escaped(match[1])
        for match in _ESCAPE.finditer(text)
    )


def _escaped(escape: str) -> bytes:
    if escape in _ESCAPES:
        return _ESCAPES[escape]
    if len(escape) == 3:
        return bytes.fromhex(escape[1:])
    raise ConfigError(
        rf"'\{escape}' is no escape; there are \n \t \r \0 \xHH and \\ for a backslash"
    )


def parse_format(text: str) -> Formatter:
    """The formatter that a format stands for. Raises ConfigError at what it does not know."""
    template, letters = bytearray(), []
    for match in _TOKEN.finditer(text):
        letter = match[1]
        if letter is None:
            template += unescape(match[2]).replace(b"%", b"%%")
        elif letter == "%":
            template += b"%%"
        elif letter in LETTERS:
            template += LETTERS[letter][0]
            letters.append(letter)
        else:
            known = " ".join(f"%{known}" for known in LETTERS)
            raise ConfigError(
                f"'%{letter}' is no part of a format; there are {known} and %% for a percent sign"
            )
    fill = bytes(template).__mod__
    if not letters:
        # Nothing to fill in: `%` of bytes takes an empty tuple for that.
        return lambda batch: map(fill, repeat((), len(batch)))
    columns = [_COLUMNS[letter] for letter in letters]
    return lambda batch: map(fill, zip(*(column(batch) for column in columns), strict=True))


def _blank(values: list[bytes | None]) -> list[bytes]:
    return [value or b"" for value in values]


def format_headers(headers: Headers) -> bytes:
    """`NAME=VALUE,NAME=VALUE`, as kcat prints them."""
    return b",".join(name.encode() + b"=" + value for name, value in headers)


_COLUMNS: Final[dict[str, Callable[[Batch], Any]]] = {
    "t": lambda batch: repeat(batch.topic.encode(), len(batch)),
    "p": lambda batch: repeat(batch.partition, len(batch)),
    "o": lambda batch: batch.offsets,
    "k": lambda batch: _blank(batch.keys),
    "v": lambda batch: _blank(batch.values),
    "h": lambda batch: map(format_headers, batch.headers),
    "d": lambda batch: batch.timestamps_ms,
}
