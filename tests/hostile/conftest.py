"""One broker for many tests; after each of them it must serve, and have lost nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.raw import BrokerProcess, RawClient, Witness


class _Shared:
    """The broker of this test process; another one is started when a test has killed it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self.broker: BrokerProcess | None = None
        self.witness: Witness

    def get(self) -> BrokerProcess:
        if self.broker is None or not self.broker.is_alive:
            self._count += 1
            self.broker = BrokerProcess(self._folder / str(self._count)).__enter__()
            self.witness = Witness(self.broker.endpoint)
            self.witness.check()
        return self.broker


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Shared]:
    shared = _Shared(tmp_path_factory.mktemp("hostile"))
    yield shared
    if shared.broker is not None:
        shared.broker.stop()


@pytest.fixture
def broker(shared: _Shared) -> Iterator[BrokerProcess]:
    """A broker that is checked afterwards."""
    broker = shared.get()
    yield broker
    assert broker.is_alive, f"the broker has died:\n{broker.talk[-3000:]}"
    shared.witness.check()


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[RawClient]:
    """A client that has said HELLO."""
    with RawClient(broker.endpoint) as client:
        yield client
