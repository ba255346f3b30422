"""A segment's sparse index, and the sidecar that saves building it again."""

from __future__ import annotations

from zmqmq.core.storage.segment import Segment, base_of, file_name
from zmqmq.sim.disk import SimDisk

FOLDER = "log"
BATCH = 100
INTERVAL = 250


def segment_with(batches: int, *, base: int = 10, disk: SimDisk | None = None) -> Segment:
    """Batches of 2 records and 100 bytes each, one every 10 ms."""
    disk = disk or SimDisk()
    disk.make_directory(FOLDER)
    segment = Segment(disk, FOLDER, base, INTERVAL)
    segment.create()
    for n in range(batches):
        segment.file.write(n * BATCH, [bytes(BATCH)])
        segment.note(n * BATCH, base + 2 * (n + 1), BATCH, 1_000 + 10 * n, 2)
    return segment


def test_the_index_has_the_first_batch_and_one_about_every_interval() -> None:
    segment = segment_with(9)

    assert list(segment.positions) == [0, 300, 600]
    assert list(segment.offsets) == [10, 16, 22]


def test_an_offset_is_looked_for_from_the_entry_before_it() -> None:
    segment = segment_with(9)

    found = [segment.place_before(offset) for offset in (10, 15, 16, 17, 27)]
    assert found == [(10, 0), (10, 0), (16, 300), (16, 300), (22, 600)]
    assert segment_with(0).place_before(10) == (10, 0)


def test_a_time_is_looked_for_from_an_entry_that_is_older() -> None:
    """Several batches may have the same time, so an entry of just that time may be too late."""
    segment = segment_with(9)

    found = [segment.place_before_time(ms)[1] for ms in (0, 1_000, 1_030, 1_031, 9_999)]
    assert found == [0, 0, 0, 300, 600]


def test_it_counts_what_it_holds() -> None:
    segment = segment_with(4)

    assert (segment.base_offset, segment.end_offset, segment.record_count) == (10, 18, 8)
    assert (segment.size, segment.first_append_ms, segment.last_append_ms) == (400, 1_000, 1_030)
    assert not segment.is_empty
    assert segment_with(0).is_empty


def test_the_sidecar_gives_back_all_of_it() -> None:
    disk = SimDisk()
    segment = segment_with(9, disk=disk)
    segment.save_index()
    again = Segment(disk, FOLDER, 10, INTERVAL)

    assert again.load_index()
    for name in ("end_offset", "size", "record_count", "first_append_ms", "last_append_ms"):
        assert getattr(again, name) == getattr(segment, name)
    assert (again.offsets, again.positions, again.times) == (
        segment.offsets,
        segment.positions,
        segment.times,
    )
    for each in (segment, again):
        each.note(900, 30, BATCH, 2_000, 2)
    assert again.positions == segment.positions


def test_a_sidecar_that_does_not_fit_is_not_taken() -> None:
    disk = SimDisk()
    segment_with(9, disk=disk).save_index()
    again = Segment(disk, FOLDER, 10, INTERVAL)
    again.file.truncate(800)
    assert not again.load_index()
    again.file.truncate(900)
    assert again.load_index()

    for position in range(disk.open(again.index_path).size):
        disk.flip(again.index_path, position)
        assert not Segment(disk, FOLDER, 10, INTERVAL).load_index()
        disk.flip(again.index_path, position)
    disk.fail("read")
    assert not again.load_index()


def test_no_sidecar_is_no_index() -> None:
    assert not segment_with(3).load_index()


def test_names_sort_as_offsets_do_and_nothing_else_is_taken_for_one() -> None:
    names = [file_name(base, ".log") for base in (0, 9, 10, 2**53)]

    assert names == sorted(names)
    assert [base_of(name, ".log") for name in names] == [0, 9, 10, 2**53]
    for name in ("1.log", "x" * 20 + ".log", names[0] + ".tmp", names[0][:-4], "\u0663" * 20):
        assert base_of(name, ".log") is None


def test_a_segment_that_is_removed_takes_its_sidecar_along() -> None:
    disk = SimDisk()
    segment = segment_with(1, disk=disk)
    segment.save_index()
    segment.remove()

    assert disk.list(FOLDER) == []
