"""The controller as a machine: who it is, when it looks, what it commits and what it does when
that fails (C1-C3, C7-C11, D8, D11, L9)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.control_world import KEYS, SECOND, Now, World, topic_put
from tests.support.documents import PLACE, TOPIC, broker, live, partition
from zmqmq.core.control.controller import COMMITS_MAX, Loss
from zmqmq.core.control.elections import Report
from zmqmq.core.meta.fields import Member
from zmqmq.core.meta.keys import ControllerKey
from zmqmq.core.meta.store import Delete, If, Put
from zmqmq.core.meta.values import (
    ControllerDocument,
    PartitionDocument,
    TopicDocument,
    TopicNameDocument,
)
from zmqmq.errors import Code, WireError


def healthy(world: World, **others: Any) -> PartitionDocument:
    """Led by broker 1, all three in sync."""
    me = [tuple(world.member(i)) for i in world.nodes]
    return partition(tuple(world.nodes), **{"leader": me[0], "isr": me, **others})


def started(*partitions: PartitionDocument, brokers: int = 3, **topic: Any) -> World:
    """Broker 1 is the controller of one topic."""
    world = World(brokers)
    world[1].follow()
    world[1].answer()
    world.settle()
    assert world.active == [1]
    world.topic(*(partitions or (healthy(world),)), **topic)
    world.settle()
    return world


# C1: who it is


def test_c1_one_of_them_is_the_controller_and_knows_it_from_the_image() -> None:
    world = World()
    for node in world.nodes.values():
        node.follow()
        assert len(node.pending) == 1
    world[2].answer()
    assert world.active == []
    world[2].follow()
    assert world.active == [2]
    world[1].answer()
    world.settle()
    assert world.active == [2]
    document = ControllerDocument.decode(world.store.now[KEYS.controller].value)
    assert document.broker_id == 2
    assert world.store.now[KEYS.controller].lease == 2001
    assert isinstance(KEYS.parse(KEYS.controller), ControllerKey)


@pytest.mark.parametrize("outcome", ["lost", "perhaps", "away"])
def test_c1_a_lost_answer_changes_nothing(outcome: str) -> None:
    world = World(1)
    world[1].follow()
    world[1].answer(outcome)
    assert not world[1].pending, "it asks again after a pause"
    world.settle_for(1)
    assert world.active == [1]


def test_c1_the_office_goes_with_the_lease_and_another_takes_it() -> None:
    world = started()
    epoch = world.store.now[KEYS.controller].create_revision
    world[1].lose()
    world[1].controller.unregistered(world.now)
    assert world.active == []
    world.settle()
    assert len(world.active) == 1
    assert world.active != [1]
    assert world.store.now[KEYS.controller].create_revision > epoch


def test_c1_a_deposed_controller_that_does_not_know_can_write_nothing() -> None:
    world = started()
    world[2].lose()
    world[1].follow()
    assert world[1].pending
    world.store.commit([Delete(KEYS.controller)])
    before = world.document()
    while world[1].pending:
        world[1].answer()
    assert world.document() == before
    assert world[1].controller.is_active, "as far as it knows"
    world.settle()
    assert world.document().isr == (world.member(1), world.member(3))


def test_c1_one_that_stops_does_not_stand() -> None:
    world = World(2)
    world[1].flag(stops=True)
    for broker_id in (1, 2):
        world[broker_id].image.load(world.store.revision, list(world.store.now.values()))
    world[1].controller.changed(world.now, ())
    assert not world[1].pending
    world[2].controller.changed(world.now, ())
    world.settle()
    assert world.active == [2]


def test_c1_a_key_of_an_earlier_run_is_not_the_own_office() -> None:
    world = started(brokers=1)
    me = world.member(1)
    world.store.end_lease(1001)
    document = ControllerDocument(broker_id=1, broker_epoch=me.broker_epoch)
    world.store.commit([Put(KEYS.controller, document.encode())])
    world[1].register()
    world.settle()
    assert world.active == []


# C2, C3: when it looks, and what it writes


def test_c3_a_broker_that_goes_leaves_and_hands_over_everywhere() -> None:
    world = World()
    world.topic(*(healthy(world) for _ in range(250)))
    world.settle()
    world[1].lose()
    world.settle()
    two, three = world.member(2), world.member(3)
    for number in range(250):
        document = world.document(number)
        assert (document.leader, document.isr) == (two, (two, three))
        assert document.leader_epoch == 6


def test_c2_a_new_controller_looks_at_everything() -> None:
    world = World()
    world.topic(healthy(world))
    world[2].lose()
    assert len(world.document().isr) == 3
    world.settle()
    assert world.document().isr == (world.member(1), world.member(3))


def test_commits_are_bounded_in_size_and_number() -> None:
    world = started(brokers=3)
    world.topic(*(healthy(world) for _ in range(1000)))
    world.settle()
    world[3].lose()
    world[1].follow()
    assert len(world[1].pending) == COMMITS_MAX
    assert [len(p.ops) for p in world[1].pending] == [100] * COMMITS_MAX
    world.settle()
    assert all(len(world.document(n).isr) == 2 for n in range(1000))


def test_the_write_is_guarded_by_office_version_and_new_leader() -> None:
    world = started()
    world.write(leader=world.member(3))
    world.settle()
    world[3].lose()
    world[1].follow()
    (pending,) = world[1].pending
    now = world.store.now
    assert pending.ifs == [
        If(KEYS.controller, "create", "==", now[KEYS.controller].create_revision),
        If(KEYS.live(1), "create", "==", world.member(1).broker_epoch),
        If(KEYS.partition(*PLACE), "mod", "==", now[KEYS.partition(*PLACE)].mod_revision),
    ]


def test_a_batch_that_fails_is_tried_one_by_one() -> None:
    world = World()
    world.topic(*(healthy(world) for _ in range(3)))
    world.settle()
    world[3].lose()
    (controller,) = world.active
    node = world[controller]
    node.follow()
    world.write(1, rec=1)  # a leader was faster
    (batch,) = node.pending
    assert len(batch.ops) == 3
    node.answer()
    assert [len(p.ops) for p in node.pending] == [1, 1, 1]
    before = world.document(1)
    while node.pending:
        node.answer()
    # The one that had changed was decided anew, from what the failed commit showed.
    for number in range(3):
        assert len(world.document(number).isr) == 2
    assert world.document(1).rec == before.rec == 1


def test_l9_an_unknown_outcome_is_tried_again_under_the_same_guard() -> None:
    for outcome in ("lost", "perhaps", "away"):
        world = started()
        world[3].lose()
        world[1].follow()
        (pending,) = world[1].pending
        world[1].answer(outcome)
        assert not world[1].pending
        world.now = Now(world.now.ns + SECOND // 2)
        world[1].controller.tick(world.now)
        (again,) = world[1].pending
        assert list(again.ifs) == list(pending.ifs)
        world.settle()
        assert len(world.document().isr) == 2
        late = world.apply(world[1], pending)  # it may still arrive
        assert getattr(late, "ok", None) is False


def test_a_store_that_is_away_is_asked_less_and_less() -> None:
    world = started()
    world[3].lose()
    world[1].follow()
    asked = 0
    for _ in range(100):
        while world[1].pending:
            world[1].answer("away")
            asked += 1
        world.advance(SECOND // 10)
    assert 5 <= asked <= 12
    world.settle_for(3)
    assert len(world.document().isr) == 2


def test_a_new_leader_that_is_gone_is_not_elected() -> None:
    """The image lags: the live key of the candidate has gone meanwhile (C4)."""
    world = started()
    world.store.end_lease(1001)
    world[2].follow()
    world[2].answer()
    world[2].follow()
    assert world[2].pending
    world.store.end_lease(2001)
    world.settle()
    assert world.document().leader == world.member(3)


def test_the_answer_may_come_before_or_after_the_image() -> None:
    world = started()
    world[3].lose()
    world[1].follow()
    pending = world[1].pending.pop()
    outcome = world.apply(world[1], pending)
    world[1].follow()
    pending.then(world.now, outcome)
    assert not world[1].pending
    world[2].lose()
    world.settle()
    assert world.document().isr == (world.member(1),)


def test_its_own_write_is_built_on_before_the_image_shows_it() -> None:
    world = started()
    world[3].lose()
    world[1].follow()
    world[2].lose()
    world[1].answer()
    written = world.store.now[KEYS.partition(*PLACE)].mod_revision
    world[1].follow(1)  # the loss of 2, not yet the own write
    (pending,) = world[1].pending
    assert If(KEYS.partition(*PLACE), "mod", "==", written) in pending.ifs
    world.settle()
    assert world.document().isr == (world.member(1),)


def test_topics_that_are_not_ready_are_left_to_their_maker() -> None:
    world = started()
    world.store.commit([topic_put(state="creating", maker=world.member(1))])
    world.settle()
    world[3].lose()
    world.settle()
    assert len(world.document().isr) == 3
    world.store.commit([topic_put()])
    world.settle()
    assert len(world.document().isr) == 2


# C8, C10


def test_c8_preferred_leaders_come_back_after_a_while_and_not_all_at_once() -> None:
    world = World()
    for_three = [healthy(world, leader=tuple(world.member(3))) for _ in range(120)]
    world.topic(*for_three)
    world.settle()
    assert all(world.document(n).leader == world.member(3) for n in range(120))
    world.settle_for(11)
    back = sum(world.document(n).leader == world.member(1) for n in range(120))
    assert back == 50
    world.settle_for(20)
    assert all(world.document(n).leader == world.member(1) for n in range(120))
    assert all(world.document(n).leader_epoch == 6 for n in range(120))


def test_c10_a_broker_that_stops_is_relieved() -> None:
    world = started()
    world[1].flag(stops=True)
    world.settle()
    two, three = world.member(2), world.member(3)
    assert (world.document().leader, world.document().isr) == (two, (two, three))
    world.settle_for(30)
    assert world.document().leader == two, "nor is it preferred any more"


# D8, C7


FORGOTTEN = partition(elr=[(1, 1), (2, 1)], flush="replicated")


def report(world: World, broker_id: int, end: int, leader_epoch: int = 5) -> Report:
    return Report(PLACE, *world.member(broker_id), leader_epoch, 4, end)


def test_d8_all_last_members_are_asked_until_they_have_answered() -> None:
    world = World(registered=False)
    for node in world.nodes.values():
        node.register()
    world.topic(FORGOTTEN, config={"flush": "replicated"})
    world.settle()
    (controller,) = world.active
    node = world[controller]
    assert node.asked == [(PLACE, 1, 5), (PLACE, 2, 5)]
    world.report(controller, report(world, 1, 7))
    world.settle_for(1)
    assert node.asked[2:] == [(PLACE, 2, 5)], "again, whoever has not answered"
    world.report(controller, report(world, 3, 99))
    world.report(controller, report(world, 2, 9, leader_epoch=4))
    world.settle()
    assert world.document().leader is None
    world.report(controller, report(world, 2, 9))
    world.settle()
    document = world.document()
    assert (document.leader, document.rec) == (world.member(2), 6)
    assert node.controller.losses == [Loss(PLACE, 6, "recovery")]
    world.settle_for(5)
    assert len(node.asked) == 3


def test_d8_a_member_that_is_away_is_waited_for() -> None:
    world = World(2, registered=False)
    world[1].register()
    world.topic(FORGOTTEN, config={"flush": "replicated"})
    world.settle_for(30)
    assert world[1].asked == []
    world[2].register(since_clean=1)
    world.settle()
    assert world.document().leader == world.member(2), "it stopped cleanly, and lost nothing"
    assert world[1].controller.losses == []


def test_d8_the_loss_is_told_also_when_the_answer_was_lost() -> None:
    world = World(registered=False)
    for node in world.nodes.values():
        node.register()
    world.topic(FORGOTTEN, config={"flush": "replicated"})
    world.settle()
    (controller,) = world.active
    world.report(controller, report(world, 1, 7))
    world.report(controller, report(world, 2, 7))
    world[controller].answer("lost")
    world.settle_for(2)
    assert world[controller].controller.losses == [Loss(PLACE, 6, "recovery")]
    assert world.document().leader == world.member(1)


def lost_for_good(**topic: Any) -> World:
    """The only replica that has everything is away; 1 and 2 are up."""
    world = World(2)
    world.topic(partition(elr=[(3, 1)]), **topic)
    world.settle()
    return world


def test_c7_off_means_never() -> None:
    world = lost_for_good()
    world.settle_for(60)
    (controller,) = world.active
    assert world[controller].asked == []
    assert world.document().leader is None


def test_c7_on_waits_as_long_as_a_lease_and_takes_the_longest_log() -> None:
    world = lost_for_good(config={"unclean_election": "on"})
    (controller,) = world.active
    assert world[controller].asked == [(PLACE, 1, 5), (PLACE, 2, 5)]
    world.report(controller, report(world, 1, 7))
    world.report(controller, report(world, 2, 9))
    world.settle_for(9)
    assert world.document().leader is None
    world.settle_for(3)
    document = world.document()
    assert (document.leader, document.recovering) == (world.member(2), True)
    assert world[controller].controller.losses == [Loss(PLACE, 6, "unclean")]


def test_c7_one_that_does_not_answer_is_waited_for_only_so_long() -> None:
    world = lost_for_good(config={"unclean_election": "on"})
    (controller,) = world.active
    world.report(controller, report(world, 1, 7))
    world.settle_for(15)
    assert world.document().leader is None
    world.settle_for(10)
    assert world.document().leader == world.member(1)


def test_c7_once_by_request() -> None:
    world = lost_for_good()
    world.settle_for(20)
    (controller,) = world.active
    other = 3 - controller
    assert not world[other].controller.allow_unclean(world.now, PLACE)
    assert world[controller].controller.allow_unclean(world.now, PLACE)
    for broker_id in (1, 2):
        world.report(controller, report(world, broker_id, 7))
    world.settle()
    assert world.document().leader == world.member(1)
    # That was that: the next time it waits again.
    world.write(leader=None, isr=(), elr=(Member(3, 1),), leader_epoch=9)
    world.settle_for(40)
    assert world.document().leader is None


def test_c7_who_has_everything_and_comes_in_time_is_elected_cleanly() -> None:
    world = lost_for_good(config={"unclean_election": "on"})
    world.settle_for(8)
    document = live(since_fsync=1)
    world.store.commit([Put(KEYS.live(3), document.encode())])
    world.settle_for(20)
    assert world.document().leader is not None
    assert world.document().leader.broker_id == 3  # type: ignore[union-attr]
    assert world.document().rec == 0


# C9, D11


class Heard:
    """What an operator was told."""

    def __init__(self) -> None:
        self.errors: list[WireError | None] = []

    def __call__(self, _now: object, error: WireError | None) -> None:
        self.errors.append(error)

    @property
    def codes(self) -> list[Code | None]:
        return [None if error is None else error.code for error in self.errors]


def test_c9_from_the_request_to_the_end() -> None:
    world = started(brokers=4)
    world.write(0, replicas=(1, 2, 3), isr=tuple(world.member(i) for i in (1, 2, 3)))
    world.settle()
    heard = Heard()
    world[1].controller.reassign(world.now, PLACE, (4, 2), heard)
    world.settle()
    assert heard.codes == [None]
    document = world.document()
    assert (document.replicas, document.adding) == ((4, 2, 1, 3), (4,))
    world.write(isr=tuple(world.member(i) for i in (4, 2, 1, 3)))  # the leader takes it in (L7)
    world.settle()
    document = world.document()
    assert (document.replicas, document.leader) == ((4, 2), world.member(4))
    assert document.leader_epoch == 6


def test_c9_cancelled() -> None:
    world = started(brokers=4)
    world.write(0, replicas=(1, 2, 3), isr=tuple(world.member(i) for i in (1, 2, 3)))
    world.settle()
    heard = Heard()
    world[1].controller.reassign(world.now, PLACE, (4, 2), heard)
    world.settle()
    world[1].controller.cancel_reassignment(world.now, PLACE, heard)
    world.settle()
    assert heard.codes == [None, None]
    assert sorted(world.document().replicas) == [1, 2, 3]
    assert world.document().adding == ()


def test_c9_refusals() -> None:
    world = started()
    heard = Heard()
    controller = world[1].controller
    controller.reassign(world.now, PLACE, (7, 1), heard)  # 7 is not there
    controller.reassign(world.now, PLACE, (1, 1), heard)
    controller.reassign(world.now, (TOPIC, 9), (1, 2), heard)
    controller.cancel_reassignment(world.now, PLACE, heard)
    world[2].controller.cancel_reassignment(world.now, PLACE, heard)
    assert heard.codes == [
        Code.INVALID_CONFIG,
        Code.INVALID_CONFIG,
        Code.UNKNOWN_PARTITION,
        Code.CONFLICT,
        Code.NOT_LEADER,
    ]
    controller.reassign(world.now, PLACE, (3, 1), heard)
    controller.reassign(world.now, PLACE, (2, 1), heard)
    assert heard.codes[5:] == [Code.CONFLICT]


@pytest.mark.parametrize(("paused", "code"), [(True, Code.NOT_LEADER), (False, Code.TIMED_OUT)])
def test_c9_whoever_asked_is_told_that_nobody_goes_on(paused: bool, code: Code) -> None:
    """What was sent to the store may have been done; what was not yet was not."""
    world = started()
    heard, controller = Heard(), world[1].controller
    controller.reassign(world.now, PLACE, (3, 1), heard)
    if paused:
        world[1].answer("away")
    world[1].lose()
    controller.unregistered(world.now)
    assert heard.codes == [code]


def test_c9_a_lost_answer_does_not_become_a_no() -> None:
    world = started(brokers=4)
    world.write(0, replicas=(1, 2, 3), isr=tuple(world.member(i) for i in (1, 2, 3)))
    world.settle()
    heard, controller = Heard(), world[1].controller
    controller.reassign(world.now, PLACE, (1, 4), heard)
    world.settle()
    controller.cancel_reassignment(world.now, PLACE, heard)
    world[1].answer("lost")
    world.settle_for(3)
    assert heard.codes == [None, Code.TIMED_OUT], "nothing is under way, because of that"
    assert world.document().adding == ()


def test_c8_at_once_by_request() -> None:
    world = started()
    heard = Heard()
    world.write(leader=world.member(2), leader_epoch=6)
    world.settle()
    world[2].controller.prefer(world.now, PLACE, heard)
    world[1].controller.prefer(world.now, PLACE, heard)
    world.settle()
    assert heard.codes == [Code.NOT_LEADER, None]
    assert world.document().leader == world.member(1)
    world[1].controller.prefer(world.now, PLACE, heard)
    assert heard.codes[2:] == [None], "it leads already"
    world[1].flag(stops=True)
    world.settle()
    world[1].controller.prefer(world.now, PLACE, heard)
    assert heard.codes[3:] == [Code.CONFLICT]
    assert world.document().leader != world.member(1)


def test_d11_a_fenced_broker_is_replaced_at_once() -> None:
    world = started()
    other = world.member(3)
    world.write(leader=other, leader_epoch=6)
    world.settle()
    world[1].controller.convict(world.now, other)
    world[1].answer("away")
    world.settle_for(1)
    assert KEYS.live(3) in world.store.now, "whoever has evidence still says so again"
    world[1].controller.convict(world.now, other)
    world.settle_for(1)
    assert KEYS.live(3) not in world.store.now
    assert world.document().leader == world.member(1)


def test_d11_one_that_has_registered_again_is_not_fenced() -> None:
    world = started()
    world[1].controller.convict(world.now, world.member(3))
    world[3].lose()
    world[3].register()
    world.settle_for(1)
    assert KEYS.live(3) in world.store.now


# Decision 13: evidence that a broker has failed


@pytest.mark.parametrize("outcome", ["done", "lost", "away"])
def test_d11_a_controller_that_has_failed_is_deposed_by_whoever_finds_out(outcome: str) -> None:
    world = started()
    failed = world.member(1)
    for broker_id in (2, 3):
        world[broker_id].controller.convict(world.now, failed)
        assert len(world[broker_id].pending) == 1
    world[2].answer(outcome)
    world[3].answer("away")
    for _ in range(3):  # as brokers do while the evidence stands
        world.settle_for(1)
        for broker_id in (2, 3):
            world[broker_id].controller.convict(world.now, failed)
    world.settle_for(1)
    assert KEYS.live(1) not in world.store.now
    assert world.active in ([2], [3])
    assert world.document().leader in (world.member(2), world.member(3))


def test_d11_without_an_office_nobody_else_can_be_fenced() -> None:
    world = started()
    world[2].controller.convict(world.now, world.member(3))
    assert not world[2].pending


def test_d11_a_deposed_run_does_not_take_its_next_one_along() -> None:
    """The evidence is about a run: the guards hold for that one alone."""
    world = started()
    failed = world.member(1)
    world[1].lose()
    world[1].controller.unregistered(world.now)
    world[1].register()
    world[1].follow()
    world[1].answer()
    world[1].follow()
    assert world[1].controller.is_active
    world[2].controller.convict(world.now, failed)
    while world[2].pending:
        world[2].answer()
    world.settle()
    assert KEYS.live(1) in world.store.now
    assert world.active == [1]


# Topics that were left half done (C12)


def topic_state(world: World) -> tuple[str, Member | None]:
    document = TopicDocument.decode(world.store.now[KEYS.topic(TOPIC)].value)
    return document.state, document.maker


@pytest.mark.parametrize("state", ["creating", "deleting"])
@pytest.mark.parametrize("first", [False, True])
def test_c12_a_deserted_topic_gets_another_maker_to_remove_it(state: str, first: bool) -> None:
    world = World() if first else started()
    maker = world.member(3)
    name = KEYS.topic_name("t")
    claim = Put(name, TopicNameDocument(topic_id=TOPIC).encode())
    world.store.commit([topic_put(state=state, maker=maker), claim])
    world.settle()
    assert topic_state(world) == (state, maker), "its maker is at it"
    (controller,) = world.active
    world[3].lose()
    world[3].controller.unregistered(world.now)
    world.settle_for(1)
    (controller,) = world.active
    assert topic_state(world) == ("deleting", world.member(controller))
    assert name not in world.store.now


def test_c12_a_maker_that_does_not_know_yet_writes_nothing_more() -> None:
    world = started()
    commit = world.store.commit([topic_put(state="creating", maker=world.member(3))])
    mine = If(KEYS.topic(TOPIC), "mod", "==", commit.revision)
    world[3].lose()
    world.settle()
    late = world.store.commit([Put(KEYS.partition(TOPIC, 7), b"{}")], [mine])
    assert not late.ok


def test_c12_another_topic_of_the_same_name_keeps_it() -> None:
    world = started()
    name = KEYS.topic_name("t")
    other = b"\xff" * 16
    world.store.commit(
        [
            topic_put(state="deleting", maker=Member(9, 9)),
            topic_put(topic_id=other),
            Put(name, TopicNameDocument(topic_id=other).encode()),
        ]
    )
    world.settle()
    assert topic_state(world)[1] == world.member(1)
    assert name in world.store.now


def test_a_known_broker_says_what_it_is() -> None:
    known = broker(1, 5, cordoned=True)
    assert (known.epoch, known.is_cordoned, known.is_staying) == (5, True, True)
    assert replace(known, registration=None, live=None).epoch is None
