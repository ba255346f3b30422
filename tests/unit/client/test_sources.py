"""Where a consumer reads: at the leader, near by, or where it can (F11)."""

from __future__ import annotations

import pytest

from tests.unit.client.scripted import START_MS, Fetching, Sent, World, answer_fetch
from zmqmq.errors import Code, ConfigError, ProtocolError, error_to_wire, refusal
from zmqmq.wire.apis import Api


def reading(**options: object) -> Fetching:
    """A consumer of `t`, which broker 1 leads, and 2 and 3 follow; all can be reached."""
    world = World(copies=(1, 2, 3))
    consumer = Fetching(world, **options)
    world.greet()
    world.tell_metadata()
    for broker in (2, 3):
        world.core.network.to_broker(broker)
    world.step()
    world.greet_all()
    return consumer


def send_elsewhere(world: World, broker: object, sent: Sent | None = None) -> None:
    """Answer a fetch: read from that broker."""
    world.answer(sent or world.take(Api.FETCH), {"partitions": [[0, 10, 0, broker]]})
    world.advance(0)


def asked(world: World) -> tuple[int, bool, object]:
    """Whom the next fetch goes to, whether a copy will do, and the rack that it tells."""
    sent = world.take(Api.FETCH)
    return world.broker_of(sent), sent.fields.get("copies", False), sent.fields.get("rack")


def test_without_a_rack_nothing_is_said_of_it() -> None:
    world = reading().world
    sent = world.take(Api.FETCH)

    assert world.broker_of(sent) == 1
    assert not {"rack", "copies"} & set(sent.fields)


def test_the_leader_names_a_broker_and_is_asked_again_after_a_minute() -> None:
    world = reading(rack="r").world
    sent = world.take(Api.FETCH)
    assert (world.broker_of(sent), sent.fields["rack"]) == (1, "r")
    send_elsewhere(world, 2, sent)

    sent = world.take(Api.FETCH)
    assert (world.broker_of(sent), sent.fields["copies"]) == (2, True)
    world.now += 61_000_000_000
    answer_fetch(world, sent, {})
    world.greet_all()
    assert asked(world) == (1, False, "r")


def test_kafka_14379_another_leader_epoch_ends_it() -> None:
    world = reading(rack="r").world
    send_elsewhere(world, 2)
    sent = world.take(Api.FETCH)
    world.epoch = 2
    world.answer(sent, {"partitions": [error_to_wire(refusal(Code.FENCED_LEADER_EPOCH, "no"))]})
    for _ in range(20):
        world.advance(50)
        if any(s.api is Api.METADATA for s in world.sent):
            world.tell_metadata()
    assert asked(world)[0] == 1


@pytest.mark.parametrize("code", [Code.NOT_LEADER, Code.STORAGE_DAMAGED, Code.THROTTLED])
def test_a_broker_nearby_that_does_not_help_is_left_and_not_found_again_at_once(
    code: Code,
) -> None:
    """Else leader and copy would send the consumer to and fro for ever."""
    consumer = reading(rack="r")
    world = consumer.world
    send_elsewhere(world, 2)
    world.answer(world.take(Api.FETCH), {"partitions": [error_to_wire(refusal(code, "scripted"))]})
    for _ in range(20):
        world.advance(50)
        if any(s.api is Api.METADATA for s in world.sent):
            world.tell_metadata()

    sent = world.take(Api.FETCH)
    assert (world.broker_of(sent), sent.fields.get("rack")) == (1, None)
    assert not consumer.machine.errors
    world.now += 6_000_000_000
    answer_fetch(world, sent, {})
    assert asked(world) == (1, False, "r")


def test_a_broker_nearby_whose_connection_is_lost_is_left_at_once() -> None:
    world = reading(rack="r").world
    send_elsewhere(world, 2)
    world.take(Api.FETCH)
    world.lose(world.socket_to(2))
    world.advance(200)

    assert asked(world) == (1, False, None)


@pytest.mark.parametrize("broker", ["b", None, -1, 77, 1.5])
def test_a_broker_that_is_none_is_not_waited_for(broker: object) -> None:
    world = reading(rack="r").world
    send_elsewhere(world, broker)
    world.advance(300)
    while any(s.api is Api.METADATA for s in world.sent):
        world.tell_metadata()
    world.advance(300)

    assert asked(world)[0] == 1


def test_while_the_leader_cannot_be_reached_a_copy_is_read() -> None:
    world = reading().world
    world.take(Api.FETCH)
    world.lose(world.socket_to(1))
    world.advance(200)

    broker, takes_copies, _ = asked(world)
    assert broker in (2, 3)
    assert takes_copies


def test_while_nobody_leads_a_copy_is_read_and_then_the_leader() -> None:
    world = reading().world
    sent = world.take(Api.FETCH)
    world.leader, world.epoch = None, 2
    world.answer(sent, {"partitions": [error_to_wire(refusal(Code.NOT_LEADER, "no more"))]})
    for _ in range(20):
        world.advance(50)
        if any(s.api is Api.METADATA for s in world.sent):
            world.tell_metadata()
    sent = world.take(Api.FETCH)
    assert sent.fields["copies"]

    world.leader, world.epoch = 3, 3
    for _ in range(4):
        world.advance(500)
        for ping in world.take_all(Api.PING):
            world.answer(ping, {"time_ms": START_MS})
    while any(s.api is Api.METADATA for s in world.sent):
        world.tell_metadata()
    answer_fetch(world, sent, {})
    assert asked(world)[0] == 3


def test_a_copy_behind_a_slow_link_is_not_left_in_the_middle_of_its_answer() -> None:
    """PING is answered behind it. That others lead proves nothing: they did all the while."""
    world = reading(rack="r").world
    send_elsewhere(world, 2)
    sent = world.take(Api.FETCH)
    assert world.broker_of(sent) == 2
    for _ in range(6):
        world.advance(1_000)
        world.greet_all()
        while any(s.api is Api.METADATA for s in world.sent):
            world.tell_metadata()
    assert sent.socket in world.open


@pytest.mark.parametrize("rack", ["", "x" * 201, 7])
def test_a_rack_has_a_name(rack: object) -> None:
    with pytest.raises(ConfigError, match="rack"):
        Fetching(World(), rack=rack)


def tell_all(world: World, rounds: int = 20) -> None:
    for _ in range(rounds):
        world.advance(50)
        while any(s.api is Api.METADATA for s in world.sent):
            world.tell_metadata()


def test_while_nobody_leads_every_copy_is_tried() -> None:
    world = reading().world
    sent = world.take(Api.FETCH)
    world.leader, world.epoch = None, 2
    asked_for = set()
    for _ in range(12):
        refused = error_to_wire(refusal(Code.NOT_LEADER, "scripted"))
        world.answer(sent, {"partitions": [refused]})
        while not any(s.api is Api.FETCH for s in world.sent):
            tell_all(world, 1)
            for ping in world.take_all(Api.PING):
                world.answer(ping, {"time_ms": 1})
        sent = world.take(Api.FETCH)
        asked_for.add(world.broker_of(sent))
    assert asked_for == {1, 2, 3}


def test_until_the_broker_nearby_is_connected_the_leader_is_read() -> None:
    world = World(copies=(1, 2, 3))
    Fetching(world, rack="r")
    world.greet()
    world.tell_metadata()
    send_elsewhere(world, 2)
    assert asked(world) == (1, False, None)


def test_a_misspelt_topic_sends_nobody_away_from_the_leader() -> None:
    world = reading().world
    Fetching(world, "mispelt")
    tell_all(world)
    answer_fetch(world, world.take(Api.FETCH), {})
    assert asked(world)[:2] == (1, False)


def test_a_topic_that_is_deleted_meanwhile_ends_nothing() -> None:
    world = reading(rack="r").world
    sent = world.take(Api.FETCH)
    world.core.routing.forget("t")
    send_elsewhere(world, 2, sent)
    world.advance(100)


NONSENSE = [
    {"brokers": [[]], "topics": []},
    {"brokers": [[1, 5, None]], "topics": []},
    {"brokers": [[[1], "a:1", None]], "topics": []},
    {"brokers": [], "topics": [{"name": "t", "id": bytes(16), "partitions": [[]]}]},
    {"brokers": [], "topics": [{"name": "t", "id": bytes(16), "partitions": [["x", 1, []]]}]},
    {"brokers": [], "topics": [{"name": "t", "id": bytes(16), "partitions": [[1, "x", []]]}]},
    {"brokers": [], "topics": [{"name": [], "id": bytes(16), "partitions": [[1, 1, [2]]]}]},
    {"brokers": [], "topics": [{"name": "t", "id": -1, "partitions": [[1, 1, [2, "x"]]]}]},
    {"brokers": [], "topics": [{"name": "t", "error": 5}]},
    {"brokers": [], "topics": [[]]},
]


@pytest.mark.parametrize("fields", NONSENSE)
def test_metadata_that_is_nonsense_is_asked_for_again(fields: dict[str, object]) -> None:
    world = World(copies=(1, 2, 3))
    Fetching(world)
    world.greet()
    world.answer(world.take(Api.METADATA), fields)
    tell_all(world)

    assert world.take(Api.FETCH)


@pytest.mark.parametrize("entry", [[0, "x", 0], [0, None, 0], [0, 2**63, 0], 5, None])
def test_an_entry_that_is_nonsense_is_told(entry: object) -> None:
    consumer = reading()
    world = consumer.world
    world.answer(world.take(Api.FETCH), {"partitions": [entry]})
    tell_all(world)

    (error,) = consumer.machine.errors
    assert isinstance(error, ProtocolError)
