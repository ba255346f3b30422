"""What a failed call to etcd means: no, or perhaps, or ask somebody else.

The one question that matters is whether a write may have been applied (etcd.md R2, R3). Whatever
is not known to be a no counts as perhaps. An error of etcd itself is known by how its text
begins; gRPC's own come from this side of the connection or from the way.
"""

from __future__ import annotations

import enum
from typing import Final

from zmqmq.core.meta.store import (
    CompactedError,
    LeaseGoneError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
)

_OF_ETCD: Final = "etcdserver: "
_LOGIN: Final = ("invalid auth token", "revision of auth store is old", "user name is empty")
"""Said before anything is applied; the last of them when a login was made while etcd had no
authentication."""
_NOT_BEGUN: Final = ("no leader", "too many requests")
"""Said before a write is proposed: the first because each call asks for a leader (`hasleader`)."""
_NO_SPACE: Final = "mvcc: database space exceeded"
"""Said before a write is proposed, and also *after* the one was applied that exceeded it: etcd's
quotaApplierV3 applies first and complains then."""
_NOT_SENT: Final = ("failed to connect to all addresses", "DNS resolution failed")
"""gRPC's words when there was no connection over which it could have sent anything."""
_DENIED: Final = (
    "permission denied",
    "authentication failed, invalid user ID or password",
    *_LOGIN,
)
_DEFINITE: Final = frozenset(
    {
        "ALREADY_EXISTS",
        "FAILED_PRECONDITION",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "OUT_OF_RANGE",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "UNAUTHENTICATED",
        "UNIMPLEMENTED",
    }
)
"""Codes with which etcd refuses. UNAVAILABLE, UNKNOWN and the like say that it does not know."""


class Outcome(enum.Enum):
    """What became of a call."""

    ELSEWHERE = enum.auto()
    """Nothing was applied; another member, or the same one later, may answer."""
    LOGIN = enum.auto()
    """Nothing was applied; the token is not known, or not any more."""
    REFUSED = enum.auto()
    """Nothing was applied, and asking again changes nothing."""
    PERHAPS = enum.auto()
    """It was applied, or will be, or never."""


class FailedError(Exception):
    """A call or a stream ended, and what that means. Never leaves this package."""

    def __init__(self, outcome: Outcome, said: str) -> None:
        super().__init__(said)
        self.outcome = outcome


class RefusalError(Exception):
    """etcd understood, and said no. Never leaves this package: see `translated`."""


def judge(code: str, details: str, *, is_write: bool) -> Outcome:
    """What a call that ended so may have done."""
    unknown = Outcome.PERHAPS if is_write else Outcome.ELSEWHERE
    if not details.startswith(_OF_ETCD):
        return Outcome.ELSEWHERE if details.startswith(_NOT_SENT) else unknown
    said = details.removeprefix(_OF_ETCD)
    if said in _LOGIN:
        return Outcome.LOGIN
    if said in _NOT_BEGUN:
        return Outcome.ELSEWHERE
    if said == _NO_SPACE and is_write:
        return Outcome.PERHAPS
    return Outcome.REFUSED if code in _DEFINITE else unknown


def is_denial(said: str) -> bool:
    """Whether etcd does not know who we are, or does and refuses."""
    return said.endswith(_DENIED)


def translated(refusal: RefusalError, *, lease: int = 0, revision: int = 0) -> Exception:
    """The refusal as the contract has it, for a request about this lease or revision."""
    said = str(refusal)
    if said.endswith("required revision has been compacted"):
        return CompactedError(revision)
    if said.endswith("required revision is a future revision"):
        return ValueError(f"revision {revision} is yet to come")
    if said.endswith("requested lease not found"):
        return LeaseGoneError(lease)
    if said.endswith("request is too large"):
        return TooLargeError(f"etcd refused: {said}")
    if is_denial(said):
        return UnauthorizedError(f"etcd refused: {said}")
    return UnavailableError(f"etcd refused: {said}")
