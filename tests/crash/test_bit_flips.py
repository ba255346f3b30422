"""One flipped bit in every 64th byte of every kind of file.

After the start every acknowledged record is served byte for byte, or refused as damage; never
something else, and none is left out in silence. The one thing that cannot be told (recovery.py)
is damage in what was written last before a crash, where nothing behind it says that it was
committed: it is taken for a torn tail. After a clean stop there is no such thing.
"""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from tests.support.log_driver import COMPACTED, CONFIG, KEY, LogDriver, Mark, check, read_from
from zmqmq.batch.decode import decode_batches
from zmqmq.batch.layout import HEADER_SIZE, unpack_header
from zmqmq.core.meta.store import Put, UnavailableError
from zmqmq.core.storage.data_directory import (
    CHECKPOINTS_FILE,
    FORMAT_FILE,
    Format,
    read_checkpoints,
    read_format,
    write_format,
)
from zmqmq.core.storage.log import Log
from zmqmq.core.storage.reading import read
from zmqmq.errors import Code, CorruptDataError, DirectoryError, WireError
from zmqmq.runtime.sqlite_tables import SqliteTables
from zmqmq.sim.disk import SimDisk

SCALE = int(os.environ.get("ZMQMQ_TEST_SCALE", "1"))
STEP = 64 if SCALE == 1 else 1
FORMAT = Format("ab" * 16, 1, 7)


def lived(*, compacts: bool) -> LogDriver:
    """A log with every kind of file, and batches behind its last checkpoint."""
    config = COMPACTED if compacts else CONFIG
    driver = LogDriver(SimDisk(), config=config, rng=Random(5))
    write_format(driver.disk, FORMAT)
    driver.serve()
    for turn in range(14):
        driver.send(3, producer=7 + turn % 2, size=100, keys=8 if compacts else 0)
        driver.send(2, size=100, keys=8 if compacts else 0)
        driver.flush()
        if turn == 4:
            driver.checkpoint()
        if turn == 9:
            driver.checkpoint()
            if compacts:
                assert driver.compact()
            else:
                driver.retain(1)
            driver.unlink()
    return driver


def files_of(disk: SimDisk) -> list[str]:
    names = [f"{KEY.folder}/{name}" for name in disk.list(KEY.folder)]
    return [*names, CHECKPOINTS_FILE, FORMAT_FILE]


def flips(disk: SimDisk) -> list[tuple[str, int]]:
    """Every 64th byte of every file, and the last one."""
    return [
        (path, position)
        for path in files_of(disk)
        if (size := disk.open(path).size)
        for position in sorted({*range(0, size, STEP), size - 1})
    ]


def undecided_from(driver: LogDriver) -> int:
    """From which offset on nothing tells damage from a torn tail: it lies above the recovery
    point, and no batch behind it was appended when it was committed already."""
    checkpoint = read_checkpoints(driver.disk).get(KEY.folder)
    point = checkpoint.recovery_point if checkpoint else 0
    return max(point, *(sent.header.committed_end for sent in driver.history.batches))


def damaged_from(log: Log, offset: int, end: int) -> bool:
    """Whether everything from there on is refused as damage."""
    try:
        read(log, offset, 1 << 20, end)
    except CorruptDataError:
        return log.damage is not None
    except WireError as error:
        return error.code == Code.STORAGE_DAMAGED
    return False


def serve_right_or_refuse(again: LogDriver, known: Mark, undecided: int) -> str:
    """What came of it: right, damaged or cut."""
    log, history = again.log, known.history
    sent = history.records(known.end) if known.compacted else {}
    assert log.start_offset <= known.start
    offset = max(log.start_offset, known.start)
    while offset < known.end:
        try:
            data = bytes(read(log, offset, 1, known.end))
        except (CorruptDataError, WireError) as error:
            if isinstance(error, WireError) and error.code == Code.OFFSET_OUT_OF_RANGE:
                data = b""
            else:
                if not damaged_from(log, offset, known.end):
                    raise
                with pytest.raises((CorruptDataError, WireError)):
                    again_refused(again)
                return "damaged"
        if not data:
            assert offset == log.end_offset
            assert offset >= undecided, f"{offset} on was acknowledged, and is gone in silence"
            return "cut"
        following = unpack_header(data).next_offset
        if known.compacted:
            for batch in decode_batches(data, KEY.seed, "", 3):
                for at, key, value in zip(batch.offsets, batch.keys, batch.values, strict=True):
                    assert sent[at] == (key, value), f"another record at {at}"
        else:
            start, end = history.position(offset), history.position(following)
            assert data == history.data[start:end], f"other bytes at {offset}"
        offset = following
    return "right"


def again_refused(again: LogDriver) -> None:
    """A damaged log takes nothing more."""
    again.log.check_usable()


@pytest.mark.parametrize("compacts", [False, True])
@pytest.mark.parametrize("is_clean", [True, False])
def test_a_flipped_bit_is_found_or_does_no_harm(is_clean: bool, compacts: bool) -> None:
    driver = lived(compacts=compacts)
    assert isinstance(driver.disk, SimDisk)
    undecided = undecided_from(driver)
    if is_clean:
        driver.close()
        undecided = driver.acknowledged
    known = driver.story.marks[-1]
    came = {"right": 0, "damaged": 0, "cut": 0, "refused": 0}
    kinds = set()
    for path, position in flips(driver.disk):
        disk = driver.disk.kill_state()
        disk.flip(path, position, 1 << position % 8)
        kinds.add(path.rpartition(".")[2] if "." in path else path)
        try:
            form = read_format(disk)
        except DirectoryError:
            assert path == FORMAT_FILE
            came["refused"] += 1
            continue
        assert form == FORMAT
        again = LogDriver(disk, config=driver.config, before=known)
        came[serve_right_or_refuse(again, known, undecided)] += 1
        if again.log.damage is None:
            again.serve()
            again.send(1)
            again.flush()
        else:
            still_damaged(again, known, undecided)

    assert {"log", "index", "state"} <= kinds
    assert came["damaged"] > 20
    assert came["refused"] >= 2
    assert bool(came["cut"]) != is_clean
    print(f"clean {is_clean}, compacted {compacts}: {came}")  # noqa: T201


def still_damaged(again: LogDriver, known: Mark, undecided: int) -> None:
    """A second start finds it again, after the first one has written its checkpoint."""
    again.checkpoint()
    assert isinstance(again.disk, SimDisk)
    third = LogDriver(again.disk.kill_state(), config=again.config, before=known)
    assert serve_right_or_refuse(third, known, undecided) == "damaged"


def test_what_cannot_be_told_is_cut_whole_and_the_log_goes_on() -> None:
    """As recovery.py documents it: damage to the very last group before a crash."""
    driver = lived(compacts=False)
    driver.send(2)
    driver.flush()
    assert isinstance(driver.disk, SimDisk)
    disk = driver.disk.kill_state()
    last = driver.history.batches[-1]
    segment = driver.log.segments[-1]
    disk.flip(segment.path, segment.size - len(last.data) + HEADER_SIZE + 3)

    again = LogDriver(disk, before=driver.story.marks[-1])

    assert again.log.damage is None
    assert again.log.end_offset == last.header.base_offset
    data = read_from(again.log, again.log.start_offset, again.log.end_offset)
    assert driver.history.data.endswith(data + last.data)


def test_without_a_flip_all_is_right() -> None:
    for compacts in (False, True):
        driver = lived(compacts=compacts)
        known = driver.close()
        assert isinstance(driver.disk, SimDisk)
        check(LogDriver(driver.disk.kill_state(), config=driver.config, before=known).log, known)


def test_a_flipped_bit_in_the_metadata_is_found_or_does_no_harm(tmp_path: Path) -> None:
    """SQLite's pages have no checksums; the rows have ours."""
    path = tmp_path / "metadata.db"
    tables = SqliteTables(path)
    tables.begin()
    for number in range(60):
        tables.commit([Put(b"key/%d" % (number % 40), b"value %d " % number * 9)], ())
    tables.grant(7, 10.0)
    tables.end()
    before = (tables.list(b"", 0, None, 0), tables.leases(), tables.cluster_id)
    tables.close()
    whole = path.read_bytes()
    came = {"right": 0, "refused": 0}
    for position in range(0, len(whole), STEP):
        content = bytearray(whole)
        content[position] ^= 1 << position // 64 % 8
        path.write_bytes(content)
        try:
            again = SqliteTables(path)
        except (CorruptDataError, DirectoryError, UnavailableError):
            came["refused"] += 1
            continue
        assert (again.list(b"", 0, None, 0), again.leases(), again.cluster_id) == before
        again.close()
        came["right"] += 1
    assert came["refused"] > 80
    print(came)  # noqa: T201
