"""What happened in a simulation: a digest to compare runs by, and lines for people.

The digest covers every delivered message, every revision of the store and every fault. Two runs of
one seed have the same one, or the simulation is not deterministic. Lines cost time, so whoever
makes one first asks `wants_lines`; a failed run is repeated from its seed with lines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from hashlib import blake2b
from struct import Struct
from typing import Final

_HEAD: Final = Struct("<QII")
_PIECES_MAX: Final = 1024
SECOND: Final = 1_000_000_000


class Trace:
    """Collects what happened. `keep` is how many lines it remembers, `out` gets each of them."""

    __slots__ = ("_hash", "_lines", "_out", "_pieces", "describe", "wants_lines")

    def __init__(self, *, keep: int = 0, out: Callable[[str], None] | None = None) -> None:
        self._hash = blake2b(digest_size=16)
        self._pieces: list[bytes] = []
        self._lines: deque[str] = deque(maxlen=keep)
        self._out = out
        self.wants_lines = keep > 0 or out is not None
        self.describe: Callable[[Sequence[bytes]], str] = _first_bytes
        """How the lines show a message. Whoever knows the protocol puts something better here."""

    def message(self, now: int, number: int, frames: Sequence[bytes]) -> None:
        """Note a message that was delivered; `number` says where."""
        pieces = self._pieces
        pieces.append(_HEAD.pack(now, number, len(frames)))
        pieces += frames
        if len(pieces) > _PIECES_MAX:
            self._absorb()

    def note(self, now: int, what: bytes) -> None:
        """Note anything else."""
        self._pieces += (_HEAD.pack(now, 0, len(what)), what)

    def line(self, now: int, who: str, what: str) -> None:
        """Write a line; only call it if `wants_lines`."""
        line = f"{now // SECOND}.{now % SECOND:09d} {who} {what}"
        self._lines.append(line)
        if self._out is not None:
            self._out(line)

    def event(self, now: int, who: str, what: str) -> None:
        """A rare thing, such as a fault: into the digest, and a line if wanted."""
        self.note(now, f"{who} {what}".encode())
        if self.wants_lines:
            self.line(now, who, what)

    @property
    def lines(self) -> list[str]:
        """The last lines, oldest first."""
        return list(self._lines)

    def digest(self) -> str:
        """Of everything up to here."""
        self._absorb()
        return self._hash.hexdigest()

    def _absorb(self) -> None:
        self._hash.update(b"".join(self._pieces))
        self._pieces.clear()


def _first_bytes(frames: Sequence[bytes]) -> str:
    sizes = "+".join(str(len(frame)) for frame in frames)
    return f"{sizes} bytes: {frames[0][:24].hex() if frames else ''}"
