"""What a broadcast consumer stores, when, and where it goes on."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.scripted import Promise, World, answer_fetch, id_of, stored_batch
from tests.unit.client.test_reading import WorldReader, bring, offsets
from zmqmq.client.broadcasting import LocalOffsets
from zmqmq.client.machines.effects import MS
from zmqmq.client.offsets_file import Entry, decoded
from zmqmq.errors import DiskFullError, NotFoundError, UsageError, ZmqmqError
from zmqmq.wire.apis import Api

SECONDS = 10
Opens = Callable[..., WorldReader]


class Broadcasting(WorldReader):
    """A broadcast consumer. `close` is the test's: what a real one commits then is not."""

    @property
    def local(self) -> LocalOffsets:
        assert self._local is not None
        return self._local

    def start(self, now: int) -> None:
        self.open_offsets()
        super().start(now)

    def commit(self, places: dict[tuple[str, int], int] | None = None) -> None:
        """As the sync consumer's, with the world for an I/O thread."""
        chosen = self.handed_out() if places is None else places
        self.note_committed(chosen)
        operation = self.local.commit(None, chosen)  # type: ignore[arg-type] - all are read
        promise = Promise()
        ask = next(operation)
        self.driver.post(ask.action, promise, *ask.arguments)
        if promise.error is not None:
            raise promise.error
        with pytest.raises(StopIteration) as done:
            operation.send(promise.value)
        self.local.write(done.value.value)

    def in_file(self) -> dict[int, tuple[int, int]]:
        """Offset and epoch by partition."""
        file = self.local._file
        assert file is not None
        if not file.path.exists():
            return {}
        found = decoded(file._identity, file.path.read_bytes())
        return {e.partition: (e.offset, e.epoch) for e in found.values()}


@pytest.fixture
def opens(tmp_path: Path) -> Iterator[Opens]:
    """Starts the consumer, each time as another process would."""
    readers: list[Broadcasting] = []

    def start(partitions: int = 1, ids: dict[str, bytes] | None = None, **options: Any) -> Any:
        for reader in readers:
            reader.local.close()
        world = World(topics={"t": partitions}, ids=ids or {})
        world.core.connect(Promise(), world.now + 10_000 * MS)
        world.step()
        world.greet()
        reader = Broadcasting(world, broadcast="me", offsets_dir=tmp_path, **options)
        readers.append(reader)
        world.tell_metadata()
        return reader

    yield start
    for reader in readers:
        reader.local.close()


def begins_at(reader: WorldReader) -> list[tuple[int, int, int | None]]:
    """Partition, offset and last epoch of what it asks for."""
    fetch = reader.world.take(Api.FETCH)
    return sorted((p, offset, last) for _, p, offset, _, _, last in fetch.fields["partitions"])


def answer_starts(world: World) -> None:
    sent = world.take(Api.LIST_OFFSETS)
    world.answer(sent, {"offsets": [[0, 0] for _ in sent.fields["partitions"]]})


def eventually(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """Writes wait until they are let go, one `release` each."""
    gate, real = threading.Semaphore(0), os.rename

    def rename(*arguments: Any) -> None:
        assert gate.acquire(timeout=SECONDS)
        real(*arguments)

    monkeypatch.setattr(os, "rename", rename)
    yield gate
    gate.release(1_000)


class TestWhereItBegins:
    def test_without_stored_offsets_at_the_start(self, opens: Opens) -> None:
        reader = opens()
        answer_starts(reader.world)

        assert begins_at(reader) == [(0, 0, None)]
        assert not [s for s in reader.world.sent if s.api is Api.OFFSET_FETCH]

    def test_where_it_left_off_with_the_epoch_of_what_was_read(self, opens: Opens) -> None:
        reader = opens(start=0)
        data = stored_batch(0, [b"a", b"b", b"c"], epoch=4)
        answer_fetch(reader.world, reader.world.take(Api.FETCH), {0: data})
        assert offsets(reader.give_records(10)) == [0, 1, 2]
        reader.commit()
        assert reader.in_file() == {0: (3, 4)}

        again = opens()
        assert begins_at(again) == [(0, 3, 4)]  # F12

    def test_what_others_said_of_it_is_not_asked(self, opens: Opens) -> None:
        reader = opens(partitions=2, start=0)
        bring(reader, 0)
        reader.give_records(10)
        reader.commit()

        again = opens(partitions=2)
        answer_starts(again.world)  # of the partition that nothing is stored of
        places = begins_at(again)
        if len(places) == 1:  # what needs no question need not wait
            places = sorted(places + begins_at(again))
        assert places == [(0, 3, 1), (1, 0, None)]

    def test_a_topic_made_anew_is_another(self, opens: Opens) -> None:
        reader = opens(start=0)
        bring(reader, 0)
        reader.give_records(10)
        reader.commit()

        again = opens(ids={"t": b"\1" * 16})
        answer_starts(again.world)
        assert begins_at(again) == [(0, 0, None)]

    def test_a_seek_to_what_is_stored(self, opens: Opens) -> None:
        reader = opens(start=0)
        bring(reader, 0)
        reader.give_records(2)
        reader.commit({("t", 0): 2})
        reader.give_records(1)
        reader.world.take_all(Api.FETCH)
        reader.seek("t", 0, "stored")

        assert begins_at(reader) == [(0, 2, 1)]


class TestCommitting:
    def test_no_offset_is_taken_that_is_none(self, opens: Opens) -> None:
        reader = opens(start=0)
        for wrong in (-1, 2**63, "5"):
            with pytest.raises(UsageError, match="is no offset"):
                reader.commit({("t", 0): wrong})  # type: ignore[dict-item]
        assert reader.in_file() == {}

    def test_of_what_is_not_read_the_partition_must_be_there(self, opens: Opens) -> None:
        reader = opens(partitions=2, start=0)
        reader.local.streams = {}
        promise = Promise()
        reader.driver.post(reader.local._note, promise, {("t", 2): 1})
        assert isinstance(promise.error, NotFoundError)
        reader.driver.post(reader.local._note, promise, {("t", 1): 1})
        assert promise.value["t", 1].entry == Entry("t", id_of("t"), 1, 1, 0)

    def test_a_full_disk_is_told_and_the_next_commit_has_all(
        self, opens: Opens, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reader = opens(start=0)
        bring(reader, 0)
        reader.give_records(1)
        reader.commit({("t", 0): 1})
        reader.give_records(1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", _no_room)
            with pytest.raises(DiskFullError, match="Make room; what was stored before is still"):
                reader.commit({("t", 0): 2})
        assert reader.in_file() == {0: (1, 1)}
        assert reader.local.stored[id_of("t"), 0] == (1, 1)

        reader.commit({("t", 0): 2})
        assert reader.in_file() == {0: (2, 1)}

    def test_a_commit_is_not_overtaken_by_an_older_one(
        self, opens: Opens, slow: threading.Semaphore
    ) -> None:
        """An automatic commit that waits for the disk while a later one of the user is written."""
        reader = opens(start=0)
        bring(reader, 0)
        iterator = reader.give_iterator()
        assert iterator is not None
        older = reader.local._numbered({("t", 0): 1})
        slow.release()
        reader.commit({("t", 0): 3})
        reader.local.write(older)

        assert reader.in_file() == {0: (3, 1)}

    def test_it_may_go_back(self, opens: Opens) -> None:
        reader = opens(start=0)
        bring(reader, 0)
        reader.give_records(3)
        reader.commit()
        reader.commit({("t", 0): 1})

        assert reader.in_file() == {0: (1, 1)}


class TestAutoCommits:
    def test_never_past_the_record_in_hand(self, opens: Opens) -> None:
        reader = opens(start=0, auto_commit_ms=100)
        bring(reader, 0)
        iterator = reader.give_iterator()
        assert iterator is not None
        assert offsets(islice(iterator, 2)) == [0, 1]
        reader.world.advance(100)
        eventually(reader.in_file)
        assert reader.in_file() == {0: (1, 1)}

        list(iterator)
        reader.world.advance(100)
        eventually(lambda: reader.in_file() == {0: (2, 1)})
        assert reader.give_iterator() is None  # the next was asked for
        reader.world.advance(100)
        eventually(lambda: reader.in_file() == {0: (3, 1)})

    def test_not_without_auto_commit(self, opens: Opens) -> None:
        reader = opens(start=0, auto_commit=False, auto_commit_ms=100)
        bring(reader, 0)
        reader.give_records(1)
        reader.give_records(1)
        reader.world.advance(1_000)

        assert not reader.local._has_thread
        assert reader.in_file() == {}

    def test_nothing_new_is_not_written(
        self, opens: Opens, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reader = opens(start=0, auto_commit_ms=100)
        bring(reader, 0)
        reader.give_records(1)
        reader.give_records(1)
        reader.world.advance(100)
        eventually(reader.in_file)
        eventually(lambda: not reader.local._has_thread)
        monkeypatch.setattr(threading, "Thread", None)

        reader.world.advance(1_000)
        assert reader.in_file() == {0: (1, 1)}

    def test_one_write_is_under_way_and_one_more_waits(
        self, opens: Opens, slow: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[int] = []
        reader = opens(start=0, auto_commit_ms=100)
        file = reader.local._file
        assert file is not None
        real = file.write

        def write(entries: Any) -> None:
            written.append(entries["t", 0].offset)
            real(entries)

        monkeypatch.setattr(file, "write", write)
        bring(reader, 0, count=8)
        for number in range(6):
            reader.give_records(1)
            reader.world.advance(100)
            if number == 1:
                eventually(lambda: written)
        slow.release(10)
        eventually(lambda: not reader.local._has_thread)

        assert written == [1, 5]
        assert reader.in_file() == {0: (5, 1)}

    def test_what_waits_is_not_lost_by_a_seek(
        self, opens: Opens, slow: threading.Semaphore
    ) -> None:
        reader = opens(start=0, auto_commit_ms=100)
        bring(reader, 0, count=8)
        for _ in range(3):  # the first write waits for the disk, the next for the first
            reader.give_records(1)
            reader.world.advance(100)
        reader.seek("t", 0, "start")
        reader.world.advance(100)
        slow.release(2)
        eventually(lambda: not reader.local._has_thread)

        assert reader.in_file() == {0: (2, 1)}

    def test_a_failing_disk_is_warned_about_once_and_tried_again(
        self, opens: Opens, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        reader = opens(start=0, auto_commit_ms=100)
        bring(reader, 0, count=8)

        def go_on() -> None:
            reader.give_records(1)
            reader.world.advance(100)
            eventually(lambda: not reader.local._has_thread)

        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "zmqmq.client"):
            patch.setattr(os, "write", _no_room)
            for _ in range(4):
                go_on()
            (said,) = caplog.messages
            assert "me.json cannot be written: No space left" in said
            assert reader.in_file() == {}
        go_on()
        assert reader.in_file() == {0: (4, 1)}
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "zmqmq.client"):
            patch.setattr(os, "write", _no_room)
            go_on()
            assert len(caplog.messages) == 2

    def test_without_a_thread_it_is_tried_again(
        self, opens: Opens, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        reader = opens(start=0, auto_commit_ms=100)
        bring(reader, 0)
        reader.give_records(1)
        reader.give_records(1)
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "zmqmq.client"):
            patch.setattr(threading.Thread, "start", _no_thread)
            reader.world.advance(300)
        assert len(caplog.messages) == 1
        reader.world.advance(100)
        eventually(lambda: reader.in_file() == {0: (1, 1)})

    def test_what_is_not_read_any_more_is_left_alone(self, opens: Opens) -> None:
        reader = opens(partitions=2, start=0, auto_commit_ms=100)
        bring(reader, 0)
        reader.give_records(1)
        reader.give_records(1)
        reader.driver.post(reader.assign_now, [("t", 1)])
        reader.world.advance(100)

        assert not reader.local._has_thread

    def test_a_closed_one_writes_nothing_more(self, opens: Opens) -> None:
        reader = opens(start=0)
        notes = reader.local._numbered({("t", 0): 1})
        reader.local.close()
        with pytest.raises(ZmqmqError, match="closed"):
            reader.local.write(notes)


def _no_room(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _no_thread(_: object) -> None:
    raise RuntimeError("can't start new thread")
