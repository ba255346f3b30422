"""`zmqmq verify`: whether the replicas of partitions are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from zmqmq.errors import NotFoundError
from zmqmq_cli.cluster_tables import ids
from zmqmq_cli.exits import Exit
from zmqmq_cli.options import Command, Group
from zmqmq_cli.session import connected, output_of
from zmqmq_cli.tables import Size, Table, plural

if TYPE_CHECKING:
    from zmqmq import PartitionCheck
    from zmqmq_cli.output import Output

app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None)

UNREAD: Final = 2
"""Exit code: something could not be read. What is known to differ counts more."""


@app.callback()
def root() -> None:
    """Compare the replicas of partitions."""


@app.command(cls=Command)
def cluster(
    ctx: typer.Context,
    topics: Annotated[
        list[str] | None,
        typer.Argument(metavar="TOPIC", help="Only these; else all, internal ones too."),
    ] = None,
) -> None:
    """Read every replica of every partition from the broker that has it, and compare them.

    What is committed is compared byte for byte, batch by batch. Brokers compact by themselves, so
    on topics that are compacted, or were once, records are compared: one offset has one record
    everywhere, and who lacks it has something newer of its key. Ends with 0 if all are equal, with
    1 if two replicas differ, and with 2 if something could not be read.
    """
    output = output_of(ctx)
    checks: list[PartitionCheck] = []
    wanted: list[str | None] = [*topics] if topics else [None]
    for name in wanted:
        with connected(ctx, name) as client:
            if name is not None:
                found = [client.topics.describe(name)]
            else:
                found = client.topics.describe_all(internal=True)
            for topic in found:
                for p in topic.partitions:
                    output.progress(f"{topic.name}/{p.partition} ({len(checks)} done)")
                    try:
                        checks.append(client.cluster.verify(topic, p.partition))
                    except NotFoundError:
                        if name is not None:
                            raise
                        output.say(f"{topic.name}/{p.partition} was deleted meanwhile")
    lines = [_as_map(check) for check in checks]
    output.show({"partitions": lines}, [_table(checks), *_notes(checks)], lines)
    _conclude(output, checks)


def _conclude(output: Output, checks: list[PartitionCheck]) -> None:
    different = [c for c in checks if c.difference is not None]
    unread = [c for c in checks if c.unread]
    if different:
        output.error(
            "\n".join(map(_place_of, different)),
            code="CORRUPT_DATA",
            hint="stop the broker that stands alone, delete its copy of the partition, start it: "
            "it is filled from the others. zmqmq inspect segment FILE shows what is in one",
        )
        raise typer.Exit(Exit.FAILURE)
    if unread:
        output.error(
            f"{plural(len(unread), 'partition')} of {len(checks)} could not be compared whole",
            code="INCOMPLETE",
            hint="zmqmq cluster status says which brokers are missing",
        )
        raise typer.Exit(UNREAD)
    alone = sum(len(c.brokers) == 1 for c in checks)
    only = f"; of {alone} there is one copy, which was read" if alone else ""
    output.say(f"{plural(len(checks), 'partition')}: all replicas are equal{only}")


def _place_of(check: PartitionCheck) -> str:
    difference = check.difference
    assert difference is not None
    sides = " and ".join(f"broker {ids(group)}" for group in difference.groups)
    where = f"{check.topic}/{check.partition} differs at offset {difference.offset}"
    return f"{where} between {sides}: {difference.what}"


def _table(checks: list[PartitionCheck]) -> Table:
    table = Table(["topic", "partition", "brokers", "from", "to", "records", "size", "result"])
    for c in checks:
        where = (c.topic, c.partition, ids(c.brokers), c.start, c.compared_end)
        table.rows.append((*where, c.records, Size(c.bytes), _result(c)))
    return table


def _result(check: PartitionCheck) -> str:
    if check.difference is not None:
        return f"differs at {check.difference.offset}"
    if check.unread:
        return "incomplete"
    if len(check.brokers) == 1:
        return "one copy"
    return "equal" if check.by == "bytes" else "equal by record"


def _notes(checks: list[PartitionCheck]) -> list[Table]:
    table = Table(["topic", "partition", "note"])
    for c in checks:
        many = [note for note in c.notes if len(c.brokers) > 1]
        table.rows += [(c.topic, c.partition, note) for note in (*c.unread, *many)]
    return [table] if table.rows else []


def _as_map(check: PartitionCheck) -> dict[str, Any]:
    data = check._asdict()
    if check.difference is not None:
        data["difference"] = check.difference._asdict()
    return {**data, "result": _result(check), "is_equal": check.is_equal}
