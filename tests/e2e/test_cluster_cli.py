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
from tests.e2e.command_line import CLI, FORMATS, SECONDS, parsed, until_it_holds
from zmqmq.batch.decode import decode_batches
from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import BODY_AT, BODY_CRC_AT, HEADER_SIZE, log_seed, stamp, unpack_header
from zmqmq.errors import RefusedError

RACKS = {1: "a", 2: "b", 3: "c", 4: "a"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Four brokers for all tests of this module; each test leaves them up, and none drained."""
    with (
        pytest.MonkeyPatch.context() as patch,
        running_cluster(tmp_path_factory.mktemp("cluster"), RACKS) as running,
    ):
        patch.setenv("ZMQMQ_BROKER__STORAGE__RETENTION_CHECK_MS", "2s")
        running.start(*RACKS)
        yield running


@pytest.fixture
def cli(cluster: Running) -> Iterator[CLI]:
    """The command line; afterwards no topic of the test is left."""
    found = CLI(cluster.servers)
    yield found

    def is_empty() -> None:
        for topic in found.json("topics", "list")["topics"]:
            found("topics", "delete", topic["name"], "-y")
        assert found.json("topics", "list")["topics"] == []

    until_it_holds(is_empty)


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


# What is down


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


# Comparing


def written_log(folder: Path) -> Path:
    """The one that holds something, once those of deleted topics are gone."""

    def is_alone() -> Path:
        found = [log for log in folder.glob("logs/*/*.log") if log.exists() and log.stat().st_size]
        found = [log for log in found if any(log.read_bytes())]
        assert len(found) == 1, found
        return found[0]

    return until_it_holds(is_alone)


def rewrite(folder: Path, batch: int) -> None:
    """Put other values into one batch of a stopped broker's log; every checksum holds."""
    log = written_log(folder)
    name = log.parent.name
    topic_id, number = bytes.fromhex(name.split(".")[0]), int(name.split(".")[1])
    data = bytearray(log.read_bytes())
    position = 0
    for _ in range(batch):
        position += unpack_header(data, position).size
    header = unpack_header(data, position)
    seed = log_seed(topic_id, number)
    (old,) = decode_batches(bytes(data[position : position + header.size]), seed, "t", number)
    values = [value.replace(b"of", b"OF") for value in old.values if value is not None]
    new = encode_batch(
        seed,
        values,
        keys=old.keys if any(old.keys) else None,
        timestamp_ms=header.first_timestamp_ms,
        producer_id=header.producer_id,
        producer_epoch=header.producer_epoch,
        base_sequence=header.base_sequence,
    )
    assert len(new) == header.size, "it would not fit in its place"
    head = stamp(
        header.base_offset,
        header.size,
        header.leader_epoch,
        header.append_time_ms,
        header.committed_end,
        new[BODY_CRC_AT:BODY_AT],
    )
    data[position : position + header.size] = head + new[len(head) :]
    log.write_bytes(data)


@pytest.mark.parametrize("cleanup", ["delete", "compact"])
def test_a_copy_that_is_another_is_found(cluster: Running, cli: CLI, cleanup: str) -> None:
    topic(cli, "t", (1, 2, 3), cleanup=cleanup)
    for number in range(3):
        line = b"k%d %d of 3\n" % (number, number)
        cli("produce", "t", "-K", " ", stdin=line)
    equal(cli, "t")
    assert b"1 partition: all replicas are equal" in cli("verify", "cluster", "t").stderr
    cluster.stop(2)
    rewrite(cluster.data(2), 1)
    cluster.start(2)
    until(cli, under_replicated=[])

    def is_found() -> None:
        said = cli("verify", "cluster", code=1).stderr
        assert b"t/0 differs at offset 1 between broker 1,3 and broker 2: other value" in said
        (found,) = json.loads(cli("verify", "cluster", "-O", "json", code=1).stdout)["partitions"]
        assert (found["difference"]["offset"], found["brokers"]) == (1, [1, 2, 3]), found

    until_it_holds(is_found)
    assert cli("inspect", "verify", str(cluster.data(2)), code=4), "it is in use"


def test_replicas_that_compacted_by_themselves_are_equal_by_record(
    cluster: Running, cli: CLI
) -> None:
    """Broker 3 was away while the others compacted, and has what they have no more."""
    topic(cli, "t", (1, 2, 3), segment_bytes="4KiB", segment_ms="100")
    produce_keys(cli, 10)
    until(cli, under_replicated=[])
    cluster.stop(3)
    cli("topics", "alter", "t", "-c", "cleanup=compact")
    produce_keys(cli, 1)

    def is_compacted() -> None:
        (partition,) = partitions(cli, "t")
        assert partition["records"] <= 500, partition

    until_it_holds(is_compacted)
    held = cli.json("inspect", "verify", str(cluster.data(3)))["logs"]
    assert max(log["records"] for log in held) >= 1_000, "it was to be left as it was"
    cluster.start(3)
    until(cli, under_replicated=[])

    equal(cli, "t")
    done = cli("verify", "cluster", "t")

    assert b"equal by record" in done.stdout
    assert b"1,2,3" in done.stdout
    cli("topics", "alter", "t", "-c", "cleanup=delete")

    def is_noted() -> None:
        (found,) = equal(cli, "t")
        assert (found["is_equal"], found["by"]) == (True, "records")
        assert "records do not: it was compacted once" in "".join(found["notes"]), found

    until_it_holds(is_noted)


def produce_keys(cli: CLI, rounds: int) -> None:
    for number in range(rounds):
        lines = b"".join(b"k%d %d of %d\n" % (n % 7, n, number) for n in range(100))
        cli("produce", "t", "-K", " ", stdin=lines)


def test_what_is_written_meanwhile_does_not_differ(cluster: Running, cli: CLI) -> None:
    """Also while the partition gets another leader, and another replica."""
    topic(cli, "t", (1, 2, 3))
    stop = threading.Event()

    def write() -> None:
        with zmqmq.connect(cluster.servers) as client, client.producer("t") as producer:
            while not stop.is_set():
                producer.send(b"x" * 1_000).result(SECONDS)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for target in ("1,2,3", "2,3,1", "4,3,2", "1,2,3"):
            cli("cluster", "reassign", "t", "0", target)
            (found,) = equal(cli, "t")
            assert found["is_equal"], found
    finally:
        stop.set()
        thread.join()

    def is_whole() -> None:
        (found,) = equal(cli, "t")
        assert found["records"] == partitions(cli, "t")[0]["records"] > 0, found

    until_it_holds(is_whole)


def test_logs_that_begin_elsewhere_are_compared_where_they_overlap(
    cluster: Running, cli: CLI
) -> None:
    """Broker 3 was away while the others let go of the oldest records."""
    topic(cli, "t", (1, 2, 3), segment_bytes="4KiB", retention_bytes="8KiB")
    lines = b"".join(b"%0100d\n" % n for n in range(20))
    for _ in range(2):
        cli("produce", "t", stdin=lines)
    cluster.stop(3)
    for _ in range(10):
        cli("produce", "t", stdin=lines)

    def is_let_go() -> None:
        (partition,) = partitions(cli, "t")
        assert partition["start"] > 0, partition

    until_it_holds(is_let_go)
    cluster.start(3)
    until(cli, under_replicated=[])

    def is_compared() -> None:
        (found,) = equal(cli, "t")
        assert found["is_equal"]
        assert (found["start"] > 0, found["compared_end"]) == (True, 240), found

    until_it_holds(is_compared)


def test_a_copy_with_a_wrong_checksum_is_not_called_equal(cluster: Running, cli: CLI) -> None:
    """Its broker stops when it finds out, and fills the copy anew at its next start (L17)."""
    topic(cli, "t", (1, 2, 3), records=10)
    until(cli, under_replicated=[])
    log = written_log(cluster.data(2))
    at = HEADER_SIZE + 3
    with log.open("r+b") as file:  # under a broker that runs, as a disk does it
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))

    done = cli("verify", "cluster", "t", code=2)

    assert b"broker 2" in done.stdout
    assert b"is damaged at offset 0" in done.stdout
    cluster.processes[2].communicate(timeout=SECONDS)
    assert cluster.processes.pop(2).returncode != 0
    cluster.start(2)
    until(cli, is_healthy=True, under_replicated=[])
    equal(cli, "t")


def test_an_unknown_topic_is_named(cli: CLI) -> None:
    topic(cli, "orders", (1, 2))

    assert "did you mean orders?" in error(cli, "verify", "cluster", "order", code=3)
