"""The simulated disk is honest: it loses what it may lose, and nothing else.

Were it too kind, a log that forgets a sync would pass its crash tests.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from zmqmq.core.storage.disk import Disk, read_all, replace
from zmqmq.errors import DiskFullError, StorageError
from zmqmq.sim.disk import SimDisk, SimFile

OLD, NEW = b"the old content", b"new"
PAGE = 4096


def contents_after_power_cut(
    disk: SimDisk, path: str, at: int | None = None, limit: int = 2000
) -> set[bytes | None]:
    states = disk.crash_states(at=at, rng=Random(7), limit=limit)
    return {read_all(state, path) for state in states}


def disk_with(path: str, content: bytes) -> tuple[SimDisk, SimFile]:
    """A disk on which this file is durable."""
    disk = SimDisk()
    file = disk.open(path, create=True)
    file.write(0, [content])
    file.sync()
    disk.sync_directory("")
    return disk, file


# The content of files.


def test_what_was_synced_stays() -> None:
    disk, _ = disk_with("a", b"safe")

    assert contents_after_power_cut(disk, "a") == {b"safe"}


def test_an_unsynced_write_may_be_kept_lost_or_torn_at_any_byte() -> None:
    disk, file = disk_with("a", b"....")
    file.write(0, [b"abcd"])

    assert contents_after_power_cut(disk, "a") == {b"....", b"a...", b"ab..", b"abc.", b"abcd"}


def test_a_later_write_may_be_kept_without_an_earlier_one() -> None:
    disk, file = disk_with("a", b"..")
    file.write(0, [b"1"])
    file.write(1, [b"2"])

    assert contents_after_power_cut(disk, "a") == {b"..", b"1.", b".2", b"12"}


def test_a_sync_makes_only_earlier_writes_of_this_file_durable() -> None:
    disk, file = disk_with("a", b"..")
    other = disk.open("b", create=True)
    other.write(0, [b"x"])
    disk.sync_directory("")
    file.write(0, [b"1"])
    file.sync()
    file.write(1, [b"2"])

    assert contents_after_power_cut(disk, "a") == {b"1.", b"12"}
    assert b"" in contents_after_power_cut(disk, "b")


def test_pages_in_the_middle_may_be_lost_and_later_ones_kept() -> None:
    disk, file = disk_with("a", bytes(3 * PAGE))
    file.write(0, [b"1" * PAGE, b"2" * PAGE, b"3" * PAGE])
    pages = {
        tuple(content[i * PAGE : i * PAGE + 1] for i in range(3))
        for content in contents_after_power_cut(disk, "a")
        if content
    }

    assert (b"1", b"\0", b"3") in pages
    assert (b"\0", b"\0", b"3") in pages
    assert (b"1", b"2", b"\0") in pages


@pytest.mark.parametrize("unit", [1, 512, PAGE])
def test_a_torn_write_ends_at_bytes_sectors_or_pages_of_the_file(unit: int) -> None:
    disk, file = disk_with("a", bytes(3 * PAGE))
    file.write(100, [b"x" * (2 * PAGE)])
    ends = {
        100 + content.count(b"x")
        for content in contents_after_power_cut(disk, "a")
        if content and content[100:].rstrip(b"\0").count(b"\0") == 0
    }

    assert {end for end in ends if end % unit == 0} - {100}
    assert unit > 1 or any(end % 512 for end in ends - {100, 100 + 2 * PAGE})


def test_an_append_may_leave_zeros_or_nothing() -> None:
    disk, file = disk_with("a", b"1")
    file.write(1, [b"2"])

    assert contents_after_power_cut(disk, "a") == {b"1", b"1\0", b"12"}


def test_room_may_be_lost_with_what_was_written_into_it_or_kept_without() -> None:
    disk, file = disk_with("a", b"1")
    file.allocate(4)
    file.write(1, [b"2"])

    assert contents_after_power_cut(disk, "a") == {b"1", b"1\0\0\0", b"12\0\0"}


def test_synced_room_stays() -> None:
    disk, file = disk_with("a", b"1")
    file.allocate(4)
    file.sync()
    file.write(1, [b"2"])

    assert contents_after_power_cut(disk, "a") == {b"1\0\0\0", b"12\0\0"}


def test_a_truncation_may_be_undone_until_it_is_synced() -> None:
    disk, file = disk_with("a", b"123")
    file.truncate(1)
    assert contents_after_power_cut(disk, "a") == {b"123", b"1\0\0", b"1"}

    file.sync()
    assert contents_after_power_cut(disk, "a") == {b"1"}


def test_what_a_failed_sync_forgot_no_later_sync_saves() -> None:
    disk, file = disk_with("a", b"..")
    file.write(0, [b"1"])
    disk.fail("sync")
    with pytest.raises(StorageError, match="sync"):
        file.sync()
    file.write(1, [b"2"])
    file.sync()

    assert file.read(0, 2) == b"12"
    assert contents_after_power_cut(disk, "a") == {b".2", b"12"}


# Names.


@pytest.mark.parametrize("is_synced", [False, True])
def test_a_new_name_may_vanish_though_the_file_was_synced(is_synced: bool) -> None:
    disk = SimDisk()
    file = disk.open("a", create=True)
    file.write(0, [b"x"])
    file.sync()
    if is_synced:
        disk.sync_directory("")

    assert contents_after_power_cut(disk, "a") == ({b"x"} if is_synced else {None, b"x"})


def test_a_durable_name_may_stand_on_a_file_that_is_empty_or_zeros() -> None:
    disk = SimDisk()
    disk.open("a", create=True).write(0, [b"xy"])
    disk.sync_directory("")

    assert contents_after_power_cut(disk, "a") == {b"", b"\0\0", b"x\0", b"x", b"\0y", b"xy"} - {
        b"\0y"  # one sector is torn from its end
    }


def test_a_folder_may_vanish_with_a_durable_name_in_it() -> None:
    disk = SimDisk()
    disk.make_directory("p")
    disk.open("p/a", create=True)
    disk.sync_directory("p")
    assert contents_after_power_cut(disk, "p/a") == {None, b""}

    disk.sync_directory("")
    assert contents_after_power_cut(disk, "p/a") == {b""}


def test_a_removed_file_may_come_back_until_its_folder_is_synced() -> None:
    disk, _ = disk_with("a", OLD)
    disk.remove("a")
    assert contents_after_power_cut(disk, "a") == {OLD, None}

    disk.sync_directory("")
    assert contents_after_power_cut(disk, "a") == {None}


def test_changes_of_names_may_be_reordered() -> None:
    disk = SimDisk()
    for name in ("1", "2", "3"):
        disk.open(name, create=True)

    states = disk.crash_states(rng=Random(1))
    assert {tuple(state.list("")) for state in states} == {
        (),
        ("1",),
        ("2",),
        ("3",),
        ("1", "2"),
        ("1", "3"),
        ("2", "3"),
        ("1", "2", "3"),
    }


def test_a_rename_target_is_the_old_or_the_new_file() -> None:
    disk, _ = disk_with("a", OLD)
    file = disk.open("b", create=True)
    file.write(0, [NEW])
    file.sync()
    disk.rename("b", "a")

    assert contents_after_power_cut(disk, "a") == {OLD, NEW}


def test_a_rename_between_folders_never_loses_the_file() -> None:
    disk = SimDisk()
    disk.make_directory("p")
    disk.make_directory("q")
    disk.open("p/a", create=True)
    for folder in ("", "p"):
        disk.sync_directory(folder)
    disk.rename("p/a", "q/a")
    places = {(False, True), (True, False)}

    def where() -> set[tuple[bool, bool]]:
        states = disk.crash_states(rng=Random(1))
        return {(state.exists("p/a"), state.exists("q/a")) for state in states}

    assert where() == places
    disk.sync_directory("q")
    assert where() == places
    disk.sync_directory("p")
    assert where() == {(False, True)}


# replace() of the port, and what its steps are for.


def replace_without(step: str, disk: Disk, path: str, content: bytes) -> None:
    scratch = path + ".tmp"
    file = disk.open(scratch, create=True)
    file.truncate(0)
    file.write(0, [content])
    if step != "sync":
        file.sync()
    disk.rename(scratch, path)
    if step != "sync_directory":
        disk.sync_directory("")


def test_replace_leaves_the_old_or_the_new_content_at_each_step() -> None:
    disk, _ = disk_with("a", OLD)
    start = len(disk.operations)
    replace(disk, "a", NEW)
    seen = set()
    for at in range(start, len(disk.operations)):
        found = contents_after_power_cut(disk, "a", at)
        assert found <= {OLD, NEW}
        seen |= found

    assert seen == {OLD, NEW}
    assert contents_after_power_cut(disk, "a") == {NEW}


def test_replace_over_the_leftover_of_a_crash_is_as_safe() -> None:
    disk, _ = disk_with("a", OLD)
    disk.open("a.tmp", create=True).write(0, [b"leftover of a longer attempt"])
    disk.sync_directory("")
    for state in disk.crash_states(rng=Random(1)):
        replace(state, "a", NEW)
        for at in range(len(state.operations)):
            assert contents_after_power_cut(state, "a", at, limit=20) <= {OLD, NEW}
        assert contents_after_power_cut(state, "a") == {NEW}


def test_without_the_first_sync_the_new_name_may_be_on_an_empty_file() -> None:
    disk, _ = disk_with("a", OLD)
    replace_without("sync", disk, "a", NEW)

    assert contents_after_power_cut(disk, "a") >= {b"", b"\0\0\0", NEW}


def test_without_the_sync_of_the_folder_the_old_content_may_be_back() -> None:
    disk, _ = disk_with("a", OLD)
    replace_without("sync_directory", disk, "a", NEW)

    assert contents_after_power_cut(disk, "a") == {OLD, NEW}


# States.


def test_all_ways_of_losing_eight_writes_come_up() -> None:
    disk, file = disk_with("a", b"." * 8)
    for i in range(8):
        file.write(i, [b"x"])

    states = [read_all(state, "a") for state in disk.crash_states(rng=Random(1))]
    assert len(states) == len(set(states)) == 256


def test_all_ways_of_losing_eight_appends_come_up() -> None:
    disk, file = disk_with("a", b"")
    for i in range(8):
        file.write(i, [b"x"])

    found = contents_after_power_cut(disk, "a")
    assert len(found) == sum(2**size for size in range(9))


def test_many_pending_changes_are_sampled_from_the_seed() -> None:
    disk, file = disk_with("a", b"." * 100)
    for i in range(30):
        file.write(i, [b"xx"])

    def draw(seed: int) -> list[bytes | None]:
        states = disk.crash_states(rng=Random(seed), limit=300)
        return [read_all(state, "a") for state in states]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert len(draw(1)) == 300
    assert len(set(draw(1))) > 150
    assert {b"." * 100, b"x" * 31 + b"." * 69} <= set(draw(1))


def test_any_moment_can_be_asked_for_in_any_order() -> None:
    disk, file = disk_with("a", b"0")
    moments = [len(disk.operations)]
    for i in (1, 2):
        file.write(i, [b"%d" % i])
        file.sync()
        moments.append(len(disk.operations))

    for i in (2, 0, 1):
        assert contents_after_power_cut(disk, "a", moments[i]) == {b"012"[: i + 1]}
        assert read_all(disk.kill_state(moments[i]), "a") == b"012"[: i + 1]
    before_any_sync = 2
    assert contents_after_power_cut(disk, "a", before_any_sync) == {None, b"", b"\0", b"0"}


def test_states_do_not_share_what_happens_to_them() -> None:
    disk, file = disk_with("a", b"..")
    file.write(0, [b"x"])
    disk.make_directory("p")
    states = list(disk.crash_states(rng=Random(1)))
    before = [(read_all(state, "a"), state.list("")) for state in states[1:]]
    states[0].open("a").write(0, [b"changed"])
    states[0].open("b", create=True)
    states[0].make_directory("p/q")
    file.write(0, [b"zzzz"])
    file.sync()
    disk.sync_directory("")

    assert [(read_all(state, "a"), state.list("")) for state in states[1:]] == before


def test_what_came_through_a_power_cut_is_durable() -> None:
    disk, file = disk_with("a", b"..")
    file.write(0, [b"x"])
    for state in disk.crash_states(rng=Random(1)):
        assert contents_after_power_cut(state, "a") == {read_all(state, "a")}


def test_recovery_can_be_cut_off_too() -> None:
    disk, file = disk_with("a", b"..")
    file.write(0, [b"x"])
    for state in disk.crash_states(rng=Random(1)):
        found = read_all(state, "a")
        state.open("a").write(1, [b"y"])
        assert found in contents_after_power_cut(state, "a")
        state.open("a").sync()
        assert contents_after_power_cut(state, "a") == {read_all(state, "a")}


def test_a_kill_loses_nothing_but_a_power_cut_after_it_may() -> None:
    disk, file = disk_with("a", b"..")
    file.write(0, [b"x"])
    disk.open("b", create=True)
    at = len(disk.operations)
    file.write(1, [b"later"])
    killed = disk.kill_state(at)
    assert read_all(killed, "a") == b"x."
    assert killed.exists("b")
    assert contents_after_power_cut(killed, "a") == {b"..", b"x."}

    killed.open("a").sync()
    assert contents_after_power_cut(killed, "a") == {b"x."}
    assert contents_after_power_cut(killed, "b") == {b"", None}


# Faults.


@pytest.mark.parametrize(
    ("operation", "act"),
    [
        ("open", lambda disk: disk.open("a")),
        ("read", lambda disk: disk.open("a").read(0, 1)),
        ("write", lambda disk: disk.open("a").write(0, [b"x"])),
        ("allocate", lambda disk: disk.open("a").allocate(99)),
        ("truncate", lambda disk: disk.open("a").truncate(1)),
        ("sync", lambda disk: disk.open("a").sync()),
        ("rename", lambda disk: disk.rename("a", "a")),
        ("remove", lambda disk: disk.remove("b")),
        ("make_directory", lambda disk: disk.make_directory("p")),
        ("sync_directory", lambda disk: disk.sync_directory("")),
    ],
)
def test_the_nth_call_fails(operation: str, act: Callable[[SimDisk], object]) -> None:
    disk, _ = disk_with("a", OLD)
    disk.fail(operation, at=2, count=2)
    disk.fail(operation, at=4, full=True)

    act(disk)
    for _ in range(2):
        with pytest.raises(StorageError, match=operation):
            act(disk)
    act(disk)


def test_a_failing_write_leaves_a_part_and_touches_nothing_else() -> None:
    disk, file = disk_with("a", b"........")
    disk.fail("write")
    with pytest.raises(StorageError):
        file.write(2, [b"1234"])

    assert file.read(0, 8) == b"..12...."


def test_a_full_disk_takes_what_fits_and_overwrites() -> None:
    disk = SimDisk(budget=10)
    file = disk.open("a", create=True)
    file.write(0, [b"12345678"])
    assert disk.free_bytes() == 2

    with pytest.raises(DiskFullError):
        file.write(8, [b"9abc"])
    with pytest.raises(DiskFullError):
        file.allocate(11)
    assert file.read(0, 99) == b"123456789a"
    file.write(0, [b"xxxxxxxxxx"])
    assert disk.free_bytes() == 0


@pytest.mark.parametrize("way", ["remove", "truncate", "replace"])
def test_room_comes_back(way: str) -> None:
    disk = SimDisk(budget=10)
    disk.open("b", create=True).write(0, [b"1"])
    file = disk.open("a", create=True)
    file.write(0, [b"12345678"])
    assert disk.free_bytes() == 1
    if way == "remove":
        disk.remove("a")
    elif way == "truncate":
        file.truncate(0)
    else:
        disk.rename("b", "a")

    assert disk.free_bytes() == (10 - 1)


def test_flipped_bits_are_on_the_disk_too() -> None:
    disk, file = disk_with("a", b"aa")
    disk.flip("a", 1, mask=0b11)

    assert file.read(0, 2) == b"ab"
    assert contents_after_power_cut(disk, "a") == {b"ab"}


def test_nothing_is_cached_when_the_test_says_so() -> None:
    disk, file = disk_with("a", b"x")
    disk.cached = False

    assert file.read_cached(0, 1) is None
