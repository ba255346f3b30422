"""The command line against a real broker: what people type, and what scripts rely on."""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.command_line import (
    CLI,
    EVERY_BYTE,
    FORMATS,
    SECONDS,
    ZMQMQ,
    parsed,
    start_broker,
    stop,
)


@pytest.fixture(scope="module")
def cli(servers: str) -> CLI:
    return CLI(servers)


# Every command in every format


@pytest.mark.parametrize("form", FORMATS)
def test_topics_in_every_format(cli: CLI, form: str) -> None:
    name = f"all-{form}"
    option = ["-O", form]
    done = cli(*option, "topics", "create", name, "-p", "3", "-c", "retention_ms=2d")
    assert b"topic" in done.stderr
    if form == "table":
        assert done.stdout == b""
    else:
        (created,) = parsed(done, form)
        assert (created["name"], created["partitions"]) == (name, 3)
        assert created["config"]["retention_ms"] == 2 * 86_400_000

    listed = parsed(cli("topics", "list", *option), form)
    if form == "table":
        assert listed[0].split() == ["TOPIC", "PARTITIONS", "REPLICAS", "SETTINGS"]
        assert any(line.split() == [name, "3", "1", "retention_ms=2d"] for line in listed)
    else:
        topics = listed[0]["topics"] if form == "json" else listed
        (mine,) = [topic for topic in topics if topic["name"] == name]
        assert mine["partitions"] == 3
        assert mine["overrides"] == {"retention_ms": 172_800_000}

    cli("topics", "alter", name, "-p", "4", "-c", "retention_ms=", *option)
    described = parsed(cli("topics", "describe", name, *option), form)
    if form == "table":
        assert described[0].startswith("id ")
        assert described[1].startswith("TOPIC")
        assert any(re.match(r"retention_ms\s+7d\s+by default", line) for line in described)
    else:
        assert len(described[0]["partitions"]) == 4
        assert described[0]["overrides"] == {}
        assert described[0]["partitions"][0]["committed_end"] == 0

    done = cli("topics", "delete", name, "-y", *option)
    assert parsed(done, form) == [] or parsed(done, form)[0]["deleted"] == name
    assert name not in [topic["name"] for topic in cli.json("topics", "list")["topics"]]


@pytest.mark.parametrize("form", FORMATS)
def test_produce_and_consume_in_every_format(cli: CLI, form: str) -> None:
    name = cli.topic()
    done = cli("produce", name, "-O", form, "-k", "key", "-H", "h=1", "-H", "g=2", stdin=b"a\nb\n")
    assert b"2 records stored:" in done.stderr
    if form == "table":
        assert done.stdout == b""
    else:
        (summary,) = parsed(done, form)
        assert summary["topic"] == name
        assert (summary["records"], summary["bytes"]) == (2, 8)
        assert summary["partitions"] == {"0": 2}

    done = cli("consume", name, "-e", "-O", form)
    if form == "table":
        assert done.stdout == b"a\nb\n"
        return
    records = json.loads(done.stdout) if form == "json" else parsed(done, form)
    assert [record["value"] for record in records] == ["a", "b"]
    first = records[0]
    assert set(first) == {
        "topic",
        "partition",
        "offset",
        "timestamp_ms",
        "key",
        "value",
        "headers",
        "tag",
    }
    assert (first["topic"], first["partition"], first["offset"]) == (name, 0, 0)
    assert first["key"] == "key"
    assert first["headers"] == [["h", "1"], ["g", "2"]]
    assert abs(first["timestamp_ms"] - time.time() * 1000) < SECONDS * 1000


@pytest.mark.parametrize("form", FORMATS)
def test_overview_in_every_format(cli: CLI, form: str) -> None:
    name = cli.topic(b"a", b"b", b"c", partitions=2)
    group = f"g-{form}"
    cli("consume", name, "-g", group, "-n", "1")
    lines = parsed(cli("overview", "-O", form), form)
    if form == "table":
        assert any(line.startswith("BROKER") for line in lines)
        assert any(line.split()[:2] == [group, name] for line in lines if line)
        return
    if form == "json":
        assert lines[0]["broker"]["broker"] == 1
        (topic,) = [topic for topic in lines[0]["topics"] if topic["name"] == name]
        ends = [partition["committed_end"] for partition in topic["partitions"]]
        (offsets,) = [g["offsets"] for g in lines[0]["groups"] if g["name"] == group]
    else:
        assert {line["kind"] for line in lines} == {"broker", "partition", "group"}
        ends = [line["committed_end"] for line in lines if line.get("topic") == name][:2]
        offsets = [line for line in lines if line.get("group") == group]
    assert sum(ends) == 3
    assert sum(line["lag"] for line in offsets) + sum(line["offset"] for line in offsets) == 3
    assert sum(line["offset"] for line in offsets) == 1


@pytest.mark.parametrize("form", FORMATS)
def test_ping_in_every_format(cli: CLI, form: str) -> None:
    lines = parsed(cli("ping", "-O", form), form)
    if form == "table":
        assert lines[0].split() == ["MS"]
        assert 0 < float(lines[1]) < SECONDS * 1000
    else:
        assert 0 < lines[0]["ms"] < SECONDS * 1000


def test_ping_of_a_broker_that_does_not_answer(tmp_path: Path) -> None:
    """As health checks see it: frozen is as bad as gone."""
    process, address = start_broker(tmp_path / "data")
    cli = CLI(address)
    try:
        cli.process("ping")
        process.send_signal(signal.SIGSTOP)
        cli.process("ping", "--timeout", "500ms", code=6)
        process.send_signal(signal.SIGCONT)
        cli.process("ping")
    finally:
        assert stop(process) == 0
    cli.process("ping", "--timeout", "500ms", code=6)


# Records as they are


def test_every_byte_but_a_newline_comes_back_as_it_was(cli: CLI, tmp_path: Path) -> None:
    lines = [EVERY_BYTE, b"", b"\r", b" x ", "grün".encode(), EVERY_BYTE[::-1]]
    file = tmp_path / "lines"
    file.write_bytes(b"\n".join(lines))  # the last without a newline
    name = cli.topic()
    cli.process("produce", name, str(file))

    out = cli.process("consume", name, "-e").stdout
    assert out == b"".join(line + b"\n" for line in lines)
    values = [record["value"] for record in cli.json("consume", name, "-e")]
    assert values[0] == {"base64": base64.b64encode(EVERY_BYTE).decode()}
    assert values[4] == "grün"


def test_files_and_stdin_in_the_order_given(cli: CLI, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1\n2")
    (tmp_path / "b").write_bytes(b"4\n")
    name = cli.topic()
    cli("produce", name, str(tmp_path / "a"), "-", str(tmp_path / "b"), stdin=b"3\n")

    assert cli("consume", name, "-e").stdout == b"1\n2\n3\n4\n"


def test_keys_are_split_at_the_first_delimiter(cli: CLI) -> None:
    name = cli.topic(partitions=4)
    cli("produce", name, "-K", r"\t", stdin=b"k1\tv:1\t2\nk2\t\n\tx\n")
    out = cli("consume", name, "-e", "-f", r"%k|%v\n").stdout

    assert sorted(out.splitlines()) == [b"k1|v:1\t2", b"k2|", b"|x"]


def test_a_line_without_the_delimiter_is_told_with_its_number(cli: CLI, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"a:1\nb:2\nnone\nc:3\n")
    name = cli.topic()
    done = cli("produce", name, str(file), "-K", ":", code=7)
    assert f"{file}:3: there is no ':' between key and value; the 2 records before it" in (
        done.stderr.decode()
    )
    assert cli("consume", name, "-e").stdout == b"1\n2\n"
    done = cli("produce", name, "-K", ":", "-O", "json", stdin=b"none\n", code=1)
    assert json.loads(done.stderr.splitlines()[-1])["error"]["code"] == "INPUT"


def test_formats(cli: CLI) -> None:
    name = cli.topic(partitions=2)
    cli("produce", name, "-p", "1", "-k", "k", "-H", "a=b", stdin=b"100%\nx\n")
    out = cli("consume", name, "-e", "-f", r"%t/%p/%o %k=%v [%h]\t%%\n").stdout

    assert out == (f"{name}/1/0 k=100% [a=b]\t%\n".encode() + f"{name}/1/1 k=x [a=b]\t%\n".encode())
    assert cli("consume", name, "-e", "-f", r"%v\0").stdout == b"100%\0x\0"
    times = cli("consume", name, "-e", "-f", r"%d\n").stdout.split()
    assert all(abs(int(ms) - time.time() * 1000) < SECONDS * 1000 for ms in times)


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_acks_and_compression(cli: CLI, codec: str, acks: str) -> None:
    name = cli.topic()
    lines = b"".join(b"line %d\n" % number for number in range(5_000))
    cli("produce", name, "--acks", acks, "-z", codec, stdin=lines)

    if acks != "all":  # nobody waited for the commit
        assert cli("consume", name, "-n", "5000").stdout == lines
    assert cli("consume", name, "-e").stdout == lines


# Where to begin, where to end


def test_positions(cli: CLI) -> None:
    name = cli.topic(*(b"%d" % number for number in range(10)))

    def read(*options: str) -> list[int]:
        return [int(line) for line in cli("consume", name, "-e", *options).stdout.split()]

    assert read() == read("-o", "start") == list(range(10))
    assert read("-o", "7") == [7, 8, 9]
    assert read("-o", "-2") == [8, 9]
    assert read("-o", "-2000") == list(range(10))
    assert read("-o", "end") == []
    assert read("-o", "10") == []
    assert read("-o", "@0") == list(range(10))
    assert read("-o", "@-1h") == list(range(10))
    assert read("-o", "@2100-01-01") == []
    assert read("-o", "3", "-n", "4") == [3, 4, 5, 6]
    assert read("-n", "0") == []
    assert read("-p", "0", "-n", "1") == [0]


def test_a_time_between_two_records_divides_them(cli: CLI) -> None:
    name = cli.topic(b"before")
    time.sleep(0.05)
    middle = int(time.time() * 1000)
    time.sleep(0.05)
    cli("produce", name, stdin=b"after\n")

    assert cli("consume", name, "-e", "-o", f"@{middle}").stdout == b"after\n"
    assert cli("consume", name, "-e", "-o", f"@{middle / 1000:.3f}").stdout == b"after\n"


def test_partitions_can_be_chosen(cli: CLI) -> None:
    name = cli.topic(partitions=3)
    for number in range(3):
        cli("produce", name, "-p", str(number), stdin=b"p%d\n" % number)

    assert cli("consume", name, "-e", "-p", "1").stdout == b"p1\n"
    out = cli("consume", name, "-e", "-p", "0", "-p", "2").stdout
    assert sorted(out.split()) == [b"p0", b"p2"]
    assert b"partition" in cli("consume", name, "-e", "-p", "3", code=3).stderr


def test_a_group_goes_on_where_it_stopped(cli: CLI) -> None:
    """Also in the middle of a batch: what was not printed must come the next time."""
    name = cli.topic(*(b"%d" % number for number in range(10)))

    assert cli("consume", name, "-g", "g", "-n", "3").stdout == b"0\n1\n2\n"
    assert cli("consume", name, "-g", "g", "-n", "3", "-e").stdout == b"3\n4\n5\n"
    assert cli("consume", name, "-g", "g", "-e").stdout == b"6\n7\n8\n9\n"
    assert cli("consume", name, "-g", "g", "-e").stdout == b""
    assert cli("consume", name, "-g", "other", "-e", "-n", "1").stdout == b"0\n"
    assert cli("consume", name, "-g", "g", "-o", "8", "-e").stdout == b"8\n9\n"
    cli("produce", name, stdin=b"10\n")
    assert cli("consume", name, "-g", "g", "-e").stdout == b"10\n"


def test_without_an_end_it_waits_for_more(cli: CLI) -> None:
    name = cli.topic(b"first")
    with cli.start("consume", name) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"first\n"
        cli("produce", name, stdin=b"second\n")
        assert reader.stdout.readline() == b"second\n"
        reader.send_signal(signal.SIGINT)
        out, err = reader.communicate(timeout=SECONDS)

        assert (reader.returncode, out, err) == (130, b"", b"")


def test_an_array_that_is_stopped_is_still_an_array(cli: CLI) -> None:
    name = cli.topic(b"first")
    with cli.start("consume", name, "-O", "json") as reader:
        assert reader.stdout is not None
        begun = reader.stdout.readline() + reader.stdout.read1()
        reader.send_signal(signal.SIGINT)
        out, _ = reader.communicate(timeout=SECONDS)

        assert reader.returncode == 130
        assert [record["value"] for record in json.loads(begun + out)] == ["first"]


def test_lines_typed_slowly_are_sent_at_once(cli: CLI) -> None:
    name = cli.topic()
    with cli.start("produce", name, stdin=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        writer.stdin.write(b"now\n")
        writer.stdin.flush()
        assert cli("consume", name, "-n", "1").stdout == b"now\n"
        writer.communicate(b"later", timeout=SECONDS)
        assert writer.returncode == 0
        assert cli("consume", name, "-e").stdout == b"now\nlater\n"


def test_ctrl_c_stores_what_was_read(cli: CLI) -> None:
    name = cli.topic()
    with cli.start("produce", name, stdin=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        writer.stdin.write(b"one\ntwo\nhalf a li")
        writer.stdin.flush()
        assert cli("consume", name, "-n", "2").stdout == b"one\ntwo\n"
        writer.send_signal(signal.SIGINT)
        out, err = writer.communicate(timeout=SECONDS)

        assert (writer.returncode, out) == (130, b"")
        assert b"2 records stored" in err
        assert cli("consume", name, "-e").stdout == b"one\ntwo\n"


# Exit codes and errors


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("argv", "code", "name"),
    [
        (["topics", "describe", "no-such"], 3, "UNKNOWN_TOPIC"),
        (["topics", "delete", "no-such", "-y"], 3, "UNKNOWN_TOPIC"),
        (["topics", "alter", "no-such", "-p", "2"], 3, "UNKNOWN_TOPIC"),
        (["produce", "no-such"], 3, "UNKNOWN_TOPIC"),
        (["consume", "no-such", "-e"], 3, "UNKNOWN_TOPIC"),
        (["topics", "create", "exists"], 4, "TOPIC_EXISTS"),
        (["topics", "create", "bad/name"], 2, "INVALID_NAME"),
        (["topics", "create", "x", "-c", "retention_mss=1"], 2, "INVALID_CONFIG"),
        (["topics", "create", "x", "-c", "segment_bytes=1"], 2, "INVALID_CONFIG"),
        (["topics", "alter", "exists", "-p", "1"], 2, "INVALID_CONFIG"),
        (["produce", "exists", "/no/such/file"], 3, "ENOENT"),
        (["produce", "exists", "-p", "9"], 3, "UNKNOWN_PARTITION"),
        (["consume", "exists", "-o", "5", "-e"], 3, "OFFSET_OUT_OF_RANGE"),
        (["topics", "delete", "exists"], 2, "USAGE"),
        (["topics", "list", "-s", "127.0.0.1:1", "--timeout", "300ms"], 6, "DISCONNECTED"),
    ],
)
def test_exit_codes(cli: CLI, argv: list[str], code: int, name: str, form: str) -> None:
    cli("topics", "create", "exists", "-p", "2", "--if-not-exists", "-q")
    done = cli(*argv, "-O", form, "-q", stdin=b"x\n", code=code)

    last = done.stderr.splitlines()
    if form == "table":
        assert done.stdout == b""
        assert last[0].startswith(b"error: "), done.stderr
        assert len(last) <= 2
    else:
        error = json.loads(last[-1])["error"]
        assert error["code"] == name
        assert error["message"]
        assert set(error) == {"code", "message", "hint", "retriable"}


def test_a_misspelt_topic_is_answered_with_the_nearest(cli: CLI) -> None:
    cli("topics", "create", "measurements", "--if-not-exists")
    for argv in (["consume", "measurement", "-e"], ["topics", "describe", "measuremens"]):
        assert b"did you mean measurements?" in cli(*argv, code=3).stderr


def test_if_not_exists_is_content(cli: CLI) -> None:
    name = cli.topic(partitions=2)
    done = cli("topics", "create", name, "-p", "2", "--if-not-exists")

    assert done.returncode == 0


def test_a_directory_is_no_file(cli: CLI, tmp_path: Path) -> None:
    name = cli.topic()

    assert b"is a directory" in cli("produce", name, str(tmp_path), code=1).stderr


def test_quiet_is_quiet(cli: CLI) -> None:
    name = cli.topic()

    assert cli("-q", "produce", name, stdin=b"x\n").stderr == b""
    assert cli("topics", "create", f"{name}-q", "-q").stderr == b""


def test_servers_may_be_an_option_before_or_after(servers: str) -> None:
    other = CLI("127.0.0.1:1")

    assert other("-s", servers, "topics", "list").returncode == 0
    assert other("topics", "list", "--servers", f"zmqmq://{servers}").returncode == 0
    other("topics", "list", "--timeout", "200ms", code=6)


def test_a_reader_that_goes_away_is_no_error(cli: CLI) -> None:
    name = cli.topic()
    cli("produce", name, stdin=b"%s\n" % (b"x" * 100) * 50_000)
    shell = subprocess.run(
        ["bash", "-c", f"{' '.join(ZMQMQ)} consume {name} | head -1; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        env=cli.environ,
        timeout=SECONDS,
        check=True,
    )

    assert shell.stdout.splitlines()[1] == b"141"
    assert shell.stderr == b""
    for form in ("json", "jsonl"):
        command = f"{' '.join(ZMQMQ)} consume {name} -O {form} | head -c 10 >/dev/null"
        shell = subprocess.run(
            ["bash", "-c", command],
            capture_output=True,
            env=cli.environ,
            timeout=SECONDS,
            check=True,
        )
        assert shell.stderr == b""


def test_a_pipeline_through_the_queue_keeps_every_byte(cli: CLI, tmp_path: Path) -> None:
    source = Path(sys.modules["typing"].__file__ or "").read_bytes()
    name = cli.topic()
    (tmp_path / "in").write_bytes(source * 20)
    zmqmq = " ".join(ZMQMQ)
    done = subprocess.run(
        ["bash", "-c", f"cat in | {zmqmq} produce -q {name} && {zmqmq} consume {name} -e > out"],
        cwd=tmp_path,
        env=cli.environ,
        timeout=SECONDS,
        check=True,
        capture_output=True,
    )

    assert done.stderr == b""
    assert (tmp_path / "out").read_bytes() == source * 20


# The broker


def test_two_brokers_do_not_share_a_directory(tmp_path: Path) -> None:
    process, _ = start_broker(tmp_path / "data")
    try:
        second = subprocess.run(
            [*ZMQMQ, "broker", "--data-dir", str(tmp_path / "data"), "--bind", "127.0.0.1:0"],
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        assert second.returncode == 4
        assert b"is in use by another broker" in second.stderr
    finally:
        assert stop(process) == 0


def test_a_broker_takes_its_settings_from_a_file_and_keeps_its_records(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text("[topics]\nretention_ms = '3d'\n[serving]\npartitions_max = 20\n")
    process, address = start_broker(tmp_path / "data", "--config", str(file))
    cli = CLI(address)
    name = cli.topic(b"kept")
    assert cli.json("topics", "describe", name)["config"]["retention_ms"] == 3 * 86_400_000
    assert stop(process) == 0
    process, address = start_broker(tmp_path / "data")
    try:
        assert CLI(address)("consume", name, "-e").stdout == b"kept\n"
    finally:
        assert stop(process) == 0


def test_the_broker_ends_on_ctrl_c(tmp_path: Path) -> None:
    process, _ = start_broker(tmp_path / "data")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SECONDS)

    assert process.returncode == 0


def test_listening_for_everybody_needs_insecure(tmp_path: Path) -> None:
    done = subprocess.run(
        [*ZMQMQ, "broker", "--data-dir", str(tmp_path), "--bind", "0.0.0.0:0"],
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )

    assert done.returncode == 2
    assert b"--insecure" in done.stderr
