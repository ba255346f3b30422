"""A broker's disk: a small ext4 on a loop device, which can fail, fill up and lose its power.

Who is not root gets a folder instead, which can do nothing of that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time
from pathlib import Path
from typing import Final

from integration.sandbox import is_root

MEGABYTES: Final = 128
SHUTDOWN: Final = 0x8004587D
"""EXT4_IOC_SHUTDOWN."""
NO_LOG_FLUSH: Final = (2).to_bytes(4, "little")
"""What the journal has not written yet is lost, as it is when the power goes."""
PATIENCE_S: Final = 10.0


class Disk:
    """The file system, mounted at `root` in the namespace of this process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._image = root.with_suffix(".image")
        self._is_bad = False
        self._is_mounted = is_root()
        root.mkdir()
        if self._is_mounted:
            self._make()

    def cut_power(self) -> None:
        """From now on every call fails, and what was not flushed is lost."""
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(descriptor)
        self._is_bad = True

    def mend(self) -> None:
        """Mount it again, if its power was cut. Nobody may use it."""
        if self._is_bad:
            self._unmount()
            self._mount()
            self._is_bad = False

    def fill(self) -> None:
        """Take all the room that is left."""
        ballast = self.root / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 20)):
                pass

    def free(self) -> None:
        """Give it back, for good: else a power cut soon after would bring the ballast back."""
        (self.root / "ballast").unlink(missing_ok=True)
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Unmount it; the loop device goes with the mount."""
        if self._is_mounted:
            self._unmount()

    def _make(self) -> None:
        with self._image.open("wb") as file:
            file.truncate(MEGABYTES << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", self._image], check=True)
        self._mount()

    def _mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self.root], check=True)

    def _unmount(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while True:
            done = subprocess.run(["umount", self.root], capture_output=True, check=False)
            if done.returncode == 0:
                return
            if time.monotonic() > end:
                raise RuntimeError(done.stderr.decode())
            time.sleep(0.05)
