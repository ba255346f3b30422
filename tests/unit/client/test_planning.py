"""What plans promise (client/machines/planning.py), of any cluster that hypothesis thinks of."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from zmqmq.client.machines.planning import Move, Placed, Seat, plan_balance, plan_drain

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
