"""The codec table, and the limit on what a column may inflate to.

LZ4 is the block format without a size in front (the column directory has the size); Zstandard is
its frame format. Both are asked for exactly the size that was announced, so a compressed bomb
costs what it announced and no more.
"""

from __future__ import annotations

import enum
import sys

import lz4.block

from zmqmq.errors import CorruptDataError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

WORTH_COMPRESSING = 64
"""Columns below this many bytes are stored as they are."""


_ZSTD_OPTIONS = {int(zstd.DecompressionParameter.window_log_max): 23}
"""A window of 8 MiB, all that a batch may inflate to: a frame may ask for more memory than that
before its first byte is there."""


class Codec(enum.IntEnum):
    """How columns are compressed: bits 0 to 2 of a batch's attributes."""

    NONE = 0
    LZ4 = 1
    ZSTD = 2


def compress(codec: Codec, data: bytes) -> bytes:
    """The compressed column, or `data` itself when that is not smaller."""
    if codec is Codec.NONE or len(data) < WORTH_COMPRESSING:
        return data
    if codec is Codec.LZ4:
        packed: bytes = lz4.block.compress(data, store_size=False)
    else:
        packed = zstd.compress(data, 1)
    return packed if len(packed) < len(data) else data


def decompress(codec: Codec, data: bytes | memoryview, inflated_size: int) -> bytes | memoryview:
    """The column again; raises CorruptDataError unless it inflates to exactly `inflated_size`."""
    if len(data) == inflated_size:
        return data
    try:
        if codec is Codec.LZ4:
            plain: bytes = lz4.block.decompress(data, uncompressed_size=inflated_size)
        elif codec is Codec.ZSTD:
            inflater = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
            plain = inflater.decompress(data, max_length=inflated_size + 1)
        else:
            raise CorruptDataError(
                f"column stores {len(data)} bytes and announces {inflated_size}, uncompressed"
            )
    except (lz4.block.LZ4BlockError, zstd.ZstdError, ValueError, MemoryError) as error:
        raise CorruptDataError(
            f"{codec.name} column of {len(data)} bytes does not inflate to the {inflated_size} "
            f"announced: {error}"
        ) from None
    if len(plain) != inflated_size:
        raise CorruptDataError(
            f"{codec.name} column inflates to {len(plain)} bytes, {inflated_size} were announced"
        )
    return plain
