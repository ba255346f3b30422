"""What is measured on every side, and how each side does it.

A side is `bare` (the yardstick), `raw` (our broker, a client of nothing but pyzmq), `ours` (our
broker and our client) or `kafka`. Each measurement has a server in a fresh folder and a client in
a process of its own, so that no side inherits a warm cache or another one's garbage:

    python -m bench.workloads SIDE PORT PID WORKLOAD     the last is JSON, and so is the answer
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bench.bare import Bare
from bench.raw_client import Raw
from zmqmq.bench.measure import Measurement
from zmqmq.bench.target import Target, random_values

BATCH_RECORDS = 1000
IN_FLIGHT = 16
IN_FLIGHT_MANY = 256
"""Over many partitions, 1 included: 16 each would be 16,000."""
PARTITIONS = (1, 10, 100, 1000)


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of work at one size."""

    kind: str
    size: int
    count: int
    sides: tuple[str, ...]
    in_flight: int = IN_FLIGHT
    partitions: int = 1
    batch_records: int = BATCH_RECORDS

    @property
    def name(self) -> str:
        """For people, and to ask a child for it."""
        words = [self.kind, f"{self.size} B"]
        if self.kind == "single":
            words.append(f"{self.in_flight} in flight")
        if self.kind == "partitions":
            words.append(f"batches of {self.batch_records}, {self.partitions} partitions")
        return " ".join(words)


ZMQ = ("bare", "raw", "ours")
OWN = ("raw", "ours")
WORKLOADS = (
    Workload("produce", 100, 3_000_000, (*ZMQ, "kafka")),
    Workload("produce", 1000, 600_000, (*ZMQ, "kafka")),
    Workload("send", 100, 1_000_000, ("ours", "kafka")),
    Workload("send", 1000, 300_000, ("ours", "kafka")),
    Workload("single", 100, 3_000, (*ZMQ, "kafka"), in_flight=1),
    Workload("single", 100, 20_000, ZMQ, in_flight=64),
    Workload("batches", 100, 5_000_000, ZMQ),
    Workload("batches", 1000, 600_000, ZMQ),
    Workload("records", 100, 2_000_000, ("ours", "kafka")),
    Workload("records", 1000, 600_000, ("ours", "kafka")),
    *(
        Workload(
            "partitions", 100, count, OWN, IN_FLIGHT_MANY, partitions, batch_records=batch_records
        )
        for batch_records, count in ((1000, 3_000_000), (10, 300_000))
        for partitions in PARTITIONS
    ),
)
"""In the order in which they run. `batches` and `records` are consumed, the others produced."""


def with_bare(work: Workload, port: int, pid: int) -> Measurement:
    """On the yardstick."""
    client = Bare(port, pid)
    values = random_values(work.size)
    if work.kind == "single":
        client.single(values, 200, 1)
        done = client.single(values, work.count, work.in_flight)
    else:
        done = client.produce(values, work.count, work.in_flight)
        if work.kind == "batches":
            done = client.consume(done.records, work.size)
    client.close()
    return done


def with_raw(work: Workload, port: int, pid: int) -> Measurement:
    """On our broker, without our client."""
    client = Raw(port, pid)
    topic = client.create("bench", work.partitions)
    values = random_values(work.size, work.batch_records)
    if work.kind == "single":
        client.single(topic, values, 200, 1)
        done = client.single(topic, values, work.count, work.in_flight)
    else:
        done = client.produce(topic, values, work.count, work.in_flight, work.partitions)
        if work.kind == "batches":
            done = client.consume(topic, done.records, work.size)
    client.close()
    return done


def with_ours(work: Workload, port: int, pid: int) -> Measurement:
    """As a user would do it."""
    from zmqmq.bench.consume import consume_batches, consume_records  # not for other sides
    from zmqmq.bench.produce import produce_batches, produce_records, produce_single

    target = Target(f"127.0.0.1:{port}", pid)
    batched = partial(produce_batches, partitions=work.partitions, batch_records=work.batch_records)
    kinds: dict[str, Callable[..., Measurement]] = {
        "produce": batched,
        "partitions": batched,
        "send": produce_records,
        "single": partial(produce_single, in_flight=work.in_flight),
        "batches": consume_batches,
        "records": consume_records,
    }
    return kinds[work.kind](target, size=work.size, count=work.count)


def with_kafka(work: Workload, port: int, pid: int) -> Measurement:
    """On the broker that runs beside."""
    from bench.kafka import measure  # confluent-kafka is there only when it is wanted

    return measure(work.kind, port, pid, size=work.size, count=work.count)


SIDES = {"bare": with_bare, "raw": with_raw, "ours": with_ours, "kafka": with_kafka}


def scaled(work: Workload, scale: float) -> Workload:
    """The same with another number of records, which are whole batches."""
    least = max(work.batch_records, work.in_flight)
    count = max(int(work.count * scale) // least * least, least)
    fields = {name: getattr(work, name) for name in work.__slots__}
    return Workload(**(fields | {"count": count}))


def main(arguments: list[str]) -> None:
    """Do one measurement and print it."""
    side, port, pid, fields = arguments
    done = SIDES[side](Workload(**json.loads(fields)), int(port), int(pid))
    print(json.dumps(done.as_dict()))


if __name__ == "__main__":
    main(sys.argv[1:])
