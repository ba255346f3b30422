"""The Docker engine, the image under test, and projects of `docker compose`."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.broker_process import missing

ROOT = Path(__file__).parents[2]
SECONDS = 120
ETCD_IMAGE = "gcr.io/etcd-development/etcd:v3.5.30"


def docker(*arguments: str, environ: dict[str, str] | None = None) -> str:
    """What a command of docker prints; it must succeed."""
    done = subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **(environ or {})},
        timeout=2 * SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


@functools.cache
def need_engine() -> None:
    """Skip where no engine answers, or none that has `docker compose`."""
    for command, lacks in (
        (["docker", "info"], "no Docker engine answers"),
        (["docker", "compose", "version"], "`docker compose` (version 2) is not installed"),
    ):
        try:
            answers = subprocess.run(command, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            answers = False
        if not answers:
            missing(lacks)


@functools.cache
def built_image() -> str:
    """The id of the image of this source tree; what was built before is not built again."""
    index = pip_index()
    argument = ["--build-arg", f"PIP_INDEX_URL={index}"] if index else []
    docker("build", "--network", "host", *argument, "--tag", "zmqmq:test", str(ROOT))
    return docker("image", "inspect", "--format", "{{.Id}}", "zmqmq:test")


def pip_index() -> str:
    """Where pip looks on this machine, if not in the usual place."""
    said = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = dict(line.partition("=")[::2] for line in said.splitlines())
    names = (":env:.index-url", "site.index-url", "user.index-url", "global.index-url")
    return next((found[name].strip("'") for name in names if name in found), "")


def until(is_so: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.2)


@dataclass
class Project:
    """One project of `docker compose`: a file, a name and the variables in it."""

    name: str
    file: Path
    variables: dict[str, str]
    more: Sequence[str] = field(default_factory=list)
    """Further options of `docker compose`."""

    def __call__(self, *arguments: str) -> str:
        """Run `docker compose` on this project."""
        options = ["--project-name", self.name, "--file", str(self.file), *self.more]
        return docker("compose", *options, *arguments, environ=self.variables)

    def down(self) -> None:
        """Take away everything that has the project's name, also of an earlier run."""
        self("down", "--volumes", "--remove-orphans", "--timeout", "1")
