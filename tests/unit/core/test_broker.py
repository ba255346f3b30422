"""The way of a request through the broker: frames, header, session, what any request may carry."""

from __future__ import annotations

import msgpack
import pytest

from tests.support.world import CLUSTER, World
from zmqmq.core.broker.events import FlushFiles, Measured
from zmqmq.core.broker.options import ServingOptions
from zmqmq.model.limits import FRAMES_MAX, HEADER_BYTES_MAX, REQUEST_BYTES_MAX
from zmqmq.wire.apis import Api
from zmqmq.wire.frame import decode_reply_header, encode_header

MINUTE = 60_000


def answered(world: World, *frames: bytes, route: bytes = b"stranger") -> list[str]:
    """The names of the errors that these frames are answered with."""
    before = len(world.sent)
    world.receive(route, list(frames))
    replies = [decode_reply_header(send.frames[-1]) for send in world.sent[before:]]
    return [fields["error"]["name"] for _, _, _, fields in replies]


def test_without_hello_every_request_is_answered_need_hello() -> None:
    world = World()

    for api in (Api.PING, Api.FETCH, Api.METADATA):
        assert answered(world, encode_header(api, 1, {})) == ["NEED_HELLO"]


def test_hello_tells_who_answers_and_what_the_limits_are() -> None:
    world = World()
    fields = world.client().hello().fields

    assert fields is not None
    assert (fields["version"], fields["cluster"]) == (1, CLUSTER)
    assert fields["broker_epoch"] == world.epoch
    assert (fields["time_ms"], fields["lease_ms"]) == (world.ms, MINUTE)
    assert fields["limits"]["frames"] == FRAMES_MAX


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"min": 2, "max": 3}, "UNSUPPORTED_VERSION"),
        ({"min": 0, "max": 0}, "UNSUPPORTED_VERSION"),
        ({"cluster": bytes(16)}, "WRONG_CLUSTER"),
        ({"cluster": CLUSTER}, None),
        ({"min": 0, "max": 9}, None),
        ({"session": b"short"}, "MALFORMED"),
    ],
)
def test_hello_is_refused_where_the_two_do_not_fit(
    fields: dict[str, object], error: str | None
) -> None:
    client = World().client()

    assert client.hello(**fields).error == error


@pytest.mark.parametrize(
    ("frames", "error"),
    [
        ([], "TOO_LARGE"),
        ([b"\xc1"], "MALFORMED"),
        ([b"x" * (HEADER_BYTES_MAX + 1)], "MALFORMED"),
        ([msgpack.packb([2, 1, 1])], "MALFORMED"),
        ([msgpack.packb([2, 1, -1, {}])], "MALFORMED"),
        ([encode_header(2, 1, {}, version=9)], "UNSUPPORTED_VERSION"),
        ([encode_header(99, 1, {})], "UNKNOWN_API"),
        ([encode_header(Api.HEAD, 1, {})], "UNKNOWN_API"),
        ([encode_header(Api.PING, 1, {}), b"body"], "MALFORMED"),
        ([b"x"] * (FRAMES_MAX + 1), "TOO_LARGE"),
        ([encode_header(Api.PRODUCE, 1, {}), bytes(REQUEST_BYTES_MAX)], "TOO_LARGE"),
    ],
)
def test_what_is_no_request_is_answered_with_its_error(frames: list[bytes], error: str) -> None:
    assert answered(World(), *frames) == [error]


def test_a_req_socket_is_answered_in_its_envelope() -> None:
    world = World()
    world.receive(b"req", [b"", encode_header(Api.PING, 1, {})])
    frames = world.sent[-1].frames

    assert frames[0] == b""
    error = decode_reply_header(frames[1])[3]["error"]
    assert error["name"] == "MALFORMED"
    assert "DEALER" in error["detail"]


def test_an_answer_carries_the_correlation_and_api_of_its_request() -> None:
    world = World()
    client = world.client()
    world.receive(client.route, [encode_header(Api.PING, 77, {})])

    assert decode_reply_header(world.sent[-1].frames[0])[:3] == (Api.PING, 1, 77)


def test_a_request_from_the_past_is_not_carried_out() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()

    assert client.ping(expires_ms=world.ms).error is None
    assert client.ping(expires_ms=world.ms - 1).error == "DEADLINE_PASSED"
    late = client.produce(t, b"a", common={"expires_ms": world.ms - 1})
    assert late.error == "DEADLINE_PASSED"
    assert world.log(t).end_offset == 0


def test_fields_that_are_not_known_are_no_error() -> None:
    assert World().client().ping(colour="blue", trace="00-1-2-03").error is None


def test_a_draining_broker_finishes_what_it_took_and_takes_no_more() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    world.hold(FlushFiles)
    sent = client.produce(t, b"a")
    waiting = client.fetch(t, wait_ms=MINUTE)
    world.broker.drain()
    assert not world.broker.is_idle
    refused = client.produce(t, b"b")
    assert refused.error == "SHUTTING_DOWN"
    assert client.create("u").error == "SHUTTING_DOWN"
    assert client.commit("g", (t, 1)).error == "SHUTTING_DOWN"

    world.end_flush()
    assert sent.outcome == [0]
    assert waiting.outcome == [[b"a"]]
    assert world.broker.is_idle
    assert client.ping().error is None
    assert client.metadata("t") == {"t": [[1, 1, [1]]]}


def test_a_restart_knows_no_sessions_and_all_records() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    client.produce(t, b"a")
    world.crash()

    assert client.produce(t, b"b").error == "NEED_HELLO"
    client.hello()
    assert client.fetch(t).outcome == [[b"a"]]


def test_after_a_clean_stop_everything_is_there_with_its_producers() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    client.produce(t, b"a", producer=7)
    world.stop()
    world.crash()
    client.hello()

    assert client.produce(t, b"a", producer=7).outcome == [0]
    assert client.produce(t, b"b", producer=7, sequence=1).outcome == [1]


def test_what_the_world_measured_is_told_to_whoever_asks() -> None:
    world = World()
    world.broker.handle(world._now, Measured({"loop_lag_ms_max": 1.5}, cpu_ns=0))
    client = world.client()
    client.ask(Api.DELETE_TOPIC, {"topic": "nope"})
    (broker,) = client.describe("broker")

    assert broker["loop_lag_ms_max"] == 1.5
    assert broker["errors"] == {"UNKNOWN_TOPIC": 1}


def test_a_broker_with_no_room_for_sessions_says_so_and_when_to_come_back() -> None:
    world = World(serving=ServingOptions(sessions_max=2, offsets_partitions=1))
    world.client("one")
    two = world.client("two")
    world._clients["three"] = three = type(two)(world, "three")
    refused = three.hello()
    assert refused.error == "TOO_MANY_SESSIONS"
    assert refused.fields is not None
    assert refused.fields["error"]["retry_after_ms"] == 1_000

    world.lose(two)
    assert three.hello().error is None
