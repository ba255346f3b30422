"""Namespaces for networks, mounts and processes, which end with the process that entered them.

The kernel ends every process, unmounts every disk and takes down every link in them when the first
process is gone, however it went. So nothing has to be cleaned up, and nothing can be forgotten.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

INSIDE: Final = "ZMQMQ_INTEGRATION_SANDBOX"
TOOLS: Final = {
    "ip": "iproute2",
    "ss": "iproute2",
    "iptables": "iptables",
    "strace": "strace",
    "gcc": "gcc and libc6-dev",
    "mkfs.ext4": "e2fsprogs",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
"""And what Debian packages them in."""


USER: Final = ("--user", "--map-root-user")
"""Who is not root is root in a namespace of users; that may do all but mount disks."""
LEAVE_DISKS: Final = (
    "grep -o '^/dev/loop[0-9]*' /proc/mounts | xargs -r umount --lazy 2>/dev/null; exec \"$@\""
)
"""The namespace begins with all mounts there are. A disk of somebody else that was kept here would
not be gone when its owner unmounts it, and could not be mounted again after its power was cut."""


def is_root() -> bool:
    """Whether this is root of the machine: loop devices can be mounted."""
    users = Path("/proc/self/uid_map").read_text().split()
    return os.geteuid() == 0 and users == ["0", "0", "4294967295"]


def lacking() -> str:
    """What is missing here, in a sentence; nothing: it can be run."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    path = _path()
    missing = {package for tool, package in TOOLS.items() if not shutil.which(tool, path=path)}
    if missing:
        return f"needed, and not installed: {', '.join(sorted(missing))}"
    if not is_root():
        done = subprocess.run(["unshare", *USER, "--net", "true"], capture_output=True, check=False)
        return "namespaces need root, or users that may have their own" if done.returncode else ""
    return "" if Path("/dev/loop-control").exists() else "there are no loop devices"


def command(module: str, *arguments: str) -> list[str]:
    """`python -m` with these arguments, in a sandbox that dies with its parent."""
    return [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", *(() if is_root() else USER), "--net", "--mount", "--mount-proc"),
        *("--pid", "--fork", "--kill-child=KILL"),
        *("sh", "-c", LEAVE_DISKS, "sh"),
        *("env", f"{INSIDE}=1", f"PATH={_path()}"),
        *(sys.executable, "-m", module, *arguments),
    ]


def enter() -> None:
    """Start this program again, in a sandbox; returns where it is in one."""
    if INSIDE not in os.environ:
        os.environ["PATH"] = _path()
        line = command("integration", *sys.argv[1:])
        os.execvp(line[0], line)


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
