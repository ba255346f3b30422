"""Topics are made, changed and removed in steps that a crash may stop; producer ids are unique."""

from __future__ import annotations

import pytest

from tests.support.world import BROKEN, KEYS, Place, World
from zmqmq.core.broker.events import CommitMetadata, FlushFiles, OpenLog
from zmqmq.core.broker.options import ServingOptions
from zmqmq.core.meta.keys import PartitionKey, TopicKey, TopicNameKey
from zmqmq.core.meta.store import AmbiguousError, UnavailableError
from zmqmq.core.meta.values import PartitionDocument
from zmqmq.model.limits import MIB
from zmqmq.model.topics import TopicConfig
from zmqmq.wire.apis import Api

MINUTE = 60_000
AWAY = UnavailableError("the store is away")
PERHAPS = AmbiguousError("no answer")


def documents(world: World, kind: type) -> int:
    """How many keys of a kind stand in the store."""
    return sum(isinstance(KEYS.parse(key), kind) for key in world.store.now)


def flush_mode(world: World, place: Place) -> str:
    """The one in force."""
    document = world.store.now[KEYS.partition(place.id, place.number)].value
    return PartitionDocument.decode(document).flush


# CREATE_TOPIC


def test_a_topic_is_answered_when_it_can_be_produced_to() -> None:
    world = World()
    admin = world.client()
    world.hold(OpenLog, FlushFiles)
    created = admin.create("t", 2)
    world.end_opening()
    world.end_opening()
    assert created.outcome is None

    while world.waiting(FlushFiles):
        world.end_flush()
    assert created.error is None
    assert created.fields is not None
    t = Place(created.fields["id"])
    world.release(FlushFiles)
    assert admin.produce(t[1], b"a").outcome == [0]


@pytest.mark.parametrize("answer_first", [False, True])
def test_more_partitions_than_a_commit_holds_take_several(answer_first: bool) -> None:
    world = World()
    world.answer_first = answer_first
    world.hold(CommitMetadata)
    created = world.client().create("t", 250)
    for _ in range(4):
        assert created.outcome is None
        world.answer_commit()

    assert world.waiting(CommitMetadata) == 0
    assert created.error is None
    assert world.client().metadata("t") == {"t": [[1, 1, [1]]] * 250}


def test_a_topic_that_is_being_made_is_not_there_yet() -> None:
    world = World()
    world.hold(CommitMetadata)
    client = world.client()
    client.create("t", 250)
    world.answer_commit()

    assert client.metadata("t") == {"t": "UNKNOWN_TOPIC"}
    assert client.create("t").error == "TOPIC_EXISTS"


@pytest.mark.parametrize("commits", [0, 1, 2, 3])
def test_a_crash_before_a_topic_was_ready_leaves_nothing_of_it(commits: int) -> None:
    world = World()
    world.hold(CommitMetadata)
    world.client().create("t", 250)
    for _ in range(commits):
        world.answer_commit()
    world.crash()

    client = world.client()
    assert world.broker.is_started
    assert client.metadata("t") == {"t": "UNKNOWN_TOPIC"}
    assert documents(world, TopicKey) == documents(world, TopicNameKey) == 1
    assert documents(world, PartitionKey) == 2
    assert client.create("t", 3).error is None


@pytest.mark.parametrize("commits", [0, 1, 2, 3])
def test_a_crash_while_the_brokers_own_topic_is_made_is_mended_by_the_next_start(
    commits: int,
) -> None:
    world = World(serving=ServingOptions(offsets_partitions=250), start=False)
    world.hold(CommitMetadata)
    world.start()
    for _ in range(commits):
        world.answer_commit()
    world.crash()

    assert world.broker.is_started
    assert world.client().commit("g", (world.topic("t"), 1)).outcome == [None]


@pytest.mark.parametrize("commits", [1, 2, 3, 4])
def test_a_store_that_refuses_the_brokers_own_topic_holds_up_the_start_until_it_is_back(
    commits: int,
) -> None:
    world = World(serving=ServingOptions(offsets_partitions=250), start=False)
    world.hold(CommitMetadata)
    world.start()
    for _ in range(commits):  # the first is for the office of the controller
        world.answer_commit()
    while world.waiting(CommitMetadata):
        world.refuse_commit()
    assert not world.broker.is_started
    world.release(CommitMetadata)
    world.advance(1_000)

    assert world.broker.is_started
    assert documents(world, PartitionKey) == 250
    assert world.client().commit("g", (world.topic("t"), 1)).outcome == [None]


def test_a_name_is_given_once() -> None:
    world = World()
    t = world.topic("t", 3)
    refused = world.client().create("t")

    assert refused.error == "TOPIC_EXISTS"
    assert refused.fields is not None
    assert refused.fields["error"]["id"] == t.id
    assert refused.fields["error"]["partitions"] == 3


def test_of_two_who_make_a_name_at_the_same_time_one_is_refused() -> None:
    world = World()
    world.hold(CommitMetadata)
    both = [world.client(name).create("t") for name in ("one", "two")]
    world.release(CommitMetadata)

    assert [created.error for created in both] == [None, "TOPIC_EXISTS"]
    assert documents(world, TopicKey) == 2


@pytest.mark.parametrize(
    ("error", "answer"), [(AWAY, "COORDINATOR_LOADING"), (PERHAPS, "TIMED_OUT")]
)
def test_a_store_that_fails_a_creation_is_answered_as_what_it_is(
    error: AmbiguousError, answer: str
) -> None:
    world = World()
    world.hold(CommitMetadata)
    created = world.client().create("t")
    world.answer_commit(error)

    assert created.error == answer


def test_a_topic_that_the_store_refused_halfway_can_be_made_again() -> None:
    world = World()
    client = world.client()
    world.hold(CommitMetadata)
    created = client.create("t", 250)
    world.answer_commit()
    world.refuse_commit()
    assert created.error == "COORDINATOR_LOADING"
    world.release(CommitMetadata)
    again = client.create("t", 2)
    assert again.error == "COORDINATOR_LOADING"
    assert "is being removed" in again.detail
    world.advance(1_000)

    assert client.create("t", 2).error is None
    assert client.metadata("t") == {"t": [[1, 1, [1]]] * 2}


def test_a_creation_without_an_answer_is_perhaps_after_a_minute() -> None:
    world = World()
    world.hold(CommitMetadata)
    created = world.client().create("t")
    world.advance(MINUTE)
    assert created.error == "TIMED_OUT"

    world.release(CommitMetadata)
    assert len(created.frames) == 1


def test_check_only_says_what_there_would_be_and_makes_nothing() -> None:
    world = World()
    client = world.client()
    revision = world.store.revision
    fields = {"topic": "t", "partitions": 3, "config": {"retention_ms": "1d"}, "check_only": True}
    found = client.ask(Api.CREATE_TOPIC, fields).fields

    assert found is not None
    assert (found["partitions"], found["config"]["retention_ms"]) == (3, 86_400_000)
    assert world.store.revision == revision


def test_settings_take_units_and_what_is_not_given_is_the_brokers_default() -> None:
    world = World(defaults=TopicConfig(segment_bytes=MIB))
    t = world.topic("t", retention_ms="7d", capacity_bytes="1GiB")
    config = world.log(t).config

    assert (config.retention_ms, config.capacity_bytes) == (7 * 86_400_000, 1 << 30)
    assert config.segment_bytes == MIB


@pytest.mark.parametrize("api", [Api.CREATE_TOPIC, Api.ALTER_TOPIC])
def test_nil_is_the_brokers_default_not_that_of_the_software(api: Api) -> None:
    world = World(defaults=TopicConfig(segment_bytes=MIB))
    if api is Api.ALTER_TOPIC:
        world.topic("t", segment_bytes=2 * MIB)
    found = world.client().ask(api, {"topic": "t", "config": {"segment_bytes": None}}).fields

    assert found is not None
    assert found["config"]["segment_bytes"] == MIB
    (topic,) = world.client().describe("topics")
    assert topic["config"]["segment_bytes"] == MIB
    assert topic["overrides"] == {}


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        ({"retention_msec": 1}, "did you mean retention_ms?"),
        ({"retention_msec": None}, "did you mean retention_ms?"),
        ({"segment_bytes": 1}, "the least is 4096"),
        ({"cleanup": "shred"}, "allowed are delete, compact"),
        ({"retention_ms": "soon"}, "retention_ms"),
        ({"retention_ms": "soon", "segment_bytes": 1}, "segment_bytes"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_way_out(
    config: dict[str, object], hint: str
) -> None:
    world = World()
    client = world.client()
    world.topic("there")
    for refused in (client.create("t", **config), client.alter("there", **config)):
        assert refused.error == "INVALID_CONFIG"
        assert hint in refused.detail


@pytest.mark.parametrize("name", ["__mine", "", "a/b", "..", "x" * 201, "ü"])
def test_names_that_may_not_be_are_refused(name: str) -> None:
    assert World().client().create(name).error in {"INVALID_NAME", "MALFORMED"}


def test_more_replicas_than_brokers_are_refused() -> None:
    refused = World().client().ask(Api.CREATE_TOPIC, {"topic": "t", "replicas": 2})

    assert refused.error == "INVALID_CONFIG"
    assert "wants 2 replicas, and 1 broker(s) can take one" in refused.detail


def test_a_broker_takes_only_so_many_partitions() -> None:
    world = World(serving=ServingOptions(partitions_max=10, offsets_partitions=2))
    client = world.client()
    world.topic("t", 6)

    assert client.create("u", 3).error == "INVALID_CONFIG"
    assert client.alter("t", 9).error == "INVALID_CONFIG"
    assert client.create("u", 2).error is None


def test_a_log_that_cannot_be_opened_does_not_hold_up_the_answer() -> None:
    world = World()
    client = world.client()
    world.hold(OpenLog)
    created = client.create("t", 2)
    world.end_opening(BROKEN)
    world.end_opening()

    assert created.fields is not None
    t = Place(created.fields["id"])
    assert client.produce(t, b"a").outcome == ["STORAGE_OFFLINE"]
    assert client.produce(t[1], b"a").outcome == [0]


# ALTER_TOPIC


@pytest.mark.parametrize("answer_first", [False, True])
def test_partitions_can_be_added_and_are_answered_when_they_can_be_produced_to(
    answer_first: bool,
) -> None:
    world = World()
    world.answer_first = answer_first
    t = world.topic("t")
    client = world.client()
    world.hold(OpenLog)
    altered = client.alter("t", 3)
    assert altered.outcome is None
    world.release(OpenLog)

    assert altered.fields is not None
    assert altered.fields["partitions"] == 3
    assert client.metadata("t") == {"t": [[1, 1, [1]]] * 3}
    assert client.produce(t[2], b"a").outcome == [0]


def test_partitions_cannot_be_taken_away() -> None:
    world = World()
    world.topic("t", 3)

    assert world.client().alter("t", 2).error == "INVALID_CONFIG"


def test_settings_of_a_topic_change_while_it_is_served() -> None:
    world = World()
    t = world.topic("t", retention_ms="1h", segment_bytes=8192)
    altered = world.client().alter("t", retention_ms="2h")

    assert altered.fields is not None
    assert altered.fields["config"]["retention_ms"] == 7_200_000
    config = world.log(t).config
    assert (config.retention_ms, config.segment_bytes) == (7_200_000, 8192)


def test_flush_can_be_changed_and_what_it_promises_holds_from_the_answer_on() -> None:
    """D1: the setting is the wish, the partition's document says what is in force."""
    world = World()
    t = world.topic("t", flush="replicated")
    client = world.client()
    world.hold(FlushFiles)
    assert client.produce(t, b"memory").outcome == [0]

    assert client.alter("t", flush="fsync").error is None
    sent = client.produce(t, b"disk")
    assert sent.outcome is None
    world.end_flush()
    assert sent.outcome is None  # that flush had begun before
    world.end_flush()
    assert sent.outcome == [1]
    world.advance(1_000)
    assert flush_mode(world, t) == "fsync"

    assert client.alter("t", flush="replicated").error is None
    assert client.produce(t, b"memory").outcome == [2]
    assert flush_mode(world, t) == "replicated"


def test_a_topic_flushes_before_it_is_known_for_it() -> None:
    """D12: else whoever vouches for the disk alone would vouch for what is in memory."""
    world = World()
    t = world.topic("t", flush="replicated")
    client = world.client()
    world.hold(FlushFiles)
    assert client.produce(t, b"memory").outcome == [0]
    assert client.alter("t", flush="fsync").error is None
    world.advance(1_000)
    assert flush_mode(world, t) == "replicated"

    world.release(FlushFiles)
    world.advance(1_000)
    assert flush_mode(world, t) == "fsync"


def test_of_two_who_change_a_topic_at_the_same_time_one_is_refused() -> None:
    world = World()
    world.topic("t")
    world.hold(CommitMetadata)
    both = [world.client(n).alter("t", retention_ms=ms) for n, ms in (("one", 1), ("two", 2))]
    world.release(CommitMetadata)

    assert [altered.error for altered in both] == [None, "CONFLICT"]


def test_partitions_of_a_growth_that_came_to_nothing_are_not_served() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    world.hold(CommitMetadata)
    client.alter("t", 250)
    world.answer_commit()

    assert client.produce(t[2], b"a").outcome == ["UNKNOWN_PARTITION"]
    world.crash()
    assert world.broker.is_started
    client.hello()
    assert client.produce(t[2], b"a").outcome == ["UNKNOWN_PARTITION"]


def test_a_growth_that_a_crash_stopped_can_be_made_again_and_epochs_never_fall() -> None:
    """With a lower one the log, which knows the higher, could not take another batch."""
    world = World()
    t = world.topic("t")
    client = world.client()
    world.hold(CommitMetadata)
    client.alter("t", 250)
    world.answer_commit()
    for _ in range(3):
        world.crash()
    client.hello()
    assert client.alter("t", 250).error is None
    assert client.produce(t[2], b"a").outcome == [0]
    before = world.partition(t[2]).epoch
    assert before >= 4
    world.crash()
    client.hello()

    assert world.partition(t[2]).epoch > before
    assert client.produce(t[2], b"b").outcome == [1]


def test_a_topic_that_goes_while_it_is_changed_answers_who_changes_it() -> None:
    world = World()
    world.topic("t")
    client = world.client()
    world.hold(OpenLog)
    altered = client.alter("t", 2)
    client.delete("t")

    assert altered.error == "UNKNOWN_TOPIC"


# DELETE_TOPIC


def test_a_deleted_topic_is_gone_with_its_logs_and_its_name_is_free() -> None:
    world = World()
    t = world.topic("t", 2)
    client = world.client()
    client.produce(t, b"a")
    folders = [world.log(t[n]).key.folder for n in range(2)]
    deleted = client.delete("t")

    assert deleted.outcome == {}
    assert sorted(world.deleted) == folders
    assert not any(world.disk.exists(folder) for folder in folders)
    assert client.metadata("t") == {"t": "UNKNOWN_TOPIC"}
    assert client.produce(t, b"a").outcome == ["UNKNOWN_TOPIC"]
    again = world.topic("t")
    assert again.id != t.id
    assert client.fetch(again).outcome == [[]]


def test_who_waits_for_a_commit_in_a_topic_that_is_deleted_is_answered_perhaps() -> None:
    world = World()
    t = world.topic("t")
    world.hold(FlushFiles)
    client = world.client()
    sent = client.produce(t, b"a")
    client.delete("t")

    assert sent.outcome == ["NOT_COMMITTED"]
    assert sent.fields is not None
    assert "topic 't' was deleted" in sent.fields["results"][0]["detail"]
    world.end_flush()


@pytest.mark.parametrize("commits", [1, 2, 3, 4])
def test_a_deletion_that_a_crash_stopped_is_finished_by_the_next_start(commits: int) -> None:
    world = World()
    t = world.topic("t", 250)
    folders = [world.log(t[n]).key.folder for n in range(250)]
    world.hold(CommitMetadata)
    world.client().delete("t")
    for _ in range(commits):
        world.answer_commit()
    assert world.disk.exists(folders[0]) == (commits < 4)
    world.crash()

    assert world.broker.is_started
    assert not any(world.disk.exists(folder) for folder in folders)
    assert documents(world, TopicKey) == documents(world, TopicNameKey) == 1
    assert documents(world, PartitionKey) == 2
    assert world.topic("t")


def test_the_partitions_that_a_stopped_growth_left_go_with_the_topic() -> None:
    world = World()
    world.topic("t")
    client = world.client()
    world.hold(CommitMetadata)
    client.alter("t", 250)
    world.answer_commit()
    world.crash()
    assert documents(world, PartitionKey) == 2 + 1 + 100
    client.hello()
    client.delete("t")

    assert documents(world, PartitionKey) == 2


def test_a_topic_that_is_deleted_while_its_log_is_opened_leaves_no_log() -> None:
    world = World()
    client = world.client()
    world.hold(OpenLog)
    created = client.create("t")
    client.delete("t")
    world.release(OpenLog)

    assert created.error in {"UNKNOWN_TOPIC", "TIMED_OUT", None}
    assert len(world.deleted) == 1


def test_the_brokers_own_topics_cannot_be_changed_or_deleted() -> None:
    client = World().client()

    assert client.alter("__offsets", 9).error == "DENIED"
    assert client.delete("__offsets").error == "DENIED"


# METADATA, INIT_PRODUCER


def test_metadata_tells_an_unknown_topic_beside_the_known_ones() -> None:
    world = World()
    world.topic("t")
    found = world.client().metadata("t", "nope", "t")

    assert found == {"t": [[1, 1, [1]]], "nope": "UNKNOWN_TOPIC"}


def test_producer_ids_are_unique_over_restarts_and_begin_at_1() -> None:
    world = World()
    ids: list[int] = []
    for _ in range(3):
        client = world.client()
        for _ in range(5):
            fields = client.init_producer().fields
            assert fields is not None
            assert fields["producer_epoch"] == 0
            ids.append(fields["producer_id"])
        world.crash()

    assert ids[0] == 1
    assert len(set(ids)) == 15


def test_producer_ids_go_on_when_a_block_is_used_up() -> None:
    world = World()
    client = world.client()
    with world.burst():
        answers = [client.init_producer() for _ in range(2_500)]
    ids = {a.fields["producer_id"] for a in answers if a.fields}

    assert len(ids) == 2_500


def test_a_block_whose_commit_is_in_doubt_is_never_handed_out() -> None:
    world = World()
    client = world.client()
    world.hold(CommitMetadata)
    first = client.init_producer()
    world.answer_commit(PERHAPS)
    assert first.error == "TIMED_OUT"

    world.release(CommitMetadata)
    fields = client.init_producer().fields
    assert fields is not None
    assert fields["producer_id"] == 1_001


@pytest.mark.parametrize("api", [Api.CREATE_TOPIC, Api.ALTER_TOPIC])
def test_a_min_isr_beyond_the_replicas_is_refused(api: Api) -> None:
    """It would promise copies that there can never be."""
    world = World()
    if api is Api.ALTER_TOPIC:
        world.topic("t")
    found = world.client().ask(api, {"topic": "t", "config": {"min_isr": 2}})

    assert found.error == "INVALID_CONFIG"
