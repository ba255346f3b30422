"""Namespaces for networks, mounts and processes, which end with the process that entered them.

The kernel ends every process, unmounts every disk and takes down every link in them when the first
process is gone, however it went. So nothing has to be cleaned up, and nothing can be forgotten.
"""

from __future__ import annotations

import os
import shutil
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


def lacking() -> str:
    """What is missing here, in a sentence; nothing: it can be run."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces, loop devices and mounts need root"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = {package for tool, package in TOOLS.items() if not shutil.which(tool, path=path)}
    if missing:
        return f"needed, and not installed: {', '.join(sorted(missing))}"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    return ""


def command(*arguments: str) -> list[str]:
    """`python -m integration` with these arguments, in a sandbox that dies with its parent."""
    return [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
        *("env", f"{INSIDE}=1", f"PATH={os.environ.get('PATH', '')}:/usr/sbin:/sbin"),
        *(sys.executable, "-m", "integration", *arguments),
    ]


def enter() -> None:
    """Start this program again, in a sandbox; returns where it is in one."""
    if INSIDE not in os.environ:
        os.environ["PATH"] += ":/usr/sbin:/sbin"
        line = command(*sys.argv[1:])
        os.execvp(line[0], line)
