"""The small files of a data directory, old versions included, and what is put aside."""

from __future__ import annotations

import json
from dataclasses import replace

import msgpack
import pytest
from crc32c import crc32c

from tests.support.lineages import FollowerLog, batch_at
from tests.support.log_driver import CONFIG, KEY, OPTIONS
from zmqmq.core.storage.data_directory import (
    CHECKPOINTS_FILE,
    FORMAT_FILE,
    FORMAT_VERSION,
    UNVOUCHED_MAX,
    Format,
    quarantine,
    read_checkpoints,
    read_format,
    write_checkpoints,
    write_format,
)
from zmqmq.core.storage.log import LogKey
from zmqmq.core.storage.recovery import Checkpoint, open_log
from zmqmq.core.storage.states import State, pack_state, unpack_state
from zmqmq.errors import CorruptDataError, DirectoryError
from zmqmq.sim.disk import SimDisk

FORMAT = Format("ab" * 16, 1, 17)
ASIDE = KEY.folder.replace("logs/", "quarantine/")


def put(disk: SimDisk, path: str, content: bytes) -> None:
    disk.open(path, create=True).write(0, [content])


def put_format(disk: SimDisk, fields: dict[str, object]) -> None:
    text = json.dumps(fields).encode()
    put(disk, FORMAT_FILE, text + b"\n%08x" % crc32c(text))


def put_rows(disk: SimDisk, version: int, rows: list[object]) -> None:
    body = msgpack.packb([version, rows])
    put(disk, CHECKPOINTS_FILE, crc32c(body).to_bytes(4, "big") + body)


def test_a_format_is_read_as_it_was_written() -> None:
    disk = SimDisk()
    form = replace(
        FORMAT,
        since_fsync=3,
        since_clean=9,
        clean_epoch=16,
        unvouched={"logs/a": None, "logs/b": 4},
    )

    write_format(disk, form)

    assert read_format(disk) == form


def test_a_format_of_the_first_version_vouches_for_what_was_flushed() -> None:
    """It is of a broker alone: what it flushed is there, and there is nobody to copy it from."""
    disk = SimDisk()
    put_format(disk, {"cluster": "ab" * 16, "broker": 1, "epoch": 17, "format": 1})

    assert read_format(disk) == replace(FORMAT, since_fsync=0)


def test_a_newer_format_is_refused() -> None:
    disk = SimDisk()
    put_format(disk, {"format": FORMAT_VERSION + 1, "unheard of": 1})

    with pytest.raises(DirectoryError, match="newer zmqmq"):
        read_format(disk)


def test_a_log_is_not_vouched_for_any_more() -> None:
    form = replace(FORMAT, since_fsync=3, since_clean=5, unvouched={"logs/a": 4})

    assert form.without("logs/b") == replace(form, unvouched={"logs/a": 4, "logs/b": None})
    assert form.without("logs/a").unvouched == {"logs/a": None}


def test_with_too_many_of_them_nothing_is_vouched_for() -> None:
    many = {f"logs/{number}": 4 for number in range(UNVOUCHED_MAX)}
    form = replace(FORMAT, since_fsync=3, since_clean=5, unvouched=many)

    assert len(form.without("logs/0").unvouched) == UNVOUCHED_MAX
    assert form.without("logs/one more") == FORMAT


def test_checkpoints_are_read_as_they_were_written() -> None:
    disk = SimDisk()
    rows = {"logs/a": Checkpoint(9, 2, clean=True, high_watermark=7), "logs/b": Checkpoint()}

    write_checkpoints(disk, rows)

    assert read_checkpoints(disk) == rows


def test_checkpoints_of_the_first_version_know_no_high_watermark() -> None:
    disk = SimDisk()
    put_rows(disk, 1, [["logs/a", 9, 2, True]])

    assert read_checkpoints(disk) == {"logs/a": Checkpoint(9, 2, clean=True)}


def test_newer_checkpoints_count_as_missing() -> None:
    disk = SimDisk()
    put_rows(disk, 3, [["logs/a", 9, 2, True, 7, "more"]])

    assert read_checkpoints(disk) == {}


def test_a_state_of_the_first_version_has_no_time() -> None:
    body = msgpack.packb([1, 5, [[7, 0, [[0, 4, 0, 5, 1_000]]]], [[1, 0]]])

    state = unpack_state(crc32c(body).to_bytes(4, "big") + body)

    assert state == State(5, 0, [[7, 0, [[0, 4, 0, 5, 1_000]]]], [[1, 0]])
    assert unpack_state(pack_state(state)) == state


def test_a_newer_state_is_not_understood() -> None:
    body = msgpack.packb([3, 5])

    with pytest.raises(CorruptDataError, match="version 3"):
        unpack_state(crc32c(body).to_bytes(4, "big") + body)


@pytest.mark.parametrize(("row", "known"), [(0, 0), (2, 2), (3, 3), (9, 3)])
def test_a_log_knows_what_was_committed_as_far_as_it_is_there(row: int, known: int) -> None:
    disk = SimDisk()
    follower = FollowerLog(disk)
    follower.log.append_replicated(b"".join(batch_at(n) for n in range(3)))
    follower.flush()

    log = open_log(disk, KEY, CONFIG, OPTIONS, Checkpoint(3, high_watermark=row))

    assert log.checkpointed_high_watermark == known


def test_a_damaged_log_knows_what_was_committed_before_the_damage() -> None:
    disk = SimDisk()
    follower = FollowerLog(disk)
    follower.log.append_replicated(b"".join(batch_at(n) for n in range(3)))
    follower.flush()
    disk.flip(follower.log.segments[0].path, len(batch_at(0)) + 50)

    log = open_log(disk, KEY, CONFIG, OPTIONS, Checkpoint(3, high_watermark=3))

    assert log.damage is not None
    assert log.checkpointed_high_watermark == 1


def test_batches_whose_leader_epoch_falls_are_damage() -> None:
    """No leader has written that, whole as each of them is."""
    disk = SimDisk()
    follower = FollowerLog(disk)
    follower.log.append_replicated(batch_at(0, epoch=5))
    follower.flush()
    segment = follower.log.segments[0]
    segment.file.write(segment.size, [batch_at(1, epoch=4)])
    segment.file.sync()

    log = open_log(disk, KEY, CONFIG, OPTIONS, Checkpoint(2))

    assert log.damage is not None
    assert "leader epoch 4" in log.damage.reason
    assert open_log(disk, KEY, CONFIG, OPTIONS, Checkpoint(1)).end_offset == 1


def quarantined(disk: SimDisk, key: LogKey = KEY) -> list[int]:
    """The sizes of the segments that were put aside."""
    folder = key.folder.replace("logs/", "quarantine/")
    names = [name for name in disk.list(folder) if name.endswith(".log")]
    return [disk.open(f"{folder}/{name}").size for name in names]


def test_the_last_damaged_copy_is_kept() -> None:
    disk = SimDisk()
    FollowerLog(disk)
    sizes = []
    for size in (10, 20):
        disk.make_directory(KEY.folder)
        put(disk, f"{KEY.folder}/{0:020d}.log", bytes(size))
        quarantine(disk, KEY)
        sizes.append(quarantined(disk))

    assert sizes == [[10], [20]]
    assert not disk.exists(KEY.folder)
    again = open_log(disk, KEY, CONFIG, OPTIONS)
    assert (again.start_offset, again.end_offset, again.damage) == (0, 0, None)


def test_an_empty_copy_takes_no_place_in_quarantine() -> None:
    """A start that was cut short has put the log aside, and made an empty one already."""
    disk = SimDisk()
    FollowerLog(disk)
    put(disk, f"{KEY.folder}/{0:020d}.log", b"damaged")
    quarantine(disk, KEY)
    quarantine(disk, KEY)
    FollowerLog(disk)
    segment = f"{KEY.folder}/{0:020d}.log"
    disk.open(segment).truncate(0)

    quarantine(disk, KEY)

    assert quarantined(disk) == [len(b"damaged")]
    assert not disk.exists(KEY.folder)
