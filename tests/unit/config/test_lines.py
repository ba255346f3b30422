"""On which line does a key stand? Compared with a writer that knows, because it wrote it there."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqmq.config.lines import key_lines

BARE = st.text("abcXYZ019_-", min_size=1, max_size=6)
ANY_TEXT = st.text(
    st.characters(min_codepoint=1, max_codepoint=0x24F, exclude_categories=["Cs", "Cc"]),
    max_size=8,
)
KEYS = BARE | ANY_TEXT
HOSTILE = ["", "#", "= 1", "[a]", "\n[b]\nc = 1\n", 'x""y', "''", "]", "}", ",", "\\", 'a\\"b']


@dataclass
class Writer:
    """Writes a document in styles drawn at random and notes where each key went."""

    draw: Any
    text: str = ""
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)

    def put(self, text: str) -> None:
        self.text += text

    def note(self, path: tuple[str, ...]) -> None:
        for end in range(1, len(path) + 1):
            self.lines.setdefault(path[:end], self.text.count("\n") + 1)

    def one_of(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def key(self, name: str) -> str:
        styles = [json.dumps(name, ensure_ascii=self.one_of(True, False))]
        if name and all(c in "abcXYZ019_-" for c in name):
            styles.append(name)
        if "'" not in name:
            styles.append(f"'{name}'")
        return self.one_of(*styles)

    def dotted(self, path: tuple[str, ...]) -> str:
        return self.one_of(".", " . ", ".\t").join(self.key(part) for part in path)

    def gap(self) -> None:
        self.put(self.one_of("", "", " ", "\n", "# a = 1\n", "  \n\n", "#'''\n"))

    def blank_in_array(self) -> None:
        self.put(self.one_of("", " ", "\n", " # ] not the end\n"))

    def string(self) -> str:
        value = self.draw(st.sampled_from(HOSTILE))
        styles = [json.dumps(value)]
        if "'" not in value and "\n" not in value:
            styles.append(f"'{value}'")
        if "'''" not in value and not value.endswith("'"):
            styles.append(f"'''{value}'''")
            styles.append(f"'''{value}'''''")
        escaped = value.replace("\\", "\\\\").replace('"""', '\\"""')
        if not escaped.endswith('"'):
            styles += [f'"""{escaped}"""', f'"""{escaped}"""""', f'"""\\\n  {escaped}"""']
        return self.one_of(*styles)

    def value(self, path: tuple[str, ...], depth: int) -> None:
        kinds = ["string", "scalar"] + ["array", "inline"] * (depth > 0)
        match self.one_of(*kinds):
            case "string":
                self.put(self.string())
            case "scalar":
                self.put(
                    self.one_of(
                        "1",
                        "0x1F",
                        "1_000.5",
                        "true",
                        "1979-05-27",
                        "1979-05-27 07:32:00",
                        "07:32:00",
                        "inf",
                    )
                )
            case "array":
                self.put("[")
                for _ in range(self.draw(st.integers(0, 3))):
                    self.blank_in_array()
                    self.value(path, depth - 1)
                    self.blank_in_array()
                    self.put(",")
                self.blank_in_array()
                self.put("]")
            case "inline":
                names = self.draw(st.lists(KEYS, unique=True, max_size=3))
                self.put("{")
                for index, name in enumerate(names):
                    self.put(", " if index else " ")
                    self.pair((*path, name), (name,), depth - 1)
                self.put("}")

    def pair(self, path: tuple[str, ...], written: tuple[str, ...], depth: int) -> None:
        self.note(path)
        self.put(self.dotted(written) + self.one_of(" = ", "=", "\t=  "))
        self.value(path, depth)


@st.composite
def documents(draw: Any) -> tuple[str, dict[tuple[str, ...], int]]:
    """A valid document and the line of each key."""
    writer = Writer(draw)
    for index, name in enumerate(draw(st.lists(KEYS, unique=True, max_size=4))):
        table: tuple[str, ...] = () if index == 0 and draw(st.booleans()) else (name,)
        if table and draw(st.booleans()):
            table = (name, draw(KEYS))
        writer.gap()
        if table:
            writer.put(writer.one_of("", " "))
            writer.note(table)
            double = draw(st.booleans())
            writer.put(f"{'[[' if double else '['} {writer.dotted(table)} ")
            writer.put(("]]" if double else "]") + writer.one_of("\n", " # [no]\n"))
        taken: set[str] = set()
        for key in draw(st.lists(KEYS, unique=True, max_size=3)):
            # At the top a key may not also be a later table; under a prefix it cannot be.
            own = ("=", key) if not table else (key,)
            if own[0] in taken and len(own) == 1:
                continue
            taken.add(own[0])
            writer.gap()
            long = (*own, draw(KEYS)) if draw(st.booleans()) else own
            writer.pair((*table, *long), long, depth=2)
            writer.put(writer.one_of("\n", " \n", " # c = '\n"))
    return writer.text, writer.lines


@given(documents(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_each_key_is_found_where_it_was_written(
    document: tuple[str, dict[tuple[str, ...], int]], windows: bool
) -> None:
    text, lines = document
    tomllib.loads(text)  # what the writer makes is TOML, else the test is worth nothing

    assert key_lines(text.replace("\n", "\r\n") if windows else text) == lines


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("[storage]\n\nsegment_bytes = 1", ("storage", "segment_bytes"), 3),
        ("\nstorage.segment_bytes = 1", ("storage", "segment_bytes"), 2),
        ("storage = {\tallocate_bytes = 1, checkpoint_ms = 2}", ("storage", "checkpoint_ms"), 1),
        ('a = """\n[no]\nb = 1\n"""\nc = 1', ("c",), 5),
        ("a = '''\nb = 1'''''\nc = 1", ("c",), 3),
        ('["qu\\u006fted"."a.b"]\n\n"c d" = 1', ("quoted", "a.b", "c d"), 3),
        ("a = [\n  1, # ]\n  [2],\n  {b = 3},\n]\nc = 1", ("c",), 6),
        ("a = [\n  1, # ]\n  [2],\n  {b = 3},\n]\nc = 1", ("a", "b"), 4),
        ("[[a]]\nb = 1\n[[a]]\nc = 1", ("a", "c"), 4),
    ],
)
def test_a_key_is_found(text: str, path: tuple[str, ...], line: int) -> None:
    assert key_lines(text)[path] == line


def test_the_first_place_counts() -> None:
    assert key_lines("[a]\nb = 1\n[a.c]\nd = 1\n")["a",] == 1
