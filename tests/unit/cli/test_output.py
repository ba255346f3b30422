"""Tables, numbers and talk as people see them."""

from __future__ import annotations

import io
import json
import sys
import time

import pytest
from zmqmq_cli.output import Output
from zmqmq_cli.tables import (
    Size,
    Table,
    cell,
    clock_time,
    exact_bytes,
    exact_ms,
    human_bytes,
    human_count,
    plain,
    plural,
)

from zmqmq.model.units import parse_bytes, parse_ms


class Terminal(io.StringIO):
    """Text that somebody looks at."""

    def isatty(self) -> bool:
        return True


def test_columns_are_aligned_and_numbers_stand_to_the_right() -> None:
    table = Table(["name", "count", "size"], [("a", 5, Size(2048)), ("long-name", 12345, None)])

    assert plain(table) == [
        "NAME       COUNT     SIZE",
        "a              5  2.0 KiB",
        "long-name  12345        -",
    ]


def test_a_table_without_rows_is_its_header() -> None:
    assert plain(Table(["a", "b"], title="nothing")) == ["nothing", "A  B"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), ("", "-"), (True, "yes"), (False, "no"), (0, "0"), (Size(1536), "1.5 KiB")],
)
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 << 30, "5.0 GiB"),
        (3 << 50, "3072.0 TiB"),
    ],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(7, "7"), (999, "999"), (1500, "1.5 k"), (2.5e6, "2.5 M")],
)
def test_counts_for_people(count: float, text: str) -> None:
    assert human_count(count) == text


@pytest.mark.parametrize("count", [0, 1, 1000, 1024, 65_536, 1 << 20, (1 << 20) + 1, 3 << 30])
def test_a_size_as_a_setting_is_read_back(count: int) -> None:
    assert parse_bytes(exact_bytes(count)) == count


@pytest.mark.parametrize("count", [0, 1, 1000, 90_000, 3_600_000, 86_400_000, 86_400_001])
def test_a_duration_as_a_setting_is_read_back(count: int) -> None:
    assert parse_ms(exact_ms(count)) == count


def test_plurals() -> None:
    assert [plural(n, "record") for n in (0, 1, 1234)] == ["0 records", "1 record", "1,234 records"]


def test_the_year_is_told_when_it_is_another() -> None:
    assert clock_time(None) is None
    assert clock_time(0) is None
    assert clock_time(-1) is None
    assert str(clock_time(1_000_000_000_000)).startswith("2001-09-09 ")
    assert len(str(clock_time(time.time_ns() // 1_000_000))) == len("11-21 10:00:00")


def talk(monkeypatch: pytest.MonkeyPatch, output: Output, message: str) -> str:
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    output.error(message, code="X", hint="do this", retriable=True)
    return stderr.getvalue()


def test_errors_are_coloured_for_people_and_not_where_nobody_wants_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;31merror:\x1b[0m it is so\n" in talk(monkeypatch, Output(), "it is so")
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert talk(patch, Output(), "it is so") == "error: it is so\nhint: do this\n"


def test_an_error_breaks_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    said = talk(monkeypatch, Output(), "one two three four five six seven eight nine\nnext")

    assert said.splitlines()[:3] == [
        "error: one two three four five six seven",
        "       eight nine",
        "       next",
    ]


def test_an_error_in_json_is_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    said = talk(monkeypatch, Output("jsonl"), "it is so")

    assert json.loads(said) == {
        "error": {"code": "X", "message": "it is so", "hint": "do this", "retriable": True}
    }


def test_progress_is_for_people_and_wiped_before_the_next_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    output = Output()
    output.progress("half")
    output.progress("too soon after it")
    output.say("done")
    assert stderr.getvalue() == "\rhalf\r    \rdone\n"

    quiet = io.StringIO()
    monkeypatch.setattr(sys, "stderr", quiet)
    Output().progress("half")
    Output(quiet=True).say("done")
    assert quiet.getvalue() == ""
