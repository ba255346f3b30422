"""Where does `consume -o` begin?"""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqmq_cli.positions import parse_position

from zmqmq.errors import ConfigError

NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("start", "start"),
        ("end", "end"),
        ("stored", "stored"),
        ("0", 0),
        ("12345", 12345),
        ("-2000", -2000),
        ("@1700000000000", "@1700000000000"),
        ("@1700000000", "@1700000000000"),
        ("@1700000000.25", "@1700000000250"),
        ("@0", "@0"),
        ("@2023-11-14T22:13:20Z", "@1700000000000"),
        ("@2023-11-14T22:13:20.007+00:00", "@1700000000007"),
        ("@2023-11-15T00:13:20+02:00", "@1700000000000"),
        ("@-1h", f"@{NOW - 3_600_000}"),
        ("@-90m", f"@{NOW - 5_400_000}"),
        ("@-100000d", "@0"),
    ],
)
def test_a_position(text: str, expected: str | int) -> None:
    assert parse_position(text, NOW) == expected


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_a_time_without_a_zone_is_of_this_machine(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    hours = {"UTC": 0, "America/New_York": 5}[zone]
    try:
        for text in ("@2023-11-14T00:00", "@2023-11-14", "@2023-11-14 00:00:00"):
            expected = 1_699_920_000_000 + hours * 3_600_000
            assert parse_position(text, NOW) == f"@{expected}"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("begin", "is no position"),
        ("", "is no position"),
        ("1.5", "is no position"),
        ("99999999999999999999", "is no position"),
        ("@", "is no time"),
        ("@yesterday", "is no time"),
        ("@-yesterday", "is no time ago"),
        ("@1969-12-31", "is not a time from 1970 on"),
        ("@99999999999999999999", "is not a time"),
        ("@2023-13-01", "is no time"),
        ("@0001-01-01", "is no"),
        ("@9999-12-31T23:59:59-23:59", "is no"),
    ],
)
def test_what_is_no_position_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_position(text, NOW)


@given(st.integers(10**11, 2**53 - 1))
def test_a_long_number_is_ms_and_exact(ms: int) -> None:
    assert parse_position(f"@{ms}", NOW) == f"@{ms}"


@given(st.text(max_size=12))
def test_nothing_else_than_a_config_error_is_raised(text: str) -> None:
    for candidate in (text, f"@{text}"):
        with contextlib.suppress(ConfigError):
            parse_position(candidate, NOW)
