"""A disk in memory that fails when told to, and knows how it may look after a power cut.

Every change is recorded as an `Operation`. `crash_states(at=k)` yields disks as a power cut
after the first k operations may leave them; `kill_state(at=k)` is what SIGKILL there leaves:
everything, but no more durable than it was, so the next power cut may still take it.

What a power cut may do, which is all that core/storage/disk.py does not forbid and so more than
ext4 or XFS do:

1. What `File.sync` covered stays. Each write since is kept, lost or torn: a prefix, or any of
   its pages or sectors. Each change of the size is kept or lost by itself, so a write that grew
   a file may leave zeros, and a file that was never synced may be empty or all zeros.
2. Each create, rename and removal since the `sync_directory` of its folder is kept or lost
   by itself, also with a later one kept. A rename is one change of two names: a target is the
   old or the new file. It is durable once the folders of both names were synced.
3. Syncing a file does not save its name, nor syncing a folder the folder's own name.
4. After a failed `sync` what was unsynced stays so for ever: the kernel has forgotten it.

power_cut.py works the states out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zmqmq.core.storage.disk import Buffer
from zmqmq.errors import DiskFullError, StorageError
from zmqmq.sim.cached_file import CachedFile
from zmqmq.sim.chance import Stream
from zmqmq.sim.power_cut import (
    CERTAIN,
    EMPTY,
    FREE,
    ROOT,
    Content,
    Folder,
    FolderSynced,
    Named,
    Operation,
    Replay,
    Resized,
    Synced,
    Wrote,
    apply_names,
)


@dataclass(slots=True)
class _Fault:
    """Which calls of one operation fail."""

    operation: str
    skip: int
    count: int
    full: bool
    end: str


class _State(NamedTuple):
    """What is on a disk. Shared, so the mappings never change."""

    folders: Mapping[int, Folder]
    files: Mapping[int, Content]


class SimFile:
    """An open file of a SimDisk."""

    __slots__ = ("_disk", "_file", "_is_open", "path")

    def __init__(self, disk: SimDisk, file: CachedFile, path: str) -> None:
        self._disk = disk
        self._file = file
        self._is_open = True
        self.path = path

    @property
    def size(self) -> int:
        return self._file.size

    def write(self, position: int, buffers: Sequence[Buffer]) -> None:
        """A failing write leaves its first half, a full disk as much as there was room for."""
        assert self._is_open
        disk, file = self._disk, self._file
        data = b"".join(buffers)
        error = disk.fault("write", self.path)
        if error is not None:
            data = data[: len(data) // 2]
        room = disk.free_bytes() + file.size
        if position + len(data) > room:
            data = data[: max(room - position, 0)]
            error = error or full("write", self.path)
        if data:
            end = position + len(data)
            disk.change(file, Wrote(file.id, position, data, end if end > file.size else None))
        if error is not None:
            raise error

    def read(self, position: int, size: int) -> bytes:
        assert self._is_open
        if (error := self._disk.fault("read", self.path)) is not None:
            raise error
        file = self._file
        end = min(position + size, file.size)
        data = file.data[position:end]
        missing = end - position - len(data)
        return bytes(data) if missing <= 0 else bytes(data) + bytes(missing)

    def read_cached(self, position: int, size: int) -> bytes | None:
        return self.read(position, size) if self._disk.cached else None

    def allocate(self, size: int) -> None:
        assert self._is_open
        if (error := self._disk.fault("allocate", self.path)) is not None:
            raise error
        if size <= self._file.size:
            return
        if size - self._file.size > self._disk.free_bytes():
            raise full("allocate", self.path)
        self._disk.change(self._file, Resized(self._file.id, size))

    def truncate(self, size: int) -> None:
        assert self._is_open
        if (error := self._disk.fault("truncate", self.path)) is not None:
            raise error
        if size != self._file.size:
            self._disk.change(self._file, Resized(self._file.id, size))

    def sync(self) -> None:
        assert self._is_open
        error = self._disk.fault("sync", self.path)
        self._disk.synced(self._file, failed=error is not None)
        if error is not None:
            raise error

    def close(self) -> None:
        self._is_open = False


class SimDisk:
    """A disk in memory. `budget` is how many bytes fit on it; a file counts with its size.

    With `keeps_history` it can say what a crash at any earlier moment would have left; without, it
    knows the present alone, and its memory does not grow with what is done to it.
    """

    def __init__(
        self,
        budget: int | None = None,
        *,
        keeps_history: bool = True,
        durable: _State | None = None,
        visible: _State | None = None,
        next_number: int = ROOT + 1,
    ) -> None:
        self.budget = budget
        """May be changed at any time, also to less than is there."""
        self.cached = True
        """False: `read_cached` never has anything."""
        self.operations: list[Operation] = []
        """If history is kept: all that changed this disk since it was new or came out of a power
        cut."""
        self.is_rotten = False
        """Whether bits were flipped."""
        self._keeps_history = keeps_history
        self._durable = durable or _State({ROOT: {}}, {})
        """As it was when `operations` began."""
        visible = visible or self._durable
        self._folders: dict[int, Folder] = dict(visible.folders)
        self._contents: dict[int, Content] = dict(visible.files)
        """Files that nobody has opened, and others as they were then."""
        self._files: dict[int, CachedFile] = {}
        self._unsynced: dict[int, CachedFile] = {}
        """If no history is kept: what a power cut may change, the longest unsynced first."""
        self._names = Replay(*self._durable)
        """If no history is kept: which names are durable."""
        self._next_number = next_number
        self._used: int | None = None
        self._faults: list[_Fault] = []
        self._replay: Replay | None = None

    # The port.

    def open(self, path: str, *, create: bool = False) -> SimFile:
        if (error := self.fault("open", path)) is not None:
            raise error
        folder, name = self._place(path)
        number = self._folders[folder].get(name)
        if number is None:
            if not create:
                raise StorageError(f"open {path!r} failed: ENOENT")
            number = self._make(folder, name, is_folder=False)
        elif number in self._folders:
            raise StorageError(f"open {path!r} failed: EISDIR")
        return SimFile(self, self._file(number), path)

    def exists(self, path: str) -> bool:
        return self._find(path) is not None

    def list(self, path: str) -> list[str]:
        number = self._find(path)
        return sorted(self._folders.get(number, ())) if number is not None else []

    def make_directory(self, path: str) -> None:
        if (error := self.fault("make_directory", path)) is not None:
            raise error
        folder = ROOT
        for name in _parts(path):
            number = self._folders[folder].get(name)
            if number is None:
                number = self._make(folder, name, is_folder=True)
            elif number not in self._folders:
                raise StorageError(f"make directory {path!r} failed: ENOTDIR")
            folder = number

    def rename(self, source: str, target: str) -> None:
        if (error := self.fault("rename", source)) is not None:
            raise error
        (old_folder, old), (new_folder, new) = self._place(source), self._place(target)
        number = self._folders[old_folder].get(old)
        if number is None:
            raise StorageError(f"rename {source!r} to {target!r} failed: ENOENT")
        replaced = self._folders[new_folder].get(new)
        if replaced == number:
            return
        if replaced is not None and (number in self._folders or replaced in self._folders):
            raise StorageError(f"rename {source!r} to {target!r} failed: a folder is in the way")
        self._name(Named(((old_folder, old, None), (new_folder, new, number))))

    def remove(self, path: str) -> None:
        if (error := self.fault("remove", path)) is not None:
            raise error
        number = self._find(path)
        if number is None:
            return
        if self._folders.get(number):
            raise StorageError(f"remove {path!r} failed: ENOTEMPTY")
        folder, name = self._place(path)
        self._name(Named(((folder, name, None),)))

    def sync_directory(self, path: str) -> None:
        if (error := self.fault("sync_directory", path)) is not None:
            raise error
        number = self._find(path)
        if number not in self._folders:
            raise StorageError(f"open {path!r} failed: ENOENT")
        self._record(FolderSynced(number))
        if not self._keeps_history:
            self._forget_unlinked()

    def free_bytes(self) -> int:
        if self.budget is None:
            return 1 << 60
        return max(self.budget - self.used_bytes(), 0)

    def used_bytes(self) -> int:
        """The sizes of all files."""
        if self._used is None:
            self._used = sum(
                self._file(number).size
                for folder in self._folders.values()
                for number in folder.values()
                if number not in self._folders
            )
        return self._used

    def peek(self, path: str) -> CachedFile | None:
        """A file, for who checks the simulation: no fault concerns what is looked at there."""
        number = self._find(path)
        return None if number is None else self._file(number)

    def paths(self) -> Sequence[str]:
        """All files, sorted."""
        found = []
        folders = [("", ROOT)]
        for above, folder in folders:
            for name, number in self._folders[folder].items():
                if number in self._folders:
                    folders.append((f"{above}{name}/", number))
                else:
                    found.append(above + name)
        return sorted(found)

    # Faults.

    def fail(
        self, operation: str, *, at: int = 1, count: int = 1, full: bool = False, end: str = ""
    ) -> None:
        """The `at`-th call from now, and `count - 1` more, raise StorageError or DiskFullError.

        Operations have the names of the port's methods. Only paths with this end count.
        """
        assert at >= 1
        self._faults.append(_Fault(operation, at - 1, count, full, end))

    def mend(self) -> None:
        """Fail no more, and have room."""
        self._faults.clear()
        self.budget = None

    def flip(self, path: str, position: int, mask: int = 1) -> None:
        """Flip bits of one byte, on the disk as well as in memory."""
        number = self._find(path)
        assert number is not None
        file = self._file(number)
        assert position < file.size
        before = file.data[position] if position < len(file.data) else 0
        change = Wrote(number, position, bytes([before ^ mask]), flipped=True)
        self.is_rotten = True
        self.change(file, change, CERTAIN)

    def rot(self, rng: Stream, end: str = "") -> tuple[str, int] | None:
        """Flip one bit of some file whose path ends so; where, or None if all are empty."""
        sizes = {path: self._size_of(path) for path in self.paths() if path.endswith(end)}
        damaged = [path for path, size in sizes.items() if size]
        if not damaged:
            return None
        path = rng.choice(damaged)
        position = rng.randrange(sizes[path])
        self.flip(path, position, 1 << rng.randrange(8))
        return path, position

    # Crashes.

    def kill_state(self, at: int | None = None) -> SimDisk:
        """This disk after SIGKILL behind the first `at` operations.

        Nothing is lost, and nothing became durable either: a power cut of the returned disk can
        still lose it. Without history, go on with the disk itself.
        """
        assert self._keeps_history
        replay = self._replay_to(at)
        files = {**replay.files, **{n: found.whole() for n, found in replay.pending.items()}}
        visible = _State(replay.named([True] * len(replay.names)), files)
        disk = SimDisk(
            self.budget, durable=self._durable, visible=visible, next_number=self._next_number
        )
        disk.operations = self.operations[: replay.done]
        return disk

    def crash_states(
        self, *, at: int | None = None, rng: Stream, limit: int = 1024
    ) -> Iterator[SimDisk]:
        """Up to `limit` disks as a power cut behind the first `at` operations may leave them.

        When all the ways of keeping and losing whole changes are no more than `limit`, all of
        them come (512 are enough for eight changes), then ones with torn writes up to the
        limit, if there are writes to tear. Otherwise all are drawn from `rng`.
        """
        replay = self._replay_to(at)
        pending = list(replay.pending.values())
        left = limit
        if replay.ways() <= limit:
            for state in replay.every_way(pending):
                left -= 1
                yield self._after(_State(*state))
            if not any(found.can_tear for found in pending):
                return
        for _ in range(left):
            yield self._after(_State(*replay.some_way(pending, rng)))

    def power_cut(self, rng: Stream) -> SimDisk:
        """One disk as a power cut now may leave it."""
        replay = self._replay_to(None)
        return self._after(_State(*replay.some_way(list(replay.pending.values()), rng)))

    def _after(self, state: _State) -> SimDisk:
        disk = SimDisk(
            self.budget,
            keeps_history=self._keeps_history,
            durable=state,
            next_number=self._next_number,
        )
        disk.is_rotten = self.is_rotten
        return disk

    def _replay_to(self, at: int | None) -> Replay:
        if not self._keeps_history:
            assert at is None, "no history was kept"
            clean = {n: file.content() for n, file in self._files.items() if file.is_clean}
            replay = Replay(self._names.folders, {**self._contents, **clean})
            replay.names = self._names.names
            replay.pending = {n: file.pending() for n, file in self._unsynced.items()}
            return replay
        at = len(self.operations) if at is None else at
        assert 0 <= at <= len(self.operations)
        if self._replay is None or self._replay.done > at:
            self._replay = Replay(*self._durable)
        self._replay.run(self.operations, at)
        return self._replay

    # For its files.

    def fault(self, operation: str, path: str) -> StorageError | None:
        """The error that this call is to end with."""
        for fault in self._faults:
            if fault.operation != operation or not path.endswith(fault.end):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            fault.count -= 1
            if not fault.count:
                self._faults.remove(fault)
            if fault.full:
                return full(operation, path)
            return StorageError(f"{operation} {path!r} failed: EIO, by order of the test")
        return None

    def change(self, file: CachedFile, change: Wrote | Resized, fate: int = FREE) -> None:
        """Carry out a change of a file."""
        if self._used is not None and change.size is not None:
            self._used += change.size - file.size
        if self._keeps_history:
            self.operations.append(change)
        else:
            self._unsynced[file.id] = file
        file.change(change, fate)

    def synced(self, file: CachedFile, *, failed: bool) -> None:
        """A file was synced, or was not."""
        if self._keeps_history:
            self.operations.append(Synced(file.id, failed))
            return
        file.sync(failed=failed)
        if file.is_clean:
            self._unsynced.pop(file.id, None)

    # What the above share.

    def _record(self, operation: Named | FolderSynced) -> None:
        if self._keeps_history:
            self.operations.append(operation)
        else:
            self._names.apply(operation)

    def _forget_unlinked(self) -> None:
        """Let go of what no name leads to any more, now or after a power cut."""
        linked = self._names.forget_unlinked(self._folders)
        for things in (self._contents, self._files, self._unsynced, self._folders):
            for number in [number for number in things if number not in linked]:
                del things[number]

    def _file(self, number: int) -> CachedFile:
        file = self._files.get(number)
        if file is None:
            content = self._contents.get(number, EMPTY)
            tracks = not self._keeps_history
            file = self._files[number] = CachedFile(number, content, tracks=tracks)
        return file

    def _size_of(self, path: str) -> int:
        number = self._find(path)
        assert number is not None
        return self._file(number).size

    def _make(self, folder: int, name: str, *, is_folder: bool) -> int:
        number = self._next_number
        self._next_number += 1
        if is_folder:
            self._folders[number] = {}
        self._name(Named(((folder, name, number),), made=number, is_folder=is_folder))
        return number

    def _name(self, operation: Named) -> None:
        self._record(operation)
        apply_names(self._folders, operation)
        self._used = None

    def _find(self, path: str) -> int | None:
        number = ROOT
        for name in _parts(path):
            folder = self._folders.get(number)
            if folder is None or name not in folder:
                return None
            number = folder[name]
        return number

    def _place(self, path: str) -> tuple[int, str]:
        """The folder that a path is in, and its name there."""
        *above, name = _parts(path) or [""]
        number = self._find("/".join(above))
        if not name or number not in self._folders:
            raise StorageError(f"path {path!r} is in no folder: ENOENT")
        return number, name


def full(operation: str, path: str) -> DiskFullError:
    """There is no room."""
    return DiskFullError(f"{operation} {path!r} failed: ENOSPC, no space left on device")


def _parts(path: str) -> list[str]:
    parts = path.split("/") if path else []
    if any(part in {"", ".", ".."} for part in parts):
        raise StorageError(f"path {path!r} is not below the data directory")
    return parts
