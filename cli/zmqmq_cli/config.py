"""`zmqmq config`: what a broker started here would be set to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from zmqmq.model.setting import Unit
from zmqmq_cli.options import Command, Group
from zmqmq_cli.session import output_of
from zmqmq_cli.tables import Table, exact_bytes, exact_ms

app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None)


@app.callback()
def root() -> None:
    """Show the broker's settings and where they come from."""


@app.command(cls=Command)
def show(
    ctx: typer.Context,
    *,
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="FILE", help="Settings in TOML, as `broker` takes them."),
    ] = None,
    origin: Annotated[
        bool,
        typer.Option("--origin", help="Where each comes from: a line, a variable or the default."),
    ] = False,
) -> None:
    """Show every setting, as this file and ZMQMQ_BROKER__SECTION__KEY make it."""
    from zmqmq.config.load import DECLARED, load  # not needed for --help

    loaded = load(None if config is None else Path(config), os.environ, {})
    table = Table(["setting", "value", *(["origin"] if origin else [])])
    lines = []
    for name, value in loaded.config.settings().items():
        line: dict[str, object] = {"setting": name, "value": value}
        row = [name, _shown(value, DECLARED[name].setting.unit)]
        if origin:
            line["origin"] = loaded.origins[name]
            row.append(loaded.origins[name])
        lines.append(line)
        table.rows.append(row)
    output_of(ctx).show({"settings": lines}, [table], lines)


def _shown(value: object, unit: Unit) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and unit is Unit.BYTES:
        return exact_bytes(value)
    if isinstance(value, int) and unit is Unit.MS:
        return exact_ms(value)
    return str(value)
