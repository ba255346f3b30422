"""DESCRIBE tells what is here, and changes nothing."""

from __future__ import annotations

from dataclasses import replace

from tests.support.world import BROKEN, KEYS, World
from zmqmq.core.broker.events import CommitMetadata, FlushFiles, OpenLog
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.store import Put
from zmqmq.wire.apis import Api


def test_a_topic_is_told_with_its_settings_and_how_far_each_partition_is() -> None:
    world = World()
    t = world.topic("t", 2, retention_ms="1h")
    client = world.client()
    client.produce(t, b"a", b"b", producer=7)
    world.hold(FlushFiles)
    client.produce(t, b"c")
    (topic,) = client.describe("topics")

    assert (topic["name"], topic["id"], topic["overrides"]) == (
        "t",
        t.id,
        {"retention_ms": 3_600_000},
    )
    first = topic["partitions"][0]
    ends = {name: first[name] for name in ("start", "committed_end", "flushed_end", "end")}
    assert ends == {"start": 0, "committed_end": 2, "flushed_end": 2, "end": 3}
    assert (first["records"], first["producers"], first["segments"]) == (3, 1, 1)
    assert "error" not in first


def test_who_holds_a_partition_is_told_by_any_broker() -> None:
    world = World()
    t = world.topic("t")
    key, document = KEYS.partition(t.id, 0), world.broker.image.partitions[t.id, 0].document
    client = world.client()
    (alone,) = client.describe("topics")[0]["partitions"]
    names = "leader", "replicas", "isr", "elr", "adding", "removing", "flush"
    assert [alone[name] for name in names] == [1, [1], [1], [], [], [], "fsync"]

    moved = replace(
        document,
        leader=Member(2, 9),
        leader_epoch=2,
        replicas=(2, 1, 3, 4),
        isr=(Member(2, 9), Member(3, 9)),
        elr=(Member(1, 1),),
        adding=(4,),
        removing=(1,),
    )
    world.hold(CommitMetadata)  # the controller would mend it: there are no such brokers
    world.change_store(Put(key, moved.encode()))
    (other,) = client.describe("topics")[0]["partitions"]
    assert [other[name] for name in names] == [2, [2, 1, 3, 4], [2, 3], [1], [4], [1], "fsync"]
    assert not {"error", "end"} & other.keys()

    world.change_store(Put(key, replace(moved, leader=None).encode()))
    (nobody,) = client.describe("topics")[0]["partitions"]
    assert (nobody["leader"], nobody["error"]) == (None, "nobody leads it")


def test_internal_topics_are_told_only_when_asked_for() -> None:
    world = World()
    world.topic("t")
    client = world.client()

    assert [item["name"] for item in client.describe("topics")] == ["t"]
    names = [item["name"] for item in client.describe("topics", internal=True)]
    assert names == ["__offsets", "t"]
    assert [item["name"] for item in client.describe("topics", names=["__offsets"])] == [
        "__offsets"
    ]


def test_a_list_goes_on_behind_a_name() -> None:
    world = World()
    for name in ("a", "b", "c"):
        world.topic(name)

    assert [item["name"] for item in world.client().describe("topics", after="a")] == ["b", "c"]


def test_what_is_too_long_for_one_answer_is_told_in_pages() -> None:
    world = World()
    client = world.client()
    world.hold(OpenLog)
    client.create("a", 6_000)
    client.create("b", 6_000)
    first = client.ask(Api.DESCRIBE, {"kind": "topics"}).fields
    assert first is not None
    assert ([item["name"] for item in first["items"]], first["more"]) == (["a"], True)

    second = client.ask(Api.DESCRIBE, {"kind": "topics", "after": "a"}).fields
    assert second is not None
    assert ([item["name"] for item in second["items"]], second["more"]) == (["b"], False)


def test_groups_are_told_with_their_lag() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    client.produce(t, b"a", b"b", b"c")
    client.commit("g", (t, 1), note="here")
    (group,) = client.describe("groups")

    assert group["name"] == "g"
    (offset,) = group["offsets"]
    assert (offset["topic"], offset["offset"], offset["lag"], offset["note"]) == ("t", 1, 2, "here")
    assert client.describe("groups", names=["other"]) == []


def test_a_partition_that_is_offline_says_why_and_is_counted() -> None:
    world = World()
    t = world.topic("t")
    world.log(t).fail(BROKEN)
    client = world.client()
    (topic,) = client.describe("topics")
    (broker,) = client.describe("broker")

    assert topic["partitions"][0]["error"].startswith("offline: ")
    assert broker["offline"] == 1


def test_sessions_are_told_with_what_they_hold() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    client.produce(t, b"a")
    size = client.fetch(t).body_bytes
    client.fetch((t, 1), wait_ms=1_000)
    found = {item["client"]: item for item in client.describe("sessions")}

    assert found["client"]["outstanding_bytes"] == size
    assert found["client"]["waiting"] == 1
    assert set(found) == {"admin", "client"}


def test_what_cannot_be_described_is_refused() -> None:
    client = World().client()

    assert client.ask(Api.DESCRIBE, {"kind": "weather"}).error == "MALFORMED"
    assert client.ask(Api.DESCRIBE, {"kind": "topics", "names": [1]}).error == "MALFORMED"
    assert client.ask(Api.DESCRIBE, {"kind": "topics", "names": ["x"]}).error == "UNKNOWN_TOPIC"
