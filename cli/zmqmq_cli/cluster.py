"""`zmqmq cluster`: brokers, and what is moved between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zmqmq.errors import Code, ConfigError, NotFoundError
from zmqmq_cli.cluster_tables import (
    advice_of,
    broker_map,
    brokers_table,
    ids,
    loads_table,
    move_map,
    named,
    places_map,
    plan_table,
    status_tables,
)
from zmqmq_cli.exits import PartialError
from zmqmq_cli.moving import run_plan
from zmqmq_cli.options import Command, Group, number
from zmqmq_cli.session import connected, output_of
from zmqmq_cli.tables import Table, human_bytes, plural

if TYPE_CHECKING:
    from zmqmq import Client, Move, TopicDescription
    from zmqmq.client.describing import PartitionDescription

app = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None)

AtATime = Annotated[
    str,
    typer.Option("--at-a-time", metavar="N", help="How many partitions are copied at a time."),
]
DryRun = Annotated[
    bool, typer.Option("-n", "--dry-run", help="Show what would be done, and do nothing.")
]
AT_A_TIME = "4"


@app.callback()
def root() -> None:
    """Show the cluster; move partitions and leaders between brokers."""


@app.command(cls=Command)
def status(ctx: typer.Context) -> None:
    """Show what is wrong, and what to do next."""
    with connected(ctx) as client:
        found = client.cluster.status()
    data: dict[str, Any] = {
        "cluster": found.cluster,
        "controller": found.controller,
        "is_healthy": found.is_healthy,
        "brokers": [broker_map(b) for b in found.brokers],
        "partitions": found.partitions,
    }
    lists = ("without_leader", "below_min_isr", "under_replicated", "not_preferred", "moving")
    data |= {name: places_map(getattr(found, name)) for name in lists}
    data["advice"] = advice_of(found)
    output_of(ctx).show(data, status_tables(found))


@app.command(cls=Command)
def brokers(ctx: typer.Context) -> None:
    """List the brokers: where they are, and what they have."""
    with connected(ctx) as client:
        found = client.cluster.brokers()
    lines = [broker_map(b) for b in found]
    output_of(ctx).show({"brokers": lines}, [brokers_table(found)], lines)


@app.command(cls=Command)
def leaders(ctx: typer.Context, *, dry_run: DryRun = False) -> None:
    """Let first replicas lead again.

    The controller does the same by itself, some partitions at a time, every ten seconds.
    """
    output = output_of(ctx)
    with connected(ctx) as client:
        astray = [
            (topic.name, p)
            for topic in _topics(client)
            for p in topic.partitions
            if p.leader is not None and p.replicas and p.leader != p.replicas[0]
        ]
        refused: dict[tuple[str, int], str] = {}
        if not dry_run:
            for name in dict.fromkeys(name for name, _ in astray):
                numbers = [p.partition for topic, p in astray if topic == name]
                errors = client.cluster.elect(name, numbers)
                refused |= {(name, n): error.detail for n, error in errors.items()}
    lines = [
        {
            "topic": name,
            "partition": p.partition,
            "leader": p.leader,
            "preferred": p.replicas[0],
            "result": _said_of(refused.get((name, p.partition)), dry_run=dry_run),
        }
        for name, p in astray
    ]
    table = Table(["topic", "partition", "leader", "first replica", "result"])
    table.rows = [tuple(line.values()) for line in lines]
    if lines or output.form != "table":
        output.show({"partitions": lines}, [table], lines)
    else:
        output.say("every partition that is led is led by its first replica")
    if refused:
        output.error(
            f"{plural(len(refused), 'partition')} of {len(lines)} cannot be given back now",
            code="CONFLICT",
            hint="zmqmq cluster status says what keeps them",
        )
        raise typer.Exit(1)


def _said_of(refused: str | None, *, dry_run: bool) -> str:
    if dry_run:
        return "not done: --dry-run"
    return refused or "given back"


@app.command(cls=Command)
def drain(
    ctx: typer.Context,
    broker: Annotated[str, typer.Argument(metavar="BROKER", help="Its number.")],
    *,
    undo: Annotated[
        bool, typer.Option("--undo", help="Let it be given partitions again; move nothing back.")
    ] = False,
    at_a_time: AtATime = AT_A_TIME,
) -> None:
    """Move everything off a broker.

    It is given nothing new, and what it has goes to other brokers; where none of them can take a
    replica only the leadership goes. It can be interrupted at any time: what is under way goes on,
    and the same command goes on with the rest.
    """
    which, limit = number(broker, "BROKER"), number(at_a_time, "--at-a-time", least=1)
    output = output_of(ctx)
    with connected(ctx) as client:
        if undo:
            client.cluster.undrain(which)
            output.say(
                f"broker {which} may be given partitions again; zmqmq cluster balance moves some"
            )
            if output.form != "table":
                output.show({"broker": which, "cordoned": False}, [])
            return
        plan = client.cluster.drain(which)
        output.say(f"broker {which} gets nothing new; {_amount(plan)}")
        run_plan(client, output, plan, limit)
        left = _left(client, which)
    if not left:
        output.say(f"broker {which} is empty: it can be stopped for good")
    led = [(name, p.partition) for name, p in left if p.leader is not None]
    unled = [(name, p.partition) for name, p in left if p.leader is None]
    if led:
        output.say(
            f"broker {which} keeps {plural(len(led), 'replica')} that no other broker can take: "
            f"{named(led)}. It leads none that another one could"
        )
    if unled:
        output.say(
            f"broker {which} keeps {plural(len(unled), 'replica')} of what nobody leads: "
            f"{named(unled)}. Start the brokers that have the others, and run it again"
        )
    if output.form != "table":
        data = {"broker": which, "cordoned": True, "moves": [move_map(m) for m in plan]}
        output.show({**data, "left": places_map([*led, *unled])}, [])


def _left(client: Client, broker: int) -> list[tuple[str, PartitionDescription]]:
    """What a broker keeps after its drain. Raises PartialError for what could still go.

    It is looked at once more: somebody else may have given it partitions meanwhile.
    """
    could_go = [(m.topic, m.partition) for m in client.cluster.drain(broker)]
    left = [(t.name, p) for t in _topics(client) for p in t.partitions if broker in p.replicas]
    could_go += [(name, p.partition) for name, p in left if p.leader is not None and p.is_moving]
    if could_go:
        raise PartialError(
            f"broker {broker} is not empty: {named(sorted(set(could_go)))} changed meanwhile, "
            "somebody else moves the same. Run it again to plan anew"
        )
    return left


@app.command(cls=Command)
def reassign(
    ctx: typer.Context,
    topic: Annotated[str | None, typer.Argument(metavar="TOPIC", help="The topic.")] = None,
    partition: Annotated[
        str | None, typer.Argument(metavar="PARTITION", help="Its number.")
    ] = None,
    brokers: Annotated[
        str | None,
        typer.Argument(metavar="BROKER,BROKER,…", help="The preferred leader first."),
    ] = None,
    *,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Go back to the replicas that there were.")
    ] = False,
    plan: Annotated[
        str | None,
        typer.Option(
            "--plan",
            metavar="FILE",
            help="Run the moves of a JSON file: what cluster balance -n -O json prints.",
        ),
    ] = None,
    at_a_time: AtATime = AT_A_TIME,
) -> None:
    """Move a partition to other brokers.

    It is waited for. Ctrl-C ends the waiting, not the move; --cancel does that. A plan is
    {"moves": [{"topic": "t", "partition": 0, "replicas": [1, 2, 3]}, …]}.
    """
    limit = number(at_a_time, "--at-a-time", least=1)
    output = output_of(ctx)
    wanted = _wanted(topic, partition, brokers, plan, cancel=cancel)
    with connected(ctx, topic) as client:
        if cancel:
            (name, count, _) = wanted[0]
            client.cluster.cancel(name, count)
            output.say(f"{name}/{count} goes back to the replicas that it had")
            return
        moves = _checked(client, wanted)
        run_plan(client, output, moves, limit)
    output.say(f"{plural(len(moves), 'partition')} moved" if moves else "nothing to move")
    if output.form != "table":
        lines = [move_map(m) for m in moves]
        output.show({"moves": lines}, [], lines)


@app.command(cls=Command)
def balance(
    ctx: typer.Context,
    *,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    at_a_time: AtATime = AT_A_TIME,
) -> None:
    """Even out the load over the brokers.

    Replicas, bytes, leaders, CPU and disks are evened out, and racks kept apart. The plan is shown
    first, and why each move: what becomes of a broker when all are done.
    Brokers that are being drained or are down get nothing and keep what they have. It can be
    interrupted, and goes on when it is run again.
    """
    limit = number(at_a_time, "--at-a-time", least=1)
    output = output_of(ctx)
    with connected(ctx) as client:
        found = client.cluster.brokers()
        plan = client.cluster.balance()
        lines = [move_map(m) for m in plan]
        if plan or output.form != "table":
            output.show({"moves": lines}, [plan_table(plan), loads_table(found, plan)], lines)
        output.say(_amount(plan) if plan else "the load is even: nothing to move")
        if dry_run or not plan:
            return
        if not yes:
            answer = output.ask("move it? (yes/no)")
            if answer is None:
                raise typer.BadParameter("nobody is there to be asked; -y moves without asking")
            if answer not in {"y", "yes"}:
                output.say("nothing is moved")
                raise typer.Exit(1)
        run_plan(client, output, plan, limit)
    output.say(f"{plural(len(plan), 'partition')} moved")


def _amount(plan: list[Move]) -> str:
    size = sum(m.moved_bytes for m in plan)
    copies = sum(len(m.added) for m in plan)
    return (
        f"{plural(len(plan), 'partition')} to change, {plural(copies, 'replica')} of "
        f"{human_bytes(size)} to copy"
    )


def _topics(client: Client) -> list[TopicDescription]:
    return client.topics.describe_all(internal=True)


Wanted = tuple[str, int, tuple[int, ...]]


def _wanted(
    topic: str | None,
    partition: str | None,
    brokers: str | None,
    plan: str | None,
    *,
    cancel: bool,
) -> list[Wanted]:
    """What the command line asks for."""
    if plan is not None:
        if topic is not None or cancel:
            raise typer.BadParameter("give a plan, or a topic and a partition", param_hint="--plan")
        return _read_plan(Path(plan))
    if topic is None or partition is None or (brokers is None) != cancel:
        raise typer.BadParameter(
            "give TOPIC PARTITION BROKER,BROKER,…, or TOPIC PARTITION --cancel, or --plan FILE"
        )
    count = number(partition, "PARTITION")
    chosen = tuple(number(text, "BROKER,BROKER,…") for text in (brokers or "").split(",") if text)
    if not cancel:
        _check_ids(chosen, f"{topic}/{count}")
    return [(topic, count, chosen)]


def _check_ids(brokers: tuple[int, ...], where: str) -> None:
    if not brokers or len(set(brokers)) != len(brokers):
        raise ConfigError(
            f"{where}: replicas {ids(brokers) or 'none'}: give at least one broker, none twice"
        )


def _read_plan(path: Path) -> list[Wanted]:
    try:
        text = path.read_text()
        moves = json.loads(text)["moves"]
        found = [
            (str(m["topic"]), int(m["partition"]), tuple(int(b) for b in m["replicas"]))
            for m in moves
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is no plan ({type(error).__name__}: {error}); one is "
            '{"moves": [{"topic": "t", "partition": 0, "replicas": [1, 2, 3]}]}'
        ) from None
    for topic, partition, replicas in found:
        _check_ids(replicas, f"{topic}/{partition}")
    return found


def _checked(client: Client, wanted: list[Wanted]) -> list[Move]:
    """The moves, once every topic, partition and broker of them is known to be there."""
    from zmqmq import Move

    known = {b.broker: b for b in client.cluster.brokers()}
    there = ", ".join(map(str, known))
    moves = []
    described = {name: client.topics.describe(name) for name, _, _ in wanted}
    for name, count, replicas in wanted:
        topic = described[name]
        if count >= len(topic.partitions):
            raise NotFoundError(
                f"topic {name!r} has {plural(len(topic.partitions), 'partition')}; there is no "
                f"{count}",
                code=Code.UNKNOWN_PARTITION,
            )
        partition = topic.partitions[count]
        for broker in replicas:
            if broker not in known:
                raise NotFoundError(
                    f"there is no broker {broker}; there are {there}", code=Code.UNKNOWN_BROKER
                )
            if known[broker].state != "up" and broker not in partition.replicas:
                raise ConfigError(
                    f"broker {broker} is {known[broker].state}: it can be given no replica of "
                    f"{name}/{count}. Start it, or name another one"
                )
        before = partition.target
        if before != replicas or partition.is_moving:
            moves.append(Move(name, count, before, replicas, max(partition.bytes, 0)))
    return moves
