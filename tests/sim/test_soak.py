"""Runs without end: what is kept, added up and told."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sim import scripted_seeds
from zmqmq.sim import coverage
from zmqmq.sim.soak import FILE, Outcome, Totals, describe, soak


def outcome(seed: int, violation: str = "") -> Outcome:
    return Outcome(seed, 10**9, 100, {"election": 2}, {"kill": 1}, {"not healed": seed}, violation)


def test_totals_add_up() -> None:
    totals = Totals()
    for seed in (1, 2, 3):
        totals.begin(seed)
        totals.add(outcome(seed, "lost t/0: offset 7" if seed == 2 else ""))
    totals.wall_ms = 1_500

    assert totals.next_seed == 4
    assert totals.marks == {"election": 6}
    assert totals.times == {"not healed": 3}
    assert totals.failures == {"2": "lost t/0: offset 7"}
    text = describe(totals)
    assert text.startswith("3 seeds, 120 a minute")
    assert "FAILED: python -m zmqmq.sim 2  # lost t/0: offset 7" in text


def test_a_mark_that_was_never_hit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "MARKS", {"election": 1, "comet": 2, "unicorn": 3})
    totals = Totals()
    totals.begin(1)
    totals.add(outcome(1))
    assert "NEVER" not in describe(totals)
    totals.begin(2)
    totals.add(outcome(2))

    assert "NEVER HAPPENED: comet" in describe(totals)


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    def run(*options: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "zmqmq.sim", "--soak", str(tmp_path), *options],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        return done.stdout

    assert "seed 3000 on, 0 were run before" in run("3000", "--seeds", "2", "--processes", "1")
    assert "seed 3002 on, 2 were run before" in run("--seeds", "1", "--processes", "1")

    kept = kept_in(tmp_path)
    assert kept["seeds"] == 3
    assert kept["next_seed"] == 3003
    assert kept["simulated_ns"] > 30 * 10**9


def kept_in(folder: Path) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((folder / FILE).read_text())
    return kept


def test_a_seed_that_raises_dies_or_hangs_has_failed_and_the_others_go_on(tmp_path: Path) -> None:
    said: list[str] = []
    status = soak(
        tmp_path,
        said.append,
        seeds=12,
        processes=2,
        attempt=scripted_seeds.attempt,
        seconds_max=2,
    )

    assert status == 1
    kept = kept_in(tmp_path)
    assert (kept["next_seed"], kept["seeds"], kept["unfinished"]) == (13, 12, [])
    failures = kept["failures"]
    assert sorted(failures, key=int) == ["3", "5", "7", "9", "10"]
    assert failures["3"].startswith("raised: Traceback")
    assert "ValueError: of seed 3" in failures["3"]
    assert failures["5"] == "its process died of SIGKILL"
    assert failures["7"] == "its process died with status 7"
    assert failures["9"] == failures["10"] == "hangs: not done after 2 s"
    assert kept["steps"] == 7, "of those that went well"
    for seed, why in failures.items():
        assert f"seed {seed} failed: {why}\n  python -m zmqmq.sim {seed}" in said


@contextlib.contextmanager
def started(folder: Path, seconds_max: int = 60) -> Iterator[subprocess.Popen[str]]:
    """A soak of scripted seeds in a process group of its own, when a first seed is done."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.sim.scripted_seeds", str(folder), str(seconds_max)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            end = time.monotonic() + 30
            while not (folder / FILE).exists():
                assert time.monotonic() < end
                assert process.poll() is None
                time.sleep(0.02)
            yield process
        finally:
            if left_of(process.pid):
                os.killpg(process.pid, signal.SIGKILL)


def left_of(group: int) -> list[str]:
    """Commands of processes of the group that live."""
    done = subprocess.run(
        ["ps", "-o", "stat=,args=", "-g", str(group)], capture_output=True, text=True, check=False
    )
    return [line for line in done.stdout.splitlines() if not line.startswith("Z")]


def wait_until_gone(group: int) -> None:
    """Without a signal; what notes the resources of processes ends a moment after them."""
    end = time.monotonic() + 5
    while left := left_of(group):
        assert time.monotonic() < end, left
        time.sleep(0.02)


@pytest.mark.parametrize("to_all", [False, True], ids=["to one", "to all"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_ends_it_at_once_and_the_next_does_what_was_broken_off(
    tmp_path: Path, number: signal.Signals, *, to_all: bool
) -> None:
    with started(tmp_path) as process:
        time.sleep(0.5)  # until both processes are at a seed that takes an hour
        told = time.monotonic()
        if to_all:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        said, _ = process.communicate(timeout=30)
        wait_until_gone(process.pid)

    assert time.monotonic() - told < 5
    assert process.returncode == 0, "nothing has failed"
    assert "0 seeds failed" in said
    kept = kept_in(tmp_path)
    assert kept["failures"] == {}
    assert kept["unfinished"]
    begun = len(kept["unfinished"])
    soak(tmp_path, print, seeds=begun, processes=2, attempt=scripted_seeds.quick)
    after = kept_in(tmp_path)
    assert after["unfinished"] == []
    assert after["seeds"] == kept["seeds"] + begun
    assert after["next_seed"] == kept["next_seed"]


def test_what_is_kept_after_a_kill_can_be_gone_on_from(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        os.killpg(process.pid, signal.SIGKILL)
    before = kept_in(tmp_path)

    soak(tmp_path, print, seeds=5, processes=1, attempt=scripted_seeds.quick)
    kept = kept_in(tmp_path)
    assert kept["seeds"] == before["seeds"] + 5
    done = kept["seeds"] + len(kept["unfinished"])
    assert kept["next_seed"] == scripted_seeds.FIRST + done, "none was left out, none run twice"


def test_processes_end_when_nobody_is_there_to_hear_of_them(tmp_path: Path) -> None:
    with started(tmp_path, seconds_max=3) as process:
        process.kill()
        process.communicate(timeout=30)  # when the last that has this pipe is gone
        wait_until_gone(process.pid)


def test_the_file_of_another_release_is_read_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_text(json.dumps({"next_seed": 41, "seeds": 40, "a word of tomorrow": 1}))
    soak(tmp_path, print, seeds=1, processes=1, attempt=scripted_seeds.quick)
    assert (kept_in(tmp_path)["next_seed"], kept_in(tmp_path)["seeds"]) == (42, 41)

    file.write_text('{"next_seed": 4')
    with pytest.raises(SystemExit, match=r"soak\.json cannot be read"):
        soak(tmp_path, print, seeds=1)
    assert file.read_text() == '{"next_seed": 4'
