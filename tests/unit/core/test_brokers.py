"""DESCRIBE of brokers, and CORDON, at one broker."""

from __future__ import annotations

from dataclasses import replace

from tests.support.world import KEYS, World
from zmqmq.core.broker.events import CommitMetadata
from zmqmq.core.meta.store import Put
from zmqmq.core.meta.values import BrokerDocument
from zmqmq.wire.apis import Api


def cordon(world: World, broker: int, *, cordoned: bool = True) -> str | None:
    answer = world.client().ask(Api.CORDON, {"broker": broker, "cordoned": cordoned})
    assert answer.fields is not None or answer.error is not None, "not answered"
    return answer.error


def test_a_broker_is_told_with_what_it_has() -> None:
    world = World()
    world.topic("t", 2)
    (broker,) = world.client().describe("brokers")

    count = len(world.broker.image.partitions)
    assert (broker["name"], broker["broker"], broker["state"]) == ("1", 1, "up")
    assert (broker["controller"], broker["cordoned"]) == (True, False)
    assert (broker["replicas"], broker["leaders"], broker["preferred"]) == (count, count, count)
    assert broker["broker_epoch"] == world.broker.identity.epoch
    (own,) = world.client().describe("broker")
    assert own["replicas"] == count


def test_a_cordoned_broker_gets_nothing_until_it_is_not() -> None:
    world = World()
    assert cordon(world, 1) is None
    assert world.client().describe("brokers")[0]["cordoned"] is True

    refused = world.client().ask(Api.CREATE_TOPIC, {"topic": "t"})
    assert refused.error == "INVALID_CONFIG"
    assert cordon(world, 1) is None, "once more changes nothing"
    assert cordon(world, 1, cordoned=False) is None
    assert world.client().ask(Api.CREATE_TOPIC, {"topic": "t"}).error is None


def test_other_flags_of_the_broker_stay() -> None:
    world = World()
    flags = BrokerDocument(broker_epoch=7, shutting_down=True, cordoned=False, extra={"x": 1})
    world.change_store(Put(KEYS.broker(1), flags.encode()))

    assert cordon(world, 1) is None
    assert world.broker.image.brokers[1].flags == replace(flags, cordoned=True)


def test_a_broker_that_nobody_knows_is_refused() -> None:
    world = World()
    answer = world.client().ask(Api.CORDON, {"broker": 9, "cordoned": True})

    assert (answer.error, answer.detail) == (
        "UNKNOWN_BROKER",
        "there is no broker 9; there are 1",
    )


def test_one_that_is_down_is_there_as_long_as_it_is_cordoned() -> None:
    world = World()
    flags = BrokerDocument(broker_epoch=7, shutting_down=True, cordoned=True)
    world.change_store(Put(KEYS.broker(5), flags.encode()))
    down = world.client().describe("brokers")[1]

    assert (down["broker"], down["state"], down["cordoned"]) == (5, "down", True)
    assert (down["address"], down["broker_epoch"]) == (None, None)
    assert cordon(world, 5, cordoned=False) is None
    assert [b["broker"] for b in world.client().describe("brokers")] == [1]


def test_whoever_changes_it_at_the_same_time_is_not_undone() -> None:
    world = World()
    world.hold(CommitMetadata)
    answer = world.client().ask(Api.CORDON, {"broker": 1, "cordoned": True})
    assert answer.fields is None
    flags = BrokerDocument(broker_epoch=7, shutting_down=True, cordoned=False)
    world.change_store(Put(KEYS.broker(1), flags.encode()))
    world.answer_commit()

    assert answer.error == "CONFLICT"
    assert world.broker.image.brokers[1].flags == flags
