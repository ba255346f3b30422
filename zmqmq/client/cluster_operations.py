"""What a client can ask about brokers, and have moved between them; written as operations.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from zmqmq.client.cluster_info import (
    BrokerInfo,
    ClusterStatus,
    Progress,
    Where,
    broker_info,
    placed_of,
    seats_of,
    status_of,
)
from zmqmq.client.describing import PartitionDescription, TopicDescription, items_of
from zmqmq.client.machines.core import Core
from zmqmq.client.machines.effects import NEVER, SECOND, Reply, Resolved
from zmqmq.client.machines.planning import Move, plan_balance, plan_drain
from zmqmq.client.operations import Ask, Operation, Operations
from zmqmq.errors import (
    Code,
    NotFoundError,
    ProtocolError,
    WireError,
    ZmqmqError,
    error_from_wire,
    refusal,
)
from zmqmq.wire.apis import Api
from zmqmq.wire.frame import Fields

REORDERS_MAX: Final = 200
"""Moves without data that are begun at a time."""
ELECTIONS_MAX: Final = 200
LOOKS_MAX: Final = 10
"""So often the broker that describes may not have heard yet of a move that was begun; then somebody
has taken it back."""
OWN_PATIENCE: Final = 2 * SECOND
"""Whoever looks at the cluster because a broker hangs does not want to wait for that broker."""


class ClusterOperations:
    """The operations of one client that are about its cluster."""

    def __init__(self, core: Core, operations: Operations) -> None:
        self._core = core
        self._operations = operations

    # Looking

    def brokers(self) -> Operation[list[BrokerInfo]]:
        """Every broker, by number; each that is up is asked how it is."""
        items = yield from self._items()
        found = []
        for item in items:
            own: Fields = {}
            if item.get("address") is not None:
                own = yield from self._ask_itself(int(item["broker"]))
            found.append(broker_info(item, own))
        return found

    def status(self) -> Operation[ClusterStatus]:
        """The cluster at one glance."""
        (me,) = yield from self._operations.describe("broker", None, internal=False)
        brokers = yield from self.brokers()
        topics = yield from self._topics()
        return status_of(bytes(me.get("cluster") or b"").hex(), brokers, topics)

    # Single orders

    def reassign(
        self, topic: str, partitions: Mapping[int, Sequence[int] | None]
    ) -> Operation[None]:
        """Move partitions, or with None give a move up. Raises the first refusal."""
        errors = yield from self._reassign(topic, dict(partitions))
        if errors:
            raise errors[min(errors)]

    def elect(
        self, topic: str, partitions: Sequence[int] | None, *, unclean: bool
    ) -> Operation[dict[int, WireError]]:
        """Let first replicas lead, or whoever has most; what was refused, by partition."""
        kind = "unclean" if unclean else "preferred"
        fields: Fields = {"topic": topic, "kind": kind, "partitions": partitions}
        reply = yield from self._operations.ask(Api.ELECT, fields)
        results = reply.get("results") or ()
        numbers = range(len(results)) if partitions is None else partitions
        return _errors(numbers, results)

    def cordon(self, broker: int, *, cordoned: bool) -> Operation[None]:
        """Whether a broker is given new partitions."""
        fields: Fields = {"broker": broker, "cordoned": cordoned}
        yield from self._operations.ask(Api.CORDON, fields)

    # Plans

    def plan_balance(self) -> Operation[list[Move]]:
        """Moves that even out the load."""
        brokers = yield from self.brokers()
        topics = yield from self._topics()
        return plan_balance(seats_of(brokers), placed_of(topics, fix_moving=True))

    def drain(self, broker: int) -> Operation[list[Move]]:
        """Cordon a broker; the moves that empty it. Raises ConflictError if it is the last one."""
        brokers = yield from self.brokers()
        check_brokers(brokers, [broker])
        if not any(b.is_open and b.broker != broker for b in brokers):
            closed = [b.broker for b in brokers if b.is_cordoned and b.broker != broker]
            way = f", or give broker {closed[0]} back" if closed else ""
            raise refusal(
                Code.CONFLICT,
                f"broker {broker} is the last that is up and takes partitions: nobody could take "
                f"over from it. Start another broker{way}",
            )
        yield from self.cordon(broker, cordoned=True)
        topics = yield from self._topics()
        moves, _ = plan_drain(seats_of(brokers), placed_of(topics, fix_moving=False), broker)
        return moves

    def advance(self, plan: Sequence[Move] | Progress, at_a_time: int) -> Operation[Progress]:
        """Look how far a plan is, and begin what may be begun now."""
        last = plan if isinstance(plan, Progress) else Progress(tuple(plan))
        topics = yield from self._topics()
        known = {(t.name, p.partition): p for t in topics for p in t.partitions}
        look = _look(last, known)
        ready = [m for m in look.waiting if m not in last.begun and _is_led(known[_where(m)])]
        unseen = [m for m in look.waiting if m.added and m in last.begun]
        slots = at_a_time - sum(_is_led(known[_where(m)]) for m in (*look.under_way, *unseen))
        data = [m for m in ready if m.added][: max(slots, 0)]
        reorders = [m for m in ready if not m.added][:REORDERS_MAX]
        refused: list[tuple[Move, ZmqmqError]] = []
        begun = dict(look.begun)
        for topic in dict.fromkeys(m.topic for m in (*data, *reorders)):
            some = {m.partition: m for m in (*data, *reorders) if m.topic == topic}
            targets = {number: move.after for number, move in some.items()}
            errors = yield from self._reassign(topic, targets)
            refused += [(some[n], e) for n, e in errors.items() if e.code is not Code.CONFLICT]
            begun |= {move: 0 for number, move in some.items() if number not in errors}
        yield from self._give_back(look.done, known)
        unfinished = (*look.under_way, *look.waiting)
        return Progress(
            last.plan,
            tuple(look.done),
            tuple(look.under_way),
            {_where(m): _lag_of(known[_where(m)]) for m in look.under_way},
            tuple(_where(m) for m in unfinished if not _is_led(known[_where(m)])),
            len(look.waiting) - len(refused),
            (*last.refused, *refused),
            tuple(look.changed),
            begun,
        )

    # Inside

    def describe_topic(self, name: str) -> Operation[TopicDescription]:
        """One topic with its partitions."""
        return self._operations.describe_topic(name)

    def ask_exactly(
        self, broker: int, api: Api, fields: Fields, patience: int = NEVER
    ) -> Operation[Reply]:
        """Ask one broker, and wait no longer than for other requests, or than this. Raises
        DisconnectedError if it cannot be reached."""
        reply = yield Ask(self._call_exactly, (api, fields, broker, patience))
        return cast("Reply", reply)

    def find_brokers(self) -> Operation[None]:
        """Learn where every broker is, for `ask_exactly`."""
        yield from self._items()

    def _topics(self) -> Operation[list[TopicDescription]]:
        return self._operations.describe_all(internal=True)

    def _items(self) -> Operation[list[Fields]]:
        items = yield from self._operations.describe("brokers", None, internal=False)
        addresses = {
            item["broker"]: item["address"] for item in items if type(item.get("address")) is str
        }
        yield Ask(self._note_brokers, (addresses,))
        return items

    def _ask_itself(self, broker: int) -> Operation[Fields]:
        try:
            fields: Fields = {"kind": "broker"}
            reply = yield from self.ask_exactly(broker, Api.DESCRIBE, fields, OWN_PATIENCE)
        except ZmqmqError:
            return {}
        items, _ = items_of(reply.fields)
        return items[0] if items else {}

    def _reassign(
        self, topic: str, targets: Mapping[int, Sequence[int] | None]
    ) -> Operation[dict[int, WireError]]:
        entries = [[n, None if t is None else list(t)] for n, t in targets.items()]
        reply = yield from self._operations.ask(
            Api.REASSIGN, {"topic": topic, "partitions": entries}
        )
        return _errors(list(targets), reply.get("results") or ())

    def _give_back(
        self, done: Sequence[Move], known: Mapping[Where, PartitionDescription]
    ) -> Operation[None]:
        """Let those lead that a move has put first; the controller would, in its own time."""
        astray: dict[str, list[int]] = {}
        for move in done[-ELECTIONS_MAX:]:
            found = known.get(_where(move))
            if found is None or found.replicas != move.after:
                continue
            if found.leader != move.after[0] in found.isr:
                astray.setdefault(move.topic, []).append(move.partition)
        for topic, numbers in astray.items():
            yield from self.elect(topic, numbers, unclean=False)

    def _call_exactly(
        self, now: int, promise: object, api: Api, fields: Fields, broker: int, patience: int
    ) -> None:
        core = self._core
        deadline = now + min(core.request_timeout, patience)
        core.admin.call_exactly(now, api, fields, deadline, promise, broker)

    def _note_brokers(self, _now: int, promise: object, addresses: dict[int, str]) -> None:
        self._core.network.note_brokers(addresses)
        self._core.effects.append(Resolved(promise, None))


def check_brokers(known: Sequence[BrokerInfo], wanted: Sequence[int]) -> None:
    """Raise NotFoundError for a number that no broker has."""
    ids = [b.broker for b in known]
    for broker in wanted:
        if broker not in ids:
            there = ", ".join(map(str, ids))
            raise NotFoundError(
                f"there is no broker {broker}; there are {there}", code=Code.UNKNOWN_BROKER
            )


def _errors(numbers: Sequence[int], results: Sequence[Any]) -> dict[int, WireError]:
    if len(results) != len(numbers):
        raise ProtocolError(f"{len(numbers)} partitions were answered with {results!r:.100}")
    found = zip(numbers, results, strict=True)
    return {n: error_from_wire(result) for n, result in found if result is not None}


def _where(move: Move) -> Where:
    return move.topic, move.partition


def _is_led(partition: PartitionDescription) -> bool:
    """Whether somebody leads it; if not, nothing of it can be copied."""
    return partition.leader is not None


class _Look(NamedTuple):
    """The moves of a plan, by what there is now."""

    done: list[Move]
    under_way: list[Move]
    waiting: list[Move]
    changed: list[Move]
    begun: dict[Move, int]


def _look(last: Progress, known: Mapping[Where, PartitionDescription]) -> _Look:
    """What is done, what is under way, and so on; what was refused is none of that.

    A move is begun once, and only from where it was planned: or two plans for one partition would
    undo each other's moves for ever. A partition that is gone is done with.
    """
    look = _Look([], [], [], [], {})
    done, changed, refused = {*last.done}, {*last.changed}, {m for m, _ in last.refused}
    for move in last.plan:
        found = known.get(_where(move))
        if move in refused:
            continue
        if move in changed:
            look.changed.append(move)
        elif (
            move in done or found is None or (found.replicas == move.after and not found.is_moving)
        ):
            look.done.append(move)
        elif found.is_moving and found.target == move.after:
            look.under_way.append(move)
            look.begun[move] = 0
        elif found.target != move.before or last.begun.get(move, 0) >= LOOKS_MAX - 1:
            look.changed.append(move)
        else:
            look.waiting.append(move)
            if move in last.begun:
                look.begun[move] = last.begun[move] + 1
    return look


def _lag_of(partition: PartitionDescription) -> int | None:
    lags = [partition.lag.get(b) for b in partition.adding]
    return None if None in lags else max((lag for lag in lags if lag is not None), default=0)
