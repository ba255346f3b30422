"""One connection after the other: greeting, time-outs, losses, and starting over."""

from __future__ import annotations

from tests.unit.client.scripted import START_MS, Promise, World
from zmqmq.client.machines.effects import MS, Failure, Reply
from zmqmq.errors import (
    Code,
    DisconnectedError,
    RefusedError,
    TimedOutError,
    error_to_wire,
    refusal,
)
from zmqmq.wire.apis import Api
from zmqmq.wire.frame import encode_header


class Asked:
    """One request, and what became of it."""

    def __init__(self, world: World, *, timeout_ms: int = 30_000, api: Api = Api.DESCRIBE) -> None:
        self.answers: list[Reply | Failure] = []
        world.core.network.request_any(
            world.now,
            api,
            {"kind": "broker"} if api is Api.DESCRIBE else {},
            world.now + timeout_ms * MS,
            lambda _, answer: self.answers.append(answer),
        )
        world.step()

    @property
    def failure(self) -> Failure:
        (answer,) = self.answers
        assert isinstance(answer, Failure)
        return answer


def greeted(**options: object) -> World:
    world = World(**options)  # type: ignore[arg-type]
    world.greet()
    return world


def test_a_socket_says_hello_before_anything_else() -> None:
    world = World()
    Asked(world)

    assert [sent.api for sent in world.sent] == [Api.HELLO]
    hello = world.greet()
    assert len(hello.fields["session"]) == 16
    assert "cluster" not in hello.fields
    assert [sent.api for sent in world.sent] == [Api.DESCRIBE]


def test_a_server_that_does_not_answer_hello_holds_nobody_up_for_long() -> None:
    """It may be frozen: the command line gives up after 3 seconds."""
    world = World(servers=("a:1", "b:2"))
    asked = Asked(world)
    world.advance(900)
    assert [*world.open.values()] == ["a:1"]
    world.advance(200)
    assert [*world.open.values()] == ["a:1", "b:2"]
    world.take(Api.HELLO)  # nobody answers
    world.greet(2)

    world.answer(world.take(Api.DESCRIBE), {"items": []})
    assert asked.answers == [Reply({"items": []}, [], 2)]


def test_an_answer_goes_to_who_asked_whatever_the_order() -> None:
    world = greeted()
    first, second = Asked(world), Asked(world)
    one, two = world.take(Api.DESCRIBE), world.take(Api.DESCRIBE)

    world.answer(two, {"items": [2]})
    world.answer(one, {"items": [1]})

    assert first.answers == [Reply({"items": [1]}, [], 1)]
    assert second.answers == [Reply({"items": [2]}, [], 1)]


def test_a_second_answer_to_one_request_is_ignored() -> None:
    world = greeted()
    asked = Asked(world)
    sent = world.take(Api.DESCRIBE)
    world.answer(sent, {"items": []})
    world.answer(sent, {"items": []})

    assert len(asked.answers) == 1


def test_a_request_that_was_sent_and_not_answered_is_perhaps() -> None:
    world = greeted()
    asked = Asked(world, timeout_ms=1_000)
    world.advance(1_000)

    assert isinstance(asked.failure.error, TimedOutError)
    assert asked.failure.is_sent


def test_a_request_that_was_never_sent_is_no() -> None:
    world = World()
    asked = Asked(world, timeout_ms=1_000)
    world.advance(1_000)

    assert not asked.failure.is_sent
    assert "a:1" in str(asked.failure.error)


def test_an_answer_after_the_time_out_is_nobodys() -> None:
    world = greeted()
    asked = Asked(world, timeout_ms=1_000)
    sent = world.take(Api.DESCRIBE)
    world.advance(1_000)
    world.answer(sent, {"items": []})

    assert len(asked.answers) == 1


def test_two_time_outs_in_a_row_make_a_new_socket() -> None:
    world = greeted()
    socket = world.socket
    Asked(world, timeout_ms=1_000)
    world.advance(1_000)
    assert world.closed == []

    Asked(world, timeout_ms=1_000)
    world.advance(1_000)
    assert world.closed == [socket]
    world.advance(100)
    assert world.socket == socket + 1
    assert world.take(Api.HELLO).socket == socket + 1


def test_an_answer_in_between_makes_the_count_begin_anew() -> None:
    world = greeted()
    for _ in range(3):
        Asked(world, timeout_ms=1_000)
        world.take(Api.DESCRIBE)
        world.advance(1_000)
        Asked(world)
        world.answer(world.take(Api.DESCRIBE), {"items": []})

    assert world.closed == []


def test_ping_goes_out_three_times_a_lease_and_tells_what_was_read() -> None:
    world = greeted(topics={})
    world.advance(20_000)
    ping = world.take(Api.PING)
    assert ping.fields["rx"] == 0
    world.answer(ping, {"time_ms": START_MS})

    Asked(world)
    world.answer(world.take(Api.DESCRIBE), {"items": []}, [b"x" * 10, b"y" * 5])
    world.advance(20_000)
    assert world.take(Api.PING).fields["rx"] == 15


def test_an_unanswered_ping_means_a_new_socket() -> None:
    world = greeted(topics={})
    socket = world.socket
    world.advance(40_000)

    assert socket in world.closed
    assert any(o.event == "disconnected" and "PING" in o.detail for o in world.observed)


def test_what_was_read_is_counted_anew_on_each_socket() -> None:
    world = greeted(topics={})
    Asked(world)
    world.answer(world.take(Api.DESCRIBE), {"items": []}, [b"x" * 10])
    world.lose()
    world.reconnect()
    world.advance(20_000)

    assert world.take(Api.PING).fields["rx"] == 0


def test_a_lost_connection_fails_what_was_sent_and_keeps_what_was_not() -> None:
    world = greeted()
    sent = Asked(world)
    world.lose()
    waiting = Asked(world)

    assert isinstance(sent.failure.error, DisconnectedError)
    assert sent.failure.is_sent
    assert waiting.answers == []
    world.take_all(Api.DESCRIBE)
    world.reconnect()
    world.answer(world.take(Api.DESCRIBE), {"items": []})
    assert len(waiting.answers) == 1


def test_the_session_is_the_same_on_the_next_socket() -> None:
    """So that the broker fences the old socket, with whatever still comes over it."""
    world = World()
    session = world.greet().fields["session"]
    world.lose()
    world.advance(200)

    assert world.greet().fields["session"] == session


def test_a_fenced_session_gets_a_new_name() -> None:
    world = World()
    session = world.greet().fields["session"]
    asked = Asked(world)
    world.refuse(world.take(Api.DESCRIBE), Code.SESSION_FENCED)
    world.advance(200)

    assert world.greet().fields["session"] != session
    world.answer(world.take(Api.DESCRIBE), {"items": []})
    assert len(asked.answers) == 1


def test_need_hello_sends_the_same_request_again_on_a_new_socket() -> None:
    world = greeted()
    asked = Asked(world)
    sent = world.take(Api.DESCRIBE)
    world.refuse(sent, Code.NEED_HELLO)
    assert sent.socket in world.closed

    world.reconnect()
    again = world.take(Api.DESCRIBE)
    assert again.fields == sent.fields
    world.answer(again, {"items": []})
    assert len(asked.answers) == 1


def test_the_back_off_grows_to_ten_seconds() -> None:
    world = World()
    opened = []
    for _ in range(10):
        before = world.now
        world.refuse_connection()
        while not world.open:
            world.advance(10)
        opened.append((world.now - before) // MS)

    assert opened == [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]


def test_bootstrap_servers_are_tried_one_after_the_other() -> None:
    world = World(servers=("a:1", "b:2", "c:3"))
    assert world.open[world.socket] == "a:1"
    world.refuse_connection()
    assert world.open[world.socket] == "b:2"
    world.advance(1_000)  # no answer to HELLO
    assert world.open[world.socket] == "c:3"
    world.sent = world.sent[-1:]
    world.greet()

    assert world.core.network.failures() == (
        "a:1: refused or unreachable; b:2: no answer yet; c:3: "
    )


def test_connecting_says_what_happened_at_each_address() -> None:
    world = World(servers=("a:1", "b:2"))
    promise = Promise()
    world.core.connect(promise, world.now + 900 * MS)
    world.refuse_connection()
    world.advance(900)

    assert isinstance(promise.error, DisconnectedError)
    assert "a:1: refused or unreachable" in str(promise.error)
    assert "b:2: " in str(promise.error)


def test_a_refused_hello_is_what_happened() -> None:
    world = World()
    error = error_to_wire(refusal(Code.WRONG_CLUSTER, "this is another cluster"))
    world.answer(world.take(Api.HELLO), {"error": error})

    assert "WRONG_CLUSTER" in world.core.network.failures()
    assert world.open == {}


def test_brokers_of_another_cluster_are_not_joined() -> None:
    world = greeted()
    world.lose()
    world.advance(200)

    assert world.take(Api.HELLO).fields["cluster"] == b"c" * 16


def test_nonsense_from_a_broker_ends_the_connection_and_nothing_else() -> None:
    world = greeted()
    asked = Asked(world)
    socket = world.socket
    world.core.handle_message(world.now, socket, [b"\xc1nonsense"])
    world.step()

    assert socket in world.closed
    assert isinstance(asked.failure.error, DisconnectedError)


def test_messages_of_a_closed_socket_are_ignored() -> None:
    world = greeted()
    asked = Asked(world)
    sent = world.take(Api.DESCRIBE)
    world.lose()
    world.answer(sent, {"items": []})

    assert len(asked.answers) == 1
    assert isinstance(asked.answers[0], Failure)


def test_no_more_requests_go_out_than_the_socket_holds() -> None:
    world = greeted()
    asked = [Asked(world) for _ in range(65)]
    requests = world.take_all(Api.DESCRIBE)
    assert len(requests) == 64
    world.answer(requests[0], {"items": []})

    assert len(world.take_all(Api.DESCRIBE)) == 1
    assert [len(a.answers) for a in asked] == [1, *[0] * 64]


def test_a_full_socket_holds_requests_back() -> None:
    world = greeted()
    world.core.network.note_congestion(world.socket, is_congested=True)
    Asked(world)
    assert world.take_all(Api.DESCRIBE) == []

    world.core.network.note_congestion(world.socket, is_congested=False)
    world.step()
    assert len(world.take_all(Api.DESCRIBE)) == 1


def test_a_refusal_is_no_and_a_time_out_of_the_broker_is_perhaps() -> None:
    world = greeted()
    no, perhaps = Asked(world), Asked(world)
    world.refuse(world.take(Api.DESCRIBE), Code.DENIED)
    world.refuse(world.take(Api.DESCRIBE), Code.TIMED_OUT)

    assert isinstance(no.failure.error, RefusedError)
    assert not no.failure.is_sent
    assert perhaps.failure.is_sent


def test_closing_fails_everything() -> None:
    world = greeted()
    sent = Asked(world)
    world.core.close(world.now)
    world.take_effects()

    assert isinstance(sent.failure.error, DisconnectedError)
    assert world.take(Api.PING).fields["close"] is True
    assert world.open == {}
    assert world.core.next_wake() > world.now + 10**15


def test_the_brokers_clock_is_known_from_hello() -> None:
    world = greeted()
    connection = world.core.network.any_ready(world.now)
    assert connection is not None

    assert connection.broker_time_ms(world.now) == START_MS + world.now // MS
    assert connection.broker_time_ms(world.now + 5 * MS) == START_MS + world.now // MS + 5


def test_a_reply_of_an_unknown_shape_is_no_reply_at_all() -> None:
    world = greeted()
    asked = Asked(world)
    sent = world.take(Api.DESCRIBE)
    world.core.handle_message(
        world.now, sent.socket, [encode_header(sent.api, sent.correlation + 1_000, {})]
    )

    assert asked.answers == []
