"""From a file, the environment and flags to a BrokerConfig, with the origin of each setting.

Later sources win: defaults, the TOML file, `ZMQMQ_BROKER__SECTION__KEY`, flags. Whatever is wrong
is said at once, a line for each problem, with its origin in front, so that nobody has to start a
broker five times to find five mistakes.
"""

from __future__ import annotations

import difflib
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from zmqmq.config.broker import SECTIONS, BrokerConfig, contradictions
from zmqmq.config.lines import key_lines
from zmqmq.errors import ConfigError
from zmqmq.model.setting import Declared, Unit, out_of_bounds, settings_of
from zmqmq.model.units import parse_bytes, parse_ms

FLAGS: Final = {"broker.id": "--node-id", "broker.metadata": "--etcd"}
"""Of settings whose flags are named otherwise."""
ENVIRONMENT_PREFIX: Final = "ZMQMQ_BROKER__"
DEFAULT: Final = "default"
"""The origin of what nobody set."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_POSITION = re.compile(r"(.*) \(at line (\d+), column (\d+)\)\Z")
_LINE = re.compile(r".*?:(\d+): ")
_END = re.compile(r"(.*) \(at end of document\)\Z")

DECLARED: Final[Mapping[str, Declared]] = {
    f"{section}.{declared.name}": declared
    for section, options in SECTIONS.items()
    for declared in settings_of(options)
}
"""Every setting by its full name."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and where each of its values came from."""

    config: BrokerConfig
    origins: Mapping[str, str]
    """Full name of each setting to `default`, `broker.toml:14`, a variable or a flag."""


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as somebody wrote it."""

    name: str
    raw: object
    origin: str
    is_text: bool
    """From the environment or a flag, where everything is text."""
    folder: Path
    """Where a relative path starts."""


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> Loaded:
    """The configuration that these sources make; `flags` has full names as its keys.

    Raises ConfigError with one line for each problem.
    """
    problems: list[str] = []
    values: dict[str, Any] = {name: declared.default for name, declared in DECLARED.items()}
    origins = dict.fromkeys(DECLARED, DEFAULT)
    for given in _all_given(file, environ, flags, problems):
        value, wrong = _understand(given)
        if wrong:
            problems.append(f"{given.origin}: {wrong}")
        else:
            values[given.name] = value
            origins[given.name] = given.origin
    values["broker.data_dir"] = values["broker.data_dir"] or default_data_dir(environ)
    sections = {
        section: options(
            **{d.name: values[f"{section}.{d.name}"] for d in settings_of(options)},
        )
        for section, options in SECTIONS.items()
    }
    for names, said in contradictions(sections):
        # The name that somebody set is the one to mend, whichever the sentence begins with.
        origin = next((origins[n] for n in names if origins[n] != DEFAULT), DEFAULT)
        problems.append(f"{origin}: {names[0]} {said}")
    if problems:
        raise ConfigError("\n".join(sorted(problems, key=_line_of)))
    return Loaded(BrokerConfig(**sections), origins)


def default_data_dir(environ: Mapping[str, str]) -> str:
    """Where the data of a user's own broker lies."""
    base = environ.get("XDG_DATA_HOME", "")
    # The XDG specification says to ignore one that is not absolute.
    parent = Path(base) if base.startswith("/") else _home(environ) / ".local" / "share"
    return str(parent / "zmqmq")


def _home(environ: Mapping[str, str]) -> Path:
    home = environ.get("HOME")
    return Path(home) if home else Path.home()


def _all_given(
    file: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    problems: list[str],
) -> Iterator[_Given]:
    """Every value that anybody set, the weakest source first."""
    if file is not None:
        yield from _from_file(file, problems)
    here = Path.cwd()
    for variable, text in sorted(environ.items()):
        if variable.startswith(ENVIRONMENT_PREFIX):
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            if name in DECLARED:
                yield _Given(name, text, variable, is_text=True, folder=here)
            else:
                near = _nearest(name)
                hint = f"; did you mean {environment_name(near)}?" if near else ""
                problems.append(f"{variable}: there is no such setting{hint}")
    for name, text in flags.items():
        origin = FLAGS.get(name, "--" + name.partition(".")[2].replace("_", "-"))
        yield _Given(name, text, origin, is_text=True, folder=here)


def environment_name(name: str) -> str:
    """The variable that sets a setting."""
    return ENVIRONMENT_PREFIX + name.replace(".", "__").upper()


def _from_file(file: Path, problems: list[str]) -> Iterator[_Given]:
    try:
        text = file.read_bytes().decode()
    except OSError as error:
        problems.append(f"{file}: {(error.strerror or str(error)).lower()}")
        return
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problems.append(f"{file}:{line}: is not UTF-8, which TOML must be")
        return
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.append(_syntax_problem(file, text, str(error)))
        return
    lines = key_lines(text)
    for section, table in tables.items():
        origin = f"{file}:{lines[section,]}"
        if section in SECTIONS and isinstance(table, dict):
            for key, raw in table.items():
                name, origin = f"{section}.{key}", f"{file}:{lines[section, key]}"
                if name in DECLARED:
                    yield _Given(name, raw, origin, is_text=False, folder=file.parent.absolute())
                else:
                    problems.append(f"{origin}: {_unknown(name)}")
        elif section in SECTIONS:
            problems.append(f"{origin}: {section} must be a table, as in [{section}]")
        elif isinstance(table, dict):
            near = difflib.get_close_matches(section, SECTIONS, n=1)
            hint = f"did you mean [{near[0]}]?" if near else f"there are {', '.join(SECTIONS)}"
            problems.append(f"{origin}: section [{section}] is unknown; {hint}")
        else:
            problems.append(f"{origin}: {_unknown(section)}")


def _syntax_problem(file: Path, text: str, said: str) -> str:
    match = _POSITION.match(said)
    if match:
        return f"{file}:{match[2]}: {_lower(match[1])}, at column {match[3]}"
    match = _END.match(said)
    return f"{file}:{len(text.splitlines())}: {_lower(match[1] if match else said)}"


def _line_of(problem: str) -> int:
    """To sort by: those of the file first, from its top, the others as they were found."""
    match = _LINE.match(problem)
    return int(match[1]) if match else sys.maxsize


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _unknown(name: str) -> str:
    near = _nearest(name)
    return f"{name} is unknown" + (f"; did you mean {near}?" if near else "")


def _nearest(name: str) -> str | None:
    """The known setting that is probably meant: here misspelt, or right in another section."""
    section, _, key = name.rpartition(".")
    own = [known for known in DECLARED if known.startswith(f"{section}.")]
    for candidates in (own, DECLARED):
        keys = {known.partition(".")[2]: known for known in candidates}
        near = difflib.get_close_matches(key, keys, n=1, cutoff=0.7)
        if near:
            return keys[near[0]]
    return None


def _understand(given: _Given) -> tuple[object, str | None]:
    """The value that is meant, and what is wrong with it."""
    declared = DECLARED[given.name]
    value = given.raw
    try:
        if declared.kind is int and isinstance(value, str):
            value = _number(declared, given)
        elif declared.kind is bool and given.is_text:
            value = _truth(given)
    except ConfigError as error:
        return None, f"{given.name}: {error}"
    wrong = out_of_bounds(declared, value)
    if wrong:
        return None, f"{given.name} {wrong}"
    if given.name == "broker.data_dir" and isinstance(value, str) and value:
        try:
            value = str(given.folder / Path(value).expanduser())
        except RuntimeError as error:
            return None, f"{given.name} is {value!r}: {_lower(str(error))}"
    return value, None


def _number(declared: Declared, given: _Given) -> object:
    """Text as a number; what is not text's business here is left for `out_of_bounds` to refuse."""
    text = str(given.raw)
    if declared.setting.unit is Unit.BYTES:
        return parse_bytes(text)
    if declared.setting.unit is Unit.MS:
        return parse_ms(text)
    if not given.is_text:
        return given.raw
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not a whole number") from None


def _truth(given: _Given) -> bool:
    word = str(given.raw).strip().lower()
    if word not in _TRUE | _FALSE:
        raise ConfigError(f"{given.raw!r} is neither true nor false")
    return word in _TRUE
