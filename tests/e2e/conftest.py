"""What several modules of this folder begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.command_line import start_broker, stop


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a broker for all tests of one module."""
    process, address = start_broker(tmp_path_factory.mktemp("broker") / "data")
    yield address
    assert stop(process) == 0
