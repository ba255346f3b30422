"""What does each letter of `consume -f` print?"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmqmq_cli.formats import LETTERS, parse_format, unescape

from zmqmq.errors import ConfigError
from zmqmq.model.message import Headers

EVERY_BYTE = bytes(range(256))


@dataclass
class Batch:
    """Two records of one partition."""

    topic: str = "orders"
    partition: int = 3
    offsets: list[int] = field(default_factory=lambda: [7, 9])
    keys: list[bytes | None] = field(default_factory=lambda: [b"k", None])
    values: list[bytes | None] = field(default_factory=lambda: [EVERY_BYTE, None])
    headers: list[Headers] = field(default_factory=lambda: [(("a", b"1"), ("b", b"\xff")), ()])
    timestamps_ms: list[int] = field(default_factory=lambda: [1700, 1800])

    def __len__(self) -> int:
        return 2


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("%t", b"orders", b"orders"),
        ("%p", b"3", b"3"),
        ("%o", b"7", b"9"),
        ("%k", b"k", b""),
        ("%v", EVERY_BYTE, b""),
        ("%h", b"a=1,b=\xff", b""),
        ("%d", b"1700", b"1800"),
        ("%%", b"%", b"%"),
        (r"\n\t\0\r\\\x1f", b"\n\t\0\r\\\x1f", b"\n\t\0\r\\\x1f"),
        ("", b"", b""),
        ("100%% of %t[%p]@%o ", b"100% of orders[3]@7 ", b"100% of orders[3]@9 "),
        (r"%k\t%v%%\n", b"k\t" + EVERY_BYTE + b"%\n", b"\t%\n"),
        ("é%o\udcff", b"\xc3\xa97\xff", b"\xc3\xa99\xff"),
    ],
)
def test_a_format_prints(text: str, first: bytes, second: bytes) -> None:
    assert list(parse_format(text)(Batch())) == [first, second]


@pytest.mark.parametrize("text", ["%x", "%", r"\q", "\\", r"\x1", "%t%", r"%t\xzz"])
def test_what_is_no_format_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_format(text)

    assert "there are" in str(caught.value)


@given(st.lists(st.sampled_from([*(f"%{c}" for c in LETTERS), "%%", r"\n", "x", "é", "%%d"])))
def test_any_sequence_of_parts_prints_each_part(parts: list[str]) -> None:
    expected = b"".join(next(parse_format(part)(Batch())) for part in parts)

    assert next(parse_format("".join(parts))(Batch())) == expected


@given(st.binary())
def test_any_bytes_can_be_written_as_escapes(data: bytes) -> None:
    assert unescape("".join(f"\\x{byte:02X}" for byte in data)) == data


def test_a_percent_is_nothing_special_in_a_delimiter() -> None:
    assert unescape(r"%t\t%") == b"%t\t%"
