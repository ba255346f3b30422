"""`zmqmq cluster` when brokers are down, frozen or lost, and when two operators disagree."""

from __future__ import annotations

import signal
import time

import zmqmq
from tests.e2e.broker_cluster import Running
from tests.e2e.cluster_commands import (
    brokers,
    equal,
    error,
    partitions,
    replicas,
    topic,
    until,
    until_all_are_back,
    until_replicas,
    until_states,
    until_without,
)
from tests.e2e.command_line import CLI, SECONDS, until_it_holds
from zmqmq.errors import RefusedError


def test_a_broker_that_is_down(cluster: Running, cli: CLI) -> None:
    topic(cli, "t", (4, 2, 3), (2, 3), records=100)
    cluster.stop(4)
    try:
        until_it_holds(lambda: is_down(cli))
    finally:
        cluster.start(4)
    until(cli, under_replicated=[])
    cli("cluster", "leaders", "--dry-run")
    assert partitions(cli, "t")[0]["leader"] in (2, 3, 4)
    until_it_holds(lambda: cli("cluster", "leaders"))
    until(cli, not_preferred=[], is_healthy=True)
    equal(cli)


def is_down(cli: CLI) -> None:
    """Of broker 4, what every command says."""
    t0 = [{"topic": "t", "partition": 0}]
    status = cli.json("cluster", "status")
    assert (status["under_replicated"], status["not_preferred"]) == (t0, t0), status
    assert status["is_healthy"] is False, status
    assert status["advice"][0].startswith("start broker 4; if it will not come back"), status
    assert brokers(cli)[4]["state"] == "down"
    said = error(cli, "cluster", "reassign", "t", "1", "4,3", code=2)
    assert "broker 4 is down: it can be given no replica of t/1. Start it, or name" in said
    said = error(cli, "cluster", "leaders", code=1)
    assert "1 partition of 1 cannot be given back now" in said
    done = cli("verify", "cluster", code=2)
    assert b"broker 4 is not up" in done.stdout
    assert b"1 partition of 2 could not be compared whole" in done.stderr
    cli("verify", "cluster", "t", code=2)


def test_a_broker_that_is_lost_is_replaced(cluster: Running, cli: CLI) -> None:
    topic(cli, "t", (3, 1, 2), records=100)
    cluster.kill(3)
    try:
        until(cli, under_replicated=[{"topic": "t", "partition": 0}])
        cli("cluster", "drain", "3")
        until_without(cli, 3)
        assert sorted(replicas(cli, "t")[0]) == [1, 2, 4]
        until_states(cli, b3="retired")
        until(cli, is_healthy=False, under_replicated=[])
        cli("cluster", "drain", "3", "--undo")

        def is_forgotten() -> None:
            assert sorted(brokers(cli)) == [1, 2, 4]

        until_it_holds(is_forgotten)
    finally:
        cluster.start(3)
    until_all_are_back(cli)


def idle(client: zmqmq.Client) -> int:
    """Which of the brokers 3 and 4 may stop to answer: not the controller."""

    def controller() -> int:
        status = client.cluster.status()
        assert status.controller is not None, status
        return status.controller

    return 4 if until_it_holds(controller) == 3 else 3


def begin_stuck(cluster: Running, client: zmqmq.Client, target: int) -> None:
    """Begin to move `t/0` to broker 1 and one that has stopped to answer. After three seconds of
    that it is not up any more, and would be given nothing."""
    process = cluster.processes[target]

    def is_begun() -> None:
        process.send_signal(signal.SIGCONT)
        seen = {b.broker: b.state for b in client.cluster.brokers()}
        assert seen.get(target) == "up", seen
        process.send_signal(signal.SIGSTOP)
        try:
            client.cluster.reassign("t", 0, [1, target])
        except RefusedError as error:
            raise AssertionError(str(error)) from error

    until_it_holds(is_begun)


def test_a_move_is_given_up(cluster: Running, cli: CLI) -> None:
    """The broker that was to take it over has stopped to answer."""
    topic(cli, "t", (1, 2), records=100)
    with zmqmq.connect(cluster.servers) as client:
        target = idle(client)
        try:
            begin_stuck(cluster, client, target)
            until(cli, moving=[{"topic": "t", "partition": 0}])
            described = cli("topics", "describe", "t").stdout.decode()
            assert f"+{target} -2" in described

            def is_told() -> None:
                began = time.monotonic()
                advice = cli.json("cluster", "status")["advice"]
                assert time.monotonic() - began < SECONDS / 4, "it waits for who does not answer"
                assert str(target) in advice[0], advice

            until_it_holds(is_told)
            cli("cluster", "reassign", "t", "0", "--cancel")
            until(cli, moving=[])
            until_replicas(cli, [1, 2])
        finally:
            cluster.processes[target].send_signal(signal.SIGCONT)
    until_all_are_back(cli)


def test_two_who_move_one_partition_do_not_fight(cluster: Running, cli: CLI) -> None:
    """The later one wins; the other one says so and leaves it. Its target does not answer, so that
    it has to wait."""
    topic(cli, "t", (1, 2), records=100)
    with zmqmq.connect(cluster.servers) as client:
        target = idle(client)
        other = 7 - target
        try:
            begin_stuck(cluster, client, target)
            until(cli, moving=[{"topic": "t", "partition": 0}])
            take_over(cli, target, other)
            until_replicas(cli, [1, other])
        finally:
            cluster.processes[target].send_signal(signal.SIGCONT)
    until_all_are_back(cli)


def take_over(cli: CLI, target: int, other: int) -> None:
    """While somebody waits for a move to one broker, order one to another."""
    with cli.start("cluster", "reassign", "t", "0", f"1,{target}") as process:
        assert process.stderr is not None
        assert b"under way: t/0" in process.stderr.readline()  # it says so every ten seconds
        assert b"1 partition moved" in cli("cluster", "reassign", "t", "0", f"1,{other}").stderr
        _, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 7
        assert b"0 of 1 move done; t/0 changed meanwhile" in b" ".join(said.split())
