"""Flushes by the kernel: the same promises as `File.sync`, without a thread of ours."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from zmqmq.errors import StorageError
from zmqmq.runtime.flusher import KERNEL_MAX, Failures, Flusher
from zmqmq.runtime.kernel_flush import KernelFlush, available
from zmqmq.runtime.os_disk import OSDisk, OSFile


async def flushed(kernel: KernelFlush, files: list[OSFile]) -> dict[OSFile, StorageError]:
    done: asyncio.Future[dict[OSFile, StorageError]] = asyncio.get_running_loop().create_future()
    assert kernel.submit(files, done.set_result)
    return await asyncio.wait_for(done, 60)


def kernel_of_loop() -> KernelFlush:
    kernel = available(asyncio.get_running_loop())
    if kernel is None:
        assert not os.environ.get("ZMQMQ_TEST_NO_SKIP"), "this kernel has no AIO"
        pytest.skip("this kernel has no AIO")
    return kernel


def test_files_and_folders_are_flushed_one_group_after_the_other(tmp_path: Path) -> None:
    async def run() -> None:
        kernel = kernel_of_loop()
        disk = OSDisk(tmp_path)
        files = [disk.open(f"f{number}", create=True) for number in range(5)]
        for round_ in range(20):
            for file in files:
                file.write(round_ * 100, [b"x" * 100])
            assert await flushed(kernel, [*files, disk.open_directory("")]) == {}
        kernel.close()

    asyncio.run(run())


def test_the_file_that_fails_is_named_and_the_others_are_durable(tmp_path: Path) -> None:
    async def run() -> None:
        kernel = kernel_of_loop()
        disk = OSDisk(tmp_path)
        good = disk.open("good", create=True)
        # A descriptor that cannot be flushed: the kernel answers EINVAL for a pipe.
        read_end, write_end = os.pipe()
        bad = OSFile(write_end, "bad")
        failures = await flushed(kernel, [good, bad])
        assert list(failures) == [bad]
        assert "bad" in str(failures[bad])
        os.close(read_end)
        kernel.close()

    asyncio.run(run())


def test_the_flusher_gives_small_groups_to_the_kernel_and_large_ones_to_threads(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        disk = OSDisk(tmp_path)
        kernel = kernel_of_loop()
        flusher = Flusher(disk, loop.call_soon_threadsafe, kernel)
        files = [disk.open(f"f{number}", create=True) for number in range(KERNEL_MAX + 1)]
        for count in (1, KERNEL_MAX, KERNEL_MAX + 1, 1):
            done: asyncio.Future[Failures] = loop.create_future()
            for file in files[:count]:
                file.write(0, [b"y" * 10])
            flusher.submit(files[:count], done.set_result)
            assert await asyncio.wait_for(done, 60) == {}
        assert flusher.by_file.flushes + flusher.by_file_system.flushes == 4
        flusher.close()
        kernel.close()

    asyncio.run(run())
