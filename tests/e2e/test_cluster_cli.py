"""`zmqmq cluster` and `zmqmq verify cluster` against four brokers, as an operator runs them."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import zmqmq
import zmqmq.aio
from tests.e2e.broker_cluster import Running, running_cluster
from tests.e2e.cluster_commands import (
    RACKS,
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
from tests.e2e.command_line import CLI, FORMATS, SECONDS, parsed, until_it_holds

# Looking


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_there_in_every_format(cli: CLI, form: str) -> None:
    topic(cli, "t", (1, 2, 3), (2, 3, 4), records=10)
    until_it_holds(lambda: is_told(cli, form))


def is_told(cli: CLI, form: str) -> None:
    status = parsed(cli("cluster", "status", "-O", form), form)
    listed = parsed(cli("cluster", "brokers", "-O", form), form)
    described = parsed(cli("topics", "describe", "t", "-O", form), form)
    if form == "table":
        assert status[0].startswith("cluster ")
        assert "nothing: every partition has a leader and all its replicas" in status
        assert listed[0].split()[:6] == ["BROKER", "ADDRESS", "RACK", "VERSION", "STATE", "LEADERS"]
        assert [line.split()[0::2][:2] for line in listed[1:]] == [
            [str(b), RACKS[b]] for b in RACKS
        ]
        assert max(map(len, [*status, *listed, *described])) <= 80
        (epoch,) = (p["leader_epoch"] for p in partitions(cli, "t")[:1])
        assert ["0", "1", str(epoch), "1,2,3", "1,2,3", "2:0", "3:0"] in map(str.split, described)
        return
    assert status[0]["is_healthy"] is True
    assert status[0]["controller"] in RACKS
    found = listed[0]["brokers"] if form == "json" else listed
    assert [(b["broker"], b["rack"], b["state"]) for b in found] == [
        (number, rack, "up") for number, rack in RACKS.items()
    ]
    assert [b["leaders"] for b in found] == [1, 1, 0, 0]
    assert [b["replicas"] for b in found] == [1, 2, 2, 1]
    assert all(b["bytes"] is not None and b["bytes"] > 0 for b in found), found
    assert all(0 < b["disk_free_bytes"] < b["disk_bytes"] for b in found)
    assert [p["lag"] for p in described[0]["partitions"][0]["followers"]] == [0, 0]


def test_the_same_words_in_python(cluster: Running, cli: CLI) -> None:
    topic(cli, "t", (1, 2))
    with zmqmq.connect(cluster.servers) as client:
        client.cluster.reassign("t", 0, [2, 3])

        def is_moved() -> None:
            partition = client.topics.describe("t").partitions[0]
            # A leader that has just taken office knows no lag before its followers' first fetches.
            assert (partition.replicas, partition.lag) == ((2, 3), {3: 0}), partition
            assert client.cluster.verify("t", 0).is_equal
            assert client.cluster.elect("t") == {}

        until_it_holds(is_moved)
        with pytest.raises(zmqmq.errors.ConflictError, match="no reassignment is under way"):
            client.cluster.cancel("t", 0)

    async def ask() -> None:
        async with await zmqmq.aio.connect(cluster.servers) as client:
            end = time.monotonic() + SECONDS
            while not (status := await client.cluster.status()).is_healthy:
                assert time.monotonic() < end, status
                await asyncio.sleep(0.1)
            assert [b.broker for b in await client.cluster.brokers()] == list(RACKS)
            progress = await client.cluster.advance(await client.cluster.drain(2))
            while not progress.is_done:
                await asyncio.sleep(0.1)
                progress = await client.cluster.advance(progress)
            await client.cluster.undrain(2)
            assert (await client.cluster.verify("t", 0)).brokers[0] != 2

    asyncio.run(ask())


# Moving


def test_a_partition_is_moved_with_what_is_in_it(cli: CLI, tmp_path: Path) -> None:
    topic(cli, "t", (1, 2), (1, 2), records=1_000)

    cli("cluster", "reassign", "t", "0", "4,3")

    def is_moved() -> None:
        (first, second) = partitions(cli, "t")
        assert (first["replicas"], first["leader"], first["isr"]) == ([4, 3], 4, [4, 3])
        assert (first["records"], second["replicas"]) == (1_000, [1, 2])

    until_it_holds(is_moved)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"moves": [{"topic": "t", "partition": 1, "replicas": [3, 4]}]}))
    assert b"1 partition moved" in cli("cluster", "reassign", "--plan", str(plan)).stderr
    until_replicas(cli, [4, 3], [3, 4])
    assert b"nothing to move" in cli("cluster", "reassign", "t", "1", "3,4").stderr
    assert cli("consume", "t", "-e").stdout.count(b"\n") == 2_000


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["reassign", "t", "0", "1,9"], 3, "there is no broker 9; there are 1, 2, 3, 4"),
        (["reassign", "t", "0", "1,1"], 2, "t/0: replicas 1,1: give at least one broker, none"),
        (["reassign", "t", "0", "1,x"], 2, "'x' is not a whole number"),
        (["reassign", "t", "7", "1"], 3, "topic 't' has 1 partition; there is no 7"),
        (["reassign", "tt", "0", "1"], 3, "there is no topic 'tt'; did you mean t?"),
        (["reassign", "t", "0"], 2, "give TOPIC PARTITION BROKER"),
        (["reassign", "t", "0", "--cancel"], 4, "no reassignment is under way"),
        (["reassign", "--plan", "/nowhere.json"], 3, "/nowhere.json: no such file"),
        (["drain", "9"], 3, "there is no broker 9; there are 1, 2, 3, 4"),
        (["drain", "9", "--undo"], 3, "there is no broker 9; there are 1, 2, 3, 4"),
        (["drain", "one"], 2, "'one' is not a whole number"),
        (["drain", "1", "--at-a-time", "0"], 2, "0 is too small; the least is 1"),
        (["status", "extra"], 2, "extra"),
    ],
)
def test_what_is_wrong_is_named(cli: CLI, argv: list[str], code: int, said: str) -> None:
    topic(cli, "t", (1, 2))

    assert said in error(cli, "cluster", *argv, code=code)
    until_replicas(cli, [1, 2])
    until_all_are_back(cli)


def test_a_plan_that_is_none_is_named(cli: CLI, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text('{"moves": [{"topic": "t"}]}')

    assert "is no plan (KeyError: 'partition')" in error(
        cli, "cluster", "reassign", "--plan", str(plan), code=2
    )


def test_a_broker_is_drained_and_gets_its_share_again(cli: CLI) -> None:
    topic(cli, "t", *[(1, 2, 3)] * 4, records=100)

    done = cli("cluster", "drain", "1")

    assert b"broker 1 is empty: it can be stopped for good" in done.stderr
    until_without(cli, 1)
    until_states(cli, b1="drained")
    assert brokers(cli)[1]["replicas"] == 0
    topic_on_the_rest = cli.json("topics", "create", "u", "-p", "3")
    assert topic_on_the_rest["replicas"] == 3
    until_without(cli, 1, "u")
    assert b"broker 1 is empty" in cli("cluster", "drain", "1").stderr, "once more is no error"

    cli("cluster", "drain", "1", "--undo")
    until_all_are_back(cli)
    shown = cli("cluster", "balance", "--dry-run").stdout.decode()
    assert brokers(cli)[1]["replicas"] == 0, "a dry run moves nothing"
    cli("cluster", "balance", "-y")

    def is_even() -> None:
        found = brokers(cli)
        # Rack a has the brokers 1 and 4: the racks b and c have a replica of everything, and must.
        held = [found[number]["replicas"] for number in RACKS]
        assert held in ([3, 7, 7, 4], [4, 7, 7, 3]), found
        led = [found[number]["leaders"] for number in RACKS]
        assert max(led) - min(led) <= 1, found

    until_it_holds(is_even)
    assert "BECOME" in shown
    assert "nothing to move" in cli("cluster", "balance", "-y").stderr.decode()
    assert len(equal(cli)) == 7


def test_a_new_broker_gets_its_share(tmp_path: Path) -> None:
    """A fourth one, on an empty directory, joins three that have data."""
    racks = {number: f"r{number}" for number in (1, 2, 3, 4)}
    lines = b"".join(b"%d\n" % n for n in range(1_000))
    with running_cluster(tmp_path, racks) as cluster:
        cluster.start(1, 2, 3)
        cli = CLI(cluster.servers)
        cli("topics", "create", "t", "-p", "8", "-r", "3")
        for number in range(8):
            cli("produce", "t", "-p", str(number), stdin=lines)
        assert sorted(brokers(cli)) == [1, 2, 3]
        cluster.start(4)
        until(cli, advice=["broker 4 is empty: zmqmq cluster balance gives it its share"])

        cli("cluster", "balance", "-y")

        def is_even() -> None:
            found = brokers(cli)
            assert [b["replicas"] for b in found.values()] == [6, 6, 6, 6], found
            assert [b["preferred"] for b in found.values()] == [2, 2, 2, 2], found
            assert (found[4]["bytes"] or 0) > 6 * len(lines) // 2, found

        until_it_holds(is_even)
        assert len(equal(cli)) == 8
        until(cli, is_healthy=True, moving=[], not_preferred=[])
        for number in range(8):
            assert cli("consume", "t", "-p", str(number), "-e").stdout == lines
        assert b"nothing to move" in cli("cluster", "balance", "-y").stderr


@pytest.mark.timeout(400)
def test_work_is_handed_to_those_who_have_less_of_it(tmp_path: Path) -> None:
    """Each of three leads three partitions, and what is read are those of the first."""
    racks = {number: f"r{number}" for number in (1, 2, 3)}
    turns = [(1, 2, 3), (2, 3, 1), (3, 1, 2)]
    hot = (0, 3, 6)
    with running_cluster(tmp_path, racks) as cluster:
        cluster.start(*racks)
        cli = CLI(cluster.servers)
        topic(cli, "t", *turns, *turns, *turns)
        for number in hot:
            cli("produce", "t", "-p", str(number), stdin=(b"x" * 4_000 + b"\n") * 500)
        assert planned(cli) == []

        def is_seen() -> list[dict[str, Any]]:
            moves, seen = planned(cli), brokers(cli)
            cpu = {number: found["cpu_millicores"] or 0 for number, found in seen.items()}
            assert max(cpu, key=lambda number: cpu[number]) == 1, cpu
            assert len(moves) >= 4, (moves, cpu)
            assert sum(m["partition"] in hot for m in moves) == 2, moves
            assert all(m["why"].startswith("1: CPU ") and m["copied_bytes"] == 0 for m in moves), (
                moves
            )
            return moves

        def is_better() -> None:
            found = partitions(cli, "t")
            assert all("work_per_s" in p for p in found), found
            moves = planned(cli)
            assert len(moves) < len(first), moves

        def is_shared() -> None:
            found = partitions(cli, "t")
            assert len({found[n]["leader"] for n in hot}) > 1, found
            assert Counter(p["leader"] for p in found) == {1: 3, 2: 3, 3: 3}, found

        with readers(cluster, "t", *hot):
            # What is measured is an average with the idle time before: it grows for a minute.
            first = until_it_holds(is_seen, 2 * SECONDS)
            cli("cluster", "balance", "-y")
            until_it_holds(is_better, 2 * SECONDS)
        until_it_holds(is_shared)


def planned(cli: CLI) -> list[dict[str, Any]]:
    """The moves that a plan would have now."""
    return list(cli.json("cluster", "balance", "--dry-run")["moves"])


@contextmanager
def readers(cluster: Running, name: str, *numbers: int) -> Iterator[None]:
    """Somebody for each of these partitions who reads it again and again, as fast as it goes."""
    ended = threading.Event()

    def read(number: int) -> None:
        with (
            zmqmq.connect(cluster.servers) as client,
            client.consumer(name, partitions=[number], fetch_bytes=16_384) as consumer,
        ):
            while not ended.is_set():
                if not consumer.fetch_batches(max_wait_ms=1):
                    consumer.seek(name, number, "start")

    threads = [threading.Thread(target=read, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(SECONDS)


def test_nobody_is_asked_where_nobody_is(cli: CLI) -> None:
    topic(cli, "t", *[(1, 2)] * 4)

    assert "-y moves without asking" in error(cli, "cluster", "balance", code=2)
    assert replicas(cli, "t") == [[1, 2]] * 4


def test_without_room_only_leaderships_go(cli: CLI) -> None:
    topic(cli, "t", (1, 2, 3), (2, 1, 3), (4,))
    try:
        for number in (4, 1):
            done = cli("cluster", "drain", str(number))
            until_states(cli, **{f"b{number}": "drained" if number == 4 else "draining"})
        assert b"broker 1 keeps 2 replicas that no other broker can take: t/0, t/1" in done.stderr

        def is_kept() -> None:
            found = partitions(cli, "t")
            assert all(p["leader"] != 1 for p in found), found
            assert found[0]["replicas"] in ([3, 2, 1], [2, 3, 1]), found
            assert "broker 1 is not empty yet" in cli("cluster", "status").stdout.decode()

        until_it_holds(is_kept)
        cli("cluster", "drain", "2")
        until_states(cli, b2="draining")
        said = error(cli, "cluster", "drain", "3", code=4)
        assert "broker 3 is the last that is up and takes partitions" in said
        assert "or give broker 1 back" in said
    finally:
        for number in (1, 2, 4):
            cli("cluster", "drain", str(number), "--undo")
    until_all_are_back(cli)


def test_a_drain_that_is_interrupted_goes_on(cli: CLI) -> None:
    topic(cli, "t", *[(2, 3)] * 8, records=100)
    try:
        with cli.start("cluster", "drain", "2", "--at-a-time", "1") as process:
            end = time.monotonic() + SECONDS
            is_begun = False
            while not is_begun:
                assert time.monotonic() < end
                time.sleep(0.1)
                process.send_signal(signal.SIGSTOP)  # or it may be done before it is interrupted
                is_begun = any(2 not in found for found in replicas(cli, "t"))
                if is_begun:
                    process.send_signal(signal.SIGINT)
                process.send_signal(signal.SIGCONT)
            _, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 130
        assert b"goes on by itself" in said
        until(cli, moving=[])
        left = sum(2 in found for found in replicas(cli, "t"))
        assert 0 < left < 8, "it was to be interrupted in the middle"
        cli("cluster", "drain", "2")
        until_without(cli, 2)
    finally:
        cli("cluster", "drain", "2", "--undo")
    assert cli("consume", "t", "-e").stdout.count(b"\n") == 800
