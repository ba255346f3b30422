"""Rules about the source text that no linter knows.

Every ban says what to write instead. An exception is written on the line it excuses
(`tidy: why`), never in a list somewhere else.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ROOT = REPOSITORY / "zmqmq"
SOURCES = sorted([*ROOT.rglob("*.py"), *(REPOSITORY / "cli").rglob("*.py")])
PURE = ("model/", "batch/", "wire/", "core/", "client/machines/")
CONTRACTS = ("core/meta/store.py",)
"""What the runtime implements, with `async`; the core sees events and effects (DESIGN 2.3)."""
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

BANNED_IN_PURE = {
    r"\bhash\(": "zlib.crc32 or a key of ours: hash() of text differs from run to run",
    r"(?<![.\w])id\(": "an identifier of ours: id() is an address",
    r"\b(frozen)?set\[(str|bytes)": "dict[..., None]: such a set iterates differently each run",
    r": float\b|-> float\b": "integer milliseconds or nanoseconds, or an integer ratio",
    r"\basync def\b": "an event and its completion event",
}
BANNED_ANYWHERE = {
    r"(?<![.\w])print\(": "cli/zmqmq_cli/output.py in the command line, a logger elsewhere",
    r"#\s*(FIXME|XXX)\b": "the mended line, or an issue",
    r"\bTODO\b(?!\(#\d+\))": "TODO(#123), with the number of the issue",
}


def complaints_of_text(path: Path, text: str, banned: dict[str, str]) -> Iterator[str]:
    """Lines that use what is banned and do not say why they may."""
    code = code_lines(text)
    for number, line in enumerate(text.splitlines(), start=1):
        for pattern, instead in banned.items():
            comment_rule = pattern.startswith(("#", r"\bTODO"))
            subject = line if comment_rule else code.get(number, "")
            if re.search(pattern, subject) and "tidy:" not in line:
                yield f"{path}:{number}: {line.strip()!r}; write {instead}"


def code_lines(text: str) -> dict[int, str]:
    """The lines by number, with strings and comments blanked: words in prose are no calls."""
    lines = text.splitlines()
    blanked = [list(line.encode()) for line in lines]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            for row in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                line = blanked[row - 1]
                start = node.col_offset if row == node.lineno else 0
                end = node.end_col_offset if row == node.end_lineno else len(line)
                line[start:end] = b" " * ((end or 0) - start)
    return {
        number: bytes(line).decode(errors="replace").partition("#")[0]
        for number, line in enumerate(blanked, start=1)
    }


def long_functions(path: Path, text: str) -> Iterator[str]:
    """Functions whose code no longer fits on a screen; what a docstring explains is not counted."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                docstring = node.body[0]
                length -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
            if length > FUNCTION_LINES_MAX and "tidy:" not in lines[node.lineno - 1]:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines; which two are in it?"


def complaints_of(path: Path) -> list[str]:
    """Everything that is wrong with one file."""
    text = path.read_text()
    complaints = [*long_functions(path, text), *complaints_of_text(path, text, BANNED_ANYWHERE)]
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
    if name.startswith(PURE) and name not in CONTRACTS:
        complaints += complaints_of_text(path, text, BANNED_IN_PURE)
    length = text.count("\n")
    if length > FILE_LINES_MAX:
        complaints.append(f"{path}: {length} lines, over {FILE_LINES_MAX}: which two subjects?")
    return complaints


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_source_file(path: Path) -> None:
    complaints = complaints_of(path)

    assert not complaints, "\n".join(complaints)


def test_every_package_says_what_it_is() -> None:
    """An empty folder with a name is a promise that nobody keeps."""
    packages = {path.parent for path in SOURCES if path.name == "__init__.py"}
    for path in SOURCES:
        assert path.parent in packages, f"{path.parent} has no __init__.py"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("x = hash(key)", "zlib.crc32"),
        ("x = id(self)", "address"),
        ("x: set[str] = set()", "dict"),
        ("def f(x: float) -> None: ...", "integer"),
        ("async def f() -> None: ...", "completion"),
        ("print(1)", "output.py"),
        ("x = 1  # FIXME later", "mended"),
        ("x = 1  # TODO: later", "TODO(#123)"),
    ],
)
def test_the_rules_bite(line: str, complaint: str) -> None:
    (found,) = complaints_of_text(Path("x.py"), line + "\n", BANNED_IN_PURE | BANNED_ANYWHERE)

    assert complaint in found


@pytest.mark.parametrize(
    "line",
    [
        "x = topic.id(1)",
        '"""No async def and no hash(x) in here."""',
        "x = hash(key)  # tidy: within one process",
        "x = 1  # TODO(#12): later",
        'x = "print(1)"',
    ],
)
def test_the_rules_let_pass(line: str) -> None:
    assert not [*complaints_of_text(Path("x.py"), line + "\n", BANNED_IN_PURE | BANNED_ANYWHERE)]


def test_a_long_function_is_found() -> None:
    text = "def f() -> None:\n" + "    x = 1\n" * FUNCTION_LINES_MAX

    assert [*long_functions(Path("x.py"), text)]
    assert not [*long_functions(Path("x.py"), text[: text.rindex("    ")])]
