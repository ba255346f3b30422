"""What every Disk must do, whoever keeps the bytes.

Run on each implementation by test_disks.py, which gives the `disk` fixture.
"""

from __future__ import annotations

import pytest

from zmqmq.core.storage.disk import Disk, read_all, replace
from zmqmq.errors import DiskFullError, StorageError

MANY = 3000
"""More buffers than a kernel takes in one call."""


class DiskConformance:
    def test_a_read_sees_what_was_written(self, disk: Disk) -> None:
        file = disk.open("a", create=True)
        file.write(0, [b"one", bytearray(b"two"), memoryview(b"three")])

        assert file.size == 11
        assert file.read(0, 11) == b"onetwothree"
        assert file.read(3, 3) == b"two"

    def test_a_later_write_wins(self, disk: Disk) -> None:
        file = disk.open("a", create=True)
        file.write(0, [b"aaaaaaaa"])
        file.write(2, [b"bb"])

        assert file.read(0, 8) == b"aabbaaaa"

    def test_a_read_is_short_only_at_the_end(self, disk: Disk) -> None:
        file = disk.open("a", create=True)
        file.write(0, [b"0123456789"])

        assert file.read(8, 100) == b"89"
        assert file.read(10, 1) == b""
        assert file.read(99, 1) == b""
        assert file.read(3, 0) == b""

    def test_no_buffers_change_nothing(self, disk: Disk) -> None:
        file = disk.open("a", create=True)
        file.write(0, [])
        file.write(5, [b""])

        assert file.size == 0

    def test_more_buffers_than_one_call_takes_are_all_written(self, disk: Disk) -> None:
        file = disk.open("a", create=True)
        pieces = [bytes([i % 251]) * (i % 7) for i in range(MANY)]
        file.write(10, pieces)

        assert file.read(10, file.size) == b"".join(pieces)

    def test_two_handles_show_the_same_file(self, disk: Disk) -> None:
        writer, reader = disk.open("a", create=True), disk.open("a")
        writer.write(0, [b"hello"])

        assert reader.size == 5
        assert reader.read(0, 5) == b"hello"

    def test_what_was_skipped_reads_as_zeros(self, disk: Disk) -> None:
        file = disk.open("a", create=True)
        file.write(10_000, [b"end"])

        assert file.size == 10_003
        assert file.read(0, 10_003) == bytes(10_000) + b"end"

    def test_allocated_room_counts_and_reads_as_zeros(self, disk: Disk) -> None:
        file = disk.open("a", create=True)
        file.write(0, [b"x"])
        file.allocate(20_000)

        assert file.size == 20_000
        assert file.read(0, 20_000) == b"x" + bytes(19_999)
        assert file.read(19_999, 5) == b"\0"

    def test_allocate_never_shortens(self, disk: Disk) -> None:
        file = disk.open("a", create=True)
        file.write(0, [b"0123456789"])
        file.allocate(4)

        assert file.read(0, 100) == b"0123456789"

    def test_more_room_than_there_is_raises_disk_full(self, disk: Disk) -> None:
        file = disk.open("a", create=True)
        file.write(0, [b"x"])

        with pytest.raises(DiskFullError, match="allocate"):
            file.allocate(disk.free_bytes() + (1 << 30))

        assert file.read(0, 1) == b"x"

    def test_what_was_cut_off_does_not_come_back(self, disk: Disk) -> None:
        file = disk.open("a", create=True)
        file.write(0, [b"0123456789"])
        file.truncate(4)
        assert file.read(0, 100) == b"0123"

        file.allocate(8)
        assert file.read(0, 100) == b"0123\0\0\0\0"

    def test_what_is_cached_is_the_same(self, disk: Disk) -> None:
        file = disk.open("a", create=True)
        file.write(0, [bytes(range(256)) * 64])

        for position, size in [(0, 1), (100, 200), (0, 16_384), (16_000, 4096), (16_384, 10)]:
            assert file.read_cached(position, size) in (file.read(position, size), None)

    def test_content_outlives_the_handle(self, disk: Disk) -> None:
        file = disk.open("a", create=True)
        file.write(0, [b"kept"])
        file.sync()
        file.close()
        disk.sync_directory("")

        assert read_all(disk, "a") == b"kept"

    def test_open_with_create_keeps_what_is_there(self, disk: Disk) -> None:
        disk.open("a", create=True).write(0, [b"kept"])

        assert disk.open("a", create=True).read(0, 10) == b"kept"

    def test_open_of_a_missing_file_fails(self, disk: Disk) -> None:
        with pytest.raises(StorageError, match=r"open .*a.* failed: ENOENT"):
            disk.open("a")
        assert not disk.exists("a")

    def test_open_in_a_missing_folder_fails(self, disk: Disk) -> None:
        with pytest.raises(StorageError, match="ENOENT"):
            disk.open("p/a", create=True)

    def test_a_folder_is_not_a_file(self, disk: Disk) -> None:
        disk.make_directory("p")

        with pytest.raises(StorageError, match="EISDIR"):
            disk.open("p", create=True)

    def test_names_come_sorted(self, disk: Disk) -> None:
        disk.make_directory("p/q")
        for name in ("b", "c", "a"):
            disk.open(f"p/{name}", create=True)

        assert disk.list("p") == ["a", "b", "c", "q"]
        assert disk.list("") == ["p"]
        assert disk.list("missing") == []

    def test_folders_above_are_made_too_and_again(self, disk: Disk) -> None:
        disk.make_directory("p/q/r")
        disk.make_directory("p/q")

        assert disk.list("p/q") == ["r"]

    def test_a_file_in_the_way_of_a_folder_is_an_error(self, disk: Disk) -> None:
        disk.open("p", create=True)

        with pytest.raises(StorageError, match="make directory"):
            disk.make_directory("p/q")

    def test_rename_replaces(self, disk: Disk) -> None:
        disk.open("old", create=True).write(0, [b"old"])
        disk.open("new", create=True).write(0, [b"new"])
        disk.rename("new", "old")

        assert disk.list("") == ["old"]
        assert read_all(disk, "old") == b"new"

    def test_a_handle_follows_its_file_through_a_rename(self, disk: Disk) -> None:
        file = disk.open("a", create=True)
        disk.rename("a", "b")
        file.write(0, [b"x"])

        assert read_all(disk, "b") == b"x"

    def test_a_folder_is_renamed_with_all_in_it(self, disk: Disk) -> None:
        disk.make_directory("p/q")
        disk.open("p/q/a", create=True).write(0, [b"x"])
        disk.make_directory("gone")
        disk.rename("p/q", "gone/q")

        assert disk.list("p") == []
        assert read_all(disk, "gone/q/a") == b"x"

    def test_rename_of_what_is_missing_fails(self, disk: Disk) -> None:
        with pytest.raises(StorageError, match=r"rename .* failed: ENOENT"):
            disk.rename("a", "b")

    def test_remove_takes_files_and_empty_folders(self, disk: Disk) -> None:
        disk.make_directory("p")
        disk.open("p/a", create=True)

        with pytest.raises(StorageError, match=r"remove .* failed: ENOTEMPTY"):
            disk.remove("p")
        disk.remove("p/a")
        disk.remove("p/a")
        disk.remove("p")

        assert not disk.exists("p")

    def test_an_open_file_can_be_read_after_it_was_removed(self, disk: Disk) -> None:
        file = disk.open("a", create=True)
        file.write(0, [b"still"])
        disk.remove("a")

        assert file.read(0, 5) == b"still"
        assert disk.open("a", create=True).size == 0

    def test_replace_leaves_one_whole_file(self, disk: Disk) -> None:
        disk.make_directory("p")
        replace(disk, "p/c", b"a long first version")
        replace(disk, "p/c", b"second")

        assert read_all(disk, "p/c") == b"second"
        assert disk.list("p") == ["c"]

    def test_a_missing_file_has_no_content(self, disk: Disk) -> None:
        assert read_all(disk, "a") is None

    def test_a_folder_that_is_missing_cannot_be_synced(self, disk: Disk) -> None:
        with pytest.raises(StorageError):
            disk.sync_directory("p")

    def test_there_is_room(self, disk: Disk) -> None:
        assert disk.free_bytes() > 0

    @pytest.mark.parametrize("path", ["../x", "/x", "p/../../x", "p//x", "./x", "p/.", "x/"])
    def test_no_path_leads_out(self, disk: Disk, path: str) -> None:
        disk.make_directory("p")

        with pytest.raises(StorageError, match="not below the data directory"):
            disk.open(path, create=True)
        with pytest.raises(StorageError, match="not below the data directory"):
            disk.make_directory(path)
        with pytest.raises(StorageError, match="not below the data directory"):
            disk.exists(path)
