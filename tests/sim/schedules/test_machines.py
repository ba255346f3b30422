"""Schedules that are too fine for whole brokers (tests/support/replicas.py): the test carries every
message between the machines of leader and followers. Each loses a record, or answers what is old,
without the rule that it names. Where the others are stands in tests/sim/test_schedules.py."""

from __future__ import annotations

from dataclasses import replace

from tests.support.replicas import Cluster
from zmqmq.core.replication.transitions import with_isr


def leave(c: Cluster, *staying: int, see: tuple[int, ...] = ()) -> None:
    members = [c.brokers[i].me for i in staying]
    c.write(with_isr(c.document, members), *see)


def test_directed_alone_below_min_a_fenced_leader_does_not_answer() -> None:
    """2 is elected from the ELR and commits with 3, and 1, which is alone in its ISR, does not see
    it. Below min_isr it answers nothing that has to be the latest (D10)."""
    c = Cluster(flush="replicated")
    leave(c, 1)
    since = c.brokers[1].sessions.stamp
    # 2 is elected from the ELR, and commits with 3; 1 does not see it.
    document = replace(
        c.document,
        leader=c.brokers[2].me,
        leader_epoch=2,
        isr=(c.brokers[2].me,),
        elr=(c.brokers[3].me,),
    )
    c.write(document, 2, 3)
    c.fetch(3)
    c.settle_isr(2)
    c.brokers[2].send()
    c.fetch(3, 2)
    assert c.brokers[2].leading.high_watermark == 1

    assert not c.brokers[1].leading.round_is_over(since)


def test_directed_round_committed_isr_a_joiner_that_leads_unseen_is_asked_too() -> None:
    """The joining of 3 landed unseen; 3 leads, drops 2 and commits alone; 2 still follows 1.

    Whoever may be in the ISR is asked too, and not the committed ISR alone (D10, L6)."""
    c = Cluster(flush="replicated", isr=[1, 2], min_isr=1)
    c.fetch(2, 2)
    c.fetch(3, 2)
    proposal = c.propose(1)
    assert proposal is not None
    assert c.commit(proposal).ok
    c.elect(3, 3, isr=(c.brokers[3].me,))
    c.brokers[3].send()
    assert c.brokers[3].leading.high_watermark == 1
    since = c.brokers[1].sessions.stamp
    c.fetch(2, 3)

    assert c.brokers[1].leading.high_watermark == 0
    assert not c.brokers[1].leading.round_is_over(since)


def test_directed_round_any_fetch_those_of_before_the_election_prove_nothing_after_it() -> None:
    """2 and 3 have asked 1 before 2 was elected, and that arrives late. A round counts what came
    back of replies that were sent after the question (D10)."""
    c = Cluster(flush="replicated")
    c.fetch(2)
    c.fetch(3)
    old = [c.ask(2), c.ask(3)]
    c.elect(2, 2, 3)
    c.brokers[2].send()
    c.fetch(3, 2)
    c.fetch(3)
    since = c.brokers[1].sessions.stamp
    for asked in old:
        c.answer(1, asked)

    assert not c.brokers[1].leading.round_is_over(since)


def test_directed_mode_hw_only_a_new_leader_does_not_switch_at_its_low_high_watermark() -> None:
    """The old leader commits late, on fetches that were on their way: unflushed, below LESO. So
    everything below LESO has to be flushed before the mode is `fsync` (D12, 3)."""
    c = Cluster(flush="replicated")
    c.brokers[1].send()
    c.fetch(2, flush=False)
    c.fetch(3, flush=False)
    old = [c.ask(2), c.ask(3)]
    c.elect(2, 2, 3, isr=(c.brokers[2].me, c.brokers[3].me))
    for broker in c.brokers.values():
        broker.log.config = replace(broker.log.config, flush="fsync")
    assert c.propose(2) is None
    c.fetch(3, flush=False)
    assert c.brokers[2].leading.high_watermark == 0
    assert c.propose(2) is None
    for asked in old:
        c.answer(1, asked)

    assert c.brokers[1].leading.high_watermark == 1


def test_directed_stale_epoch_entry_behind_an_epoch_without_records_nothing_is_cut_again() -> None:
    """2 has led an epoch without a record, and then takes one of an older epoch. If the empty epoch
    stood in its index, it would tell 1 later that the record has parted (D14)."""
    c = Cluster(flush="replicated", isr=[1, 2])
    c.brokers[1].send()
    c.elect(2)  # epoch 2 writes nothing
    c.elect(1)
    c.fetch(2, 2)
    assert c.brokers[1].leading.high_watermark == 1
    c.elect(2)
    c.fetch(1, 2)

    assert c.brokers[1].values == [(1, 0)]
    assert c.brokers[2].leading.high_watermark == 1


def test_schedule_25_rocketmq_5663_a_joiner_has_all_that_the_old_leader_commits() -> None:
    """3 is taken in, and the answer is lost. 1 would go on with 2 alone, and 3 is elected.

    From the proposal on, whoever is to join has to have what is committed (L6)."""
    c = Cluster(flush="replicated", isr=[1, 2])
    c.fetch(2, 2)
    c.fetch(3, 2)
    proposal = c.propose(1)
    assert proposal is not None
    c.commit(proposal)
    asked = c.ask(2)
    c.elect(3, 3)
    c.brokers[1].send()
    c.deliver(asked, *c.answer(1, asked))
    c.brokers[2].write_out()
    c.fetch(2, 2)
    assert c.brokers[2].log.end_offset == 1

    assert c.brokers[1].leading.high_watermark == 0
