"""DESIGN 10 as rows: what is compared with what, and how much is enough."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Results = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
"""(workload, side) to a measurement for each round."""

RATE = "records_per_second"
P50 = "p50_us"


@dataclass(frozen=True, slots=True)
class Figure:
    """A field of one workload on one side: the median of the rounds."""

    workload: str
    side: str
    field: str = RATE

    def of(self, results: Results) -> float | None:
        """The figure, where it was measured."""
        found = [r[self.field] for r in results.get((self.workload, self.side), ())]
        numbers = [float(number) for number in found if number is not None]
        return statistics.median(numbers) if numbers else None

    def spread(self, results: Results) -> float | None:
        """The largest of the rounds over the smallest."""
        found = [r[self.field] for r in results.get((self.workload, self.side), ())]
        return max(found) / min(found) if found and all(found) else None


@dataclass(frozen=True, slots=True)
class Row:
    """Our figure against another one, or against a limit."""

    what: str
    ours: Figure
    other: Figure | None
    limit: float
    """Of the ratio of both; of the figure itself where there is no other."""
    is_most: bool = False
    """The limit must not be exceeded, rather than be reached."""

    def value(self, results: Results) -> float | None:
        """What is held against the limit."""
        ours = self.ours.of(results)
        if self.other is None or ours is None:
            return ours
        other = self.other.of(results)
        return ours / other if other else None

    def holds(self, results: Results) -> bool | None:
        """Whether the target is met; None when something was not measured."""
        value = self.value(results)
        if value is None:
            return None
        return value <= self.limit if self.is_most else value >= self.limit


def _against(
    what: str, workload: str, side: str, limit: float, field: str = RATE, *, is_most: bool = False
) -> Row:
    return Row(what, Figure(workload, "ours", field), Figure(workload, side, field), limit, is_most)


def _partitions(batch: str, records: int) -> Row:
    name = f"partitions 100 B batches of {records}, {{}} partitions"
    ours, other = Figure(name.format(1000), "ours"), Figure(name.format(1), "ours")
    return Row(f"1,000 partitions against 1, {batch} batches", ours, other, 0.60)


BROKER = "broker"
"""Stands for the workload of what is measured on a broker at rest."""

ROWS: Sequence[Row] = (
    _against("produce 100 B x 1000, fsync, 16 in flight: bare", "produce 100 B", "bare", 0.70),
    _against("produce 1 kB x 1000, fsync, 16 in flight: bare", "produce 1000 B", "bare", 1.00),
    _against("the same: Kafka produce_batch(), fsync", "produce 1000 B", "kafka", 1.00),
    _against("send() 100 B: Kafka produce(), fsync", "send 100 B", "kafka", 1.00),
    _against("send() 1 kB: Kafka produce(), fsync", "send 1000 B", "kafka", 1.00),
    _against(
        "single, 1 in flight, p50: bare",
        "single 100 B 1 in flight",
        "bare",
        1.40,
        P50,
        is_most=True,
    ),
    _against("single, 64 in flight, rate: bare", "single 100 B 64 in flight", "bare", 0.50),
    _against("consume batches 100 B: bare", "batches 100 B", "bare", 0.60),
    _against("consume batches 1 kB: bare", "batches 1000 B", "bare", 0.60),
    _against("consume records 100 B: Kafka consume()", "records 100 B", "kafka", 1.50),
    _against("consume records 1 kB: Kafka consume()", "records 1000 B", "kafka", 1.50),
    _partitions("100 kB", 1000),
    _partitions("1 kB", 10),
    Row("idle broker, CPU %", Figure(BROKER, "ours", "idle_cpu_percent"), None, 1.0, is_most=True),
    Row("idle broker, resident MB", Figure(BROKER, "ours", "rss_mb"), None, 90, is_most=True),
    Row("seconds until ready", Figure(BROKER, "ours", "ready_s"), None, 1.0, is_most=True),
    Row("seconds of `zmqmq --help`", Figure(BROKER, "ours", "help_s"), None, 0.2, is_most=True),
)


def table(results: Results) -> list[list[str]]:
    """The ratio of every target that concerns one broker; first the titles."""
    lines = [["target", "ours", "other", "ratio", "wanted", "", "raw client", "ratio"]]
    for row in ROWS:
        is_rate = row.ours.field in (RATE, P50)
        raw = _with_raw(row)
        lines.append(
            [
                row.what,
                shown(row.ours.of(results)),
                shown(row.other.of(results)) if row.other else "",
                _ratio(row.value(results)) if row.other else "",
                f"{'<=' if row.is_most else '>='} {row.limit:g}",
                {True: "met", False: "MISSED", None: "not measured"}[row.holds(results)],
                shown(raw.ours.of(results)) if is_rate else "",
                _ratio(raw.value(results)) if is_rate else "",
            ]
        )
    return lines


def figures(results: Results) -> list[list[str]]:
    """Every workload on every side: medians, and how far the rounds lie apart."""
    titles = ["workload", "side", "rounds", "records/s", "MB/s", "p50 us", "p99 us", "p99.9 us"]
    lines = [[*titles, "client us/record", "server us/record", "max/min"]]
    fields = (RATE, "mb_per_second", P50, "p99_us", "p999_us")
    costs = ("client_cpu_us_per_record", "broker_cpu_us_per_record")
    for workload, side in results:
        if workload == BROKER:
            continue
        figure = [Figure(workload, side, field).of(results) for field in (*fields, *costs)]
        spread = Figure(workload, side).spread(results)
        lines.append(
            [
                workload,
                side,
                str(len(results[workload, side])),
                *map(shown, figure),
                "" if spread is None else f"{spread:.2f}",
            ]
        )
    return lines


def as_dicts(results: Results) -> list[dict[str, Any]]:
    """The ratio table for a program."""
    return [
        {
            "target": row.what,
            "ours": row.ours.of(results),
            "other": row.other.of(results) if row.other else None,
            "value": row.value(results),
            "limit": row.limit,
            "at_most": row.is_most,
            "met": row.holds(results),
        }
        for row in ROWS
    ]


def shown(number: float | None) -> str:
    """A figure with as many digits as it deserves."""
    if number is None:
        return ""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _with_raw(row: Row) -> Row:
    """The same row with the raw client in the place of ours."""

    def swapped(figure: Figure) -> Figure:
        side = "raw" if figure.side == "ours" else figure.side
        return Figure(figure.workload, side, figure.field)

    other = swapped(row.other) if row.other else None
    return Row(row.what, swapped(row.ours), other, row.limit, row.is_most)
