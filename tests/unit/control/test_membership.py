"""What a broker says of its data, and when (D4, D5, F10, C10, C11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.support.control_world import KEYS, SECOND, Now, Pending, topic_put
from tests.support.documents import TOPIC, broker, partition
from tests.support.memory_store import MemoryStore
from zmqmq.core.control.commits import Moment, Then
from zmqmq.core.control.image import Image
from zmqmq.core.control.membership import DRAIN_NS, Membership, Process
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.store import Commit, Delete, If, Op, Put, UnavailableError
from zmqmq.core.meta.values import BrokerDocument, LiveDocument, PartitionDocument
from zmqmq.core.replication.vouching import vouches
from zmqmq.core.storage.data_directory import UNVOUCHED_MAX, Format
from zmqmq.core.storage.log import LogKey
from zmqmq.errors import StorageError
from zmqmq.model.topics import TopicConfig

NEW = Format("ab" * 16, 1, 0)
FOLDER = LogKey(TOPIC, 0).folder
PLACE = (TOPIC, 0)


class Stand:
    """One broker's membership; its directory survives `killed`."""

    def __init__(self, on_disk: Format = NEW, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self.on_disk = on_disk
        self.now: Moment = Now(0)
        self.image = Image(KEYS, TopicConfig())
        self.registrations: list[LiveDocument] = []
        self.writes: list[Format] = []
        self.halts: list[str] = []
        self.left = 0
        self.pending: list[Pending] = []
        self.ups: list[Member] = []
        self.downs: list[str] = []
        self.machine = Membership(
            Process(1, b"\1" * 16, {"clients": "a:1"}, "r1", "1"),
            on_disk,
            KEYS,
            self.image,
            self,
            self.begin,
            lambda _now, me: self.ups.append(me),
            lambda _now, why: self.downs.append(why),
        )

    # What the machine asks for.

    def register(self, document: LiveDocument) -> None:
        self.registrations.append(document)

    def unregister(self) -> None:
        self.left += 1

    def write_format(self, values: Format) -> None:
        self.writes.append(values)

    def halt(self, reason: str) -> None:
        self.halts.append(reason)

    def begin(self, ops: Sequence[Op], ifs: Sequence[If], then: Then) -> None:
        self.pending.append(Pending(ops, ifs, then))

    # What the world does.

    def registered(self) -> int:
        key = KEYS.live(1)
        self.store.commit([Delete(key)])
        commit = self.store.commit([Put(key, self.registrations[-1].encode())])
        self.machine.registered(self.now, commit.revision)
        return commit.revision

    def written(self) -> None:
        self.on_disk = self.writes.pop(0)
        self.machine.format_written(self.now, None)

    def follow(self) -> None:
        for batch in self.store.events(b"", self.image.revision + 1):
            self.image.apply(batch)
        self.machine.changed(self.now)

    def advance(self, ns: int) -> None:
        self.now = Now(self.now.ns + ns)
        self.machine.tick(self.now)

    def up(self) -> Member:
        """All the way."""
        self.machine.begin(self.now)
        return self.again()

    def again(self) -> Member:
        self.registered()
        self.written()
        self.follow()
        assert self.machine.me is not None
        return self.machine.me

    def killed(self) -> Stand:
        """The next process, on the same directory."""
        return Stand(self.on_disk, self.store)

    def vouches(self, entry: Member, flush: str = "fsync") -> bool:
        self.follow()
        registration = self.image.broker(1).registration
        return vouches(entry, registration, PLACE, "fsync" if flush == "fsync" else "replicated")

    def flag(self, outcome: str = "done") -> None:
        pending = self.pending.pop(0)
        result: Commit | UnavailableError = UnavailableError("away")
        if outcome == "done":
            result = self.store.commit(pending.ops, pending.ifs)
        pending.then(self.now, result)

    def others(self, *ids: int) -> None:
        for broker_id in ids:
            known = broker(broker_id, 1)
            assert known.live is not None
            self.store.commit([Put(KEYS.live(broker_id), known.live.encode())])

    def partition(self, document: PartitionDocument) -> None:
        self.store.commit([topic_put(), Put(KEYS.partition(TOPIC, 0), document.encode())])
        self.follow()


# Registering


def test_f10_c11_nothing_is_served_before_format_and_image_have_the_epoch() -> None:
    stand = Stand()
    assert stand.registrations == []
    stand.machine.begin(stand.now)
    assert stand.registrations[0].since_fsync is None
    assert stand.registrations[0].endpoints == {"clients": "a:1"}
    epoch = stand.registered()
    assert stand.ups == []
    (written,) = stand.writes
    assert (written.epoch, written.since_fsync, written.since_clean) == (epoch, epoch, epoch)
    stand.written()
    assert stand.machine.me is None, "the image is older than the registration"
    stand.follow()
    assert stand.ups == [Member(1, epoch)]
    stand.follow()
    assert len(stand.ups) == 1


def test_c11_the_image_may_be_first() -> None:
    stand = Stand()
    stand.machine.begin(stand.now)
    epoch = stand.registered()
    stand.follow()
    assert stand.ups == []
    stand.written()
    assert stand.ups == [Member(1, epoch)]


def test_d4_killed_twice_it_vouches_for_what_was_flushed_and_for_nothing_else() -> None:
    first = Stand()
    one = first.up()
    second = first.killed()
    two = second.up()
    third = second.killed()
    three = third.up()
    assert third.vouches(one)
    assert third.vouches(two)
    assert not third.vouches(two, "replicated")
    assert third.vouches(three, "replicated")


def test_d4_killed_before_format_was_written_it_vouches_as_before() -> None:
    first = Stand()
    one = first.up()
    second = first.killed()
    second.machine.begin(second.now)
    two = Member(1, second.registered())
    third = second.killed()
    third.up()
    assert third.vouches(one)
    assert third.vouches(two)


def test_d4_after_a_clean_stop_it_vouches_for_everything() -> None:
    first = Stand()
    one = first.up()
    first.machine.shut_down(first.now)
    first.machine.finish(is_clean=True)
    assert not first.left, "the mark is durable first"
    first.written()
    assert (first.left, first.machine.is_stopped) == (1, True)
    second = first.killed()
    two = second.up()
    assert second.vouches(one, "replicated")
    third = second.killed()
    third.up()
    assert not third.vouches(one, "replicated"), "the mark was for one start"
    assert not third.vouches(two, "replicated")
    assert third.vouches(one)


def test_d4_a_mark_of_another_epoch_is_none() -> None:
    stand = Stand(replace(NEW, epoch=7, since_fsync=1, since_clean=1, clean_epoch=6))
    stand.machine.begin(stand.now)
    assert stand.registrations[0].since_clean is None
    assert stand.registrations[0].since_fsync == 1


def test_d5_a_wiped_directory_vouches_for_itself_alone() -> None:
    first = Stand()
    one = first.up()
    wiped = Stand(NEW, first.store)
    wiped.up()
    assert not wiped.vouches(one)


def test_d11_one_that_lost_its_registration_keeps_its_data() -> None:
    stand = Stand()
    one = stand.up()
    stand.machine.lost(stand.now, "the lease ran out")
    assert stand.machine.me is None
    assert stand.downs == ["the lease ran out"]
    assert len(stand.registrations) == 1, "not at once"
    stand.advance(SECOND)
    two = stand.again()
    assert two.broker_epoch > one.broker_epoch
    assert stand.vouches(one, "replicated")
    assert stand.ups == [one, two]
    assert stand.on_disk.epoch == two.broker_epoch


def test_it_registers_again_ever_later_while_registrations_do_not_last() -> None:
    stand = Stand()
    stand.up()
    times = 0
    for _ in range(100):
        if stand.machine.me is not None:
            stand.machine.lost(stand.now, "fenced")
        before = len(stand.registrations)
        stand.advance(SECOND // 10)
        if len(stand.registrations) > before:
            times += 1
            stand.again()
    assert 6 <= times <= 12
    stand.advance(60 * SECOND)
    if stand.machine.me is None:
        stand.again()
    stand.advance(60 * SECOND)
    stand.machine.lost(stand.now, "fenced")
    stand.advance(SECOND // 10)
    assert len(stand.registrations) > before


def test_a_registration_lost_while_format_is_written() -> None:
    stand = Stand()
    stand.machine.begin(stand.now)
    stand.registered()
    stand.machine.lost(stand.now, "fenced")
    stand.advance(SECOND)
    assert len(stand.registrations) == 1, "what it is to say is not on disk yet"
    stand.written()
    stand.follow()
    assert stand.ups == []
    assert stand.downs == []
    assert len(stand.registrations) == 2
    assert stand.registrations[1].since_fsync == stand.on_disk.epoch
    stand.again()


@pytest.mark.parametrize("epoch", [6, 7])
def test_a_store_that_went_back_halts(epoch: int) -> None:
    stand = Stand(replace(NEW, epoch=7, since_fsync=1))
    stand.machine.begin(stand.now)
    stand.machine.registered(stand.now, epoch)
    assert len(stand.halts) == 1
    assert "backup" in stand.halts[0]
    assert stand.writes == []


def test_a_format_that_cannot_be_written_halts() -> None:
    stand = Stand()
    stand.machine.begin(stand.now)
    stand.registered()
    stand.machine.format_written(stand.now, StorageError("EIO"))
    assert stand.halts
    assert stand.ups == []


# Damage


def test_d5_damage_is_on_disk_before_anything_is_done_about_it() -> None:
    first = Stand()
    one = first.up()
    second = first.killed()
    done: list[int] = []
    second.machine.unvouch([FOLDER], lambda now: done.append(now.ns))
    assert second.writes[0].unvouched == {FOLDER: None}
    assert not done
    second.machine.begin(second.now)
    assert not second.registrations
    second.written()
    assert done == [0]
    assert second.registrations[0].unvouched == {f"{TOPIC.hex()}.0": None}
    two = second.again()
    assert not second.vouches(one)
    assert second.vouches(two)
    # Nor do later runs, which the range alone would cover.
    third = second.killed()
    third.up()
    assert not third.vouches(one)
    assert third.vouches(two)


def test_d5_writes_come_one_after_the_other_and_lose_nothing() -> None:
    stand = Stand(replace(NEW, epoch=7, since_fsync=1))
    done: list[str] = []
    other = LogKey(TOPIC, 1).folder
    stand.machine.unvouch([FOLDER], lambda _: done.append("a"))
    stand.machine.unvouch([other], lambda _: done.append("b"))
    assert len(stand.writes) == 1
    stand.written()
    assert done == ["a"]
    stand.written()
    assert done == ["a", "b"]
    assert stand.on_disk.unvouched == {FOLDER: None, other: None}


def test_d5_damage_of_a_log_beside_the_data_counts_for_the_partition() -> None:
    beside = LogKey(TOPIC, 0, 3).folder
    values = replace(NEW, epoch=7, since_fsync=1, unvouched={FOLDER: 4, beside: 6})
    stand = Stand(values)
    stand.machine.begin(stand.now)
    assert stand.registrations[0].unvouched == {f"{TOPIC.hex()}.0": 6}


def test_d5_too_many_to_list_is_all() -> None:
    stand = Stand(replace(NEW, epoch=7, since_fsync=1, since_clean=1, clean_epoch=7))
    folders = [LogKey(TOPIC, n).folder for n in range(UNVOUCHED_MAX + 1)]
    stand.machine.unvouch(folders, lambda _: None)
    stand.written()
    stand.machine.begin(stand.now)
    (document,) = stand.registrations
    assert (document.since_fsync, document.since_clean) == (None, None)


# Stopping


def shared(stand: Stand, isr: Sequence[tuple[int, int]]) -> None:
    stand.partition(partition((1, 2), leader=isr[0], isr=isr, min_isr=1))


def test_c10_it_waits_until_nobody_needs_it() -> None:
    stand = Stand()
    stand.others(2)
    me = stand.up()
    shared(stand, [tuple(me), (2, 2)])
    stand.machine.shut_down(stand.now)
    assert not stand.machine.may_stop(stand.now)
    stand.flag()
    stand.follow()
    document = BrokerDocument.decode(stand.store.now[KEYS.broker(1)].value)
    assert (document.broker_epoch, document.shutting_down) == (me.broker_epoch, True)
    assert not stand.machine.may_stop(stand.now)
    shared(stand, [(2, 2)])
    assert stand.machine.may_stop(stand.now)
    assert not stand.pending


def test_c10_what_only_it_has_cannot_be_handed_over() -> None:
    stand = Stand()
    stand.others(2)
    me = stand.up()
    stand.partition(partition((1, 2), leader=tuple(me), isr=[tuple(me)], elr=[(2, 9)]))
    stand.machine.shut_down(stand.now)
    stand.flag()
    stand.follow()
    assert stand.machine.may_stop(stand.now)


def test_c10_alone_it_may_stop_at_once() -> None:
    stand = Stand()
    me = stand.up()
    shared(stand, [tuple(me)])
    stand.machine.shut_down(stand.now)
    assert stand.machine.may_stop(stand.now)


def test_c10_it_does_not_wait_for_ever() -> None:
    stand = Stand()
    stand.others(2)
    me = stand.up()
    shared(stand, [tuple(me), (2, 2)])
    stand.machine.shut_down(stand.now)
    for _ in range(DRAIN_NS // SECOND * 2):
        assert not stand.machine.may_stop(stand.now)
        if stand.pending:
            stand.flag("away")
        stand.advance(SECOND // 2)
    assert stand.machine.may_stop(stand.now)


def test_c10_the_flag_is_tried_until_it_stands_and_keeps_the_rest() -> None:
    stand = Stand()
    stand.others(2)
    me = stand.up()
    before = BrokerDocument(
        broker_epoch=me.broker_epoch, shutting_down=False, cordoned=False, extra={"later": 1}
    )
    stand.store.commit([Put(KEYS.broker(1), before.encode())])
    stand.follow()
    stand.machine.shut_down(stand.now)
    after = replace(before, cordoned=True)
    stand.store.commit([Put(KEYS.broker(1), after.encode())])  # an operator, at the same time
    stand.flag()
    stand.follow()
    assert not stand.pending
    stand.advance(SECOND)
    stand.flag()
    stand.follow()
    document = BrokerDocument.decode(stand.store.now[KEYS.broker(1)].value)
    assert document == replace(after, shutting_down=True)


def test_c10_without_a_registration_there_is_nothing_to_hand_over() -> None:
    stand = Stand()
    stand.others(2)
    stand.up()
    stand.machine.shut_down(stand.now)
    stand.machine.lost(stand.now, "fenced")
    assert stand.machine.may_stop(stand.now)


def test_a_registration_that_comes_while_it_stops_is_given_up() -> None:
    for is_written in (False, True):
        stand = Stand()
        stand.up()
        stand.machine.lost(stand.now, "fenced")
        stand.advance(SECOND)
        stand.machine.shut_down(stand.now)
        stand.machine.finish(is_clean=True)
        if is_written:
            stand.written()
        stand.registered()
        if not is_written:
            stand.written()
        assert stand.left == 2
        assert stand.on_disk.clean_epoch == stand.on_disk.epoch
        assert not stand.writes


def test_a_stopped_broker_does_not_register_again() -> None:
    stand = Stand()
    stand.up()
    stand.machine.shut_down(stand.now)
    stand.machine.finish(is_clean=True)
    stand.written()
    stand.machine.lost(stand.now, "revoked")
    stand.advance(60 * SECOND)
    assert len(stand.registrations) == 1
    assert stand.machine.next_ns is None or stand.machine.next_ns > stand.now.ns


def test_d6_a_stop_that_has_not_flushed_everything_is_not_called_clean() -> None:
    stand = Stand()
    stand.up()
    stand.machine.shut_down(stand.now)
    stand.machine.finish(is_clean=False)
    stand.written()
    assert stand.left == 1
    assert stand.on_disk.clean_epoch is None
