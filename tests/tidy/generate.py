"""Writes the parts of docs/ that the code knows better: `make docs`. test_docs.py compares.

docs/configuration.md and docs/cli.md are made whole; of docs/protocol.md what stands between the
markers `<!-- generated: NAME -->` and `<!-- end: NAME -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
import typer.main
from zmqmq_cli.exits import MEANINGS
from zmqmq_cli.main import COMMANDS, app
from zmqmq_cli.options import is_argument, usage_of, with_globals
from zmqmq_cli.tables import exact_bytes, exact_ms

from zmqmq import errors
from zmqmq.config.broker import SECTIONS
from zmqmq.config.load import environment_name
from zmqmq.model.limits import INTEGER_MAX
from zmqmq.model.setting import Declared, Unit, settings_of
from zmqmq.wire.apis import COMMON, PUSHED, REPLIES, REQUESTS
from zmqmq.wire.schema import MISSING, Schema

DOCS = Path(__file__).resolve().parents[2] / "docs"
MADE = "<!-- Made by tests/tidy/generate.py; `make docs` makes it again. -->"

CONFIGURATION_HEAD = f"""\
# Settings

{MADE}

A setting comes from four places, the later ones winning:

1. its default,
2. a TOML file: `zmqmq broker --config broker.toml`,
3. a variable `ZMQMQ_BROKER__SECTION__KEY`, as in `{environment_name("storage.checkpoint_ms")}=5s`,
4. a flag of `zmqmq broker`: `--data-dir`, `--bind`, `--advertise`, `--insecure`.

```toml
[broker]
data_dir = "/var/lib/zmqmq"

[storage]
checkpoint_ms = "5s"        # sizes and durations with a unit, or as a number of bytes or ms

[topics]                    # defaults for topics that are created without saying otherwise
retention_ms = "7d"
segment_bytes = "64MiB"
```

Sizes: `64KiB`, `64MiB`, `1GiB`, `1TiB`; `1kB`, `1MB`, `1GB`, `1TB` count in thousands. Durations:
`500ms`, `30s`, `10m`, `12h`, `7d`, `2w`. All problems of all sources are reported at once, each
with its file and line, variable or flag. `zmqmq config show --origin` prints every value and where
it came from. Settings marked *live* take effect without a restart when they are changed (of a
topic: with `zmqmq topics alter`).
"""

SECTION_TEXTS = {
    "broker": """\
Who this broker is, where its data lies and where it listens. A `bind` beyond loopback needs
`insecure = true`: nothing is encrypted yet.
""",
    "serving": """\
Limits towards clients. `credit_bytes` and `unflushed_bytes` may not be over `memory_bytes`, nor
`offsets_partitions` over `partitions_max`.
""",
    "storage": "How logs are kept on this broker's disk.\n",
    "topics": """\
Each topic has its own: `zmqmq topics create NAME -c KEY=VALUE`, `zmqmq topics alter NAME -c
KEY=VALUE`, `-c KEY=` to reset. In the broker's file they are the defaults for new topics. All
limits are for each partition. With `full = "refuse"`, `retention_bytes` may not be over
`capacity_bytes`.
""",
}

CLI_HEAD = f"""\
# The command line

{MADE}

Data goes to stdout, talk to stderr. `-O json` prints one object (with the number of its `schema`),
`-O jsonl` an object a line; in a pipe a table is plain columns. Colours stay away when `NO_COLOR`
is set, stdout is no terminal or `TERM` is `dumb`. Errors are two lines on stderr, or with JSON one
object `{{"error": {{"code", "message", "hint", "retriable"}}}}`.
"""


def configuration() -> str:
    """docs/configuration.md."""
    parts = [CONFIGURATION_HEAD]
    for section, options in SECTIONS.items():
        parts.append(f"## {section.capitalize()}: `[{section}]`\n\n{SECTION_TEXTS[section]}")
        rows = [_setting_row(declared) for declared in settings_of(options)]
        parts.append(_table(["setting", "default", "allowed", "live", "meaning"], rows))
    return "\n".join(parts)


def _setting_row(declared: Declared) -> list[str]:
    setting = declared.setting
    if declared.kind is bool:
        allowed = "`true`, `false`"
    elif setting.choices:
        allowed = ", ".join(f"`{word}`" for word in setting.choices)
    elif declared.kind is str:
        allowed = "text"
    else:
        least, most = (_amount(n, setting.unit) for n in (setting.minimum, setting.maximum))
        allowed = f"from {least}" if setting.maximum == INTEGER_MAX else f"{least} to {most}"
    default = declared.default
    if isinstance(default, bool):
        default = str(default).lower()
    elif isinstance(default, int):
        default = _amount(default, setting.unit)
    shown = f"`{default}`" if default != "" else "empty"
    return [f"`{declared.name}`", shown, allowed, "yes" if setting.live else "", setting.doc]


def _amount(value: int, unit: Unit) -> str:
    if unit is Unit.BYTES:
        return exact_bytes(value)
    return exact_ms(value) if unit is Unit.MS and value else str(value)


def root_command() -> Any:
    """`zmqmq` as click sees it."""
    root: Any = typer.main.get_command(app)
    return with_globals(root)


def command_line() -> str:
    """docs/cli.md."""
    root = root_command()
    parts = [CLI_HEAD]
    parts.append(
        "## Options of every command\n\nBefore or after the command, with the same meaning.\n"
    )
    shared = [param for param in root.params if param.name != "version"]
    parts.append(_table(["option", "meaning"], [_param_row(param) for param in shared]))
    everywhere = {name for param in shared for name in param.opts}
    for name in COMMANDS:
        command = root.get_command(None, name)
        parts += _command_parts(command, f"zmqmq {name}", everywhere, "##")
    parts.append("## Exit codes\n")
    parts.append(_table(["code", "meaning"], [[str(int(c)), m] for c, m in MEANINGS.items()]))
    return "\n".join(parts)


def _command_parts(command: Any, path: str, everywhere: set[str], level: str) -> Iterator[str]:
    yield f"{level} `{path}`\n"
    inner = getattr(command, "commands", None)
    if inner is not None:
        for name, child in inner.items():
            yield from _command_parts(child, f"{path} {name}", everywhere, level + "#")
        return
    params = [p for p in command.params if not everywhere & set(p.opts)]
    yield f"    {' '.join([path, *map(_usage, params)])}\n"
    yield _paragraphs(command.help or "") + "\n"
    if params:
        yield _table(["", "meaning"], [_param_row(p) for p in params])


def _usage(param: Any) -> str:
    if is_argument(param):
        return usage_of(param)
    flag = param.opts[0]
    return (
        f"[{flag}]" if param.is_flag else f"[{flag} {param.metavar}]" + "…" * bool(param.multiple)
    )


def _param_row(param: Any) -> list[str]:
    # In Markdown a backslash is an escape itself, but not between backquotes.
    meaning = re.sub(r"\\[\\\w]+", r"`\g<0>`", " ".join((param.help or "").split()))
    if is_argument(param):
        return [f"`{usage_of(param)}`", meaning]
    default = param.default
    if isinstance(default, str) and default:
        meaning += f" [default: {default}]"
    names = ", ".join(f"`{name}`" for name in param.opts)
    return [names if param.is_flag else f"{names} `{param.metavar}`", meaning]


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def protocol_fields() -> str:
    """The fields of every message."""
    parts = ["### Any request\n", _field_table(COMMON)]
    for api, schema in REQUESTS.items():
        parts.append(f"### {api.name} ({int(api)})\n")
        parts += (
            ["Request:\n", _field_table(schema)] if schema else ["The request has no fields.\n"]
        )
        reply = REPLIES[api]
        parts += ["Reply:\n", _field_table(reply)] if reply else ["The reply has no fields.\n"]
    for api, schema in PUSHED.items():
        parts += [f"### {api.name} ({int(api)})\n", "Pushed:\n", _field_table(schema)]
    return "\n".join(parts)


def _field_table(schema: Schema) -> str:
    rows = []
    for name, field in schema.items():
        if field.default is MISSING:
            default = "must be there"
        else:
            default = "may be absent" if field.default is None else f"`{_literal(field.default)}`"
        rows.append([f"`{name}`", field.kind, _bounds(field), default, field.unit, field.doc])
    return _table(["field", "type", "bounds", "default", "unit", "meaning"], rows)


def _bounds(field: Any) -> str:
    kinds = set(field.kind.split("|"))
    if not kinds & {"int", "str", "bin", "list"}:
        return ""
    what = (
        ""
        if "int" in kinds
        else {"bin": " bytes", "str": " characters"}.get(
            next(iter(sorted(kinds - {"nil"}))), " entries"
        )
    )
    if field.minimum == field.maximum:
        return f"{field.minimum}{what}"
    if field.maximum == INTEGER_MAX:
        return f"from {field.minimum}{what}" if field.minimum or not what else ""
    return f"{field.minimum} to {field.maximum}{what}"


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def protocol_errors() -> str:
    """Every error code: what it is called, whether to try again, and what it means to a caller."""
    rows = []
    for code in errors.Code:
        error = errors.refusal(code)
        known = "perhaps" if isinstance(error, errors.OutcomeUnknownError) else "no"
        rows.append(
            [
                str(int(code)),
                code.name,
                "yes" if errors.is_retriable(code) else "",
                known,
                f"`{type(error).__name__}`",
            ]
        )
    return _table(["code", "name", "retriable", "did it happen?", "class in Python"], rows)


GENERATED = {"fields": protocol_fields, "errors": protocol_errors}

PROTOCOL_SKELETON = "# The wire protocol\n\n" + "\n".join(
    f"## {name.capitalize()}\n\n<!-- generated: {name} -->\n<!-- end: {name} -->\n"
    for name in GENERATED
)


def protocol(text: str) -> str:
    """docs/protocol.md with its generated sections made again.

    Raises ValueError when the markers of one are missing.
    """
    for name, make in GENERATED.items():
        pattern = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end: {name} -->)", re.DOTALL)
        body = make().rstrip("\n")
        text, count = pattern.subn(lambda m, body=body: f"{m[1]}\n{body}\n\n{m[2]}", text)
        if count != 1:
            raise ValueError(
                f"docs/protocol.md has {count} sections between <!-- generated: {name} --> and "
                f"<!-- end: {name} -->; it must have one"
            )
    return text


def _table(columns: list[str], rows: list[list[str]]) -> str:
    # A column that says nothing in any row is noise.
    kept = [i for i in range(len(columns)) if i == 0 or any(row[i] for row in rows)]
    texts = [columns, ["---"] * len(columns), *rows]
    lines = ["| " + " | ".join(text[i].replace("|", "\\|") for i in kept) + " |" for text in texts]
    return "\n".join(lines) + "\n"


def made() -> Mapping[Path, str]:
    """What each file should be."""
    path = DOCS / "protocol.md"
    text = path.read_text() if path.exists() else PROTOCOL_SKELETON
    return {
        DOCS / "configuration.md": configuration(),
        DOCS / "cli.md": command_line(),
        path: protocol(text),
    }


def main() -> None:
    """Write what differs, and say so."""
    for path, text in made().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            sys.stderr.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
