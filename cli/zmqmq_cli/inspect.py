"""`zmqmq inspect`: look into a data directory while no broker runs on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zmqmq_cli.exits import Exit
from zmqmq_cli.options import Command, Group
from zmqmq_cli.output import Output
from zmqmq_cli.session import output_of
from zmqmq_cli.tables import Size, Table, clock_time, plural

if TYPE_CHECKING:
    from zmqmq.runtime.offline_reader import Report

app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None)

Folder = Annotated[str, typer.Argument(metavar="DIR", help="The data directory of a broker.")]


@app.callback()
def root() -> None:
    """Read a data directory without a broker; verify, repair."""


@app.command(cls=Command)
def segment(
    ctx: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A segment: DIR/logs/LOG/OFFSET.log.")
    ],
) -> None:
    """List the batches of one segment file. Ends with 1 at the first that is not whole."""
    from zmqmq.runtime.offline_reader import describe_segment  # brings the broker

    path = _existing(file)
    bad: list[Mapping[str, Any]] = []

    def batches() -> Iterator[dict[str, Any]]:
        for batch in describe_segment(path):
            if "error" in batch:
                bad.append(batch)
            yield batch

    output = output_of(ctx)
    if output.form == "jsonl":
        output.show({}, [], batches())
    else:
        found = list(batches())
        output.show({"segment": str(path), "batches": found}, [_batch_table(found)])
    if bad:
        said = f"{path}: byte {bad[0]['position']}: {bad[0]['error']}"
        output.error(said, code="CORRUPT_DATA", hint="zmqmq inspect verify DIR judges it")
        raise typer.Exit(Exit.FAILURE)


@app.command(cls=Command)
def verify(ctx: typer.Context, folder: Folder) -> None:
    """Check every batch of every log; change nothing. Ends with 1 if one is damaged."""
    from zmqmq.runtime.offline_reader import verify_directory

    report = verify_directory(_existing(folder))
    output = output_of(ctx)
    _show(output, report)
    if not report.is_sound:
        _complain(output, report, "zmqmq inspect repair DIR says what a repair would give up")
        raise typer.Exit(Exit.FAILURE)


@app.command(cls=Command)
def repair(
    ctx: typer.Context,
    folder: Folder,
    *,
    apply: Annotated[
        bool, typer.Option("--apply", help="Do it; without this, only say what would be done.")
    ] = False,
) -> None:
    """Cut damaged logs where the damage begins, and keep what is cut in DIR/damaged.

    For the only copy of a log: where there are replicas, delete the copy and let it be fetched.
    """
    from zmqmq.runtime.offline_reader import repair_directory

    report = repair_directory(_existing(folder), apply=apply)
    output = output_of(ctx)
    _show(output, report)
    if report.is_sound:
        output.say("there is nothing to repair")
    elif apply:
        output.say("repaired; zmqmq inspect verify DIR checks it")
    else:
        _complain(output, report, "nothing is changed; --apply does it")
        raise typer.Exit(Exit.FAILURE)


def _existing(path: str) -> Path:
    found = Path(path)
    found.stat()  # says which file is missing, and ends with 3
    return found


def _complain(output: Output, report: Report, hint: str) -> None:
    damaged = sum(log.status == "damaged" for log in report.logs)
    output.error(
        f"{plural(damaged, 'log')} of {len(report.logs)} damaged", code="CORRUPT_DATA", hint=hint
    )


def _show(output: Output, report: Report) -> None:
    data = {**asdict(report), "is_sound": report.is_sound}
    output.show(data, _report_tables(report), data["logs"])


def _report_tables(report: Report) -> list[Table]:
    head = Table(["broker", "cluster", "last stop", "logs", "size"])
    size = Size(sum(log.bytes for log in report.logs))
    stop = "clean" if report.clean else "not clean"
    head.rows.append((report.broker, report.cluster, stop, len(report.logs), size))
    logs = Table(["topic", "partition", "state", "start", "end", "batches", "records", "size"])
    for log in sorted(report.logs, key=lambda log: (log.topic, log.partition)):
        where = (log.topic, log.partition, log.status, log.start, log.end)
        logs.rows.append((*where, log.batches, log.records, Size(log.bytes)))
    notes = [f"{log.folder}: {log.detail}" for log in report.logs if log.detail] + report.actions
    tables = [head, logs]
    if notes:
        tables.append(Table(["note"], [(note,) for note in notes]))
    return tables


def _batch_table(batches: list[dict[str, Any]]) -> Table:
    columns = ["position", "offset", "last", "records", "size", "appended", "packed"]
    table = Table([*columns, "producer", "sequence"])
    for batch in batches:
        if "error" in batch:
            table.rows.append((batch["position"], batch["error"], *[None] * 7))
            continue
        table.rows.append(
            (
                batch["position"],
                batch["offset"],
                batch["last_offset"],
                batch["records"],
                batch["bytes"],
                clock_time(batch["append_time_ms"]),
                batch["compression"],
                f"{batch['producer_id']}.{batch['producer_epoch']}",
                batch["sequence"],
            )
        )
    return table
