"""What a header field may hold, declared once for the decoder and for docs/protocol.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from zmqmq.errors import Code, WireError, refusal
from zmqmq.model.limits import INTEGER_MAX

MISSING: Final = object()
"""The default of a field that must be there."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a header map."""

    kind: str
    """`int`, `str`, `bin`, `bool`, `map`, `list`, or several with `|`; `nil` allows absence."""
    doc: str
    default: object = MISSING
    minimum: int = 0
    maximum: int = INTEGER_MAX
    """For an int its bounds; for str, bin and list those of the length."""
    unit: str = ""


Schema = Mapping[str, Field]

_TYPES: dict[str, type] = {
    "int": int,
    "str": str,
    "bin": bytes,
    "bool": bool,
    "map": dict,
    "list": list,
    "nil": type(None),
}
_KINDS = {kind: name for name, kind in _TYPES.items()}


def reader(schema: Schema) -> Callable[[Mapping[Any, Any]], list[Any]]:
    """A function that takes a header map and returns the schema's values in their order.

    It raises refusal(MALFORMED) naming the first field that is missing, of a wrong type or out of
    bounds. Fields that the schema does not know are ignored, so that newer peers may send them.
    JavaScript has no integers, so a float without a fraction is taken as one.
    """
    plan = [
        (name, tuple(_TYPES[k] for k in field.kind.split("|")), field)
        for name, field in schema.items()
    ]

    def read(fields: Mapping[Any, Any]) -> list[Any]:
        values = []
        for name, types, field in plan:
            value = fields.get(name, MISSING)
            kind = type(value)
            if value is MISSING:
                if field.default is MISSING:
                    raise malformed(f"field {name!r} is missing")
                values.append(field.default)
                continue
            if kind is float and int in types and value.is_integer():
                value, kind = int(value), int
            if kind not in types:
                found = _KINDS.get(kind, kind.__name__)
                raise malformed(f"field {name!r} is {found}, not {field.kind}")
            if kind is int:
                if not field.minimum <= value <= field.maximum:
                    raise malformed(
                        f"field {name!r} is {value}, outside {field.minimum} to {field.maximum}"
                    )
            elif kind in (str, bytes, list) and not field.minimum <= len(value) <= field.maximum:
                raise malformed(
                    f"field {name!r} has length {len(value)}, "
                    f"outside {field.minimum} to {field.maximum}"
                )
            values.append(value)
        return values

    return read


def malformed(detail: str) -> WireError:
    """The refusal of a request that does not have the shape of its API."""
    return refusal(Code.MALFORMED, detail)


def row(name: str, entry: object, *types: type) -> list[Any]:
    """An entry of a list field that must be an array of these types, of this length or longer.

    Longer ones come from newer peers. Integers must be within 0 to 2^53-1; floats without a
    fraction are taken for them, as in fields.
    """
    if type(entry) is not list or len(entry) < len(types):
        raise malformed(f"an entry of {name!r} is not an array of {len(types)} values")
    for at, kind in enumerate(types):
        value: Any = entry[at]
        if kind is int and type(value) is float:
            value = entry[at] = whole(value)
        if type(value) is not kind:
            raise malformed(
                f"an entry of {name!r} has {value!r} where {_KINDS[kind]} belongs (value {at + 1})"
            )
        if kind is int and not 0 <= entry[at] <= INTEGER_MAX:
            raise malformed(f"an entry of {name!r} has {value}, outside 0 to {INTEGER_MAX}")
    return entry


def whole(value: object) -> Any:  # noqa: ANN401 - anything that a peer may send
    """The integer of a float without a fraction; anything else as it is."""
    return int(value) if type(value) is float and value.is_integer() else value
