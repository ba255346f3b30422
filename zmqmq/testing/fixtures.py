"""pytest fixtures: a broker for each test that asks for one, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from zmqmq.client.sync import Client
    from zmqmq.testing.broker import Broker


@pytest.fixture
def zmqmq_broker(tmp_path: Path) -> Iterator[Broker]:
    """A running broker on the test's temporary folder."""
    from zmqmq.testing.broker import Broker

    with Broker(tmp_path / "zmqmq") as broker:
        yield broker


@pytest.fixture
def zmqmq_client(zmqmq_broker: Broker) -> Iterator[Client]:
    """A client of `zmqmq_broker`."""
    with zmqmq_broker.connect() as client:
        yield client
