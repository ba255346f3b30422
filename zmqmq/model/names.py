"""Which names topics, groups and broadcast consumers may have (docs/protocol.md, "Names")."""

from __future__ import annotations

import re

from zmqmq.errors import InvalidNameError
from zmqmq.model.limits import BROADCAST_NAME_MAX, GROUP_NAME_MAX, TOPIC_NAME_MAX

_NAME = re.compile(r"[A-Za-z0-9._-]+\Z")
INTERNAL_PREFIX = "__"
OFFSETS_TOPIC = "__offsets"


def check_topic_name(name: str, *, internal: bool = False) -> str:
    """Return the name, or raise InvalidNameError. Names with `__` in front are the broker's own."""
    _check("topic", name, TOPIC_NAME_MAX)
    if name.startswith(INTERNAL_PREFIX) and not internal:
        raise InvalidNameError(f"topic {name!r}: names that begin with '__' are internal")
    return name


def check_group_name(name: str) -> str:
    """Return the name, or raise InvalidNameError."""
    return _check("group", name, GROUP_NAME_MAX)


def check_broadcast_name(name: str) -> str:
    """Return the name, which becomes one of a file, or raise InvalidNameError."""
    return _check("broadcast consumer", name, BROADCAST_NAME_MAX)


def _check(kind: str, name: str, longest: int) -> str:
    if not name or len(name) > longest:
        raise InvalidNameError(
            f"{kind} name has {len(name)} characters; allowed are 1 to {longest}"
        )
    if not _NAME.match(name) or name in {".", ".."}:
        raise InvalidNameError(
            f"{kind} name {name!r} has a forbidden character; allowed are A-Z a-z 0-9 . _ -"
        )
    return name
