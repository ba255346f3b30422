"""`zmqmq overview`: all there is, on one page."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from zmqmq_cli.options import Command
from zmqmq_cli.session import connected, output_of
from zmqmq_cli.tables import Size, Table, clock_time, plural, size_of

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=Command)
def overview(
    ctx: typer.Context,
    *,
    internal: Annotated[
        bool, typer.Option("--internal", help="The broker's own topics too.")
    ] = False,
) -> None:
    """Show topics, partitions, offsets, groups and their lag."""
    with connected(ctx) as client:
        (broker,) = client.describe("broker")
        topics = client.describe("topics", internal=internal)
        groups = client.describe("groups")
    broker, topics, groups = plain((broker, topics, groups))
    lines = [
        {"kind": "broker", **broker},
        *({"kind": "partition", **line} for line in partition_lines(topics)),
        *({"kind": "group", "group": g["name"], **line} for g in groups for line in g["offsets"]),
    ]
    tables = [broker_table(broker), partitions_table(topics), groups_table(groups)]
    data = {"broker": broker, "topics": topics, "groups": groups}
    output_of(ctx).show(data, tables, lines)


def plain(value: Any) -> Any:  # noqa: ANN401  what msgpack may hold
    """The same with bytes as hex, so that JSON can hold it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def partition_lines(topics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """An object for each partition, with the name of its topic."""
    return [{"topic": t["name"], **partition} for t in topics for partition in t["partitions"]]


def broker_table(broker: dict[str, Any]) -> Table:
    """One row about the broker that answered."""
    endpoint = broker["endpoints"].get("clients")
    table = Table(["broker", "address", "software", "clients", "topics", "size", "state"])
    offline = broker["offline"]
    table.rows.append(
        (
            broker["broker"],
            endpoint,
            broker["server"],
            broker["sessions"],
            broker["topics"],
            Size(broker["bytes"]),
            f"{plural(offline, 'partition')} offline" if offline else "serving",
        )
    )
    return table


def partitions_table(topics: list[dict[str, Any]]) -> Table:
    """A row for each partition; trouble has a column only where there is some."""
    lines = partition_lines(topics)
    columns = ["topic", "partition", "start", "end", "records", "size", "last record"]
    trouble = any("error" in line for line in lines)
    table = Table([*columns, *(["trouble"] if trouble else [])])
    for line in lines:
        row = [
            line["topic"],
            line["partition"],
            line.get("start"),
            line.get("committed_end"),
            line.get("records"),
            size_of(line.get("bytes")),
            clock_time(line.get("last_append_ms")),
        ]
        table.rows.append([*row, line.get("error")] if trouble else row)
    return table


def groups_table(groups: list[dict[str, Any]]) -> Table:
    """A row for each partition that a group has read."""
    table = Table(["group", "topic", "partition", "position", "end", "lag", "committed"])
    for group in groups:
        for line in group["offsets"]:
            table.rows.append(
                (
                    group["name"],
                    line["topic"],
                    line["partition"],
                    line["offset"],
                    line["committed_end"],
                    line["lag"],
                    clock_time(line["commit_ms"]),
                )
            )
    return table
