"""Which versions of etcd will do (etcd.md 2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple, Self


class Version(NamedTuple):
    """As etcd says it, without what follows the numbers."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Whatever has no three numbers in it is `UNKNOWN`."""
        match = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
        return cls(*map(int, match.groups())) if match else cls(0, 0, 0)

    def __str__(self) -> str:
        return ".".join(map(str, self)) if self != UNKNOWN else "unknown"

    def has(self, *fixes: tuple[int, int, int]) -> bool:
        """Whether a bug that was mended in these versions, one of each line, is not in this one.

        Newer lines than those named never had it. One that does not tell is new."""
        for fix in fixes:
            if self[:2] == fix[:2]:
                return self >= fix
        return self == UNKNOWN or self > max(fixes)


UNKNOWN: Final = Version(0, 0, 0)
OLDEST: Final = Version(3, 4, 0)


def unfit(version: Version) -> str | None:
    """Why it cannot be used, as the rest of a sentence."""
    if version != UNKNOWN and version < OLDEST:
        return f"is {version}; {OLDEST} or later is needed"
    return None


def shortcomings(version: Version) -> Iterator[str]:
    """What its operators should know, as the rest of a sentence."""
    if not version.has((3, 4, 42), (3, 5, 28), (3, 6, 9)):
        yield (
            f"is {version}, which may answer with old data after a pause of its process; 3.4.42, "
            "3.5.28, 3.6.9 and what follows them do not"
        )


def tells_progress(version: Version) -> bool:
    """Whether what it says about a watch's progress is behind the events, not before them."""
    return version.has((3, 4, 25), (3, 5, 8))
