"""What one setting means and which values it may have, carried in the field's annotation."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from zmqmq.model.limits import INTEGER_MAX


class Unit(enum.Enum):
    """How a number may be written besides plainly: `64MiB`, `7d`."""

    NONE = ""
    BYTES = "bytes"
    MS = "ms"


@dataclass(frozen=True, slots=True)
class Setting:
    """The declaration of one setting, beside its type and default."""

    doc: str
    """One sentence; the documents and `zmqmq config show` print it."""
    minimum: int = 0
    maximum: int = INTEGER_MAX
    unit: Unit = Unit.NONE
    choices: tuple[str, ...] = ()
    """The allowed words of a `str` setting; empty: any."""
    live: bool = False
    """Whether a change takes effect without a restart."""


@dataclass(frozen=True, slots=True)
class Declared:
    """One setting as found in a dataclass."""

    name: str
    kind: type
    default: Any
    setting: Setting


def settings_of(options: type) -> Iterator[Declared]:
    """Every field of an options dataclass that carries a Setting, in order."""
    hints = get_type_hints(options, include_extras=True)
    for field in fields(options):
        hint = hints[field.name]
        if get_origin(hint) is not Annotated:
            continue
        kind, *extras = get_args(hint)
        for extra in extras:
            if isinstance(extra, Setting):
                default = None if field.default is MISSING else field.default
                yield Declared(field.name, kind, default, extra)


def out_of_bounds(declared: Declared, value: object) -> str | None:
    """What is wrong with a value, as the end of a sentence that names the setting, or None."""
    setting = declared.setting
    if type(value) is not declared.kind:
        return f"is {type(value).__name__} {value!r}; it must be {declared.kind.__name__}"
    if isinstance(value, str) and setting.choices and value not in setting.choices:
        return f"is {value!r}; allowed are {', '.join(setting.choices)}"
    if type(value) is int:
        if value < setting.minimum:
            return f"is {value}; the least is {setting.minimum}"
        if value > setting.maximum:
            return f"is {value}; the most is {setting.maximum}"
    return None
