"""What the load goes to: a broker that runs, and a topic made for one measurement."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import zmqmq
from zmqmq.bench.processes import is_local, listener_pid
from zmqmq.client.servers import parse_servers
from zmqmq.errors import ZmqmqError
from zmqmq.model.limits import BATCH_BYTES_MAX

BATCH_BYTES: Final = BATCH_BYTES_MAX
"""Room for what one call sends; the number of records decides where a batch ends."""
VALUES: Final = 1000
"""Different values, sent again and again: what they hold does not matter, only that they are not
one object whose bytes stay in the cache."""


class BenchError(ZmqmqError):
    """What came out is not what went in, so no figure of it would mean anything."""


@dataclass(frozen=True, slots=True)
class Target:
    """A broker under test. A client of its own for each measurement."""

    servers: str | None = None
    """As `zmqmq.connect` takes it."""
    pid: int | None = None
    """The broker's process, where it is on this machine."""

    @classmethod
    def find(cls, servers: str | None, pid: int | None = None) -> Target:
        """The broker at an address, with its process if it is one of this machine."""
        if pid is None:
            host, _, port = parse_servers(servers, os.environ)[0].rpartition(":")
            pid = listener_pid(int(port)) if is_local(host) else None
        return cls(servers, pid)

    def connect(self) -> zmqmq.Client:
        """A client, connected."""
        return zmqmq.connect(self.servers, client_name="zmqmq-bench")

    def counters(self, client: zmqmq.Client) -> dict[str, Any]:
        """What the broker counts since its start (DESCRIBE, kind broker)."""
        return client.describe("broker")[0]


@contextlib.contextmanager
def fresh_topic(client: zmqmq.Client, partitions: int = 1) -> Iterator[str]:
    """A topic that nobody else uses, deleted when the measurement is over."""
    name = f"bench-{secrets.token_hex(6)}"
    client.topics.create(name, partitions=partitions)
    try:
        yield name
    finally:
        client.topics.delete(name)


def random_values(size: int, count: int = VALUES) -> list[bytes]:
    """Values that do not compress."""
    block = os.urandom(size * count)
    return [block[at : at + size] for at in range(0, size * count, size)] if size else [b""] * count


def check_stored(client: zmqmq.Client, topic: str, count: int) -> None:
    """Raise BenchError unless the topic holds exactly this many records."""
    starts, ends = client.offsets(topic, "start"), client.offsets(topic, "end")
    stored = sum(ends.values()) - sum(starts.values())
    if stored != count:
        raise BenchError(f"{count} records were sent to {topic} and {stored} are stored")
