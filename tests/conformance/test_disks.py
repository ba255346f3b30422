"""The real disk and the simulated one keep the same promises."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.conformance.disk import DiskConformance
from zmqmq.core.storage.disk import Disk
from zmqmq.errors import StorageError
from zmqmq.runtime.os_disk import OSDisk
from zmqmq.sim.disk import SimDisk


class TestOSDisk(DiskConformance):
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Disk:
        return OSDisk(tmp_path)


class TestSimDisk(DiskConformance):
    @pytest.fixture
    def disk(self) -> Disk:
        return SimDisk(budget=1 << 20)


def test_what_was_just_written_is_cached(tmp_path: Path) -> None:
    file = OSDisk(tmp_path).open("a", create=True)
    file.write(0, [b"x" * 5000])
    if file.read_cached(0, 1) is None:
        pytest.skip("this file system cannot tell what is cached")

    assert file.read_cached(4000, 500) == b"x" * 500
    assert file.read_cached(4000, 5000) == b"x" * 1000
    assert file.read_cached(5000, 10) == b""


def test_what_was_dropped_from_memory_is_not_waited_for(tmp_path: Path) -> None:
    file = OSDisk(tmp_path).open("a", create=True)
    file.write(0, [b"x" * 1_000_000])
    if file.read_cached(0, 1) is None:
        pytest.skip("this file system cannot tell what is cached")
    file.sync()
    # A page that somebody is looking at just now stays.
    for _ in range(100):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        found = file.read_cached(500_000, 1000)
        if found is None:
            break
        time.sleep(0.01)
    assert found is None
    assert file.read(500_000, 1000) == b"x" * 1000


def test_what_is_cached_in_part_is_not_cut_short(tmp_path: Path) -> None:
    file = OSDisk(tmp_path).open("a", create=True)
    for i in range(256):
        file.write(i * 4096, [b"x" * 4096])
    file.sync()
    half = 128 * 4096
    os.posix_fadvise(file.fileno(), half, 0, os.POSIX_FADV_DONTNEED)
    if file.read_cached(half - 10, 10) is None or file.read_cached(half, 10) is not None:
        pytest.skip("this kernel does not drop half of a file from memory")
    # The look at what was not there has made the kernel read ahead, which may end only now.
    found = []
    for _ in range(100):
        os.posix_fadvise(file.fileno(), half, 0, os.POSIX_FADV_DONTNEED)
        found.append(file.read_cached(half - 10, 20))
        if found[-1] is None:
            break
        time.sleep(0.01)
    assert found[-1] is None
    assert all(whole == b"x" * 20 for whole in found[:-1])


def test_a_short_write_is_carried_on_where_it_stopped(tmp_path: Path) -> None:
    """Called by itself, for the kernel cuts a write short only at 2 GiB or on a full disk."""
    file = OSDisk(tmp_path).open("a", create=True)
    file.write(10, [b"abcde"])
    file._write_rest(10, [b"abc", b"defg", b"", b"hi"], 5)

    assert file.read(10, 99) == b"abcdefghi"


def test_children_do_not_inherit_files(tmp_path: Path) -> None:
    disk = OSDisk(tmp_path)

    assert not os.get_inheritable(disk.open("a", create=True).fileno())
    assert not os.get_inheritable(disk.open_directory("").fileno())


def test_a_closed_file_says_so_and_closes_twice(tmp_path: Path) -> None:
    file = OSDisk(tmp_path).open("a", create=True)
    file.close()
    file.close()

    with pytest.raises(StorageError, match=r"sync '.*/a' failed: EBADF, Bad file descriptor"):
        file.sync()
    with pytest.raises(StorageError, match="write"):
        file.write(0, [b"x"])
    with pytest.raises(StorageError, match="read"):
        file.read(0, 1)
    with pytest.raises(StorageError, match="stat"):
        _ = file.size


def test_files_of_one_folder_are_on_its_file_system(tmp_path: Path) -> None:
    disk = OSDisk(tmp_path)

    assert disk.open("a", create=True).file_system_id == disk.file_system_id
