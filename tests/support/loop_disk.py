"""A small ext4 on a loop device, whose power can be cut. Needs root."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, STDOUT

from tests.support.broker_process import missing

SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN."""
NO_LOG_FLUSH = (2).to_bytes(4, "little")
"""What the journal has not written yet is lost, as it is when the power goes."""


def need_loop_devices() -> None:
    """Skip, or fail, where this cannot work."""
    if os.geteuid() != 0:
        missing("loop devices and mounts need root")
    if shutil.which("mkfs.ext4") is None:
        missing("mkfs.ext4 is not installed")
    if not Path("/dev/loop-control").exists():
        missing("there are no loop devices")


class LoopDisk:
    """The file system, mounted at `root`."""

    def __init__(self, image: Path, root: Path) -> None:
        self.image = image
        self.root = root

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self.image, self.root], check=True)

    def unmount(self) -> None:
        """Who had files open has been told to end; it may take a moment. Then the loop device goes,
        unless a mount namespace that was begun meanwhile has a copy: that has to go first, or what
        is mounted next would be the disk without power again."""
        self._until_silent("umount", self.root)
        self._until_silent("losetup", "--associated", self.image)

    def _until_silent(self, *command: str | Path) -> None:
        for _ in range(600):
            done = subprocess.run(command, stdout=PIPE, stderr=STDOUT, check=False)
            if done.returncode == 0 and not done.stdout:
                return
            time.sleep(0.05)
        raise AssertionError(f"{command}: {done.stdout.decode()}")

    def cut_power(self) -> None:
        """From now on nothing reaches the disk."""
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def loop_disk(folder: Path, megabytes: int) -> Iterator[LoopDisk]:
    """A new one, which is unmounted whatever happens."""
    image, root = folder / "image", folder / "mounted"
    root.mkdir()
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True, capture_output=True)
    disk = LoopDisk(image, root)
    disk.mount()
    try:
        yield disk
    finally:
        if root.is_mount():
            disk.unmount()
