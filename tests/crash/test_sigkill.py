"""The real broker, killed by SIGKILL at its n-th system call that changes a file.

strace counts the calls and kills. The workload rolls segments, writes checkpoints and drops old
segments within a second; the first life is killed, perhaps while it starts, the second one too
(so recovery is cut short), the third must serve all that was acknowledged.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random

import pytest

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

SCALE = int(os.environ.get("ZMQMQ_TEST_SCALE", "1"))
CALLS = (
    "pwrite64,pwritev,io_submit,fdatasync,fsync,syncfs,"
    "rename,ftruncate,fallocate,unlink,mkdir,openat"
)
CHANGES = CALLS.removesuffix(",openat")
CONFIG = """
[storage]
checkpoint_ms = 100
retention_check_ms = 100
"""
KILLS_FAST = 6
KILLS = 48 * SCALE
CALL_LAST = 420
"""The workload makes about so many such calls from the start of the process on."""

pytestmark = pytest.mark.strace


@pytest.fixture(autouse=True)
def _strace() -> None:
    if shutil.which("strace") is None:
        missing("strace is not installed")


def kill_at(number: int, calls: str = CHANGES) -> list[str]:
    return [
        "-o",
        "/dev/null",
        "-e",
        f"trace={calls}",
        "-e",
        f"inject={calls}:signal=KILL:when={number}",
    ]


def live(folder: Path, said: Said, strace: list[str], batches: int) -> bool:
    """One life of a broker; whether it was killed in it."""
    with BrokerProcess(folder, strace=strace, config=CONFIG) as broker:
        if not broker.wait_ready():
            return True
        try:
            with connected(broker) as client:
                found = client.topic(segment_bytes=4096, segment_ms=100)
                assert said.topic_id in (b"", found) or not said.acknowledged, "the topic is gone"
                said.topic_id = found
                if strace:
                    produce(client, said, batches)
                else:
                    verify(client, said)
                    # What was not acknowledged is sent again, and taken once.
                    produce(client, said, batches)
                    assert verify(client, said) == len(said.acknowledged)
        except Gone:
            return True
        except Refused as error:
            pytest.fail(f"refused: {error}; {broker.errors}")
        return False


def one_kill(tmp_path: Path, number: int, again: int) -> None:
    said = Said()
    folder = tmp_path / "data"
    live(folder, said, kill_at(number), 60)
    live(folder, said, kill_at(again), 10)
    assert not live(folder, said, [], 5)


@pytest.mark.parametrize("sample", range(KILLS_FAST))
def test_killed_at_a_call_nothing_acknowledged_is_lost(tmp_path: Path, sample: int) -> None:
    rng = Random(sample)
    low = CALL_LAST * sample // KILLS_FAST + 1
    number = rng.randrange(low, low + CALL_LAST // KILLS_FAST)
    one_kill(tmp_path, number, rng.randrange(1, 120))


@pytest.mark.slow
@pytest.mark.parametrize("sample", range(KILLS))
def test_killed_at_many_calls_nothing_acknowledged_is_lost(tmp_path: Path, sample: int) -> None:
    rng = Random(1_000 + sample)
    low = CALL_LAST * sample // KILLS + 1
    number = rng.randrange(low, low + max(CALL_LAST // KILLS, 1))
    one_kill(tmp_path, number, rng.randrange(1, 120))
