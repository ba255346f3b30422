"""The image, and compose projects that are gone when the test is."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.containers.engine import ROOT, Project, built_image, need_engine


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    """One module at a time on this machine: ports, names and both cores are the machine's."""
    need_engine()
    with (Path(tempfile.gettempdir()) / "zmqmq-containers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def image(alone: None) -> str:  # noqa: ARG001 - before the build
    return built_image()


@pytest.fixture
def compose(image: str) -> Iterator[Callable[..., Project]]:
    """Makes projects of the files in `compose/`: `compose(FILE, name, *options, VARIABLE=…)`."""
    with ExitStack() as stack:

        def make(file: str, name: str, *more: str, **variables: str) -> Project:
            path = ROOT / "compose" / file
            project = Project(f"zmqmq-test-{name}", path, {"ZMQMQ_IMAGE": image, **variables}, more)
            project.down()
            stack.callback(project.down)
            return project

        yield make
