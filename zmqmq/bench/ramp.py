"""How much it takes: offers more and more until the rate no longer follows, and says why.

At each step records are due at a fixed rate, in a burst each millisecond, whether or not the ones
before are acknowledged; a time runs from the moment a record was due to its acknowledgement. So a
step that is too much shows as latency that grows for as long as the step lasts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns
from typing import Any, Final

import zmqmq
from zmqmq.bench.histogram import Histogram
from zmqmq.bench.measure import Measurement, Meter
from zmqmq.bench.pace import Pace
from zmqmq.bench.processes import (
    Cpu,
    cpu_of,
    machine_idle_share,
    machine_ticks,
    own_cpu_ns,
    own_threads_ns,
)
from zmqmq.bench.target import BATCH_BYTES, Target, fresh_topic, random_values

STEPS: Final = (
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
)
FOLLOWS: Final = 0.95
"""Below this share of what was offered, the rate no longer follows."""
BUSY: Final = 0.85
"""A thread, a process or the disk that works for this share of the time is the limit."""
DRAIN_SECONDS: Final = 120
_MACHINE: Final = "CPU of the machine"


@dataclass(frozen=True, slots=True)
class Shares:
    """What was busy during a step, as a share of its time; None where it cannot be known."""

    client: float
    """CPU of this process in cores. Python runs one thread at a time, so 1.0 is full."""
    client_thread: float
    """The busiest thread of it."""
    broker: float | None
    """CPU of the broker in cores."""
    broker_loop: float | None
    """Its event loop: one thread, so 1.0 is full."""
    disk: float
    """The time during which a flush was under way."""
    machine: float | None
    """All cores of this machine together, whoever used them."""
    others: float | None
    """CPU in cores that neither this process nor the broker used."""
    throttled: int
    """Requests that the broker refused because too much waited for its disk."""
    blocked: float
    """The time for which the producer's full buffer held up the sender."""

    def bottleneck(self) -> str:
        """The first of them that was full, from the most particular to the least."""
        reasons = (
            (self.broker_loop, "broker CPU", "the broker's event loop"),
            (self.client, "client CPU", "this process"),
            (self.disk, "disk", "a flush"),
            (self.machine, _MACHINE, "all cores"),
        )
        full = [(share, name, what) for share, name, what in reasons if share and share >= BUSY]
        if self.throttled:
            return f"disk: {self.throttled} requests throttled, too much waited to be flushed"
        if full:
            share, name, what = max(full)
            others = f", {self.others:.1f} cores of it by others" if self.others else ""
            beside = others if name == _MACHINE else ""
            return f"{name}: {what} busy {share:.0%} of the time{beside}"
        if self.blocked >= BUSY / 2:
            return f"credit: the producer's buffer was full {self.blocked:.0%} of the time"
        known = [(share, name) for share, name, _ in reasons if share is not None]
        share, name = max(known)
        return f"none alone; busiest was {name} with {share:.0%}"

    def as_dict(self) -> dict[str, float | int | None]:
        """As JSON shows them."""
        cells = {name: getattr(self, name) for name in self.__slots__}
        return {k: round(v, 3) if type(v) is float else v for k, v in cells.items()}


class _Probe:
    """Reads everything that Shares needs, before and after."""

    def __init__(self, target: Target, client: zmqmq.Client) -> None:
        self._target = target
        self._client = client
        self._before = self._read()

    def shares(self, blocked_ns: int) -> Shares:
        """Since this probe was made."""
        then, now = self._before, self._read()
        took = max(now.at_ns - then.at_ns, 1)
        idle = machine_idle_share(then.machine, now.machine)
        threads = (spent - then.threads.get(n, 0) for n, spent in now.threads.items())
        broker = loop = None
        if then.broker and now.broker:
            broker = (now.broker.whole - then.broker.whole) / took
            loop = (now.broker.main_thread - then.broker.main_thread) / took
        client = (now.client - then.client) / took
        others = None
        if idle is not None and broker is not None:
            others = max((1 - idle) * (os.cpu_count() or 1) - client - broker, 0.0)
        return Shares(
            client=client,
            client_thread=max(threads, default=0) / took,
            broker=broker,
            broker_loop=loop,
            disk=_growth(then.counters, now.counters, "flush_seconds") * 1e9 / took,
            machine=None if idle is None else 1 - idle,
            others=others,
            throttled=round(_growth(then.errors, now.errors, "THROTTLED")),
            blocked=blocked_ns / took,
        )

    def _read(self) -> _Reading:
        return _Reading(
            perf_counter_ns(),
            own_cpu_ns(),
            own_threads_ns(),
            None if self._target.pid is None else cpu_of(self._target.pid),
            machine_ticks(),
            self._target.counters(self._client),
        )


@dataclass(frozen=True, slots=True)
class _Reading:
    at_ns: int
    client: int
    threads: dict[int, int]
    broker: Cpu | None
    machine: tuple[int, int]
    counters: dict[str, Any]

    @property
    def errors(self) -> dict[str, float]:
        """Answers with an error, by its name."""
        errors: dict[str, float] = self.counters["errors"]
        return errors


def ramp(
    target: Target,
    *,
    size: int,
    seconds: float,
    partitions: int = 1,
    steps: Sequence[int] = STEPS,
) -> Iterator[Measurement]:
    """A measurement for each step; the last one is the first that did not follow."""
    for rate in steps:
        done = offer(target, size=size, rate=rate, seconds=seconds, partitions=partitions)
        yield done
        if not done.more["follows"]:
            return


def offer(
    target: Target, *, size: int, rate: int, seconds: float, partitions: int = 1
) -> Measurement:
    """One step: so many records a second for so long, and until the last one is acknowledged."""
    values = random_values(size, max(-(-rate // 1000), 1000))
    pace = Pace(rate, seconds)
    acknowledged = _Acknowledged()
    blocked_ns = 0
    with (
        target.connect() as client,
        fresh_topic(client, partitions) as topic,
        client.producer(topic, linger_ms=1, batch_bytes=BATCH_BYTES // 2) as producer,
    ):
        producer.send_many(values[:100])
        producer.flush()
        probe = _Probe(target, client)
        meter = Meter(target.pid)
        for turn, (due_ns, records) in enumerate(pace):
            before = perf_counter_ns()
            delivery = producer.send_many(values[:records], partition=turn % partitions)
            held = perf_counter_ns() - before
            blocked_ns += held if held > _BLOCKED_NS else 0
            delivery.add_done_callback(partial(acknowledged.note, due_ns, records))
        sent_ns = perf_counter_ns() - pace.started_ns
        shares = probe.shares(blocked_ns)
        producer.flush(DRAIN_SECONDS)
        lasted = (acknowledged.last_ns - pace.started_ns) / 1e9
        reached = acknowledged.latency.count / max(lasted, seconds)
        done = meter.stop(
            f"offered {rate}/s",
            acknowledged.latency.count,
            size,
            acknowledged.latency,
            partitions=partitions,
            offered_per_second=rate,
            achieved_per_second=round(reached),
            follows=reached >= FOLLOWS * rate,
            sending_seconds=round(sent_ns / 1e9, 3),
            late_bursts=pace.late,
            failed=acknowledged.failed,
            bottleneck=shares.bottleneck(),
            **shares.as_dict(),
        )
    done.seconds = max(lasted, seconds)
    return done


_BLOCKED_NS: Final = 2_000_000
"""A call that took longer than this was waiting for room, not for its own work."""


class _Acknowledged:
    """Filled by the client's I/O thread alone."""

    def __init__(self) -> None:
        self.latency = Histogram()
        self.failed = 0
        self.last_ns = 0

    def note(self, due_ns: int, records: int, delivery: zmqmq.Delivery) -> None:
        """A burst is settled."""
        self.last_ns = perf_counter_ns()
        if delivery.exception() is None:
            self.latency.record(self.last_ns - due_ns, records)
        else:
            self.failed += records


def _growth(then: dict[str, float], now: dict[str, float], name: str) -> float:
    """Of a counter; one that is not there yet has counted nothing."""
    return now.get(name, 0) - then.get(name, 0)
