"""Kafka beside ours: one KRaft node, and the client that Python programs use (librdkafka).

The topic has `flush.messages=1`, so that an acknowledgement means what ours means: on disk. The
node runs for the whole run, since a JVM is slow until it has compiled what it does.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
import secrets
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from bench.server import Server, free_port, serving
from zmqmq.bench.histogram import Histogram
from zmqmq.bench.measure import Measurement, Meter
from zmqmq.bench.target import BATCH_BYTES, VALUES, random_values

HEAP = "1G"
WARM_UP_RECORDS = 300_000
WAIT_SECONDS = 120
CONSUME_RECORDS = 10_000
FORMAT_TOOLS = ("kafka.tools.StorageTool", "org.apache.kafka.tools.StorageTool")
"""The tool that formats a data folder has moved between releases."""


class KafkaError(Exception):
    """Kafka could not be run, or did not take or give what it should."""


@contextlib.contextmanager
def serving_kafka(libs: Path, folder: Path) -> Iterator[Server]:
    """A node that is broker and controller, with 1 GiB of heap as Kafka's own script gives it."""
    java = shutil.which("java")
    if java is None:
        raise KafkaError("there is no java on PATH; Kafka 4 needs 17 or later")
    libs = libs.resolve()
    if not any(libs.glob("kafka_2*.jar")):
        raise KafkaError(f"{libs} holds no jar of Kafka; bench/README.md says how to get them")
    _have_client()
    port, controller = free_port(), free_port()
    properties = folder / "server.properties"
    properties.write_text(_properties(folder, port, controller))
    java_options = ["-Dlog4j2.level=ERROR", "-cp", f"{libs}/*"]
    subprocess.run(
        [java, *java_options, _format_tool(libs), "format", "-t", _cluster_id(), "-c", properties],
        check=True,
        capture_output=True,
        timeout=WAIT_SECONDS,
    )
    heap = [f"-Xms{HEAP}", f"-Xmx{HEAP}", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"]
    command = [java, *heap, *java_options, "kafka.Kafka", str(properties)]
    with serving(command, port, folder, ready=None) as server:
        yield server


def warm_up(server: Server) -> None:
    """Let the JVM compile what it will do: unmeasured work of every kind."""
    for kind in ("produce", "send", "single", "records"):
        count = 500 if kind == "single" else WARM_UP_RECORDS
        measure(kind, server.port, server.pid, size=100, count=count)


def measure(kind: str, port: int, pid: int, *, size: int, count: int) -> Measurement:
    """One workload (bench/workloads.py) on a topic of its own."""
    admin_api = importlib.import_module("confluent_kafka.admin")
    where = {"bootstrap.servers": f"127.0.0.1:{port}"}
    topic = f"bench-{secrets.token_hex(6)}"
    admin = admin_api.AdminClient(where)
    new = admin_api.NewTopic(topic, 1, 1, config={"flush.messages": "1"})
    _when_it_answers(admin)
    admin.create_topics([new])[topic].result(WAIT_SECONDS)
    kinds: dict[str, Callable[..., Measurement]] = {
        "produce": _produce_batches,
        "send": _produce_records,
        "single": _single,
        "records": _consume,
    }
    try:
        return kinds[kind](where, topic, pid, random_values(size), count)
    finally:
        admin.delete_topics([topic])[topic].result(WAIT_SECONDS)


def _produce_batches(
    where: dict[str, str], topic: str, pid: int, values: Sequence[bytes], count: int
) -> Measurement:
    producer = _Producer(where, topic, linger_ms=5)
    rows = [{"value": value} for value in values]
    if not hasattr(producer.client, "produce_batch"):
        return _produce_records(where, topic, pid, values, count)
    meter = Meter(pid)
    for _ in range(count // len(rows)):
        todo = rows
        while todo:
            taken = producer.client.produce_batch(topic, todo)
            producer.client.poll(0 if taken == len(todo) else 0.01)
            todo = todo[taken:]
    producer.finish()
    return meter.stop("produce", count // len(rows) * len(rows), len(values[0]))


def _produce_records(
    where: dict[str, str], topic: str, pid: int, values: Sequence[bytes], count: int
) -> Measurement:
    producer = _Producer(where, topic, linger_ms=5)
    meter = Meter(pid)
    producer.send_all(islice(cycle(values), count))
    producer.finish()
    return meter.stop("send", count, len(values[0]))


def _single(
    where: dict[str, str], topic: str, pid: int, values: Sequence[bytes], count: int
) -> Measurement:
    producer = _Producer(where, topic, linger_ms=0)
    producer.send_all(values[:1])
    producer.finish()
    latency = Histogram()
    meter = Meter(pid)
    for value in islice(cycle(values), count):
        began = perf_counter_ns()
        producer.client.produce(topic, value)
        producer.finish()
        latency.record(perf_counter_ns() - began)
    return meter.stop("single", count, len(values[0]), latency)


def _consume(
    where: dict[str, str], topic: str, pid: int, values: Sequence[bytes], count: int
) -> Measurement:
    api = importlib.import_module("confluent_kafka")
    filled = _produce_batches(where, topic, pid, values, count)
    consumer = api.Consumer(
        where
        | {
            "group.id": "bench",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "queued.min.messages": 1_000_000,
            "fetch.message.max.bytes": 4 << 20,
        }
    )
    seen = held = 0
    end = time.monotonic() + WAIT_SECONDS
    meter = Meter(pid)
    consumer.assign([api.TopicPartition(topic, 0, 0)])
    while seen < filled.records and time.monotonic() < end:
        for message in consumer.consume(min(CONSUME_RECORDS, filled.records - seen), timeout=1):
            if message.error():
                raise KafkaError(str(message.error()))
            held += len(message.value())
            seen += 1
    done = meter.stop("records", seen, len(values[0]))
    consumer.close()
    if seen != filled.records or held != seen * len(values[0]):
        raise KafkaError(f"{filled.records} records were sent and {seen} came")
    return done


class _Producer:
    """confluent-kafka's producer with settings under which it is fast."""

    def __init__(self, where: dict[str, str], topic: str, *, linger_ms: int) -> None:
        api = importlib.import_module("confluent_kafka")
        self._topic = topic
        self._failed: list[Any] = []
        self.client = api.Producer(
            where
            | {
                "acks": "all",
                "linger.ms": linger_ms,
                "batch.size": BATCH_BYTES,
                "batch.num.messages": 100 * VALUES,
                "queue.buffering.max.messages": 1_000_000,
                "delivery.report.only.error": True,
                "on_delivery": self._settled,
            }
        )

    def send_all(self, values: Iterator[bytes] | Sequence[bytes]) -> None:
        """`produce()` for each, serving callbacks every so often as its documents ask."""
        produce, poll = self.client.produce, self.client.poll
        for number, value in enumerate(values):
            while True:
                try:
                    produce(self._topic, value)
                except BufferError:
                    poll(0.01)
                else:
                    break
            if number % VALUES == 0:
                poll(0)

    def finish(self) -> None:
        """Wait until everything is acknowledged."""
        left = self.client.flush(WAIT_SECONDS)
        if left or self._failed:
            raise KafkaError(f"{left} records not delivered; {self._failed[:1]}")

    def _settled(self, error: Any, message: Any) -> None:  # noqa: ANN401  untyped library
        del message
        if error:
            self._failed.append(error)


def _when_it_answers(admin: Any) -> None:  # noqa: ANN401  untyped library
    """The port is open before the node has elected itself."""
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(Exception):
            if admin.list_topics(timeout=5).brokers:
                return
        time.sleep(0.2)
    raise KafkaError("the node does not answer")


def _have_client() -> None:
    """confluent-kafka is no dependency of ours: fetched when somebody wants the comparison."""
    if importlib.util.find_spec("confluent_kafka") is None:
        command = [sys.executable, "-m", "pip", "install", "-q", "confluent-kafka>=2.11"]
        subprocess.run(command, check=True)
        importlib.invalidate_caches()


def _format_tool(libs: Path) -> str:
    names = [name for name in FORMAT_TOOLS if _is_in(libs, name.replace(".", "/") + ".class")]
    if not names:
        raise KafkaError(f"no jar in {libs} has any of {', '.join(FORMAT_TOOLS)}")
    return names[0]


def _is_in(libs: Path, entry: str) -> bool:
    for jar in libs.glob("*kafka*.jar"):
        with zipfile.ZipFile(jar) as archive:
            if entry in archive.namelist():
                return True
    return False


def _cluster_id() -> str:
    """22 characters of base64, the first no sign, as Kafka wants it."""
    return re.sub(r"[-_]", "A", secrets.token_urlsafe(16))


def _properties(folder: Path, port: int, controller: int) -> str:
    listeners = f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}"
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listeners": listeners,
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": folder / "data",
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "file.delete.delay.ms": 1000,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())
