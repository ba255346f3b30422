"""Requests of the right shape for things that are not there, or may not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.hostile.raw import MIB, BrokerProcess, RawClient, batch_of, quickest
from zmqmq.errors import Code
from zmqmq.model.limits import INTEGER_MAX, METADATA_NOTE_MAX
from zmqmq.wire.apis import Api

NOWHERE = b"\x07" * 16


@pytest.fixture
def topic_id(client: RawClient) -> bytes:
    topic_id = client.make_topic("requests", partitions=2)
    if client.fetch(topic_id, 0)[0]["partitions"][0][1] == 0:
        client.produce(topic_id, batch_of(topic_id, b"a", b"b"))
    return topic_id


@pytest.mark.parametrize("offset", [3, 1000, INTEGER_MAX])
def test_an_offset_out_of_range_is_told_the_range(
    client: RawClient, topic_id: bytes, offset: int
) -> None:
    error = client.error(Api.FETCH, {"partitions": [[topic_id, 0, offset, 100]]})

    assert error["code"] == Code.OFFSET_OUT_OF_RANGE
    assert (error["log_start"], error["end"]) == (0, 2)
    assert str(offset) in error["detail"]


PLACES: list[tuple[Api, dict[str, Any], str]] = [
    (Api.FETCH, {}, "partitions"),
    (Api.LIST_OFFSETS, {}, "partitions"),
    (Api.OFFSET_COMMIT, {"group": "g"}, "offsets"),
    (Api.PRODUCE, {"acks": -1}, "batches"),
]


@pytest.mark.parametrize(("api", "fields", "name"), PLACES, ids=str)
def test_unknown_topics_and_partitions_are_refused_entry_by_entry(
    client: RawClient, topic_id: bytes, api: Api, fields: dict[str, Any], name: str
) -> None:
    rest = {
        Api.FETCH: [0, 100],
        Api.LIST_OFFSETS: ["end"],
        Api.OFFSET_COMMIT: [0, 0, ""],
    }.get(api, [])
    places = [(NOWHERE, 0), (topic_id, 2), (topic_id, INTEGER_MAX), (b"", 0), (topic_id, 1)]
    bodies = [batch_of(topic_id, b"x", partition=1)] * 5 if api is Api.PRODUCE else []
    reply, _ = client.call(api, {**fields, name: [[*p, *rest] for p in places]}, bodies)

    (results,) = reply.values()
    codes = [entry["code"] if isinstance(entry, dict) else 0 for entry in results]
    unknown, partition = Code.UNKNOWN_TOPIC, Code.UNKNOWN_PARTITION
    assert codes == [unknown, partition, partition, unknown, 0]
    assert NOWHERE.hex() in results[0]["detail"]
    assert "2 partitions" in results[1]["detail"]


@pytest.mark.parametrize(
    "name", ["with space", "slash/ed", "\0", "ü", "..", ".", "a\n", "x" * 200 + "!", "'; drop"]
)
def test_a_forbidden_name_is_shown_and_explained(client: RawClient, name: str) -> None:
    error = client.error(Api.CREATE_TOPIC, {"topic": name})
    assert error["code"] in {Code.INVALID_NAME, Code.MALFORMED}
    assert "200" in error["detail"] or repr(name) in error["detail"]
    commit = {"group": name, "offsets": [[NOWHERE, 0, 0, 0, ""]]}
    assert client.error(Api.OFFSET_COMMIT, commit)["code"] in {Code.INVALID_NAME, Code.MALFORMED}


def test_a_topic_that_is_not_there_is_not_made(client: RawClient) -> None:
    entry = client.call(Api.METADATA, {"topics": ["typo"]})[0]["topics"][0]
    assert entry["error"]["code"] == Code.UNKNOWN_TOPIC
    assert "zmqmq topics create typo" in entry["error"]["detail"]
    for api, fields in (
        (Api.ALTER_TOPIC, {}),
        (Api.DELETE_TOPIC, {}),
    ):
        assert client.error(api, {"topic": "typo", **fields})["code"] == Code.UNKNOWN_TOPIC


def test_the_brokers_own_topics_are_its_own(client: RawClient) -> None:
    """What a stranger writes to __offsets would be replayed by the next start, which fails."""
    own = client.call(Api.METADATA, {"topics": ["__offsets"]})[0]["topics"][0]
    batch = batch_of(own["id"], b"\xc1", keys=[b"\xc1"])

    assert client.produce(own["id"], batch)["results"][0]["code"] == Code.DENIED
    assert client.error(Api.CREATE_TOPIC, {"topic": "__mine"})["code"] == Code.INVALID_NAME
    assert client.error(Api.ALTER_TOPIC, {"topic": "__offsets"})["code"] == Code.DENIED
    assert client.error(Api.DELETE_TOPIC, {"topic": "__offsets"})["code"] == Code.DENIED


@pytest.mark.parametrize(
    "value", ["9" * 400 + ".5", "9" * 4300 + "TiB", "9" * 60_000, "-1", "1e9", "٣", 1.5, [], {}]
)
def test_a_setting_of_any_size_is_refused(client: RawClient, value: object) -> None:
    """Numbers beyond what Python prints or a float holds have killed the broker."""
    fields = {"topic": "sized", "config": {"retention_bytes": value}, "check_only": True}
    reply, _ = client.call(Api.CREATE_TOPIC, fields)

    if value == "٣":
        assert reply["config"]["retention_bytes"] == 3
        return
    assert reply["error"]["code"] == Code.INVALID_CONFIG
    assert "retention_bytes" in reply["error"]["detail"]


def test_thousands_of_unknown_settings_are_refused_at_once(client: RawClient) -> None:
    config = {f"r{number:05d}": 1 for number in range(5000)}

    def ask() -> None:
        error = client.error(Api.CREATE_TOPIC, {"topic": "settings", "config": config})
        assert error["code"] == Code.INVALID_CONFIG
        assert len(error["detail"]) < 5000

    assert quickest(ask) < 1


def test_a_name_asked_for_a_thousand_times_is_described_once(client: RawClient) -> None:
    """4,096 times 2,000 partitions took nine seconds in which nobody was served."""
    client.make_topic("wide", partitions=200)
    reply, _ = client.call(Api.METADATA, {"topics": ["wide"] * 4096})

    assert [topic["name"] for topic in reply["topics"]] == ["wide"]


def test_a_partition_named_twice_in_a_long_poll_is_answered_twice(
    client: RawClient, topic_id: bytes
) -> None:
    """It has killed the broker."""
    places = [[topic_id, 1, 0, 100], [topic_id, 0, 2, 100], [topic_id, 0, 2, 100]]
    end = client.fetch(topic_id, 0, partition=1)[0]["partitions"][0][1]
    places[0][2] = end
    reply, bodies = client.call(Api.FETCH, {"partitions": places, "max_wait_ms": 200})

    assert [entry[0] for entry in reply["partitions"]] == [0, 0, 0]
    assert bodies == []


def test_a_note_over_the_limit_is_told_the_limit(client: RawClient, topic_id: bytes) -> None:
    note = "n" * (METADATA_NOTE_MAX + 1)
    fields = {"group": "g", "offsets": [[topic_id, 0, 0, 0, note]]}
    error = client.error(Api.OFFSET_COMMIT, fields)

    assert error["code"] == Code.MALFORMED
    assert str(METADATA_NOTE_MAX) in error["detail"]
    assert str(len(note)) in error["detail"]


def test_as_many_offsets_as_a_header_holds_are_committed(
    client: RawClient, topic_id: bytes
) -> None:
    rows = [[topic_id, 0, 1, 0, ""]] * 2500
    reply, _ = client.call(Api.OFFSET_COMMIT, {"group": "g" * 200, "offsets": rows})

    assert reply["results"] == [None] * 2500


def test_a_deadline_that_has_passed_is_not_carried_out(client: RawClient) -> None:
    """A request may have queued up for minutes while the broker was away."""
    topic_id = client.make_topic("deadlines")
    now_ms = client.call(Api.PING, {})[0]["time_ms"]
    fields = {"acks": -1, "batches": [[topic_id, 0]], "expires_ms": now_ms - 1}
    error = client.error(Api.PRODUCE, fields, [batch_of(topic_id, b"late")])
    assert error["code"] == Code.DEADLINE_PASSED
    assert str(now_ms - 1) in error["detail"]
    fields["expires_ms"] = now_ms + 60_000
    assert client.call(Api.PRODUCE, fields, [batch_of(topic_id, b"in time")])[0]["results"]

    assert client.read_all(topic_id) == [b"in time"]


def test_acks_0_is_never_answered_even_if_it_is_refused(client: RawClient) -> None:
    fields = {"acks": 0, "batches": [[NOWHERE, 0]]}
    client.post(Api.PRODUCE, fields, [b"junk"])
    client.post(Api.PRODUCE, {**fields, "timeout_ms": "x"}, [b"junk"])
    client.post(Api.PRODUCE, {**fields, "expires_ms": 1}, [b"junk"])
    last = client.post(Api.PING, {})

    header = msgpack.unpackb(client.receive()[0])
    assert header[:3] == [Api.PING, 1, last]


def test_a_fetch_that_asks_for_no_bytes_gets_the_ends(client: RawClient, topic_id: bytes) -> None:
    reply, bodies = client.fetch(topic_id, 0, max_bytes=0)

    assert (reply["partitions"], bodies) == ([[0, 2, 0]], [])


def test_a_deleted_topic_is_gone_for_those_who_wait_on_it(client: RawClient) -> None:
    topic_id = client.make_topic("short-lived")
    fields = {"partitions": [[topic_id, 0, 0, 100]], "max_wait_ms": 500}
    waiting = client.post(Api.FETCH, fields)
    assert client.call(Api.DELETE_TOPIC, {"topic": "short-lived"})[0] == {}

    (entry,) = client.answer(waiting, 0.4)[0]["partitions"]
    assert entry["code"] == Code.UNKNOWN_TOPIC, "at once, and not when its time is over"
    assert client.error(Api.FETCH, fields)["code"] == Code.UNKNOWN_TOPIC


def test_a_segment_that_is_gone_is_an_error_and_no_death(tmp_path: Path) -> None:
    """Opening an old segment's file happens on the loop, where a failure killed the broker."""
    sections = {"topics": {"segment_bytes": 4096}, "storage": {"allocate_bytes": 4096}}
    with BrokerProcess(tmp_path, **sections) as broker, RawClient(broker.endpoint) as client:
        topic_id = client.make_topic("gone")
        for _ in range(12):
            client.produce(topic_id, batch_of(topic_id, bytes(3000)))
        (folder,) = (tmp_path / "logs").glob(f"{topic_id.hex()}.*")
        (folder / f"{0:020d}.log").unlink()

        error = client.error(Api.FETCH, {"partitions": [[topic_id, 0, 0, MIB]]})
        assert error["code"] == Code.STORAGE_OFFLINE
        error = client.error(Api.LIST_OFFSETS, {"partitions": [[topic_id, 0, 1]]})
        assert error["code"] == Code.STORAGE_OFFLINE
        assert isinstance(client.fetch(topic_id, 10)[0]["partitions"][0], list)
        assert broker.is_alive
