"""The simulated metadata store keeps the rules of core/meta/store.py, and is unkind within them."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tests.support.memory_store import MemoryStore
from zmqmq.core.meta.store import (
    OPERATIONS_MAX,
    OWN_LEASE,
    AmbiguousError,
    Batch,
    Commit,
    CompactedError,
    Delete,
    If,
    LeaseGoneError,
    Op,
    Put,
    Snapshot,
    StoreError,
    UnavailableError,
)
from zmqmq.sim.chance import Chance
from zmqmq.sim.keyspace import Keyspace
from zmqmq.sim.links import Weather
from zmqmq.sim.loop import Loop
from zmqmq.sim.network import Network
from zmqmq.sim.node import MS, SECOND, Node
from zmqmq.sim.store import Store
from zmqmq.sim.store_client import StoreClient
from zmqmq.sim.trace import Trace

TTL = 10 * SECOND
KEYS = [b"a", b"a/1", b"a/2", b"b", b"b\xff", b"c"]


class World:
    """A store and two brokers."""

    def __init__(self, seed: int = 1) -> None:
        self.loop = Loop()
        self.chance = Chance(seed)
        self.trace = Trace()
        self.network = Network(self.loop, self.chance, self.trace, Weather())
        self.store = Store(self.loop, self.chance, self.trace, self.network)
        self.b1, self.b2 = (Node(self.loop, name, self.chance) for name in ("b1", "b2"))
        self.one, self.two = self.store.client(self.b1), self.store.client(self.b2)

    def run(self, ns: int) -> None:
        self.loop.run_until(self.loop.now + ns)

    def commit(self, *ops: Op, ifs: tuple[If, ...] = ()) -> Any:
        answers: list[object] = []
        self.one.commit(ops, ifs, answers.append)
        assert answers == []
        self.run(6 * SECOND)
        (answer,) = answers
        return answer

    def listed(self, client: StoreClient | None = None) -> Any:
        answers: list[object] = []
        (client or self.one).list(b"", answers.append)
        self.run(6 * SECOND)
        (answer,) = answers
        return answer

    def keys(self) -> list[bytes]:
        return [kv.key for kv in self.store.keys.list(b"").items]


class Lives:
    """A session and what was heard of it."""

    def __init__(self, world: World, client: StoreClient) -> None:
        self.world = world
        self.started: list[int] = []
        self.lost: list[tuple[int, str]] = []
        self.session = client.session(TTL, self.started.append, self._lost)
        self.began = world.loop.now

    def _lost(self, reason: str) -> None:
        self.lost.append((self.world.loop.now, reason))


class Follower:
    """A watch and what it brought."""

    def __init__(
        self, world: World, client: StoreClient, prefix: bytes = b"", start: int = 2
    ) -> None:
        self.world = world
        self.batches: list[Batch] = []
        self.times: list[int] = []
        self.ends: list[StoreError] = []
        self.watch = client.watch(prefix, start, self._take, self.ends.append)

    def _take(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.times.append(self.world.loop.now)

    @property
    def real(self) -> list[Batch]:
        return [batch for batch in self.batches if batch.events]


@pytest.fixture
def world() -> World:
    return World()


# What it holds


@pytest.mark.parametrize("seed", range(30))
def test_random_operations_have_the_results_of_the_oracle(seed: int) -> None:
    rng = Random(seed)
    keys, oracle = Keyspace(), MemoryStore()
    for lease in (1, 2, 3):
        keys.grant(lease)
        oracle.leases.add(lease)
    for _ in range(150):
        if rng.random() < 0.05 and oracle.leases:
            lease = rng.choice(sorted(oracle.leases))
            keys.end(lease)
            oracle.end_lease(lease)
            assert not keys.has_lease(lease)
        elif rng.random() < 0.05 and oracle.revision > oracle.compacted:
            revision = rng.randint(oracle.compacted + 1, oracle.revision)
            keys.compact(revision)
            oracle.compact(revision)
        else:
            ops, ifs = random_commit(rng)
            assert outcome(keys.commit, ops, ifs) == outcome(oracle.commit, ops, ifs)
        prefix = rng.choice([b"", b"a", b"b", b"b\xff", b"x"])
        revision = rng.choice([0, 0, rng.randint(1, oracle.revision)])
        assert outcome(keys.list, prefix, revision) == outcome(
            oracle.snapshot, prefix, 0, None, revision
        )
        assert outcome(keys.batches, prefix, revision) == outcome(oracle.events, prefix, revision)
        key = rng.choice(KEYS)
        assert keys.get(key) == oracle.now.get(key)


def random_commit(rng: Random) -> tuple[list[Op], list[If]]:
    ops: list[Op] = [
        Put(key, rng.choice([b"x", b"y"]), rng.choice([0, 0, 1, 2, 3]))
        if rng.random() < 0.7
        else Delete(key)
        for key in rng.sample(KEYS, rng.randrange(4))
    ]
    ifs: list[If] = []
    for key in rng.sample(KEYS, rng.choice([0, 0, 1, 2])):
        target = rng.choice(["create", "mod", "version", "lease", "value"])
        value: Any = rng.choice([b"x", b"y"]) if target == "value" else rng.randrange(30)
        ifs.append(If(key, target, rng.choice(["==", "!=", "<", ">"]), value))  # type: ignore[arg-type]
    return ops, ifs


def outcome(call: Any, *arguments: Any) -> object:
    try:
        return call(*arguments)
    except StoreError as error:
        return type(error), str(error)


def test_the_future_cannot_be_compacted() -> None:
    with pytest.raises(ValueError, match="yet to come"):
        Keyspace().compact(2)


# Calls


def test_a_commit_and_a_read(world: World) -> None:
    assert world.commit(Put(b"k", b"v")) == Commit(ok=True, revision=2, current={})
    lost = world.commit(Put(b"k", b"w"), ifs=(If(b"k", "create", "==", 0),))
    assert (lost.ok, lost.current[b"k"].value) == (False, b"v")
    found = world.listed(world.two)

    assert isinstance(found, Snapshot)
    assert (found.revision, found.items[0].value) == (2, b"v")


def test_what_no_store_takes_is_refused_at_once(world: World) -> None:
    with pytest.raises(ValueError, match="operations"):
        world.one.commit([Put(b"%d" % n, b"") for n in range(OPERATIONS_MAX + 1)], (), print)
    with pytest.raises(ValueError, match="twice"):
        world.one.commit([Put(b"k", b""), Delete(b"k")], (), print)


def test_a_put_with_a_lease_that_is_not_there(world: World) -> None:
    error = world.commit(Put(b"k", b"v", 77))

    assert isinstance(error, LeaseGoneError)
    assert world.keys() == []


def test_calls_end_when_the_store_cannot_be_reached() -> None:
    outcomes: set[type] = set()
    for seed in range(20):
        world = World(seed)
        world.network.cut("b1", "store")
        began = world.loop.now
        answers: list[object] = []
        world.one.commit([Put(b"k", b"v")], (), answers.append)
        reads: list[object] = []
        world.one.list(b"", reads.append)
        world.loop.run_until(began + 5 * SECOND)
        outcomes.add(type(answers[0]))
        assert type(reads[0]) is UnavailableError
        is_settled = type(answers[0]) is UnavailableError
        world.network.heal_all()
        world.run(20 * SECOND)
        assert len(answers) == len(reads) == 1
        assert not (is_settled and world.keys()), "a definite no was applied"

    assert outcomes == {UnavailableError, AmbiguousError}


def test_a_commit_may_be_applied_long_after_it_was_given_up_under_the_conditions_of_then() -> None:
    applied, refused = 0, 0
    for seed in range(60):
        world = World(seed)
        answers: list[object] = []
        world.network.cut("b1", "store")
        world.one.commit([Put(b"k", b"late")], [If(b"k", "create", "==", 0)], answers.append)
        if seed % 2:
            world.two.commit([Put(b"k", b"other")], (), print_nothing)
        world.run(30 * SECOND)
        world.network.heal_all()
        world.run(SECOND)
        found = world.store.keys.get(b"k")
        applied += found is not None and found.value == b"late"
        refused += found is not None and found.value == b"other"

    assert applied > 3
    assert refused == 30


def print_nothing(_: object) -> None:
    pass


def test_an_ambiguous_commit_was_applied_is_applied_late_or_never() -> None:
    stories: set[tuple[bool, bool, bool]] = set()
    for seed in range(60):
        world = World(seed)
        world.store.ambiguity = 1_000_000
        answers: list[object] = []
        world.one.commit([Put(b"k", b"v")], (), answers.append)
        world.run(50 * MS)
        soon = bool(world.keys())
        world.loop.run_until(5 * SECOND)
        (answer,) = answers
        assert isinstance(answer, Commit | AmbiguousError)
        in_time = bool(world.keys())
        world.run(10 * SECOND)
        stories.add((soon, in_time, bool(world.keys())))

    assert stories >= {(True,) * 3, (False, True, True), (False, False, True), (False,) * 3}


def test_an_outage_refuses_forgets_or_delays() -> None:
    stories: set[tuple[str, bool]] = set()
    for seed in range(40):
        world = World(seed)
        world.store.outage(20 * SECOND)
        answers: list[object] = []
        world.one.commit([Put(b"k", b"v")], (), answers.append)
        world.run(19 * SECOND)
        assert world.keys() == []
        world.run(5 * SECOND)
        stories.add((type(answers[0]).__name__, bool(world.keys())))

    assert stories == {
        ("UnavailableError", False),
        ("AmbiguousError", False),
        ("AmbiguousError", True),
    }


def test_after_an_outage_all_is_well(world: World) -> None:
    world.store.outage(2 * SECOND)
    world.run(3 * SECOND)

    assert world.commit(Put(b"k", b"v")).ok


def test_a_dead_process_hears_nothing_but_its_commit_may_count() -> None:
    applied = set()
    for seed in range(20):
        world = World(seed)
        answers: list[object] = []
        world.one.commit([Put(b"k", b"v")], (), answers.append)
        world.b1.crash()
        world.b1.restart()
        world.run(10 * SECOND)
        assert answers == []
        applied.add(bool(world.keys()))

    assert applied == {True, False}


# Sessions


def test_a_session_lives_as_long_as_it_is_renewed(world: World) -> None:
    life = Lives(world, world.one)
    world.run(SECOND)
    (lease,) = life.started
    assert life.session.lease == lease > 0
    assert world.commit(Put(b"k", b"v", OWN_LEASE)).ok
    world.run(100 * SECOND)

    assert life.lost == []
    assert life.session.is_alive
    found = world.store.keys.get(b"k")
    assert found is not None
    assert found.lease == lease


def test_without_a_session_there_is_no_own_lease(world: World) -> None:
    assert isinstance(world.commit(Put(b"k", b"v", OWN_LEASE)), LeaseGoneError)
    life = Lives(world, world.one)
    assert isinstance(world.commit(Put(b"k", b"v", OWN_LEASE)), LeaseGoneError), "not granted yet"
    assert world.commit(Put(b"k", b"v", OWN_LEASE)).ok
    life.session.revoke()
    assert isinstance(world.commit(Put(b"k", b"v", OWN_LEASE)), LeaseGoneError)
    assert life.lost == []
    assert world.keys() == []


def test_a_node_has_one_session_and_may_begin_another(world: World) -> None:
    life = Lives(world, world.one)
    world.run(SECOND)
    with pytest.raises(AssertionError, match="one session"):
        Lives(world, world.one)
    life.session.revoke()
    again = Lives(world, world.one)
    world.run(SECOND)

    assert again.started != life.started


def test_a_node_that_is_cut_off_loses_its_session_before_the_store_ends_it() -> None:
    for seed in range(20):
        world = World(seed)
        life = Lives(world, world.one)
        world.run(20 * SECOND)
        world.commit(Put(b"k", b"v", OWN_LEASE))
        cut_at = world.loop.now
        world.network.cut("b1", "store")
        while world.keys():
            world.run(10 * MS)
            if not life.lost:
                assert world.keys(), "the store ended what its holder believed in"
        (lost_at, reason) = life.lost[0]
        assert "not renewed" in reason
        assert 5 * SECOND < lost_at - cut_at <= TTL
        assert world.loop.now - cut_at <= TTL + 600 * MS
        world.network.heal_all()
        world.run(30 * SECOND)
        assert len(life.lost) == 1


def test_a_paused_node_learns_when_it_wakes(world: World) -> None:
    life = Lives(world, world.one)
    world.run(SECOND)
    world.commit(Put(b"k", b"v", OWN_LEASE))
    world.b1.pause(30 * SECOND)
    woken_at = world.loop.now + 30 * SECOND
    world.run(29 * SECOND)
    assert world.keys() == []
    assert life.session.is_alive, "it knows nothing"
    world.run(2 * SECOND)

    assert [when for when, _ in life.lost] == [woken_at]


def test_a_session_that_cannot_be_had(world: World) -> None:
    world.network.cut("b1", "store")
    life = Lives(world, world.one)
    world.run(6 * SECOND)

    assert life.started == []
    assert "no lease was granted" in life.lost[0][1]


def test_a_lease_that_ends_early(world: World) -> None:
    lives = [Lives(world, world.one), Lives(world, world.two)]
    world.run(SECOND)
    world.commit(Put(b"k", b"v", OWN_LEASE))
    world.store.expire("b1")
    assert world.keys() == []
    assert not world.store.has_lease("b1")
    assert world.store.has_lease("b2")
    world.run(TTL // 2)
    assert (len(lives[0].lost), len(lives[1].lost)) == (1, 0)
    world.store.expire()
    world.run(TTL // 2)

    assert (len(lives[0].lost), len(lives[1].lost)) == (1, 1)


def test_the_keys_of_a_lease_go_at_one_revision_in_their_order(world: World) -> None:
    Lives(world, world.one)
    world.run(SECOND)
    world.commit(Put(b"b", b"", OWN_LEASE), Put(b"c", b""), Put(b"a", b"", OWN_LEASE))
    follower = Follower(world, world.two, start=3)
    world.store.expire("b1")
    world.run(SECOND)

    assert [[event.kv.key for event in batch.events] for batch in follower.real] == [[b"a", b"b"]]


def test_a_killed_node_keeps_its_lease_for_its_time_and_an_outage_doubles_it(
    world: World,
) -> None:
    Lives(world, world.one)
    Lives(world, world.two)
    world.run(SECOND)
    world.b1.crash()
    died = world.loop.now
    world.run(TTL // 2)
    assert world.store.has_lease("b1")
    world.store.outage(world.loop.now + SECOND)
    world.run(TTL // 2 + 2 * SECOND)
    assert world.store.has_lease("b1"), "without the outage it would be over"
    world.run(TTL)

    assert not world.store.has_lease("b1")
    assert world.store.has_lease("b2")
    assert world.loop.now - died < 3 * TTL


def test_no_lease_ends_in_an_outage(world: World) -> None:
    Lives(world, world.one)
    world.run(SECOND)
    world.b1.crash()
    world.store.outage(world.loop.now + 10 * TTL)
    world.run(10 * TTL + TTL // 2)
    assert world.store.has_lease("b1")
    world.run(TTL)
    assert not world.store.has_lease("b1")


@pytest.mark.parametrize("ppm", [5_000, -5_000])
def test_a_deadline_is_on_the_nodes_own_clock(world: World, ppm: int) -> None:
    world.b1.clock.drift(ppm)
    life = Lives(world, world.one)
    world.run(SECOND)
    left = life.session.deadline_ns - world.b1.monotonic_ns()
    began = world.loop.now
    world.network.cut("b1", "store")
    world.run(2 * TTL)

    assert abs(life.lost[0][0] - began - left * 1_000_000 // (1_000_000 + ppm)) < MS


# Watches


def test_a_watch_brings_a_batch_for_each_revision_in_order(world: World) -> None:
    world.commit(Put(b"a/1", b"old"))
    follower = Follower(world, world.two, b"a/")
    for number in range(100):
        world.one.commit([Put(b"a/%d" % number, b""), Put(b"b", b"")], (), print_nothing)
        world.one.commit([Put(b"c", b"")], (), print_nothing)
        world.run(2 * MS)
    world.run(SECOND)

    assert follower.real == list(world.store.keys.batches(b"a/", 2))
    revisions = [batch.revision for batch in follower.batches]
    assert revisions == sorted(set(revisions))
    assert 101 < len(follower.batches) < 180, "and now and then a mark of progress"


def test_watches_lag_each_by_itself() -> None:
    world = World(3)
    one, two = Follower(world, world.one), Follower(world, world.two)
    world.store.lag("b1", 10 * SECOND)
    world.run(SECOND)
    for number in range(20):
        world.one.commit([Put(b"%d" % number, b"")], (), print_nothing)
    world.run(SECOND)
    assert (len(one.batches), len(two.batches)) == (0, 20)
    assert len({late - world.loop.now for late in two.times}) > 1
    world.run(20 * SECOND)

    assert one.batches == two.batches


@pytest.mark.parametrize("seed", range(10))
def test_a_watch_that_breaks_again_and_again_misses_and_repeats_nothing(seed: int) -> None:
    world = World(seed)
    follower = Follower(world, world.two)
    rng = Random(seed)
    for number in range(300):
        world.one.commit([Put(b"%d" % (number % 7), b"%d" % number)], (), print_nothing)
        match rng.randrange(20):
            case 0:
                world.store.break_watches("b2")
            case 1:
                world.network.cut("b2", "store", both=rng.random() < 0.5)
            case 2:
                world.network.cut("store", "b2", both=False)
            case 3 | 4 | 5:
                world.network.heal_all()
            case 6:
                world.store.outage(world.loop.now + rng.randrange(200 * MS))
            case 7:
                world.b2.pause(rng.randrange(300 * MS))
        world.run(rng.randrange(50 * MS))
    world.network.heal_all()
    world.run(20 * SECOND)

    assert follower.ends == []
    assert follower.real == list(world.store.keys.batches(b"", 2))
    assert len(follower.real) > 150


def test_history_that_is_gone_ends_a_watch(world: World) -> None:
    for _ in range(5):
        world.commit(Put(b"k", b"v"))
    live, behind = Follower(world, world.one), Follower(world, world.two, start=3)
    world.run(SECOND)
    world.network.cut("b2", "store")
    world.commit(Put(b"k", b"w"))
    world.commit(Put(b"k", b"x"))
    world.store.compact_now()
    world.store.compact_now()
    world.network.heal_all()
    world.run(20 * SECOND)
    assert live.ends == []
    assert len(live.real) == 7
    (error,) = behind.ends
    assert isinstance(error, CompactedError)
    assert error.revision == world.store.keys.revision == 8
    assert [batch.revision for batch in behind.real] == [3, 4, 5, 6]

    again = Follower(world, world.two, start=8)
    world.run(SECOND)
    assert [batch.revision for batch in again.real] == [8]


def test_compaction_by_a_client(world: World) -> None:
    world.commit(Put(b"k", b"v"))
    answers: list[object] = []
    world.one.compact(2, answers.append)
    world.run(SECOND)
    world.one.compact(2, answers.append)
    world.run(SECOND)

    assert answers[0] is None
    assert isinstance(answers[1], CompactedError)


def test_a_cancelled_watch_and_one_of_a_dead_node_bring_nothing(world: World) -> None:
    one, two = Follower(world, world.one), Follower(world, world.two)
    world.run(SECOND)
    one.watch.cancel()
    world.b2.crash()
    world.b2.restart()
    world.commit(Put(b"k", b"v"))

    assert one.batches == two.batches == []


def test_one_seed_one_history() -> None:
    def digest(seed: int) -> str:
        world = World(seed)
        world.store.ambiguity = 300_000
        Lives(world, world.one)
        Follower(world, world.two)
        for number in range(100):
            world.one.commit([Put(b"%d" % (number % 5), b"%d" % number)], (), print_nothing)
            world.run(20 * MS)
        return world.trace.digest()

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)
