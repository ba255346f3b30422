"""The offsets of one broadcast consumer: which of them are in its file, and who writes it when.

Commits are noted on the I/O thread (of the blocking client) or the loop (of asyncio), which alone
knows the ids and epochs that go with an offset, and which puts them in order. They are written by
a thread that may wait for the disk: the caller's for `commit`, one of our own for what is committed
automatically. One write is under way at a time, and at most one more of ours waits.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, cast

from zmqmq.client.machines.commits import Offsets
from zmqmq.client.machines.core import Core
from zmqmq.client.machines.effects import Promise, Rejected, Resolved
from zmqmq.client.machines.routing import Routing
from zmqmq.client.machines.stream import EPOCH_UNKNOWN, Stream
from zmqmq.client.offsets_file import Entry, OffsetsFile, default_folder
from zmqmq.client.operations import Ask, Operation, Operations
from zmqmq.client.options import ConsumerOptions
from zmqmq.errors import ClosedError, Code, ZmqmqError, refusal

Key = tuple[str, int]

logger = logging.getLogger("zmqmq.client")


class _Noted(NamedTuple):
    number: int
    """Which commit it is of, as they were asked for."""
    entry: Entry


Notes = Mapping[Key, _Noted]
"""One commit."""


class LocalOffsets:
    """What a broadcast consumer has committed, and is about to commit."""

    def __init__(self, options: ConsumerOptions, core: Core) -> None:
        self.stored: dict[tuple[bytes, int], tuple[int, int]] = {}
        """What is in the file, for the machine: offset and epoch by topic id and partition."""
        self.streams: Mapping[Key, Stream] = {}
        """What the consumer reads."""
        self._options = options
        self._core = core
        self._file: OffsetsFile | None = None
        self._commits = 0
        self._numbers: dict[Key, int] = {}
        """Of the commit that each entry of the file is of."""
        self._writing = threading.Lock()
        """Held by whoever opens, writes or closes; `_file` and `_numbers` belong to them."""
        self._waiting: Notes = {}
        """What is committed automatically, and nobody has begun to write."""
        self._guard = threading.Lock()
        """For `_waiting` and `_has_thread`; held for a few steps only."""
        self._has_thread = False
        self._has_failed = False
        """Whether that was said, and not mended since."""
        self._process = os.getpid()

    def open(self) -> None:
        """Take the name, and read what is stored. Waits for the disk; raises as the file does."""
        cluster, name = self._core.network.cluster, self._options.broadcast
        assert cluster is not None
        assert name is not None
        folder = default_folder(os.environ)
        if self._options.offsets_dir is not None:
            folder = Path(cast("str", self._options.offsets_dir))
        with self._writing:
            self._file = OffsetsFile(folder, cluster, name)
            self._file.open()
            self._show(self._file.entries.values())

    def close(self) -> None:
        """Give the name back, once what is being written is written."""
        if self._process != os.getpid():
            return  # forked: who held the lock is not here, and the file is the parent's
        with self._writing:
            if self._file is not None:
                self._file.close()
            self._file = None

    def commit(self, operations: Operations, offsets: Offsets) -> Operation[Notes]:
        """Take a commit in, to be written after all that came before."""
        others = dict.fromkeys(name for name, p in offsets if (name, p) not in self.streams)
        for name in others:
            yield from operations.topic(name)
        notes = yield Ask(self._note, (offsets,))
        return cast("Notes", notes)

    def committed(self, operations: Operations, name: str, partition: int) -> Operation[int | None]:
        """What is stored for a partition of the topic that has this name now."""
        topic = yield from operations.topic(name)
        stored = self.stored.get((topic.id, partition))
        return None if stored is None else stored[0]

    def write(self, notes: Notes) -> None:
        """Have a commit on the disk. Waits for it; raises as the file does, having changed nothing.

        What is there already of a later commit stays.
        """
        with self._writing:
            file = self._file
            if file is None:
                raise ClosedError("the consumer is closed")
            numbers = self._numbers
            news = {k: noted for k, noted in notes.items() if noted.number > numbers.get(k, 0)}
            entries = {**file.entries, **{k: noted.entry for k, noted in news.items()}}
            if entries != file.entries:
                file.write(entries)
            numbers.update((k, noted.number) for k, noted in news.items())
            self._show(noted.entry for noted in news.values())

    def commit_soon(self, offsets: Offsets) -> None:
        """On the I/O thread: commit what has been consumed. Nobody waits for it."""
        # What is not read any more was committed while it was, or will come again.
        known = {k: o for k, o in offsets.items() if k in self.streams and self.streams[k].topic_id}
        notes = self._numbered(known)
        with self._guard:
            self._waiting = {**self._waiting, **notes}
            if self._has_thread or not self._has_news(self._waiting):
                return
            self._has_thread = True
        try:
            threading.Thread(target=self._write_waiting, name="zmqmq-offsets", daemon=True).start()
        except RuntimeError as error:  # no more threads, or the interpreter ends
            self._has_thread = False
            self._complain(error)

    def _write_waiting(self) -> None:
        """On a thread of its own: write until nothing waits."""
        while True:
            with self._guard:
                notes, self._waiting = self._waiting, {}
                if not notes:
                    self._has_thread = False
                    return
            try:
                self.write(notes)
            except ClosedError:
                continue  # what was due has been committed by `close`
            except Exception as error:  # noqa: BLE001 - said, and tried again
                self._complain(error)
            else:
                self._has_failed = False

    def _note(self, _now: int, promise: Promise, offsets: Offsets) -> None:
        try:
            notes = self._numbered(offsets)
        except ZmqmqError as error:
            self._core.effects.append(Rejected(promise, error))
        else:
            self._core.effects.append(Resolved(promise, notes))

    def _numbered(self, offsets: Offsets) -> Notes:
        self._commits += 1
        routing = self._core.routing
        return {
            key: _Noted(self._commits, _entry_of(key, offset, self.streams.get(key), routing))
            for key, offset in offsets.items()
        }

    def _has_news(self, notes: Notes) -> bool:
        file = self._file
        return file is not None and any(
            file.entries.get(key) != noted.entry for key, noted in notes.items()
        )

    def _complain(self, error: Exception) -> None:
        """Once: the next automatic commit has everything that this one had, and tries again."""
        if not self._has_failed:
            logger.warning("offsets were not committed, which is tried again: %s", error)
        self._has_failed = True

    def _show(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.stored[entry.topic_id, entry.partition] = (entry.offset, entry.epoch)


def _entry_of(key: Key, offset: int, stream: Stream | None, routing: Routing) -> Entry:
    """What to store for an offset. Raises NotFoundError."""
    name, partition = key
    if stream is not None and stream.topic_id:
        return Entry(name, stream.topic_id, partition, offset, stream.epoch_at(offset))
    topic = routing.topics.get(name)
    if topic is None:
        raise refusal(Code.UNKNOWN_TOPIC, f"topic {name!r} is not known; read it, or look it up")
    if not 0 <= partition < len(topic.leaders):
        raise refusal(
            Code.UNKNOWN_PARTITION,
            f"topic {name!r} has partitions 0 to {len(topic.leaders) - 1}; {partition} is none",
        )
    return Entry(name, topic.id, partition, offset, EPOCH_UNKNOWN)
