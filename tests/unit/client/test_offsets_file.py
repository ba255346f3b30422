"""The file of a broadcast consumer: old or new after any crash, one holder, damage is told."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.broker_process import missing
from zmqmq.client.offsets_file import Entry, OffsetsFile, decoded, default_folder, encoded
from zmqmq.errors import (
    ConflictError,
    CorruptDataError,
    DiskFullError,
    InvalidNameError,
    StorageError,
    UsageError,
)
from zmqmq.model.limits import BROADCAST_NAME_MAX, INTEGER_MAX
from zmqmq.model.names import check_broadcast_name

CLUSTER = bytes(range(16))
IDENTITY = {"version": 1, "cluster": CLUSTER.hex(), "name": "me"}
ID = b"\7" * 16


def entry(offset: int, partition: int = 0, epoch: int = 3) -> Entry:
    return Entry("t", ID, partition, offset, epoch)


def of(*entries: Entry) -> dict[tuple[str, int], Entry]:
    return {(e.topic, e.partition): e for e in entries}


@pytest.fixture
def file(tmp_path: Path) -> Iterator[OffsetsFile]:
    """One that is open and has an offset in it."""
    file = OffsetsFile(tmp_path / "offsets", CLUSTER, "me")
    file.open()
    file.write(of(entry(5)))
    yield file
    file.close()


def read_again(file: OffsetsFile) -> dict[tuple[str, int], Entry]:
    return dict(decoded(IDENTITY, file.path.read_bytes()))


def python(script: str, *arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A process of its own that has this module's names."""
    head = "from tests.unit.client.test_offsets_file import *\n"
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", head + textwrap.dedent(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class TestContent:
    def test_what_was_written_is_there_when_it_is_opened_again(self, file: OffsetsFile) -> None:
        file.write(of(entry(7), entry(9, partition=1)))
        file.close()

        again = OffsetsFile(file.path.parents[1], CLUSTER, "me")
        assert again.entries == {}
        again.open()
        assert again.entries == of(entry(7), entry(9, partition=1))
        again.close()

    def test_people_can_read_it(self, file: OffsetsFile) -> None:
        document = json.loads(file.path.read_text())

        assert document["version"] == 1
        assert document["name"] == "me"
        assert document["cluster"] == file.path.parent.name == CLUSTER.hex()
        row = {"topic": "t", "topic_id": ID.hex(), "partition": 0, "offset": 5, "epoch": 3}
        assert document["offsets"] == [row]

    @given(
        st.lists(
            st.builds(
                Entry,
                st.text(max_size=5),
                st.binary(min_size=16, max_size=16),
                st.integers(0, 3),
                st.integers(0, INTEGER_MAX),
                st.integers(0, INTEGER_MAX),
            ),
            max_size=5,
        )
    )
    def test_everything_comes_back(self, entries: list[Entry]) -> None:
        by_place = of(*entries)

        assert decoded(IDENTITY, encoded(IDENTITY, by_place.values())) == by_place

    @given(st.data())
    def test_no_changed_byte_changes_an_offset(self, data: st.DataObject) -> None:
        good = encoded(IDENTITY, [entry(5), entry(123_456, partition=1)])
        at = data.draw(st.integers(0, len(good) - 1))
        changed = bytearray(good)
        changed[at] = data.draw(st.integers(0, 255))
        try:
            found = decoded(IDENTITY, bytes(changed))
        except ValueError:
            return
        assert found == of(entry(5), entry(123_456, partition=1))

    @given(st.data())
    def test_a_part_of_it_is_not_taken_for_all(self, data: st.DataObject) -> None:
        good = encoded(IDENTITY, [entry(5), entry(6, partition=1)])
        cut = data.draw(st.integers(0, len(good) - 2))  # the last byte is the end of the line

        with pytest.raises(ValueError):  # noqa: PT011 - whatever it stumbles over first
            decoded(IDENTITY, good[:cut])

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\0" * 100,
            b"[]",
            b"{}",
            b"[" * 100_000,
            b"\xff",
            encoded({**IDENTITY, "name": "other"}, []),
            encoded({**IDENTITY, "cluster": "00" * 16}, []),
            encoded(IDENTITY, [entry(-1)]),
            encoded(IDENTITY, [entry(INTEGER_MAX + 1)]),
            encoded(IDENTITY, [entry(1), entry(2)]),
            encoded(IDENTITY, [entry(True)]),
        ],
    )
    def test_damage_names_the_file_and_the_way_out(self, file: OffsetsFile, data: bytes) -> None:
        file.close()
        file.path.write_bytes(data)

        again = OffsetsFile(file.path.parents[1], CLUSTER, "me")
        with pytest.raises(CorruptDataError) as caught:
            again.open()
        assert str(file.path) in str(caught.value)
        assert "remove it" in str(caught.value)
        file.path.unlink()
        again.open()  # nobody holds the lock
        assert again.entries == {}
        again.close()

    def test_a_newer_version_is_left_alone(self, file: OffsetsFile) -> None:
        file.close()
        file.path.write_bytes(encoded({**IDENTITY, "version": 2}, [entry(5)]))

        with pytest.raises(StorageError, match=r"me\.json: it has version 2, of a newer zmqmq"):
            OffsetsFile(file.path.parents[1], CLUSTER, "me").open()


class TestNames:
    @pytest.mark.parametrize("name", ["a", "A.b_c-9", ".a", "-", "x" * BROADCAST_NAME_MAX])
    def test_a_name_becomes_one_of_a_file(self, tmp_path: Path, name: str) -> None:
        file = OffsetsFile(tmp_path, CLUSTER, check_broadcast_name(name))
        file.open()
        file.write(of(entry(5)))
        file.close()

        assert sorted(p.name for p in (tmp_path / CLUSTER.hex()).iterdir()) == sorted(
            [f"{name}.json", f"{name}.lock"]
        )

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "a/b", "../a", "a\0", "a\n", "ä", "a b", "a\\b", "x" * 201]
    )
    def test_others_are_refused(self, name: str) -> None:
        with pytest.raises(InvalidNameError, match="broadcast consumer"):
            check_broadcast_name(name)

    @pytest.mark.parametrize(
        ("environ", "folder"),
        [
            ({"XDG_STATE_HOME": "/s"}, "/s/zmqmq/broadcast"),
            ({"XDG_STATE_HOME": "s"}, "~/.local/state/zmqmq/broadcast"),
            ({}, "~/.local/state/zmqmq/broadcast"),
        ],
    )
    def test_where_they_are_kept(self, environ: dict[str, str], folder: str) -> None:
        assert str(default_folder(environ)) == folder


class TestAtomicity:
    def test_each_step_is_durable_before_the_next(
        self, file: OffsetsFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[tuple[str, str]] = []

        def recorded(name: str, place: Callable[[Any], str]) -> None:
            real = getattr(os, name)

            def call(*arguments: Any, **others: Any) -> Any:
                calls.append((name, place(arguments[0])))
                return real(*arguments, **others)

            monkeypatch.setattr(os, name, call)

        def name_of(descriptor: int) -> str:
            return Path(f"/proc/self/fd/{descriptor}").readlink().name

        recorded("write", name_of)
        recorded("fsync", name_of)
        recorded("rename", lambda path: Path(path).name)
        file.write(of(entry(6)))

        assert calls == [
            ("write", "me.json.tmp"),
            ("fsync", "me.json.tmp"),
            ("rename", "me.json.tmp"),
            ("fsync", CLUSTER.hex()),
        ]

    @pytest.mark.strace
    @pytest.mark.parametrize(
        ("call", "found"),
        [
            ("openat", [5, 5, 6, 6]),  # the file, the part, the folder; the last is not killed
            ("write", [5, 6]),
            ("fsync", [5, 6, 6]),
            ("rename", [5, 6]),
            ("close", [5, 5, 6, 6]),
        ],
    )
    def test_killed_at_any_call_there_is_the_old_or_the_new(
        self, file: OffsetsFile, call: str, found: list[int]
    ) -> None:
        if shutil.which("strace") is None:
            missing("strace is not installed")
        file.close()
        folder, old = file.path.parent, file.path.read_bytes()
        script = """
            file = OffsetsFile(Path(sys.argv[1]), CLUSTER, "me")
            file.open()
            file.write(of(entry(6)))
            print("done")
        """
        seen: list[int] = []
        said = ""
        while not said:
            file.path.write_bytes(old)
            prefix = (
                *("strace", "-f", "-qqq", "-o", "/dev/null", "-e", f"trace={call}"),
                *("-P", f"{file.path}.tmp", "-P", str(file.path), "-P", str(folder)),
                *("-e", f"inject={call}:signal=KILL:when={len(seen) + 1}"),
            )
            with python(script, folder.parent, prefix=prefix) as process:
                said, _ = process.communicate(timeout=60)
            seen.append(read_again(file)["t", 0].offset)
            file.open()  # a lock of who was killed, and what it left, are in nobody's way
            file.close()

        assert seen == found

    @pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
    @pytest.mark.parametrize(
        ("number", "kind"),
        [(errno.ENOSPC, DiskFullError), (errno.EIO, StorageError), (errno.EROFS, StorageError)],
    )
    def test_a_failing_disk_is_told_and_changes_nothing(
        self,
        file: OffsetsFile,
        monkeypatch: pytest.MonkeyPatch,
        call: str,
        number: int,
        kind: type[Exception],
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(kind, match=rf"me\.json cannot be written: {os.strerror(number)}"):
                file.write(of(entry(6)))

        assert read_again(file) == file.entries == of(entry(5))
        assert not file.path.with_suffix(".json.tmp").exists()
        file.write(of(entry(6)))
        assert read_again(file) == of(entry(6))

    def test_a_write_may_take_only_a_part(
        self, file: OffsetsFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.write
        monkeypatch.setattr(os, "write", lambda number, data: real(number, data[:7]))
        file.write(of(entry(6)))

        assert read_again(file) == of(entry(6))

    def test_a_folder_that_cannot_be_written_to_is_told_at_once(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o555)
            script = """
                if os.geteuid() == 0:
                    os.seteuid(65534)
                try:
                    OffsetsFile(Path(sys.argv[1]) / "offsets", CLUSTER, "me").open()
                except StorageError as error:
                    print(error)
            """
            with python(script, folder) as process:
                said, _ = process.communicate(timeout=60)
        assert f"{folder}/offsets" in said
        assert "Permission denied" in said
        assert "offsets_dir=… names another folder" in said


class TestLock:
    HOLD = """
        file = OffsetsFile(Path(sys.argv[1]), CLUSTER, "me")
        file.open()
        print("open", flush=True)
        sys.stdin.read()
    """

    def test_a_second_is_told_who_holds_it(self, tmp_path: Path) -> None:
        file = OffsetsFile(tmp_path, CLUSTER, "me")
        with python(self.HOLD, tmp_path) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            with pytest.raises(ConflictError, match=rf"in process {process.pid} \("):
                file.open()
            other = OffsetsFile(tmp_path, CLUSTER, "other")
            other.open()
            other.close()
            elsewhere = OffsetsFile(tmp_path, b"\1" * 16, "me")
            elsewhere.open()
            elsewhere.close()

            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
            file.open()  # the lock goes with the process
        file.close()

    def test_one_process_is_told_that_it_is_itself(self, file: OffsetsFile) -> None:
        with pytest.raises(ConflictError, match=rf"in process {os.getpid()}, which is this one"):
            OffsetsFile(file.path.parents[1], CLUSTER, "me").open()

    def test_one_that_nobody_has_any_more_is_free(self, tmp_path: Path) -> None:
        OffsetsFile(tmp_path, CLUSTER, "me").open()
        again = OffsetsFile(tmp_path, CLUSTER, "me")
        again.open()
        again.close()

    def test_a_closed_one_is_not_written_to(self, file: OffsetsFile) -> None:
        file.close()
        file.close()
        with pytest.raises(UsageError):
            file.write(of(entry(6)))
        assert read_again(file) == of(entry(5))

    def test_a_forked_child_has_no_part_in_it(self, tmp_path: Path) -> None:
        """Neither may it write, nor does the lock outlive the parent in it."""
        script = """
            import time
            file = OffsetsFile(Path(sys.argv[1]), CLUSTER, "me")
            file.open()
            if os.fork():
                sys.stdin.read()
            print(os.getpid(), flush=True)
            try:
                file.write(of(entry(6)))
                print("it may write", flush=True)
            except UsageError:
                file.close()
                print("it may not", flush=True)
            time.sleep(60)
        """
        file = OffsetsFile(tmp_path, CLUSTER, "me")
        with python(script, tmp_path) as process:
            assert process.stdout is not None
            child = int(process.stdout.readline())
            try:
                assert process.stdout.readline() == "it may not\n"
                with pytest.raises(ConflictError, match=rf"in process {process.pid} \("):
                    file.open()
                process.kill()
                process.wait(60)
                file.open()
                file.close()
            finally:
                process.kill()
                os.kill(child, signal.SIGKILL)
