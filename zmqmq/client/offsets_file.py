"""The file in which a broadcast consumer keeps its offsets, and the lock on its name.

`FOLDER/CLUSTER/NAME.json`. It is written anew as a whole: to `NAME.json.tmp`, flushed, renamed,
and then the folder is flushed. So after a crash at any moment there is the old content or the new.
Beside it lies `NAME.lock`, which stays where it is: were it removed, two consumers could each hold
a lock on a file of that name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from crc32c import crc32c

from zmqmq.errors import (
    Code,
    ConfigError,
    CorruptDataError,
    DiskFullError,
    StorageError,
    UsageError,
    ZmqmqError,
    refusal,
)
from zmqmq.model.limits import INTEGER_MAX

VERSION: Final = 1
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LOOKS: Final = 10
_PAUSE: Final = 0.01
"""Seconds. Who has just taken the lock needs a moment to write down who it is."""


class Entry(NamedTuple):
    """How far one partition has been consumed."""

    topic: str
    topic_id: bytes
    """Of the topic that was read: the offset means nothing in one that was made anew."""
    partition: int
    offset: int
    """Of the next record to be read."""
    epoch: int
    """The leader epoch of the record before; 0: not known."""


Entries = Mapping[tuple[str, int], Entry]
"""By topic and partition."""


def default_folder(environ: Mapping[str, str]) -> Path:
    """Where a user's broadcast consumers keep their offsets."""
    base = environ.get("XDG_STATE_HOME", "")
    # The XDG specification says to ignore one that is not absolute.
    state = Path(base) if base.startswith("/") else Path("~/.local/state")
    return state / "zmqmq" / "broadcast"


class OffsetsFile:
    """The file of one name. Not for several threads at a time."""

    def __init__(self, folder: Path, cluster: bytes, name: str) -> None:
        try:
            whole = folder.expanduser().absolute()
        except RuntimeError:
            raise ConfigError(
                f"offsets_dir is {folder}, and this user has no home directory; give another"
            ) from None
        self.entries: Entries = {}
        """What is in the file."""
        self._folder = whole / cluster.hex()
        self._identity = {"version": VERSION, "cluster": cluster.hex(), "name": name}
        self._name = name
        self.path = self._folder / f"{name}.json"
        self._lock: _Descriptor | None = None

    def open(self) -> None:
        """Lock and read it. A file that is not there is empty.

        Raises:
            ConflictError: somebody holds it; says which process.
            CorruptDataError: what is in there is not what was written.
            StorageError: the folder cannot be made or written to, or the file not read.
        """
        try:
            _make_folder(self._folder)
            self._lock = self._locked()
        except OSError as error:
            raise self._failure("cannot be used", error) from error
        try:
            self.entries = self._read()
        except BaseException:
            self.close()
            raise

    def write(self, entries: Entries) -> None:
        """Have these in the file, and nothing else. When it returns they are on the disk.

        Raises DiskFullError or StorageError. Then the file is as it was, or, if only the last
        flush of the folder has failed, perhaps as it should be.
        """
        assert self._lock is not None
        if self._lock.is_closed:
            raise UsageError(f"{self.path} belongs to the parent process, or has been closed")
        partial = self._folder / f"{self._name}.json.tmp"
        try:
            try:
                _write_durably(partial, encoded(self._identity, entries.values()))
                partial.rename(self.path)
            except OSError:
                with contextlib.suppress(OSError):
                    partial.unlink()
                raise
            _flush_folder(self._folder)
        except OSError as error:
            raise self._failure("cannot be written", error) from error
        self.entries = dict(entries)

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            self._lock.close()

    def _locked(self) -> _Descriptor:
        """The lock. Raises ConflictError."""
        path = self._folder / f"{self._name}.lock"
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        lock = _Descriptor(number)
        try:
            holder = _lock(number)
            for _ in range(_LOOKS):
                if holder is None or _is_alive(holder):
                    break
                time.sleep(_PAUSE)
                holder = _lock(number)
        except BaseException:
            lock.close()
            raise
        if holder is not None:
            lock.close()
            raise _held(self._name, path, holder)
        return lock

    def _read(self) -> Entries:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._failure("cannot be read", error) from error
        try:
            return decoded(self._identity, data)
        except _NewerError as error:
            raise StorageError(f"{self.path}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise CorruptDataError(
                f"{self.path} is damaged ({error}), so where {self._name!r} left off is not known. "
                "Bring back a copy of the file; or remove it, and the consumer begins anew, at "
                "the start of the log if you do not say otherwise with start=…"
            ) from None

    def _failure(self, what: str, error: OSError) -> ZmqmqError:
        is_full = error.errno in _NO_ROOM
        said = f"{self.path} {what}: {error.strerror or error}"
        if is_full:
            return DiskFullError(f"{said}. Make room; what was stored before is still there")
        return StorageError(
            f"{said}. offsets_dir=… names another folder; that of the command line is "
            "$XDG_STATE_HOME/zmqmq/broadcast"
        )


# The format


class _NewerError(Exception):
    """A version that we do not know."""


def encoded(identity: Mapping[str, object], entries: Iterable[Entry]) -> bytes:
    """The content of a file: JSON, one partition a line, with a checksum over all the rest."""
    rows = [{**entry._asdict(), "topic_id": entry.topic_id.hex()} for entry in sorted(entries)]
    head = json.dumps({**identity, "crc32c": _checksum({**identity, "offsets": rows})})
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    return f'{head[:-1]},\n "offsets": [\n{lines}\n]}}\n'.encode()


def decoded(identity: Mapping[str, object], data: bytes) -> Entries:
    """What `encoded` has written. Raises ValueError when these bytes are anything else."""
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("it is no object")  # noqa: TRY004 - damage, not a wrong argument
    version = document.get("version")
    if type(version) is int and version > VERSION:
        raise _NewerError(f"it has version {version}, of a newer zmqmq than this one: {VERSION}")
    if document.pop("crc32c", None) != _checksum(document):
        raise ValueError("the checksum is not that of the content")
    for name, value in identity.items():
        if document.get(name) != value:
            raise ValueError(f"{name} is {document.get(name)!r} and not {value!r}")
    rows = document.get("offsets")
    if not isinstance(rows, list):
        raise ValueError("it has no offsets")  # noqa: TRY004
    entries = [_entry_of(row) for row in rows]
    found = {(entry.topic, entry.partition): entry for entry in entries}
    if len(found) < len(entries):
        raise ValueError("a partition comes twice")
    return found


def _entry_of(row: Any) -> Entry:  # noqa: ANN401 - anything may stand in a file
    if not isinstance(row, dict) or row.keys() != set(Entry._fields):
        raise ValueError(f"{row!r:.100} is no offset of a partition")
    numbers = [row["partition"], row["offset"], row["epoch"]]
    if not isinstance(row["topic"], str) or not isinstance(row["topic_id"], str):
        raise ValueError(f"{row!r:.100} does not say of which topic it is")  # noqa: TRY004
    if not all(type(number) is int and 0 <= number <= INTEGER_MAX for number in numbers):
        raise ValueError(f"{row!r:.100} has numbers that are out of bounds")
    topic_id = bytes.fromhex(row["topic_id"])
    return Entry(row["topic"], topic_id, *numbers)


def _checksum(content: Mapping[str, object]) -> str:
    """Of the content in one fixed form, whatever blanks the file has."""
    return f"{crc32c(json.dumps(content, sort_keys=True).encode()):08x}"


# The operating system


class _Descriptor:
    """An open file whose end is sure: closed when nobody has it any more, and in forked children.

    A child shares the lock with its parent; it would hold on to it when the parent is gone.
    """

    __slots__ = ("__weakref__", "_end", "_number")

    def __init__(self, number: int) -> None:
        self._number = number
        self._end = weakref.finalize(self, os.close, number)
        _open.add(self)

    @property
    def is_closed(self) -> bool:
        """Whether it is."""
        return not self._end.alive

    def close(self) -> None:
        """Close it; may be called more than once. An unlock would be the parent's too."""
        self._end()


_open: weakref.WeakSet[_Descriptor] = weakref.WeakSet()


def _after_fork() -> None:
    for descriptor in list(_open):
        descriptor.close()


os.register_at_fork(after_in_child=_after_fork)


def _lock(number: int) -> str | None:
    """Lock it and say in it who we are; or return what stands in there about who holds it."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(number, 32, 0).decode(errors="replace")
    os.ftruncate(number, 0)
    os.pwrite(number, str(os.getpid()).encode(), 0)
    return None


def _held(name: str, path: Path, holder: str) -> ZmqmqError:
    who = f"process {holder}" if holder.isdigit() else "another process"
    if holder == str(os.getpid()):
        who += ", which is this one"
    return refusal(
        Code.CONFLICT,
        f"the broadcast consumer {name!r} is open already, in {who} ({path}): one at a time. Close "
        "that one, or take another name",
    )


def _is_alive(holder: str) -> bool:
    """Whether this is a process. The number of one that was killed stays in the file."""
    if not holder.isdigit():
        return False
    try:
        os.kill(int(holder), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _make_folder(folder: Path) -> None:
    """Make it with all above, so that a power cut does not take it away again."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    _flush_folder(folder.parent)


def _write_durably(path: Path, data: bytes) -> None:
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        at = 0
        while at < len(data):
            at += os.write(number, data[at:])
        os.fsync(number)
    finally:
        os.close(number)


def _flush_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)
