"""What both consumers share: fetched bytes to batches and records, and what counts as consumed.

Runs on the thread of whoever reads. Checksums, decompression and records are made here, when they
are asked for, so the I/O thread only ever moves bytes.

A record counts as consumed when the next one is asked for. For a list that was handed out whole
this is the next call; for records that are iterated over, hand.py knows which one it is.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from typing import Any

from zmqmq.batch.decode import RecordBatch, decode_batches
from zmqmq.batch.layout import log_seed
from zmqmq.client.arguments import hooks, place_of
from zmqmq.client.broadcasting import LocalOffsets
from zmqmq.client.driver import Driver
from zmqmq.client.hand import Hand, uncollected
from zmqmq.client.machines.commits import Offsets
from zmqmq.client.machines.consumer import Consumer as ConsumerMachine
from zmqmq.client.machines.stream import Chunk, Place, PlaceKind, is_offset
from zmqmq.client.options import STORED_BY_NOBODY, ConsumerOptions
from zmqmq.client.trimmed import TrimmedBatch, trimmed
from zmqmq.errors import ClosedError, ConfigError, CorruptDataError, UsageError, ZmqmqError
from zmqmq.model.message import Record

Key = tuple[str, int]
"""Topic and partition."""


class Reader:
    """The part of a consumer that does not wait. The sync and the aio Consumer add the waiting.

    Attributes of this class are not part of the public interface.
    """

    def __init__(
        self,
        driver: Driver,
        options: ConsumerOptions,
        topics: Sequence[str],
        interceptors: Sequence[object],
    ) -> None:
        self._driver = driver
        self._options = options
        self._on_receive = hooks(interceptors, "on_receive")
        start = options.start
        if start is None:
            start = "stored" if options.keeps_offsets else "start"
        place = place_of(start)
        if place.kind is PlaceKind.STORED and not options.keeps_offsets:
            raise ConfigError(STORED_BY_NOBODY)
        self._place = place
        self._topics = tuple(dict.fromkeys(topics))
        self._local: LocalOffsets | None = None
        """The offsets of a broadcast consumer."""
        if options.broadcast is not None:
            self._local = LocalOffsets(options, driver.core)
        self._machine_: ConsumerMachine | None = None
        self._generations: dict[Key, int] = {}
        self._paused: set[Key] = set()
        self._positions: dict[Key, int] = {}
        """The offset that is handed out next, where something was handed out or sought."""
        self._consumed: dict[Key, int] = {}
        """What may be committed."""
        self._handed: dict[Key, int] = {}
        """What may be committed once the next is asked for."""
        self._committed: dict[Key, int] = {}
        """What was committed by hand: automatic commits do not go back behind it."""
        self._hand: Hand | None = None
        self._is_iterating = False
        """Whether records are handed out one by one, rather than as lists."""
        self._batches: Iterator[RecordBatch] = iter(())
        """What is left of the chunk that is being read."""
        self._chunk: Chunk | None = None
        self._end: weakref.finalize[Any, Any] | None = None
        self._is_closed = False
        self._error: BaseException | None = None

    # What the driver calls (driver.Listener)

    def notify(self) -> None:
        """Something new is there."""
        raise NotImplementedError

    def commit_due(self, now: int) -> None:
        """Commit automatically what has been consumed by now."""
        if self._machine_ is None or not self._options.auto_commit:
            return
        if self._local is not None:
            self._local.commit_soon(self.consumed())
        else:
            self._machine_.auto_commit(now, self.consumed())

    def crash(self, error: BaseException) -> None:
        """The client has a bug or was forked."""
        self._error = error
        self.notify()

    # On the I/O thread

    def start(self, _now: int) -> None:
        """Let the machines know this consumer."""
        if self._machine_ is None:
            core, face = self._driver.core, _Face(self)
            stored = None if self._local is None else self._local.stored
            machine = core.add_consumer(self._options, self._place, self._topics, face, stored)
            if self._local is not None:
                self._local.streams = machine.streams
            self._machine_ = machine
            self._driver.listeners.add(face)
            # Loops over a consumer that nobody closes are common: end it with the object.
            self._end = weakref.finalize(self, _abandon, self._driver, machine, face)
            self._end.atexit = False

    def stop(self, _now: int) -> None:
        """End it."""
        detached = self._end.detach() if self._end is not None else None
        if detached is not None:
            _remove(_now, *detached[2])

    # On the user's thread

    def open_offsets(self) -> None:
        """Before `start`: have a broadcast consumer know what it has stored. Waits for the disk."""
        if self._local is not None:
            self._local.open()

    @property
    def machine(self) -> ConsumerMachine:
        """The I/O side; there once `start` has run."""
        assert self._machine_ is not None
        return self._machine_

    @property
    def is_finished(self) -> bool:
        """With stop_at_end: whether everything has been handed out."""
        machine = self._machine_
        if machine is None or not machine.is_finished or machine.chunks:
            return False
        if self._chunk is not None or (self._hand is not None and not self._hand.is_empty):
            return False  # there may be more of what was begun
        # A seek that the I/O thread has not heard of yet is not the end.
        return all(
            self._generations.get(key, stream.generation) == stream.generation
            for key, stream in tuple(machine.streams.items())
        )

    def check_keeps_offsets(self) -> None:
        """Raise unless there is something to commit to."""
        if not self._options.keeps_offsets:
            raise UsageError(
                "this consumer has no group to commit for; make it with group=… or broadcast=…"
            )

    def check(self) -> None:
        """Raise what is wrong, if anything is."""
        if self._is_closed or self._error is not None:
            self._driver.check_usable()
            raise ClosedError("the consumer is closed")
        self._driver.check_usable()

    def due_at_close(self) -> dict[Key, int]:
        """What is committed when the consumer is closed."""
        is_automatic = self._options.keeps_offsets and self._options.auto_commit
        return self.consumed() if is_automatic else {}

    def consumed(self) -> dict[Key, int]:
        """What may be committed now; never past the record in the user's hands."""
        consumed = dict(self._consumed)
        for key, offset in self._committed.items():
            consumed[key] = max(consumed.get(key, 0), offset)
        hand = self._hand
        if hand is not None and self._is_iterating and hand.given > 0:
            consumed[hand.key] = max(consumed.get(hand.key, 0), hand.in_hand)
        return consumed

    def handed_out(self) -> dict[Key, int]:
        """What may be committed when the user says that it is done with all it was given."""
        done = {**self._consumed, **self._handed}
        hand = self._hand
        if hand is not None and hand.given > 0:
            done[hand.key] = hand.end
        return done

    def note_committed(self, offsets: Offsets) -> None:
        """The user commits these: what is committed automatically does not go back, also while
        they are on their way. Raises UsageError."""
        for (name, partition), offset in offsets.items():
            if not is_offset(offset):
                raise UsageError(f"{name}/{partition}: {offset!r} is no offset")
        streams = self.machine.streams
        self._committed |= {key: offset for key, offset in offsets.items() if key in streams}

    def settle(self) -> None:
        """The next is asked for: what was handed out before counts as consumed."""
        self._consumed = self.handed_out()
        self._handed = {}
        hand = self._hand
        if hand is not None and hand.is_empty:
            self._hand = None

    def next_batch(self) -> RecordBatch | None:
        """The next batch that lies ready, after `settle`; None: nothing does.

        Raises what the machine could not mend, once everything that came before has been read.
        """
        hand, self._hand = self._hand, None
        if hand is not None and not hand.is_empty:
            return TrimmedBatch(hand.batch, hand.given, len(hand.offsets))
        while True:
            try:
                batch = next(self._batches, None)
            except CorruptDataError:
                if self._fetch_instead():
                    continue
                self._stop_reading_chunk()
                raise
            if batch is None:
                if not self._next_chunk():
                    return None
                continue
            chunk = self._chunk
            assert chunk is not None
            mine = trimmed(batch, chunk.position, chunk.stop_at)
            if mine is None or batch.header.is_control:
                continue
            for on_receive in self._on_receive:
                on_receive(mine)
            self._positions[mine.topic, mine.partition] = mine.next_offset
            return mine

    def give_batches(self) -> list[RecordBatch]:
        """Hand out batches that lie ready, about `fetch_bytes` of them."""
        self.settle()
        batches: list[RecordBatch] = []
        size = 0
        while size < self._options.fetch_bytes:
            batch = self._next_batch_after(batches)
            if batch is None:
                break
            batches.append(batch)
            size += batch.header.size
            self._handed[batch.topic, batch.partition] = batch.next_offset
        return batches

    def give_iterator(self) -> Iterator[Record] | None:
        """Hand out records one after the other; None: nothing lies ready."""
        self.settle()
        self._is_iterating = True
        hand = self._hand or self._take_in_hand()
        return None if hand is None else hand.iterator

    def give_records(self, max_records: int) -> list[Record]:
        """Hand out up to so many records of what lies ready, of several batches if need be."""
        self.settle()
        self._is_iterating = False
        records: list[Record] = []
        with uncollected():
            while len(records) < max_records:
                hand = self._hand or self._take_in_hand(records)
                if hand is None:
                    break
                records += islice(hand.iterator, max_records - len(records))
                # The list as a whole is in the user's hands, not only its last record.
                self._handed[hand.key] = hand.end
                if hand.is_empty:
                    self._hand = None
        return records

    def _next_batch_after(self, before: Sequence[object]) -> RecordBatch | None:
        """The next batch. What comes `before` an error is handed out first."""
        try:
            return self.next_batch()
        except ZmqmqError as error:
            if not before:
                raise
            self.machine.errors.appendleft(error)
            return None

    def _take_in_hand(self, before: Sequence[object] = ()) -> Hand | None:
        batch = self._next_batch_after(before)
        if batch is None:
            return None
        try:
            self._hand = Hand(batch)
        except CorruptDataError as error:
            self._stop_reading_chunk()
            if not before:
                raise
            self.machine.errors.appendleft(error)
        return self._hand

    def position(self, topic: str, partition: int) -> int:
        """The offset of the record that is handed out next; -1 while it is not known."""
        self._stream_of(topic, partition)
        key = topic, partition
        hand = self._hand
        if hand is not None and hand.key == key:
            return hand.end
        if key in self._positions:
            return self._positions[key]
        machine = self.machine
        fetched_to = machine.streams[key].position
        for chunk in list(machine.chunks):  # what lies ready comes before what is fetched next
            if (chunk.stream.topic, chunk.stream.partition) == key:
                return chunk.position
        return fetched_to

    def assigned(self) -> list[Key]:
        """Topic and partition of everything that is read, in order."""
        return sorted(self.machine.streams)

    # Moving about

    def seek(self, topic: str, partition: int, where: int | str | datetime) -> None:
        """Go on elsewhere."""
        place = place_of(where)
        if place.kind is PlaceKind.STORED and not self._options.keeps_offsets:
            raise UsageError("'stored' needs a consumer with a group, or a broadcast consumer")
        self._stream_of(topic, partition)
        generation = self._forget(topic, partition)
        self._consumed.pop((topic, partition), None)
        self._committed.pop((topic, partition), None)
        self._handed.pop((topic, partition), None)
        if place.kind is PlaceKind.OFFSET:
            self._positions[topic, partition] = place.number
        self._driver.post(self._seek_now, topic, partition, generation, place)

    def pause(self, topic: str, partition: int) -> None:
        """Hand out nothing of this partition until `resume`."""
        position = self.position(topic, partition)
        key = topic, partition
        if key in self._paused:
            return
        self._paused.add(key)
        if self._hand is not None and self._hand.key == key:
            self._handed[key] = self._hand.end if self._hand.given else position
        generation = self._forget(topic, partition)
        if position >= 0:
            self._positions[key] = position
        self._driver.post(self._pause_now, topic, partition, generation)

    def resume(self, topic: str, partition: int) -> None:
        """Go on where `pause` or the last `seek` left off."""
        self._stream_of(topic, partition)
        key = topic, partition
        if key not in self._paused:
            return
        self._paused.discard(key)
        if key in self._positions:
            position = self._positions[key]
            place = Place(PlaceKind.OFFSET, position)
            self._driver.post(self._seek_now, topic, partition, self._generations[key], place)
        self._driver.post(self._resume_now, topic, partition)

    def assign_now(self, now: int, partitions: Sequence[Key]) -> None:
        """On the I/O thread: read these and nothing else."""
        self.machine.assign(now, partitions)

    def forget_unassigned(self, partitions: Sequence[Key]) -> None:
        """Drop what is left of partitions that are not read any more."""
        for topic, partition in self.assigned():
            if (topic, partition) not in partitions:
                self._forget(topic, partition)
                self._paused.discard((topic, partition))

    def _seek_now(self, now: int, *arguments: Any) -> None:  # noqa: ANN401
        self.machine.seek(now, *arguments)

    def _pause_now(self, now: int, *arguments: Any) -> None:  # noqa: ANN401
        self.machine.pause(now, *arguments)

    def _stop_now(self, now: int, *arguments: Any) -> None:  # noqa: ANN401
        self.machine.stop(now, *arguments)

    def _resume_now(self, _now: int, topic: str, partition: int) -> None:
        self.machine.resume(topic, partition)

    def _pump_now(self, _now: int) -> None:
        """Only to have the machines look again."""

    def _forget(self, topic: str, partition: int) -> int:
        """Whatever was fetched of this partition is stale; its new generation."""
        key = topic, partition
        self._generations[key] = self._generations.get(key, 0) + 1
        self._positions.pop(key, None)
        hand = self._hand
        if hand is not None and hand.key == key:
            # A loop over the consumer is in the middle of this batch: let it find the end.
            deque(hand.iterator, maxlen=0)
            self._hand = None
        chunk = self._chunk
        if chunk is not None and (chunk.stream.topic, chunk.stream.partition) == key:
            self._batches, self._chunk = iter(()), None
        return self._generations[key]

    def _stream_of(self, topic: str, partition: int) -> None:
        if (topic, partition) not in self.machine.streams:
            raise UsageError(
                f"{topic}/{partition} is not read by this consumer; it reads "
                f"{', '.join(f'{t}/{p}' for t, p in self.assigned()[:10]) or 'nothing'}"
            )

    def _next_chunk(self) -> bool:
        """Begin with the next chunk that is not stale. Raises what came before it."""
        machine = self.machine
        self._chunk = None
        while machine.chunks:
            chunk = machine.chunks.popleft()
            machine.taken += len(chunk.data)
            if machine.is_starved and machine.buffered_bytes * 2 <= self._options.prefetch_bytes:
                machine.is_starved = False
                self._driver.post(self._pump_now)
            stream = chunk.stream
            key = stream.topic, stream.partition
            if chunk.generation != self._generations.get(key, 0):
                continue
            self._chunk = chunk
            seed = log_seed(chunk.topic_id, stream.partition)
            self._batches = decode_batches(chunk.data, seed, *key)
            return True
        for errors in (machine.start_errors, machine.errors):
            if errors:
                raise errors.popleft()
        return False

    def _fetch_instead(self) -> bool:
        """Whether what is damaged was published: that is as good as lost, and fetched."""
        chunk = self._chunk
        if chunk is None or not chunk.is_pushed:
            return False
        key = chunk.stream.topic, chunk.stream.partition
        position = self._positions.get(key, chunk.position)
        generation = self._forget(*key)
        self._positions[key] = position
        self._driver.post(self._seek_now, *key, generation, Place(PlaceKind.OFFSET, position))
        return True

    def _stop_reading_chunk(self) -> None:
        """A batch is damaged: nothing behind it is handed out, until the user seeks."""
        chunk = self._chunk
        assert chunk is not None
        topic, partition = chunk.stream.topic, chunk.stream.partition
        self._driver.post(self._stop_now, topic, partition, self._forget(topic, partition))


class _Face:
    """What the machines and the driver know of a reader. It does not keep the reader alive."""

    __slots__ = ("_reader",)

    def __init__(self, reader: Reader) -> None:
        self._reader = weakref.ref(reader)

    def notify(self) -> None:
        """Something new is there (driver.Listener)."""
        reader = self._reader()
        if reader is not None:
            reader.notify()

    def commit_due(self, now: int) -> None:
        """It is time to commit (driver.Listener)."""
        reader = self._reader()
        if reader is not None:
            reader.commit_due(now)

    def crash(self, error: BaseException) -> None:
        """Nothing will ever change again (driver.Listener)."""
        reader = self._reader()
        if reader is not None:
            reader.crash(error)


def _abandon(driver: Driver, machine: ConsumerMachine, face: _Face) -> None:
    """The reader is gone: nobody will ever read what its machine fetches."""
    with suppress(ZmqmqError):
        driver.post(_remove, driver, machine, face)


def _remove(now: int, driver: Driver, machine: ConsumerMachine, face: _Face) -> None:
    driver.core.remove_consumer(now, machine)
    driver.listeners.discard(face)
