"""Numbers with units, as people write them: `64MiB`, `7d`, `1_000`."""

from __future__ import annotations

import re

from zmqmq.errors import ConfigError

DIGITS_MAX = 32
"""More are no size of anything; Python refuses to print integers of thousands of them."""
_NUMBER = re.compile(r"(-?\d[\d_]*(?:\.\d+)?)\s*([A-Za-z]*)\Z")
_BYTES = {"": 1, "b": 1}
_BYTES |= {f"{p}ib": 1024**i for i, p in enumerate("kmgt", start=1)}
_BYTES |= {f"{p}b": 1000**i for i, p in enumerate("kmgt", start=1)}
_MS = {"": 1, "ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_MS |= {"w": 7 * 86_400_000}


def parse_bytes(text: str) -> int:
    """`"64MiB"` to 67108864; a plain number is bytes."""
    return _parse(text, _BYTES, "a size; try 64MiB, 1GB or a number of bytes")


def parse_ms(text: str) -> int:
    """`"7d"` to 604800000; a plain number is milliseconds."""
    return _parse(text, _MS, "a duration; try 500ms, 30s, 10m, 12h, 7d or a number of ms")


def _parse(text: str, units: dict[str, int], hint: str) -> int:
    match = _NUMBER.match(text.strip())
    scale = units.get(match[2].lower()) if match else None
    if match is None or scale is None or len(match[1]) > DIGITS_MAX:
        raise ConfigError(f"{text!r} is not {hint}")
    number = match[1].replace("_", "")
    return int(number) * scale if "." not in number else round(float(number) * scale)
