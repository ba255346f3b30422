"""Schedules about brokers that fail while their leases last (decision 13). Leases are so long here
that they end nothing. Where other schedules are stands in tests/sim/test_schedules.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.sim.driven import Driven
from zmqmq.core.control.detector import GONE_NS, SILENT_NS
from zmqmq.core.meta.fields import Member
from zmqmq.sim.broker_host import HostOptions
from zmqmq.sim.node import SECOND
from zmqmq.wire.peers import PeerApi

MINUTE = 60 * SECOND


def begun(controller: int, brokers: int = 3) -> Driven:
    """Broker 1 leads, all are in sync and have heard of one another; this one is the controller."""
    d = Driven(brokers=brokers, hosts=HostOptions(lease_ns=10 * MINUTE))
    d.send_acked()
    others = [i for i in d.hosts if i != controller]
    d.blind(*others)  # who does not see that the office is free does not stand for it
    d.begin_control()
    d.until(lambda: d.is_controller(controller), "it is the controller")
    d.see(*others)
    d.run(2)
    return d


def within(d: Driven, ns: int, condition: Callable[[], object]) -> None:
    d.until(condition, "it comes about in time", ns)


def back(d: Driven, before: Member) -> None:
    """Wait until a broker that was fenced is registered again, as another run."""
    i = before.broker_id
    d.until(lambda: d.is_registered(i) and d.member(i) != before, "it comes back")


@pytest.mark.parametrize("controller", [1, 2, 3])
def test_a_leader_that_was_killed_is_replaced_in_a_second(controller: int) -> None:
    """Also if it was the controller: then another one takes its office away first."""
    d = begun(controller)
    before = d.member(1)
    d.hosts[1].crash()
    sent = d.send()
    within(d, GONE_NS + SECOND // 2, lambda: d.document.leader not in (None, before))
    within(d, SECOND, lambda: sent.is_acked)
    assert not d.is_registered(1)
    d.finish()


def test_a_follower_that_was_killed_holds_up_nobody_for_long() -> None:
    d = begun(controller=2)
    d.hosts[3].crash()
    sent = d.send()
    within(d, GONE_NS + SECOND // 2, lambda: sent.is_acked)
    assert d.isr == [1, 2]
    d.finish()


@pytest.mark.parametrize("controller", [1, 2])
def test_a_leader_that_is_frozen_is_replaced_when_two_have_found_out(controller: int) -> None:
    d = begun(controller)
    before = d.member(1)
    d.hosts[1].node.pause(MINUTE)
    d.never(lambda: d.document.leader != before, "it is replaced too early", 2)
    within(d, SILENT_NS, lambda: d.document.leader != before)
    d.hosts[1].node.resume()
    back(d, before)
    d.finish()


def test_one_that_a_single_broker_does_not_hear_is_left_alone() -> None:
    """The controller hears nothing of 1, and 3 does."""
    d = begun(controller=2)
    before = d.member(1)
    d.hold_replies(1, 2, PeerApi.PING)
    d.never(lambda: d.member(1) != before, "it is fenced", 30)
    d.finish()


def test_a_controller_that_hears_nobody_fences_nobody() -> None:
    """It is cut off itself, so the others take its office; it comes back as anybody else."""
    d = begun(controller=2)
    before = [d.member(i) for i in (1, 2, 3)]
    for other in (1, 3):
        d.hold_replies(other, 2, PeerApi.PING)
        d.hold_replies(2, other, PeerApi.PING)
    within(d, 2 * SILENT_NS, lambda: not d.is_registered(2) or d.member(2) != before[1])
    assert [d.member(i) for i in (1, 3)] == [before[0], before[2]]
    back(d, before[1])
    after = d.member(2)
    d.never(lambda: d.member(2) != after, "it is fenced again, though nobody ever heard it", 30)
    d.finish()


def test_of_two_brokers_one_decides() -> None:
    d = begun(controller=2, brokers=2)
    before = d.member(1)
    d.hosts[1].node.pause(MINUTE)
    within(d, SILENT_NS + SECOND, lambda: d.document.leader == d.member(2))
    assert not d.is_registered(1)
    d.hosts[1].node.resume()
    back(d, before)
    d.finish()


def test_a_broker_that_was_frozen_itself_accuses_nobody() -> None:
    """Its clock says that it heard of nobody for a minute. It stood still."""
    d = begun(controller=3)
    before: list[Member] = [d.member(i) for i in (1, 2)]
    d.hosts[3].node.pause(MINUTE)
    d.run(70)
    assert [d.member(i) for i in (1, 2)] == before
    d.finish()


@pytest.mark.parametrize("controller", [1, 3])
@pytest.mark.parametrize("brokers", [3, 5])
def test_one_whose_connections_break_again_and_again_takes_nobody_along(
    controller: int, brokers: int
) -> None:
    """Broker 3 alone: it may be fenced, and lose its office, and the others keep theirs."""
    d = begun(controller, brokers)
    others = [i for i in d.hosts if i != 3]
    before = [d.member(i) for i in others]
    for _ in range(4):
        for i in others:
            d.network.cut("b3", f"b{i}")
            d.network.reset("b3", f"b{i}")
        d.run(0.8)
        for i in others:
            d.network.heal("b3", f"b{i}")
        d.run(20)
        assert [d.member(i) for i in others] == before
    d.finish()


@pytest.mark.parametrize("first", [(3,), (2, 3)])
def test_after_a_blackout_nobody_is_fenced(first: tuple[int, ...]) -> None:
    """Nobody hears anybody for five seconds, then all hear broker 3, or the controller and it hear
    one another, a moment before the others do."""
    d = begun(controller=2, brokers=7)
    before = [d.member(i) for i in d.hosts]
    pairs = [(a, b) for a in d.hosts for b in d.hosts if a != b]
    apis = (PeerApi.PING, PeerApi.REPLICATE)
    gates = {pair: [d.hold_replies(*pair, api) for api in apis] for pair in pairs}
    d.run(5)
    early = [pair for pair in pairs if set(first) <= set(pair)]
    for pair in early:
        for gate in gates.pop(pair):
            gate.end()
    d.run(0.3)
    for left in gates.values():
        for gate in left:
            gate.end()
    d.run(10)
    assert [d.member(i) for i in d.hosts] == before
    d.finish()
