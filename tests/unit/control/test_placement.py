"""Where new partitions go."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.control_world import KEYS
from tests.support.documents import TOPIC, broker, partition
from zmqmq.core.control.image import Image, KnownBroker, KnownPartition
from zmqmq.core.control.placement import candidates, default_replicas, place_replicas
from zmqmq.errors import Code, WireError
from zmqmq.model.topics import TopicConfig


def image(*brokers: KnownBroker, held: dict[int, int] | None = None) -> Image:
    """These brokers; each holds so many partitions alone."""
    made = Image(KEYS, TopicConfig())
    made.brokers = {known.broker_id: known for known in brokers}
    number = 0
    for broker_id, count in (held or {}).items():
        for _ in range(count):
            document = partition((broker_id,), min_isr=1)
            made.partitions[b"x" * 16, number] = KnownPartition(document, 1)
            made.held.setdefault(broker_id, {})[b"x" * 16, number] = None
            number += 1
    return made


def test_only_brokers_that_stay_and_take_new_ones() -> None:
    away = KnownBroker(4, flags=broker(4, 1).flags)
    found = image(broker(3, 1), broker(1, 1), broker(2, 1, stops=True), away,
                  broker(5, 1, cordoned=True))  # fmt: skip
    assert candidates(found) == [1, 3]
    with pytest.raises(WireError) as error:
        place_replicas(found, TOPIC, [0], 3)
    assert error.value.code is Code.INVALID_CONFIG


@pytest.mark.parametrize(("brokers", "replicas"), [(0, 1), (1, 1), (2, 2), (3, 3), (9, 3)])
def test_three_replicas_or_as_many_as_there_are_brokers(brokers: int, replicas: int) -> None:
    assert default_replicas(brokers) == replicas


@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_replicas_and_leaders_are_spread_evenly(count: int) -> None:
    found = image(*(broker(i, 1) for i in range(1, count + 1)))
    placed = place_replicas(found, TOPIC, range(60), min(3, count))
    held = Counter(b for replicas in placed for b in replicas)
    led = Counter(replicas[0] for replicas in placed)
    assert max(held.values()) - min(held.values()) <= 1
    assert max(led.values()) - min(led.values()) <= 2
    assert all(len(set(replicas)) == min(3, count) for replicas in placed)
    if count > 3:
        assert len({frozenset(replicas) for replicas in placed}) >= count


def test_the_same_again_is_the_same() -> None:
    brokers = [broker(i, 1) for i in range(1, 6)]
    one = place_replicas(image(*brokers), TOPIC, range(20), 3)
    assert place_replicas(image(*reversed(brokers)), TOPIC, range(20), 3) == one


def test_who_has_fewest_comes_first() -> None:
    found = image(*(broker(i, 1) for i in (1, 2, 3)), held={1: 5, 2: 1})
    assert {frozenset(r) for r in place_replicas(found, TOPIC, [0], 2)} == {frozenset({2, 3})}
    placed = place_replicas(found, TOPIC, range(12), 2)
    assert Counter(b for replicas in placed for b in replicas)[1] == 5


def test_a_partition_survives_the_loss_of_a_rack() -> None:
    racks = {1: "a", 2: "a", 3: "a", 4: "b", 5: "c", 6: "c"}
    found = image(*(broker(i, 1, rack=rack) for i, rack in racks.items()))
    for replicas in place_replicas(found, TOPIC, range(60), 3):
        assert len({racks[b] for b in replicas}) == 3
    two = image(*(broker(i, 1, rack=racks[i]) for i in (1, 2, 3, 4)))
    for replicas in place_replicas(two, TOPIC, range(20), 3):
        assert len({racks[b] for b in replicas}) == 2


def test_brokers_without_a_rack_stand_by_themselves() -> None:
    found = image(broker(1, 1, rack="a"), broker(2, 1, rack="a"), broker(3, 1), broker(4, 1))
    for replicas in place_replicas(found, TOPIC, range(20), 3):
        assert {3, 4} < set(replicas)


def test_topics_of_one_partition_do_not_all_meet_on_the_same_brokers() -> None:
    found = image(*(broker(i, 1) for i in range(1, 6)))
    firsts = {place_replicas(found, bytes([0, 0, 0, n]) + b"\0" * 12, [0], 1)[0] for n in range(5)}
    assert len(firsts) == 5
