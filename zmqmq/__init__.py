"""zmqmq: a durable message queue on ZeroMQ sockets.

    import zmqmq

    with zmqmq.connect("127.0.0.1:5755") as mq:
        mq.topics.create("orders", partitions=4, if_not_exists=True)
        with mq.producer("orders") as producer:
            producer.send(b"hello", key=b"k1")
        for record in mq.consumer("orders", stop_at_end=True):
            print(record.partition, record.offset, record.key, record.value)

`zmqmq.aio` has the same names with `await`. What is imported here is loaded when it is first
used, so that `import zmqmq` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zmqmq.batch.decode import RecordBatch
    from zmqmq.client.cluster_info import BrokerInfo, ClusterStatus, Progress
    from zmqmq.client.delivery import Delivery, RecordMetadata
    from zmqmq.client.describing import (
        GroupInfo,
        PartitionDescription,
        TopicDescription,
        TopicInfo,
    )
    from zmqmq.client.machines.comparing import Difference, PartitionCheck
    from zmqmq.client.machines.planning import Move
    from zmqmq.client.sync import Client, Topics, connect
    from zmqmq.client.sync_cluster import Cluster
    from zmqmq.client.sync_consumer import Consumer
    from zmqmq.client.sync_producer import Producer
    from zmqmq.model.message import Headers, Record

__version__ = "0.1.0"

_HOME = {
    "BrokerInfo": "zmqmq.client.cluster_info",
    "Client": "zmqmq.client.sync",
    "Cluster": "zmqmq.client.sync_cluster",
    "ClusterStatus": "zmqmq.client.cluster_info",
    "Consumer": "zmqmq.client.sync_consumer",
    "Delivery": "zmqmq.client.delivery",
    "Difference": "zmqmq.client.machines.comparing",
    "GroupInfo": "zmqmq.client.describing",
    "Headers": "zmqmq.model.message",
    "Move": "zmqmq.client.machines.planning",
    "PartitionCheck": "zmqmq.client.machines.comparing",
    "PartitionDescription": "zmqmq.client.describing",
    "Producer": "zmqmq.client.sync_producer",
    "Progress": "zmqmq.client.cluster_info",
    "Record": "zmqmq.model.message",
    "RecordBatch": "zmqmq.batch.decode",
    "RecordMetadata": "zmqmq.client.delivery",
    "TopicDescription": "zmqmq.client.describing",
    "TopicInfo": "zmqmq.client.describing",
    "Topics": "zmqmq.client.sync",
    "connect": "zmqmq.client.sync",
}

__all__ = [
    "BrokerInfo",
    "Client",
    "Cluster",
    "ClusterStatus",
    "Consumer",
    "Delivery",
    "Difference",
    "GroupInfo",
    "Headers",
    "Move",
    "PartitionCheck",
    "PartitionDescription",
    "Producer",
    "Progress",
    "Record",
    "RecordBatch",
    "RecordMetadata",
    "TopicDescription",
    "TopicInfo",
    "Topics",
    "connect",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'zmqmq' has no attribute {name!r}")
    found = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
