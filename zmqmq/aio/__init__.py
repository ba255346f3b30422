"""The asyncio client: the names of `zmqmq`, with `await` where something has to be waited for.

    import zmqmq.aio

    async with await zmqmq.aio.connect("127.0.0.1:5755") as mq:
        await mq.topics.create("orders", partitions=4, if_not_exists=True)
        async with mq.producer("orders") as producer:
            delivery = producer.send(b"hello", key=b"k1")
            print((await delivery).offset)
        async with mq.consumer("orders", stop_at_end=True) as consumer:
            async for record in consumer:
                print(record.partition, record.offset, record.key, record.value)

No thread is started: sockets and machines live on the loop that runs `connect`, and objects
belong to that loop. It is uvloop where the program uses uvloop.
"""

from __future__ import annotations

from zmqmq.client.aio_client import Client, Topics, connect
from zmqmq.client.aio_cluster import Cluster
from zmqmq.client.aio_consumer import Consumer
from zmqmq.client.aio_producer import Producer
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
from zmqmq.model.message import Record

__all__ = [
    "BrokerInfo",
    "Client",
    "Cluster",
    "ClusterStatus",
    "Consumer",
    "Delivery",
    "Difference",
    "GroupInfo",
    "Move",
    "PartitionCheck",
    "PartitionDescription",
    "Producer",
    "Progress",
    "Record",
    "RecordMetadata",
    "TopicDescription",
    "TopicInfo",
    "Topics",
    "connect",
]
