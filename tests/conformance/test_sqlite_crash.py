"""What was answered is there, when the process dies at any moment."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from zmqmq.runtime.sqlite_store import SqliteStore

COMMITTER = """
import asyncio, sys
from zmqmq.core.meta.store import Put
from zmqmq.runtime.sqlite_store import SqliteStore

async def main(path, turn, number, lanes):
    store = SqliteStore(path)
    await store.open()

    async def commits(lane):
        for i in range(number):
            value = b"%d" % i
            ops = [Put(b"%s/%d/%d" % (turn, lane, i), value), Put(b"last/%d" % lane, value)]
            done = await store.commit(ops)
            sys.stdout.write(f"{lane} {i} {done.revision}\\n")
            sys.stdout.flush()
            if i % 50 == 49:
                try:
                    await store.compact(done.revision - 20)
                except Exception:
                    pass

    await asyncio.gather(*map(commits, range(lanes)))
    await store.close()

asyncio.run(main(sys.argv[1], sys.argv[2].encode(), int(sys.argv[3]), int(sys.argv[4])))
"""


def test_every_commit_that_was_reported_survives_sigkill(tmp_path: Path) -> None:
    random = Random(3)
    path = tmp_path / "x"
    reported: dict[bytes, int] = {}
    for turn in range(6):
        child = [sys.executable, "-c", COMMITTER, str(path), f"{turn}", "1000000", "3"]
        with subprocess.Popen(child, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            first = [process.stdout.readline() for _ in range(20)]
            time.sleep(random.uniform(0, 0.3))
            process.kill()
            lines = [*first, *process.stdout.read().splitlines(keepends=True)]
        for line in lines:
            if line.endswith(b"\n"):
                lane, i, revision = line.split()
                reported[b"%d/%s/%s" % (turn, lane, i)] = int(revision)
        asyncio.run(check(path, reported))
    assert len(reported) > 100


async def check(path: Path, reported: dict[bytes, int]) -> None:
    store = SqliteStore(path)
    await store.open()
    snapshot = await store.list(b"")
    found = {kv.key: kv for kv in snapshot.items}
    for key, revision in reported.items():
        assert found[key].mod_revision == revision
    for lane in range(3):
        last = found[b"last/%d" % lane]
        (whole,) = (
            kv for kv in found.values() if kv.mod_revision == last.mod_revision and kv != last
        )
        assert whole.value == last.value, "half of a commit"
    assert snapshot.revision == max(kv.mod_revision for kv in snapshot.items)
    await store.close()


@pytest.mark.strace
def test_a_commit_is_reported_after_its_one_flush(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    calls = "trace=write,pwrite64,pwritev,fsync,fdatasync"
    child = ["strace", "-f", "-y", "-e", calls, "-o", str(trace)]
    child += [sys.executable, "-c", COMMITTER, str(tmp_path / "x"), "0", "40", "1"]
    if subprocess.run(child, stdout=subprocess.DEVNULL, check=False).returncode != 0:
        pytest.skip("strace cannot trace here")
    is_flushed, flushes, reports = True, 0, 0
    for line in trace.read_text(errors="replace").splitlines():
        if re.search(r" p?write\w*\(\d+<[^>]*-wal>", line):
            is_flushed = False
        elif re.search(r"sync\(\d+<[^>]*-wal>.* = 0$", line) or re.search(
            r"sync resumed.* = 0$", line
        ):
            is_flushed, flushes = True, flushes + 1
        elif re.search(r' write\(1<[^>]*>, "0 \d', line):
            assert is_flushed
            reports += 1
    assert reports == 40
    # Besides the commits there is the making of the tables, and the end.
    assert 40 <= flushes <= 44
