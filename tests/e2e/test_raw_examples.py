"""The example clients that use nothing of ours, against a broker process."""

from __future__ import annotations

import ast
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest

from tests.e2e.command_line import SECONDS, until_it_holds
from tests.hostile.raw import TIMEOUT_S, BrokerProcess, RawClient, batch_of, wait_until
from tests.support.etcd_process import free_ports
from tests.support.node import node_modules

FOLDER = Path(__file__).resolve().parents[2] / "examples/raw"
PROGRAMS = [FOLDER / "produce.py", FOLDER / "fetch.py"]
LINES_MAX = {"produce.py": 60, "fetch.py": 60, "push.py": 160, "push.mjs": 200}
SUBSCRIBERS = ["push.py", "push.mjs"]


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


class Subscriber:
    """One of the programs that follow a partition, as a process."""

    def __init__(self, command: list[str], folder: Path, broker: BrokerProcess) -> None:
        self._read, self._said = folder / "stdout", folder / "stderr"
        with self._read.open("wb") as read, self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [*command, broker.endpoint, "t", "0"], stdout=read, stderr=said
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait(TIMEOUT_S)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def has_read(self, values: list[bytes]) -> bool:
        """Whether it comes to have read these, and nothing else."""
        size = sum(map(len, values)) + len(values)
        assert wait_until(lambda: self._read.stat().st_size >= size, SECONDS), self.said
        return self._read.read_bytes() == b"".join(value + b"\n" for value in values)

    @property
    def said(self) -> str:
        return self._said.read_text()


def subscriber_command(program: str, folder: Path) -> list[str]:
    """How to run it."""
    if program.endswith(".py"):
        return [sys.executable, str(FOLDER / program)]
    # What it imports is searched for beside it.
    (folder / "node_modules").symlink_to(node_modules(FOLDER / "package.json"))
    return ["node", shutil.copy(FOLDER / program, folder)]


class Producing:
    """Writes records, and knows all of them."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.values: list[bytes] = []
        self.broker = broker

    def batches(self, count: int, records: int = 3, size: int = 10) -> list[bytes]:
        """Write so many batches; every value so far."""
        with RawClient(self.broker.endpoint) as client:
            topic_id = client.make_topic("t")
            for _ in range(count):
                start = len(self.values)
                values = [b"%d" % n for n in range(start, start + records)]
                values = [value.ljust(size, b".") for value in values]
                reply = client.produce(topic_id, batch_of(topic_id, *values))
                assert reply["results"][0][0] == start
                self.values += values
        return self.values


@pytest.mark.parametrize("program", SUBSCRIBERS)
def test_a_subscriber_gets_every_record_once_and_in_order(program: str, tmp_path: Path) -> None:
    command = subscriber_command(program, tmp_path)
    with BrokerProcess(tmp_path / "data") as broker:
        producing = Producing(broker)
        producing.batches(100)
        with Subscriber(command, tmp_path, broker) as subscriber:
            for _ in range(5):  # while it begins
                producing.batches(20)
                time.sleep(0.1)
            assert subscriber.has_read(producing.values)

            def is_pushed() -> str:  # whatever was missing when it began is told within a second
                before = subscriber.said
                assert subscriber.has_read(producing.batches(50))
                assert subscriber.said == before
                return before

            before = until_it_holds(is_pushed)
            assert subscriber.has_read(producing.batches(2, records=100, size=1_000))
            assert subscriber.said.count("fetching") > before.count("fetching")  # too large

            assert "anew" not in subscriber.said

            before = subscriber.said
            subscriber.signal(signal.SIGSTOP)
            producing.batches(600, records=60, size=1_000)
            subscriber.signal(signal.SIGCONT)
            assert subscriber.has_read(producing.values)
            # What was dropped it has fetched, or begun anew if it stood still for over 3 s.
            assert subscriber.said.startswith(before)
            assert subscriber.said != before

            assert subscriber.has_read(producing.batches(50))


@pytest.mark.parametrize("program", SUBSCRIBERS)
def test_a_subscriber_goes_on_with_the_next_leader(program: str, tmp_path: Path) -> None:
    """That of the next leader epoch: the same broker, with another push listener."""
    command = subscriber_command(program, tmp_path)
    (port,) = free_ports(1)
    with BrokerProcess(tmp_path / "data", port) as broker:
        producing = Producing(broker)
        producing.batches(5)
        with Subscriber(command, tmp_path, broker) as subscriber:
            assert subscriber.has_read(producing.values)
            broker.kill()
            with BrokerProcess(tmp_path / "data", port) as producing.broker:
                assert subscriber.has_read(producing.batches(20))
                assert "anew" in subscriber.said


def imported_by(program: Path) -> set[str]:
    """Modules of Python or Node."""
    text = program.read_text()
    if program.suffix == ".mjs":
        return set(re.findall(r'\bfrom "([^"]+)"', text))
    nodes = list(ast.walk(ast.parse(text)))
    names = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("program", LINES_MAX)
def test_an_example_is_short_and_imports_nothing_of_ours(program: str) -> None:
    path = FOLDER / program
    stock = {"contextlib", "os", "struct", "sys", "time", "msgpack", "zmq", "crc32c"}
    if path.suffix == ".mjs":
        package = json.loads((FOLDER / "package.json").read_text())
        stock = {"node:crypto", "node:timers/promises", *package["dependencies"]}

    assert path.read_text().count("\n") < LINES_MAX[program]
    assert imported_by(path)
    assert imported_by(path) <= stock
