"""`zmqmq topics`: create, list, describe, alter, delete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zmqmq.model.setting import Unit, settings_of
from zmqmq.model.topics import TopicConfig
from zmqmq_cli.exits import Exit
from zmqmq_cli.options import Command, Group, number
from zmqmq_cli.output import Output
from zmqmq_cli.overview import plain
from zmqmq_cli.session import connected, output_of
from zmqmq_cli.tables import Size, Table, clock_time, exact_bytes, exact_ms, plural, size_of

if TYPE_CHECKING:
    from zmqmq import TopicInfo

app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The topic.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "-c",
        "--config",
        metavar="KEY=VALUE",
        help="A setting (docs/configuration.md, Topics), as in retention_ms=7d; may come again.",
    ),
]


@app.callback()
def root() -> None:
    """Create, list, describe, alter and delete topics."""


@app.command(cls=Command)
def create(
    ctx: typer.Context,
    name: Name,
    *,
    partitions: Annotated[
        str, typer.Option("-p", "--partitions", metavar="N", help="How many partitions.")
    ] = "1",
    replicas: Annotated[
        str,
        typer.Option(
            "-r",
            "--replicas",
            metavar="N",
            help="Copies of each partition; 0: three, or as many as there are brokers.",
        ),
    ] = "0",
    config: Settings = None,
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="Be content with one that is there already.")
    ] = False,
) -> None:
    """Create a topic."""
    count = number(partitions, "-p/--partitions", least=1)
    copies = number(replicas, "-r/--replicas")
    settings = parse_settings(config or [], resets=False)
    output = output_of(ctx)
    with connected(ctx) as client:
        info = client.topics.create(
            name, count, copies, config=settings, if_not_exists=if_not_exists
        )
    output.say(f"topic {info.name} has {plural(info.partitions, 'partition')}")
    if output.form != "table":
        output.show(as_map(info), [])


@app.command("list", cls=Command)
def list_topics(
    ctx: typer.Context,
    *,
    internal: Annotated[
        bool, typer.Option("--internal", help="The broker's own topics too.")
    ] = False,
) -> None:
    """List the topics."""
    with connected(ctx) as client:
        topics = plain(client.describe("topics", internal=internal))
    lines = [
        {**topic, "partitions": len(topic["partitions"])}
        for topic in sorted(topics, key=lambda topic: str(topic["name"]))
    ]
    table = Table(["topic", "partitions", "replicas", "settings"])
    table.rows = [
        (line["name"], line["partitions"], line["replicas"], _shown(line["overrides"]))
        for line in lines
    ]
    output_of(ctx).show({"topics": lines}, [table], lines)


@app.command(cls=Command)
def describe(ctx: typer.Context, name: Name) -> None:
    """Show replicas, offsets and settings of a topic."""
    with connected(ctx, name) as client:
        (topic,) = plain(client.describe("topics", [name], internal=True))
    output_of(ctx).show(topic, description_tables(topic))


def description_tables(topic: dict[str, Any]) -> list[Table]:
    """The topic, who has its partitions, what is in them, its settings."""
    partitions = topic["partitions"]
    head = Table(["topic", "partitions", "replicas", "records", "size"], title=f"id {topic['id']}")
    head.rows.append(
        (
            topic["name"],
            len(partitions),
            topic["replicas"],
            sum(p.get("records", 0) for p in partitions),
            Size(sum(p.get("bytes", 0) for p in partitions)),
        )
    )
    columns = ["partition", "start", "end", "records", "size", "segments", "last record"]
    trouble = any("error" in partition for partition in partitions)
    rows = Table([*columns, *(["trouble"] if trouble else [])])
    for line in partitions:
        row = [
            line["partition"],
            line.get("start"),
            line.get("committed_end"),
            line.get("records"),
            size_of(line.get("bytes")),
            line.get("segments"),
            clock_time(line.get("last_append_ms")),
        ]
        rows.rows.append([*row, line.get("error")] if trouble else row)
    settings = Table(["setting", "value", "set"])
    for key, value in topic["config"].items():
        own = "here" if key in topic["overrides"] else "by default"
        settings.rows.append((key, readable(key, value), own))
    return [head, _replicas_table(partitions), rows, settings]


def _replicas_table(partitions: list[dict[str, Any]]) -> Table:
    """Who has a partition, and how many records each follower lacks."""
    moves = [_move(line) for line in partitions]
    columns = ["partition", "leader", "epoch", "replicas", "in sync", "lag"]
    table = Table([*columns, *(["moving"] if any(moves) else [])])
    for line, move in zip(partitions, moves, strict=True):
        row = [
            line["partition"],
            line["leader"],
            line["leader_epoch"],
            _brokers(line.get("replicas")),
            _brokers(line.get("isr")),
            _lag(line.get("followers") or []),
        ]
        table.rows.append([*row, move] if any(moves) else row)
    return table


def _brokers(ids: list[int] | None) -> str | None:
    return None if ids is None else ",".join(map(str, ids))


def _lag(followers: list[dict[str, Any]]) -> str:
    """`2:0 3:17`; a follower that has not said anything yet has `?`."""
    lags = [(f["broker"], "?" if f["lag"] is None else f["lag"]) for f in followers]
    return " ".join(f"{broker}:{lag}" for broker, lag in lags)


def _move(line: dict[str, Any]) -> str:
    """`+4 -1` while a reassignment is under way."""
    added = [f"+{broker}" for broker in line.get("adding") or []]
    return " ".join([*added, *(f"-{broker}" for broker in line.get("removing") or [])])


@app.command(cls=Command)
def alter(
    ctx: typer.Context,
    name: Name,
    *,
    partitions: Annotated[
        str | None,
        typer.Option("-p", "--partitions", metavar="N", help="The new number; it can only grow."),
    ] = None,
    config: Settings = None,
) -> None:
    """Change settings or add partitions. `-c KEY=` resets a setting to its default."""
    count = None if partitions is None else number(partitions, "-p/--partitions", least=1)
    settings = parse_settings(config or [], resets=True)
    if count is None and not settings:
        raise typer.BadParameter("say what to change, with -p or -c")
    output = output_of(ctx)
    with connected(ctx, name) as client:
        info = client.topics.alter(name, partitions=count, config=settings or None)
    output.say(f"topic {name} is altered")
    if output.form != "table":
        output.show(as_map(info), [])


@app.command(cls=Command)
def delete(
    ctx: typer.Context,
    name: Name,
    *,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a topic and all its records."""
    output = output_of(ctx)
    with connected(ctx, name) as client:
        if not yes:
            client.topics.describe(name)  # a name that is wrong is told before the question
            _confirm(output, name)
        client.topics.delete(name)
    output.say(f"topic {name} is deleted")
    if output.form != "table":
        output.show({"deleted": name}, [])


def _confirm(output: Output, name: str) -> None:
    answer = output.ask(f"type the name to delete {name} and all its records")
    if answer is None:
        raise typer.BadParameter("nobody is there to be asked; -y deletes without asking")
    if answer != name:
        output.say("nothing is deleted")
        raise typer.Exit(Exit.FAILURE)


def parse_settings(pairs: list[str], *, resets: bool) -> dict[str, str | None]:
    """`KEY=VALUE` as a map; without a value the setting is reset, where that makes sense."""
    settings: dict[str, str | None] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals and (value or resets)):
            raise typer.BadParameter(
                f"{pair!r} is not KEY=VALUE, as in retention_ms=7d", param_hint="-c/--config"
            )
        settings[key.strip()] = value.strip() or None
    return settings


def as_map(info: TopicInfo) -> dict[str, Any]:
    """A topic as JSON shows it."""
    return {
        "name": info.name,
        "id": info.id.hex(),
        "partitions": info.partitions,
        "replicas": info.replicas,
        "config": dict(info.config),
    }


def readable(name: str, value: object) -> str:
    """A setting's value with its unit."""
    unit = _UNITS.get(name, Unit.NONE)
    if isinstance(value, int) and unit is Unit.BYTES:
        return exact_bytes(value)
    if isinstance(value, int) and unit is Unit.MS:
        return exact_ms(value)
    return str(value)


_UNITS = {declared.name: declared.setting.unit for declared in settings_of(TopicConfig)}


def _shown(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={readable(name, value)}" for name, value in settings.items())
