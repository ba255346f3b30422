"""Simulated time, chance and nodes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from zmqmq.sim.chance import Chance, happens
from zmqmq.sim.loop import Loop
from zmqmq.sim.node import MS, SECOND, WALL_START_MS, Node
from zmqmq.sim.trace import Trace


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def node(loop: Loop) -> Node:
    return Node(loop, "b1", Chance(1))


def test_things_happen_in_the_order_of_time_then_of_asking(loop: Loop) -> None:
    seen: list[tuple[int, str]] = []

    def note(what: str) -> None:
        seen.append((loop.now, what))

    loop.post(20, None, note, "c")
    loop.post(10, None, note, "a")
    loop.post(20, None, note, "d")
    loop.post(10, None, loop.call_soon, None, note, "b")
    loop.run_until(30)

    assert seen == [(10, "a"), (10, "b"), (20, "c"), (20, "d")]
    assert loop.now == 30


def test_what_is_asked_for_in_the_past_happens_now(loop: Loop) -> None:
    seen: list[int] = []
    loop.run_until(100)
    loop.post(50, None, lambda: seen.append(loop.now))
    loop.run_until(100)

    assert seen == [100]


def test_a_cancelled_timer_does_not_fire_and_one_that_fired_may_be_cancelled(loop: Loop) -> None:
    seen: list[str] = []
    first = loop.call_at(10, None, seen.append, "first")
    loop.call_at(10, None, seen.append, "second")
    first.cancel()
    loop.run_until(10)
    first.cancel()

    assert seen == ["second"]


def test_a_step_is_one_thing_and_hooks_look_after_each(loop: Loop) -> None:
    looks: list[int] = []
    loop.after_step.append(lambda: looks.append(loop.now))
    loop.post(5, None, int)
    loop.post(7, None, int)

    assert loop.step()
    assert looks == [5]
    assert loop.step()
    assert not loop.step()
    assert (looks, loop.steps) == ([5, 7], 2)


def test_what_raises_comes_out_of_the_loop(loop: Loop) -> None:
    loop.post(5, None, int, "x")

    with pytest.raises(ValueError, match="invalid literal"):
        loop.run_until(10)


def test_a_crash_ends_all_that_was_asked_for(loop: Loop, node: Node) -> None:
    seen: list[str] = []
    loop.post(10, node, seen.append, "before")
    loop.post(30, node, seen.append, "old life")
    loop.post(20, None, node.crash)
    loop.post(25, None, lambda: loop.post(40, node, seen.append, "asked for while down"))
    loop.post(26, None, loop.call_soon, node, seen.append, "down")
    loop.post(35, None, node.restart)
    loop.post(36, None, lambda: loop.post(50, node, seen.append, "new life"))
    loop.run_until(100)

    assert seen == ["before", "new life"]


def test_hooks_hear_of_a_crash_once_and_whether_the_power_is_gone(node: Node) -> None:
    heard: list[tuple[str, bool]] = []
    node.on_crash.append(lambda n: heard.append(("crash", n.is_powered)))
    node.on_restart.append(lambda n: heard.append(("restart", n.is_powered)))
    node.crash()
    node.crash(power_cut=True)
    assert not node.is_powered
    node.restart()
    node.crash(power_cut=True)

    assert heard == [("crash", True), ("restart", True), ("crash", False)]


def test_a_paused_node_does_everything_when_it_resumes(loop: Loop, node: Node) -> None:
    seen: list[tuple[int, str]] = []

    def note(what: str) -> None:
        seen.append((loop.now, what))

    loop.post(5, None, node.pause, 45)
    for when, what in ((20, "b"), (10, "a"), (60, "c")):
        loop.post(when, node, note, what)
    loop.run_until(100)

    assert seen == [(50, "a"), (50, "b"), (60, "c")]


def test_the_longest_pause_counts_and_resume_ends_all(loop: Loop, node: Node) -> None:
    node.pause(50)
    node.pause(20)
    loop.run_until(30)
    assert node.is_still
    node.pause(100)
    loop.run_until(60)
    assert node.is_still
    node.resume()
    assert not node.is_still
    node.pause(10)
    loop.run_until(69)
    assert node.is_still
    loop.run_until(140)
    assert not node.is_still


def test_a_killed_node_forgets_its_pause(loop: Loop, node: Node) -> None:
    seen: list[str] = []
    node.pause(50)
    loop.post(10, node, seen.append, "lost")
    loop.run_until(20)
    node.crash()
    node.resume()
    assert node.is_still
    node.restart()
    loop.post(30, node, seen.append, "new")
    loop.run_until(30)
    assert seen == ["new"]
    node.pause(100)
    loop.run_until(60)

    assert node.is_still, "the first life's pause would have ended at 50"


def test_clocks_of_nodes_differ_and_a_timer_is_on_the_nodes_own(loop: Loop, node: Node) -> None:
    other = Node(loop, "b2", Chance(1))
    assert node.monotonic_ns() != other.monotonic_ns()
    seen: list[int] = []
    due = node.monotonic_ns() + 3 * SECOND
    node.call_at(due, lambda: seen.append(node.monotonic_ns()))
    node.call_at(node.monotonic_ns(), lambda: seen.append(0))
    loop.run_until(5 * SECOND)

    assert seen == [0, due]


def test_a_wall_clock_that_is_set_leaves_the_monotonic_one_alone(loop: Loop, node: Node) -> None:
    loop.run_until(1_500 * MS)
    assert node.wall_ms() == WALL_START_MS + 1_500
    before = node.monotonic_ns()
    node.clock.step_wall(-3_600_000)

    assert node.wall_ms() == WALL_START_MS + 1_500 - 3_600_000
    assert node.monotonic_ns() == before


@pytest.mark.parametrize("ppm", [10_000, -10_000, 500, -7])
def test_a_drifting_clock(loop: Loop, node: Node, ppm: int) -> None:
    start = node.monotonic_ns()
    loop.run_until(100 * SECOND)
    node.clock.drift(ppm)
    assert node.monotonic_ns() == start + 100 * SECOND
    loop.run_until(200 * SECOND)
    assert node.monotonic_ns() == start + 200 * SECOND + ppm * 100_000
    assert node.wall_ms() == WALL_START_MS + 200_000 + ppm // 10

    seen: list[int] = []
    due = node.monotonic_ns() + SECOND
    node.call_at(due, lambda: seen.append(node.monotonic_ns()))
    loop.run_until(210 * SECOND)
    assert 0 <= seen[0] - due <= 1, "late by rounding at most, never early"
    before = node.monotonic_ns()
    node.clock.drift(0)
    assert node.monotonic_ns() == before


def test_a_power_cut_starts_the_monotonic_clock_anew_and_a_kill_does_not(
    loop: Loop, node: Node
) -> None:
    loop.run_until(SECOND)
    before = node.monotonic_ns()
    node.crash()
    node.restart()
    assert node.monotonic_ns() == before
    node.crash(power_cut=True)
    node.restart()

    assert node.monotonic_ns() != before
    assert node.wall_ms() == WALL_START_MS + 1_000


def test_streams_depend_on_seed_and_name_alone() -> None:
    one, two = Chance(7), Chance(7)
    two.stream("other").random()
    first = [one.stream("a").randrange(1 << 30) for _ in range(4)]

    assert [two.stream("a").randrange(1 << 30) for _ in range(4)] == first
    assert [one.stream("b").randrange(1 << 30) for _ in range(4)] != first
    assert [Chance(8).stream("a").randrange(1 << 30) for _ in range(4)] != first
    assert one.stream("a") is one.stream("a")


def test_odds() -> None:
    stream = Chance(1).stream("odds")

    assert not any(happens(stream, 0) for _ in range(100))
    assert all(happens(stream, 1_000_000) for _ in range(100))
    assert 150 < sum(happens(stream, 200_000) for _ in range(1_000)) < 250


def test_a_trace_knows_runs_apart_and_keeps_the_last_lines() -> None:
    out: list[str] = []
    one, two = Trace(), Trace(keep=2, out=out.append)
    assert not one.wants_lines
    assert two.wants_lines
    for trace in (one, two):
        trace.message(5, 1, [b"a", b"bc"])
        trace.event(12_345_678_901, "b1", "crashed")
    assert one.digest() == two.digest()
    two.line(12_345_678_902, "b1", "up")
    two.line(12_345_678_903, "b1", "ready")
    assert one.digest() == two.digest(), "lines are for people"
    assert out[0] == "12.345678901 b1 crashed"
    assert two.lines == out[1:]
    one.message(6, 1, [b"a", b"bc"])
    two.message(6, 1, [b"a", b"bd"])

    assert one.digest() != two.digest()


def test_the_same_run_whatever_the_hash_seed() -> None:
    program = "from tests.unit.sim.test_network import busy_run; print(busy_run(3), busy_run(4))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("0", "1", "777")
    }

    assert len(outputs) == 1
    assert len(set(outputs.pop().split())) == 2
