"""A broker of a cluster that is stopped gives back what it holds in etcd."""

from __future__ import annotations

from pathlib import Path

from tests.support.etcd_process import etcd_cluster
from zmqmq.testing import Broker


def test_a_broker_that_is_stopped_gives_up_its_registration(tmp_path: Path) -> None:
    """Else its next start, and whoever waits for its end, would wait until the lease runs out."""
    with etcd_cluster(tmp_path) as etcd:
        settings = {
            "broker.metadata": f"etcd3://{etcd.endpoints}/test",
            "broker.session_ms": "60000",
            "broker.bind_peers": "127.0.0.1:0",
        }
        with Broker(tmp_path / "data", settings) as broker:
            assert "live" in etcd.ctl("get", "--prefix", "--keys-only", "")
            broker.stop()
            assert "live" not in etcd.ctl("get", "--prefix", "--keys-only", "")
