"""How `zmqmq cluster` shows brokers, moves and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from zmqmq_cli.tables import Percent, Size, Table, cell, plural, size_of

if TYPE_CHECKING:
    from zmqmq import BrokerInfo, ClusterStatus, Move

Where = tuple[str, int]
SHOWN_MAX = 3
"""So many partitions are named; the rest is counted."""


def state_of(broker: BrokerInfo) -> str:
    """In a word; `retired` is drained and down."""
    if not broker.is_cordoned or (broker.state != "up" and broker.replicas):
        return broker.state
    if broker.state != "up":
        return "retired"
    return "draining" if broker.replicas else "drained"


def brokers_table(brokers: Sequence[BrokerInfo]) -> Table:
    """A row for each broker; its leaders are those of its replicas that it leads."""
    columns = ["broker", "address", "rack", "version", "state", "leaders", "size", "cpu", "disk"]
    table = Table(columns)
    for b in brokers:
        version = None if b.version is None else b.version.rpartition("/")[2]
        leads = f"{b.leaders} of {b.replicas}"
        row = (b.broker, b.address, b.rack, version, state_of(b), leads, size_of(b.bytes))
        table.rows.append((*row, _percent(b.cpu_millicores, 1_000), _disk_use(b)))
    return table


def _percent(part: int | None, whole: int | None) -> Percent | None:
    return None if part is None or not whole else Percent((200 * part + whole) // (2 * whole))


def _disk_use(broker: BrokerInfo) -> Percent | None:
    return _percent(broker.disk_used_bytes, broker.disk_bytes)


def status_tables(status: ClusterStatus) -> list[Table]:
    """The cluster on half a page."""
    up = [b for b in status.brokers if b.state == "up"]
    cordoned = sum(b.is_cordoned and b.state == "up" for b in status.brokers)
    columns = ["controller", "brokers up", "down", "draining", "partitions", "moving"]
    head = Table(columns, title=f"cluster {status.cluster}")
    head.rows.append(
        (
            status.controller,
            len(up),
            len(status.brokers) - len(up),
            cordoned,
            status.partitions,
            len(status.moving),
        )
    )
    lacks = Table(["partitions", "how many", "which"])
    for what, places in (
        ("without leader", status.without_leader),
        ("below min_isr", status.below_min_isr),
        ("under-replicated", status.under_replicated),
        ("led by another", status.not_preferred),
    ):
        lacks.rows.append((what, len(places), named(places)))
    advice = Table(["what to do"], [(line,) for line in advice_of(status)])
    return [head, lacks, advice]


def named(places: Sequence[Where]) -> str:
    """`orders/0, orders/1 and 7 more`."""
    shown = ", ".join(f"{topic}/{number}" for topic, number in places[:SHOWN_MAX])
    more = len(places) - SHOWN_MAX
    return f"{shown} and {more} more" if more > 0 else shown


def advice_of(status: ClusterStatus) -> list[str]:
    """What an operator should do next, the worst first."""
    found = []
    down = [str(b.broker) for b in status.brokers if b.state == "down" and b.replicas]
    gone = [b.broker for b in status.brokers if b.state == "down" and not b.replicas]
    which = ", ".join(down)
    if down:
        found.append(
            f"start broker {which}; if it will not come back: zmqmq cluster drain {down[0]}"
        )
    silent = [b.broker for b in status.brokers if b.address is not None and b.bytes is None]
    if silent:
        found.append(f"broker {ids(silent)} did not answer: look at its process and its network")
    if status.controller is None:
        found.append("nobody is the controller: look at etcd, and at the brokers' logs")
    if status.without_leader and not down:
        topic, number = status.without_leader[0]
        found.append(
            f"nobody can lead {topic}/{number}: zmqmq topics describe {topic} shows its replicas"
        )
    if status.below_min_isr:
        found.append("acks=all waits where too few are in sync: bring their brokers back first")
    elif status.under_replicated and not down:
        found.append("copies are catching up: look again; if it stays, read their brokers' logs")
    if status.moving:
        found.append(
            f"{plural(len(status.moving), 'partition')} moving: zmqmq cluster brokers shows where"
        )
    draining = [b.broker for b in status.brokers if b.is_cordoned and b.replicas]
    if draining and not status.moving:
        found.append(
            f"broker {ids(draining)} is not empty yet: zmqmq cluster drain {draining[0]} goes on "
            "if another one has room, --undo gives it back"
        )
    if gone:
        found.append(
            f"broker {gone[0]} is empty and down: zmqmq cluster drain {gone[0]} --undo forgets it"
        )
    empty = [b for b in status.brokers if b.is_open and not b.replicas]
    if empty and status.partitions and not found:
        found.append(f"broker {empty[0].broker} is empty: zmqmq cluster balance gives it its share")
    if status.not_preferred and not found:
        found.append("zmqmq cluster leaders gives leaderships back")
    return found or ["nothing: every partition has a leader and all its replicas"]


def plan_table(moves: Iterable[Move], partitions: str = "partition") -> Table:
    """What would be moved."""
    table = Table(["topic", partitions, "replicas", "become", "copied", "why"])
    for move in moves:
        after = ids(move.after)
        copied = Size(move.moved_bytes) if move.added else None
        row = (move.topic, move.partition, ids(move.before), after, copied, why_text(move))
        table.rows.append(row)
    return table


def why_text(move: Move) -> str | None:
    """`1: CPU 61 % -> 42 %`: what becomes of broker 1 when all moves are done."""
    if move.why is None:
        return None
    what, broker, before, after = move.why
    amounts: list[object] = [before, after]
    if what == "cpu":
        what, amounts = "CPU", [_percent(amount, 1_000) for amount in (before, after)]
    elif what == "bytes":
        amounts = [Size(before), Size(after)]
    then, now = map(cell, amounts)
    return f"{what} {then} -> {now}" if what == "racks" else f"{broker}: {what} {then} -> {now}"


def loads_table(brokers: Sequence[BrokerInfo], moves: Sequence[Move]) -> Table:
    """What the plan does to each broker."""
    table = Table(["broker", "replicas", "become", "leaders", "become", "size", "become"])
    for b in brokers:
        number = b.broker
        replicas = sum(number in m.added for m in moves) - sum(number in m.removed for m in moves)
        first = sum((m.after[0] == number) - (m.before[0] == number) for m in moves)
        size = sum(m.bytes for m in moves if number in m.added)
        size -= sum(m.bytes for m in moves if number in m.removed)
        then = None if b.bytes is None else Size(max(b.bytes + size, 0))
        row = (number, b.replicas, b.replicas + replicas, b.preferred, b.preferred + first)
        table.rows.append((*row, size_of(b.bytes), then))
    return table


def ids(brokers: Sequence[int]) -> str:
    """`1,2,3`."""
    return ",".join(map(str, brokers))


def broker_map(broker: BrokerInfo) -> dict[str, Any]:
    """A broker as JSON shows it."""
    return {**broker._asdict(), "state": state_of(broker)}


def move_map(move: Move) -> dict[str, Any]:
    """A move as JSON shows it, and as a plan file has it."""
    return {
        "topic": move.topic,
        "partition": move.partition,
        "replicas": list(move.after),
        "before": list(move.before),
        "copied_bytes": move.moved_bytes,
        "why": why_text(move),
    }


def places_map(places: Sequence[Where]) -> list[dict[str, Any]]:
    """Partitions as JSON shows them."""
    return [{"topic": topic, "partition": number} for topic, number in places]
