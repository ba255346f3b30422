"""Which partitions a run of the broker leads, when it serves them, and when their logs go."""

from __future__ import annotations

from dataclasses import replace

from tests.support.world import BROKEN, KEYS, Place, World
from zmqmq.core.broker.events import CommitMetadata, FlushFiles, OpenLog
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.store import Put
from zmqmq.core.meta.values import LiveDocument, PartitionDocument
from zmqmq.core.replication.follower import Follower


def test_every_start_leads_with_a_new_epoch() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    epochs = [world.partition(t).epoch]
    for _ in range(3):
        world.crash()
        epochs.append(world.partition(t).epoch)
        client.hello()
        assert client.produce(t, b"a").error is None

    assert epochs == [1, 2, 3, 4]
    document = PartitionDocument.decode(world.store.now[KEYS.partition(t.id, 0)].value)
    assert document.leader == (1, world.epoch)
    assert client.metadata("t") == {"t": [[1, 4, [1]]]}


def test_a_partition_is_served_once_what_was_found_in_it_is_flushed() -> None:
    world = World()
    t = world.topic("t")
    world.client().produce(t, b"a")
    world.hold(FlushFiles)
    world.disk = world.disk.kill_state()
    world.start()
    client = world.client()
    assert not world.broker.is_started
    assert client.fetch(t).outcome == ["NOT_LEADER"]

    while world.waiting(FlushFiles):
        world.end_flush()
    assert world.broker.is_started
    assert client.fetch(t).outcome == [[b"a"]]


def test_a_first_flush_that_fails_leaves_its_partition_offline_and_the_start_goes_on() -> None:
    world = World()
    t = world.topic("t", 2)
    world.hold(FlushFiles)
    world.disk = world.disk.kill_state()
    world.start()
    while world.waiting(FlushFiles):
        world.end_flush(failing=["t/0"])

    assert world.broker.is_started
    client = world.client()
    assert client.fetch(t).outcome == ["STORAGE_OFFLINE"]
    assert client.fetch(t[1]).outcome == [[]]


def test_a_log_that_cannot_be_opened_is_offline_and_the_start_goes_on() -> None:
    world = World()
    t = world.topic("t", 2)
    world.hold(OpenLog)
    world.disk = world.disk.kill_state()
    world.start()
    world.hold(FlushFiles)
    opened = [effect.key.topic_id == t.id for effect in world.held[OpenLog]]
    for is_ours in opened:
        world.end_opening(BROKEN if is_ours else None)
    world.release(FlushFiles)

    assert world.broker.is_started
    assert world.client().produce(t, b"a").outcome == ["STORAGE_OFFLINE"]
    (topic,) = world.client().describe("topics")
    assert "by order of the test" in topic["partitions"][0]["error"]


def test_a_start_goes_on_when_a_store_that_refused_a_commit_is_back() -> None:
    world = World()
    t = world.topic("t")
    world.hold(CommitMetadata)
    world.disk = world.disk.kill_state()
    world.start()
    refused = 0
    while not world.broker.is_started:
        world.refuse_commit()  # that it is the controller, then that it leads
        refused += 1
        world.advance(1_000)
        assert not world.broker.is_started
        world.answer_commit()

    assert refused == 2
    assert world.partition(t).epoch == 2


def test_more_partitions_than_a_commit_holds_are_led_in_several() -> None:
    world = World()
    t = world.topic("t", 250)
    world.hold(CommitMetadata)
    world.disk = world.disk.kill_state()
    world.start()
    assert world.waiting(CommitMetadata) == 1
    world.answer_commit()
    assert world.waiting(CommitMetadata) > 2
    assert not world.broker.is_started
    world.release(CommitMetadata)

    assert world.broker.is_started
    assert world.partition(t[249]).epoch == 2


def test_a_damaged_log_is_served_up_to_the_damage() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    for value in (b"a", b"b", b"c"):
        client.produce(t, value)
    world.checkpoint()
    world.flip(t, 1)
    world.crash()
    client.hello()

    assert client.fetch(t).outcome == [[b"a"]]
    assert client.fetch((t, 1)).outcome == ["STORAGE_DAMAGED"]
    assert client.produce(t, b"d").outcome == ["STORAGE_DAMAGED"]
    (topic,) = client.describe("topics")
    assert "damaged at offset 1" in topic["partitions"][0]["error"]


def test_d9_a_loss_that_was_flagged_while_nobody_led_is_remembered() -> None:
    # What this copy knew to be committed may be what was lost; the leader that comes next tells
    # anew (seed 7017).
    world = World()
    t = world.topic("t")
    assert world.client().produce(t, b"a").error is None
    other = second_broker(world)
    document = share(world, t, other)
    leaderless = replace(
        document,
        leader=None,
        leader_epoch=document.leader_epoch + 1,
        isr=(),
        elr=(other,),
        rec=document.leader_epoch + 1,
    )

    world.change_store(Put(KEYS.partition(t.id, 0), leaderless.encode()))

    replica = world.broker.replicas.all[t.id, 0]
    assert isinstance(replica.role, Follower), "the controller has elected the other one"
    assert replica.role.document.leader == other
    assert replica.high_watermark == 0


def test_l17_a_damaged_copy_is_put_aside_before_its_first_flush_has_ended() -> None:
    # The new one is what the start waits for, and not the old one too (seeds 1691, 1702).
    world = World()
    t = world.topic("t")
    client = world.client()
    client.produce(t, b"a")
    client.produce(t, b"b")
    share(world, t, second_broker(world))
    world.checkpoint()
    world.flip(t, 0)

    world.hold(FlushFiles)
    world.disk = world.disk.kill_state()
    world.start()
    while world.waiting(FlushFiles):
        world.end_flush()

    new = world.broker.replicas.all[t.id, 0]
    assert new.log is not None
    assert new.log.end_offset == 0
    assert world.broker.replicas.is_settled


def second_broker(world: World) -> Member:
    """Somebody registers broker 2."""
    live = LiveDocument(
        instance=bytes(16),
        endpoints={},
        rack=None,
        version="",
        since_fsync=None,
        since_clean=None,
    )
    world.change_store(Put(KEYS.live(2), live.encode()))
    return Member(2, world.store.now[KEYS.live(2)].create_revision)


def share(
    world: World, place: Place, other: Member, flush: str = "replicated"
) -> PartitionDocument:
    """The other broker has a copy too, in sync."""
    key = KEYS.partition(place.id, place.number)
    document = PartitionDocument.decode(world.store.now[key].value)
    shared = replace(document, replicas=(1, 2), isr=(*document.isr, other), flush=flush)
    world.change_store(Put(key, shared.encode()))
    return shared


def test_readers_of_a_log_whose_disk_has_failed_go_where_another_copy_is() -> None:
    """Until this broker has halted it may still be asked."""
    world = World()
    t = world.topic("t")
    share(world, t, second_broker(world), flush="fsync")
    world.hold(FlushFiles)
    client = world.client()
    waiting = client.fetch(t, wait_ms=60_000)
    client.produce(t, b"a")
    world.end_flush(failing=["t/0"])

    assert waiting.outcome == ["NOT_LEADER"]


def test_so_do_those_who_ask_before_that_has_been_seen() -> None:
    world = World()
    t = world.topic("t")
    client = world.client()
    client.produce(t, b"a")
    share(world, t, second_broker(world))
    world.log(t).fail(BROKEN)

    assert client.fetch(t).outcome == ["NOT_LEADER"]
