"""What plans promise (client/machines/planning.py), of any cluster that hypothesis thinks of."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from zmqmq.client.machines.loads import COST_UNIT, FULL_PERCENT
from zmqmq.client.machines.planning import Move, Placed, Seat, Why, plan_balance, plan_drain
from zmqmq.client.machines.relieving import FLOOR

Cluster = tuple[list[Seat], list[Placed]]


@st.composite
def clusters(draw: st.DrawFn, *, racks: bool = True, sizes: int = 1_000) -> Cluster:
    """Brokers, some of them closed, and partitions that lie anyhow."""
    count = draw(st.integers(1, 6))
    names = st.sampled_from([None, "a", "b", "c"]) if racks else st.none()
    seats = [
        Seat(b, draw(names), is_open=draw(st.booleans()) if racks else True)
        for b in range(1, count + 1)
    ]
    ids = [seat.broker for seat in seats]
    places = st.lists(st.sampled_from(ids), min_size=1, max_size=3, unique=True)
    found = draw(st.lists(st.tuples(places, st.integers(0, sizes)), max_size=24))
    fixed = st.integers(0, 9) if racks else st.just(1)
    return seats, [
        Placed("t" if n % 3 else "u", n, tuple(replicas), size, is_fixed=draw(fixed) == 0)
        for n, (replicas, size) in enumerate(found)
    ]


@st.composite
def busy(draw: st.DrawFn, *, racks: bool = True) -> Cluster:
    """Brokers of many kinds, with disks that may be full, and partitions that have much to do."""
    seats, partitions = draw(clusters(racks=racks))
    costs = st.integers(0, 40).map(lambda n: n * COST_UNIT // 100)
    disks = st.sampled_from([0, 5_000, 10_000, 20_000])
    found = []
    for seat in seats:
        disk = draw(disks)
        used = draw(st.integers(0, disk))
        found.append(
            seat._replace(
                cost=draw(costs),
                other_cpu=draw(st.sampled_from([0, 0, 200])),
                disk_bytes=disk,
                disk_used_bytes=used if disk else 0,
            )
        )
    works = st.integers(0, 2_000)
    return found, [
        p._replace(work=(work := draw(works)) + draw(works), copy_work=work) for p in partitions
    ]


def filled(seats: list[Seat], moves: list[Move]) -> list[Seat]:
    """The brokers when all moves are done."""
    return [
        seat._replace(
            disk_used_bytes=max(
                seat.disk_used_bytes
                + sum(m.bytes for m in moves if seat.broker in m.added)
                - sum(m.bytes for m in moves if seat.broker in m.removed),
                0,
            )
        )
        for seat in seats
    ]


def cpu(seats: list[Seat], partitions: list[Placed]) -> dict[int, int]:
    """Millicores of each open broker."""
    work: Counter[int] = Counter()
    for p in partitions:
        for b in p.replicas:
            work[b] += p.work if b == p.replicas[0] else p.copy_work
    return {
        s.broker: s.other_cpu + work[s.broker] * s.cost // COST_UNIT for s in seats if s.is_open
    }


def after(partitions: list[Placed], moves: list[Move]) -> list[Placed]:
    """The partitions when all moves are done."""
    found = {(m.topic, m.partition): m for m in moves}
    assert len(found) == len(moves), "a partition is moved twice"
    for placed in partitions:
        move = found.get((placed.topic, placed.partition))
        assert move is None or move.before == placed.replicas
    return [
        p._replace(replicas=found[p.topic, p.partition].after)
        if (p.topic, p.partition) in found
        else p
        for p in partitions
    ]


def rack(seats: list[Seat], broker: int) -> str:
    (name,) = [seat.rack for seat in seats if seat.broker == broker]
    return f"own {broker}" if name is None else name


def spread(seats: list[Seat], placed: Placed) -> int:
    return len({rack(seats, b) for b in placed.replicas})


def open_ids(seats: list[Seat]) -> list[int]:
    return [seat.broker for seat in seats if seat.is_open]


def counts(seats: list[Seat], partitions: list[Placed]) -> dict[int, int]:
    held = Counter(b for p in partitions for b in p.replicas)
    return {b: held[b] for b in open_ids(seats)}


def sizes(seats: list[Seat], partitions: list[Placed]) -> dict[int, int]:
    held: Counter[int] = Counter()
    for p in partitions:
        for b in p.replicas:
            held[b] += p.bytes
    return {b: held[b] for b in open_ids(seats)}


def gap(loads: dict[int, int]) -> int:
    return max(loads.values(), default=0) - min(loads.values(), default=0)


@given(clusters())
def test_a_partition_keeps_its_replicas_and_its_racks(cluster: Cluster) -> None:
    seats, partitions = cluster
    moves = plan_balance(seats, partitions)

    for before, now in zip(partitions, after(partitions, moves), strict=True):
        assert len(set(now.replicas)) == len(now.replicas) == len(before.replicas)
        assert spread(seats, now) >= spread(seats, before)
        assert not before.is_fixed or now == before
    for move in moves:
        assert set(move.added) <= set(open_ids(seats)), "a closed broker is given something"
        assert set(move.removed) <= set(open_ids(seats)), "a closed broker is emptied"


@given(clusters())
def test_what_a_plan_has_done_needs_no_plan(cluster: Cluster) -> None:
    seats, partitions = cluster
    done = after(partitions, plan_balance(seats, partitions))

    assert plan_balance(seats, done) == []


@given(busy())
def test_what_a_plan_has_done_needs_no_plan_under_the_same_load(cluster: Cluster) -> None:
    seats, partitions = cluster
    moves = plan_balance(seats, partitions)
    done = after(partitions, moves)

    assert plan_balance(filled(seats, moves), done) == []


@given(busy())
def test_load_takes_nothing_from_what_is_even_without(cluster: Cluster) -> None:
    """Whoever balances by day and by night moves nothing to and fro."""
    seats, partitions = cluster
    idle = [p._replace(work=0, copy_work=0) for p in partitions]
    moves = plan_balance(seats, partitions)
    done = [p._replace(work=0, copy_work=0) for p in after(partitions, moves)]

    assert plan_balance(filled(seats, moves), done) == []
    resting = plan_balance(seats, idle)
    for before, now, other in zip(partitions, done, after(idle, resting), strict=True):
        assert spread(seats, now) == spread(seats, other) >= spread(seats, before)
        assert not before.is_fixed or now.replicas == before.replicas
    assert sorted(counts(seats, done).values()) == sorted(
        counts(seats, after(idle, resting)).values()
    )


@given(busy())
def test_the_busiest_has_no_more_to_do_than_without_its_part(cluster: Cluster) -> None:
    seats, partitions = cluster
    moves = plan_balance(seats, partitions)
    free = [seat._replace(cost=0, other_cpu=0) for seat in seats]
    by_count = after(partitions, plan_balance(free, partitions))

    now = cpu(seats, after(partitions, moves))
    assert max(now.values(), default=0) <= max(cpu(seats, by_count).values(), default=0)
    for move in moves:
        assert move.why is not None
        if move.why.what == "cpu":
            assert move.why.before == cpu(seats, partitions).get(move.why.broker)
            assert move.why.after == now[move.why.broker]


@given(busy())
def test_small_loads_are_not_counted(cluster: Cluster) -> None:
    """Nor is the noise of a cluster that has nothing to do."""
    seats, partitions = cluster
    most = max(cpu(seats, [p._replace(work=9_000 * 48) for p in partitions]).values(), default=0)
    quiet = [s._replace(cost=s.cost * FLOOR // max(most, FLOOR), other_cpu=0) for s in seats]
    free = [s._replace(cost=0) for s in quiet]

    assert plan_balance(quiet, partitions) == plan_balance(free, partitions)


@given(busy())
def test_a_full_broker_does_not_get_fuller(cluster: Cluster) -> None:
    found, partitions = cluster
    seats = [s._replace(disk_bytes=100_000, disk_used_bytes=30_000) for s in found]
    seats[0] = seats[0]._replace(disk_used_bytes=1_000 * FULL_PERCENT + 500)
    moves = plan_balance(seats, partitions)

    done = filled(seats, moves)
    assert done[0].disk_used_bytes <= seats[0].disk_used_bytes
    assert all(s.disk_used_bytes <= 1_000 * FULL_PERCENT for s in done[1:])


@given(clusters(racks=False))
def test_replicas_differ_by_one_and_bytes_by_the_bound(cluster: Cluster) -> None:
    seats, partitions = cluster
    done = after(partitions, plan_balance(seats, partitions))

    assert gap(counts(seats, done)) <= 1
    held = sizes(seats, done)
    largest = max((p.bytes for p in partitions), default=0)
    assert gap(held) <= max(sum(held.values()) // (10 * len(seats)), largest)


@given(clusters())
def test_within_a_rack_the_same_holds(cluster: Cluster) -> None:
    seats, partitions = cluster
    partitions = [p._replace(is_fixed=False) for p in partitions]
    done = after(partitions, plan_balance(seats, partitions))

    held = counts(seats, done)
    for one in held:
        for other in held:
            if rack(seats, one) == rack(seats, other):
                assert abs(held[one] - held[other]) <= 1


@given(clusters(racks=False, sizes=0))
def test_no_more_moves_than_it_takes(cluster: Cluster) -> None:
    seats, partitions = cluster
    moved = sum(len(move.added) for move in plan_balance(seats, partitions))

    held = counts(seats, partitions)
    least, most = divmod(sum(held.values()), len(held))
    over = sum(max(n - least - bool(most), 0) for n in held.values())
    under = sum(max(least - n, 0) for n in held.values())
    assert moved == max(over, under)


@given(clusters(racks=False, sizes=0))
def test_leaders_are_shared_as_evenly_as_replicas_allow(cluster: Cluster) -> None:
    seats, partitions = cluster
    done = after(partitions, plan_balance(seats, partitions))

    led = Counter(p.replicas[0] for p in done)
    assert sum(n * n for n in led.values()) == least_squares(done)


def least_squares(partitions: list[Placed]) -> int:
    """Of all ways to choose leaders, by a flow: each partition to one of its replicas."""
    chosen: dict[int, int] = {}
    led: Counter[int] = Counter()
    # Leaders one by one, each along the cheapest chain: optimal for convex costs.
    for index in range(len(partitions)):
        came: dict[int, tuple[int, int | None]] = dict.fromkeys(
            partitions[index].replicas, (index, None)
        )
        queue = list(came)
        for broker in queue:
            for other, at in chosen.items():
                if at == broker:
                    for b in partitions[other].replicas:
                        if b not in came:
                            came[b] = (other, broker)
                            queue.append(b)
        end = min(came, key=lambda b: led[b])
        led[end] += 1
        at: int | None = end
        while at is not None:
            partition, before = came[at]
            chosen[partition] = at
            at = before
    return sum(n * n for n in led.values())


@given(clusters())
def test_a_broker_is_emptied_as_far_as_there_are_others(cluster: Cluster) -> None:
    seats, partitions = cluster
    leaving = seats[0].broker
    others = [b for b in open_ids(seats) if b != leaving]
    moves, staying = plan_drain(seats, partitions, leaving)
    done = after(partitions, moves)

    left = [p for p in done if leaving in p.replicas]
    assert len(left) == staying
    for before, now in zip(partitions, done, strict=True):
        assert len(set(now.replicas)) == len(before.replicas)
        assert not before.is_fixed or now == before
        kept = [b for b in before.replicas if b != leaving]
        assert set(kept) <= set(now.replicas), "more moved than had to"
    for placed in left:
        if placed.is_fixed:
            continue
        assert set(others) <= set(placed.replicas), "there was room elsewhere"
        assert placed.replicas[0] != leaving or len(placed.replicas) == 1
    assert plan_drain(seats, done, leaving) == ([], staying)


def test_a_drain_leaves_what_nobody_leads() -> None:
    seats = [Seat(b, None, is_open=True) for b in (1, 2, 3)]
    partitions = [Placed("t", 0, (1, 2), 0, is_fixed=True), Placed("t", 1, (1, 2), 0)]

    moves, staying = plan_drain(seats, partitions, 1)

    assert moves == [Move("t", 1, (1, 2), (3, 2), 0)]
    assert staying == 1


def test_a_new_broker_gets_its_share() -> None:
    seats = [Seat(b, None, is_open=True) for b in (1, 2, 3, 4)]
    partitions = [Placed("t", n, ((1, 2, 3), (2, 3, 1), (3, 1, 2))[n % 3], 100) for n in range(12)]
    done = after(partitions, plan_balance(seats, partitions))

    assert counts(seats, done) == {1: 9, 2: 9, 3: 9, 4: 9}
    assert Counter(p.replicas[0] for p in done) == {1: 3, 2: 3, 3: 3, 4: 3}


def test_replicas_in_one_rack_are_taken_apart() -> None:
    seats = [Seat(1, "a", is_open=True), Seat(2, "a", is_open=True), Seat(3, "b", is_open=True)]
    done = after([Placed("t", 0, (1, 2), 1)], plan_balance(seats, [Placed("t", 0, (1, 2), 1)]))

    assert spread(seats, done[0]) == 2


def test_the_first_who_takes_over_is_in_a_rack_apart() -> None:
    seats = [Seat(b, rack, is_open=True) for b, rack in ((1, "a"), (2, "b"), (3, "b"), (4, "a"))]

    (move,), _ = plan_drain(seats, [Placed("t", 0, (1, 2), 1)], 1)

    assert move.after == (4, 2)


def test_a_hot_broker_hands_leaders_over() -> None:
    """As many as before, others: no data moves, and nobody leads more than its share."""
    seats = [Seat(b, None, is_open=True, cost=COST_UNIT // 10) for b in (1, 2, 3)]
    partitions = [
        Placed(
            "t", n, ((1, 2, 3), (2, 3, 1), (3, 1, 2))[n % 3], 100, work=3_000 if n % 3 == 0 else 0
        )
        for n in range(9)
    ]
    moves = plan_balance(seats, partitions)
    done = after(partitions, moves)

    assert not any(move.added for move in moves)
    assert cpu(seats, partitions) == {1: 900, 2: 0, 3: 0}
    assert cpu(seats, done) == {1: 300, 2: 300, 3: 300}
    assert Counter(p.replicas[0] for p in done) == {1: 3, 2: 3, 3: 3}
    assert {move.why for move in moves} == {Why("cpu", 1, 900, 300)}


def test_replicas_are_swapped_where_there_is_no_other() -> None:
    seats = [Seat(b, None, is_open=True, cost=COST_UNIT // 10) for b in (1, 2)]
    partitions = [Placed("t", n, (1 + n % 2,), 100, work=2_000 * (n % 2 == 0)) for n in range(4)]
    done = after(partitions, plan_balance(seats, partitions))

    assert cpu(seats, done) == {1: 200, 2: 200}
    assert counts(seats, done) == {1: 2, 2: 2}


def test_a_slow_broker_gets_less_to_do() -> None:
    seats = [Seat(1, None, True, 3 * COST_UNIT // 10), Seat(2, None, True, COST_UNIT // 10)]
    partitions = [Placed("t", n, (1 + n % 2,), 1, work=100 * (n // 2)) for n in range(20)]
    assert cpu(seats, partitions) == {1: 1_350, 2: 450}

    found = cpu(seats, after(partitions, plan_balance(seats, partitions)))

    assert abs(found[1] - found[2]) <= 180
    assert max(found.values()) < 900


def test_bytes_are_shared_as_the_disks_are_large() -> None:
    seats = [Seat(b, None, is_open=True, disk_bytes=size) for b, size in ((1, 1_000), (2, 3_000))]
    partitions = [Placed("t", n, (1 + n % 2,), 10 * (n // 2)) for n in range(20)]
    held = sizes(seats, after(partitions, plan_balance(seats, partitions)))

    assert abs(3 * held[1] - held[2]) <= 3 * 45
    assert counts(seats, partitions) == {1: 10, 2: 10}


def test_a_disk_is_not_filled_beyond_the_limit() -> None:
    def plan(used: int) -> list[Move]:
        seats = [
            Seat(b, None, is_open=True, disk_bytes=1_000, disk_used_bytes=used if b == 3 else 500)
            for b in (1, 2, 3)
        ]
        return plan_balance(seats, [Placed("t", n, (1, 2), 10) for n in range(3)])

    def given(moves: list[Move]) -> int:
        return sum(3 in move.added for move in moves)

    assert given(plan(500)) == 2
    assert given(plan(785)) == 1, "a second one would be too much"
    assert given(plan(795)) == 0


def test_a_drain_goes_where_there_is_room() -> None:
    seats = [
        Seat(b, None, is_open=True, disk_bytes=1_000, disk_used_bytes=used)
        for b, used in ((1, 500), (2, 900), (3, 700))
    ]
    moves, staying = plan_drain(seats, [Placed("t", n, (1,), 60) for n in range(2)], 1)

    assert [move.after for move in moves] == [(3,)]
    assert staying == 1
