"""Tables on a terminal, drawn by rich; a module of its own, so that only they pay for rich."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from zmqmq_cli.tables import Table, cell, right_aligned


def draw(tables: list[Table]) -> None:
    """Print the tables, with a blank line between two. NO_COLOR and TERM=dumb are rich's work."""
    console = Console(highlight=False)
    for index, table in enumerate(tables):
        if index:
            console.print()
        if table.title:
            console.print(Text(table.title, style="bold"))
        drawn = RichTable(box=None, pad_edge=False, header_style="bold cyan")
        for column, right in zip(table.columns, right_aligned(table), strict=True):
            drawn.add_column(column, justify="right" if right else "left", overflow="fold")
        for row in table.rows:
            # As Text: a topic may be called "[red]", and markup would swallow it.
            drawn.add_row(*(Text(cell(value)) for value in row))
        console.print(drawn)
