"""What several modules of this folder begin with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

import zmqmq
from tests.e2e.broker_cluster import Running, running_cluster
from tests.e2e.client_broker import Broker
from tests.e2e.cluster_commands import RACKS
from tests.e2e.command_line import CLI, start_broker, stop, until_it_holds

_numbers = count()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a broker for all tests of one module."""
    process, address = start_broker(tmp_path_factory.mktemp("broker") / "data")
    yield address
    assert stop(process) == 0


@pytest.fixture(scope="module")
def mq(servers: str) -> Iterator[zmqmq.Client]:
    """A client of it."""
    with zmqmq.connect(servers, client_name="e2e") as client:
        yield client


@pytest.fixture
def topic(mq: zmqmq.Client) -> str:
    """A new topic of two partitions."""
    name = f"topic-{next(_numbers)}"
    mq.topics.create(name, partitions=2)
    return name


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """One that the test may kill."""
    broker = Broker(tmp_path / "data")
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Four brokers for all tests of this module; each test leaves them up, and none drained."""
    with (
        pytest.MonkeyPatch.context() as patch,
        running_cluster(tmp_path_factory.mktemp("cluster"), RACKS) as running,
    ):
        patch.setenv("ZMQMQ_BROKER__STORAGE__RETENTION_CHECK_MS", "2s")
        running.start(*RACKS)
        yield running


@pytest.fixture
def cli(cluster: Running) -> Iterator[CLI]:
    """The command line; afterwards no topic of the test is left."""
    found = CLI(cluster.servers)
    yield found

    def is_empty() -> None:
        for topic in found.json("topics", "list")["topics"]:
            found("topics", "delete", topic["name"], "-y")
        assert found.json("topics", "list")["topics"] == []

    until_it_holds(is_empty)
