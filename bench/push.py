"""Push: fan-out against a bare XPUB, latency against the acknowledgement, and push against pull.

    python -m bench.push fanout        100 subscribers of one partition
    python -m bench.push latency       from the call of `send` to the record in the consumer's loop
    python -m bench.push throughput    a consumer that follows a producer, push against pull
    python -m bench.push all

Figures are medians of rounds in which each side has its turn. All is on loopback, with fsync.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

import zmqmq
from bench import fanout
from bench.__main__ import machine, print_table
from bench.server import Server, broker, fresh_folder, serving, settle
from zmqmq.bench.histogram import Histogram
from zmqmq.bench.measure import Measurement, Meter, latency_fields
from zmqmq.bench.target import BATCH_BYTES, random_values

Mode = Literal["push", "pull"]
TOPIC: Final = "push"
MODES: Final = get_args(Mode)
BATCH_OVERHEAD: Final = 89
"""What our batches of one record have around the value, so that both sides send as much."""
SIZES: Final = ((1_000, 20_000), (10_000, 6_000), (60_000, 1_500))
"""Bytes of a batch, and how many of them a round sends."""
FOLLOWED: Final = ((50, 40_000), (500, 8_000), (2_000, 2_000))
"""Records of 100 bytes in a batch, and batches; 5 kB and 50 kB are pushed, 200 kB announced."""
RECORD_BYTES: Final = 100
COSTS: Final = (
    "records_per_second",
    "client_cpu_us_per_record",
    "broker_cpu_us_per_record",
    "fetched",
)
PACE_S: Final = 0.002
WARM_UP: Final = 200
_STAMP: Final = struct.Struct("<Q")


def fan_out(rounds: int, subscribers: int) -> list[list[str]]:
    """Batches delivered by a broker and by a bare XPUB."""
    lines = [["batch", "bare/s", "broker/s", "ratio", "MB/s", "bare us", "broker us", "ratio"]]
    for size, batches in SIZES:
        bare, ours = [], []
        for _ in range(rounds):
            with fresh_folder(None) as folder:
                wire = size + BATCH_OVERHEAD
                bare.append(fanout.from_bare(folder, subscribers, wire, batches))
            with fresh_folder(None) as folder, broker(folder) as server:
                ours.append(fanout.from_broker(server, folder, subscribers, size, batches))
            _say(f"fan-out, {size} B: ratio {bare[-1].seconds / ours[-1].seconds:.2f}")
        rates = [statistics.median(d.delivered / d.seconds for d in side) for side in (bare, ours)]
        costs = [
            statistics.median(d.cpu_ns / d.delivered / 1e3 for d in side) for side in (bare, ours)
        ]
        lines.append(
            [
                f"{size} B",
                *(f"{rate:,.0f}" for rate in rates),
                f"{statistics.median(_ratios(bare, ours)):.2f}",
                f"{rates[1] * size / 1e6:,.0f}",
                *(f"{cost:.2f}" for cost in costs),
                f"{costs[1] / costs[0]:.2f}",
            ]
        )
    return lines


def _ratios(bare: Iterable[fanout.FanOut], ours: Iterable[fanout.FanOut]) -> list[float]:
    """Round by round: what else the machine did then, it did to both."""
    return [b.seconds / o.seconds for b, o in zip(bare, ours, strict=True)]


def latency(rounds: int, records: int) -> list[list[str]]:
    """From `send` until the record is acknowledged, and until a consumer elsewhere has it."""
    fields = ("p50_us", "p99_us", "p999_us")
    taken: dict[str, list[dict[str, float | None]]] = {}
    for _ in range(rounds):
        for mode in MODES:
            with fresh_folder(None) as folder, broker(folder) as server:
                settle()
                acknowledged, seen = waited(server, folder, mode, records)
            taken.setdefault(f"acknowledged ({mode})", []).append(acknowledged)
            taken.setdefault(f"consumed by {mode}", []).append(seen)
            _say(f"{mode}: acknowledged {acknowledged['p50_us']}, consumed {seen['p50_us']} us")
    lines = [["one record at a time", "p50 us", "p99 us", "p99.9 us", "p50 / acknowledged"]]
    for mode in MODES:
        before = taken[f"acknowledged ({mode})"]
        for name in (f"acknowledged ({mode})", f"consumed by {mode}"):
            rows = taken[name]
            medians = [statistics.median(row[field] or 0 for row in rows) for field in fields]
            pairs = zip(rows, before, strict=True)
            ratio = statistics.median((r["p50_us"] or 0) / (b["p50_us"] or 1) for r, b in pairs)
            lines.append([name, *(f"{median:,.0f}" for median in medians), f"{ratio:.2f}"])
    return lines


def waited(
    server: Server, folder: Path, mode: str, records: int
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Times until the acknowledgement, and until a consumer in another process has the record."""
    latency = Histogram()
    with zmqmq.connect(server.address) as client:
        client.topics.create(TOPIC)
        with _child(server, folder, "watch", mode, str(records)) as watching:
            with client.producer(TOPIC, linger_ms=0) as producer:
                for number in range(WARM_UP + records):
                    began = time.perf_counter_ns()
                    producer.send(_STAMP.pack(began)).result()
                    if number >= WARM_UP:
                        latency.record(time.perf_counter_ns() - began)
                    time.sleep(PACE_S)
            seen = _said(watching)
    return latency_fields(latency), seen


def watch(mode: Mode, records: int, server: str, _pid: str) -> None:
    """A consumer: prints how old records were in its loop."""
    latency = Histogram()
    with zmqmq.connect(server) as client, client.consumer(TOPIC, mode=mode) as consumer:
        consumer.fetch(max_wait_ms=0)
        print("ready", flush=True)
        for number, record in enumerate(consumer):
            now = time.perf_counter_ns()
            if number >= WARM_UP:
                latency.record(now - _STAMP.unpack(record.value or b"")[0])
            if number == WARM_UP + records - 1:
                break
    print(json.dumps(latency_fields(latency)), flush=True)


def throughput(rounds: int, rate: int) -> list[list[str]]:
    """Records consumed by somebody who follows a producer at its heels."""
    titles = ["batches of", "as", "mode", "records/s", "push / pull"]
    lines = [[*titles, "client us/record", "broker us/record", "fetched"]]
    for count, batches in FOLLOWED:
        for kind in ("batches", "records"):
            taken: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
            for _ in range(rounds):
                for mode in MODES:
                    with fresh_folder(None) as folder, broker(folder) as server:
                        settle()
                        taken[mode].append(
                            followed(server, folder, mode, kind, count, batches, rate)
                        )
                pair = [taken[mode][-1]["records_per_second"] for mode in MODES]
                _say(f"{count} records as {kind}: push {pair[0]:,.0f}, pull {pair[1]:,.0f}")
            ratio = statistics.median(
                push["records_per_second"] / pull["records_per_second"]
                for push, pull in zip(taken["push"], taken["pull"], strict=True)
            )
            for mode in MODES:
                speed, ours, theirs, fetched = (
                    statistics.median(row[field] for row in taken[mode]) for field in COSTS
                )
                lines.append(
                    [
                        f"{count} x {RECORD_BYTES} B",
                        kind,
                        mode,
                        f"{speed:,.0f}",
                        f"{ratio:.2f}" if mode == "push" else "",
                        f"{ours:.3f}",
                        f"{theirs:.3f}",
                        f"{fetched:.0%}",
                    ]
                )
    return lines


def followed(
    server: Server, folder: Path, mode: str, kind: str, count: int, batches: int, rate: int
) -> dict[str, Any]:
    """What a consumer in another process used and reached, while batches were produced."""
    values = random_values(RECORD_BYTES, count)
    with zmqmq.connect(server.address) as client:
        client.topics.create(TOPIC)
        with _child(server, folder, "follow", mode, kind, str(count * batches)) as following:
            with client.producer(TOPIC, batch_records=count, batch_bytes=BATCH_BYTES) as producer:
                due = time.perf_counter()
                for _ in range(batches):
                    producer.send_many(values)
                    due += count / rate if rate else 0
                    if rate and (early := due - time.perf_counter()) > 0:
                        time.sleep(early)
                producer.flush()
            done = _said(following)
        counted = client.describe("broker")[0]
    return {**done, "fetched": counted["bytes_out"] / counted["bytes_in"]}


def follow(mode: Mode, kind: str, records: int, server: str, pid: str) -> None:
    """A consumer: prints what a Measurement holds, from the first record on."""
    with zmqmq.connect(server) as client, client.consumer(TOPIC, mode=mode) as consumer:
        consumer.fetch(max_wait_ms=0)
        print("ready", flush=True)
        done = _by_batch(consumer, int(pid), records) if kind == "batches" else None
        done = done or _by_record(consumer, int(pid), records)
    print(json.dumps(done.as_dict()), flush=True)


def _by_batch(consumer: zmqmq.Consumer, pid: int, records: int) -> Measurement:
    seen, meter = 0, Meter(pid)
    while seen < records:
        batches = consumer.fetch_batches(max_wait_ms=10_000)
        if not seen:
            meter = Meter(pid)
        for batch in batches:
            seen += len(batch.values)
    return meter.stop("follow", seen, RECORD_BYTES)


def _by_record(consumer: zmqmq.Consumer, pid: int, records: int) -> Measurement:
    iterator = iter(consumer)
    next(iterator)
    meter = Meter(pid)
    for _, _record in zip(range(records - 1), iterator, strict=False):
        pass
    return meter.stop("follow", records, RECORD_BYTES)


def _child(server: Server, folder: Path, *words: str) -> Any:  # noqa: ANN401 - a context manager
    """A consumer in a process of its own."""
    command = [sys.executable, "-m", "bench.push", *words, server.address, str(server.pid)]
    where = folder / words[0]
    where.mkdir()
    return serving(command, server.port, where)


def _said(process: Server) -> Any:  # noqa: ANN401 - what JSON holds
    """The line with which a child ends."""
    stdout = process.process.stdout
    assert stdout is not None
    return json.loads(next(line for line in stdout if line.strip()))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.push", description=__doc__)
    parser.add_argument("what", choices=("fanout", "latency", "throughput", "all"))
    parser.add_argument("--rounds", type=int, default=5, help="medians of so many (5)")
    parser.add_argument("--subscribers", type=int, default=100, help="of the fan-out (100)")
    parser.add_argument("--records", type=int, default=3_000, help="of each latency (3,000)")
    parser.add_argument("--rate", type=int, default=0, help="records/s to follow; 0: all there is")
    options = parser.parse_args()
    runs = {
        "fanout": lambda: fan_out(options.rounds, options.subscribers),
        "latency": lambda: latency(options.rounds, options.records),
        "throughput": lambda: throughput(options.rounds, options.rate),
    }
    for what in runs if options.what == "all" else [options.what]:
        print_table(runs[what]())
        print()
    print(", ".join(f"{name} {value}" for name, value in machine().items()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["watch"]:
        watch(cast("Mode", sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
    elif sys.argv[1:2] == ["follow"]:
        follow(cast("Mode", sys.argv[2]), sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
    else:
        main()
