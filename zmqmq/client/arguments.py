"""What callers hand in, checked and brought into one form.

Everything that is stored has to be `bytes`: a bytearray could be changed between `send` and the
moment when the batch is encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from zmqmq.client.machines.stream import Place, PlaceKind
from zmqmq.errors import ConfigError, UsageError
from zmqmq.model.limits import INTEGER_MAX

Bytes = bytes | bytearray | memoryview
HeadersLike = Mapping[str, bytes] | Iterable[tuple[str, bytes]]

HEADERS_MAX: Final = 1_000
_BYTES: Final = frozenset({bytes})
_WORDS: Final = {
    "start": PlaceKind.START,
    "end": PlaceKind.END,
    "stored": PlaceKind.STORED,
}


def hooks(interceptors: Sequence[object], name: str) -> list[Callable[..., Any]]:
    """The methods of this name that the interceptors have."""
    return [getattr(i, name) for i in interceptors if callable(getattr(i, name, None))]


def as_bytes(what: str, value: object) -> bytes | None:
    """The value as immutable bytes, or None. Raises UsageError for anything else."""
    if value is None:
        return None
    if type(value) is bytes:
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    hint = f"; encode it: {what}.encode()" if isinstance(value, str) else ""
    raise UsageError(f"{what} is {type(value).__name__}; it must be bytes or None{hint}")


def plain_column(what: str, column: Sequence[Bytes | None]) -> tuple[Sequence[Any], bool]:
    """The column as bytes and None, and whether it has a None."""
    kinds = set(map(type, column))
    if kinds == _BYTES:
        return column, False
    return [as_bytes(what, entry) for entry in column], type(None) in kinds


def flat_headers(headers: HeadersLike | None) -> list[Any] | None:
    """Headers as a batch stores them: name, value, name, …; None if there are none."""
    if headers is None:
        return None
    pairs: list[Any] = list(headers.items() if isinstance(headers, Mapping) else headers)
    if len(pairs) > HEADERS_MAX:
        raise UsageError(f"{len(pairs)} headers; the most is {HEADERS_MAX}")
    flat: list[Any] = []
    for pair in pairs:
        if type(pair) is not tuple or len(pair) != 2 or type(pair[0]) is not str:
            raise UsageError(f"header {pair!r} is not a tuple of str and bytes")
        flat += (pair[0], _header_value(pair[1]))
    return flat or None


def check_timestamp(timestamp_ms: object) -> None:
    """Raise UsageError unless it is ms since 1970."""
    if type(timestamp_ms) is not int or not 0 <= timestamp_ms <= INTEGER_MAX:
        raise UsageError(
            f"timestamp_ms is {timestamp_ms!r}; it must be ms since 1970, 0 to {INTEGER_MAX}"
        )


def _header_value(value: object) -> bytes:
    plain = as_bytes("header value", value)
    if plain is None:
        raise UsageError("header value is None; it must be bytes")
    return plain


def place_of(start: object) -> Place:
    """What `start` and `seek` take, as the machines know it. Raises ConfigError."""
    if isinstance(start, str) and start in _WORDS:
        return Place(_WORDS[start])
    if type(start) is int and -INTEGER_MAX <= start <= INTEGER_MAX:
        if start < 0:
            return Place(PlaceKind.BEFORE_END, -start)
        return Place(PlaceKind.OFFSET, start)
    moment: int | None = None
    if isinstance(start, datetime):
        moment = int(start.timestamp() * 1000)
    elif isinstance(start, str) and start[:1] == "@" and start[1:].isascii():
        moment = int(start[1:]) if start[1:].isdigit() else None
    if moment is None or not 0 <= moment <= INTEGER_MAX:
        raise ConfigError(
            f"{start!r} is no place in a partition; use 'start', 'end', 'stored', an offset, "
            "a negative number (that many before the end), '@ms' or a datetime from 1970 on"
        )
    return Place(PlaceKind.TIME, moment)
