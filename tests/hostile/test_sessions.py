"""Who may speak: HELLO, fencing, leases, and credit."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.hostile.raw import MIB, BrokerProcess, RawClient, batch_of
from zmqmq.errors import Code
from zmqmq.wire.apis import REQUESTS, Api


@pytest.mark.parametrize("api", [api for api in REQUESTS if api is not Api.HELLO])
def test_nothing_is_answered_before_hello(broker: BrokerProcess, api: Api) -> None:
    with RawClient(broker.endpoint, hello=False) as stranger:
        bodies = [b"x"] if api is Api.PRODUCE else []
        error = stranger.error(api, {}, bodies)

        assert error["code"] == Code.NEED_HELLO
        assert error["retriable"]


def test_versions_that_do_not_meet_are_told_both(broker: BrokerProcess) -> None:
    with RawClient(broker.endpoint, hello=False) as client:
        fields = {"client": "x", "min": 2, "max": 9, "session": client.session}
        error = client.error(Api.HELLO, fields)
        assert error["code"] == Code.UNSUPPORTED_VERSION
        assert (error["min"], error["max"]) == (1, 1)
        assert client.hello(max=99)["version"] == 1


def test_a_broker_of_another_cluster_says_so(client: RawClient) -> None:
    fields = {"client": "x", "min": 1, "max": 1, "session": client.session, "cluster": bytes(16)}
    error = client.error(Api.HELLO, fields)

    assert error["code"] == Code.WRONG_CLUSTER
    assert client.greeting["cluster"].hex() in error["detail"]
    assert client.hello(cluster=client.greeting["cluster"])["version"] == 1


def test_the_newer_connection_of_a_session_fences_the_older(broker: BrokerProcess) -> None:
    with RawClient(broker.endpoint) as old, RawClient(broker.endpoint, hello=False) as new:
        new.session = old.session
        new.hello()

        error = old.error(Api.PING, {})
        assert (error["code"], error["retriable"]) == (Code.SESSION_FENCED, False)
        assert new.call(Api.PING, {})[0]["time_ms"] > 0


def test_a_fenced_connection_that_begins_anew_is_no_longer_fenced(tmp_path: Path) -> None:
    """When its new session had run out it was told SESSION_FENCED, a no for ever."""
    with BrokerProcess(tmp_path, serving={"session_lease_ms": 2_500}) as broker:
        old, new = RawClient(broker.endpoint), RawClient(broker.endpoint, hello=False)
        with old, new:
            new.session = old.session
            new.hello()
            assert old.error(Api.PING, {})["code"] == Code.SESSION_FENCED
            old.hello(session=b"another session!")
            time.sleep(4)
            assert old.error(Api.PING, {})["code"] == Code.NEED_HELLO


def test_sessions_end_with_their_lease_and_not_while_they_ping(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, serving={"session_lease_ms": 3_000}) as broker:
        busy, idle = RawClient(broker.endpoint), RawClient(broker.endpoint)
        with busy, idle:
            for _ in range(23):
                time.sleep(0.2)
                assert busy.call(Api.PING, {})[0]["time_ms"] > 0
            assert idle.error(Api.PING, {})["code"] == Code.NEED_HELLO


def test_more_sessions_than_allowed_are_told_the_limit(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, serving={"sessions_max": 2}) as broker:
        first, second = RawClient(broker.endpoint), RawClient(broker.endpoint)
        third = RawClient(broker.endpoint, hello=False)
        with first, second, third:
            fields = {"client": "x", "min": 1, "max": 1, "session": third.session}
            error = third.error(Api.HELLO, fields)
            assert error["code"] == Code.TOO_MANY_SESSIONS
            assert error["retry_after_ms"] > 0
            assert "sessions_max is 2" in error["detail"]
            second.hello()  # the same session again is not one more


def test_who_never_says_what_it_read_is_told_to(tmp_path: Path) -> None:
    serving = {"credit_bytes": MIB, "memory_bytes": 16 * MIB, "unflushed_bytes": 4 * MIB}
    with BrokerProcess(tmp_path, serving=serving) as broker, RawClient(broker.endpoint) as client:
        topic_id = client.make_topic("much")
        for _ in range(5):
            client.produce(topic_id, batch_of(topic_id, bytes(900_000)))
        offset, error = 0, None
        for _ in range(5):
            fields = {"partitions": [[topic_id, 0, offset, MIB]], "max_wait_ms": 100}
            reply, bodies = client.call(Api.FETCH, fields)
            error = reply.get("error")
            if error:
                break
            offset += len(bodies)
        assert error is not None
        assert (error["code"], offset) == (Code.THROTTLED, 2)
        assert "rx" in error["detail"]
        reply, bodies = client.fetch(topic_id, offset)
        assert len(bodies) == 1, "telling it afterwards opens the way again"


def test_who_claims_to_have_read_more_than_was_sent_gains_nothing(tmp_path: Path) -> None:
    serving = {"credit_bytes": MIB, "memory_bytes": 16 * MIB, "unflushed_bytes": 4 * MIB}
    with BrokerProcess(tmp_path, serving=serving) as broker, RawClient(broker.endpoint) as client:
        topic_id = client.make_topic("much")
        client.produce(topic_id, batch_of(topic_id, bytes(900_000)))
        fields = {"partitions": [[topic_id, 0, 0, MIB]], "max_wait_ms": 50}
        client.call(Api.PING, {"rx": 2**53 - 1})
        for expected in (1, 1, 0):
            assert len(client.call(Api.FETCH, fields)[1]) == expected


def test_fetches_beyond_the_limit_are_told_the_limit(client: RawClient) -> None:
    topic_id = client.make_topic("long-polls")
    most = client.greeting["limits"]["fetches"]
    fields = {"partitions": [[topic_id, 0, 0, 100]], "max_wait_ms": 4_000}
    waiting = [client.post(Api.FETCH, fields) for _ in range(most)]
    error = client.error(Api.FETCH, fields)

    assert (error["code"], str(most) in error["detail"]) == (Code.THROTTLED, True)
    assert client.answer(waiting[-1])[0]["partitions"] == [[0, 0, 0]]
