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

from zmqmq.core.storage.disk import Buffer
from zmqmq.errors import DiskFullError, StorageError
from zmqmq.sim.chance import Stream
from zmqmq.sim.power_cut import (
    EMPTY,
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
    put,
)


@dataclass(slots=True)
class _Fault:
    """Which calls of one operation fail."""

    operation: str
    skip: int
    count: int
    full: bool


class SimFile:
    """An open file of a SimDisk."""

    __slots__ = ("_disk", "_is_open", "_node", "path")

    def __init__(self, disk: SimDisk, node: _Node, path: str) -> None:
        self._disk = disk
        self._node = node
        self._is_open = True
        self.path = path

    @property
    def size(self) -> int:
        return self._node.size

    def write(self, position: int, buffers: Sequence[Buffer]) -> None:
        """A failing write leaves its first half, a full disk as much as there was room for."""
        assert self._is_open
        disk, node = self._disk, self._node
        data = b"".join(buffers)
        error = disk._fault("write", self.path)
        if error is not None:
            data = data[: len(data) // 2]
        room = disk.free_bytes() + node.size
        if position + len(data) > room:
            data = data[: max(room - position, 0)]
            error = error or disk._full("write", self.path)
        if data:
            end = position + len(data)
            disk._record(Wrote(node.id, position, data, end if end > node.size else None))
            put(node.own(), position, data)
            disk._resize(node, max(end, node.size))
        if error is not None:
            raise error

    def read(self, position: int, size: int) -> bytes:
        assert self._is_open
        if (error := self._disk._fault("read", self.path)) is not None:
            raise error
        node = self._node
        end = min(position + size, node.size)
        data = node.data[position:end]
        missing = end - position - len(data)
        return bytes(data) if missing <= 0 else bytes(data) + bytes(missing)

    def read_cached(self, position: int, size: int) -> bytes | None:
        return self.read(position, size) if self._disk.cached else None

    def allocate(self, size: int) -> None:
        assert self._is_open
        if (error := self._disk._fault("allocate", self.path)) is not None:
            raise error
        if size <= self._node.size:
            return
        if size - self._node.size > self._disk.free_bytes():
            raise self._disk._full("allocate", self.path)
        self._disk._record(Resized(self._node.id, size))
        self._disk._resize(self._node, size)

    def truncate(self, size: int) -> None:
        assert self._is_open
        if (error := self._disk._fault("truncate", self.path)) is not None:
            raise error
        if size != self._node.size:
            self._disk._record(Resized(self._node.id, size))
            if size < len(self._node.data):
                put(self._node.own(), size, None)
            self._disk._resize(self._node, size)

    def sync(self) -> None:
        assert self._is_open
        error = self._disk._fault("sync", self.path)
        self._disk._record(Synced(self._node.id, failed=error is not None))
        if error is not None:
            raise error

    def close(self) -> None:
        self._is_open = False


class _Node:
    """A file as the running process sees it."""

    __slots__ = ("data", "id", "size")

    def __init__(self, number: int, content: Content) -> None:
        self.id = number
        self.data: bytes | bytearray = content.flat()
        self.size = content.size

    def own(self) -> bytearray:
        """The bytes, to be changed: shared ones are copied first."""
        if not isinstance(self.data, bytearray):
            self.data = bytearray(self.data)
        return self.data


class SimDisk:
    """A disk in memory. `budget` is how many bytes fit on it; a file counts with its size."""

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget
        self.cached = True
        """False: `read_cached` never has anything."""
        self.operations: list[Operation] = []
        """All that changed this disk since it was new or came out of a crash."""
        self._start_folders: Mapping[int, Folder] = {ROOT: {}}
        self._start_files: Mapping[int, Content] = {}
        self._folders: dict[int, Folder] = {ROOT: {}}
        self._files: Mapping[int, Content] = {}
        self._nodes: dict[int, _Node] = {}
        self._next_node = ROOT + 1
        self._used: int | None = None
        self._faults: list[_Fault] = []
        self._replay: Replay | None = None

    @classmethod
    def _of(
        cls,
        folders: Mapping[int, Folder],
        files: Mapping[int, Content],
        next_node: int,
        budget: int | None,
    ) -> SimDisk:
        """A disk that starts out like this; the mappings must not change any more."""
        disk = cls(budget)
        disk._start_folders = folders
        disk._start_files = disk._files = files
        disk._folders = dict(folders)
        disk._next_node = next_node
        return disk

    # The port.

    def open(self, path: str, *, create: bool = False) -> SimFile:
        if (error := self._fault("open", path)) is not None:
            raise error
        folder, name = self._place(path)
        number = self._folders[folder].get(name)
        if number is None:
            if not create:
                raise StorageError(f"open {path!r} failed: ENOENT")
            number = self._make(folder, name, is_folder=False)
        elif number in self._folders:
            raise StorageError(f"open {path!r} failed: EISDIR")
        return SimFile(self, self._node(number), path)

    def exists(self, path: str) -> bool:
        return self._find(path) is not None

    def list(self, path: str) -> list[str]:
        number = self._find(path)
        return sorted(self._folders.get(number, ())) if number is not None else []

    def make_directory(self, path: str) -> None:
        if (error := self._fault("make_directory", path)) is not None:
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
        if (error := self._fault("rename", source)) is not None:
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
        if (error := self._fault("remove", path)) is not None:
            raise error
        number = self._find(path)
        if number is None:
            return
        if self._folders.get(number):
            raise StorageError(f"remove {path!r} failed: ENOTEMPTY")
        folder, name = self._place(path)
        self._name(Named(((folder, name, None),)))

    def sync_directory(self, path: str) -> None:
        if (error := self._fault("sync_directory", path)) is not None:
            raise error
        number = self._find(path)
        if number not in self._folders:
            raise StorageError(f"open {path!r} failed: ENOENT")
        self._record(FolderSynced(number))

    def free_bytes(self) -> int:
        if self.budget is None:
            return 1 << 60
        if self._used is None:
            self._used = 0
            for folder in list(self._folders.values()):
                self._used += sum(
                    self._node(number).size
                    for number in folder.values()
                    if number not in self._folders
                )
        return max(self.budget - self._used, 0)

    # Faults.

    def fail(self, operation: str, *, at: int = 1, count: int = 1, full: bool = False) -> None:
        """The `at`-th call from now, and `count - 1` more, raise StorageError or DiskFullError.

        Operations have the names of the port's methods.
        """
        assert at >= 1
        self._faults.append(_Fault(operation, at - 1, count, full))

    def flip(self, path: str, position: int, mask: int = 1) -> None:
        """Flip bits of one byte, on the disk as well as in memory."""
        number = self._find(path)
        assert number is not None
        node = self._node(number)
        assert position < node.size
        before = node.data[position] if position < len(node.data) else 0
        self._record(Wrote(number, position, bytes([before ^ mask]), flipped=True))
        put(node.own(), position, bytes([before ^ mask]))

    # Crashes.

    def kill_state(self, at: int | None = None) -> SimDisk:
        """This disk after SIGKILL behind the first `at` operations.

        Nothing is lost, and nothing became durable either: a power cut of the returned disk can
        still lose it.
        """
        replay = self._replay_to(at)
        files = {**replay.files, **{n: found.whole() for n, found in replay.pending.items()}}
        folders = replay.named([True] * len(replay.names))
        disk = SimDisk._of(folders, files, self._next_node, self.budget)
        disk._start_folders, disk._start_files = self._start_folders, self._start_files
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
            for folders, files in replay.every_way(pending):
                left -= 1
                yield SimDisk._of(folders, files, self._next_node, self.budget)
            if not any(found.can_tear for found in pending):
                return
        for _ in range(left):
            folders, files = replay.some_way(pending, rng)
            yield SimDisk._of(folders, files, self._next_node, self.budget)

    def _replay_to(self, at: int | None) -> Replay:
        at = len(self.operations) if at is None else at
        assert 0 <= at <= len(self.operations)
        if self._replay is None or self._replay.done > at:
            self._replay = Replay(self._start_folders, self._start_files)
        self._replay.run(self.operations, at)
        return self._replay

    # What the above share.

    def _record(self, operation: Operation) -> None:
        self.operations.append(operation)

    def _fault(self, operation: str, path: str) -> StorageError | None:
        """The error that this call is to end with."""
        for fault in self._faults:
            if fault.operation != operation:
                continue
            if fault.skip:
                fault.skip -= 1
            elif fault.count:
                fault.count -= 1
                if fault.full:
                    return self._full(operation, path)
                return StorageError(f"{operation} {path!r} failed: EIO, by order of the test")
        return None

    def _full(self, operation: str, path: str) -> DiskFullError:
        return DiskFullError(f"{operation} {path!r} failed: ENOSPC, no space left on device")

    def _node(self, number: int) -> _Node:
        node = self._nodes.get(number)
        if node is None:
            node = self._nodes[number] = _Node(number, self._files.get(number, EMPTY))
        return node

    def _resize(self, node: _Node, size: int) -> None:
        if self._used is not None:
            self._used += size - node.size
        node.size = size

    def _make(self, folder: int, name: str, *, is_folder: bool) -> int:
        number = self._next_node
        self._next_node += 1
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


def _parts(path: str) -> list[str]:
    parts = path.split("/") if path else []
    if any(part in {"", ".", ".."} for part in parts):
        raise StorageError(f"path {path!r} is not below the data directory")
    return parts
