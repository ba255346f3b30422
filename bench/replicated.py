"""Three brokers on one etcd: throughput with three replicas, and fail-over.

    python -m bench.replicated throughput --size 100      against one broker, in turns
    python -m bench.replicated failover --kills 30        longest time without an acknowledgement
    python -m bench.replicated partitions --count 3000    CPU at rest, and the loss of a broker

`etcd` is the one that ZMQMQ_ETCD names, or that is on PATH. All is on loopback.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import zmqmq
from bench.server import Server, broker, free_port, fresh_folder, serving
from zmqmq.bench.processes import cpu_of
from zmqmq.bench.target import random_values
from zmqmq.errors import ZmqmqError

TOPIC: Final = "replicated"
IN_SYNC_SECONDS: Final = 60
PACE_SECONDS: Final = 0.002
REST_SECONDS: Final = 15
SIGNALS: Final = {
    "leader": signal.SIGKILL,
    "follower": signal.SIGKILL,
    "frozen": signal.SIGSTOP,
    "stopped": signal.SIGTERM,
}
BATCH: Final = 1_000


class Cluster:
    """Three brokers as processes, which can be killed, frozen and started again."""

    def __init__(self, folder: Path, etcd: str, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._etcd = etcd
        self._stack = stack
        self._ports = {number: (free_port(), free_port()) for number in (1, 2, 3)}
        self._brokers: dict[int, Server] = {}
        for number in self._ports:
            self.start(number)

    @property
    def servers(self) -> str:
        """Where clients begin."""
        return ",".join(f"127.0.0.1:{clients}" for clients, _ in self._ports.values())

    def start(self, number: int) -> None:
        """Until it is ready."""
        clients, peers = self._ports[number]
        command = [
            *(sys.executable, "-m", "zmqmq_cli.main", "broker", "--node-id", str(number)),
            *("--data-dir", str(self._folder / f"broker-{number}"), "--etcd", self._etcd),
            *("--bind", f"127.0.0.1:{clients}", "--bind-peers", f"127.0.0.1:{peers}"),
        ]
        log = self._folder / f"start-{number}-{time.monotonic_ns()}"
        log.mkdir()
        self._brokers[number] = self._stack.enter_context(serving(command, clients, log))

    def signal(self, number: int, which: signal.Signals) -> None:
        """As `kill` does."""
        self._brokers[number].process.send_signal(which)

    def cpu_ns(self, number: int) -> int:
        """What it has used since its start."""
        cpu = cpu_of(self._brokers[number].pid)
        if cpu is None:
            raise ProcessLookupError(f"broker {number} is gone")
        return cpu.whole

    def create(self, client: zmqmq.Client, partitions: int) -> None:
        """A topic with three replicas, all in sync."""
        client.topics.create(TOPIC, partitions, replicas=3)
        in_sync(client)


def described(client: zmqmq.Client) -> Sequence[zmqmq.PartitionDescription]:
    """All partitions, as far as somebody tells."""
    while True:
        with contextlib.suppress(ZmqmqError):
            return client.topics.describe(TOPIC).partitions


def in_sync(client: zmqmq.Client) -> zmqmq.PartitionDescription:
    """Wait until all replicas are; the first partition."""
    end = time.monotonic() + IN_SYNC_SECONDS
    while time.monotonic() < end:
        found = described(client)
        if found and all(len(p.isr) == 3 and p.leader is not None for p in found):
            return found[0]
        time.sleep(0.1)
    raise TimeoutError(f"the replicas are not in sync after {IN_SYNC_SECONDS} s")


@contextlib.contextmanager
def etcd(folder: Path) -> Iterator[str]:
    """One member with an empty store; its address."""
    binary = os.environ.get("ZMQMQ_ETCD") or shutil.which("etcd")
    if binary is None:
        raise FileNotFoundError("no etcd: put it on PATH, or name it in ZMQMQ_ETCD")
    clients, peers = free_port(), free_port()
    here, there = f"http://127.0.0.1:{clients}", f"http://127.0.0.1:{peers}"
    command = [
        *(binary, "--data-dir", str(folder / "etcd"), "--log-level", "error"),
        *("--listen-client-urls", here, "--advertise-client-urls", here),
        *("--listen-peer-urls", there, "--initial-advertise-peer-urls", there),
        *("--initial-cluster", f"default={there}"),
    ]
    with serving(command, clients, folder, ready=None):
        yield f"127.0.0.1:{clients}"


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Started, and removed afterwards."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(fresh_folder(None))
        yield Cluster(folder, stack.enter_context(etcd(folder)), stack)


# Throughput


def throughput(size: int, records: int, partitions: int, rounds: int) -> None:
    """Prints medians and their ratio."""
    rates: dict[str, list[float]] = {"one": [], "three": []}
    with fresh_folder(None) as folder, broker(folder) as single, cluster() as three:
        one = f"127.0.0.1:{single.port}"
        with zmqmq.connect(three.servers) as client:
            three.create(client, partitions)
        with zmqmq.connect(one) as client:
            client.topics.create(TOPIC, partitions)
        for _ in range(rounds):
            rates["one"].append(_produce(one, size, records, partitions))
            rates["three"].append(_produce(three.servers, size, records, partitions))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratio = round(medians["three"] / medians["one"], 3)
    print(json.dumps({"size": size, "partitions": partitions, **medians, "ratio": ratio}))


def _produce(servers: str, size: int, records: int, partitions: int) -> float:
    values = random_values(size, BATCH)
    with zmqmq.connect(servers) as client, client.producer(TOPIC) as producer:
        for partition in range(partitions):
            producer.send_many(values, partition=partition)
        producer.flush()
        began = time.perf_counter()
        for turn in range(records // BATCH):
            producer.send_many(values, partition=turn % partitions)
        producer.flush()
        return records / (time.perf_counter() - began)


# Fail-over


class Sender(threading.Thread):
    """Sends one record after the other, each until it is acknowledged."""

    def __init__(self, servers: str) -> None:
        super().__init__(daemon=True)
        self._servers = servers
        self._is_over = threading.Event()
        self.acknowledged: list[float] = []
        self.errors: list[ZmqmqError] = []

    def run(self) -> None:
        with (
            zmqmq.connect(self._servers) as client,
            client.producer(TOPIC, linger_ms=0, delivery_timeout_ms=120_000) as producer,
        ):
            for number in itertools.count():
                if self._is_over.wait(PACE_SECONDS):
                    return
                try:
                    producer.send(b"%d" % number).result()
                    self.acknowledged.append(time.monotonic())
                except ZmqmqError as error:
                    self.errors.append(error)

    def end(self) -> None:
        """After the record that is under way."""
        self._is_over.set()
        self.join()

    def await_more(self, count: int) -> None:
        """Wait for so many acknowledgements from now on."""
        wanted, end = len(self.acknowledged) + count, time.monotonic() + IN_SYNC_SECONDS
        while len(self.acknowledged) < wanted:
            if time.monotonic() > end:
                raise TimeoutError("nothing is acknowledged any more")
            time.sleep(0.02)

    def longest_gap(self, since: float) -> float:
        """Between two acknowledgements of which the second came after `since`."""
        times = self.acknowledged
        return max(b - a for a, b in itertools.pairwise(times) if b > since)


def failover(kills: int, followers: int, freezes: int, stops: int) -> None:
    """Prints the gap of each round, and for each kind the median and the longest."""
    with cluster() as three, zmqmq.connect(three.servers) as client:
        three.create(client, 1)
        sender = Sender(three.servers)
        sender.start()
        sender.await_more(500)
        kinds = {"leader": kills, "follower": followers, "frozen": freezes, "stopped": stops}
        for kind, count in kinds.items():
            gaps = [_round(three, client, sender, kind) for _ in range(count)]
            if gaps:
                row = {"kind": kind, "rounds": count, "median_s": statistics.median(gaps)}
                print(json.dumps({**row, "longest_s": max(gaps), "gaps": gaps}), flush=True)
        sender.end()
        sent = len(sender.acknowledged)
        with client.consumer(TOPIC, start="start", stop_at_end=True) as consumer:
            stored = {record.value for record in consumer}
        print(
            json.dumps({"acknowledged": sent, "stored": len(stored), "errors": len(sender.errors)})
        )


def _round(three: Cluster, client: zmqmq.Client, sender: Sender, kind: str) -> float:
    partition = in_sync(client)
    sender.await_more(200)
    victim = partition.leader
    if kind == "follower":
        victim = next(b for b in partition.replicas if b != partition.leader)
    assert victim is not None
    began = time.monotonic()
    three.signal(victim, SIGNALS[kind])
    time.sleep(6 if kind == "frozen" else 1.5)
    sender.await_more(100)
    gap = round(sender.longest_gap(began), 3)
    if kind == "frozen":
        three.signal(victim, signal.SIGCONT)
    else:
        three.start(victim)
    return gap


# Many partitions


def partitions(count: int) -> None:
    """Prints the CPU of brokers that do nothing, and when all partitions of a lost one are led."""
    with cluster() as three, zmqmq.connect(three.servers, request_timeout_ms=120_000) as client:
        three.create(client, count)
        time.sleep(REST_SECONDS)
        before = {n: three.cpu_ns(n) for n in (1, 2, 3)}
        time.sleep(REST_SECONDS)
        spent = {n: three.cpu_ns(n) - then for n, then in before.items()}
        shares = [round(ns / REST_SECONDS / 1e7, 2) for ns in spent.values()]
        began = time.monotonic()
        three.signal(2, signal.SIGKILL)
        while any(2 in p.isr or p.leader in (2, None) for p in described(client)):
            time.sleep(0.2)
        took = round(time.monotonic() - began, 2)
    print(json.dumps({"partitions": count, "idle_cpu_percent": shares, "handled_after_s": took}))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.replicated", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    rate = commands.add_parser("throughput")
    rate.add_argument("--size", type=int, default=100, help="bytes of a value (100)")
    rate.add_argument("--records", type=int, default=1_000_000)
    rate.add_argument("--partitions", type=int, default=1)
    rate.add_argument("--rounds", type=int, default=5)
    over = commands.add_parser("failover")
    over.add_argument("--kills", type=int, default=30, help="of the leader (30)")
    over.add_argument("--followers", type=int, default=5, help="kills of a follower (5)")
    over.add_argument("--freezes", type=int, default=5, help="of the leader (5)")
    over.add_argument("--stops", type=int, default=6, help="of the leader, cleanly (6)")
    many = commands.add_parser("partitions")
    many.add_argument("--count", type=int, default=3_000)
    options = vars(parser.parse_args())
    command = options.pop("command")
    {"throughput": throughput, "failover": failover, "partitions": partitions}[command](**options)


if __name__ == "__main__":
    main()
