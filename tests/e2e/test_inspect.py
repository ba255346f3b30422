"""Looking into a data directory that no broker has open, sound and damaged; and the demo."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.command_line import CLI, FORMATS, SECONDS, parsed, start_broker, stop, until_it_holds
from zmqmq.core.storage.log import LogKey
from zmqmq.demo import Seen
from zmqmq.runtime.offline_reader import verify_directory
from zmqmq.testing import Broker

OFFLINE = CLI("127.0.0.1:1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a broker that has stopped, with one topic of three batches."""
    folder = tmp_path_factory.mktemp("inspect") / "data"
    process, address = start_broker(folder)
    cli = CLI(address)
    cli("topics", "create", "kept")
    for number in range(3):
        lines = b"".join(b"%d-%d\n" % (number, line) for line in range(100))
        cli("produce", "kept", stdin=lines)
    assert b"is in use" in OFFLINE("inspect", "verify", str(folder), code=4).stderr
    assert stop(process) == 0
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return shutil.copytree(made, tmp_path / "data")


def segment_of(folder: Path) -> Path:
    """The one segment that holds something."""
    report = json.loads(OFFLINE("-O", "json", "inspect", "verify", str(folder)).stdout)
    (log,) = [log for log in report["logs"] if log["topic"] == "kept"]
    (found,) = sorted((folder / log["folder"]).glob("*.log"))
    return found


@pytest.mark.parametrize("form", FORMATS)
def test_a_segment_in_every_format(folder: Path, form: str) -> None:
    lines = parsed(OFFLINE("inspect", "segment", str(segment_of(folder)), "-O", form), form)
    if form == "table":
        assert lines[0].split()[:4] == ["POSITION", "OFFSET", "LAST", "RECORDS"]
        assert [line.split()[1:4] for line in lines[1:]] == [
            ["0", "99", "100"],
            ["100", "199", "100"],
            ["200", "299", "100"],
        ]
        return
    batches = lines[0]["batches"] if form == "json" else lines
    assert [batch["offset"] for batch in batches] == [0, 100, 200]
    assert [batch["records"] for batch in batches] == [100, 100, 100]


@pytest.mark.parametrize("form", FORMATS)
def test_a_sound_directory_in_every_format(folder: Path, form: str) -> None:
    lines = parsed(OFFLINE("inspect", "verify", str(folder), "-O", form), form)
    if form == "table":
        assert any(
            line.split()[:7] == ["kept", "0", "ok", "0", "300", "3", "300"] for line in lines
        )
        return
    logs = lines[0]["logs"] if form == "json" else lines
    (kept,) = [log for log in logs if log["topic"] == "kept"]
    assert (kept["status"], kept["end"], kept["batches"]) == ("ok", 300, 3)
    if form == "json":
        assert lines[0]["is_sound"] is True
        assert lines[0]["clean"] is True


@pytest.mark.parametrize("form", FORMATS)
def test_damage_is_found_shown_and_repaired(folder: Path, form: str) -> None:
    segment = segment_of(folder)
    batches = json.loads(OFFLINE("-O", "json", "inspect", "segment", str(segment)).stdout)
    at = batches["batches"][1]["position"] + 200
    data = bytearray(segment.read_bytes())
    data[at] ^= 1
    segment.write_bytes(data)

    done = OFFLINE("inspect", "segment", str(segment), "-O", form, code=1)
    assert b"checksum" in done.stderr
    done = OFFLINE("inspect", "verify", str(folder), "-O", form, code=1)
    if form == "table":
        assert b"damaged" in done.stdout
        assert b"1 log of" in done.stderr
        assert b"zmqmq inspect repair" in done.stderr
    else:
        assert json.loads(done.stderr)["error"]["code"] == "CORRUPT_DATA"
    done = OFFLINE("inspect", "repair", str(folder), "-O", form, code=1)
    assert b"--apply" in done.stderr
    assert segment.read_bytes() == bytes(data), "without --apply nothing changes"

    OFFLINE("inspect", "repair", str(folder), "--apply", "-O", form)
    OFFLINE("inspect", "verify", str(folder), "-O", form)
    process, address = start_broker(folder)
    try:
        kept = CLI(address)("consume", "kept", "-e").stdout
        assert kept == b"".join(b"0-%d\n" % line for line in range(100))
    finally:
        assert stop(process) == 0


def test_a_log_of_no_topic_is_named_and_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a crash between the deletion of a topic's document and that of its files."""
    data, aside = tmp_path / "data", tmp_path / "aside"
    with Broker(data) as broker, broker.connect() as mq:
        for name in ("stays", "goes"):
            mq.topics.create(name)
            with mq.producer(name) as producer:
                producer.send(b"x").result(SECONDS)
        stays, goes = (LogKey(mq.topics.describe(n).id, 0).folder for n in ("stays", "goes"))
    shutil.copytree(data / goes, aside)
    with Broker(data) as broker, broker.connect() as mq:
        mq.topics.delete("goes")

        def is_gone() -> None:
            assert not (data / goes).exists()

        until_it_holds(is_gone)
    assert verify_directory(data).actions == []
    assert "no topic" not in caplog.text
    shutil.copytree(aside, data / goes)
    files = {file.name: file.read_bytes() for file in aside.iterdir()}

    with Broker(data) as broker, broker.connect() as mq:
        assert mq.offsets("stays", "end") == {0: 1}
    (warning,) = [r.getMessage() for r in caplog.records if "no topic" in r.getMessage()]
    assert goes in warning
    assert stays not in warning
    report = json.loads(OFFLINE("inspect", "verify", str(data), "-O", "json").stdout)
    (note,) = report["actions"]
    assert goes in note
    assert report["is_sound"]
    assert {file.name: file.read_bytes() for file in (data / goes).iterdir()} == files


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    assert b"no such file" in OFFLINE("inspect", "verify", str(tmp_path / "no"), code=3).stderr
    assert b"no such file" in OFFLINE("inspect", "segment", str(tmp_path / "no"), code=3).stderr
    done = OFFLINE("inspect", "verify", str(tmp_path), code=4)
    assert b"is not a data directory" in done.stderr


def test_the_demo_verifies_what_it_shows() -> None:
    done = CLI("127.0.0.1:1").process("demo")

    assert b"verified" in done.stdout
    assert b"\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([(b"a", b"1"), (b"a", b"2"), (b"b", b"3")], []),
        ([(b"b", b"3"), (b"a", b"1"), (b"a", b"2")], []),
        ([(b"a", b"2"), (b"a", b"1"), (b"b", b"3")], ["out of order: a"]),
        ([(b"a", b"1"), (b"a", b"2")], ["2 came back", "2 came back", "b"]),
        ([(b"a", b"1"), (b"a", b"2"), (b"b", b"4")], ["changed or out of order: b"]),
        ([(b"a", b"12"), (b"a", b""), (b"b", b"3")], ["a"]),
    ],
)
def test_the_demo_sees_what_is_wrong(lines: list[tuple[bytes, bytes]], said: list[str]) -> None:
    sent, received = Seen(), Seen()
    for key, value in [(b"a", b"1"), (b"a", b"2"), (b"b", b"3")]:
        sent.add(key, value)
    for key, value in lines:
        received.add(key, value)
    found = sent.differences(received)

    assert len(found) == len(said)
    assert all(text in problem for text, problem in zip(said, found, strict=True))


def test_logs_that_are_empty_are_not_called_torn(tmp_path: Path) -> None:
    with Broker(tmp_path):
        pass

    assert {log.status for log in verify_directory(tmp_path).logs} == {"ok"}
