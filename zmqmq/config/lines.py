"""On which line of a TOML text each key stands.

tomllib tells no positions, and an error without a line is half an error. This reads just enough
of the grammar to find the keys. It is given only texts that tomllib has accepted, so it checks
nothing; on another text its answer is worthless, and it may raise.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

Path = tuple[str, ...]

_PART = r"""(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_-]+)"""
_KEY: Final = re.compile(rf"[ \t]*{_PART}(?:[ \t]*\.[ \t]*{_PART})*[ \t]*")
_BLANK: Final = re.compile(r"(?:\s|#[^\n]*)*")
_BLANK_OR_COMMA: Final = re.compile(r"(?:[\s,]|#[^\n]*)*")
_STRINGS: Final = (
    # The long ones first: `\"""` also begins with the quote of the short one. Up to two quotes
    # may stand before the three that end it.
    re.compile(r'"""(?:\\.|[^\\])*?"""(?:""?(?!"))?', re.DOTALL),
    re.compile(r"'''.*?'''(?:''?(?!'))?", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)
_SCALAR: Final = re.compile(r"[^,\]}#\n]*")


def key_lines(text: str) -> dict[Path, int]:
    """The line, from 1, where each table and key is named first."""
    return _Scanner(text).document()


class _Scanner:
    """One pass over one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0
        self._lines: dict[Path, int] = {}

    def document(self) -> dict[Path, int]:
        table: Path = ()
        while True:
            self._skip(_BLANK)
            if self._at == len(self._text):
                return self._lines
            brackets = 2 if self._text.startswith("[[", self._at) else 1
            if self._text[self._at] == "[":
                self._at += brackets
                table = self._key(())
                self._at += brackets
            else:
                self._pair(table)

    def _pair(self, table: Path) -> None:
        path = self._key(table)
        self._at += 1  # the `=`
        self._skip(_BLANK)
        self._value(path)

    def _key(self, table: Path) -> Path:
        line = self._line_here()
        path = table
        inner: Any = tomllib.loads(self._skip(_KEY) + "=0")
        while isinstance(inner, dict):
            ((part, inner),) = inner.items()
            path = (*path, part)
            self._lines.setdefault(path, line)
        return path

    def _value(self, path: Path) -> None:
        opening = self._text[self._at]
        if opening in "[{":
            self._at += 1
            closing = "]" if opening == "[" else "}"
            while not self._ends(closing):
                if opening == "[":
                    self._value(path)
                else:
                    self._pair(path)
        elif opening in "\"'":
            for pattern in _STRINGS:
                if pattern.match(self._text, self._at):
                    self._skip(pattern)
                    return
        else:
            self._skip(_SCALAR)

    def _ends(self, closing: str) -> bool:
        self._skip(_BLANK_OR_COMMA)
        if self._text[self._at] != closing:
            return False
        self._at += 1
        return True

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        assert match is not None, f"not the TOML that tomllib accepted, at {self._at}"
        self._at = match.end()
        return match[0]

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line
