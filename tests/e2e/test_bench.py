"""Every scenario of the benchmarks, tiny, against real servers: what they print has its shape.

No figure is asserted: a test machine is busy with other things (DESIGN 10).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench import fanout, push, targets
from bench import server as bench_server
from bench.workloads import SIDES, WORKLOADS, scaled
from tests.e2e.command_line import CLI, FORMATS, start_broker, stop, until_it_holds
from zmqmq.bench.consume import consume_batches, consume_records, end_to_end
from zmqmq.bench.measure import Measurement
from zmqmq.bench.produce import produce_batches, produce_records, produce_single
from zmqmq.bench.ramp import offer, ramp
from zmqmq.bench.target import BenchError, Target, check_stored, fresh_topic

REPOSITORY = Path(__file__).resolve().parents[2]
TIMES = ("p50_us", "p99_us", "p999_us", "max_us")
TINY = ("--size", "100", "--count", "1000", "--partitions", "2")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The address and the process of a broker."""
    process, address = start_broker(tmp_path_factory.mktemp("bench") / "data")
    yield address, process.pid
    assert stop(process) == 0


@pytest.fixture(scope="module")
def target(server: tuple[str, int]) -> Target:
    return Target(*server)


@pytest.fixture(scope="module")
def cli(server: tuple[str, int]) -> CLI:
    return CLI(server[0])


def shaped(fields: dict[str, Any], *, is_timed: bool) -> None:
    """A measurement as JSON has what everybody may count on."""
    assert fields["records"] > 0
    assert fields["seconds"] > 0
    assert fields["records_per_second"] == pytest.approx(
        fields["records"] / fields["seconds"], rel=0.01
    )
    assert fields["client_cpu_us_per_record"] >= 0
    assert fields["broker_cpu_us_per_record"] >= 0
    times = [fields[name] for name in TIMES]
    if is_timed:
        assert times == sorted(times)
        assert times[0] > 0
    else:
        assert times == [None] * len(TIMES)


SCENARIOS: dict[str, tuple[Callable[..., Measurement], bool]] = {
    "batches": (partial(produce_batches, count=3000), False),
    "batches, many partitions": (partial(produce_batches, count=3000, partitions=10), False),
    "records": (partial(produce_records, count=3000), False),
    "single, 1": (partial(produce_single, count=50, in_flight=1), True),
    "single, 64": (partial(produce_single, count=500, in_flight=64), True),
    "consume batches": (partial(consume_batches, count=3000, partitions=3), False),
    "consume records": (partial(consume_records, count=3000), False),
    "end to end": (partial(end_to_end, rate=200, seconds=0.3), True),
    "offer": (partial(offer, rate=2000, seconds=0.3), True),
}


@pytest.mark.parametrize("size", [100, 1000])
@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(target: Target, name: str, size: int) -> None:
    measure, is_timed = SCENARIOS[name]

    done = measure(target, size=size)

    shaped(done.as_dict(), is_timed=is_timed)
    assert done.record_bytes == size


def test_a_measurement_leaves_no_topic_behind(target: Target) -> None:
    produce_records(target, size=10, count=100)

    def is_gone() -> None:
        with target.connect() as client:
            assert [t.name for t in client.topics.list() if t.name.startswith("bench-")] == []

    until_it_holds(is_gone)


def test_lost_records_are_no_measurement(target: Target) -> None:
    with target.connect() as client, fresh_topic(client) as topic:
        with client.producer(topic) as producer:
            producer.send(b"one")
        with pytest.raises(BenchError, match=r"2 records were sent .* 1 are stored"):
            check_stored(client, topic, 2)


def test_a_ramp_goes_on_until_the_rate_no_longer_follows(target: Target) -> None:
    unreachable = 5_000_000
    rates = (100, unreachable, 2 * unreachable)

    def goes_on() -> None:  # a machine that does something else meanwhile may not follow at 100
        steps = list(ramp(target, size=100, seconds=0.2, steps=rates))
        assert [done.more["offered_per_second"] for done in steps] == [100, unreachable]
        last = steps[-1].as_dict()
        assert last["follows"] is False, last
        assert last["achieved_per_second"] < unreachable, last
        assert last["bottleneck"], last
        assert 0 < last["broker_loop"] <= 1.1, last
        assert last["p50_us"] > 0, last

    until_it_holds(goes_on)


def test_a_step_tells_how_busy_the_disk_was(target: Target) -> None:
    """Longer than the second after which a broker looks at its disk's work again."""

    def is_told() -> None:
        (step,) = ramp(target, size=100, seconds=2.5, steps=(100,))
        assert 0 < step.more["disk"] < 2, step

    until_it_holds(is_told)


def test_the_broker_is_found_by_its_port(server: tuple[str, int]) -> None:
    address, pid = server

    assert Target.find(address).pid == pid
    assert Target.find("192.0.2.1:5755").pid is None


# The command line


@pytest.mark.parametrize("form", FORMATS)
def test_command_in_every_format(cli: CLI, form: str) -> None:
    text = cli("bench", "produce", *TINY, "-O", form).stdout.decode()

    scenarios = [
        "produce batches",
        "produce records",
        "single, 1 in flight",
        "single, 64 in flight",
    ]
    if form == "table":
        assert [name for name in scenarios if name not in text] == []
        assert "records/s" in text.splitlines()[0]
        return
    results = json.loads(text)["results"] if form == "json" else map(json.loads, text.splitlines())
    found = list(results)
    assert [line["scenario"] for line in found] == scenarios
    assert [line["partitions"] for line in found] == [2, 2, 1, 1]
    for line in found:
        shaped(line, is_timed=line["scenario"].startswith("single"))


@pytest.mark.parametrize(
    ("argv", "count"),
    [
        (("consume", *TINY), 2),
        (("latency", "--size", "16", "--rate", "100,200", "--seconds", "0.2"), 2),
        (("ramp", "--rate", "1000,2000", "--seconds", "0.2"), 2),
        (("all", *TINY, "--seconds", "0.2"), 7),
    ],
)
def test_other_commands(cli: CLI, argv: tuple[str, ...], count: int) -> None:
    results = cli.json("bench", *argv)["results"]

    assert len(results) == count
    for line in results:
        assert line["records_per_second"] > 0


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--size", "big", "'big' is not a whole number"),
        ("--count", "0", "0 is too small; the least is 1"),
        ("--partitions", "1,x", "'1,x' is not a whole number"),
        ("-O", "xml", "'xml' is none of table, json, jsonl"),
    ],
)
def test_a_bad_option_is_named(cli: CLI, option: str, value: str, said: str) -> None:
    done = cli("bench", "consume", option, value, code=2)

    assert said in done.stderr.decode()
    assert option in done.stderr.decode()


# `python -m bench`


KINDS = {work.kind: work for work in reversed(WORKLOADS)}
OWN = [(kind, side) for kind, work in KINDS.items() for side in work.sides if side != "kafka"]


@pytest.mark.parametrize(("kind", "side"), OWN)
def test_workload(tmp_path: Path, kind: str, side: str) -> None:
    small = scaled(KINDS[kind], 0.001)
    start = partial(bench_server.bare, fsync=True) if side == "bare" else bench_server.broker

    with start(tmp_path) as at:
        done = SIDES[side](small, at.port, at.pid)

    assert at.process.poll() is not None
    shaped(done.as_dict(), is_timed=kind == "single")
    assert done.records >= small.count


def test_a_run_prints_figures_and_ratios(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "bench", "--rounds", "1", "--scale", "0.001"]
    options = ["--only", "100 B 1 in", "--folder", str(tmp_path), "--json", str(report)]

    done = subprocess.run(
        [*command, *options],
        cwd=REPOSITORY,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )

    assert "single, 1 in flight, p50: bare" in done.stdout
    found = json.loads(report.read_text())
    assert found["errors"] == []
    assert {line["side"] for line in found["measurements"]} == {"bare", "raw", "ours"}
    (met,) = (line for line in found["targets"] if line["value"] is not None)
    assert met["value"] == pytest.approx(met["ours"] / met["other"])
    assert isinstance(met["met"], bool)
    assert list(tmp_path.iterdir()) == [report]


def test_every_target_asks_for_something_that_is_measured() -> None:
    measured = {(work.name, side) for work in WORKLOADS for side in work.sides}
    for row in targets.ROWS:
        for figure in (row.ours, row.other):
            if figure is not None and figure.workload != targets.BROKER:
                assert (figure.workload, figure.side) in measured, row.what


def test_fan_out_is_counted_on_both_sides(tmp_path: Path) -> None:
    """Every subscriber has every batch, or it would not end."""
    with bench_server.fresh_folder(tmp_path) as folder:
        bare = fanout.from_bare(folder, 3, 1_000, 200)
    with (
        bench_server.fresh_folder(tmp_path) as folder,
        bench_server.broker(folder) as server,
    ):
        ours = fanout.from_broker(server, folder, 3, 1_000, 200)

    assert bare.delivered == ours.delivered == 600
    assert bare.seconds > 0
    assert ours.seconds > 0


@pytest.mark.parametrize("mode", push.MODES)
def test_times_until_a_consumer_has_a_record(tmp_path: Path, mode: push.Mode) -> None:
    with (
        bench_server.fresh_folder(tmp_path) as folder,
        bench_server.broker(folder) as server,
    ):
        for times in push.waited(server, folder, mode, 20):
            assert all((times[name] or 0) > 0 for name in TIMES)


@pytest.mark.parametrize("mode", push.MODES)
@pytest.mark.parametrize("kind", ["batches", "records"])
def test_a_consumer_at_the_heels_of_a_producer(tmp_path: Path, mode: push.Mode, kind: str) -> None:
    with (
        bench_server.fresh_folder(tmp_path) as folder,
        bench_server.broker(folder) as server,
    ):
        done = push.followed(server, folder, mode, kind, 10, 50, 0)

    assert done["records"] == 500
    assert done["fetched"] >= 0
