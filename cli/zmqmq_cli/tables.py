"""Rows, cells and numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(slots=True)
class Table:
    """Rows under column names; a column whose cells are all numbers is set to the right."""

    columns: Sequence[str]
    rows: list[Sequence[object]] = field(default_factory=list)
    title: str = ""


class Size(int):
    """A number of bytes: a table writes it for people, JSON as it is."""


class Percent(int):
    """A share: `42 %`."""


def cell(value: object) -> str:
    """A value as a table shows it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Size):
        return human_bytes(value)
    if isinstance(value, Percent):
        return f"{value:d} %"
    return str(value)


def right_aligned(table: Table) -> list[bool]:
    """For each column, whether it holds only numbers."""
    return [
        bool(table.rows) and all(_is_number(row[index]) for row in table.rows)
        for index in range(len(table.columns))
    ]


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def plain(table: Table) -> list[str]:
    """The lines of a table as plain columns."""
    texts = [[column.upper() for column in table.columns]]
    texts += [[cell(value) for value in row] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    rights = right_aligned(table)
    lines = [table.title] if table.title else []
    for row in texts:
        cells = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, rights, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def human_bytes(count: float) -> str:
    """A size for people: `64.0 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def human_count(count: float) -> str:
    """A number for people: `1.2 M`."""
    for unit in ("", " k", " M"):
        if count < 1000:
            return f"{count:.0f}" if not unit else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f} G"


def plural(count: int, noun: str) -> str:
    """`1 record`, `2 records`, with separators in long numbers."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def exact_ms(count: int) -> str:
    """A duration as a setting would be written, exact: `7d`, `90s`, `1500ms`."""
    for name, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if count and count % size == 0:
            return f"{count // size}{name}"
    return f"{count}ms" if count else "0"


def exact_bytes(count: int) -> str:
    """A size as a setting would be written, exact: `128MiB`, `1000`."""
    for name, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count and count % size == 0:
            return f"{count // size}{name}"
    return str(count)


def size_of(count: int | None) -> Size | None:
    """A cell for a number of bytes that may be unknown."""
    return None if count is None else Size(count)


def clock_time(ms: int | None) -> str | None:
    """A moment by this machine's clock, without the year while it lasts; None for none."""
    if not ms or ms < 0:
        return None
    moment = datetime.fromtimestamp(ms / 1000, UTC).astimezone()
    is_recent = moment.year == datetime.now(UTC).astimezone().year
    return moment.strftime("%m-%d %H:%M:%S" if is_recent else "%Y-%m-%d %H:%M:%S")
