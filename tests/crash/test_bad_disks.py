"""A disk that fails or fills up under the real broker, and directories that are not its own."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path

import pytest
from crc32c import crc32c

from tests.support.broker_process import (
    BrokerProcess,
    Gone,
    Refused,
    Said,
    connected,
    missing,
    produce,
    verify,
)
from tests.support.loop_disk import loop_disk, need_loop_devices
from zmqmq.errors import Code

QUIET = """
[storage]
flusher = "threads"
checkpoint_ms = 60000
retention_check_ms = 60000
"""
SMALL = """
[storage]
free_bytes_min = 4194304
checkpoint_ms = 100
retention_check_ms = 100
"""


def strace_sync(trace: Path, file: Path, number: int) -> list[str]:
    """Only calls on this one file are seen, counted and failed."""
    return [
        *("-o", str(trace), "-y", "-P", str(file), "-e", "trace=fdatasync,fsync,syncfs"),
        *("-e", f"inject=fdatasync:error=EIO:when={number}"),
    ]


@pytest.mark.strace
@pytest.mark.parametrize("number", [3, 7])
def test_a_sync_that_fails_once_takes_the_partition_offline(tmp_path: Path, number: int) -> None:
    if shutil.which("strace") is None:
        missing("strace is not installed")
    said, trace, folder = Said(), tmp_path / "trace", tmp_path / "data"
    with BrokerProcess(folder, config=QUIET) as broker:
        assert broker.wait_ready(), broker.errors
        with connected(broker) as client:
            said.topic_id = client.topic()
            produce(client, said, 3)
        assert broker.stop() == 0

    file = folder / "logs" / f"{said.topic_id.hex()}.0.0" / f"{0:020d}.log"
    assert file.is_file()
    with BrokerProcess(folder, strace=strace_sync(trace, file, number), config=QUIET) as broker:
        assert broker.wait_ready(), broker.errors
        with connected(broker) as client:
            client.topic()
            with pytest.raises(Refused) as refused:
                produce(client, said, 40, window=1)
            assert refused.value.code in (Code.NOT_COMMITTED, Code.STORAGE_OFFLINE)
            before = len(said.acknowledged)
            with pytest.raises(Refused) as refused:
                produce(client, said, 2)
            assert refused.value.code in (Code.NOT_COMMITTED, Code.STORAGE_OFFLINE)
            with pytest.raises(Refused) as refused:
                client.read_all(said.topic_id)
            assert refused.value.code == Code.STORAGE_OFFLINE
            assert len(said.acknowledged) == before
            # Another topic goes on.
            assert client.topic("other") != said.topic_id
        broker.kill()

    lines = trace.read_text().splitlines()
    failed = [n for n, line in enumerate(lines) if "EIO" in line]
    assert len(failed) == 1, lines
    path = re.search(r"<([^>]*)>", lines[failed[0]])
    assert path is not None
    assert path[1].endswith(".log"), "the test failed another file than it wanted to"
    assert not any(f"<{path[1]}>" in line for line in lines[failed[0] + 1 :]), "synced again"

    with BrokerProcess(folder, config=QUIET) as broker:
        assert broker.wait_ready(), broker.errors
        with connected(broker) as client:
            client.topic()
            assert verify(client, said) >= before
            produce(client, said, 3)
            assert verify(client, said) == len(said.acknowledged)


@pytest.mark.root
def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    need_loop_devices()
    said = Said()
    with (
        loop_disk(tmp_path, 48) as disk,
        BrokerProcess(disk.root / "data", config=SMALL, log=tmp_path / "log") as broker,
    ):
        assert broker.wait_ready(), broker.errors
        with connected(broker) as client:
            said.topic_id = client.topic()
            produce(client, said, 5)
            ballast = disk.root / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(bytes(1 << 20)):
                    pass
            with pytest.raises(Refused) as refused:
                produce(client, said, 4_000, window=1, size=30_000, batch=10)
            assert refused.value.code == Code.DISK_FULL

            assert broker.is_alive
            verify(client, said)
            with pytest.raises(Refused) as refused:
                produce(client, said, 100, window=1, size=30_000, batch=10)
            assert refused.value.code == Code.DISK_FULL

            ballast.unlink()
            produce(client, said, 3, size=30_000)
            assert verify(client, said) == len(said.acknowledged)
        assert broker.stop() == 0


def stopped_broker(folder: Path) -> None:
    with BrokerProcess(folder) as broker:
        assert broker.wait_ready(), broker.errors
        assert broker.stop() == 0


def refusal_of(folder: Path) -> str:
    with BrokerProcess(folder, log=folder.with_name("refused")) as broker:
        assert not broker.wait_ready(), "it started"
        assert broker.process.wait(60) not in (0, 1), "neither a success nor a bug"
        errors = broker.errors
    assert "Traceback" not in errors, errors
    return errors


def test_two_brokers_on_one_directory(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with BrokerProcess(folder) as broker:
        assert broker.wait_ready(), broker.errors

        assert f"in use by another broker (process {broker.process.pid})" in refusal_of(folder)

        assert broker.is_alive


def test_a_directory_of_a_newer_format(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    stopped_broker(folder)
    path = folder / "format"
    fields = json.loads(path.read_bytes().rpartition(b"\n")[0])
    text = json.dumps({**fields, "format": 99, "new": True}).encode()
    path.write_bytes(text + b"\n%08x" % crc32c(text))

    assert "format 99" in refusal_of(folder)


def test_files_of_two_clusters(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    stopped_broker(one)
    stopped_broker(other)
    shutil.copy(other / "metadata.db", one / "metadata.db")

    assert "two clusters are mixed" in refusal_of(one)


def test_logs_without_a_format(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    stopped_broker(folder)
    (folder / "format").unlink()

    assert "restore it from a backup" in refusal_of(folder)


def test_a_lost_metadata_store(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    stopped_broker(folder)
    (folder / "metadata.db").unlink()

    assert "metadata.db was lost" in refusal_of(folder)


def test_gone_is_not_refused() -> None:
    assert not issubclass(Gone, Refused)


def test_a_metadata_store_that_has_gone_back(tmp_path: Path) -> None:
    """A backup, or one whose end was lost: topics made since then would be missing in silence."""
    folder = tmp_path / "data"
    stopped_broker(folder)
    shutil.copy(folder / "metadata.db", tmp_path / "copy")
    stopped_broker(folder)
    stopped_broker(folder)
    shutil.copy(tmp_path / "copy", folder / "metadata.db")

    assert "has gone back" in refusal_of(folder)


@pytest.mark.root
@pytest.mark.parametrize("flusher", ["auto", "threads"])
def test_a_file_system_that_dies_takes_its_partitions_offline(tmp_path: Path, flusher: str) -> None:
    """The kernel's own errors, not injected ones: both ways to flush hear of them."""
    need_loop_devices()
    said = Said()
    config = QUIET.replace('"threads"', f'"{flusher}"')
    with loop_disk(tmp_path, 192) as disk:
        with BrokerProcess(disk.root / "data", config=config, log=tmp_path / "log") as broker:
            assert broker.wait_ready(), broker.errors
            with connected(broker) as client:
                said.topic_id = client.topic()
                produce(client, said, 5)
                disk.cut_power()
                with pytest.raises(Refused) as refused:
                    produce(client, said, 5, window=1)
                assert refused.value.code in (Code.NOT_COMMITTED, Code.STORAGE_OFFLINE)
                assert broker.is_alive
            broker.kill()
        disk.unmount()
        disk.mount()
        with BrokerProcess(disk.root / "data", log=tmp_path / "log2") as broker:
            assert broker.wait_ready(), broker.errors
            with connected(broker) as client:
                client.topic()
                assert verify(client, said) == len(said.acknowledged)
            assert broker.stop() == 0
