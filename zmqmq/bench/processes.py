"""What processes use: CPU of this one, CPU and memory of a broker on this machine.

From /proc, so on Linux; elsewhere, and for a broker on another machine, what cannot be known is
None and the tables say so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")
_LISTENING: Final = "0A"
_TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Cpu(NamedTuple):
    """CPU time of a process, user and system together, in nanoseconds."""

    whole: int
    main_thread: int
    """A broker's event loop is there, and one thread fills no more than one core."""


def own_cpu_ns() -> int:
    """CPU time of all threads of this process."""
    times = os.times()
    return round((times.user + times.system) * 1e9)


def own_threads_ns() -> dict[int, int]:
    """CPU time of each thread of this process by its number; empty where there is no /proc."""
    found = {}
    for folder in _folders(_PROC / "self" / "task"):
        ticks = _ticks(folder / "stat")
        if ticks is not None:
            found[int(folder.name)] = ticks * _TICK_NS
    return found


def cpu_of(pid: int) -> Cpu | None:
    """CPU time of another process; None when it is gone or not to be seen."""
    whole = _ticks(_PROC / str(pid) / "stat")
    main = _ticks(_PROC / str(pid) / "task" / str(pid) / "stat")
    if whole is None or main is None:
        return None
    return Cpu(whole * _TICK_NS, main * _TICK_NS)


def machine_idle_share(before: tuple[int, int], after: tuple[int, int]) -> float | None:
    """The share of all cores that was idle between two `machine_ticks`."""
    total = after[1] - before[1]
    return (after[0] - before[0]) / total if total > 0 else None


def machine_ticks() -> tuple[int, int]:
    """(idle, all) ticks of all cores since the start; (0, 0) where there is no /proc.

    Waiting for a disk counts as idle: it is no work of the CPU.
    """
    text = _read(_PROC / "stat")
    if text is None:
        return 0, 0
    # user nice system idle iowait irq softirq steal; guests are within user already
    ticks = [int(word) for word in text.split("\n", 1)[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def resident_bytes(pid: int) -> int | None:
    """Memory that a process has in RAM."""
    text = _read(_PROC / str(pid) / "statm")
    return None if text is None else int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def listener_pid(port: int) -> int | None:
    """The process of this machine that listens on a TCP port, if there is one we may look at."""
    sockets = _listening_sockets(port)
    if not sockets:
        return None
    for folder in _folders(_PROC):
        if folder.name.isdecimal() and _holds(folder / "fd", sockets):
            return int(folder.name)
    return None


def is_local(host: str) -> bool:
    """Whether an address is this machine's without asking anybody."""
    return host in {"localhost", "::1", "[::1]"} or host.startswith("127.")


def _listening_sockets(port: int) -> dict[str, None]:
    """What /proc/<pid>/fd links to for sockets that listen on this port."""
    found: dict[str, None] = {}
    for table in ("tcp", "tcp6"):
        for line in (_read(_PROC / "net" / table) or "").splitlines()[1:]:
            words = line.split()
            if words[3] == _LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                found[f"socket:[{words[9]}]"] = None
    return found


def _holds(descriptors: Path, sockets: dict[str, None]) -> bool:
    for link in _folders(descriptors):
        try:
            if str(link.readlink()) in sockets:
                return True
        except OSError:
            continue  # closed meanwhile
    return False


def _folders(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []  # another user's process, or one that has ended


def _ticks(stat: Path) -> int | None:
    text = _read(stat)
    if text is None:
        return None
    # The name in brackets may hold spaces and brackets of its own.
    words = text.rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
