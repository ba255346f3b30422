"""What tests of `zmqmq cluster` say and ask again and again, and the brokers that they do it to."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.command_line import CLI, until_it_holds

RACKS = {1: "a", 2: "b", 3: "c", 4: "a"}


def topic(cli: CLI, name: str, *replicas: tuple[int, ...], records: int = 0, **config: str) -> None:
    """A topic whose partitions are on these brokers, led by the first, with so many records.

    Whether there is one of that name, and which, some broker may hear late.
    """
    settings = [f"-c{key}={value}" for key, value in config.items()]
    count, copies = str(len(replicas)), str(len(replicas[0]))
    until_it_holds(lambda: cli("topics", "create", name, "-p", count, "-r", copies, *settings))
    for number, brokers in enumerate(replicas):
        where = name, str(number), ",".join(map(str, brokers))
        until_it_holds(lambda where=where: cli("cluster", "reassign", *where))
        lines = b"".join(b"%d of %d\n" % (n, number) for n in range(records))
        if lines:
            cli("produce", name, "-p", str(number), stdin=lines)


def partitions(cli: CLI, name: str) -> list[dict[str, Any]]:
    """Those of a topic, once the leader of each has told of it what it alone knows."""

    def are_told() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = cli.json("topics", "describe", name)["partitions"]
        assert all("committed_end" in p for p in found), found
        return found

    return until_it_holds(are_told)


def replicas(cli: CLI, name: str) -> list[list[int]]:
    return [p["replicas"] for p in cli.json("topics", "describe", name)["partitions"]]


def until_replicas(cli: CLI, *wanted: list[int]) -> None:
    """Wait until those of each partition of `t` are these."""

    def are_so() -> None:
        assert replicas(cli, "t") == list(wanted)

    until_it_holds(are_so)


def until_without(cli: CLI, broker: int, name: str = "t") -> None:
    """Wait until a broker has no replica of a topic."""

    def is_so() -> None:
        found = replicas(cli, name)
        assert all(broker not in ids for ids in found), found

    until_it_holds(is_so)


def brokers(cli: CLI) -> dict[int, dict[str, Any]]:
    return {b["broker"]: b for b in cli.json("cluster", "brokers")["brokers"]}


def until(cli: CLI, **wanted: Any) -> dict[str, Any]:
    """The status, once it is as wanted."""

    def is_so() -> dict[str, Any]:
        found: dict[str, Any] = cli.json("cluster", "status")
        assert {key: found[key] for key in wanted} == wanted, found
        return found

    return until_it_holds(is_so)


def until_states(cli: CLI, **wanted: str) -> None:
    """Wait until brokers, named `b` and their number, are in these states."""

    def are_so() -> None:
        found = brokers(cli)
        told = {f"b{number}": broker["state"] for number, broker in found.items()}
        assert {name: told.get(name) for name in wanted} == wanted, found

    until_it_holds(are_so)


def until_all_are_back(cli: CLI) -> None:
    until_states(cli, **{f"b{number}": "up" for number in RACKS})


def equal(cli: CLI, *topics: str) -> list[dict[str, Any]]:
    """What `verify cluster` says of these, once every replica could be read; that two differ is
    told at once."""

    def are_read() -> list[dict[str, Any]]:
        try:
            return list(cli.json("verify", "cluster", *topics)["partitions"])
        except AssertionError as error:
            if "differs" in str(error):
                pytest.fail(str(error))
            raise

    return until_it_holds(are_read)


def error(cli: CLI, *argv: str, code: int) -> str:
    """What a command says that fails with this code."""
    return cli(*argv, code=code).stderr.decode()
