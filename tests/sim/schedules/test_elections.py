"""Schedules about who may be elected, and what of a disk can be counted on (replication.md 9, 12).
What they have to do with one another, and where the others are, stands in
tests/sim/test_schedules.py."""

from __future__ import annotations

from tests.sim.driven import Driven
from zmqmq.core.control.reassignment import begun
from zmqmq.core.meta.store import Delete, Put
from zmqmq.sim.broker_host import KEYS
from zmqmq.sim.disk import SimDisk


def log_file(d: Driven, broker_id: int) -> str:
    """The only segment of the partition's log."""
    folder = d.place[0].hex()
    (path,) = [p for p in d.hosts[broker_id].disk.paths() if folder in p and p.endswith(".log")]
    return path


def test_schedule_11_kip_966_the_last_one_standing_lost_its_tail() -> None:
    """2 and 3 fall behind, and 1 is alone in the ISR. It loses its power, and with it what it had
    not flushed. It comes back.

    Alone and below min_isr it acknowledges nothing (L5), so 2 and 3 have all that counts, and
    stand in the ELR; its own entry does not vouch after such an end (D4)."""
    d = Driven(flush="replicated")
    d.send_acked()
    d.run(0.1)
    d.hold_flushes(1)
    d.send_acked()
    d.fence(2, 3)
    d.settle()
    d.until(lambda: len(d.leading(1).isr.maximal()) == 1, "1 has seen it")
    sent = d.send()
    d.run(1)
    assert not sent.is_acked

    d.power_cut(1)
    d.let_register(2, 3)
    d.restart(1)
    assert d.end(1) == 1
    d.settle()
    assert d.document.leader == d.member(2)
    d.finish()


def test_schedule_13_kafka_19522_somebody_can_always_be_elected_again() -> None:
    """All three are gone when min_isr is lowered.

    With nobody in the ISR the ELR holds the only candidates, and is kept (D7): nobody has to guess
    who led last. Each is elected only while it is registered (C4)."""
    d = Driven()
    d.send_acked()
    d.fence(1, 2, 3)
    d.settle()
    assert d.document.leader is None
    d.alter(min_isr=1)
    d.settle()
    assert d.document.min_isr == 1
    assert d.document.leader is None
    d.let_register(2)
    d.settle()
    assert d.document.leader == d.member(2)
    d.finish()


def test_settings_can_be_changed_while_brokers_are_away() -> None:
    """An operator lowers min_isr because two of three are gone: nothing is to be placed anew."""
    d = Driven()
    d.fence(2, 3)
    d.settle()
    d.alter(min_isr=1)
    d.settle()
    d.send_acked()
    d.finish()


def test_schedule_14_kafka_18106_whoever_comes_back_has_left_and_led_no_more() -> None:
    """The leader is killed and registered again before anybody has missed it.

    Its entry leaves the ISR and another one leads in the next epoch, in one write (C5, C6)."""
    d = Driven()
    d.send_acked()
    before = d.document
    d.kill(1)
    d.restart(1)
    d.settle()
    assert d.isr == [2, 3]
    assert d.document.leader == d.member(2)
    assert d.document.leader_epoch == before.leader_epoch + 1
    d.until(lambda: d.is_leading(2), "2 leads")
    d.send_acked()
    d.finish()


def test_schedule_19_kafka_9672_whoever_is_taken_out_leaves_the_isr_with_that() -> None:
    """The partition moves from 3 to 4.

    4 joins as anybody does; then 3 leaves replicas and ISR in one write, in a new epoch, and is no
    follower any more, however often it asks (C9)."""
    d = Driven(brokers=4, replicas=3)
    d.send_acked()
    d.write(begun(d.document, (1, 2, 4)))
    d.until(lambda: sorted(d.isr) == [1, 2, 3, 4], "4 has joined")
    epoch = d.document.leader_epoch
    gate = d.hold_requests(3, 1)
    d.blind(3)
    d.settle()
    assert d.document.replicas == (1, 2, 4)
    assert sorted(d.isr) == [1, 2, 4]
    assert d.document.leader_epoch == epoch + 1
    d.until(lambda: d.is_leading(1, epoch + 1), "1 leads on")
    gate.end()
    d.never(lambda: 3 in d.isr or 3 in d.leading(1).isr.followers, "3 counts")
    d.send_acked()
    d.see(3)
    d.until(lambda: d.replica(3) is None, "3 has let go of it")
    d.finish()


def test_schedule_27_nats_7564_all_lose_their_power_right_after_the_acknowledgement() -> None:
    """No disk has been flushed since record 1 was sent.

    Under `fsync` it was not acknowledged, then (D2). What was is there when all are back."""
    d = Driven()
    d.send_acked()
    d.hold_flushes(1)
    sent = d.send()
    d.until(lambda: d.log(2).flushed_end == d.log(3).flushed_end == 2, "2 and 3 have flushed it")
    d.run(1)
    assert not sent.is_acked
    d.power_cut(1, 2, 3)
    d.settle()
    d.restart(1)
    d.settle()
    assert d.document.leader == d.member(1)
    d.until(lambda: d.is_leading(1), "1 leads")
    d.finish()


def test_schedule_27_nats_7564_what_a_follower_has_not_flushed_is_not_acknowledged() -> None:
    """2 has written a record, and not flushed it. All lose their power; 2 comes back first.

    Under `fsync` it was not acknowledged (D2)."""
    d = Driven()
    d.send_acked()
    d.hold_flushes(2)
    sent = d.send()
    d.until(lambda: d.log(1).flushed_end == d.log(3).flushed_end == 2, "1 and 3 have flushed it")
    d.run(1)
    assert not sent.is_acked
    d.power_cut(1, 2, 3)
    d.settle()
    d.restart(2)
    d.settle()
    assert d.document.leader == d.member(2)
    d.until(lambda: d.is_leading(2), "2 leads")
    d.finish()


def test_schedule_27_nats_7564_what_memory_alone_had_is_lost_with_a_flag() -> None:
    """Under `replicated` all lose their power with a record that no disk has.

    Nobody vouches for anything then; nobody leads before all are back, and the longest log leads
    with the mark that records may be lost (D8)."""
    d = Driven(flush="replicated")
    d.send_acked()
    d.run(0.1)
    d.hold_flushes(1, 2, 3)
    d.send_acked()
    d.power_cut(1, 2, 3)
    d.settle()
    d.restart(1, 2)
    d.settle()
    assert d.document.leader is None
    d.heal()
    d.until(lambda: d.document.leader is not None, "somebody leads")
    assert d.document.rec == d.document.leader_epoch
    (loss,) = d.invariants.losses
    assert (loss.start, loss.end) == (1, 2)


def test_schedule_28_nats_7567_three_of_five_are_no_proof() -> None:
    """1 and 2 stand still, and 3, 4 and 5 commit. 3 loses its power and forgets; 4 and 5 go, and
    1 and 2 are back.

    1, 2 and 3 are a majority, and none of them has the record: only who was in the ISR last and
    vouches for it is elected (C4, D4)."""
    d = Driven(brokers=5, min_isr=3, flush="replicated")
    d.send_acked()
    d.hold_flushes(3)
    d.separate(1, 2, 3, 4, 5)
    d.fence(1, 2)
    d.settle()
    assert d.isr == [3, 4, 5]
    d.until(lambda: d.is_leading(3), "3 leads")
    d.separate(3, 1, 2)
    d.send_acked()
    d.power_cut(3)
    d.restart(3)
    d.fence(4, 5)
    d.let_register(1, 2)
    assert d.end(1) == d.end(2) == 1
    d.settle()
    assert d.document.leader is None
    d.finish()


def test_schedule_29_nats_7549_a_damaged_copy_is_put_aside_and_leads_nothing() -> None:
    """A bit of 1's log, flushed long ago, is wrong when it starts. Everybody else is away.

    It vouches for this partition no more (D5, L17) and waits for the others, of whom it gets
    everything anew."""
    d = Driven()
    d.send_acked()
    d.send_acked()
    d.run(5)
    d.kill(1)
    d.hosts[1].disk.flip(log_file(d, 1), 100)
    d.invariants.disks_rot = True
    d.fence(2, 3)
    d.restart(1)
    d.settle()
    assert d.end(1) == 0
    assert d.document.leader is None
    d.let_register(2)
    d.settle()
    assert d.document.leader == d.member(2)
    d.finish()


def test_schedule_29_nats_7549_damage_of_the_last_batch_is_no_torn_tail() -> None:
    """The last batch of 1's log is wrong when it starts; no other one says that it was committed.

    The checkpoint says that it was flushed once, so it was not torn by the crash (F10): it must not
    be cut as if it had never counted."""
    d = Driven()
    d.send_acked()
    d.send_acked()
    d.run(5)
    position = d.log(1).segments[-1].size - 5
    d.kill(1)
    d.hosts[1].disk.flip(log_file(d, 1), position)
    d.invariants.disks_rot = True
    d.fence(2, 3)
    d.restart(1)
    d.settle()
    assert d.document.leader is None
    d.finish()


def test_schedule_30_nats_7556_a_missing_document_proves_nothing() -> None:
    """The partition's document is gone from the store, and comes back.

    Data go when their topic was seen to be deleted, and for no other reason (C12)."""
    d = Driven()
    d.send_acked()
    key = KEYS.partition(*d.place)
    kv = d.store.keys.get(key)
    assert kv is not None
    d.store.keys.on_change.clear()  # the invariants would not have it
    d.store.commit([Delete(key)], [])
    d.run(1)
    d.store.commit([Put(key, kv.value)], [])
    d.run(1)
    assert [d.end(i) for i in (1, 2, 3)] == [1, 1, 1]
    d.finish()


def test_schedule_31_nats_7545_a_replica_is_taken_out_when_the_others_can_do_without() -> None:
    """4 is to be taken out. 1 is cut off, and 2 and 3 lose their power, so that 4 alone has the
    record.

    It stays until enough of the others are in the ISR (C9)."""
    d = Driven(brokers=4, flush="replicated")
    d.send_acked()
    d.elect(2, isr=[2, 3, 4])
    d.until(lambda: d.is_leading(2), "2 leads")
    d.separate(2, 1)
    d.hold_flushes(2, 3)
    d.send_acked()
    d.power_cut(2, 3)
    d.write(begun(d.document, (1, 2, 3)))
    d.settle()
    d.restart(2, 3)
    d.settle()
    assert d.document.replicas == (1, 2, 3, 4)
    assert d.document.leader == d.member(4)
    d.finish()
    assert d.document.replicas == (1, 2, 3)


def test_schedule_32_redpanda_b1e1e0298b_of_two_reassignments_one_wins() -> None:
    """Two controllers, one of which is out of office and does not know, begin two reassignments
    from the same document.

    Both writes are guarded by its version: there is no moment at which both sets of replicas count
    (C9, C1)."""
    d = Driven(brokers=4, replicas=3)
    d.send_acked()
    d.begin_control()
    d.until(lambda: any(d.is_controller(i) for i in d.hosts), "somebody is in office")
    (old,) = [i for i in d.hosts if d.is_controller(i)]
    host = d.hosts[old]
    assert host.broker is not None
    d.hold_commits(old)
    d.order(old, lambda c, now: c.reassign(now, d.place, (1, 2, 4), lambda *_: None))
    late = d.next_commit(old)
    d.blind(old)
    d.begin_control()
    d.until(
        lambda: any(d.is_controller(i) for i in d.hosts if i != old), "another one is in office"
    )
    (new,) = [i for i in d.hosts if i != old and d.is_controller(i)]
    d.order(new, lambda c, now: c.reassign(now, d.place, (2, 3, 4), lambda *_: None))
    d.until(lambda: d.document.adding, "the second one has begun")
    assert not late.land().ok
    late.answer()
    d.finish()
    assert sorted(d.document.replicas) == [2, 3, 4]


def test_schedule_33_etcd_15247_leases_that_end_at_any_time_lose_nothing() -> None:
    """The store revokes everybody's lease, again and again.

    Leases decide who is elected, and never what is committed (L11, I10): brokers come back in new
    epochs, and go on."""
    d = Driven()
    d.begin_control()
    sent = []
    for _ in range(6):
        sent += [d.send() for _ in range(3)]
        d.store.expire(None)
        d.run(1.5)
    d.finish()
    assert all(s.is_acked for s in sent)


def test_schedule_34_etcd_17612_a_leader_that_hears_nothing_confirms_nothing() -> None:
    """The watch of 1 brings nothing any more. 2 is elected; 3 follows it.

    1 goes on leading as far as it knows, and its lease goes on. It needs the others for every
    acknowledgement and for every answer that has to be the latest (L11, D10)."""
    d = Driven()
    d.send_acked()
    d.blind(1)
    old = d.hand("old", [1], request_timeout_ms=1000)
    d.run(0.5)
    d.elect(2)
    d.until(lambda: d.is_leading(2) and d.is_following(3, 2), "2 leads, and 3 knows")
    assert d.is_leading(1, d.epoch)
    at_2 = d.hand("new", [2]).send()
    late, answers = old.send(), old.ask_end()
    d.run(2)
    assert not late.is_acked
    assert not any(isinstance(a, int) and a < 2 for a in answers)
    d.see(1)
    d.until(lambda: at_2.is_acked, "2 commits with 1 and 3")
    d.finish()


def test_directed_mode_keeps_elr_nobody_becomes_safe_by_a_change_of_the_mode() -> None:
    """3 is in the ELR with a record that it has not flushed. The topic wants `fsync` now.

    Under `fsync` 3 would vouch for its disk. The mode does not change before the ELR is empty
    (D12, 2)."""
    d = Driven(flush="replicated")
    d.send_acked()
    d.hold_flushes(3)
    d.send_acked()
    d.separate(1, 2, 3)
    d.leave_isr(2, 3)
    d.until(lambda: len(d.leading(1).isr.maximal()) == 1, "1 has seen it")
    d.alter(flush="fsync")
    d.never(lambda: d.document.flush == "fsync", "the mode has changed", 2)

    d.power_cut(3)
    d.restart(3)
    d.fence(1, 2)
    d.settle()
    assert d.document.leader is None
    d.heal()
    d.until(lambda: d.document.flush == "fsync", "the mode has changed")
    d.finish()


def test_the_mode_changes_when_everybody_has_flushed_everything() -> None:
    """2 has not flushed a record when the topic wants `fsync`. Only the leader knows when all have
    (D12, 3), and writes the mode itself."""
    d = Driven(flush="replicated")
    d.send_acked()
    d.hold_flushes(2)
    d.send_acked()
    d.alter(flush="fsync")
    d.settle()
    d.never(lambda: d.document.flush == "fsync", "the mode has changed", 2)
    d.power_cut(2)
    d.restart(2)
    d.fence(1, 3)
    d.settle()
    assert d.document.leader is None
    d.finish()


def test_what_is_committed_while_the_mode_changes_is_flushed() -> None:
    """The change to `fsync` is on its way when a record is sent that 2 does not flush. It lands,
    and 2 loses its power.

    From the wish on, progress is measured in what is flushed (D12, 1)."""
    d = Driven(flush="replicated")
    d.send_acked()
    d.run(0.1)
    d.hold_commits(1)
    d.alter(flush="fsync", by=2)
    commit = d.next_commit(1)
    assert commit.document.flush == "fsync"
    d.hold_flushes(2)
    sent = d.send()
    d.until(lambda: d.end(2) == 2, "2 has it")
    d.run(1)
    assert not sent.is_acked
    assert commit.land().ok
    d.power_cut(2)
    d.restart(2)
    d.fence(1, 3)
    d.settle()
    assert d.isr == [2]
    d.until(lambda: d.is_leading(2), "2 leads")
    d.finish()


def test_lowering_min_isr_takes_the_elr_its_right() -> None:
    """1 is alone in the ISR, 2 and 3 are in the ELR. min_isr is lowered to 1, and 1 commits alone.

    Whoever lacks that must not be elected (D7)."""
    d = Driven()
    d.send_acked()
    d.separate(1, 2, 3)
    d.leave_isr(2, 3)
    d.alter(min_isr=1)
    d.settle()
    assert d.document.elr == ()
    d.send_acked()
    d.fence(1)
    d.settle()
    assert d.document.leader is None
    d.finish()


def test_a_broker_that_stopped_badly_twice_vouches_for_its_disk_still() -> None:
    """All lose their power, and 1 once more before a controller has seen it.

    An entry counts for a range of epochs, not for the last one alone (D4)."""
    d = Driven()
    d.send_acked()
    d.power_cut(1, 2, 3)
    for _ in range(2):
        d.restart(1)
        d.power_cut(1)
    d.restart(1)
    d.settle()
    assert d.document.leader == d.member(1)
    d.finish()


def test_an_empty_directory_vouches_for_nothing() -> None:
    """1 loses its disk, and the others are away when it comes back (D5)."""
    d = Driven()
    d.send_acked()
    d.power_cut(1)
    d.hosts[1].disk = SimDisk(keeps_history=False)
    d.fence(2, 3)
    d.restart(1)
    d.settle()
    assert d.document.leader is None
    d.finish()


def test_what_is_found_after_a_kill_counts_when_it_is_flushed() -> None:
    """2 is killed with a record in the page cache alone, and starts again. It says nothing of it
    before it has flushed it (D3): its power goes next."""
    d = Driven()
    d.send_acked()
    d.fence(3)
    d.settle()
    d.separate(1, 3)
    d.hold_flushes(2)
    sent = d.send()
    d.until(lambda: d.log(2).written_end == 2, "2 has it")
    d.kill(2)
    d.hold_flushes(2)
    d.restart(2)
    d.settle()
    d.run(1)
    assert not sent.is_acked
    d.power_cut(2)
    d.restart(2)
    d.fence(1)
    d.settle()
    assert d.isr == [2]
    d.until(lambda: d.is_leading(2), "2 leads")
    d.finish()


def test_a_clean_stop_is_forgotten_before_anything_is_served() -> None:
    """1 stops cleanly and starts again. The file that says so cannot be replaced for now.

    So it serves nothing: if it took part and lost its power then, its directory would still vouch
    for memory (D4)."""
    d = Driven(flush="replicated")
    d.send_acked()
    d.hosts[1].stop()
    d.run(0.1)
    d.settle()
    d.until(lambda: not d.hosts[1].node.is_up, "1 has stopped")
    d.store.expire("b1")
    d.hosts[1].holds_format = True
    d.hosts[1].restart()
    d.run(1)
    assert d.is_registered(1)
    d.hold_flushes(1)
    d.send_acked()
    d.fence(2, 3)
    d.power_cut(1)
    d.settle()
    d.restart(1)
    d.settle()
    assert d.document.leader is None
    d.finish()


def test_a_failed_flush_is_never_tried_again() -> None:
    """The disk of 2 fails one fsync, and the next one would succeed without the data being there.

    2 halts, and what it says afterwards is what its disk has (L3, decision 5)."""
    d = Driven()
    d.send_acked()
    d.leave_isr(3)
    d.separate(1, 3)
    d.hosts[2].disk.fail("sync", end=".log")
    sent = d.send()
    d.until(lambda: d.hosts[2].halts or sent.is_acked, "2 has halted")
    d.power_cut(2)
    d.restart(2)
    d.fence(1, 3)
    d.settle()
    d.until(lambda: d.is_leading(2), "2 leads")
    d.finish()


def test_a_broker_that_stops_hands_over_first() -> None:
    """1 leads and is to stop: it has another leader elected and waits for that, and no record waits
    for a lease to run out (C10)."""
    d = Driven()
    d.send_acked()
    d.begin_control()
    d.run(0.5)
    began = d.loop.now
    d.hosts[1].stop()
    d.until(lambda: not d.hosts[1].node.is_up, "1 has stopped")
    assert d.loop.now - began < 10**9
    assert d.document.leader == d.member(2)
    d.finish()


def test_what_is_missing_is_not_vouched_for() -> None:
    """Somebody has removed 1's files of the partition while it was down. The others are away.

    The checkpoint knows that there was something, so it vouches for this partition no more (D5)."""
    d = Driven()
    d.send_acked()
    d.run(5)
    d.kill(1)
    disk = d.hosts[1].disk
    for path in disk.paths():
        if d.place[0].hex() in path:
            disk.remove(path)
    d.fence(2, 3)
    d.restart(1)
    d.settle()
    assert d.end(1) == 0
    assert d.document.leader is None
    d.finish()


def test_a_cut_that_was_interrupted_leaves_no_damage() -> None:
    """2 is killed when it has cut its log, and has not said so in its checkpoint since.

    It had said before that it would (D3): a log that ends before its recovery point is damaged,
    and would be put aside with all that it holds."""
    d = Driven()
    d.send_acked()
    d.elect(2)
    d.until(lambda: d.is_leading(2), "2 leads")
    d.hold_commits(2)
    apart = d.separate(2, 1, 3)
    loose = d.hand("loose", [2], acks=1)
    lost = [loose.send(), loose.send()]
    d.until(lambda: all(s.outcome for s in lost), "2 has written two")
    d.run(4)
    folder = d.log(2).key.folder
    assert d.hosts[2].checkpoints[folder].recovery_point == 3
    d.elect(1)
    d.until(lambda: d.end(2) == 1, "2 has cut them")
    d.kill(2)
    apart.lose()
    d.restart(2)
    assert not any("quarantine" in path for path in d.hosts[2].disk.paths())
    d.finish()
