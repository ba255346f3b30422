"""The flusher makes files durable off the loop, and says which it could not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import get_ident

import pytest

from zmqmq.runtime.flusher import THREADS_MAX, Failures, Flusher, has_exact_syncfs
from zmqmq.runtime.os_disk import OSDisk, OSFile


class Loop:
    """Stands in for the event loop: runs what threads hand to it in the thread of the test."""

    def __init__(self) -> None:
        self.callbacks: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def run_one(self) -> None:
        self.callbacks.get(timeout=30)()


class Bench:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.disk = OSDisk(root)
        self.loop = Loop()
        self.flusher = Flusher(self.disk, self.loop.callbacks.put)

    def flush(self, files: Sequence[OSFile]) -> Failures:
        answers: list[tuple[int, Failures]] = []
        self.flusher.submit(files, lambda failures: answers.append((get_ident(), failures)))
        self.loop.run_one()
        [(thread, failures)] = answers
        assert thread == get_ident()
        return failures

    def files(self, count: int) -> list[OSFile]:
        files = [self.disk.open(f"file-{i}", create=True) for i in range(count)]
        for file in files:
            file.write(0, [b"x" * 100])
        return files

    def bad_file(self) -> OSFile:
        """A file that cannot be flushed: the kernel answers EINVAL for a pipe."""
        os.mkfifo(self.root / "pipe")
        return self.disk.open("pipe")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.flusher.close()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_done_is_called_on_the_loop_with_no_failures(bench: Bench, count: int) -> None:
    assert bench.flush(bench.files(count)) == {}


def test_a_folder_is_flushed_like_a_file(bench: Bench) -> None:
    assert bench.flush([*bench.files(1), bench.disk.open_directory("")]) == {}


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_file_that_fails_is_named_alone(bench: Bench, count: int) -> None:
    bad = bench.bad_file()
    failures = bench.flush([*bench.files(count), bad])

    assert list(failures) == [bad]
    assert "sync" in str(failures[bad])
    assert "pipe' failed: EINVAL" in str(failures[bad])


def test_a_closed_file_fails(bench: Bench) -> None:
    [file] = bench.files(1)
    file.close()

    assert "EBADF" in str(bench.flush([file])[file])


def test_it_goes_on_after_a_failure(bench: Bench) -> None:
    assert bench.flush([bench.bad_file()])
    assert bench.flush(bench.files(20)) == {}


def test_one_job_at_a_time(bench: Bench) -> None:
    files = bench.files(1)
    done: list[Failures] = []
    bench.flusher._is_busy = True
    with pytest.raises(AssertionError, match="one flush at a time"):
        bench.flusher.submit(files, done.append)


def test_done_may_submit_the_next_job(bench: Bench) -> None:
    files = bench.files(1)
    answers: list[Failures] = []

    def again(_: Failures) -> None:
        bench.flusher.submit(files, answers.append)

    bench.flusher.submit(files, again)
    bench.loop.run_one()
    bench.loop.run_one()

    assert answers == [{}]


def test_close_waits_for_the_job_in_flight(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    answers: list[Failures] = []
    bench.flusher.submit(bench.files(10), answers.append)
    bench.flusher.close()
    bench.loop.run_one()

    assert answers == [{}]


def test_both_methods_are_tried_for_many_files_and_counted(bench: Bench) -> None:
    files = bench.files(20)
    for _ in range(6):
        assert bench.flush(files) == {}

    by_file, by_system = bench.flusher.by_file, bench.flusher.by_file_system
    assert by_file.flushes + by_system.flushes == 6
    assert by_file.files + by_system.files == 120
    assert by_file.nanoseconds > 0
    if has_exact_syncfs():
        assert by_file.flushes >= 2
        assert by_system.flushes >= 2
        assert by_system.nanoseconds > 0


def test_a_few_files_never_flush_the_whole_file_system(bench: Bench) -> None:
    files = bench.files(2)
    for _ in range(10):
        bench.flush(files)

    assert bench.flusher.by_file.flushes == 10
    assert bench.flusher.by_file_system.flushes == 0


def test_after_an_error_only_single_files_are_flushed(bench: Bench) -> None:
    """A later syncfs would report the same error again, for files that are well."""
    bench.flush([bench.bad_file()])
    files = bench.files(20)
    for _ in range(6):
        assert bench.flush(files) == {}

    assert bench.flusher.by_file_system.flushes == 0


def test_it_has_no_more_threads_than_it_needs(bench: Bench) -> None:
    bench.flush(bench.files(2))
    assert len(bench.flusher._helpers) == 0

    bench.flush(bench.files(20))
    assert len(bench.flusher._helpers) == THREADS_MAX - 1


def test_it_works_with_an_asyncio_loop(tmp_path: Path) -> None:
    async def flush_once() -> Failures:
        loop = asyncio.get_running_loop()
        disk = OSDisk(tmp_path)
        flusher = Flusher(disk, loop.call_soon_threadsafe)
        done: asyncio.Future[Failures] = loop.create_future()
        flusher.submit([disk.open("a", create=True)], done.set_result)
        failures = await done
        flusher.close()
        return failures

    assert asyncio.run(flush_once()) == {}
