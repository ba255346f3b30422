"""Real power cuts: an ext4 that is shut down under a broker that is producing."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from random import Random

import pytest

from tests.support.broker_process import (
    BrokerProcess,
    Gone,
    Refused,
    Said,
    connected,
    produce,
    verify,
)
from tests.support.loop_disk import LoopDisk, loop_disk, need_loop_devices
from zmqmq.errors import Code

SCALE = int(os.environ.get("ZMQMQ_TEST_SCALE", "1"))
MANY = 200 * max(SCALE // 10, 1)
CONFIG = """
[storage]
checkpoint_ms = 100
retention_check_ms = 100
free_bytes_min = 1048576
"""

pytestmark = pytest.mark.root


def cut_while_producing(disk: LoopDisk, said: Said, rng: Random) -> int:
    """One life, from the check of the last one to the cut; how many records were there."""
    log = disk.image.with_name("log")
    with BrokerProcess(disk.root / "data", config=CONFIG, log=log) as broker:
        assert broker.wait_ready(), broker.errors
        kept: dict[int, int] = {}

        def cut_power() -> None:
            # What the client hears later than this, no machine without power would have said.
            # (The kernel answers 0 to some fdatasync that the ioctl overtakes.)
            kept.update(said.acknowledged.copy())
            disk.cut_power()

        cut = threading.Timer(rng.uniform(0.02, 0.4), cut_power)
        with connected(broker) as client:
            said.topic_id = client.topic(segment_bytes=65_536, segment_ms=200)
            there = verify(client, said)
            cut.start()
            try:
                while True:
                    produce(client, said, 40, window=8, size=rng.choice((40, 2_000)))
            except Gone:
                pass
            except Refused as error:
                if error.code not in (Code.NOT_COMMITTED, Code.STORAGE_OFFLINE):
                    raise
            finally:
                cut.join()
                said.acknowledged = kept
    disk.unmount()
    disk.mount()
    return there


def cut_often(tmp_path: Path, cuts: int, seed: int) -> None:
    need_loop_devices()
    said, rng = Said(), Random(seed)
    with loop_disk(tmp_path, 256) as disk:
        start = time.perf_counter()
        for _ in range(cuts):
            before = len(said.acknowledged)
            there = cut_while_producing(disk, said, rng)
            assert there >= before
        log = disk.image.with_name("log")
        with BrokerProcess(disk.root / "data", config=CONFIG, log=log) as last:
            assert last.wait_ready(), last.errors
            with connected(last) as client:
                client.topic()
                there = verify(client, said)
                assert client.topic() == said.topic_id
                produce(client, said, 3)
                verify(client, said)
            assert last.stop() == 0
        took = time.perf_counter() - start
        print(f"{cuts} power cuts, {there} records, {took:.1f} s")  # noqa: T201
        assert len(said.acknowledged) > cuts, "hardly anything was acknowledged: nothing was tested"


@pytest.mark.timeout(300)
def test_twenty_power_cuts_lose_nothing(tmp_path: Path) -> None:
    cut_often(tmp_path, 20, 1)


@pytest.mark.slow
@pytest.mark.timeout(6 * MANY)
def test_two_hundred_power_cuts_lose_nothing(tmp_path: Path) -> None:
    cut_often(tmp_path, MANY, 2)
