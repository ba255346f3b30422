"""No, perhaps, or somewhere else: what a failure of etcd means, by its code and its words."""

from __future__ import annotations

import pytest

from zmqmq.core.meta.store import (
    CompactedError,
    LeaseGoneError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
)
from zmqmq.runtime.etcd.outcomes import Outcome, RefusalError, judge, translated
from zmqmq.runtime.etcd.version import UNKNOWN, Version, shortcomings, tells_progress, unfit

ELSEWHERE, LOGIN, REFUSED, PERHAPS = (
    Outcome.ELSEWHERE,
    Outcome.LOGIN,
    Outcome.REFUSED,
    Outcome.PERHAPS,
)


@pytest.mark.parametrize(
    ("code", "said", "read", "write"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses; last error: …", ELSEWHERE, ELSEWHERE),
        ("UNAVAILABLE", "Socket closed", ELSEWHERE, PERHAPS),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", ELSEWHERE, PERHAPS),
        ("CANCELLED", "", ELSEWHERE, PERHAPS),
        # Codes like etcd's, but from the way: a proxy may have passed the request on.
        ("INVALID_ARGUMENT", "what a proxy says", ELSEWHERE, PERHAPS),
        ("RESOURCE_EXHAUSTED", "Received message larger than max", ELSEWHERE, PERHAPS),
        ("UNAVAILABLE", "etcdserver: request timed out", ELSEWHERE, PERHAPS),
        ("UNAVAILABLE", "etcdserver: leader changed", ELSEWHERE, PERHAPS),
        ("UNKNOWN", "raft proposal dropped", ELSEWHERE, PERHAPS),
        ("UNAVAILABLE", "etcdserver: no leader", ELSEWHERE, ELSEWHERE),
        ("RESOURCE_EXHAUSTED", "etcdserver: too many requests", ELSEWHERE, ELSEWHERE),
        ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", REFUSED, PERHAPS),
        ("UNAUTHENTICATED", "etcdserver: invalid auth token", LOGIN, LOGIN),
        ("INVALID_ARGUMENT", "etcdserver: user name is empty", LOGIN, LOGIN),
        ("PERMISSION_DENIED", "etcdserver: permission denied", REFUSED, REFUSED),
        ("NOT_FOUND", "etcdserver: requested lease not found", REFUSED, REFUSED),
    ],
)
def test_what_a_failure_means(code: str, said: str, read: Outcome, write: Outcome) -> None:
    assert judge(code, said, is_write=False) is read
    assert judge(code, said, is_write=True) is write


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("mvcc: required revision has been compacted", CompactedError),
        ("mvcc: required revision is a future revision", ValueError),
        ("requested lease not found", LeaseGoneError),
        ("request is too large", TooLargeError),
        ("permission denied", UnauthorizedError),
        ("authentication failed, invalid user ID or password", UnauthorizedError),
        ("mvcc: database space exceeded", UnavailableError),
    ],
)
def test_a_refusal_in_the_words_of_the_contract(said: str, kind: type[Exception]) -> None:
    error = translated(RefusalError(f"host:1: etcdserver: {said}"), lease=7, revision=9)

    assert type(error) is kind
    assert getattr(error, "lease", 7) == 7
    assert getattr(error, "revision", 9) == 9


def test_versions() -> None:
    assert Version.parse("3.5.16-rc.1+git") == (3, 5, 16)
    assert Version.parse("dev") == UNKNOWN
    assert str(unfit(Version(3, 3, 27))) == "is 3.3.27; 3.4.0 or later is needed"
    assert unfit(Version(3, 4, 0)) is unfit(UNKNOWN) is None
    for version, is_fine in (
        ((3, 4, 41), False),
        ((3, 4, 42), True),
        ((3, 5, 27), False),
        ((3, 5, 28), True),
        ((3, 6, 8), False),
        ((3, 6, 9), True),
        ((3, 7, 0), True),
        (UNKNOWN, True),
    ):
        assert (not [*shortcomings(Version(*version))]) is is_fine, version
    assert [tells_progress(Version(3, minor, patch)) for minor, patch in ((4, 24), (5, 8))] == [
        False,
        True,
    ]
