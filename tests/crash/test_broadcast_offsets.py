"""The file of a broadcast consumer on a disk that loses its power, fills up or is read-only."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.support.loop_disk import loop_disk, need_loop_devices
from zmqmq.client.offsets_file import Entry, OffsetsFile
from zmqmq.errors import DiskFullError, StorageError

CLUSTER = bytes(16)
PARTITIONS = 50


def entries_of(offset: int) -> dict[tuple[str, int], Entry]:
    """Every partition of a topic at this offset."""
    return {("t", p): Entry("t", b"\7" * 16, p, offset, 1) for p in range(PARTITIONS)}


def write_on(file: OffsetsFile) -> int:
    """Commit one offset after the other until the disk is gone; the last that was committed."""
    for offset in range(1, 1_000_000):
        try:
            file.write(entries_of(offset))
        except StorageError:
            return offset - 1
    raise AssertionError("the disk is never gone")


@pytest.mark.root
@pytest.mark.parametrize("ms", [0, 20, 90])
def test_no_power_cut_takes_what_was_committed(tmp_path: Path, ms: int) -> None:
    need_loop_devices()
    with loop_disk(tmp_path, 16) as disk:
        file = OffsetsFile(disk.root / "offsets", CLUSTER, "me")
        file.open()
        cut = threading.Timer(ms / 1000, disk.cut_power)
        file.write(entries_of(0))
        cut.start()
        try:
            committed = write_on(file)
        finally:
            cut.join()
        file.close()
        disk.unmount()
        disk.mount()

        file.open()
        found = {entry.offset for entry in file.entries.values()}
        assert len(file.entries) == PARTITIONS
        assert found in ({committed}, {committed + 1})
        file.write(entries_of(committed + 2))
        file.close()


@pytest.mark.root
def test_a_full_disk_keeps_what_was_committed(tmp_path: Path) -> None:
    need_loop_devices()
    with loop_disk(tmp_path, 16) as disk:
        file = OffsetsFile(disk.root / "offsets", CLUSTER, "me")
        file.open()
        file.write(entries_of(1))
        ballast = disk.root / "ballast"
        with ballast.open("wb", buffering=0) as stream:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while stream.write(bytes(size)):
                        pass
        with pytest.raises(DiskFullError, match="Make room"):
            file.write(entries_of(2))
        file.close()
        file.open()
        assert file.entries == entries_of(1)
        assert sorted(p.name for p in file.path.parent.iterdir()) == ["me.json", "me.lock"]

        ballast.unlink()
        file.write(entries_of(2))
        file.close()


@pytest.mark.root
def test_a_disk_that_is_read_only_is_told(tmp_path: Path) -> None:
    need_loop_devices()
    with loop_disk(tmp_path, 16) as disk:
        file = OffsetsFile(disk.root / "offsets", CLUSTER, "me")
        file.open()
        file.write(entries_of(1))
        file.close()
        remount(disk.root, "ro")
        with pytest.raises(StorageError, match=r"Read-only file system.* names another folder"):
            file.open()
        remount(disk.root, "rw")
        file.open()
        assert file.entries == entries_of(1)
        file.close()


def remount(root: Path, how: str) -> None:
    end = time.monotonic() + 10
    while subprocess.run(["mount", "-o", f"remount,{how}", root], capture_output=True).returncode:
        assert time.monotonic() < end
        time.sleep(0.05)
