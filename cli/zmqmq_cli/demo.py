"""`zmqmq demo`: see it work."""

from __future__ import annotations

import typer

from zmqmq_cli.options import Command

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=Command)
def demo() -> int:
    """Start a broker, send it real lines, read them back, verify every one.

    Everything happens in a temporary directory on a free port, and is gone afterwards.
    """
    from zmqmq.demo import main  # brings the client and rich

    return main()
