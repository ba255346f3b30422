"""What is counted as wrong in a cluster, what to do about it, and how far a plan is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from zmqmq_cli.cluster_tables import advice_of, brokers_table, move_map, plan_table, state_of
from zmqmq_cli.tables import plain

from zmqmq.client.cluster_info import (
    COST_MAX,
    BrokerInfo,
    ClusterStatus,
    Progress,
    broker_info,
    placed_of,
    seats_of,
    status_of,
)
from zmqmq.client.cluster_operations import LOOKS_MAX, ClusterOperations
from zmqmq.client.describing import topic_description
from zmqmq.client.machines.core import Core
from zmqmq.client.machines.planning import Move, Why
from zmqmq.client.operations import Operation, Operations
from zmqmq.errors import Code, ConflictError, ProtocolError, error_to_wire, refusal
from zmqmq.wire.apis import Api
from zmqmq.wire.frame import Fields


def broker(number: int, **changes: Any) -> BrokerInfo:
    up = BrokerInfo(number, f"h{number}:1", None, "z/1", "up", False, number == 1, 1, 1, 1, bytes=1)
    return up._replace(**changes)


def partition(number: int = 0, **changes: Any) -> Fields:
    row = {
        "partition": number,
        "leader": 1,
        "leader_epoch": 1,
        "replicas": [1, 2, 3],
        "isr": [1, 2, 3],
        "adding": [],
        "removing": [],
        "min_isr": 2,
        "committed_end": 0,
        "followers": [],
    }
    return row | changes


def topic(*rows: Fields, name: str = "t") -> Fields:
    return {"name": name, "id": b"i" * 16, "replicas": 3, "config": {}, "partitions": list(rows)}


def status(*rows: Fields, brokers: tuple[BrokerInfo, ...] = ()) -> ClusterStatus:
    known = brokers or (broker(1), broker(2), broker(3))
    return status_of("c", known, [topic_description(topic(*rows))])


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, []),
        ({"leader": None, "isr": []}, ["without_leader"]),
        ({"isr": [1, 2]}, ["under_replicated"]),
        ({"isr": [1]}, ["below_min_isr", "under_replicated"]),
        ({"leader": 2}, ["not_preferred"]),
        ({"replicas": [1, 2, 4, 3], "adding": [4], "removing": [3]}, ["moving"]),
        (
            {"replicas": [1, 2, 4, 3], "isr": [1, 2, 4], "adding": [4]},
            ["moving", "under_replicated"],
        ),
    ],
)
def test_what_a_partition_lacks(changes: dict[str, Any], wrong: list[str]) -> None:
    found = status(partition(**changes))
    lists = {"without_leader", "below_min_isr", "under_replicated", "not_preferred", "moving"}

    assert sorted(name for name in lists if getattr(found, name)) == wrong
    bad = {"without_leader", "under_replicated"}
    assert found.is_healthy is not bool(bad & {*wrong})


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (status(partition()), "nothing: every partition has a leader"),
        (
            status(partition(isr=[1, 2]), brokers=(broker(1), broker(3, state="down"))),
            "start broker 3; if it will not come back: zmqmq cluster drain 3",
        ),
        (status(partition(), brokers=(broker(1, bytes=None),)), "broker 1 did not answer"),
        (status(partition(), brokers=(broker(2),)), "nobody is the controller"),
        (status(partition(leader=None)), "nobody can lead t/0: zmqmq topics describe t"),
        (status(partition(isr=[1])), "acks=all waits"),
        (status(partition(isr=[1, 2])), "copies are catching up"),
        (status(partition(leader=2)), "zmqmq cluster leaders"),
        (
            status(partition(), brokers=(broker(1), broker(2, is_cordoned=True))),
            "zmqmq cluster drain 2 goes on",
        ),
        (
            status(partition(), brokers=(broker(1), broker(4, replicas=0))),
            "zmqmq cluster balance",
        ),
        (
            status(
                partition(),
                brokers=(
                    broker(1),
                    broker(4, state="down", address=None, is_cordoned=True, replicas=0),
                ),
            ),
            "zmqmq cluster drain 4 --undo forgets it",
        ),
    ],
)
def test_what_to_do_next(found: ClusterStatus, said: str) -> None:
    assert said in advice_of(found)[0]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "up"),
        ({"state": "stopping"}, "stopping"),
        ({"is_cordoned": True}, "draining"),
        ({"is_cordoned": True, "replicas": 0}, "drained"),
        ({"is_cordoned": True, "replicas": 0, "state": "down"}, "retired"),
        ({"is_cordoned": True, "state": "down"}, "down"),
    ],
)
def test_a_broker_in_a_word(changes: dict[str, Any], word: str) -> None:
    assert state_of(broker(1, **changes)) == word


# Plans


class Chance:
    def jitter(self) -> int:
        return 0

    def session_id(self) -> bytes:
        return b"s" * 16


class Cluster:
    """Answers what operations ask, and notes what is asked of the controller."""

    def __init__(self, *rows: Fields) -> None:
        self.rows = list(rows)
        self.brokers = [broker(1), broker(2), broker(3)]
        self.orders: list[tuple[Api, Any]] = []
        self.refusals: dict[int, dict[str, object]] = {}
        core = Core(["127.0.0.1:1"], "test", 1_000, Chance())
        self.operations = ClusterOperations(core, Operations(core))

    def run(self, operation: Operation[Any]) -> Any:
        step: Callable[[Any], Any] = operation.send
        value: object = None
        while True:
            try:
                ask = step(value)
            except StopIteration as done:
                return done.value
            value = self._answer(*ask.arguments)

    def _answer(self, api: object, fields: Fields | None = None, *_: object) -> object:
        if api is Api.DESCRIBE:
            assert fields is not None
            items = {"topics": [topic(*self.rows)], "brokers": [_item(b) for b in self.brokers]}
            return {"items": items[fields["kind"]], "more": False}
        if fields is None:
            return None
        self.orders.append((Api(api), fields.get("partitions", fields)))
        wanted = fields.get("partitions") or []
        numbers = [entry[0] if type(entry) is list else entry for entry in wanted]
        return {"results": [self.refusals.get(n) for n in numbers]}

    def advance(self, *plan: Move, at_a_time: int = 4) -> Progress:
        return self.go_on(plan, at_a_time)

    def go_on(self, plan: Sequence[Move] | Progress, at_a_time: int = 4) -> Progress:
        found: Progress = self.run(self.operations.advance(plan, at_a_time))
        return found

    def begin(self, *, complete: bool = False) -> int:
        """Do as the controller was told since, or complete it too; how many moves that were."""
        count = 0
        for api, entries in self.orders:
            for number, target in entries if api is Api.REASSIGN else ():
                row = self.rows[number]
                old = [b for b in row["replicas"] if b not in row["adding"]]
                row["removing"] = [b for b in row["replicas"] if b not in target]
                row["adding"] = [b for b in target if b not in old]
                row["replicas"] = [*target, *row["removing"]]
                if complete:
                    row.update(replicas=target, isr=target, adding=[], removing=[])
                count += 1
        self.orders.clear()
        return count


def _item(b: BrokerInfo) -> Fields:
    return {
        "broker": b.broker,
        "address": None,
        "rack": b.rack,
        "server": b.version,
        "state": b.state,
        "cordoned": b.is_cordoned,
        "controller": b.is_controller,
        "replicas": b.replicas,
        "leaders": b.leaders,
        "preferred": b.preferred,
    }


def move(number: int, *after: int) -> Move:
    return Move("t", number, (1, 2, 3), after, 5)


def test_no_more_moves_are_begun_than_are_allowed_at_a_time() -> None:
    moving = partition(0, replicas=[1, 2, 4, 3], adding=[4], removing=[3])
    cluster = Cluster(moving, *(partition(n) for n in range(1, 5)))
    plan = [move(n, 1, 2, 4) for n in range(4)] + [move(4, 2, 1, 3)]

    found = cluster.advance(*plan, at_a_time=2)

    assert cluster.orders == [(Api.REASSIGN, [[1, [1, 2, 4]], [4, [2, 1, 3]]])]
    assert (found.done, found.waiting, [m.partition for m in found.under_way]) == ((), 4, [0])
    assert not found.is_done


def test_how_far_the_new_replicas_are_is_told() -> None:
    row = partition(replicas=[1, 2, 4, 3], adding=[4], removing=[3])
    for followers, lag in (
        ([{"broker": 4, "lag": 17}, {"broker": 2, "lag": 99}], 17),
        ([{"broker": 4, "lag": None}], None),
    ):
        found = Cluster(row | {"followers": followers}).advance(move(0, 1, 2, 4))
        assert found.lag == {("t", 0): lag}
    assert Cluster(row | {"leader": None}).advance(move(0, 1, 2, 4)).stuck == (("t", 0),)


def test_who_has_been_put_first_is_let_lead_at_once() -> None:
    cluster = Cluster(partition(0, replicas=[2, 1, 3]), partition(1, replicas=[3, 1], isr=[1]))

    assert cluster.advance(move(0, 2, 1, 3), move(1, 3, 1)).is_done
    assert cluster.orders == [(Api.ELECT, [0])]


def test_what_is_gone_needs_no_move() -> None:
    cluster = Cluster()

    assert cluster.advance(move(0, 1, 2, 4)).is_done
    assert cluster.orders == []


def test_what_the_controller_refuses_is_told_and_what_it_is_busy_with_waits() -> None:
    cluster = Cluster(partition(0), partition(1))
    cluster.refusals[0] = error_to_wire(refusal(Code.INVALID_CONFIG, "broker(s) [4] are not there"))
    cluster.refusals[1] = error_to_wire(refusal(Code.CONFLICT, "is being changed already"))

    found = cluster.advance(move(0, 1, 2, 4), move(1, 1, 2, 4))

    ((refused, error),) = found.refused
    assert (refused.partition, str(error)) == (0, "broker(s) [4] are not there")
    assert found.waiting == 1


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Move("t", 0, (1, 2, 3), (1, 4, 3), 1), Move("t", 0, (1, 2, 3), (1, 2, 4), 1)),
        # A balance that brings broker 4 in, and a drain of 4 that was planned when it had begun.
        (Move("t", 0, (1, 2, 3), (1, 2, 4), 1), Move("t", 0, (1, 2, 4), (1, 2, 3), 1)),
        (Move("t", 0, (1, 2, 3), (1, 2, 4), 1), Move("t", 0, (1, 2, 4), (1, 2, 5), 1)),
    ],
)
def test_two_plans_for_one_partition_do_not_fight(
    one: Move, other: Move, *, complete: bool
) -> None:
    cluster = Cluster(partition(0))
    progress: dict[Move, Sequence[Move] | Progress] = {one: [one], other: [other]}
    begun = 0
    for _ in range(2 * LOOKS_MAX):
        for plan in progress:
            progress[plan] = cluster.go_on(progress[plan])
            begun += cluster.begin(complete=complete)

    assert begun <= 2
    first, second = progress.values()
    assert isinstance(first, Progress)
    assert isinstance(second, Progress)
    assert first.is_done or first.under_way
    assert second.is_done or second.under_way
    for found in (first, second):
        assert len(found.done) + len(found.changed) + len(found.under_way) == 1
    if one.before == other.before:
        assert (first.changed, second.changed) == ((), (other,))
    else:
        assert (first.changed, second.changed) == ((one,), ())


def test_what_somebody_else_has_changed_is_not_begun() -> None:
    cluster = Cluster(partition(0, replicas=[1, 2, 5]), partition(1))

    found = cluster.advance(move(0, 1, 2, 4), move(1, 1, 2, 4))

    assert cluster.orders == [(Api.REASSIGN, [[1, [1, 2, 4]]])]
    assert [m.partition for m in found.changed] == [0]
    assert not found.is_done
    cluster.begin(complete=True)
    found = cluster.go_on(found)
    assert found.is_done
    assert [m.partition for m in found.done] == [1]
    assert [m.partition for m in found.changed] == [0]


def test_what_was_seen_done_stays_done() -> None:
    row = partition(0)
    cluster = Cluster(row)
    found = cluster.advance(move(0, 1, 2, 4))
    cluster.begin(complete=True)
    found = cluster.go_on(found)
    assert found.is_done
    row.update(replicas=[1, 2, 3], isr=[1, 2, 3])  # and somebody brings it back

    found = cluster.go_on(found)

    assert (len(found.done), found.changed, cluster.orders) == (1, (), [])


def test_a_move_that_was_given_up_is_not_begun_again() -> None:
    """Once or twice an old description may say that it has not begun."""
    row = partition(0)
    cluster = Cluster(row)
    found = cluster.advance(move(0, 1, 2, 4))
    cluster.orders.clear()
    for _ in range(LOOKS_MAX - 1):
        found = cluster.go_on(found)
        assert (found.waiting, cluster.orders) == (1, [])
    row.update(replicas=[1, 2, 4, 3], adding=[4], removing=[3])
    found = cluster.go_on(found)
    assert len(found.under_way) == 1
    row.update(replicas=[1, 2, 3], adding=[], removing=[])
    for _ in range(LOOKS_MAX):
        assert not found.is_done
        found = cluster.go_on(found)

    assert found.is_done
    assert (len(found.changed), cluster.orders) == (1, [])


def test_what_was_begun_and_is_not_seen_yet_holds_its_slot() -> None:
    cluster = Cluster(partition(0), partition(1))
    found = cluster.advance(move(0, 1, 2, 4), move(1, 1, 2, 4), at_a_time=1)
    cluster.orders.clear()

    assert cluster.go_on(found, at_a_time=1).waiting == 2
    assert cluster.orders == []


def test_what_nobody_leads_is_not_begun_and_holds_no_slot() -> None:
    moving = partition(0, replicas=[1, 2, 4, 3], adding=[4], removing=[3], leader=None)
    cluster = Cluster(moving, partition(1, leader=None), partition(2))

    found = cluster.advance(*(move(n, 1, 2, 4) for n in range(3)), at_a_time=1)

    assert cluster.orders == [(Api.REASSIGN, [[2, [1, 2, 4]]])]
    assert found.stuck == (("t", 0), ("t", 1))
    assert (len(found.under_way), found.waiting) == (1, 2)


def test_what_work_costs_a_broker_is_what_its_cpu_says() -> None:
    fast = broker(1, cpu_millicores=200, work_per_s=10_000_000)
    slow = broker(2, cpu_millicores=400, work_per_s=10_000_000)
    idle = broker(3, cpu_millicores=30, work_per_s=1_000)
    silent = broker(4)
    seats = seats_of([fast, slow, idle, silent])

    assert [seat.cost for seat in seats] == [20_000, 40_000, 30_000, 30_000]
    assert [seat.other_cpu for seat in seats] == [0] * 4
    assert [seat.cost for seat in seats_of([idle, silent])] == [0, 0], "that is noise"


def test_cpu_that_no_work_explains_stays_with_its_broker() -> None:
    usual = [broker(n, cpu_millicores=100, work_per_s=10_000_000) for n in (1, 2, 3)]
    compacting = broker(4, cpu_millicores=900, work_per_s=10_000_000)
    seats = seats_of([*usual, compacting])

    assert [seat.cost for seat in seats] == [10_000] * 3 + [COST_MAX]
    assert seats[3].other_cpu == 900 - 610
    (alone,) = seats_of([broker(1, cpu_millicores=900, work_per_s=1_000)])
    assert (alone.cost, alone.other_cpu) == (COST_MAX, 900)


def test_work_is_counted_only_where_all_of_it_is_known() -> None:
    told = partition(0, work_per_s=2_000, copy_work_per_s=1_000)

    def works(*rows: Fields) -> list[tuple[int, int]]:
        placed = placed_of([topic_description(topic(*rows))], fix_moving=True)
        return [(p.work, p.copy_work) for p in placed]

    assert works(told, partition(1, leader=None)) == [(2_000, 1_000), (0, 0)]
    assert works(told, partition(1, error="damaged")) == [(2_000, 1_000), (0, 0)]
    assert works(told, partition(1)) == [(0, 0), (0, 0)], "its leader is young"


def test_a_broker_tells_how_it_is() -> None:
    own = {"replica_bytes": 7, "cpu_millicores": 421, "disk_bytes": 1_000, "disk_free_bytes": 250}
    found = broker_info(_item(broker(1)), own)

    assert (found.bytes, found.cpu_millicores, found.disk_used_bytes) == (7, 421, 750)
    assert plain(brokers_table([found]))[1].split()[-5:] == ["B", "42", "%", "75", "%"]
    silent = broker_info(_item(broker(1)), {})
    assert silent.cpu_millicores is silent.disk_used_bytes is silent.bytes is None
    assert plain(brokers_table([silent]))[1].split()[-3:] == ["-", "-", "-"]


@pytest.mark.parametrize(
    ("why", "text"),
    [
        (None, None),
        (Why("cpu", 1, 614, 415), "1: CPU 61 % -> 42 %"),
        (Why("bytes", 2, 3 << 20, 1 << 19), "2: bytes 3.0 MiB -> 512.0 KiB"),
        (Why("replicas", 2, 9, 8), "2: replicas 9 -> 8"),
        (Why("racks", 2, 1, 2), "racks 1 -> 2"),
    ],
)
def test_a_move_says_why(why: Why | None, text: str | None) -> None:
    moved = Move("t", 0, (1, 2), (2, 1), 5, why)

    assert move_map(moved)["why"] == text
    assert plan_table([moved]).rows[0][-1] == text


def test_an_answer_of_another_length_is_no_answer() -> None:
    cluster = Cluster(partition(0))
    cluster.refusals = {}
    reply = cluster.operations.elect("t", [0, 1], unclean=False)
    next(reply)

    with pytest.raises(ProtocolError, match="2 partitions were answered"):
        reply.send({"results": [None]})


def test_the_last_broker_is_not_cordoned() -> None:
    cluster = Cluster(partition())
    cluster.brokers = [broker(1), broker(2, is_cordoned=True), broker(3, state="down")]

    with pytest.raises(ConflictError, match="Start another broker, or give broker 2 back"):
        cluster.run(cluster.operations.drain(1))
    assert cluster.orders == []


def test_a_drain_takes_moves_on_that_are_under_way() -> None:
    """One that was bringing the leaving broker in is turned to another."""
    cluster = Cluster(partition(replicas=[1, 2, 3], isr=[1, 3], adding=[2], removing=[3]))
    plan = cluster.run(cluster.operations.drain(2))

    assert plan == [Move("t", 0, (1, 2), (1, 3), 0)]
    assert cluster.orders == [(Api.CORDON, {"broker": 2, "cordoned": True})]
