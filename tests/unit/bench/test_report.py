"""What a ramp says about what held it up, and how measurements are shown."""

from __future__ import annotations

import json

import pytest

from zmqmq.bench.histogram import Histogram
from zmqmq.bench.measure import Measurement, Meter
from zmqmq.bench.processes import cpu_of, listener_pid, own_cpu_ns, resident_bytes
from zmqmq.bench.ramp import Shares
from zmqmq.bench.report import as_json, as_line, show

IDLE = {
    "client": 0.1,
    "client_thread": 0.1,
    "broker": 0.1,
    "broker_loop": 0.1,
    "disk": 0.1,
    "machine": 0.2,
    "others": 0.1,
    "throttled": 0,
    "blocked": 0.0,
}


@pytest.mark.parametrize(
    ("busy", "named"),
    [
        ({"client": 0.98}, "client CPU"),
        ({"broker_loop": 0.95}, "broker CPU"),
        ({"disk": 0.9}, "disk"),
        ({"throttled": 3}, "disk"),
        ({"machine": 0.97}, "CPU of the machine: all cores busy 97% of the time, 0.1 cores of it"),
        ({"client": 0.9, "broker_loop": 0.97}, "broker CPU"),
        ({"blocked": 0.6}, "credit"),
        ({"broker_loop": None, "broker": None, "disk": 0.4}, "none alone; busiest was disk"),
    ],
)
def test_the_bottleneck_is_what_was_full(busy: dict[str, float], named: str) -> None:
    assert Shares(**(IDLE | busy)).bottleneck().startswith(named)  # type: ignore[arg-type]


def measured(**more: object) -> Measurement:
    latency = Histogram()
    latency.record(2_000_000, 10)
    return Measurement(
        scenario="x",
        records=1000,
        record_bytes=100,
        seconds=0.5,
        client_cpu_ns=3_000_000,
        latency=latency,
        more=more,
    )


def test_json_has_rates_times_and_costs() -> None:
    line = json.loads(as_line(measured()))

    assert line["records_per_second"] == 2000
    assert line["mb_per_second"] == 0.2
    assert line["p50_us"] == line["p999_us"] == 2000
    assert line["client_cpu_us_per_record"] == 3
    assert line["broker_cpu_us_per_record"] is None
    assert json.loads(as_json([measured()]))["results"] == [line]


def test_a_table_keeps_every_row_and_a_ramp_ends_with_its_verdict() -> None:
    step = {"offered_per_second": 10, "achieved_per_second": 9, "follows": False}
    text = show([measured(), measured(**step, **IDLE, bottleneck="disk: a flush was busy")])

    assert "records/s" in text
    assert text.splitlines()[-1] == "at 10/s the rate no longer follows: disk: a flush was busy"


def test_a_meter_counts_time_and_cpu_of_both_sides() -> None:
    import os

    meter = Meter(os.getpid())
    while own_cpu_ns() < meter._client + 60_000_000:
        pass
    done = meter.stop("spin", 1, 1)

    assert done.seconds > 0.02  # CPU is counted in ticks of 10 ms, and by more than one thread
    assert done.client_cpu_ns >= 60_000_000
    assert done.broker_cpu_ns is not None
    assert done.broker_cpu_ns >= 50_000_000


def test_a_listener_is_found_by_its_port() -> None:
    import os
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        assert listener_pid(port) is None
        listening.listen()
        assert listener_pid(port) == os.getpid()
    cpu = cpu_of(os.getpid())
    assert cpu is not None
    assert cpu.whole >= cpu.main_thread > 0
    assert (resident_bytes(os.getpid()) or 0) > 1_000_000


def test_of_a_process_that_is_gone_nothing_is_known() -> None:
    assert cpu_of(2**22 + 1) is None
    assert resident_bytes(2**22 + 1) is None
