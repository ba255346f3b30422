"""The envelope of every message: one msgpack array `[api, version, correlation, {fields}]`."""

from __future__ import annotations

from typing import Any, Final

import msgpack

from zmqmq.errors import ProtocolError
from zmqmq.model.limits import HEADER_BYTES_MAX, INTEGER_MAX, ITEMS_MAX, REPLY_BYTES_MAX

VERSION: Final = 1
"""The one protocol version that this release speaks."""

Fields = dict[str, Any]


def encode_header(api: int, correlation: int, fields: Fields, version: int = VERSION) -> bytes:
    """The header frame of a request or a reply."""
    packed: bytes = msgpack.packb((api, version, correlation, fields))
    return packed


def decode_header(frame: bytes) -> tuple[int, int, int, Fields]:
    """api, version, correlation and fields of a request.

    Raises ProtocolError. Sizes are checked before anything is parsed, since a frame of empty
    arrays becomes a million objects (zeromq.md 5.4).
    """
    if len(frame) > HEADER_BYTES_MAX:
        raise ProtocolError(f"header has {len(frame)} bytes; the limit is {HEADER_BYTES_MAX}")
    return _decode(frame, ITEMS_MAX)


def decode_reply_header(frame: bytes) -> tuple[int, int, int, Fields]:
    """The same for a reply, which may list more things than a request."""
    if len(frame) > REPLY_BYTES_MAX:
        raise ProtocolError(f"reply header has {len(frame)} bytes; the limit is {REPLY_BYTES_MAX}")
    return _decode(frame, REPLY_BYTES_MAX)


def _decode(frame: bytes, items_max: int) -> tuple[int, int, int, Fields]:
    try:
        header = msgpack.unpackb(frame, max_array_len=items_max, max_map_len=items_max)
    except (ValueError, msgpack.UnpackException) as error:
        raise ProtocolError(f"header is not msgpack: {error!r}") from None
    if type(header) is not list or len(header) < 4:
        raise ProtocolError("header is not an array [api, version, correlation, {fields}]")
    api, version, correlation, fields = header[:4]
    if not (type(api) is type(version) is type(correlation) is int and type(fields) is dict):
        raise ProtocolError("header is not an array of three integers and a map")
    if not (0 <= correlation <= INTEGER_MAX):
        raise ProtocolError(f"correlation {correlation} is outside 0 to {INTEGER_MAX}")
    return api, version, correlation, fields
