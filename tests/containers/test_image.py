"""The image by itself: what is in it, who it runs as, and how it starts, stops and starts again."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.containers.engine import ROOT, docker, until
from tests.e2e.command_line import CLI

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]
NAME = "zmqmq-test-image"
ADDRESS = "127.0.2.1:5755"
LIST = """
from importlib.metadata import distributions
for found in distributions():
    print(found.name, found.version)
"""


@pytest.fixture
def volume() -> Iterator[str]:
    """For data, and a name for the container that has it; nothing is left of both."""

    def remove() -> None:
        docker("rm", "--force", "--volumes", NAME)
        docker("volume", "rm", "--force", NAME)

    remove()
    yield NAME
    remove()


def start(image: str, *options: str) -> CLI:
    """A broker on the volume, as locked up as it can be; a client outside."""
    docker(
        *("run", "--detach", "--name", NAME, "--volume", f"{NAME}:/data"),
        *("--read-only", "--cap-drop", "ALL", "--publish", f"{ADDRESS}:5755", *options),
        *(image, "broker", "--insecure", "--advertise", ADDRESS),
    )
    cli = CLI(ADDRESS)
    cli.process("ping", "--timeout", "60s")
    return cli


def stop() -> None:
    """As an operator does, or a machine that shuts down: within seconds, and cleanly."""
    began = time.monotonic()
    docker("stop", "--time", "60", NAME)
    assert time.monotonic() - began < 10
    assert inspected("{{.State.ExitCode}}") == "0"
    assert "finished, flushed and closed" in logs()


def inspected(what: str) -> str:
    return docker("inspect", "--format", what, NAME)


def logs() -> str:
    done = subprocess.run(["docker", "logs", NAME], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_what_is_installed_is_what_is_written_down(image: str) -> None:
    said = docker("run", "--rm", "--entrypoint", "python", image, "-P", "-c", LIST)
    installed = {name.lower().replace("_", "-"): v for name, v in map(str.split, said.splitlines())}
    written = {}
    for line in (ROOT / "compose/constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            written[name] = version
    base = {"pip", "setuptools", "wheel", "zmqmq"}

    assert {name: v for name, v in installed.items() if name not in base} == written


def test_it_asks_before_it_listens_to_everybody(image: str) -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", image], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "--insecure" in done.stderr


def test_it_runs_as_nobody_in_particular(image: str, volume: str) -> None:
    start(image)
    assert docker("exec", volume, "id", "-u") == "10001"
    said = docker("top", volume, "-o", "pid,uid,args")

    assert "zmqmq broker" in said
    assert all(line.split()[1] == "10001" for line in said.splitlines()[1:]), said


@pytest.mark.parametrize("init", [["--init"], []], ids=["under an init", "as pid 1"])
def test_what_was_written_is_there_in_the_next_container(
    image: str, volume: str, init: list[str]
) -> None:
    lines = b"".join(b"line %d\n" % number for number in range(1_000))
    cli = start(image, *init)
    cli.process("topics", "create", "t")
    cli.process("produce", "t", stdin=lines)
    stop()
    docker("rm", volume)

    cli = start(image, *init)
    assert cli.process("consume", "t", "-e").stdout == lines
    stop()


def test_its_health_is_the_brokers(image: str, volume: str) -> None:
    """Frozen is not healthy, though the process is there."""
    test = json.loads(docker("image", "inspect", "--format", "{{json .Config.Healthcheck}}", image))
    assert test["Test"][0] == "CMD", "health checks need no shell"

    start(image, "--health-interval", "1s", "--health-retries", "1", "--health-start-period", "0s")

    def has(state: str) -> bool:
        return inspected("{{.State.Health.Status}}") == state

    until(lambda: has("healthy"), "healthy")
    docker("kill", "--signal", "STOP", volume)
    until(lambda: has("unhealthy"), "unhealthy")
    docker("kill", "--signal", "CONT", volume)
    until(lambda: has("healthy"), "healthy again")


@pytest.mark.usefixtures("volume")
def test_a_name_that_nobody_knows_holds_up_no_client(image: str) -> None:
    """A server that is down may have none, and here is no name server that answers."""
    start(image)
    address = inspected("{{.NetworkSettings.Networks.bridge.IPAddress}}")
    servers = f"nosuch.example:5755,{address}:5755"
    docker("run", "--rm", "--dns", "192.0.2.53", image, "ping", "--timeout", "20s", "-s", servers)
