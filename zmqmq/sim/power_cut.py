"""What a power cut may do to a disk, given all that was done to it.

`Replay` runs over the operations that a SimDisk recorded and knows at each of them what is
durable and what is not. What is not may be kept or lost as the numbered list in disk.py
says; `every_way` goes through all the ways, `some_way` draws one.

Fast because a state copies nothing: contents are recipes (synced bytes plus kept writes) that
are carried out when a file is first opened, and folders are dicts shared until changed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import NamedTuple

from zmqmq.core.storage.disk import Buffer
from zmqmq.sim.chance import Stream

ROOT = 0
PAGE_BYTES = 4096
SECTOR_BYTES = 512
Folder = Mapping[str, int]
"""Names and node numbers; never changed in place."""


class Wrote(NamedTuple):
    """Bytes put into a file. With `flipped` it is damage, which no power cut undoes."""

    node: int
    position: int
    data: bytes
    size: int | None = None
    """The new size of the file, if this grew it."""
    flipped: bool = False


class Resized(NamedTuple):
    """`allocate` or `truncate`."""

    node: int
    size: int


class Named(NamedTuple):
    """Names that changed together: (folder, name, node or None)."""

    changes: tuple[tuple[int, str, int | None], ...]
    made: int | None = None
    """A node that this created,"""
    is_folder: bool = False
    """and what it is."""


class Synced(NamedTuple):
    """`sync`, which may have failed."""

    node: int
    failed: bool = False


class FolderSynced(NamedTuple):
    """`sync_directory`."""

    node: int


Operation = Wrote | Resized | Named | Synced | FolderSynced
Effect = tuple[int, bytes | None]
"""Bytes at a position, or None: zeros from there on."""


class Content:
    """What is in a file: shared, unchanging, put together when first asked for."""

    __slots__ = ("_base", "_effects", "_flat", "size")

    def __init__(self, base: bytes, effects: Sequence[Effect], size: int) -> None:
        self._base = base
        self._effects = effects
        self._flat: bytes | None = None
        self.size = size

    def flat(self) -> bytes:
        """The bytes; what is missing up to `size` is zeros."""
        if self._flat is None:
            if self._effects:
                data = bytearray(self._base)
                for position, piece in self._effects:
                    put(data, position, piece)
                del data[self.size :]
                self._flat = bytes(data)
            else:
                self._flat = self._base[: self.size]
        return self._flat


EMPTY = Content(b"", (), 0)


def put(data: bytearray, position: int, piece: Buffer | None) -> None:
    """Carry out one effect."""
    if piece is None:
        del data[position:]
        return
    if position > len(data):
        data.extend(bytes(position - len(data)))
    data[position : position + len(piece)] = piece


def apply_names(folders: dict[int, Folder], operation: Named) -> None:
    """Carry out a change of names, without touching folders that others share."""
    for folder, name, number in operation.changes:
        entries = dict(folders[folder])
        if number is None:
            entries.pop(name, None)
        else:
            entries[name] = number
        folders[folder] = entries


def tear(write: Wrote, rng: Stream) -> list[Effect]:
    """Some of a write: a prefix of bytes, sectors or pages, or any of its sectors or pages."""
    start, end = write.position, write.position + len(write.data)
    unit = rng.choice((1, SECTOR_BYTES, PAGE_BYTES))
    cuts = range(start - start % unit + unit, end, unit)
    if not cuts:
        unit, cuts = 1, range(start + 1, end)
    if unit == 1 or rng.random() < 0.5:
        return [(start, write.data[: rng.choice(cuts) - start])]
    edges = [start, *cuts, end]
    return [
        (low, write.data[low - start : high - start])
        for low, high in itertools.pairwise(edges)
        if rng.random() < 0.5
    ]


FREE, CERTAIN, DOOMED = range(3)
"""What may become of a change: anything, nothing, or anything for ever, as a sync of it failed."""


class Pending:
    """A file with changes that a power cut may take.

    Its state after the cut is a size it has had since it was synced, and any of the writes (and
    of the cuts by truncate) in the order in which they were made.
    """

    __slots__ = ("base", "changes", "fates", "node")

    def __init__(self, node: int, base: Content) -> None:
        self.node = node
        self.base = base
        self.changes: list[Wrote | Resized] = []
        self.fates: list[int] = []

    def add(self, change: Wrote | Resized, fate: int) -> None:
        self.changes.append(change)
        self.fates.append(fate)

    def sync(self, *, failed: bool) -> None:
        """Make all certain but what a failed sync has forgotten."""
        to = DOOMED if failed else CERTAIN
        self.fates = [to if fate == FREE else fate for fate in self.fates]
        # What comes behind something uncertain stays in the list, for the order matters.
        head = list(itertools.takewhile(lambda fate: fate == CERTAIN, self.fates))
        done, self.changes = self.changes[: len(head)], self.changes[len(head) :]
        self.fates = self.fates[len(head) :]
        size = [self.base.size, *(c.size for c in done if c.size is not None)][-1]
        flat = Content(self.base.flat(), [_effect(change) for change in done], size).flat()
        self.base = Content(flat, (), size)

    @property
    def can_tear(self) -> bool:
        return any(
            fate != CERTAIN and isinstance(change, Wrote) and len(change.data) > 1
            for change, fate in zip(self.changes, self.fates, strict=True)
        )

    def sizes(self) -> list[int]:
        """Every size that may be there after a power cut, the newest last."""
        sizes = [self.base.size]
        for change, fate in zip(self.changes, self.fates, strict=True):
            if change.size is not None:
                if fate == CERTAIN:
                    sizes.clear()
                sizes.append(change.size)
        return sizes

    def whole(self) -> Content:
        """Everything kept."""
        effects = [_effect(change) for change in self.changes]
        return Content(self.base.flat(), effects, self.sizes()[-1])

    def ways(self) -> int:
        """How many contents `every_content` has, or that they are far too many."""
        if len(self.changes) > 20:
            return 1 << 20
        return sum(1 << len(self._chosen(size)) for size in self.sizes())

    def _chosen(self, size: int) -> list[int]:
        """Which changes make a difference to a file of this size."""
        return [
            index
            for index, (change, fate) in enumerate(zip(self.changes, self.fates, strict=True))
            if fate != CERTAIN and _effect(change)[0] < size
        ]

    def every_content(self) -> list[Content]:
        contents = []
        effects = [_effect(change) for change in self.changes]
        for size in self.sizes():
            chosen = self._chosen(size)
            for lost in itertools.product((False, True), repeat=len(chosen)):
                gone = set(itertools.compress(chosen, lost))
                kept = [effect for i, effect in enumerate(effects) if i not in gone]
                contents.append(Content(self.base.flat(), kept, size))
        return contents

    def some_content(self, odds: float, torn: float, rng: Stream) -> Content:
        sizes = self.sizes()
        size = sizes[-1] if rng.random() < odds else rng.choice(sizes)
        count = len(self.changes)
        # In a third of the states writes reach the disk in order, up to one of them.
        before = rng.randrange(count + 1) if rng.random() < 0.3 else None
        effects: list[Effect] = []
        for index, change in enumerate(self.changes):
            kept = rng.random() < odds if before is None else index < before
            if self.fates[index] == CERTAIN:
                effects.append(_effect(change))
            elif kept or index == before:
                if (
                    isinstance(change, Wrote)
                    and len(change.data) > 1
                    and (index == before or rng.random() < torn)
                ):
                    pieces = tear(change, rng)
                    effects.extend(pieces)
                    if size == change.size and pieces and rng.random() < 0.5:
                        position, piece = pieces[-1]
                        size = position + len(piece or b"")
                else:
                    effects.append(_effect(change))
        return Content(self.base.flat(), effects, size)


def _effect(change: Wrote | Resized) -> Effect:
    if isinstance(change, Wrote):
        return change.position, change.data
    return change.size, None


class PendingName:
    """A change of names and the folders that have to be synced for it."""

    __slots__ = ("operation", "waits_for")

    def __init__(self, operation: Named) -> None:
        self.operation = operation
        self.waits_for = {folder for folder, _, _ in operation.changes}


class Replay:
    """What is durable after the first `done` operations, and what is not.

    Its mappings are replaced and never changed, for crash states share them.
    """

    def __init__(self, folders: Mapping[int, Folder], files: Mapping[int, Content]) -> None:
        self.done = 0
        self.folders = folders
        self.files = files
        self.pending: dict[int, Pending] = {}
        self.names: list[PendingName] = []

    def run(self, operations: Sequence[Operation], at: int) -> None:
        for operation in operations[self.done : at]:
            self.apply(operation)
        self.done = at

    def apply(self, operation: Operation) -> None:
        """One operation more."""
        match operation:
            case Wrote(node, flipped=flipped):
                self._pending_of(node).add(operation, CERTAIN if flipped else FREE)
            case Resized(node):
                self._pending_of(node).add(operation, FREE)
            case Synced(node, failed):
                self._sync(node, failed=failed)
            case Named(made=made, is_folder=is_folder):
                if made is not None and is_folder:
                    self.folders = {**self.folders, made: {}}
                self.names.append(PendingName(operation))
            case FolderSynced(node):
                self._sync_folder(node)

    def _pending_of(self, node: int) -> Pending:
        if node not in self.pending:
            self.pending[node] = Pending(node, self.files.get(node, EMPTY))
        return self.pending[node]

    def _sync(self, node: int, *, failed: bool) -> None:
        found = self.pending.get(node)
        if found is None:
            return
        found.sync(failed=failed)
        if not found.changes:
            del self.pending[node]
            self.files = {**self.files, node: found.base}

    def _sync_folder(self, node: int) -> None:
        """Settle what waited for this folder alone, unless an older change of a name is open."""
        folders = dict(self.folders)
        still: list[PendingName] = []
        open_names: set[tuple[int, str]] = set()
        for found in self.names:
            found.waits_for.discard(node)
            names = {(folder, name) for folder, name, _ in found.operation.changes}
            if found.waits_for or names & open_names:
                still.append(found)
                open_names |= names
            else:
                apply_names(folders, found.operation)
        self.folders, self.names = folders, still

    def forget_unlinked(self, visible: Mapping[int, Folder]) -> Container[int]:
        """What some name leads to, durable or not; let go of folders that are not among it."""
        unsynced: dict[int, list[int]] = {}
        for pending in self.names:
            for folder, _, number in pending.operation.changes:
                if number:
                    unsynced.setdefault(folder, []).append(number)
        linked, found = {ROOT: None}, [ROOT]
        for folder in found:
            names = [*self.folders.get(folder, {}).values(), *visible.get(folder, {}).values()]
            for number in (*names, *unsynced.get(folder, ())):
                if number not in linked:
                    linked[number] = None
                    found.append(number)
        self.names = [
            pending
            for pending in self.names
            if any(folder in linked for folder, _, _ in pending.operation.changes)
        ]
        used = {n for pending in self.names for n, _, _ in pending.operation.changes}
        self.folders = {n: names for n, names in self.folders.items() if n in linked or n in used}
        return linked

    def named(self, kept: Sequence[bool]) -> dict[int, Folder]:
        """The folders if these of the pending changes reached the disk."""
        folders = dict(self.folders)
        for found, is_kept in zip(self.names, kept, strict=True):
            if is_kept or not found.waits_for:
                apply_names(folders, found.operation)
        return folders

    def ways(self) -> int:
        """How many states `every_way` has at most."""
        files = math.prod(found.ways() for found in self.pending.values())
        return files << sum(bool(found.waits_for) for found in self.names)

    def every_way(
        self, pending: Sequence[Pending]
    ) -> Iterator[tuple[Mapping[int, Folder], Mapping[int, Content]]]:
        every = {found.node: found.every_content() for found in pending}
        for kept in itertools.product(
            *((True, False) if found.waits_for else (True,) for found in self.names)
        ):
            folders = self.named(kept)
            # The content of a file without a name makes no difference.
            linked = {number for folder in folders.values() for number in folder.values()}
            here = [node for node in every if node in linked]
            for contents in itertools.product(*(every[node] for node in here)):
                yield folders, {**self.files, **dict(zip(here, contents, strict=True))}

    def some_way(
        self, pending: Sequence[Pending], rng: Stream
    ) -> tuple[Mapping[int, Folder], Mapping[int, Content]]:
        odds = rng.choice((0.03, 0.2, 0.5, 0.8, 0.97))
        torn = rng.choice((0.0, 0.2, 1.0))
        if rng.random() < 0.3:
            before = rng.randrange(len(self.names) + 1)
            kept = [index < before for index in range(len(self.names))]
        else:
            kept = [rng.random() < odds for _ in self.names]
        files = dict(self.files)
        for found in pending:
            files[found.node] = found.some_content(odds, torn, rng)
        return self.named(kept), files
