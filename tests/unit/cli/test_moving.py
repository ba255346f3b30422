"""What is said of a plan that somebody else's plan has come across."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from zmqmq_cli.cluster import _left
from zmqmq_cli.exits import Exit, PartialError, verdict
from zmqmq_cli.moving import run_plan
from zmqmq_cli.output import Output

from tests.unit.client.test_cluster_info import Cluster, move, partition, topic
from zmqmq import Client
from zmqmq.client.describing import topic_description
from zmqmq.wire.frame import Fields


def client_of(cluster: Cluster) -> Client:
    """Its cluster does at once what it is told."""
    operations = cluster.operations

    def advance(plan: Any, at_a_time: int) -> Any:
        found = cluster.go_on(plan, at_a_time)
        cluster.begin(complete=True)
        return found

    calls = SimpleNamespace(advance=advance, drain=lambda b: cluster.run(operations.drain(b)))
    known = SimpleNamespace(describe_all=lambda **_: [topic_description(topic(*cluster.rows))])
    return cast("Client", SimpleNamespace(cluster=calls, topics=known))


def test_what_others_have_changed_is_named_when_the_rest_is_done() -> None:
    cluster = Cluster(partition(0, replicas=[1, 2, 5]), partition(1))

    with pytest.raises(PartialError) as raised:
        run_plan(client_of(cluster), Output(), [move(0, 1, 2, 4), move(1, 1, 2, 4)], 1)

    assert "1 of 2 moves done; t/0 changed meanwhile" in str(raised.value)
    assert verdict(raised.value).exit is Exit.INCOMPLETE
    assert [row["replicas"] for row in cluster.rows] == [[1, 2, 5], [1, 2, 4]]


@pytest.mark.parametrize(
    "row",
    [
        partition(replicas=[1, 2]),  # broker 3 could take it from 1: somebody has brought it
        partition(replicas=[2, 3, 1], removing=[1]),
        partition(replicas=[2, 1, 3], adding=[1], removing=[3], isr=[2, 3]),
    ],
)
def test_a_broker_that_others_have_given_something_is_not_called_empty(row: Fields) -> None:
    with pytest.raises(PartialError, match="broker 1 is not empty: t/0 changed meanwhile"):
        _left(client_of(Cluster(row)), 1)


@pytest.mark.parametrize(
    "row", [partition(replicas=[2, 3, 1]), partition(replicas=[1, 2], isr=[], leader=None)]
)
def test_what_has_to_stay_is_no_reason_to_drain_once_more(row: Fields) -> None:
    (kept,) = _left(client_of(Cluster(partition(1, replicas=[2, 3]), row)), 1)

    assert kept[0] == "t"
    assert kept[1].replicas == tuple(row["replicas"])
