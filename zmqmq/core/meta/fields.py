"""The JSON under the values: fields taken out of an object one by one, each checked.

Apart from values.py, which says what the fields mean. Whatever is wrong is a CorruptDataError
that names the kind of document and the field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, NoReturn, TypeVar

from zmqmq.core.meta.keys import BROKER_ID_MAX
from zmqmq.errors import CorruptDataError
from zmqmq.model.limits import INTEGER_MAX

VERSION: Final = 1
REPLICAS_MAX: Final = 15
"""Replicas of one partition, those that come and go included."""
ENTRIES_MAX: Final = 1024
"""Entries of any array or map."""
TEXT_MAX: Final = 1024
"""Characters of any text."""

WordT = TypeVar("WordT", bound=str)


class Member(NamedTuple):
    """One incarnation of a broker; `[id, epoch]` in JSON."""

    broker_id: int
    broker_epoch: int


def encode_fields(extra: Mapping[str, object], **fields: object) -> bytes:
    """The object as compact JSON, sorted, so that equal documents have equal bytes."""
    assert not extra.keys() & (fields.keys() | {"v"}), "an unknown field has a known name"
    document = {"v": VERSION, **fields, **extra}
    text = json.dumps(document, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return text.encode("ascii")


class Fields:
    """The fields of one document, until `rest` takes what nobody asked for."""

    __slots__ = ("_fields", "_kind")

    def __init__(self, kind: str, data: bytes) -> None:
        self._kind = kind
        try:
            document = json.loads(
                data.decode("utf-8"),
                object_pairs_hook=_no_name_twice,
                parse_constant=_no_constant,
                parse_float=_finite,
            )
        except (ValueError, RecursionError) as error:
            raise CorruptDataError(f"{kind} document is not JSON: {error}") from None
        if type(document) is not dict:
            raise CorruptDataError(f"{kind} document is not a JSON object")
        self._fields: dict[str, object] = document
        version = self.number("v", minimum=1)
        if version != VERSION:
            self.refuse("v", f"is {version}; this zmqmq reads {VERSION}")

    def refuse(self, name: str, problem: str) -> NoReturn:
        """Raise the CorruptDataError for a field."""
        raise CorruptDataError(f"{self._kind} document: {name!r} {problem}")

    def rest(self) -> dict[str, object]:
        """The fields that were not asked for."""
        return self._fields

    def number(self, name: str, minimum: int = 0, maximum: int = INTEGER_MAX) -> int:
        return self._check_number(name, self._take(name), minimum, maximum)

    def optional_number(self, name: str, maximum: int = INTEGER_MAX) -> int | None:
        value = self._take(name)
        return None if value is None else self._check_number(name, value, 0, maximum)

    def text(self, name: str) -> str:
        return self._check_text(name, self._take(name))

    def optional_text(self, name: str) -> str | None:
        value = self._take(name)
        return None if value is None else self._check_text(name, value)

    def choice(self, name: str, words: Sequence[WordT]) -> WordT:
        value = self._take(name)
        found = [word for word in words if word == value]
        if not found:
            self.refuse(name, f"is {value!r}; it is one of {', '.join(words)}")
        return found[0]

    def flag(self, name: str) -> bool:
        value = self._take(name)
        if not isinstance(value, bool):
            self.refuse(name, f"is {value!r}; it is true or false")
        return value

    def hex_bytes(self, name: str, count: int) -> bytes:
        value = self.text(name)
        try:
            decoded = bytes.fromhex(value)
        except ValueError:
            decoded = b""
        # fromhex() forgives spaces and capitals; then the bytes would not encode to what was read.
        if len(decoded) != count or decoded.hex() != value:
            self.refuse(name, f"is {value!r}; it is {2 * count} lower-case hex digits")
        return decoded

    def text_map(self, name: str) -> dict[str, str]:
        return {key: self._check_text(name, value) for key, value in self._object(name).items()}

    def optional_number_map(self, name: str) -> dict[str, int | None]:
        return {
            key: None if value is None else self._check_number(name, value, 0, INTEGER_MAX)
            for key, value in self._object(name).items()
        }

    def settings(self, name: str) -> dict[str, int | str]:
        settings: dict[str, int | str] = {}
        for key, value in self._object(name).items():
            if type(value) is int:
                settings[key] = self._check_number(name, value, -INTEGER_MAX, INTEGER_MAX)
            else:
                settings[key] = self._check_text(name, value)
        return settings

    def broker_ids(self, name: str) -> tuple[int, ...]:
        """Different brokers, at most REPLICAS_MAX."""
        ids = [self._check_number(name, x, 0, BROKER_ID_MAX) for x in self._array(name)]
        self._check_brokers(name, ids)
        return tuple(ids)

    def members(self, name: str) -> tuple[Member, ...]:
        """Incarnations of different brokers, at most REPLICAS_MAX."""
        members = [self._check_member(name, value) for value in self._array(name)]
        self._check_brokers(name, [member.broker_id for member in members])
        return tuple(members)

    def optional_member(self, name: str) -> Member | None:
        value = self._take(name)
        return None if value is None else self._check_member(name, value)

    def _take(self, name: str) -> object:
        if name not in self._fields:
            self.refuse(name, "is missing")
        return self._fields.pop(name)

    def _array(self, name: str) -> list[object]:
        value = self._take(name)
        if not isinstance(value, list) or len(value) > ENTRIES_MAX:
            self.refuse(name, f"is no array of at most {ENTRIES_MAX} entries")
        return value

    def _object(self, name: str) -> dict[str, object]:
        value = self._take(name)
        if not isinstance(value, dict) or len(value) > ENTRIES_MAX:
            self.refuse(name, f"is no object of at most {ENTRIES_MAX} entries")
        return value

    def _check_number(self, name: str, value: object, minimum: int, maximum: int) -> int:
        # `type` and not isinstance, for true is an int in Python.
        if type(value) is not int or not minimum <= value <= maximum:
            self.refuse(name, f"has {value!r}; it holds integers from {minimum} to {maximum}")
        return value

    def _check_text(self, name: str, value: object) -> str:
        if not isinstance(value, str) or len(value) > TEXT_MAX:
            self.refuse(name, f"has no text of at most {TEXT_MAX} characters")
        return value

    def _check_member(self, name: str, value: object) -> Member:
        if not isinstance(value, list) or len(value) != 2:
            self.refuse(name, f"has {value!r}; it holds pairs of broker id and epoch")
        broker_id, broker_epoch = value
        return Member(
            self._check_number(name, broker_id, 0, BROKER_ID_MAX),
            self._check_number(name, broker_epoch, 0, INTEGER_MAX),
        )

    def _check_brokers(self, name: str, ids: list[int]) -> None:
        if len(ids) > REPLICAS_MAX or len(set(ids)) != len(ids):
            self.refuse(name, f"has {ids}; it holds at most {REPLICAS_MAX} different brokers")


def _no_name_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("an object has a name twice")
    return document


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number")


def _finite(text: str) -> float:  # tidy: only unknown fields have such, and are kept
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large for a number")
    return number
