"""The grammar of `consume -o`: where to begin to read."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from zmqmq.errors import ConfigError
from zmqmq.model.limits import INTEGER_MAX
from zmqmq.model.units import parse_ms

WORDS: Final = ("start", "end", "stored")
_INTEGER = re.compile(r"-?\d+\Z")
_NUMBER = re.compile(r"\d+(\.\d+)?\Z")
_SECONDS_BELOW: Final = 10**11
"""A whole number below this is seconds: as ms it would be a time before 1973-03-03."""


def parse_position(text: str, now_ms: int) -> str | int:
    """What the client calls `start`: a word, an offset, a negative count or `@` and ms.

    Raises ConfigError.
    """
    if text in WORDS:
        return text
    if _INTEGER.match(text) and abs(int(text)) <= INTEGER_MAX:
        return int(text)
    if text.startswith("@"):
        return f"@{parse_time(text[1:], now_ms)}"
    raise ConfigError(
        f"{text!r} is no position; use start, end, stored, an offset, -N for the last N, "
        "or @TIMESTAMP"
    )


def parse_time(text: str, now_ms: int) -> int:
    """Milliseconds since 1970 of a time as people write it.

    `1700000000000` (ms), `1700000000` and `1700000000.5` (seconds), `2026-11-21T09:30` (ISO 8601;
    this machine's time zone where none is written), `-1h` (that long ago).
    """
    if text.startswith("-"):
        return max(0, now_ms - _ago(text))
    if _NUMBER.match(text):
        seconds = "." in text or int(text) < _SECONDS_BELOW
        result = round(float(text) * 1000) if seconds else int(text)
    else:
        try:
            moment = datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            raise ConfigError(
                f"{text!r} is no time; use ms or seconds since 1970, "
                "an ISO 8601 time as 2026-11-21T09:30:00Z, or -1h"
            ) from None
        result = round((moment - _EPOCH) / _MS)
    if not 0 <= result <= INTEGER_MAX:
        raise ConfigError(f"{text!r} is not a time from 1970 on")
    return result


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def _ago(text: str) -> int:
    try:
        return parse_ms(text[1:])
    except ConfigError:
        raise ConfigError(f"{text!r} is no time ago; use -30s, -10m, -1h or -7d") from None
