"""The one place that prints.

Data goes to stdout, as a table, JSON or JSON lines; talk goes to stderr, where a pipe does not
see it. A table on a terminal is drawn by rich, which is imported for nothing else; into a pipe it
is plain columns, never cut.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Any, BinaryIO, Final

from zmqmq_cli.tables import Table, plain

SCHEMA: Final = 1
"""Of the JSON that is printed. It grows when a field goes away or changes its meaning."""

_DRAW_SECONDS: Final = 0.2


class Output:
    """How this invocation prints."""

    def __init__(self, form: str = "table", *, quiet: bool = False) -> None:
        self.form = form
        self.quiet = quiet
        self._progress_shown = 0
        self._progress_due = 0.0
        self._is_watched = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def stdout(self) -> BinaryIO:
        """For bytes that must arrive as they are."""
        return sys.stdout.buffer

    def show(
        self,
        data: Mapping[str, Any],
        tables: Iterable[Table],
        lines: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        """Print one result: `data` as JSON, `lines` (else `data`) as JSON lines, or the tables."""
        self._clear_progress()
        if self.form == "json":
            self._write(json.dumps({"schema": SCHEMA, **data}, indent=2, ensure_ascii=False))
        elif self.form == "jsonl":
            for line in [data] if lines is None else lines:
                self._write(json.dumps(line, ensure_ascii=False))
        else:
            self._tables(list(tables))
        self.stdout.flush()

    def text(self, text: str) -> None:
        """A line of plain data."""
        self._write(text)
        self.stdout.flush()

    def say(self, text: str) -> None:
        """A word to the person at the terminal, which --quiet takes away."""
        if not self.quiet:
            self._talk(text)

    def error(self, message: str, *, code: str, hint: str = "", retriable: bool = False) -> None:
        """What went wrong; one JSON object when JSON was asked for."""
        if self.form == "table":
            self._talk(f"{_red('error:')} {_wrapped(message, 'error: ')}")
            if hint:
                self._talk(f"{_dim('hint:')} {_wrapped(hint, 'hint: ')}")
            return
        body = {"code": code, "message": message, "hint": hint, "retriable": retriable}
        self._talk(json.dumps({"error": body}, ensure_ascii=False))

    def ask(self, question: str) -> str | None:
        """What the person at the terminal answers; None when there is none."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return None
        sys.stderr.write(f"{question}: ")
        sys.stderr.flush()
        return sys.stdin.readline().strip()

    def progress(self, text: str) -> None:
        """Show how far we are, in place of what was shown before; too soon after it, nothing."""
        if not self._is_watched or monotonic() < self._progress_due:
            return
        self._progress_due = monotonic() + _DRAW_SECONDS
        sys.stderr.write("\r" + text.ljust(self._progress_shown))
        sys.stderr.flush()
        self._progress_shown = len(text)

    def _write(self, text: str) -> None:
        # Not through the text layer: its encoding is the locale's, JSON is UTF-8 everywhere.
        self.stdout.write(text.encode(errors="surrogateescape") + b"\n")

    def _talk(self, text: str) -> None:
        self._clear_progress()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def _clear_progress(self) -> None:
        if self._progress_shown:
            sys.stderr.write("\r" + " " * self._progress_shown + "\r")
            sys.stderr.flush()
            self._progress_shown = 0

    def _tables(self, tables: list[Table]) -> None:
        if not sys.stdout.isatty():
            for index, table in enumerate(tables):
                self._write("\n" * bool(index) + "\n".join(plain(table)))
            return
        from zmqmq_cli.pretty import draw  # rich is slow to import

        sys.stdout.flush()
        draw(tables)


def _wrapped(text: str, label: str) -> str:
    """The text behind a label, broken between words where a terminal would break them."""
    if not sys.stderr.isatty():
        return text
    width = max(shutil.get_terminal_size().columns, 40)
    return "\n".join(
        textwrap.fill(
            line,
            width,
            initial_indent=" " * len(label),
            subsequent_indent=" " * len(label),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.splitlines()
    ).lstrip()


def _red(text: str) -> str:
    return f"\x1b[1;31m{text}\x1b[0m" if _colours() else text


def _dim(text: str) -> str:
    return f"\x1b[2m{text}\x1b[0m" if _colours() else text


def _colours() -> bool:
    return (
        sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )
