"""A file as the running process sees it, and what it takes to make that unsynced again.

The bytes are there once. Of each change since the last sync the bytes that it replaced are kept,
so a sync forgets a short list, whatever the size of the file, and a power cut works back from
what is there to what was durable (power_cut.py goes on from that).
"""

from __future__ import annotations

from zmqmq.sim.power_cut import CERTAIN, DOOMED, FREE, Content, Pending, Resized, Wrote, put


class CachedFile:
    """What was written, durable or not. `tracks`: remember what is not."""

    __slots__ = ("_changes", "_fates", "_tracks", "_undo", "data", "id", "size")

    def __init__(self, number: int, content: Content, *, tracks: bool) -> None:
        self.id = number
        self.data: bytes | bytearray = content.flat()
        """May be shorter than `size`: what is missing is zeros."""
        self.size = content.size
        self._tracks = tracks
        self._changes: list[Wrote | Resized] = []
        self._fates: list[int] = []
        self._undo: list[tuple[bytes, int, int]] = []
        """For each change: the bytes it replaced, how many there were, and the size."""

    @property
    def is_clean(self) -> bool:
        """Whether all that is known to be changed is durable."""
        return not self._changes

    def change(self, change: Wrote | Resized, fate: int = FREE) -> None:
        """Carry it out."""
        data = self.data
        if not isinstance(data, bytearray):
            data = self.data = bytearray(data)
        if isinstance(change, Wrote):
            position, piece = change.position, change.data
            if self._tracks:
                replaced = bytes(data[position : position + len(piece)])
                self._note(change, fate, replaced)
            put(data, position, piece)
        else:
            if self._tracks:
                self._note(change, fate, bytes(data[change.size :]))
            put(data, change.size, None)
        if change.size is not None:
            self.size = change.size

    def sync(self, *, failed: bool) -> None:
        """As `Pending.sync`: what a failed one has forgotten stays uncertain for ever."""
        fates = self._fates
        if failed or DOOMED in fates:
            to = DOOMED if failed else CERTAIN
            fates[:] = [to if fate == FREE else fate for fate in fates]
            certain = next((i for i, fate in enumerate(fates) if fate != CERTAIN), len(fates))
        else:
            certain = len(fates)
        del self._changes[:certain], fates[:certain], self._undo[:certain]

    def content(self) -> Content:
        """All of it, as it is now."""
        return Content(bytes(self.data), (), self.size)

    def pending(self) -> Pending:
        """What is durable, and the changes that may not be."""
        data, size = bytearray(self.data), self.size
        for change, (replaced, length, old_size) in zip(
            reversed(self._changes), reversed(self._undo), strict=True
        ):
            start = change.position if isinstance(change, Wrote) else change.size
            data[start : start + len(replaced)] = replaced
            del data[length:]
            size = old_size
        pending = Pending(self.id, Content(bytes(data), (), size))
        for change, fate in zip(self._changes, self._fates, strict=True):
            pending.add(change, fate)
        return pending

    def _note(self, change: Wrote | Resized, fate: int, replaced: bytes) -> None:
        self._changes.append(change)
        self._fates.append(fate)
        self._undo.append((replaced, len(self.data), self.size))
