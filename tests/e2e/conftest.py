"""What several modules of this folder begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.broker_cluster import Running, running_cluster
from tests.e2e.cluster_commands import RACKS
from tests.e2e.command_line import CLI, start_broker, stop, until_it_holds


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a broker for all tests of one module."""
    process, address = start_broker(tmp_path_factory.mktemp("broker") / "data")
    yield address
    assert stop(process) == 0


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
