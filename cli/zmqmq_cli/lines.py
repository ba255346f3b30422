"""Files and pipes to lists of lines, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from zmqmq.errors import ZmqmqError
from zmqmq.model.limits import BATCH_BYTES_MAX

CHUNK_BYTES: Final = 1 << 20
"""Read at a time. A pipe gives what it has, so lines typed slowly go out at once."""


class InputError(ZmqmqError):
    """A line is not what it should be; the message has its file and number."""


class Readable(Protocol):
    """A binary file or pipe."""

    def read1(self, size: int, /) -> bytes: ...


def lines_of(stream: Readable, name: str) -> Iterator[list[bytes]]:
    """The lines of a stream, without their newlines, as many at a time as one read brings.

    A last line without a newline counts. Raises InputError for one too long for any batch: were
    it gathered to its end, a file without newlines would fill the memory.
    """
    rest: list[bytes] = []
    rest_bytes = 0
    number = 1
    while data := stream.read1(CHUNK_BYTES):
        lines = data.split(b"\n")
        if rest and len(lines) > 1:
            rest.append(lines[0])
            lines[0] = b"".join(rest)
            rest, rest_bytes = [], 0
        last = lines.pop()
        if lines:
            number += len(lines)
            yield lines
        if last:
            rest.append(last)
            rest_bytes += len(last)
            if rest_bytes > BATCH_BYTES_MAX:
                raise InputError(
                    f"{name}:{number}: the line is longer than {BATCH_BYTES_MAX} bytes, the most "
                    "that a batch can hold"
                )
    if rest:
        yield [b"".join(rest)]
