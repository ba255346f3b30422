"""Broadcast consumers against a real broker: everything to every name, and on from there."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import zmqmq
import zmqmq.aio
from tests.e2e.command_line import CLI, SECONDS, until_it_holds
from zmqmq.errors import ConfigError, ConflictError, CorruptDataError, NotFoundError, UsageError

WAIT = SECONDS * 1_000
"""What a fetch waits for records that are there: half a second is the default."""
PROGRAM = """
import os, sys, time, zmqmq
address, topic, folder, name, limit = sys.argv[1:]
with zmqmq.connect(address) as mq:
    consumer = mq.consumer(topic, broadcast=name, offsets_dir=folder, auto_commit_ms=10)
    for number, record in enumerate(consumer, 1):
        os.write(1, b"%d:%d\\n" % (record.partition, record.offset))
        time.sleep(0.001)
        if number == int(limit):
            break
    consumer.close()
"""


def fill(mq: zmqmq.Client, topic: str, count: int, batch_records: int = 7) -> None:
    """So many records more, evenly over both partitions."""
    with mq.producer(topic, batch_records=batch_records) as producer:
        for number in range(count):
            producer.send(b"%d" % number, partition=number % 2)


def read(mq: zmqmq.Client, topic: str, name: str, folder: Path, **options: Any) -> list[Any]:
    """What this name gets now, up to the end."""
    options = {"stop_at_end": True, **options}
    with mq.consumer(topic, broadcast=name, offsets_dir=folder, **options) as consumer:
        return [(record.partition, record.offset) for record in consumer]


def places(count: int, start: int = 0) -> list[tuple[int, int]]:
    """Partition and offset of so many records."""
    return sorted((p, offset) for p in range(2) for offset in range(start, count // 2))


def content(folder: Path, name: str) -> Any:
    paths = [*folder.rglob(f"{name}.json")]
    assert len(paths) == 1, paths
    return json.loads(paths[0].read_text())


def start_program(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def seen_in(output: str) -> list[tuple[int, int]]:
    """Whole lines only: the last may have been cut by the kill."""
    lines = output.splitlines(keepends=True)
    pairs = [line.strip().split(":") for line in lines if line.endswith("\n")]
    return [(int(partition), int(offset)) for partition, offset in pairs]


def test_two_names_get_everything_each_and_go_on_where_they_left_off(
    mq: zmqmq.Client, topic: str, tmp_path: Path
) -> None:
    fill(mq, topic, 100)
    assert sorted(read(mq, topic, "one", tmp_path)) == places(100)
    assert sorted(read(mq, topic, "two", tmp_path)) == places(100)
    assert read(mq, topic, "one", tmp_path) == []
    fill(mq, topic, 10)

    assert sorted(read(mq, topic, "one", tmp_path)) == places(110, 50)
    assert sorted(read(mq, topic, "two", tmp_path)) == places(110, 50)
    assert mq.groups() == []
    assert sorted(read(mq, topic, "one", tmp_path, start="start")) == places(110)


def test_what_is_pushed_is_committed_like_what_is_pulled(
    mq: zmqmq.Client, topic: str, tmp_path: Path
) -> None:
    options: Any = {"broadcast": "me", "offsets_dir": tmp_path, "mode": "push"}
    for turn in range(2):
        with mq.consumer(topic, **options) as consumer:
            fill(mq, topic, 100)
            seen: list[tuple[int, int]] = []
            while len(seen) < 100:
                seen += [(r.partition, r.offset) for r in consumer.fetch(100, WAIT)]
            consumer.commit()
        assert sorted(seen) == places(100 * (turn + 1), 50 * turn)
        rows = content(tmp_path, "me")["offsets"]
        assert [(row["offset"], row["epoch"] > 0) for row in rows] == [(50 * (turn + 1), True)] * 2


def test_what_is_in_hand_at_the_close_comes_again(
    mq: zmqmq.Client, topic: str, tmp_path: Path
) -> None:
    fill(mq, topic, 100)
    with mq.consumer(topic, broadcast="me", offsets_dir=tmp_path) as consumer:
        *before, in_hand = itertools.islice(consumer, 30)
    last = (in_hand.partition, in_hand.offset)
    again = read(mq, topic, "me", tmp_path)

    assert sorted([*((r.partition, r.offset) for r in before), *again]) == places(100)
    assert last in again


def test_commits_by_hand(mq: zmqmq.Client, topic: str, tmp_path: Path) -> None:
    fill(mq, topic, 20)
    options: Any = {"broadcast": "me", "offsets_dir": tmp_path, "auto_commit": False}
    with mq.consumer(topic, **options) as consumer:
        assert consumer.committed(topic, 0) is None
        consumer.fetch(5, WAIT)
    with mq.consumer(topic, **options, stop_at_end=True) as consumer:
        assert len(list(consumer)) == 20  # nothing was committed
        consumer.commit({(topic, 0): 4})
        assert (consumer.committed(topic, 0), consumer.committed(topic, 1)) == (4, None)
        with pytest.raises(UsageError, match="-1 is no offset"):
            consumer.commit({(topic, 0): -1})
        with pytest.raises(NotFoundError, match="partitions 0 to 1; 2 is none"):
            consumer.commit({(topic, 2): 1})
        with pytest.raises(NotFoundError):
            consumer.commit({("no-such-topic", 0): 1})
        assert consumer.committed(topic, 0) == 4
    with mq.consumer(topic, **options, stop_at_end=True) as consumer:
        assert [r.offset for r in consumer if r.partition == 0] == [4, 5, 6, 7, 8, 9]
        consumer.commit()
    rows = content(tmp_path, "me")["offsets"]
    assert [(row["partition"], row["offset"], row["epoch"] > 0) for row in rows] == [
        (0, 10, True),
        (1, 10, True),
    ]


def test_offsets_are_committed_while_it_reads(mq: zmqmq.Client, topic: str, tmp_path: Path) -> None:
    fill(mq, topic, 20)
    with mq.consumer(
        topic, broadcast="me", offsets_dir=tmp_path, auto_commit_ms=10, stop_at_end=True
    ) as consumer:
        assert len(list(consumer)) == 20

        def is_committed() -> None:
            assert [consumer.committed(topic, p) for p in range(2)] == [10, 10]

        until_it_holds(is_committed)


def test_an_automatic_commit_does_not_go_back_behind_one_by_hand(
    mq: zmqmq.Client, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def rename(*arguments: Any) -> None:
        time.sleep(0.1)  # automatic commits come while this one is written
        real(*arguments)

    monkeypatch.setattr(os, "rename", rename)
    fill(mq, topic, 20)
    with mq.consumer(
        topic, broadcast="me", offsets_dir=tmp_path, partitions=[0], auto_commit_ms=10
    ) as consumer:
        for count in (2, 4, 6):
            consumer.fetch(1, WAIT)
            consumer.fetch(1, WAIT)
            consumer.commit()
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                assert content(tmp_path, "me")["offsets"][0]["offset"] == count


@pytest.mark.parametrize("has_committed", [False, True])
def test_killed_in_the_middle_nothing_is_skipped(
    servers: str, mq: zmqmq.Client, topic: str, tmp_path: Path, has_committed: bool
) -> None:
    fill(mq, topic, 1_000)
    with start_program(servers, topic, tmp_path, "me", 1_000_000) as process:
        assert process.stdout is not None
        output = process.stdout.readline()

        def is_committed() -> None:  # what it has in hand first is not
            assert any(row["offset"] for row in content(tmp_path, "me")["offsets"])

        if has_committed:
            until_it_holds(is_committed)
        process.kill()
        output += process.stdout.read()  # `communicate` would lose what `readline` has buffered
    before = seen_in(output)
    stored = {0: 0, 1: 0}
    if has_committed or list(tmp_path.rglob("me.json")):
        stored |= {row["partition"]: row["offset"] for row in content(tmp_path, "me")["offsets"]}
    again = read(mq, topic, "me", tmp_path)

    assert {*before, *again} == {*places(1_000)}, "something was skipped"
    assert sorted(again) == [place for place in places(1_000) if place[1] >= stored[place[0]]]
    assert not has_committed or any(stored.values())


def test_a_second_process_is_told_who_has_the_name(
    servers: str, mq: zmqmq.Client, topic: str, tmp_path: Path
) -> None:
    fill(mq, topic, 10)
    with start_program(servers, topic, tmp_path, "me", 1_000_000) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(ConflictError, match=rf"in process {process.pid} "):
                mq.consumer(topic, broadcast="me", offsets_dir=tmp_path)
            with start_program(servers, topic, tmp_path, "me", 1) as second:
                _, errors = second.communicate(timeout=SECONDS)
            assert f"in process {process.pid} " in errors
            assert second.returncode == 1
            assert len(read(mq, topic, "other", tmp_path)) == 10
        finally:
            process.kill()
    read(mq, topic, "me", tmp_path)


def test_a_topic_made_anew_begins_at_its_start(
    mq: zmqmq.Client, topic: str, tmp_path: Path
) -> None:
    fill(mq, topic, 100)
    read(mq, topic, "me", tmp_path)
    mq.topics.delete(topic)
    mq.topics.create(topic, partitions=2)
    fill(mq, topic, 120)

    assert sorted(read(mq, topic, "me", tmp_path)) == places(120)
    assert [row["offset"] for row in content(tmp_path, "me")["offsets"]] == [60, 60]


def test_damage_is_no_reason_to_begin_anew(mq: zmqmq.Client, topic: str, tmp_path: Path) -> None:
    fill(mq, topic, 10)
    read(mq, topic, "me", tmp_path)
    (path,) = tmp_path.rglob("me.json")
    path.write_bytes(path.read_bytes().replace(b'"offset": 5', b'"offset": 3'))

    with pytest.raises(CorruptDataError, match=r"me\.json is damaged .* remove it"):
        read(mq, topic, "me", tmp_path)
    path.unlink()
    assert len(read(mq, topic, "me", tmp_path)) == 10


def test_a_name_is_free_when_the_consumer_is_closed_or_never_came_to_be(
    servers: str, mq: zmqmq.Client, topic: str, tmp_path: Path
) -> None:
    fill(mq, topic, 10)
    for _ in range(2):
        with pytest.raises(NotFoundError, match="7 is none"):
            mq.consumer(topic, broadcast="me", offsets_dir=tmp_path, partitions=[7])
        with pytest.raises(ConfigError, match="start"):
            mq.consumer(topic, broadcast="me", offsets_dir=tmp_path, start="nowhere")
        mq.consumer(topic, broadcast="me", offsets_dir=tmp_path).close()
        for _ in mq.consumer(topic, broadcast="me", offsets_dir=tmp_path, stop_at_end=True):
            pass  # a loop over a consumer that nobody closes
        with zmqmq.connect(servers) as other:
            other.consumer(topic, broadcast="me", offsets_dir=tmp_path)  # closed with its client


def test_a_forked_child_is_told_and_holds_nothing(
    servers: str, mq: zmqmq.Client, topic: str, tmp_path: Path
) -> None:
    program = """
        import os, sys, time, zmqmq
        address, topic, folder = sys.argv[1:]
        mq = zmqmq.connect(address)
        consumer = mq.consumer(topic, broadcast="me", offsets_dir=folder, auto_commit_ms=10)
        consumer.fetch(10, 60_000)
        if os.fork() == 0:
            try:
                consumer.commit()
            except zmqmq.errors.UsageError as error:
                os.write(1, b"%d: %s\\n" % (os.getpid(), str(error).encode()))
            time.sleep(600)
        consumer.commit()
        os.write(1, b"committed\\n")
        time.sleep(600)
    """
    fill(mq, topic, 10)
    command = [sys.executable, "-c", textwrap.dedent(program), servers, topic, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told, done = sorted([process.stdout.readline(), process.stdout.readline()])
        child, _, message = told.partition(": ")
        try:
            assert done == "committed\n"
            assert "belongs to the parent process" in message
            process.kill()
            process.wait(SECONDS)
            read(mq, topic, "me", tmp_path)
        finally:
            process.kill()
            os.kill(int(child), signal.SIGKILL)


class TestAio:
    def test_it_reads_commits_and_goes_on(
        self, servers: str, mq: zmqmq.Client, topic: str, tmp_path: Path
    ) -> None:
        fill(mq, topic, 100)

        async def read_some(limit: int) -> list[tuple[int, int]]:
            async with await zmqmq.aio.connect(servers) as client:
                options: Any = {"broadcast": "me", "offsets_dir": tmp_path, "stop_at_end": True}
                async with client.consumer(topic, **options) as consumer:
                    with pytest.raises(ConflictError, match="which is this one"):
                        await client.consumer(topic, **options)
                    records = await consumer.fetch(limit)
                    await consumer.commit()
                    for partition in {r.partition for r in records}:
                        ends = [r.offset + 1 for r in records if r.partition == partition]
                        assert await consumer.committed(topic, partition) == max(ends)
                    return [(r.partition, r.offset) for r in records]

        seen: list[tuple[int, int]] = []
        while some := asyncio.run(read_some(30)):
            seen += some
        assert sorted(seen) == places(100)

    def test_the_loop_does_not_wait_for_the_disk(
        self,
        servers: str,
        mq: zmqmq.Client,
        topic: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        real, threads = os.fsync, []

        def fsync(number: int) -> None:
            threads.append(threading.current_thread())
            time.sleep(0.01)
            real(number)

        monkeypatch.setattr(os, "fsync", fsync)

        async def main() -> None:
            async with (
                await zmqmq.aio.connect(servers) as client,
                client.consumer(
                    topic, broadcast="me", offsets_dir=tmp_path, auto_commit_ms=10
                ) as consumer,
            ):
                for _ in range(10):
                    await consumer.fetch(1, WAIT)
                    await asyncio.sleep(0.02)
                await consumer.commit()

        fill(mq, topic, 20)
        asyncio.run(main())
        assert threads
        assert threading.main_thread() not in threads

    def test_nor_does_the_thread_of_the_blocking_client(
        self, mq: zmqmq.Client, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, threads = os.fsync, []

        def fsync(number: int) -> None:
            threads.append(threading.current_thread().name)
            real(number)

        monkeypatch.setattr(os, "fsync", fsync)
        fill(mq, topic, 20)
        with mq.consumer(
            topic, broadcast="me", offsets_dir=tmp_path, auto_commit_ms=10
        ) as consumer:
            for _ in range(10):
                consumer.fetch(1, WAIT)

            def is_committed() -> None:  # automatically
                assert "zmqmq-offsets" in threads

            until_it_holds(is_committed)
            consumer.commit()

        assert {*threads} == {"MainThread", "zmqmq-offsets"}

    def test_a_full_disk(
        self,
        servers: str,
        mq: zmqmq.Client,
        topic: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def fsync(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        async def main() -> None:
            async with (
                await zmqmq.aio.connect(servers) as client,
                client.consumer(topic, broadcast="me", offsets_dir=tmp_path) as consumer,
            ):
                await consumer.fetch(20, WAIT)
                await consumer.commit({(topic, 0): 1})
                with monkeypatch.context() as patch:
                    patch.setattr(os, "fsync", fsync)
                    with pytest.raises(zmqmq.errors.DiskFullError):
                        await consumer.commit({(topic, 0): 2})
                    await consumer.close()

        fill(mq, topic, 20)
        asyncio.run(main())
        assert "the last offsets were not committed: " in caplog.text
        assert [(r["partition"], r["offset"]) for r in content(tmp_path, "me")["offsets"]] == [
            (0, 1)
        ]
        assert (0, 1) in read(mq, topic, "me", tmp_path)


class TestCommandLine:
    @pytest.fixture
    def cli(self, servers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CLI:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        return CLI(servers)

    def test_each_name_gets_everything_once(self, cli: CLI, topic: str, tmp_path: Path) -> None:
        cli("produce", topic, "-p", "0", stdin=b"a\nb\nc\n")
        for name in ("one", "two"):
            assert cli("consume", topic, "--broadcast", name, "-n", "2").stdout == b"a\nb\n"
            assert cli("consume", topic, "--broadcast", name, "-e").stdout == b"c\n"
            assert cli("consume", topic, "--broadcast", name, "-e").stdout == b""
        cli("produce", topic, "-p", "0", stdin=b"d\n")
        done = cli("consume", topic, "--broadcast", "one", "-e", "-o", "stored")
        assert done.stdout == b"d\n"

        (path,) = (tmp_path / "zmqmq" / "broadcast").rglob("one.json")
        assert [row["offset"] for row in json.loads(path.read_text())["offsets"]] == [4]

    def test_what_goes_wrong_has_its_exit_code(
        self, cli: CLI, servers: str, topic: str, tmp_path: Path
    ) -> None:
        cli("produce", topic, "-p", "0", stdin=b"a\n")
        said = cli("consume", topic, "--broadcast", "me", "-g", "g", code=2).stderr
        assert b"-g and --broadcast exclude one another" in said
        assert b"forbidden character" in cli("consume", topic, "--broadcast", "a/b", code=2).stderr
        assert (
            b"name one with -g or --broadcast" in cli("consume", topic, "-ostored", code=2).stderr
        )
        folder = tmp_path / "zmqmq" / "broadcast"
        with start_program(servers, topic, folder, "me", 1_000_000) as process:
            try:
                assert process.stdout is not None
                process.stdout.readline()
                said = cli("consume", topic, "--broadcast", "me", code=4).stderr
                assert f"in process {process.pid} ".encode() in said
            finally:
                process.kill()
        cli("consume", topic, "--broadcast", "me", "-e")
        (path,) = folder.rglob("me.json")
        path.write_text("{}")
        said = cli("consume", topic, "--broadcast", "me", code=1).stderr
        assert str(path).encode() in said
        assert b"--broadcast" in cli("consume", "--help").stdout
