"""Measurements as a person, or a program, reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from zmqmq.bench.measure import Measurement

SCHEMA: Final = 1
"""Of the JSON. It grows when a field goes away or changes its meaning."""

Cells = Mapping[str, Any]
Column = tuple[str, Callable[[Cells], str]]


def _number(name: str, digits: int = 0) -> Callable[[Cells], str]:
    def show(cells: Cells) -> str:
        value = cells.get(name)
        return "-" if value is None else f"{value:,.{digits}f}"

    return show


def _percent(name: str) -> Callable[[Cells], str]:
    def show(cells: Cells) -> str:
        value = cells.get(name)
        return "-" if value is None else f"{value:.0%}"

    return show


COLUMNS: Final[Sequence[Column]] = (
    ("scenario", lambda cells: str(cells["scenario"])),
    ("partitions", _number("partitions")),
    ("bytes", _number("record_bytes")),
    ("records", _number("records")),
    ("records/s", _number("records_per_second")),
    ("MB/s", _number("mb_per_second", 1)),
    ("p50 us", _number("p50_us")),
    ("p99 us", _number("p99_us")),
    ("p99.9 us", _number("p999_us")),
    ("client us/record", _number("client_cpu_us_per_record", 2)),
    ("broker us/record", _number("broker_cpu_us_per_record", 2)),
)

RAMP_COLUMNS: Final[Sequence[Column]] = (
    ("offered/s", _number("offered_per_second")),
    ("achieved/s", _number("achieved_per_second")),
    ("follows", lambda cells: "yes" if cells["follows"] else "no"),
    ("p50 us", _number("p50_us")),
    ("p99 us", _number("p99_us")),
    ("p99.9 us", _number("p999_us")),
    ("client", _percent("client")),
    ("broker", _percent("broker")),
    ("loop", _percent("broker_loop")),
    ("disk", _percent("disk")),
    ("machine", _percent("machine")),
    ("others", _percent("others")),
)


def as_table(columns: Sequence[Column], rows: Sequence[Cells]) -> str:
    """Plain columns, never cut; what is no text stands to the right."""
    texts = [[title for title, _ in columns]]
    texts += [[show(cells) for _, show in columns] for cells in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    is_text = [title in {"scenario", "follows"} for title, _ in columns]
    return "\n".join(
        "  ".join(
            text.ljust(width) if left else text.rjust(width)
            for text, width, left in zip(row, widths, is_text, strict=True)
        ).rstrip()
        for row in texts
    )


def as_json(measurements: Sequence[Measurement]) -> str:
    """All of them as one object."""
    results = [measurement.as_dict() for measurement in measurements]
    return json.dumps({"schema": SCHEMA, "results": results}, indent=2)


def as_line(measurement: Measurement) -> str:
    """One of them as one line of JSON."""
    return json.dumps(measurement.as_dict())


def show(measurements: Sequence[Measurement]) -> str:
    """A table for throughput and times, and one for a ramp with what held it up."""
    cells = [measurement.as_dict() for measurement in measurements]
    ramps = [row for row in cells if "offered_per_second" in row]
    others = [row for row in cells if "offered_per_second" not in row]
    parts = []
    if others:
        parts.append(as_table(COLUMNS, others))
    for (size, partitions), steps in groupby(ramps, itemgetter("record_bytes", "partitions")):
        rows = list(steps)
        last = rows[-1]
        said = "busiest" if last["follows"] else "the rate no longer follows"
        parts.append(f"ramp: {size} bytes, {partitions} partitions\n{as_table(RAMP_COLUMNS, rows)}")
        parts.append(f"at {last['offered_per_second']:,}/s {said}: {last['bottleneck']}")
    return "\n\n".join(parts)
