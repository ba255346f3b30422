"""The command line as a whole, as far as it needs no broker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from zmqmq_cli.main import COMMANDS, run

CLI = [sys.executable, "-m", "zmqmq_cli.main"]


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = run(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def error_of(text: str) -> dict[str, Any]:
    return json.loads(text)["error"]


@pytest.mark.parametrize("argv", [(), ("--help",), ("-h",)])
def test_help_lists_every_command(capsys: pytest.CaptureFixture[str], argv: tuple[str]) -> None:
    code, out, err = said(capsys, *argv)

    assert (code, err) == (0, "")
    for name, (_, doc) in COMMANDS.items():
        assert f"  {name} " in out
        assert doc in out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "--version")

    assert code == 0
    assert out.startswith("zmqmq 0.")


@pytest.mark.parametrize(
    ("argv", "suggestion"),
    [
        (["brokr"], "did you mean broker?"),
        (["tpoics", "list"], "did you mean topics?"),
        (["topics", "creat", "x"], "did you mean create?"),
        (["topics", "create", "x", "--partitons", "3"], "--partitions"),
        (["config", "shw"], "did you mean show?"),
        (["-O", "jsno", "topics", "list"], "did you mean json?"),
        (["produce", "x", "-z", "zst"], "did you mean zstd?"),
        (["produce", "x", "--acks", "al"], "did you mean all?"),
        (["zzz"], "there are broker, topics"),
    ],
)
def test_a_typing_error_is_answered_with_what_was_meant(
    capsys: pytest.CaptureFixture[str], argv: list[str], suggestion: str
) -> None:
    code, out, err = said(capsys, *argv)

    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert suggestion in err.splitlines()[0]


@pytest.mark.parametrize(
    "argv",
    [
        ["topics"],
        ["bench"],
        ["topics", "create"],
        ["topics", "create", "x", "-p", "many"],
        ["topics", "create", "x", "-p", "0"],
        ["topics", "create", "x", "-c", "retention_ms"],
        ["topics", "alter", "x"],
        ["produce"],
        ["produce", "x", "-K", ":", "-k", "y"],
        ["produce", "x", "-K", ""],
        ["produce", "x", "-H", "novalue"],
        ["produce", "x", "-p", "-1"],
        ["consume", "x", "-o", "begin"],
        ["consume", "x", "-o", "stored"],
        ["consume", "x", "-f", "%q"],
        ["consume", "x", "-f", "%v", "-O", "json"],
        ["consume", "x", "-n", "none"],
        ["topics", "list", "--timeout", "soon"],
        ["topics", "list", "--timeout", "0"],
        ["topics", "list", "-s", "not an address"],
    ],
)
@pytest.mark.parametrize("form", ["table", "json", "jsonl"])
def test_wrong_usage_is_2_in_every_format(
    capsys: pytest.CaptureFixture[str], argv: list[str], form: str
) -> None:
    code, out, err = said(capsys, "-O", form, *argv)

    assert (code, out) == (2, "")
    if form == "table" and "json" not in argv:
        assert err.startswith("error: ")
    else:
        assert set(error_of(err)) == {"code", "message", "hint", "retriable"}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("option", [["-O", "json"], ["-Ojson"], ["--output=json"]])
def test_global_options_stand_before_or_after_the_command(
    capsys: pytest.CaptureFixture[str], before: bool, option: list[str]
) -> None:
    command = ["config", "show"]
    code, out, _ = said(capsys, *(option + command if before else command + option))

    assert code == 0
    assert json.loads(out)["schema"] == 1


def test_the_one_further_in_wins(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capsys, "-O", "json", "config", "-O", "jsonl", "show")
    assert len([json.loads(line) for line in out.splitlines()]) > 30

    _, out, _ = said(capsys, "-O", "json", "config", "show", "-O", "table")
    assert out.startswith("SETTING")


def test_settings_are_shown_with_their_origin(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "b.toml"
    file.write_text("[broker]\nid = 7\n")
    monkeypatch.setenv("ZMQMQ_BROKER__STORAGE__CHECKPOINT_MS", "3s")
    _, out, _ = said(capsys, "config", "show", "--config", str(file), "--origin", "-O", "jsonl")
    lines = {line["setting"]: line for line in map(json.loads, out.splitlines())}

    assert lines["broker.id"] == {"setting": "broker.id", "value": 7, "origin": f"{file}:2"}
    assert lines["storage.checkpoint_ms"]["origin"] == "ZMQMQ_BROKER__STORAGE__CHECKPOINT_MS"
    assert lines["storage.checkpoint_ms"]["value"] == 3000
    assert lines["broker.bind"]["origin"] == "default"


def test_a_wrong_setting_of_a_broker_is_told_with_its_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "b.toml"
    file.write_text("[broker]\nidd = 7\n[storage]\ncheckpoint_ms = 1\n")
    code, out, err = said(capsys, "broker", "--config", str(file))

    assert (code, out) == (2, "")
    assert f"{file}:2: broker.idd is unknown; did you mean broker.id?" in err
    assert f"{file}:4: storage.checkpoint_ms is 1; the least is 100" in err


def test_nobody_there_is_6(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["topics", "list", "-s", "127.0.0.1:1", "--timeout", "300ms", "-O", "json"]
    code, out, err = said(capsys, *argv)

    assert (code, out) == (6, "")
    assert error_of(err)["code"] == "DISCONNECTED"
    assert "127.0.0.1:1" in error_of(err)["message"]
    assert "zmqmq broker" in error_of(err)["hint"]


def test_help_loads_neither_the_client_nor_what_draws() -> None:
    script = (
        "import sys\n"
        "from zmqmq_cli.main import run\n"
        "run(['--help']); run(['brokr']); run(['produce', '--help'])\n"
        "heavy = {'zmq', 'rich', 'pydantic', 'zmqmq.client', 'asyncio', 'msgpack'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout.splitlines()[-1] == "[]"
