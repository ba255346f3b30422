"""The documents say what the code does: made again, they must be the same."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from zmqmq_cli.main import COMMANDS

from tests.tidy import generate
from zmqmq.config.load import DECLARED
from zmqmq.errors import Code
from zmqmq.model.setting import settings_of
from zmqmq.wire.apis import REPLIES, REQUESTS, Api

FILES = [generate.DOCS / name for name in ("configuration.md", "cli.md", "protocol.md")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_document_is_as_generated(path: Path) -> None:
    expected = generate.made()[path]

    assert path.exists(), f"{path} is missing; `make docs` makes it"
    if path.read_text() != expected:
        pytest.fail(f"{path} is not what the code says; `make docs` makes it again")


def test_every_command_is_described_as_its_module_describes_it() -> None:
    """The root lists the commands without loading them, so it says twice what they are for."""
    root = generate.root_command()
    for name, (_, summary) in COMMANDS.items():
        help_text = " ".join((root.get_command(None, name).help or "").split())
        assert help_text, f"zmqmq {name} has no docstring"
        assert summary.endswith("."), name


def test_a_protocol_without_markers_is_refused() -> None:
    text = generate.protocol(generate.PROTOCOL_SKELETON)

    assert generate.protocol(text) == text
    with pytest.raises(ValueError, match="<!-- generated: errors -->"):
        generate.protocol(text.replace("<!-- end: errors -->", ""))


def test_nothing_is_left_out() -> None:
    configuration, fields, errors = (
        generate.configuration(),
        generate.protocol_fields(),
        generate.protocol_errors(),
    )
    for name in DECLARED:
        assert f"`{name.partition('.')[2]}`" in configuration
    for api in Api:
        assert f"### {api.name} ({int(api)})" in fields
    for schema in (*REQUESTS.values(), *REPLIES.values()):
        for name in schema:
            assert f"| `{name}` |" in fields
    for code in Code:
        assert f"| {int(code)} | {code.name} |" in errors


def test_help_of_each_command_names_its_options() -> None:
    text = generate.command_line()
    for word in ("--key-delimiter", "--if-not-exists", "--servers", "--insecure", "--apply"):
        assert f"`{word}`" in text
    assert sys.modules.get("zmqmq_cli.produce") is not None
    assert re.search(r"^## `zmqmq produce`$", text, re.MULTILINE)
    assert list(settings_of(generate.SECTIONS["topics"]))
