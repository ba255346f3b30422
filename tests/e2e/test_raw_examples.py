"""The example clients that use nothing of ours, against a broker process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.raw import BrokerProcess

FOLDER = Path(__file__).resolve().parents[2] / "examples/raw"
PROGRAMS = [FOLDER / "produce.py", FOLDER / "fetch.py"]


def run(program: Path, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        input=given,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_what_one_writes_the_other_reads(tmp_path: Path) -> None:
    lines = [b"line %d \xff\x00 of some" % number for number in range(1_234)]
    with BrokerProcess(tmp_path) as broker:
        for _ in range(2):
            written = run(PROGRAMS[0], broker.endpoint, "lines", given=b"\n".join(lines))
            assert (written.returncode, written.stderr) == (0, b"")
        read = run(PROGRAMS[1], broker.endpoint, "lines", "0")
        assert (read.returncode, read.stderr) == (0, b"")
        unknown = run(PROGRAMS[1], broker.endpoint, "lines", "7")

    assert written.stdout.decode().splitlines()[-1] == "234 records at offset 2234"
    assert read.stdout == b"".join(line + b"\n" for line in lines * 2)
    assert unknown.returncode != 0


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_an_example_is_short_and_imports_nothing_of_ours(program: Path) -> None:
    text = program.read_text()
    names = {
        alias.name.partition(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        (node.module or "").partition(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom)
    }

    assert text.count("\n") < 60
    assert names <= {"os", "struct", "sys", "time", "msgpack", "zmq", "crc32c"}
