"""Is every line there, as it was, however the reads fall?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqmq_cli.lines import InputError, lines_of

from zmqmq.model.limits import BATCH_BYTES_MAX


class Pieces:
    """A stream whose reads bring these pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    def read1(self, size: int, /) -> bytes:
        assert size > 0
        return self._pieces.pop(0) if self._pieces else b""


def all_lines(pieces: list[bytes]) -> list[bytes]:
    return [line for lines in lines_of(Pieces(pieces), "f") for line in lines]


@given(st.lists(st.lists(st.sampled_from([b"a", b"\n", b"\r\n", b"\0", b"\xff"])).map(b"".join)))
def test_lines_do_not_depend_on_the_reads(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    expected = whole.split(b"\n")
    if not expected[-1]:
        expected.pop()  # behind the last newline is no line

    assert all_lines(pieces) == expected


def test_empty_lines_are_lines_and_the_last_needs_no_newline() -> None:
    assert all_lines([b"a\n\n\nb"]) == [b"a", b"", b"", b"b"]
    assert all_lines([]) == []


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    endless = Pieces([b"x\ny\n", *[b"z" * 65_536] * 1000])

    with pytest.raises(InputError, match=rf"f:3: the line is longer than {BATCH_BYTES_MAX}"):
        list(lines_of(endless, "f"))
    assert len(endless._pieces) > 900
