"""Sessions: who counts when a client comes back, when one ends, and what each may hold unread."""

from __future__ import annotations

from tests.support.world import Answer, Client, Place, World
from zmqmq.core.broker.events import FlushFiles, ReadCold
from zmqmq.core.broker.options import ServingOptions
from zmqmq.model.limits import MIB

MINUTE = 60_000
SECOND = 1_000


# Who counts


def test_a_session_that_comes_back_counts_on_its_new_connection_alone() -> None:
    client = World().client()
    old = client.route
    client.connect()
    assert client.ping().error == "NEED_HELLO"
    assert client.hello().error is None
    assert client.ping().error is None

    client.route = old
    assert client.ping().error == "SESSION_FENCED"


def test_a_fenced_connection_may_begin_anew() -> None:
    client = World().client()
    old = client.route
    client.connect()
    client.hello()
    client.route = old
    client.session = b"another session!"

    assert client.hello().error is None
    assert client.ping().error is None


def test_another_session_on_the_same_connection_replaces_the_first() -> None:
    world = World()
    client = world.client()
    client.session = b"another session!"
    client.hello()

    assert len(client.describe("sessions")) == 1


def test_a_session_from_which_nothing_comes_is_closed_when_its_lease_ends() -> None:
    world = World()
    busy, quiet = world.client("busy"), world.client("quiet")
    world.advance(MINUTE - 1)
    busy.ping()
    world.advance(1)
    assert quiet.ping().error is None

    world.advance(MINUTE - 1)
    busy.ping()
    world.advance(2)
    assert quiet.ping().error == "NEED_HELLO"
    assert busy.ping().error is None


def test_any_request_renews_the_lease() -> None:
    world = World()
    client = world.client()
    for _ in range(5):
        world.advance(MINUTE - 1)
        assert client.ping().error is None


def test_a_session_may_end_itself_and_is_answered() -> None:
    client = World().client()

    assert client.ping(close=True).error is None
    assert client.ping().error == "NEED_HELLO"


def test_what_a_session_waited_for_goes_on_without_it() -> None:
    world = World()
    t = world.topic("t")
    world.hold(FlushFiles)
    client = world.client()
    client.produce(t, b"a")
    world.lose(client)
    world.end_flush()

    assert world.client("other").fetch(t).outcome == [[b"a"]]


# Credit: replies that were sent and not read


def credit_world(megabytes: int = 4, **serving: int) -> tuple[World, Place]:
    """A topic with batches of a little less than a MiB."""
    options = {"credit_bytes": 2 * MIB, "memory_bytes": 16 * MIB, **serving}
    world = World(serving=ServingOptions(offsets_partitions=1, **options))
    t = world.topic("t")
    writer = world.client("writer")
    for _ in range(megabytes):
        writer.produce(t, bytes(MIB - 500))
    return world, t


def read_until_starved(client: Client, t: Place) -> Answer:
    """Fetch without ever saying what was read; the fetch that waits for credit."""
    for _ in range(1_000):
        answer = client.fetch(t, wait_ms=MINUTE)
        if answer.outcome is None:
            return answer
    raise AssertionError("never out of credit")


def outstanding(world: World) -> int:
    return sum(session.outstanding for session in world.broker.sessions)


def test_who_has_read_nothing_waits_for_credit_and_goes_on_when_it_tells() -> None:
    world, t = credit_world()
    client = world.client()
    got = [client.fetch(t, wait_ms=MINUTE) for _ in range(4)]
    read = sum(answer.body_bytes for answer in got)
    assert [len(answer.frames) for answer in got] == [1, 1, 1, 0]

    client.ping(rx=read)
    assert got[3].outcome is not None


def test_credit_is_for_the_bodies_and_told_as_a_sum() -> None:
    world, t = credit_world(1)
    client = world.client()
    size = client.fetch(t).body_bytes
    client.fetch(t, rx=size)
    assert outstanding(world) == size
    client.ping(rx=2 * size)
    assert outstanding(world) == 0

    client.ping(rx=size)
    client.ping(rx=100 * size)
    assert outstanding(world) == 0


def test_who_never_tells_is_throttled_and_told_how_to() -> None:
    world, t = credit_world()
    client = world.client()
    starved = read_until_starved(client, t)
    world.advance(MINUTE)

    assert starved.error == "THROTTLED"
    assert "rx" in starved.detail


def test_who_tells_and_is_out_of_credit_is_answered_with_nothing_in_time() -> None:
    world, t = credit_world()
    client = world.client()
    client.ping(rx=0)
    starved = read_until_starved(client, t)
    world.advance(MINUTE - SECOND)
    client.ping()
    world.advance(SECOND)

    assert starved.outcome == [[]]


def test_without_credit_a_fetch_that_finds_nothing_still_may_wait_for_records() -> None:
    world, t = credit_world()
    client = world.client()
    for _ in range(3):
        client.fetch(t)

    assert client.fetch((t, 4)).outcome == [[]]


def test_starved_fetches_are_answered_in_their_order() -> None:
    world, t = credit_world()
    client = world.client()
    read_until_starved(client, t)
    later = [client.fetch(t, wait_ms=MINUTE) for _ in range(3)]
    client.ping(rx=2 * MIB)

    answered = [len(answer.frames) for answer in later]
    assert answered == sorted(answered, reverse=True)
    client.ping(rx=100 * MIB)
    assert later[0].outcome is not None


def test_stalled_clients_cannot_starve_those_that_read() -> None:
    """Each gets at most what is left for all, so something is always left."""
    world, t = credit_world(0, credit_bytes=16 * MIB)
    for _ in range(16):
        world.client("writer").produce(t, bytes(60_000))
    for n in range(4):
        read_until_starved(world.client(f"stalled-{n}"), t)
    reader = world.client("reader")
    read = 0
    for _ in range(10):
        answer = reader.fetch(t, wait_ms=MINUTE, rx=read)
        assert answer.outcome is not None
        read += answer.body_bytes

    assert outstanding(world) <= 16 * MIB


def test_a_closed_session_gives_back_what_it_held() -> None:
    world, t = credit_world(1, credit_bytes=16 * MIB)
    stalled = [world.client(f"stalled-{n}") for n in range(4)]
    starved = [read_until_starved(client, t) for client in stalled]
    world.lose(stalled[0])

    assert starved[0].frames == []
    assert all(answer.outcome is not None for answer in starved[1:])
    for client in stalled[1:]:
        world.lose(client)
    assert outstanding(world) == world.broker.sessions.outstanding == 0


def test_a_session_that_comes_back_begins_with_full_credit() -> None:
    world, t = credit_world()
    client = world.client()
    read_until_starved(client, t)
    client.connect()
    client.hello()

    assert client.fetch(t).outcome is not None


def test_what_the_disk_is_asked_for_counts_against_the_credit() -> None:
    """Otherwise all the fetches of a client that reads nothing would find the same credit."""
    world, t = credit_world(8)
    world.disk.cached = False
    world.hold(ReadCold)
    client = world.client()
    for _ in range(64):
        client.fetch(t, wait_ms=MINUTE, max_bytes=8 * MIB)
    while world.waiting(ReadCold):
        world.end_cold_read()

    assert outstanding(world) <= 2 * MIB + 2 * MIB


def test_what_the_disk_was_asked_for_is_given_back_when_a_session_ends_or_a_read_fails() -> None:
    world, t = credit_world(2)
    world.disk.cached = False
    world.hold(ReadCold)
    one, two = world.client("one"), world.client("two")
    one.fetch(t)
    two.fetch(t)
    world.lose(one)
    world.disk.fail("read", at=2)
    world.end_cold_read()
    world.end_cold_read()

    assert world.broker.sessions.outstanding == outstanding(world) == 0
