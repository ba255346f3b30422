"""Runs brokers and the command line for the tests of this folder."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
from zmqmq_cli.main import run

ZMQMQ = [sys.executable, "-m", "zmqmq_cli.main"]
EVERY_BYTE = bytes(byte for byte in range(256) if byte != 0x0A)
FORMATS = ("table", "json", "jsonl")
SECONDS = 60
PATIENT = ["--timeout", "120s"]
"""A command waits 3 s for a connection where nobody says otherwise: too short on a busy machine.
No default is longer than this; what a test says itself counts more."""

FoundT = TypeVar("FoundT")
_numbers = count()


def until_it_holds(check: Callable[[], FoundT], seconds: float = SECONDS) -> FoundT:
    """Run a check again and again until no assertion in it fails; what it returns. The failure that
    is told is the last one, with what was seen then.

    For what brokers, or several looks at them, agree on only after a moment.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > end:
                raise
        time.sleep(0.1)


def start_broker(folder: Path, *options: str) -> tuple[subprocess.Popen[bytes], str]:
    """A broker that serves, and its address."""
    with folder.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [*ZMQMQ, "broker", "--data-dir", str(folder), "--bind", "127.0.0.1:0", *options],
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], SECONDS)[0], "no ready line"
        line = process.stdout.readline().decode()
        found = re.search(r"127\.0\.0\.1:\d+", line)
        assert "ready" in line, folder.with_suffix(".log").read_text()
        assert found, line
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return process, found[0]


def stop(process: subprocess.Popen[bytes]) -> int:
    """End a broker as an operator does; its exit code."""
    process.terminate()
    try:
        process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return process.wait()


@dataclass
class Done:
    """What a command left behind."""

    returncode: int
    stdout: bytes
    stderr: bytes


class CLI:
    """Runs the command line against one broker."""

    def __init__(self, servers: str) -> None:
        self.environ = {**os.environ, "ZMQMQ_SERVERS": servers}

    def __call__(self, *argv: str, stdin: bytes = b"", code: int = 0) -> Done:
        """Run a command in this process, which is ten times as fast; it must end with this code.

        The broker is another process all the same. What is about pipes and signals uses `process`.
        """
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ZMQMQ_SERVERS", self.environ["ZMQMQ_SERVERS"])
            streams = {name: io.TextIOWrapper(io.BytesIO()) for name in ("stdout", "stderr")}
            streams["stdin"] = io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin)))
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            returncode = run([*PATIENT, *argv])
            texts = []
            for name in ("stdout", "stderr"):
                streams[name].flush()
                texts.append(streams[name].buffer.getvalue())
        assert returncode == code, f"{argv}: {returncode}\n{texts[1].decode()}"
        return Done(returncode, *texts)

    def process(self, *argv: str, stdin: bytes = b"", code: int = 0) -> Done:
        """Run a command as people do."""
        done = subprocess.run(
            [*ZMQMQ, *PATIENT, *argv],
            input=stdin,
            capture_output=True,
            env=self.environ,
            timeout=SECONDS + 30,
            check=False,
        )
        assert done.returncode == code, f"{argv}: {done.returncode}\n{done.stderr.decode()}"
        return Done(code, done.stdout, done.stderr)

    @contextlib.contextmanager
    def start(self, *argv: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command that the test ends; it is killed where the test does not get so far."""
        with subprocess.Popen(
            [*ZMQMQ, *PATIENT, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environ,
            **options,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def json(self, *argv: str, stdin: bytes = b"") -> Any:
        """What a command prints as JSON."""
        return json.loads(self(*argv, "-O", "json", stdin=stdin).stdout)

    def topic(self, *lines: bytes, partitions: int = 1, **settings: str) -> str:
        """A new topic with these records; its name."""
        name = f"t{next(_numbers)}"
        pairs = [f"-c{key}={value}" for key, value in settings.items()]
        self("topics", "create", name, "-p", str(partitions), *pairs)
        if lines:
            self("produce", name, stdin=b"".join(line + b"\n" for line in lines))
        return name


def parsed(done: Done, form: str) -> list[Any]:
    """Stdout, read back in the format it is said to have."""
    text = done.stdout.decode()
    if form == "json":
        body = json.loads(text)
        if isinstance(body, dict):
            assert body["schema"] == 1
        return [body]
    if form == "jsonl":
        return [json.loads(line) for line in text.splitlines()]
    assert "\x1b" not in text, "colours in a pipe"
    return text.splitlines()
