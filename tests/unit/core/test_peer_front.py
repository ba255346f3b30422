"""What other brokers send is not trusted: nothing of it ends this one."""

from __future__ import annotations

from random import Random

import msgpack

from tests.support.world import CLUSTER, World
from zmqmq.core.broker.events import BurstEnded, PeerAnswered, PeerAsked
from zmqmq.model.now import Now
from zmqmq.wire.peers import PEER_REQUESTS, PeerApi

VALUES = (None, 0, 1, -1, 2**63, 1.5, "x", b"", bytes(16), [], [[]], [[b"", 0]], {}, {1: 2})


def test_messages_of_other_brokers_may_be_anything() -> None:
    world = World()
    world.topic("t")
    rng = Random(1)
    for number in range(3_000):
        api = rng.choice([*PeerApi, 99])
        names = [*PEER_REQUESTS.get(PeerApi(api), {})] if api in [*PeerApi] else ["x"]
        fields = {name: rng.choice(VALUES) for name in names if rng.random() < 0.8}
        if rng.random() < 0.8:
            fields["cluster"] = CLUSTER
        if rng.random() < 0.5:
            fields |= {"broker": 2, "epoch": 2}
        header = msgpack.packb([int(api), 1, number, fields])
        frames = [rng.choice([header, header, header, header[:-1], b""])]
        event = rng.choice([PeerAsked(b"r", frames), PeerAnswered(2, frames)])
        now = Now(number * 10**6, number)
        world.broker.handle(now, event)
        world.broker.handle(now, BurstEnded())
