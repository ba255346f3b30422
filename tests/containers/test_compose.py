"""What is in `compose/`, started as its README says and used with the command line from outside."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.containers.engine import ROOT, Project, until
from tests.e2e.command_line import CLI

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]
PARTITIONS = 3
HALF = 1_000

Compose = Callable[..., Project]


def test_dev(compose: Compose) -> None:
    """One broker, which is replaced and keeps everything."""
    dev = compose("dev.yaml", "dev", ZMQMQ_HOST="127.0.2.2")
    dev("up", "--detach", "--wait")
    cli = CLI("127.0.2.2:5755")
    cli.process("topics", "create", "t")
    cli.process("produce", "t", stdin=b"a\nb\n")

    dev("up", "--detach", "--wait", "--force-recreate")
    assert cli.process("consume", "t", "-e").stdout == b"a\nb\n"
    assert dev("exec", "-T", "broker", "zmqmq", "consume", "t", "-e").split() == ["a", "b"]


def test_cluster(compose: Compose) -> None:
    """A broker and then an etcd are killed while a producer sends."""
    cluster = compose("cluster.yaml", "cluster", ZMQMQ_HOST="127.0.2.3")
    cluster("up", "--detach", "--wait")
    cli = CLI(",".join(f"127.0.2.3:{port}" for port in (5755, 5765, 5775)))
    founded(cli)
    for victim in ("broker2", "etcd1"):
        with producing(cli):
            cluster("kill", victim)
        cluster("start", victim)
        until_in_sync(cli)
    holds_all(cli, 2)


def test_multi_host(compose: Compose, tmp_path: Path) -> None:
    """Each host has an address of this machine and a project of its own. One of them dies, and a
    fourth is added."""
    hosts = []
    for number in (1, 2, 3):
        environ = tmp_path / f"host{number}.env"
        environ.write_text(environ_of(number))
        options = ["--env-file", str(environ)]
        hosts.append(compose("multi-host/compose.yaml", f"host{number}", *options))
        hosts[-1]("up", "--detach")
    cli = CLI(",".join(f"127.0.1.{number}:5755" for number in (1, 2, 3)))
    founded(cli)
    with producing(cli):
        hosts[1]("kill")
    hosts[1]("start")
    until_in_sync(cli)
    holds_all(cli, 1)

    environ = tmp_path / "host4.env"
    environ.write_text(environ_of(4).replace("COMPOSE_PROFILES=etcd", "COMPOSE_PROFILES="))
    fourth = compose("multi-host/compose.yaml", "host4", "--env-file", str(environ))
    fourth("up", "--detach", "--wait")
    assert fourth("ps", "--services").split() == ["broker"]
    added = CLI("127.0.1.4:5755")
    holds_all(added, 1)
    added.process("topics", "create", "wide", "-p", "4", "-r", "4", "-c", "min_isr=4")
    added.process("produce", "wide", stdin=b"on four\n")


def environ_of(number: int) -> str:
    """`example.env` as somebody fills it in whose hosts are 127.0.1.1 and so on."""
    text = (ROOT / "compose/multi-host/example.env").read_text()
    for old, new in (
        ("HOST_ADDRESS=192.0.2.11", f"HOST_ADDRESS=127.0.1.{number}"),
        ("BROKER_ID=1", f"BROKER_ID={number}"),
        ("RACK=rack-a", f"RACK=rack-{number}"),
        ("192.0.2.1", "127.0.1."),
    ):
        assert old in text
        text = text.replace(old, new)
    return text  # the image under test comes from the environment, which is stronger


def founded(cli: CLI) -> None:
    """Wait for all brokers, and make the topic on them."""
    for server in cli.environ["ZMQMQ_SERVERS"].split(","):
        CLI(server).process("ping", "--timeout", "60s")
    cli.process("topics", "create", "t", "-p", str(PARTITIONS), "-r", "3")
    until_in_sync(cli)


def until_in_sync(cli: CLI) -> None:
    """Wait until every partition has three replicas that count."""

    def is_so() -> bool:
        partitions = cli.json("topics", "describe", "t")["partitions"]
        return [len(each["isr"]) for each in partitions] == [3] * PARTITIONS

    until(is_so, "in sync")


@contextmanager
def producing(cli: CLI) -> Iterator[None]:
    """Send numbered lines with acks=all, half before what happens and half after it."""
    with cli.start("produce", "t", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        lines = [b"%d-%d\n" % (process.pid, number) for number in range(2 * HALF)]
        process.stdin.write(b"".join(lines[:HALF]))
        process.stdin.flush()
        time.sleep(0.5)
        yield
        for line in lines[HALF:]:
            process.stdin.write(line)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert b"2,000 records stored" in errors


def holds_all(cli: CLI, rounds: int) -> None:
    """Everything that was acknowledged, once, and each partition in the order it was sent in."""
    said = cli.process("consume", "t", "-e", "-f", r"%p %o %v\n").stdout.decode()
    rows = [line.split() for line in said.splitlines()]
    assert len({value for _, _, value in rows}) == len(rows) == rounds * 2 * HALF
    for partition in range(PARTITIONS):
        mine = [(int(o), value) for p, o, value in rows if int(p) == partition]
        assert [offset for offset, _ in mine] == list(range(len(mine)))
        last: dict[str, int] = {}
        for _, value in mine:
            producer, _, number = value.partition("-")
            assert last.get(producer, -1) < int(number), "out of order"
            last[producer] = int(number)
