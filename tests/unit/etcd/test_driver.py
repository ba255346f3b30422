"""The driver as a broker finds it: by the address in its settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from zmqmq.config.broker import BrokerConfig, BrokerOptions
from zmqmq.errors import ConfigError
from zmqmq.runtime.etcd.store import EtcdStore
from zmqmq.runtime.main import _make_store

WITHOUT_GRPC = """
import sys
sys.modules["grpc"] = None
from zmqmq.config.broker import BrokerConfig, BrokerOptions
from zmqmq.runtime.main import _make_store
options = BrokerOptions(data_dir="/none", metadata="etcd3://one:2379/x")
_make_store(BrokerConfig(broker=options), None)
"""


def test_the_address_chooses_the_driver(tmp_path: Path) -> None:
    def opened(metadata: str) -> object:
        options = BrokerOptions(data_dir=str(tmp_path), metadata=metadata)
        return _make_store(BrokerConfig(broker=options), tmp_path)

    assert isinstance(opened("etcd3://one:2379/x"), EtcdStore)
    with pytest.raises(ConfigError, match="'etcd2'; installed are etcd3, sqlite"):
        opened("etcd2://one:2379/x")


def test_without_the_extra_it_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_GRPC], capture_output=True, text=True, check=False
    )

    assert done.returncode != 0
    assert "pip install 'zmqmq[etcd3]'" in done.stderr
