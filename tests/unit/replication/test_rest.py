"""A partition at rest is not looked at (L8), until something happens to it."""

from __future__ import annotations

from dataclasses import replace

from tests.support.replicas import MS, Cluster
from zmqmq.core.replication.proposals import Proposal


def members(proposal: Proposal) -> list[int]:
    return [member.broker_id for member in proposal.document.isr]


def looks(c: Cluster, seconds: float = 0.5) -> Proposal | None:
    """Half a second goes by, and the leader looks, if there is anything to look at; so often."""
    for _ in range(int(seconds * 2)):
        c.now_ns += 500 * MS
        leading = c.brokers[1].leading
        if leading.is_at_rest:
            leading.isr.rested_ns = c.now_ns
        else:
            proposal = c.propose(1)
            leading.settle()
            if proposal is not None:
                return proposal
    return None


def at_rest() -> Cluster:
    c = Cluster()
    c.fetch(2)
    c.fetch(3)
    assert looks(c) is None
    assert c.brokers[1].leading.is_at_rest
    return c


def test_l8_a_partition_at_rest_is_not_looked_at_and_nobody_has_been_silent_for_that() -> None:
    c = at_rest()
    assert looks(c, 60) is None
    assert c.brokers[1].leading.is_at_rest
    c.brokers[1].send()

    assert not c.brokers[1].leading.is_at_rest
    c.fetch(2, 2)
    assert looks(c, 2.5) is None
    proposal = looks(c)
    assert proposal is not None
    assert members(proposal) == [1, 2]


def test_a_partition_that_lacks_something_is_looked_at() -> None:
    lone = Cluster(isr=[1, 2])
    lone.fetch(2)
    lone.shutting_down[3] = None
    silent = Cluster()
    silent.fetch(2)
    behind = at_rest()
    behind.brokers[1].send()
    behind.brokers[1].flush()
    behind.fetch(2, 2)
    for c in (lone, silent, behind):
        assert looks(c) is None
        assert not c.brokers[1].leading.is_at_rest


def test_a_partition_at_rest_is_looked_at_when_something_is_wanted_of_it() -> None:
    c = at_rest()
    c.brokers[1].log.config = replace(c.brokers[1].log.config, flush="replicated")
    proposal = looks(c)
    assert proposal is not None
    assert proposal.document.flush == "replicated"

    c = at_rest()
    c.change(recovering=True)
    proposal = looks(c)
    assert proposal is not None
    assert not proposal.document.recovering

    c = at_rest()
    c.change(isr=c.document.isr[:2])
    c.fetch(3)
    proposal = looks(c)
    assert proposal is not None
    assert members(proposal) == [1, 2, 3]
