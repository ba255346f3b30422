"""A real broker process and a client in plain pyzmq and msgpack, for what only a process can show.

The client remembers what was acknowledged; `verify` compares a topic with that.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgpack
import pytest
import zmq

from zmqmq.batch.decode import decode_batches
from zmqmq.batch.encode import encode_batch
from zmqmq.batch.layout import log_seed
from zmqmq.errors import Code
from zmqmq.wire.apis import Api

NO_SKIP = os.environ.get("ZMQMQ_TEST_NO_SKIP") == "1"
TOPIC = "t"
PYTHON = sys.executable


def missing(what: str) -> None:
    """Skip with the reason, or fail where nothing may be skipped."""
    if NO_SKIP:
        pytest.fail(f"{what}, and ZMQMQ_TEST_NO_SKIP=1")
    pytest.skip(what)


class Refused(Exception):  # noqa: N818 - an answer
    """The broker said no."""

    def __init__(self, error: dict[Any, Any]) -> None:
        super().__init__(str(error))
        self.code = error["code"]


class Gone(Exception):  # noqa: N818 - the broker died
    """No answer will come."""


class BrokerProcess:
    """`zmqmq broker` on a folder, perhaps under strace; killed when the block ends."""

    def __init__(
        self,
        folder: Path,
        *,
        strace: Sequence[str] = (),
        config: str = "",
        log: Path | None = None,
    ) -> None:
        self.folder = folder
        self._log = log or folder.with_name(folder.name + ".stderr")
        command = [PYTHON, "-m", "zmqmq_cli.main", "broker", "--data-dir", str(folder)]
        command += ["--bind", "127.0.0.1:0"]
        if config:
            path = folder.with_name(folder.name + ".toml")
            path.write_text(config)
            command += ["--config", str(path)]
        if strace:
            command = ["strace", "-f", "-qqq", *strace, *command]
        self._errors = self._log.open("ab")
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
        )
        self.endpoint = ""

    def wait_ready(self) -> bool:
        """Whether it came so far."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        if not line.startswith("ready: "):
            return False
        self.endpoint = line.split()[1].rstrip(",")
        return True

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    @property
    def errors(self) -> str:
        return self._log.read_text()

    def stop(self) -> int:
        """A clean stop."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """Of the whole session: strace and what it traces."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._errors.close()


class Client:
    """One session."""

    def __init__(self, broker: BrokerProcess, *, timeout_s: float = 20.0) -> None:
        self._broker = broker
        self._timeout_s = timeout_s
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.connect(f"tcp://{broker.endpoint}")
        self._correlation = self._received = 0
        self._replies: dict[int, tuple[dict[Any, Any], list[bytes]]] = {}
        fields = {"client": "test", "min": 1, "max": 1, "session": secrets.token_bytes(16)}
        self.ask(Api.HELLO, fields)

    def close(self) -> None:
        self._context.destroy(linger=0)

    def send(self, api: Api, fields: dict[str, Any], bodies: Sequence[bytes] = ()) -> int:
        self._correlation += 1
        fields = {**fields, "rx": self._received}
        header = msgpack.packb([int(api), 1, self._correlation, fields])
        self._socket.send_multipart([header, *bodies])
        return self._correlation

    def receive(self, correlation: int) -> tuple[dict[Any, Any], list[bytes]]:
        """The reply. Raises Gone when the broker is dead, Refused when it said no."""
        end = time.monotonic() + self._timeout_s
        while correlation not in self._replies:
            if self._socket.poll(20):
                self._take()
            elif not self._broker.is_alive and not self._socket.poll(50):
                raise Gone
            elif time.monotonic() > end:
                raise Gone("no answer in time")
        fields, bodies = self._replies.pop(correlation)
        if "error" in fields:
            raise Refused(fields["error"])
        return fields, bodies

    def _take(self) -> None:
        header, *bodies = self._socket.recv_multipart()
        self._received += sum(map(len, bodies))
        _, _, number, fields, *_ = msgpack.unpackb(header, strict_map_key=False)
        self._replies[number] = (fields, bodies)

    def ask(
        self, api: Api, fields: dict[str, Any], bodies: Sequence[bytes] = ()
    ) -> tuple[dict[Any, Any], list[bytes]]:
        return self.receive(self.send(api, fields, bodies))

    def create_topic(self, name: str = TOPIC, **config: int | str) -> bytes:
        fields = {"topic": name, "partitions": 1, "replicas": 1, "config": config}
        return bytes(self.ask(Api.CREATE_TOPIC, fields)[0]["id"])

    def topic(self, name: str = TOPIC, **config: int | str) -> bytes:
        """The id of a topic that is open, and was made if it was missing."""
        end = time.monotonic() + self._timeout_s
        while time.monotonic() < end:
            (topic,) = self.ask(Api.METADATA, {"topics": [name]})[0]["topics"]
            if "error" in topic:
                with contextlib.suppress(Refused):  # another life was about to make it
                    self.create_topic(name, **config)
            else:
                where = {"partitions": [[topic["id"], 0, "start"]]}
                (row,) = self.ask(Api.LIST_OFFSETS, where)[0]["offsets"]
                if not (isinstance(row, dict) and row["code"] == Code.NOT_LEADER):
                    return bytes(topic["id"])
            time.sleep(0.02)
        raise Gone("the topic does not become ready")

    def read_all(self, topic_id: bytes) -> list[tuple[int, bytes]]:
        """Offset and value of every record, checked as a client would check them."""
        spans, _ = self.ask(
            Api.LIST_OFFSETS, {"partitions": [[topic_id, 0, "start"], [topic_id, 0, "end"]]}
        )
        for row in spans["offsets"]:
            if isinstance(row, dict):
                raise Refused(row)
        (offset, _), (end, _) = spans["offsets"]
        found: list[tuple[int, bytes]] = []
        while offset < end:
            fields, bodies = self.ask(
                Api.FETCH, {"partitions": [[topic_id, 0, offset, 1 << 20]], "max_wait_ms": 0}
            )
            (row,) = fields["partitions"]
            if isinstance(row, dict):
                raise Refused(row)
            assert row[0], f"nothing at {offset} of {end}"
            for batch in decode_batches(bodies[0], log_seed(topic_id, 0), "", 0):
                assert batch.base_offset == offset, "a gap, or something twice"
                found += zip(batch.offsets, [bytes(v or b"") for v in batch.values], strict=True)
                offset = batch.next_offset
        return found


@dataclass
class Said:
    """What was sent and what the broker acknowledged, over all its lives."""

    topic_id: bytes = b""
    producer: tuple[int, int] | None = None
    values: list[bytes] = field(default_factory=list)
    """By sequence number: every value that was sent."""
    acknowledged: dict[int, int] = field(default_factory=dict)
    """Sequence number to offset."""


def produce(
    client: Client, said: Said, count: int, *, window: int = 4, size: int = 40, batch: int = 3
) -> None:
    """Send `count` batches, `window` in flight, what is not acknowledged first. Raises Gone."""
    if said.producer is None:
        fields, _ = client.ask(Api.INIT_PRODUCER, {})
        said.producer = (fields["producer_id"], fields["producer_epoch"])
    flying: list[tuple[int, int]] = []
    # Sequence numbers go on where the acknowledged ones end: a batch that is sent again must be
    # recognised.
    start = len(said.acknowledged)
    for sequence in range(start, start + count * batch, batch):
        while len(said.values) < sequence + batch:
            number = len(said.values)
            said.values.append(b"%d " % number + bytes(number % size))
        body = encode_batch(
            log_seed(said.topic_id, 0),
            list(said.values[sequence : sequence + batch]),
            timestamp_ms=1,
            producer_id=said.producer[0],
            producer_epoch=said.producer[1],
            base_sequence=sequence,
        )
        fields = {"acks": -1, "batches": [[said.topic_id, 0]]}
        flying.append((client.send(Api.PRODUCE, fields, [body]), sequence))
        if len(flying) >= window:
            _settle(client, said, flying.pop(0), batch)
    for one in flying:
        _settle(client, said, one, batch)


def _settle(client: Client, said: Said, one: tuple[int, int], batch: int) -> None:
    correlation, sequence = one
    (result,) = client.receive(correlation)[0]["results"]
    if isinstance(result, dict):
        raise Refused(result)
    for number in range(batch):
        said.acknowledged[sequence + number] = result[0] + number


def verify(client: Client, said: Said) -> int:
    """Every acknowledged record once, in order; nothing that was not sent. How many there are."""
    found = client.read_all(said.topic_id)
    assert [value for _, value in found] == said.values[: len(found)], "not what was sent"
    assert [offset for offset, _ in found] == list(range(len(found)))
    for sequence, offset in said.acknowledged.items():
        assert offset == sequence, "a sequence number at another offset"
        assert offset < len(found), f"{offset} was acknowledged, and only {len(found)} are there"
    return len(found)


@contextlib.contextmanager
def connected(broker: BrokerProcess, *, timeout_s: float = 20.0) -> Iterator[Client]:
    """A client of a broker that is up."""
    client = Client(broker, timeout_s=timeout_s)
    try:
        yield client
    finally:
        client.close()
