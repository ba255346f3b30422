"""`zmqmq ping`: whether a broker serves, for health checks and for people."""

from __future__ import annotations

import typer

from zmqmq_cli.options import Command
from zmqmq_cli.session import connected, output_of
from zmqmq_cli.tables import Table

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=Command)
def ping(ctx: typer.Context) -> None:
    """Ask a broker whether it serves.

    Ends with 0 when one of the servers opens a session and answers, and with 6 or 7 when none does
    within the time of --timeout. Prints how long the answer took.
    """
    with connected(ctx) as client:
        ms = round(client.ping() * 1_000, 3)
    output_of(ctx).show({"ms": ms}, [Table(["ms"], [(ms,)])])
