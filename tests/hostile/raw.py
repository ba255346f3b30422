"""A broker in a process of its own, and a client that can say anything to it.

The client is plain pyzmq and msgpack; of zmqmq it takes the numbers of the APIs and the encoder
of batches, so that a test can send what our own client never would.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgpack
import zmq

from zmqmq.batch.decode import decode_batches
from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import log_seed
from zmqmq.wire.apis import Api

SCALE = int(os.environ.get("ZMQMQ_TEST_SCALE", "1"))
TIMEOUT_S = 20.0
MIB = 1024 * 1024
_START = """
import json, sys
from zmqmq.config.broker import BrokerConfig, BrokerOptions
from zmqmq.core.broker.options import ServingOptions
from zmqmq.core.storage.options import StorageOptions
from zmqmq.model.topics import TopicConfig
from zmqmq.runtime.main import run
folder, port, sections = json.loads(sys.argv[1])
sys.exit(run(BrokerConfig(
    broker=BrokerOptions(data_dir=folder, bind=f"127.0.0.1:{port}"),
    serving=ServingOptions(**sections.get("serving", {})),
    storage=StorageOptions(**sections.get("storage", {})),
    topics=TopicConfig(**sections.get("topics", {})),
)))
"""


class BrokerProcess:
    """Started by `with`, stopped by SIGTERM, killed by pid when it does not stop."""

    def __init__(self, folder: Path, port: int = 0, **sections: Mapping[str, object]) -> None:
        self.folder = folder
        self._port = port
        self._sections = sections
        self._process: subprocess.Popen[str]
        self.endpoint = ""
        self._talk: list[str] = []

    def __enter__(self) -> Self:
        argument = json.dumps([str(self.folder), self._port, self._sections])
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, argument],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if "ready" not in line:
            self._process.wait(TIMEOUT_S)
            time.sleep(0.2)
            raise AssertionError(f"the broker did not start: {line!r}\n{self.talk}")
        self.endpoint = line.split()[1].rstrip(",")
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return int(self._process.returncode)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait(TIMEOUT_S)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def talk(self) -> str:
        """What it wrote to stderr."""
        return "".join(self._talk)

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return self._status("VmRSS:")

    def peak_bytes(self) -> int:
        """The most that was ever resident since the start or the last `reset_peak`."""
        return self._status("VmHWM:")

    def reset_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def cpu_s(self) -> float:
        """Processor time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
        raise AssertionError(name)

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            self._talk.extend(stream)


class RawClient:
    """One DEALER socket. `call` waits for the answer to its own correlation number."""

    def __init__(self, endpoint: str, *, hello: bool = True, kind: int = zmq.DEALER) -> None:
        self.endpoint = endpoint
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
        self.socket.linger = 0
        self.socket.connect(f"tcp://{endpoint}")
        self.session = secrets.token_bytes(16)
        self.read_bytes = 0
        self._correlation = 0
        self.greeting: dict[str, Any] = self.hello() if hello else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def hello(self, **fields: object) -> dict[str, Any]:
        given = {"client": "raw", "min": 1, "max": 1, "session": self.session, **fields}
        return self.call(Api.HELLO, given)[0]

    def post(self, api: int, fields: object, bodies: Sequence[bytes] = (), version: int = 1) -> int:
        """Send a request; its correlation number."""
        self._correlation += 1
        header = msgpack.packb([int(api), version, self._correlation, fields])
        self.socket.send_multipart([header, *bodies])
        return self._correlation

    def send(self, *frames: bytes) -> None:
        """Send anything."""
        self.socket.send_multipart(frames)

    def receive(self, timeout_s: float = TIMEOUT_S) -> list[bytes]:
        """The frames of the next message; an empty list when none comes in time."""
        if not self.socket.poll(int(timeout_s * 1000)):
            return []
        frames = self.socket.recv_multipart()
        self.read_bytes += sum(map(len, frames[1:]))
        return frames

    def answer(
        self, correlation: int | None = None, timeout_s: float = TIMEOUT_S
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Fields and bodies of the answer to this request, or of the next one at all."""
        end = time.monotonic() + timeout_s
        while frames := self.receive(max(end - time.monotonic(), 0)):
            header = msgpack.unpackb(frames[0])
            if correlation is None or header[2] == correlation:
                return header[3], frames[1:]
        raise TimeoutError(f"no answer from {self.endpoint} within {timeout_s} s")

    def call(
        self,
        api: int,
        fields: object,
        bodies: Sequence[bytes] = (),
        *,
        version: int = 1,
        timeout_s: float = TIMEOUT_S,
    ) -> tuple[dict[str, Any], list[bytes]]:
        return self.answer(self.post(api, fields, bodies, version), timeout_s)

    def error(
        self, api: int, fields: object, bodies: Sequence[bytes] = (), *, version: int = 1
    ) -> dict[str, Any]:
        """The error that this request must be answered with, as a whole or in its one entry."""
        reply, _ = self.call(api, fields, bodies, version=version)
        return error_of(reply)

    def make_topic(self, name: str, partitions: int = 1, **config: object) -> bytes:
        """Create a topic unless it is there; its id."""
        fields = {"topic": name, "partitions": partitions, "config": config}
        reply, _ = self.call(Api.CREATE_TOPIC, fields)
        topic_id: bytes = reply["id"] if "id" in reply else reply["error"]["id"]
        return topic_id

    def produce(
        self, topic_id: bytes, batch: bytes, *, partition: int = 0, acks: int = -1
    ) -> dict[str, Any]:
        """Send one batch; the reply's fields."""
        fields = {"acks": acks, "batches": [[topic_id, partition]]}
        return self.call(Api.PRODUCE, fields, [batch])[0]

    def fetch(
        self,
        topic_id: bytes,
        offset: int,
        *,
        partition: int = 0,
        max_bytes: int = MIB,
        **fields: object,
    ) -> tuple[dict[str, Any], list[bytes]]:
        request = {
            "partitions": [[topic_id, partition, offset, max_bytes]],
            "max_bytes": max_bytes,
            "rx": self.read_bytes,
            **fields,
        }
        return self.call(Api.FETCH, request)

    def read_all(self, topic_id: bytes, partition: int = 0) -> list[bytes | None]:
        """Every value of a partition up to its committed end."""
        values: list[bytes | None] = []
        offset, seed = 0, log_seed(topic_id, partition)
        while True:
            reply, bodies = self.fetch(topic_id, offset, partition=partition)
            entry = reply["partitions"][0]
            assert isinstance(entry, list), entry
            for body in bodies:
                for batch in decode_batches(body, seed, "", partition):
                    assert batch.base_offset == offset
                    values += batch.values
                    offset = batch.next_offset
            if offset >= entry[1]:
                return values


def error_of(reply: Mapping[str, Any]) -> dict[str, Any]:
    """The error map of a reply, or of its first entry."""
    if "error" in reply:
        return dict(reply["error"])
    for value in reply.values():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            entry = value[0]
            return dict(entry.get("error", entry))
    raise AssertionError(f"no error in {reply}")


def batch_of(topic_id: bytes, *values: bytes | None, partition: int = 0, **extra: Any) -> bytes:
    """A batch as a well-behaved producer sends it."""
    seed = log_seed(topic_id, partition)
    return encode_batch(seed, list(values), timestamp_ms=1_700_000_000_000, **extra)


class Witness:
    """A well-behaved client whose acknowledged records must all stay."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._acknowledged: list[bytes | None] = []
        with RawClient(endpoint) as client:
            self.topic_id = client.make_topic(f"witness-{secrets.token_hex(4)}")

    def check(self) -> None:
        """Produce one more record and find all of them."""
        with RawClient(self._endpoint) as client:
            value = b"record %d" % len(self._acknowledged)
            reply = client.produce(self.topic_id, batch_of(self.topic_id, value))
            assert reply["results"][0][0] == len(self._acknowledged), reply
            self._acknowledged.append(value)
            assert client.read_all(self.topic_id) == self._acknowledged


def descriptors(broker: BrokerProcess) -> int:
    """How many files and connections it has open."""
    return len(os.listdir(f"/proc/{broker.pid}/fd"))  # noqa: PTH208 - links that vanish meanwhile


def quickest(action: Callable[[], object], tries: int = 3) -> float:
    """Seconds that it takes, when nothing else on the machine comes in between."""
    took = []
    for _ in range(tries):
        started = time.monotonic()
        action()
        took.append(time.monotonic() - started)
    return min(took)


def wait_until(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
