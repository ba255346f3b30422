"""A simulated disk without history is the same disk, only that it forgets; and its faults."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from zmqmq.core.storage.disk import Disk, read_all
from zmqmq.errors import DiskFullError, StorageError
from zmqmq.sim.disk import SimDisk, _State

NAMES = ["a", "b", "c", "p/a", "p/b", "q/a"]


class Pair:
    """Two disks to which the same is done, one of them with history."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.disks = SimDisk(), SimDisk(keeps_history=False)
        for disk in self.disks:
            disk.make_directory("p")
            disk.make_directory("q")

    def step(self) -> None:
        rng, name = self.rng, self.rng.choice(NAMES)
        kind = rng.randrange(20)
        position, size, other = rng.randrange(40), rng.randrange(1, 30), rng.choice(NAMES)
        data = rng.randbytes(rng.choice([1, 5, 20, 600]))
        for disk in self.disks:
            if kind < 11:
                file = disk.open(name, create=True)
                match kind:
                    case 0 | 1 | 2 | 3:
                        file.write(position, [data[:3], data[3:]])
                    case 4 | 5:
                        file.write(file.size, [data])
                    case 6:
                        file.truncate(size)
                    case 7:
                        file.allocate(size * 4)
                    case _:
                        file.sync()
            elif not disk.exists(name):
                continue
            elif kind == 11:
                disk.fail("sync")
                with pytest.raises(StorageError):
                    disk.open(name).sync()
            elif kind == 12 and (last := disk.open(name).size):
                disk.flip(name, position % last, 4)
            elif kind == 13:
                disk.remove(name)
            elif kind == 14:
                disk.rename(name, other)
            else:
                disk.sync_directory(name[:-2])

    def check(self, seed: int) -> None:
        """The present, and what a power cut makes of it, is the same on both."""
        kept, forgetful = self.disks
        assert everything(kept) == everything(forgetful)
        assert kept.used_bytes() == forgetful.used_bytes()
        after = [disk.power_cut(Random(seed)) for disk in self.disks]
        assert everything(after[0]) == everything(after[1])


def everything(disk: SimDisk) -> dict[str, bytes | None]:
    return {path: read_all(disk, path) for path in disk.paths()}


@pytest.mark.parametrize("seed", range(40))
def test_a_disk_without_history_loses_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # It would draw nothing for files that it has let go of; see the next test for that.
    monkeypatch.setattr(SimDisk, "_forget_unlinked", lambda _: None)
    rng = Random(seed)
    pair = Pair(rng)
    for number in range(120):
        pair.step()
        if number % 3 == 0:
            pair.check(number)


@pytest.mark.parametrize("seed", range(12))
def test_what_it_lets_go_of_makes_no_difference(seed: int) -> None:
    pair = Pair(Random(seed))
    compared = 0
    for _ in range(150):
        pair.step()
        replays = [disk._replay_to(None) for disk in pair.disks]
        if max(replay.ways() for replay in replays) > 60:
            for disk in pair.disks:
                for path in disk.paths():
                    disk.open(path).sync()
                for folder in ("", "p", "q"):
                    disk.sync_directory(folder)
            continue
        states = [
            {
                repr(everything(disk._after(_State(*state))))
                for state in replay.every_way(list(replay.pending.values()))
            }
            for disk, replay in zip(pair.disks, replays, strict=True)
        ]
        assert states[0] == states[1]
        compared += len(states[0]) > 1

    assert compared > 30


def test_it_enumerates_the_same_states() -> None:
    pair = Pair(Random(3))
    for disk in pair.disks:
        file = disk.open("a", create=True)
        file.write(0, [b"1234"])
        file.sync()
        disk.sync_directory("")
        file.write(2, [b"xy"])
        file.truncate(3)
    found = [
        [everything(state) for state in disk.crash_states(rng=Random(1))] for disk in pair.disks
    ]

    assert found[0] == found[1]
    assert len(found[0]) > 4


def test_a_disk_without_history_cannot_speak_of_the_past() -> None:
    disk = SimDisk(keeps_history=False)

    with pytest.raises(AssertionError, match="no history"):
        next(disk.crash_states(at=0, rng=Random(1)))


def test_many_power_cuts_one_after_the_other() -> None:
    """Whatever was synced is there after each; the disk goes on as it is after a kill."""
    rng = Random(5)
    disk = SimDisk(1 << 20, keeps_history=False)
    synced: list[bytes] = []
    for round_number in range(50):
        file = disk.open("log", create=True)
        disk.sync_directory("")
        found = file.read(0, file.size)
        assert found.startswith(b"".join(synced))
        position = sum(map(len, synced))
        file.truncate(position)
        for _ in range(rng.randrange(10)):
            piece = rng.randbytes(rng.randrange(1, 2_000))
            file.write(position, [piece])
            file.sync()
            synced.append(piece)
            position += len(piece)
        file.write(position, [b"unsynced"])
        disk = disk.power_cut(rng) if round_number % 3 else disk
        assert disk.budget == 1 << 20


def test_memory_does_not_grow_with_what_is_done() -> None:
    """Segments are rolled, checkpoints replaced, folders made and deleted."""
    disk = SimDisk(keeps_history=False)
    sizes = []
    for number in range(30):
        folder = f"p{number}"
        disk.make_directory(folder)
        disk.sync_directory("")
        for part in range(3):
            file = disk.open(f"{folder}/{part}", create=True)
            disk.sync_directory(folder)
            for position in range(0, 2_000, 100):
                file.write(position, [bytes(100)])
                file.sync()
        checkpoint = disk.open("new", create=True)
        checkpoint.write(0, [b"checkpoint"])
        checkpoint.sync()
        disk.rename("new", "checkpoint")
        for part in range(3):
            disk.remove(f"{folder}/{part}")
        disk.remove(folder)
        disk.sync_directory("")
        kept = disk._files, disk._contents, disk._unsynced, disk._folders, disk.operations
        sizes.append([*map(len, kept), len(disk._names.names), len(disk._names.folders)])

    assert sizes[-1] == sizes[3]
    assert max(sizes[-1]) <= 2


def test_a_failed_sync_is_never_mended_by_a_later_one() -> None:
    lost = 0
    for seed in range(50):
        disk = SimDisk(keeps_history=False)
        file = disk.open("a", create=True)
        disk.sync_directory("")
        disk.fail("sync", end="a")
        file.write(0, [b"first"])
        with pytest.raises(StorageError, match="sync 'a' failed"):
            file.sync()
        file.write(5, [b"second"])
        file.sync()
        found = read_all(disk.power_cut(Random(seed)), "a")
        assert found is not None
        assert found[5:11] in {b"second", b""}
        lost += found[:5] != b"first"

    assert 5 < lost < 50


def test_faults_may_be_for_one_kind_of_file() -> None:
    disk = SimDisk(keeps_history=False)
    disk.fail("sync", at=2, count=2, end=".log")
    log, index = disk.open("0.log", create=True), disk.open("0.index", create=True)
    story = []
    for file in (index, index, index, log, index, log, log, log):
        try:
            file.sync()
            story.append("")
        except StorageError:
            story.append(file.path)

    assert story == ["", "", "", "", "", "0.log", "0.log", ""]
    assert disk._faults == []


def test_a_disk_that_fills_up_and_is_emptied() -> None:
    disk = SimDisk(keeps_history=False)
    file = disk.open("a", create=True)
    file.write(0, [bytes(100)])
    disk.budget = disk.used_bytes() + 10
    with pytest.raises(DiskFullError):
        file.write(100, [bytes(11)])
    assert file.size == 110, "as much as there was room for"
    with pytest.raises(DiskFullError):
        file.allocate(111)
    disk.budget = 50
    assert disk.free_bytes() == 0
    file.write(0, [bytes(100)])
    disk.budget = None
    file.write(110, [bytes(100)])

    assert disk.used_bytes() == file.size == 210


def test_rot_is_one_bit_of_one_file_of_that_kind() -> None:
    places = set()
    for seed in range(60):
        disk = SimDisk(keeps_history=False)
        disk.make_directory("p")
        for path in ("p/0.log", "p/1.log", "p/0.index", "p/2.log"):
            file = disk.open(path, create=True)
            file.write(0, [bytes(8 if path != "p/2.log" else 0)])
            file.sync()
            disk.sync_directory("p")
        disk.sync_directory("")
        where = disk.rot(Random(seed), ".log")
        assert where is not None
        places.add(where)
        for state in (disk, disk.power_cut(Random(seed))):
            content = {path: read_all(state, path) or b"" for path in state.paths()}
            bits = {path: sum(byte.bit_count() for byte in data) for path, data in content.items()}
            assert [path for path, count in bits.items() if count] == [where[0]]
            assert content[where[0]][where[1]].bit_count() == bits[where[0]] == 1

    assert {path for path, _ in places} == {"p/0.log", "p/1.log"}
    assert len(places) > 10


def test_there_is_nothing_to_rot_on_an_empty_disk() -> None:
    disk = SimDisk(keeps_history=False)
    disk.open("a", create=True)

    assert disk.rot(Random(1)) is None


def test_paths_are_all_files_below_all_folders() -> None:
    disk = SimDisk()
    disk.make_directory("p/q")
    for path in ("z", "p/q/b", "p/a"):
        disk.open(path, create=True)

    assert disk.paths() == ["p/a", "p/q/b", "z"]
    assert list(folders(disk)) == ["p"]


def folders(disk: Disk) -> Iterator[str]:
    return (name for name in disk.list("") if disk.list(name))
